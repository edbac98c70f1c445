use crate::driver::testing::check;

#[test]
fn lines_pass_and_questions_are_told() {
    check(
        "claude-code",
        include_str!("../../../fixtures/claude.txt"),
        None,
        &[
            "Ready",
            "stdout system init",
            "Conversation(\"11111111-1111-4111-8111-111111111111\")",
            "stdout system status",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout stream_event",
            "stdout result false pong: hello",
            "TurnEnded(None)",
            "stdout system init",
            "stdout system status",
            "stdout stream_event",
            "stdout assistant tool_use Write",
            "stdout stream_event",
            "asks 76e8595b-64ac-4ac3-91d9-c29cbcbf88e2 for Write",
            "stdout user tool_result File created successfully at: /repo/a.tx",
            "stdout system status",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: File created successfu",
            "stdout stream_event",
            "stdout result false tool-result-seen: File created successfu",
            "TurnEnded(None)",
            "stdout user text <local-command-stdout>Set model to `clau",
            "Rejected(\"the CLI was asked for the permission mode and said: Cannot set permission mode: must be one of acceptEdits, auto, bypassPermissions, default, dontAsk, plan\")",
            "stdout system init",
            "stdout system status",
            "stdout stream_event",
            "stdout assistant text w0 ",
            "stdout user text [Request interrupted by user]",
            "stdout stream_event",
            "stdout result true ",
            "TurnEnded(None)",
            "stdout system init",
            "stdout system status",
            "stdout stream_event",
            "stdout assistant tool_use Bash",
            "stdout stream_event",
            "asks 8dc320d8-8449-4660-84f4-e4596f530857 for Bash",
            "stdout stream_event",
            "Withdrawn(\"8dc320d8-8449-4660-84f4-e4596f530857\")",
            "stdout user tool_result The user doesn't want to proceed with th",
            "stdout user text [Request interrupted by user for tool us",
            "stdout result true ",
            "TurnEnded(None)",
        ],
    );
}

#[test]
fn a_conversation_is_gone_on_with() {
    check(
        "claude-code",
        include_str!("../../../fixtures/claude-resume.txt"),
        Some("r"),
        &[
            "Ready",
            "stdout system init",
            "Conversation(\"11111111-1111-4111-8111-111111111111\")",
            "stdout system status",
            "stdout stream_event",
            "stdout assistant text pong: again",
            "stdout stream_event",
            "stdout result false pong: again",
            "TurnEnded(None)",
        ],
    );
}

/// As Claude Code 2.1.329 says it, shortened.
const NOT_FOUND: &str = r#"> {"type":"control_request","request_id":"1","request":{"subtype":"initialize"}}
< {"type":"result","subtype":"error_during_execution","is_error":true,"session_id":"r","errors":["No conversation found with session ID: r"]}"#;

#[test]
fn a_conversation_that_is_not_found_is_told_and_is_no_turn() {
    let told = "NotResumed(\"No conversation found with session ID: r\")";
    check("claude-code", NOT_FOUND, Some("r"), &[told]);
}
