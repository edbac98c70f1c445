//! Messages and turns.

use super::world::*;

#[test]
fn a_session_starts_takes_messages_one_at_a_time_and_stops() {
    let mut world = World::new();
    check(
        world.command(Command::StartSession(start(1, 1))),
        ["ack 1", "token secret until 10000000", "spawn 1 new -"],
    );
    check(world.told(1, Told::Ready), ["status 1 running", "done 1"]);
    check(
        world.command(say("one")),
        ["ack 2", "give 1 message one", "status 1 running busy"],
    );
    check(world.taken(1, None), ["done 2"]);
    check(world.command(say("two")), ["ack 3"]);
    check(
        world.told(1, Told::Conversation("c".to_owned())),
        ["status 1 running busy c"],
    );
    check(
        world.told(1, Told::TurnEnded(None)),
        ["status 1 running c", "give 1 message two", "status 1 running busy c"],
    );
    check(world.command(stop()), ["ack 4", "end 1"]);
    check(
        world.exited(1, exit(143)),
        [
            "done 3: interrupted the CLI ended while it was given this",
            "status 1 stopped c",
            "close",
            "done 4",
        ],
    );
    check(world.connected(&[(1, 1, false)]), ["close", "forget"]);
    assert!(world.disk.is_empty());
}

#[test]
fn a_message_that_cannot_be_handed_over_is_refused_and_the_next_is_tried() {
    let mut world = World::ready();
    world.command(say("one"));
    check(
        world.taken(1, Some(Refused::Failed("full".to_owned()))),
        ["done 2: failed full", "status 1 running"],
    );
}

#[test]
fn an_abort_ends_the_turn_under_way_and_leaves_later_ones_alone() {
    let mut world = World::busy();
    world.command(say("two"));
    check(world.command(abort()), ["ack 4", "give 1 interrupt", "done 4"]);
    check(
        world.told(1, Told::TurnEnded(None)),
        ["status 1 running", "give 1 message two", "status 1 running busy"],
    );
    check(world.again(4, abort()), ["ack 4"]);
}

#[test]
fn an_abort_that_is_not_heard_ends_the_process() {
    let mut world = World::busy();
    world.command(abort());
    check(world.later(15 * SECOND), []);
    check(
        world.later(1),
        ["system: the CLI did not end its turn and was ended itself", "end 1"],
    );
    check(
        world.exited(1, exit(137)),
        [
            "stdout: the turn was lost: it was ended",
            "status 1 running: the turn was lost: it was ended",
        ],
    );
}

#[test]
fn an_abort_takes_back_what_waits_for_its_cli() {
    let mut world = World::ready();
    world.exited(1, exit(1));
    world.command(say("one"));
    let why = "the turn was ended before it began";
    check(
        world.command(abort()),
        [
            "ack 3",
            &format!("stdout: {why}"),
            &format!("done 2: interrupted {why}"),
            "done 3",
        ],
    );
    check(world.told(2, Told::Ready), []);
}

#[test]
fn a_held_session_gets_no_message_and_a_turn_in_it_can_be_ended() {
    let mut world = World::busy();
    let session_id = session(1);
    check(
        world.command(Command::PauseSession { session_id }),
        ["ack 3", "hold 1 true", "status 1 paused busy", "done 3"],
    );
    check(world.command(say("two")), ["ack 4"]);
    check(
        world.command(abort()),
        ["ack 5", "hold 1 false", "give 1 interrupt", "done 5"],
    );
    check(world.told(1, Told::TurnEnded(None)), ["status 1 paused", "hold 1 true"]);
    check(
        world.command(Command::ResumeSession { session_id }),
        [
            "ack 6",
            "hold 1 false",
            "status 1 running",
            "done 6",
            "give 1 message two",
            "status 1 running busy",
        ],
    );
}
