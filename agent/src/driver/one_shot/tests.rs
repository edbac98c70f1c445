use super::*;
use crate::driver::Message;

fn words(acts: Acts) -> Vec<String> {
    let words = acts.0.into_iter().map(|act| match act {
        Act::Print(_, line) => String::from_utf8(line).unwrap().trim_end().to_owned(),
        other => format!("{other:?}"),
    });
    words.collect()
}

/// A turn of a CLI that prints this and exits so.
fn turn(row: Row, printed: &[&[u8]], code: i32) -> Vec<String> {
    let mut driver = OneShot::new(row, Setting::default());
    let message = Message {
        content: "hello".to_owned(),
        attachments: Vec::new(),
    };
    driver.input(Input::Message(message), &mut Acts::default()).unwrap();
    let mut acts = Acts::default();
    for line in printed {
        driver.line(line.to_vec(), &mut acts);
    }
    driver.ended(
        &Exit {
            code,
            words: "no key".to_owned(),
        },
        &mut acts,
    );
    words(acts)
}

fn openclaw() -> Row {
    let adapters = crate::adapter::Adapters::load(std::path::Path::new("/none"), &[]).unwrap();
    adapters.find("openclaw").unwrap().one_shot
}

#[test]
fn text_is_told_as_it_comes_and_as_one_answer() {
    assert_eq!(
        turn(Row::default(), &[b"one\n", b"\x1b[1mtwo\x1b[0m \xff"], 0),
        [
            r#"{"event":{"delta":{"text":"one\n","type":"text_delta"},"index":0,"type":"content_block_delta"},"type":"stream_event"}"#,
            "{\"event\":{\"delta\":{\"text\":\"\\u001b[1mtwo\\u001b[0m \u{fffd}\",\"type\":\"text_delta\"},\"index\":0,\"type\":\"content_block_delta\"},\"type\":\"stream_event\"}",
            "{\"message\":{\"content\":[{\"text\":\"one\\n\\u001b[1mtwo\\u001b[0m \u{fffd}\",\"type\":\"text\"}],\"role\":\"assistant\"},\"type\":\"assistant\"}",
            "{\"is_error\":false,\"result\":\"one\\n\\u001b[1mtwo\\u001b[0m \u{fffd}\",\"subtype\":\"success\",\"type\":\"result\"}",
            "Tell(TurnEnded(None))",
        ]
    );
}

#[test]
fn a_failed_process_is_a_failed_turn() {
    let words = turn(Row::default(), &[], 3);
    assert_eq!(
        words.last().unwrap(),
        "Tell(TurnEnded(Some(\"the CLI ended with exit code 3: no key\")))"
    );
    assert!(words[0].contains(r#""is_error":true"#));
}

#[test]
fn the_answer_is_found_in_an_object_with_talk_around_it() {
    let printed: [&[u8]; 3] = [
        b"[plugins] {loaded}\n",
        b"{\"ok\":true,\n\"final\":\"pong\",\"sessionId\":\"s\"}\n",
        b"bye\n",
    ];
    assert_eq!(
        turn(openclaw(), &printed, 0),
        [
            r#"Tell(Conversation("s"))"#,
            r#"{"message":{"content":[{"text":"pong","type":"text"}],"role":"assistant"},"type":"assistant"}"#,
            r#"{"is_error":false,"result":"pong","subtype":"success","type":"result"}"#,
            "Tell(TurnEnded(None))",
        ]
    );
    let failed: [&[u8]; 1] = [b"{\"ok\":false,\"error\":{\"message\":\"Unknown model\",\"kind\":\"cli_error\"}}\n"];
    assert_eq!(
        turn(openclaw(), &failed, 1).last().unwrap(),
        "Tell(TurnEnded(Some(\"Unknown model\")))"
    );
}

#[test]
fn events_pass_as_they_are_and_their_own_end_counts() {
    let row = Row {
        output: Output::Events,
        ..Row::default()
    };
    let printed: [&[u8]; 2] = [
        b"{\"type\":\"system\",\"session_id\":\"s\"}\n",
        b"{\"type\":\"result\",\"is_error\":false}\n",
    ];
    assert_eq!(
        turn(row, &printed, 0),
        [
            r#"{"type":"system","session_id":"s"}"#,
            r#"Tell(Conversation("s"))"#,
            r#"{"type":"result","is_error":false}"#,
            "Tell(TurnEnded(None))",
        ]
    );
}
