//! The end of a session.

use super::world::*;

#[test]
fn a_stop_asks_nothing_of_the_disk() {
    let mut world = World::busy();
    let stop = Event::Command {
        command_id: Uuid::nil(),
        expires_at_ms: 1,
        command: stop(),
    };
    let effects = world.supervisor.handle(stop, 0);
    assert!(matches!(effects[0], Effect::Say(FromAgent::Ack { .. })));
}

#[test]
fn a_cli_that_is_done_completes_the_session() {
    let mut world = World::ready();
    check(world.exited(1, exit(0)), ["status 1 completed", "close"]);
}

#[test]
fn a_stop_that_meets_a_new_connection_is_done_all_the_same() {
    let mut world = World::busy();
    check(world.connected(&[(1, 1, false)]), ["end 1"]);
    check(world.command(stop()), ["ack 3"]);
    check(world.exited(1, exit(143)), ["done 3", "close", "forget"]);
}
