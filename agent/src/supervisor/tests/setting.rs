//! Model and permission mode.

use super::world::*;

#[test]
fn a_setting_is_changed_at_once_or_with_the_next_process_or_not_at_all() {
    let mut world = World::ready();
    check(world.command(model("a")), ["ack 2", "give 1 model a"]);
    check(world.taken(1, None), ["done 2"]);
    world.command(model("b"));
    check(world.taken(1, Some(Refused::Restart)), ["done 3", "end 1"]);
    check(world.exited(1, exit(143)), []);
    check(world.command(say("one")), ["ack 4", "spawn 2 new b"]);
    world.told(2, Told::Ready);
    world.taken(2, None);
    world.command(model("c"));
    check(
        world.taken(2, Some(Refused::Restart)),
        ["done 5: unsupported the CLI cannot change that in the middle of a conversation"],
    );
    world.told(2, Told::Conversation("x".to_owned()));
    world.command(model("d"));
    check(world.taken(2, Some(Refused::Restart)), ["done 6"]);
    check(world.told(2, Told::TurnEnded(None)), ["status 1 running x", "end 2"]);
    world.exited(2, exit(143));
    check(
        world.command(model("-x")),
        ["ack 7", "done 7: invalid `-x` is not a name"],
    );
    check(world.command(say("two")), ["ack 8", "spawn 3 x d"]);
}

#[test]
fn a_setting_that_the_cli_rejects_later_is_taken_back() {
    let mut world = World::ready();
    world.command(model("good"));
    world.taken(1, None);
    world.command(model("bad"));
    world.taken(1, None);
    check(
        world.told(1, Told::Rejected("no such model".to_owned())),
        ["system: no such model"],
    );
    world.exited(1, exit(1));
    check(world.command(say("one")), ["ack 4", "spawn 2 new good"]);
}
