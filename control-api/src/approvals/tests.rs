use std::time::Duration;

use ace_policies::SessionId;
use ace_policies::session::Report;
use serde_json::{Value, json};

use super::{asked, cancelled};
use crate::error::ApiError;
use crate::sessions;
use crate::sessions::tests::at;
use crate::testing::{Answer, Client, World, worlds};

async fn asks(world: &World, session: SessionId, run: i64, request_id: &str, tool: &str) {
    let mut record = world.app.record().await.unwrap();
    let row = sessions::lock(&mut record, session).await.unwrap().unwrap();
    let input = json!({ "command": "ls\u{0}" });
    asked(&mut record, &row, run, request_id, tool, &input).await.unwrap();
    record.commit().await.unwrap();
}

/// What the agent is told of a question about this.
async fn asks_about(world: &World, session: SessionId, request_id: &str, input: &Value) -> Result<(), ApiError> {
    let mut record = world.app.record().await?;
    let row = sessions::lock(&mut record, session).await?.unwrap();
    asked(&mut record, &row, row.run, request_id, "Write", input).await?;
    record.commit().await
}

async fn answers(client: &Client, session: SessionId, request_id: &str, behavior: &str, scope: &str) -> Answer {
    let answer = json!({ "request_id": request_id, "behavior": behavior, "scope": scope });
    client.post(&at(session, "/permission"), answer).await
}

async fn questions(client: &Client, session: SessionId) -> Vec<Value> {
    let list = client.get(&at(session, "/approvals")).await.ok().json;
    list["approvals"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_first_answer_wins_and_goes_to_the_agent() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let carol = world.assigned("carol", machine, "admin").await;
        let session = alice.starts(machine).await;
        asks(&world, session, 1, "q1", "Bash").await;
        asks(&world, session, 1, "q1", "Bash").await;
        assert_eq!(
            world.events("approval.requested").await,
            [json!({ "request_id": "q1", "tool_name": "Bash" })]
        );
        let told = json!({ "request_id": "q1", "behavior": "deny", "message": "not here" });
        carol.post(&at(session, "/permission"), told).await.ok();
        assert_eq!(
            world.last_command().await,
            json!({ "type": "permission_response", "session_id": session, "request_id": "q1", "behavior": "deny",
                    "tool_name": "Bash", "message": "not here" })
        );
        let late = answers(&alice, session, "q1", "allow", "once")
            .await
            .refused(409, "already_answered");
        assert_eq!(
            late.json["error"],
            "carol answered already, with deny, at 2026-01-31T12:00:00.000Z"
        );
        assert_eq!(late.json["session_status"], "starting");
        let list = questions(&alice, session).await;
        assert_eq!(
            (&list[0]["state"], &list[0]["answered_by"], &list[0]["scope"]),
            (&json!("answered"), &json!("carol"), &json!("once"))
        );
        assert_eq!(list[0]["input"], json!({ "command": "ls\u{0}" }));
        asks(&world, session, 1, "q1", "Bash").await;
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM agent_commands WHERE type = 'permission_response'")
                .await,
            1
        );
        assert!(
            world
                .audit()
                .await
                .contains(&format!("carol sessions.answer_approval session:{session} ok"))
        );
    }
}

#[tokio::test]
async fn of_two_answers_at_once_one_wins() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        asks(&world, session, 1, "q1", "Bash").await;
        let (yes, no) = tokio::join!(
            answers(&alice, session, "q1", "allow", "once"),
            answers(&alice, session, "q1", "deny", "once")
        );
        let mut codes = [yes.code(), no.code()];
        codes.sort();
        assert_eq!(codes, ["", "already_answered"]);
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM agent_commands WHERE type = 'permission_response'")
                .await,
            1
        );
    }
}

#[tokio::test]
async fn trap_45_a_question_waits_as_long_as_people_need_and_a_lost_connection_is_no_answer() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        asks(&world, session, 1, "q1", "Bash").await;
        world.disconnect(machine).await;
        world.clock.advance(Duration::from_secs(3 * 86_400));
        let alice = world.logged_in(ace_policies::UserId(2)).await;
        assert_eq!(questions(&alice, session).await[0]["state"], "pending");
        assert_eq!(
            world.commands().await,
            ["start_session 1 queued"],
            "nothing was answered"
        );
        answers(&alice, session, "q1", "allow", "once").await.ok();
        assert_eq!(world.last_command().await["behavior"], "allow");
    }
}

#[tokio::test]
async fn an_answer_for_the_session_holds_for_later_questions() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let (session, other) = (alice.starts(machine).await, alice.starts(machine).await);
        asks(&world, session, 1, "q1", "Bash").await;
        answers(&alice, session, "q1", "allow", "session").await.ok();
        asks(&world, session, 1, "q2", "Bash").await;
        asks(&world, session, 1, "q3", "Write").await;
        asks(&world, other, 1, "q1", "Bash").await;
        let list = questions(&alice, session).await;
        let states: Vec<_> = list
            .iter()
            .map(|q| (q["request_id"].clone(), q["state"].clone(), q["by_rule"].clone()))
            .collect();
        assert_eq!(
            states,
            [
                (json!("q3"), json!("pending"), json!(false)),
                (json!("q2"), json!("answered"), json!(true)),
                (json!("q1"), json!("answered"), json!(false)),
            ]
        );
        assert_eq!(
            questions(&alice, other).await[0]["state"],
            "pending",
            "it holds for that session alone"
        );
        let told = world.events("approval.answered").await;
        assert_eq!((&told[1]["by_rule"], &told[1]["by"]), (&json!(true), &Value::Null));
        assert!(
            world
                .audit()
                .await
                .contains(&format!("approval rule sessions.answer_by_rule session:{session} ok"))
        );
        let late = answers(&alice, session, "q2", "deny", "once")
            .await
            .refused(409, "already_answered");
        assert!(
            late.json["error"]
                .as_str()
                .unwrap()
                .starts_with("a rule answered already, with allow")
        );
    }
}

#[tokio::test]
async fn a_rule_holds_in_its_project_until_it_is_withdrawn() {
    for world in worlds().await {
        let machine = world.host(7).await;
        world.run("UPDATE remote_machines SET max_sessions = 9", &[]).await;
        let alice = world.assigned("alice", machine, "user").await;
        let carol = world.assigned("carol", machine, "admin").await;
        let (first, second) = (alice.starts(machine).await, alice.starts(machine).await);
        asks(&world, first, 1, "q1", "Bash").await;
        answers(&carol, first, "q1", "allow", "rule")
            .await
            .refused(403, "owner_only");
        answers(&alice, first, "q1", "deny", "rule").await.ok();
        asks(&world, second, 1, "q1", "Bash").await;
        assert_eq!(questions(&alice, second).await[0]["behavior"], "deny");
        let carols = carol.starts(machine).await;
        asks(&world, carols, 1, "q1", "Bash").await;
        assert_eq!(
            questions(&carol, carols).await[0]["state"],
            "pending",
            "a rule is for its owner's sessions"
        );
        let rules = alice.get(&at(second, "/approval-rules")).await.ok().json["rules"].clone();
        assert_eq!(
            (&rules[0]["tool_name"], &rules[0]["scope"]),
            (&json!("Bash"), &json!("rule"))
        );
        let rule = at(second, &format!("/approval-rules/{}", rules[0]["id"]));
        carol.delete(&rule).await.refused(403, "owner_only");
        alice.delete(&rule).await.ok();
        alice.delete(&rule).await.refused(404, "not_found");
        asks(&world, second, 1, "q2", "Bash").await;
        assert_eq!(questions(&alice, second).await[0]["state"], "pending");
    }
}

#[tokio::test]
async fn with_the_session_or_the_turn_its_questions_end() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        for question in ["q1", "q2", "q3"] {
            asks(&world, session, 1, question, "Bash").await;
        }
        let mut record = world.app.record().await.unwrap();
        let row = sessions::lock(&mut record, session).await.unwrap().unwrap();
        cancelled(&mut record, &row, "q1").await.unwrap();
        cancelled(&mut record, &row, "unknown").await.unwrap();
        record.commit().await.unwrap();
        answers(&alice, session, "q1", "allow", "once")
            .await
            .refused(409, "approval_cancelled");
        answers(&alice, session, "q2", "allow", "once").await.ok();
        world.reports(session, 1, Report::Error, Some("gone")).await;
        let states: Vec<Value> = questions(&alice, session)
            .await
            .iter()
            .map(|q| q["state"].clone())
            .collect();
        assert_eq!(states, ["cancelled", "answered", "cancelled"]);
        // What is asked in an earlier run, or after the end, is asked in vain.
        asks(&world, session, 1, "q4", "Bash").await;
        alice.act(session, "/resume").await.ok();
        asks(&world, session, 1, "q5", "Bash").await;
        assert_eq!(questions(&alice, session).await.len(), 3);
    }
}

#[tokio::test]
async fn answers_that_are_none_are_refused() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        asks(&world, session, 1, "q1", "Bash").await;
        answers(&alice, session, "q9", "allow", "once")
            .await
            .refused(404, "not_found");
        answers(&alice, session, "q1", "maybe", "once")
            .await
            .refused(400, "invalid_body");
        answers(&alice, session, "q1", "allow", "always")
            .await
            .refused(400, "invalid_body");
        let long = json!({ "request_id": "q1", "behavior": "deny", "message": "x".repeat(4_001) });
        alice
            .post(&at(session, "/permission"), long)
            .await
            .refused(400, "invalid_field");
        alice
            .get(&at(session, "/approvals?state=open"))
            .await
            .refused(400, "invalid_field");
        assert_eq!(questions(&alice, session).await[0]["state"], "pending");
    }
}

#[tokio::test]
async fn what_is_too_long_is_cut_and_so_many_wait_and_no_more() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let input = json!({ "file_path": "/srv/x", "content": "x".repeat(60_000) });
        let long = json!({ "file_path": "/srv/x", "content": "x".repeat(1 << 20) });
        asks_about(&world, session, "long", &long).await.unwrap();
        let question = &questions(&alice, session).await[0];
        assert_eq!(question["input_truncated"], true);
        assert!(question.to_string().len() < 65 << 10, "{}", question.to_string().len());
        for n in 1..100 {
            asks_about(&world, session, &format!("q{n}"), &input).await.unwrap();
        }
        let refused = asks_about(&world, session, "q100", &input).await.unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.code()), (400, "too_many_questions"));
        asks_about(&world, session, "q1", &input).await.unwrap();
        let (mut seen, mut path) = (Vec::new(), at(session, "/approvals?state=pending"));
        loop {
            let page = alice.get(&path).await.ok();
            assert!(page.text.len() < 2_200_000, "{}", page.text.len());
            let ids = page.json["approvals"].as_array().unwrap().iter();
            seen.extend(ids.map(|question| question["request_id"].as_str().unwrap().to_owned()));
            let Some(next) = page.json["next"].as_i64() else { break };
            path = at(session, &format!("/approvals?state=pending&before={next}"));
        }
        let all: Vec<String> = (1..100)
            .rev()
            .map(|n| format!("q{n}"))
            .chain(["long".to_owned()])
            .collect();
        assert_eq!(seen, all);
        answers(&alice, session, "q1", "deny", "once").await.ok();
        asks_about(&world, session, "q100", &input).await.unwrap();
    }
}
