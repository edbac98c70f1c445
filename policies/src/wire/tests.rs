use serde_json::json;

use super::*;

#[track_caller]
fn agent_says(message: &FromAgent, expected: Value) {
    assert_eq!(serde_json::to_value(message).unwrap(), expected);
    assert_eq!(&serde_json::from_value::<FromAgent>(expected).unwrap(), message);
}

#[track_caller]
fn agent_hears(message: &ToAgent, expected: Value) {
    assert_eq!(serde_json::to_value(message).unwrap(), expected);
    assert_eq!(&serde_json::from_value::<ToAgent>(expected).unwrap(), message);
}

fn session() -> SessionId {
    SessionId(Uuid::from_u128(7))
}

#[test]
fn output_is_text_where_it_can_be() {
    let line = |seq, data: &[u8]| Line {
        seq,
        stream: Stream::Stdout,
        at: 5,
        data: Data(data.to_vec()),
    };
    agent_says(
        &FromAgent::Output {
            session_id: session(),
            lines: vec![line(1, "{\"é\"}\n\u{0}".as_bytes()), line(2, b"\xff\n")],
        },
        json!({"type": "output", "session_id": session(), "lines": [
            {"seq": 1, "stream": "stdout", "at": 5, "data": "{\"é\"}\n\u{0}"},
            {"seq": 2, "stream": "stdout", "at": 5, "data_base64": "/wo="},
        ]}),
    );
}

#[test]
fn a_command_travels_with_its_id() {
    let command = Command::SendMessage {
        session_id: session(),
        content: "hi".to_owned(),
        attachments: vec![],
    };
    assert_eq!(command.kind(), CommandKind::SendMessage);
    agent_hears(
        &ToAgent::Command {
            command_id: Uuid::from_u128(9),
            expires_at_ms: 1,
            command,
        },
        json!({"type": "command", "command_id": Uuid::from_u128(9), "expires_at_ms": 1,
               "command": {"type": "send_message", "session_id": session(), "content": "hi"}}),
    );
}

#[test]
fn every_command_is_called_as_in_json() {
    let start = json!({"type": "start_session", "session_id": session(), "run": 1, "project_path": "/p", "cli_tool": "claude-code"});
    let command: Command = serde_json::from_value(start.clone()).unwrap();
    assert_eq!(command.kind().as_str(), "start_session");
    for kind in CommandKind::ALL {
        let all = json!({"type": kind.as_str(), "session_id": session(), "run": 1, "project_path": "/p", "cli_tool": "x", "content": "",
            "reason": "", "request_id": "", "behavior": "allow", "tool_name": "", "model": "", "permission_mode": "", "path": "",
            "rotation_id": ""});
        assert_eq!(serde_json::from_value::<Command>(all).unwrap().kind(), *kind);
    }
}

#[test]
fn a_newer_side_may_say_more() {
    let status = json!({"type": "status", "session_id": session(), "run": 1, "state": "running", "mood": "good"});
    assert!(serde_json::from_value::<FromAgent>(status).is_ok());
    let capabilities: Capabilities = serde_json::from_value(json!({"cpu_cores": 4, "gpu": "none"})).unwrap();
    assert_eq!(capabilities.more["gpu"], "none");
}
