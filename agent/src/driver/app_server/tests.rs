use crate::driver::testing::check;

#[test]
fn turns_items_and_questions_become_events() {
    check(
        "codex",
        include_str!("../../../fixtures/codex.txt"),
        None,
        &[
            "stdout system init",
            "Ready",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout result false pong: hello",
            "TurnEnded(None)",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "stdout assistant tool_use shell",
            "asks 0 for shell",
            "stdout user tool_result completed",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: Chunk ID: 986715 Wall ",
            "stdout result false tool-result-seen: Chunk ID: 986715 Wall ",
            "TurnEnded(None)",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: unsupported call: shel",
            "stdout result false tool-result-seen: unsupported call: shel",
            "TurnEnded(None)",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "stdout assistant tool_use apply_patch",
            "asks 1 for apply_patch",
            "stdout user tool_result completed",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: Exit code: 0 Wall time",
            "stdout result false tool-result-seen: Exit code: 0 Wall time",
            "TurnEnded(None)",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "stdout stream_event",
            "stdout assistant text w0 ",
            "stdout result true the turn was interrupted",
            "TurnEnded(None)",
        ],
    );
}

#[test]
fn a_thread_is_gone_on_with() {
    check(
        "codex",
        include_str!("../../../fixtures/codex-resume.txt"),
        Some("r"),
        &[
            "stdout system init",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "Ready",
            "Conversation(\"01a1fef3-6977-7072-b26d-413150ef5386\")",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout result false pong: hello",
            "TurnEnded(None)",
        ],
    );
}

const NOT_RESUMED: &str = r#"> {"id":1,"method":"initialize"}
< {"id":1,"result":{}}
> {"id":2,"method":"thread/resume"}
< {"id":2,"error":{"code":-32600,"message":"no rollout found"}}"#;

#[test]
fn a_thread_that_is_gone_is_told() {
    check("codex", NOT_RESUMED, Some("r"), &["NotResumed(\"no rollout found\")"]);
}
