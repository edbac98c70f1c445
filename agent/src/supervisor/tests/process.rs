//! CLIs that die, and such that cannot be started.

use super::world::*;

#[test]
fn a_cli_that_cannot_start_ends_the_session_that_began_with_it() {
    let mut world = World::new();
    world.command(Command::StartSession(start(1, 1)));
    let missing = End::NotStarted(failure(FailureCode::Unsupported, "it is not installed"));
    check(
        world.exited(1, missing),
        [
            "system: it is not installed",
            "done 1: unsupported it is not installed",
            "status 1 error: it is not installed",
            "close",
        ],
    );
    check(
        world.command(say("hello")),
        ["ack 2", "done 2: invalid the session has ended here"],
    );
    check(
        world.connected(&[(1, 1, true)]),
        ["status 1 error: it is not installed"],
    );
}

#[test]
fn a_cli_that_never_gets_ready_is_ended() {
    let mut world = World::new();
    world.command(Command::StartSession(start(1, 1)));
    check(world.later(120 * SECOND), []);
    let why = "the CLI was not ready after 120 s";
    check(
        world.later(SECOND),
        [
            "end 1",
            &format!("system: {why}"),
            &format!("done 1: failed {why}"),
            &format!("status 1 error: {why}"),
            "close",
        ],
    );
    check(world.exited(1, exit(143)), []);
}

#[test]
fn a_dead_cli_is_started_by_the_next_message_with_its_conversation() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    let lost = "the turn was lost: the CLI ended with exit code 3";
    check(
        world.exited(1, exit(3)),
        [&format!("stdout: {lost}"), &format!("status 1 running c: {lost}")],
    );
    check(world.command(say("two")), ["ack 3", "spawn 2 c -"]);
    check(
        world.told(2, Told::Ready),
        ["give 2 message two", "status 1 running busy c"],
    );
    world.taken(2, None);
    world.told(2, Told::TurnEnded(None));
    check(
        world.exited(2, exit(139)),
        ["system: the CLI was ended by signal 11; the next message starts it again"],
    );
    check(world.command(say("three")), ["ack 4", "spawn 3 c -"]);
    check(
        world.exited(3, exit(1)),
        [
            "system: the CLI ended with exit code 1 before it was ready",
            "done 4: failed the CLI ended with exit code 1 before it was ready",
        ],
    );
    check(world.command(say("four")), ["ack 5", "spawn 4 c -"]);
}

#[test]
fn a_conversation_that_cannot_be_gone_on_with_is_said_to_be_lost() {
    let mut world = World::busy();
    world.exited(1, exit(3));
    let lost = "system: the CLI cannot go on with its conversation: it begins a new one";
    check(world.command(say("two")), ["ack 3", lost, "spawn 2 new -"]);
}

#[test]
fn a_conversation_that_is_gone_does_not_fail_every_message() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    world.exited(1, exit(3));
    check(world.command(say("two")), ["ack 3", "spawn 2 c -"]);
    let gone = Told::NotResumed("no such conversation".to_owned());
    check(world.told(2, gone), ["system: no such conversation", "end 2"]);
    check(
        world.exited(2, exit(1)),
        [
            "system: the CLI cannot go on with its conversation: it begins a new one",
            "spawn 3 new -",
        ],
    );
    check(
        world.told(3, Told::Ready),
        ["give 3 message two", "status 1 running busy"],
    );
}

#[test]
fn a_session_that_begins_with_a_conversation_that_is_gone_is_over() {
    let mut world = World::new();
    let mut start = start(1, 1);
    start.resume_id = Some("c".to_owned());
    world.command(Command::StartSession(start));
    let words = world.told(1, Told::NotResumed("gone".to_owned()));
    assert_eq!(words[2..4], ["done 1: failed gone", "status 1 error c: gone"]);
}
