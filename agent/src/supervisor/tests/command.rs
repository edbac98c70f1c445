//! Commands: which are begun, and which are not.

use super::world::*;

#[test]
fn a_command_that_comes_again_is_acknowledged_and_nothing_else() {
    let mut world = World::busy();
    check(world.again(2, say("one")), ["ack 2"]);
    world.crash();
    check(world.again(2, say("one")), ["ack 2"]);
    check(world.again(1, Command::StartSession(start(1, 1))), ["ack 1"]);
}

#[test]
fn a_command_that_is_not_on_the_disk_is_taken_back() {
    let mut world = World::busy();
    let mut refused = |number: u128, command: Command| {
        let command_id = Uuid::from_u128(number);
        let expires_at_ms = 60 * SECOND;
        let effects = world.supervisor.handle(
            Event::Command {
                command_id,
                expires_at_ms,
                command,
            },
            0,
        );
        let is_saved_first = matches!(effects[0], Effect::Save(..)) && effects[1] == command::ack(command_id);
        assert!(is_saved_first, "{effects:?}");
        let effect = world.supervisor.take_back(command_id, "full".to_owned());
        assert_eq!(said_by(effect), format!("done {number}: failed full"));
    };
    refused(3, say("two"));
    refused(4, abort());
    refused(5, model("-x"));
    refused(6, Command::StartSession(start(1, 2)));
    refused(7, Command::StartSession(start(2, 1)));
    check(world.told(1, Told::TurnEnded(None)), ["status 1 running"]);
    check(
        world.again(3, say("two")),
        ["ack 3", "give 1 message two", "status 1 running busy"],
    );
    assert_eq!(world.supervisor.active(), 1);
}

#[test]
fn a_command_whose_time_is_over_is_not_begun_but_a_stop_always_is() {
    let mut world = World::ready();
    let late = |command| Event::Command {
        command_id: Uuid::from_u128(9),
        expires_at_ms: -1,
        command,
    };
    check(
        world.handle(late(abort())),
        ["ack 9", "done 9: failed it came too late: its time was over"],
    );
    let stop = Event::Command {
        command_id: Uuid::from_u128(8),
        expires_at_ms: -1,
        command: stop(),
    };
    check(world.handle(stop), ["ack 8", "end 1"]);
}

#[test]
fn the_servers_clock_counts_for_deadlines_and_tokens() {
    let mut world = World::ready();
    world.handle(Event::Connected {
        clock_ahead_ms: 3_600_000,
        known: vec![],
    });
    let mut world = World::new();
    world.handle(Event::Connected {
        clock_ahead_ms: 3_600_000,
        known: vec![],
    });
    let words = world.handle(Event::Command {
        command_id: Uuid::from_u128(1),
        expires_at_ms: 3_600_001,
        command: Command::StartSession(start(1, 1)),
    });
    check(words, ["ack 1", "token secret until 6400000", "spawn 1 new -"]);
}

#[test]
fn no_more_sessions_than_allowed_are_started() {
    let mut world = World::ready();
    world.command(Command::StartSession(start(2, 1)));
    let text = "this machine runs 2 sessions already, and no more than that at once";
    check(
        world.command(Command::StartSession(start(3, 1))),
        ["ack 3", &format!("done 3: too_much {text}")],
    );
    world.command(stop());
    check(
        world.command(Command::StartSession(start(3, 1))),
        ["ack 5", "token secret until 10000000", "spawn 1 new -"],
    );
}

#[test]
fn an_older_run_changes_nothing_and_a_later_one_takes_over() {
    let mut world = World::busy();
    world.command(say("waits"));
    world.command(model("a"));
    check(
        world.command(Command::StartSession(start(1, 0))),
        ["ack 5", "done 5: invalid run 0 is over"],
    );
    check(
        world.command(Command::StartSession(start(1, 2))),
        [
            "ack 6",
            "done 3: interrupted the session was started anew before it was its turn",
            "done 4: interrupted the session was started anew before it was its turn",
            "end 1",
            "token secret until 10000000",
        ],
    );
    check(world.told(1, Told::TurnEnded(None)), ["status 2 running"]);
    check(world.exited(1, exit(0)), ["spawn 2 new -"]);
    check(world.told(1, Told::Failed("old".to_owned())), []);
    check(world.told(2, Told::Ready), ["status 2 running", "done 6"]);
}

#[test]
fn nothing_secret_is_on_the_disk() {
    let world = World::busy();
    assert!(
        !serde_json::to_string(&world.disk[&session(1)])
            .unwrap()
            .contains("secret")
    );
}

#[test]
fn a_machine_that_is_taken_off_the_list_answers_when_nothing_runs_any_more() {
    let mut world = World::busy();
    check(world.command(Command::Unregister {}), ["ack 3", "end 1"]);
    check(world.later(SECOND), []);
    check(world.exited(1, exit(143)), ["close", "forget", "done 3"]);
    check(world.command(Command::Unregister {}), ["ack 4", "done 4"]);
    let mut world = World::busy();
    world.command(Command::Unregister {});
    check(world.later(20 * SECOND), ["done 3"]);
    check(world.exited(1, exit(143)), ["close", "forget"]);
}
