use crate::driver::testing::check;

#[test]
fn qwen_asks_and_is_interrupted() {
    check(
        "qwen-code-cli",
        include_str!("../../../fixtures/qwen.txt"),
        None,
        &[
            "stdout system init",
            "Conversation(\"c29ff3ac-4116-4627-9720-acd8592a66f1\")",
            "Ready",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout result false pong: hello",
            "TurnEnded(None)",
            "stdout assistant tool_use write_file",
            "asks 0 for write_file",
            "stdout user tool_result [{\"newText\":\"hi\",\"oldText\":\"\",\"path\":\"/r",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: Successfully created a",
            "stdout result false tool-result-seen: Successfully created a",
            "TurnEnded(None)",
            "refused: `nonsense` is none of the CLI's permission modes: plan, default, auto-edit, auto, yolo",
            "refused: restart",
            "stdout stream_event",
            "stdout assistant text w0 ",
            "stdout result true the turn ended early: cancelled",
            "TurnEnded(None)",
        ],
    );
}

#[test]
fn qwen_goes_on_and_tells_nothing_twice() {
    check(
        "qwen-code-cli",
        include_str!("../../../fixtures/qwen-resume.txt"),
        Some("r"),
        &[
            "stdout system init",
            "Conversation(\"r\")",
            "Ready",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout result false pong: hello",
            "TurnEnded(None)",
        ],
    );
}

#[test]
fn gemini_tells_what_it_will_do_without_arguments() {
    check(
        "gemini-cli",
        include_str!("../../../fixtures/gemini.txt"),
        None,
        &[
            "stdout system init",
            "Conversation(\"5b186fb5-660d-4021-a245-234dd35a67fc\")",
            "Ready",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout result false pong: hello",
            "TurnEnded(None)",
            "stdout assistant tool_use Writing to a.txt",
            "asks 0 for Writing to a.txt",
            "stdout user tool_result [{\"_meta\":{\"kind\":\"add\"},\"newText\":\"hi\",",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: {\"output\":\"Successfull",
            "stdout result false tool-result-seen: {\"output\":\"Successfull",
            "TurnEnded(None)",
            "refused: `nonsense` is none of the CLI's permission modes: default, autoEdit, yolo, plan",
            "stdout stream_event",
            "stdout assistant text w0 ",
            "stdout result true the turn ended early: cancelled",
            "TurnEnded(None)",
        ],
    );
}

#[test]
fn opencode_tells_its_arguments_late() {
    check(
        "opencode",
        include_str!("../../../fixtures/opencode.txt"),
        None,
        &[
            "stdout system init",
            "Conversation(\"ses_e00e1f9beffeCwZy1R1El5InXX\")",
            "Ready",
            "stdout stream_event",
            "stdout assistant text pong: hello",
            "stdout result false pong: hello",
            "TurnEnded(None)",
            "stdout assistant tool_use bash",
            "asks 0 for bash",
            "stdout user tool_result (no output)",
            "stdout stream_event",
            "stdout assistant text tool-result-seen: (no output)",
            "stdout result false tool-result-seen: (no output)",
            "TurnEnded(None)",
            "refused: restart",
            "refused: restart",
            "stdout stream_event",
            "stdout assistant text w0 w1 ",
            "stdout result true the turn ended early: cancelled",
            "TurnEnded(None)",
        ],
    );
}

const NOT_LOADED: &str = r#"> {"id":1,"method":"initialize"}
< {"id":1,"result":{"protocolVersion":1,"agentCapabilities":{"loadSession":true}}}
> {"id":2,"method":"session/load"}
< {"id":2,"error":{"code":-32603,"message":"no such session"}}"#;

#[test]
fn a_conversation_that_cannot_be_loaded_is_told() {
    check(
        "qwen-code-cli",
        NOT_LOADED,
        Some("r"),
        &["NotResumed(\"no such session\")"],
    );
    let cannot = "NotResumed(\"the CLI cannot go on with an earlier conversation\")";
    check(
        "qwen-code-cli",
        &NOT_LOADED.replace("true", "false"),
        Some("r"),
        &[cannot],
    );
}
