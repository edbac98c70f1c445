//! What time, a new connection and the end of the agent bring.

use super::world::*;

#[test]
fn an_idle_cli_is_ended_and_the_session_goes_on() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    check(
        world
            .later(31 * 60 * SECOND)
            .into_iter()
            .filter(|word| word.starts_with("end"))
            .collect(),
        [],
    );
    world.told(1, Told::TurnEnded(None));
    check(
        world
            .later(30 * 60 * SECOND)
            .into_iter()
            .filter(|word| word.starts_with("end"))
            .collect(),
        [],
    );
    check(
        world
            .later(1)
            .into_iter()
            .filter(|word| word.starts_with("end"))
            .collect(),
        ["end 1"],
    );
    check(world.exited(1, exit(143)), []);
    let words = world.command(say("two"));
    assert_eq!(words.last().unwrap(), "spawn 2 c -");
}

#[test]
fn tokens_are_asked_for_ahead_of_their_end_while_a_cli_runs() {
    let mut world = World::ready();
    check(world.later(9_909 * SECOND), []);
    check(world.later(SECOND), ["wants a token 1"]);
    check(world.later(9 * SECOND), []);
    check(world.later(SECOND), ["wants a token 1"]);
    let token = Event::Token {
        session_id: session(1),
        token: "next".to_owned(),
        expires_at_s: 10_220,
    };
    check(world.handle(token), ["token next until 10220000"]);
    check(world.later(SECOND), []);
    world.exited(1, exit(1));
    check(world.later(9_999 * SECOND), []);
    check(world.command(say("one")), ["ack 2", "wants a token 1", "spawn 2 new -"]);
}

#[test]
fn an_agent_that_was_killed_tells_what_was_lost_and_goes_on_with_what_waits() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    world.command(say("two"));
    world.crash();
    check(world.later(SECOND), []);
    let lost = "the turn was lost: the agent was started again";
    check(
        world.connected(&[(1, 1, true)]),
        [
            &format!("stdout: {lost}"),
            &format!("status 1 running c: {lost}"),
            "status 1 running c",
            "wants a token 1",
            "spawn 2 c -",
        ],
    );
}

#[test]
fn a_start_that_was_cut_short_is_made_up_for() {
    let mut world = World::new();
    world.command(Command::StartSession(start(1, 1)));
    world.crash();
    check(world.connected(&[(1, 1, true)]), ["wants a token 1", "spawn 2 new -"]);
    check(world.told(2, Told::Ready), ["status 1 running", "done 1"]);
}

#[test]
fn what_the_server_does_not_know_is_ended_and_forgotten() {
    for known in [&[][..], &[(1, 1, false)], &[(1, 0, true)]] {
        let mut world = World::busy();
        check(world.connected(known), ["end 1"]);
        check(world.exited(1, exit(143)), ["close", "forget"]);
        check(
            world.command(say("hello")),
            ["ack 3", "done 3: not_found this machine does not have the session"],
        );
        check(world.command(stop()), ["ack 4", "done 4"]);
    }
}

#[test]
fn an_agent_that_ends_keeps_its_sessions() {
    let mut world = World::busy();
    check(world.handle(Event::Shutdown), ["end 1"]);
    assert!(!world.supervisor.is_quiet());
    let lost = "the turn was lost: the agent is ending";
    check(
        world.exited(1, exit(143)),
        [&format!("stdout: {lost}"), &format!("status 1 running: {lost}")],
    );
    assert!(world.supervisor.is_quiet());
    check(
        world.command(say("two")),
        ["ack 3", "done 3: failed the agent is about to end"],
    );
    assert_eq!(world.disk.len(), 1);
}

#[test]
fn tokens_are_asked_for_only_while_somebody_hears_it() {
    let mut world = World::ready();
    world.handle(Event::Disconnected);
    world.now += 9_950 * SECOND;
    for _ in 0..360 {
        check(world.later(10 * SECOND), []);
    }
    check(world.connected(&[(1, 1, true)]), ["status 1 running"]);
    check(world.later(SECOND), ["wants a token 1"]);
}
