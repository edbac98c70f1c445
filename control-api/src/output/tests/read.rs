use ace_policies::wire::{Data, Line, Stream};
use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};

use crate::output::append;
use crate::sessions::tests::at;
use crate::testing::worlds;

#[tokio::test]
async fn the_newest_two_megabytes_are_shown_and_the_rest_is_paged() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let text = "x".repeat(100_000);
        world.prints(session, machine, 1, &vec![text.as_str(); 50]).await;
        let page = async |query: &str| alice.get(&at(session, query)).await.ok().json["session"].clone();
        let span = |page: &Value| {
            let output = page["output"].as_array().unwrap();
            let seq = |line: Option<&Value>| line.and_then(|line| line["seq"].as_i64()).unwrap_or_default();
            let flags = (
                page["output_truncated"].as_bool().unwrap(),
                page["output_more"].as_bool().unwrap(),
            );
            (seq(output.first()), seq(output.last()), flags)
        };
        let newest = page("").await;
        assert_eq!(span(&newest), (31, 50, (true, false)));
        assert_eq!((&newest["first_seq"], &newest["last_seq"]), (&json!(1), &json!(50)));
        assert_eq!(span(&page("?before=31").await), (11, 30, (true, true)));
        assert_eq!(span(&page("?before=11").await), (1, 10, (false, true)));
        assert_eq!(span(&page("?after=0").await), (1, 20, (false, true)));
        assert_eq!(span(&page("?after=40").await), (41, 50, (true, false)));
        assert_eq!(span(&page("?after=50").await), (0, 0, (true, false)));
        for wrong in ["?after=1&before=2", "?after=x", "?first=1"] {
            assert_eq!(alice.get(&at(session, wrong)).await.status, 400, "{wrong}");
        }
    }
}

const SAID: &str =
    r#"{"type":"assistant","message":{"role":"assistant","content":[{"type":"text","text":"It is *fine*."}]}}"#;

#[tokio::test]
async fn what_the_cli_says_becomes_messages() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        alice.says(session, "How is main.py?").await.ok();
        world
            .prints(session, machine, 1, &["{\"type\":\"system\"}\n", SAID, "not json\n"])
            .await;
        world.prints(session, machine, 2, &[SAID]).await;
        let list = async |query: &str| alice.get(&at(session, &format!("/messages{query}"))).await.ok().json;
        let all = list("").await;
        let contents: Vec<&str> = all["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["content"].as_str().unwrap())
            .collect();
        assert_eq!(contents, ["It is *fine*.", "How is main.py?"]);
        assert_eq!(all["messages"][0]["seq"], 2);
        assert_eq!(alice.sees(session).await["message_count"], 2);
        assert_eq!(list("?role=assistant").await["messages"].as_array().unwrap().len(), 1);
        assert_eq!(list("?q=MAIN.py").await["messages"][0]["role"], "user");
        let first = list("?limit=1").await;
        let next = first["next"].as_i64().unwrap();
        let second = list(&format!("?limit=1&before={next}")).await;
        assert_eq!(
            (&second["messages"][0]["role"], second.get("next")),
            (&json!("user"), None)
        );
        alice
            .get(&at(session, "/messages?role=system"))
            .await
            .refused(400, "invalid_field");
    }
}

#[tokio::test]
async fn a_session_can_be_downloaded() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        alice.patch(&at(session, ""), json!({ "title": "Look" })).await.ok();
        alice.says(session, "How is main.py?").await.ok();
        world.clock.advance(std::time::Duration::from_secs(1));
        world.prints(session, machine, 1, &[SAID]).await;
        world.clock.advance(std::time::Duration::from_secs(1));
        alice.says(session, "Thanks").await.ok();
        let markdown = alice.get(&at(session, "/transcript?format=md")).await.ok();
        assert_eq!(
            markdown.header("content-disposition"),
            format!("attachment; filename=\"session-{session}.md\"")
        );
        let text = markdown.text.replace(&session.to_string(), "<id>");
        allow_duplicates!(assert_snapshot!(text, @r"
        # Look

        - Session: <id>
        - Machine: box
        - Project: /srv/app
        - CLI: qwen-code-cli
        - Model: the CLI's own
        - Begun: 2026-01-31T12:00:00.000Z

        ## alice, 2026-01-31T12:00:00.000Z

        How is main.py?

        ## qwen-code-cli, 2026-01-31T12:00:01.000Z

        It is *fine*.

        ## alice, 2026-01-31T12:00:02.000Z

        Thanks
        "));
        let lines = alice.get(&at(session, "/transcript")).await.ok();
        assert_eq!(lines.header("content-type"), "application/jsonl");
        let kinds: Vec<String> = lines
            .text
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["type"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(kinds, ["session", "message", "output", "message"]);
        alice
            .get(&at(session, "/transcript?format=pdf"))
            .await
            .refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn a_long_transcript_is_whole() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let lines: Vec<String> = (1..=4_500).map(|number| format!("{number}\n")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        world.prints(session, machine, 1, &lines).await;
        world.clock.advance(std::time::Duration::from_secs(1));
        for number in 0..120 {
            alice.says(session, &format!("message {number}")).await.ok();
        }
        let text = alice.get(&at(session, "/transcript")).await.ok().text;
        assert_eq!(text.lines().count(), 1 + 4_500 + 120);
        let markdown = alice.get(&at(session, "/transcript?format=md")).await.ok().text;
        assert_eq!(markdown.matches("\n## alice, ").count(), 120);
    }
}

#[tokio::test]
async fn a_page_of_messages_is_bounded_in_bytes_and_nothing_is_left_out() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let long = "ü".repeat(450_000);
        for _ in 0..5 {
            let said = "INSERT INTO session_messages (session_id, role, content, at) VALUES ($1, 'assistant', $2, 0)";
            world.run(said, &[&session.to_string(), &long]).await;
        }
        let (mut seen, mut path) = (Vec::new(), at(session, "/messages"));
        loop {
            let page = alice.get(&path).await.ok();
            let messages = page.json["messages"].as_array().unwrap();
            assert!(messages.len() <= 2, "{}", messages.len());
            seen.extend(messages.iter().map(|message| message["id"].as_i64().unwrap()));
            let Some(next) = page.json["next"].as_i64() else { break };
            path = at(session, &format!("/messages?before={next}"));
        }
        assert_eq!(seen, [5, 4, 3, 2, 1]);
        let text = alice.get(&at(session, "/transcript?format=md")).await.ok().text;
        assert_eq!(text.matches("## ").count(), 5);
    }
}

#[tokio::test]
async fn a_machine_whose_clock_is_wrong_gets_its_transcript_in_order() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        alice.says(session, "first").await.ok();
        for (seq, at) in [(1, world.app.now() + 3_600_000), (2, 0)] {
            let line = Line {
                seq,
                stream: Stream::Stdout,
                at,
                data: Data(format!("line {seq}\n").into_bytes()),
            };
            let mut record = world.app.record().await.unwrap();
            append(&mut record, session, machine, &[line]).await.unwrap();
            record.commit().await.unwrap();
            world.clock.advance(std::time::Duration::from_secs(1));
            alice.says(session, &format!("after {seq}")).await.ok();
        }
        let text = alice.get(&at(session, "/transcript")).await.ok().text;
        let lines = text
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let order: Vec<String> = lines
            .map(|entry| {
                entry["content"]
                    .as_str()
                    .or(entry["data"].as_str())
                    .unwrap()
                    .trim()
                    .to_owned()
            })
            .collect();
        assert_eq!(order, ["first", "line 1", "after 1", "line 2", "after 2"]);
    }
}
