use std::time::Duration;

use ace_policies::secret;
use axum::extract::FromRequestParts;
use axum::http::Request;
use serde_json::json;

use super::{Agent, Verdict, verdict};
use crate::error::ApiError;
use crate::machines::rotation_token;
use crate::testing::World;
use crate::testing::worlds;
use crate::wakeups::Wakeup;

/// Shows a token as an agent would with any message.
async fn show(world: &World, token: &str) -> Result<Agent, ApiError> {
    let request = Request::builder().header("authorization", format!("Bearer {token}"));
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    parts.extensions.insert(ace_policies::edge::EdgeHeaders {
        client: [203, 0, 113, 9].into(),
        scheme: "http".to_owned(),
        host: "ace.test".to_owned(),
        request_id: String::new(),
        time: 0,
    });
    Agent::from_request_parts(&mut parts, &world.app).await
}

pub(in crate::agents) async fn is_let_in(world: &World, token: &str) -> bool {
    show(world, token).await.is_ok()
}

struct Machine {
    id: ace_policies::MachineId,
    token: String,
}

async fn machine(world: &World) -> Machine {
    let id = ace_policies::MachineId(uuid::Uuid::from_u128(7));
    let token = world.registration_token(json!({})).await;
    let registered = world.nobody().register(&token, id, "m").await.ok();
    let token = registered.json["machine"]["agent_token"].as_str().unwrap().to_owned();
    Machine { id, token }
}

/// What is handed over to the agent.
async fn hand_over(world: &World, machine: &Machine, rotation_id: &str) -> Option<String> {
    let mut record = world.app.record().await.unwrap();
    let token = rotation_token(&mut record, machine.id, rotation_id).await.unwrap();
    record.commit().await.unwrap();
    token.map(|token| token.expose().to_owned())
}

async fn rotate(world: &World, machine: &Machine) -> String {
    let path = format!("/api/remote/machines/{}/token/rotate", machine.id);
    let answer = world.admin().await.post(&path, json!({})).await.ok();
    assert_eq!(answer.json["machine"]["token_state"], "rotating");
    answer.json["rotation_id"].as_str().unwrap().to_owned()
}

async fn verdict_of(world: &World, machine: &Machine, token: &str) -> Verdict {
    verdict(&world.app, machine.id, &secret::hash(token)).await.unwrap()
}

#[tokio::test]
async fn trap_36_only_the_machines_own_token_speaks_for_it() {
    for world in worlds().await {
        let machine = machine(&world).await;
        let agent = show(&world, &machine.token).await.unwrap();
        assert_eq!(
            (agent.machine, agent.tenant.0, agent.dialect.as_str()),
            (machine.id, 1, "own")
        );
        let strange = format!("acea_{}", "A".repeat(43));
        for wrong in ["", "acea_", &strange, &machine.token[..47], &machine.id.to_string()] {
            let refused = show(&world, wrong).await.unwrap_err();
            assert_eq!(
                (refused.status().as_u16(), refused.code()),
                (401, "invalid_agent_token")
            );
        }
        let person = world.bearer(&machine.token).get("/api/auth/me").await;
        person.refused(401, "not_authenticated");
    }
}

#[tokio::test]
async fn the_first_use_of_a_token_is_noted_once() {
    for world in worlds().await {
        let machine = machine(&world).await;
        let first_use = "SELECT COALESCE(authenticated_at, 0) FROM remote_machines";
        assert_eq!(world.number(first_use).await, 0);
        show(&world, &machine.token).await.unwrap();
        let noted = world.number(first_use).await;
        assert_eq!(noted, world.app.now());
        world.clock.advance(Duration::from_secs(5));
        show(&world, &machine.token).await.unwrap();
        assert_eq!(world.number(first_use).await, noted);
    }
}

#[tokio::test]
async fn trap_35_the_old_token_works_until_the_new_one_is_used() {
    for world in worlds().await {
        let machine = machine(&world).await;
        let rotation = rotate(&world, &machine).await;
        assert!(is_let_in(&world, &machine.token).await, "nothing is handed over yet");
        let lost = hand_over(&world, &machine, &rotation).await.unwrap();
        let new = hand_over(&world, &machine, &rotation).await.unwrap();
        assert!(!is_let_in(&world, &lost).await, "handed over again it is another one");
        assert!(is_let_in(&world, &machine.token).await);
        assert_eq!(verdict_of(&world, &machine, &new).await, Verdict::Good);
        let mut bell = world.app.wakeups().listen(Wakeup::Machine(machine.id));
        assert!(is_let_in(&world, &new).await);
        bell.next().await;
        assert!(is_let_in(&world, &new).await);
        assert!(!is_let_in(&world, &machine.token).await, "the new one was used");
        assert_eq!(verdict_of(&world, &machine, &machine.token).await, Verdict::Ended);
        assert_eq!(
            hand_over(&world, &machine, &rotation).await,
            None,
            "the rotation is over"
        );
        assert_eq!(world.number("SELECT token_version FROM remote_machines").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_messages_at_once_may_be_the_new_tokens_first() {
    for world in worlds().await {
        let machine = machine(&world).await;
        let rotation = rotate(&world, &machine).await;
        let new = hand_over(&world, &machine, &rotation).await.unwrap();
        let shown = futures_util::future::join_all((0..20).map(|_| is_let_in(&world, &new))).await;
        assert!(shown.iter().all(|let_in| *let_in), "{shown:?}");
        assert_eq!(world.number("SELECT token_version FROM remote_machines").await, 2);
    }
}

#[tokio::test]
async fn a_rotation_that_is_asked_for_again_replaces_the_first() {
    for world in worlds().await {
        let machine = machine(&world).await;
        let first = rotate(&world, &machine).await;
        let second = rotate(&world, &machine).await;
        assert_eq!(hand_over(&world, &machine, &first).await, None);
        let new = hand_over(&world, &machine, &second).await.unwrap();
        assert!(is_let_in(&world, &new).await);
        let waiting = "SELECT COUNT(*) FROM agent_commands WHERE type = 'rotate_token' AND state = 'queued'";
        assert_eq!(world.number(waiting).await, 1);
        let secrets = "SELECT COUNT(*) FROM agent_commands WHERE payload LIKE '%acea_%'";
        assert_eq!(world.number(secrets).await, 0);
    }
}

#[tokio::test]
async fn a_revoked_token_is_out_at_once() {
    for world in worlds().await {
        let machine = machine(&world).await;
        show(&world, &machine.token).await.unwrap();
        let rotation = rotate(&world, &machine).await;
        let next = hand_over(&world, &machine, &rotation).await.unwrap();
        let mut bell = world.app.wakeups().listen(Wakeup::Machine(machine.id));
        let path = format!("/api/remote/machines/{}/token", machine.id);
        let admin = world.admin().await;
        let revoked = admin.post(&format!("{path}/revoke"), json!({})).await.ok();
        assert_eq!(revoked.json["machine"]["token_state"], "revoked");
        bell.next().await;
        for token in [&machine.token, &next] {
            let refused = show(&world, token).await.unwrap_err();
            assert_eq!(refused.code(), "invalid_agent_token");
            assert_eq!(verdict_of(&world, &machine, token).await, Verdict::Ended);
        }
        let refused = admin.post(&format!("{path}/rotate"), json!({})).await;
        refused.refused(409, "token_revoked");
    }
}

#[tokio::test]
async fn the_agent_of_a_machine_that_is_gone_is_told_so_however_late() {
    for world in worlds().await {
        let machine = machine(&world).await;
        let rotation = rotate(&world, &machine).await;
        let next = hand_over(&world, &machine, &rotation).await.unwrap();
        let path = format!("/api/remote/machines/{}", machine.id);
        world.admin().await.delete(&path).await.ok();
        world.clock.advance(Duration::from_secs(300 * 86_400));
        for token in [&machine.token, &next] {
            let refused = show(&world, token).await.unwrap_err();
            assert_eq!(
                (refused.status().as_u16(), refused.code()),
                (401, "machine_unregistered")
            );
            assert_eq!(verdict_of(&world, &machine, token).await, Verdict::Unregistered);
        }
        assert_eq!(hand_over(&world, &machine, &rotation).await, None);
    }
}
