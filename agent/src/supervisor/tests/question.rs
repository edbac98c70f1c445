//! Questions and their answers.

use super::world::*;

#[test]
fn questions_are_named_for_their_process_and_told_again() {
    let mut world = World::busy();
    let asked = Told::Asked {
        request_id: "q".to_owned(),
        tool_name: "Bash".to_owned(),
        input: Value::Null,
    };
    check(world.told(1, asked.clone()), ["asks 1-1-q Bash"]);
    check(
        world.connected(&[(1, 1, true)]),
        ["status 1 running busy", "asks 1-1-q Bash"],
    );
    let answer = |request_id: &str| Command::PermissionResponse {
        session_id: session(1),
        request_id: request_id.to_owned(),
        behavior: Behavior::Deny,
        tool_name: "Bash".to_owned(),
        message: Some("no".to_owned()),
    };
    check(world.command(answer("1-1-q")), ["ack 3", "give 1 answer q false no"]);
    check(world.taken(1, None), ["done 3"]);
    check(
        world.command(answer("1-1-q")),
        ["ack 4", "done 4: not_found nobody waits for this answer any more"],
    );
    world.told(1, asked.clone());
    check(world.told(1, Told::Withdrawn("q".to_owned())), ["asks no more 1-1-q"]);
    world.told(1, asked);
    let lost = "the turn was lost: the CLI ended with exit code 1";
    check(
        world.exited(1, exit(1)),
        [
            "asks no more 1-1-q",
            &format!("stdout: {lost}"),
            &format!("status 1 running: {lost}"),
        ],
    );
}
