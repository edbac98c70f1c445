use std::time::Duration;

use ace_policies::MachineId;
use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::testing::{Answer, World, registration, worlds};

const BUILD: MachineId = MachineId(Uuid::from_u128(0xb1));
const OTHER: MachineId = MachineId(Uuid::from_u128(0xb2));

async fn second_tenant(world: &World) {
    let admin = world.admin().await;
    admin.post("/api/tenants", json!({ "name": "other" })).await.ok();
}

async fn speaks(world: &World, registered: &Answer) -> bool {
    // Any route for agents will do; this one asks for nothing else.
    let token = registered.json["machine"]["agent_token"].as_str().unwrap();
    crate::agents::credential::tests::is_let_in(world, token).await
}

#[tokio::test]
async fn a_registration_token_becomes_a_machine() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        let registered = world.nobody().register(&token, BUILD, "Build server").await.ok();
        let mut shown = registered.json.clone();
        let agent_token = shown["machine"]["agent_token"].take();
        assert!(agent_token.as_str().unwrap().starts_with("acea_"));
        allow_duplicates!(assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
        {
          "machine": {
            "agent_token": null,
            "machine_id": "00000000-0000-0000-0000-0000000000b1",
            "machine_name": "Build server",
            "status": "offline",
            "tenant_id": 1
          },
          "success": true
        }
        "#));
        assert!(speaks(&world, &registered).await);
        let audit = world.audit().await;
        assert!(
            audit.contains(&format!("agent agents.register machine:{BUILD} ok")),
            "{audit:?}"
        );
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM events WHERE kind = 'machine.registered'")
                .await,
            1
        );
        let admins = world
            .number("SELECT COUNT(*) FROM machine_assignments WHERE user_id = 1 AND permission = 'admin'")
            .await;
        assert_eq!(admins, 1, "whoever made the token is its admin");
        let secrets = world
            .number("SELECT COUNT(*) FROM audit_log WHERE after LIKE '%acea_%' OR after LIKE '%acer_%'")
            .await;
        assert_eq!(secrets, 0, "no token in the audit log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_with_one_token_exactly_one_wins() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        let mut agents = JoinSet::new();
        for number in 0..100 {
            let (nobody, token) = (world.nobody(), token.clone());
            let machine = MachineId(Uuid::from_u128(number + 1));
            agents.spawn(async move { nobody.register(&token, machine, "m").await.status.as_u16() });
        }
        let statuses = agents.join_all().await;
        let count = |status| statuses.iter().filter(|found| **found == status).count();
        assert_eq!(count(200), 1, "{statuses:?}");
        assert_eq!(count(401) + count(429), 99, "{statuses:?}");
        assert_eq!(world.number("SELECT COUNT(*) FROM remote_machines").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_answers_to_one_machine_one_token_is_good() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        let mut agents = JoinSet::new();
        for _ in 0..100 {
            let (nobody, token) = (world.nobody(), token.clone());
            agents.spawn(async move { nobody.register(&token, BUILD, "m").await.ok() });
        }
        let mut good = 0;
        for answer in agents.join_all().await {
            good += usize::from(speaks(&world, &answer).await);
        }
        assert_eq!(good, 1);
        assert_eq!(world.number("SELECT COUNT(*) FROM remote_machines").await, 1);
    }
}

#[tokio::test]
async fn trap_47_a_lost_answer_is_given_again_until_the_agent_speaks() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        let lost = world.nobody().register(&token, BUILD, "m").await.ok();
        world.clock.advance(Duration::from_secs(599));
        let found = world.nobody().register(&token, BUILD, "m").await.ok();
        assert!(!speaks(&world, &lost).await, "only the fresh one is good");
        world
            .nobody()
            .register(&token, OTHER, "m")
            .await
            .refused(401, "invalid_registration_token");
        assert!(speaks(&world, &found).await);
        world
            .nobody()
            .register(&token, BUILD, "m")
            .await
            .refused(401, "invalid_registration_token");
    }
}

#[tokio::test]
async fn a_registration_is_not_repeated_after_ten_minutes() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        world.nobody().register(&token, BUILD, "m").await.ok();
        world.clock.advance(Duration::from_secs(600));
        world
            .nobody()
            .register(&token, BUILD, "m")
            .await
            .refused(401, "invalid_registration_token");
    }
}

#[tokio::test]
async fn a_repetition_does_not_undo_what_came_after() {
    for world in worlds().await {
        let (first, second) = (
            world.registration_token(json!({})).await,
            world.registration_token(json!({})).await,
        );
        world.nobody().register(&first, BUILD, "m").await.ok();
        world.clock.advance(Duration::from_secs(1));
        world.nobody().register(&second, BUILD, "m").await.ok();
        let refused = world.nobody().register(&first, BUILD, "m").await;
        refused.refused(401, "invalid_registration_token");
        let admin = world.admin().await;
        let revoke = format!("/api/remote/machines/{BUILD}/token/revoke");
        admin.post(&revoke, Value::Null).await;
        admin.post(&revoke, json!({})).await.ok();
        let refused = world.nobody().register(&second, BUILD, "m").await;
        refused.refused(401, "invalid_registration_token");
    }
}

#[tokio::test]
async fn an_expired_token_registers_nothing() {
    for world in worlds().await {
        let token = world.registration_token(json!({ "ttl": 60 })).await;
        world.clock.advance(Duration::from_secs(60));
        let refused = world.nobody().register(&token, BUILD, "m").await;
        refused.refused(401, "invalid_registration_token");
        let audit = world.audit().await;
        assert!(audit.last().unwrap().contains("agents.register registration_token:"));
        assert!(audit.last().unwrap().ends_with(" denied"), "{audit:?}");
        assert_eq!(world.number("SELECT COUNT(*) FROM remote_machines").await, 0);
    }
}

#[tokio::test]
async fn a_token_goes_with_the_admin_who_made_it() {
    for world in worlds().await {
        let admin = world.admin().await;
        let eve = world.add_user("eve").await;
        admin.patch("/api/users/2", json!({ "role": "admin" })).await.ok();
        let made = world.logged_in(eve).await;
        let made = made.post("/api/remote/machines/register", json!({})).await.ok();
        admin.patch("/api/users/2", json!({ "role": "user" })).await.ok();
        let token = made.json["registration_token"].as_str().unwrap();
        let refused = world.nobody().register(token, BUILD, "m").await;
        refused.refused(401, "invalid_registration_token");
    }
}

#[tokio::test]
async fn a_machine_that_registers_again_keeps_id_assignments_and_settings() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.add_user("bob").await);
        let first = world.registration_token(json!({})).await;
        let before = world.nobody().register(&first, BUILD, "old").await.ok();
        assert!(speaks(&world, &before).await);
        let path = format!("/api/remote/machines/{BUILD}");
        admin
            .post(&format!("{path}/assign"), json!({ "user_id": bob }))
            .await
            .ok();
        admin.patch(&path, json!({ "max_sessions": 2 })).await.ok();
        let second = world.registration_token(json!({})).await;
        let after = world.nobody().register(&second, BUILD, "new").await.ok();
        assert!(!speaks(&world, &before).await, "the old token is worth nothing");
        assert!(speaks(&world, &after).await);
        let machine = world.logged_in(bob).await.get(&path).await.ok();
        assert_eq!(machine.json["machine"]["machine_name"], "new");
        assert_eq!(machine.json["machine"]["max_sessions"], 2);
        assert_eq!(machine.json["machine"]["token_version"], 2);
        assert_eq!(world.number("SELECT COUNT(*) FROM machine_assignments").await, 2);
    }
}

#[tokio::test]
async fn a_machine_does_not_change_its_tenant() {
    for world in worlds().await {
        second_tenant(&world).await;
        let own = world.registration_token(json!({})).await;
        world.nobody().register(&own, BUILD, "m").await.ok();
        let token = world.registration_token(json!({ "tenant_id": 2 })).await;
        let refused = world.nobody().register(&token, BUILD, "mine now").await;
        refused.refused(409, "machine_of_another_tenant");
        assert_eq!(world.number("SELECT tenant_id FROM remote_machines").await, 1);
        world.nobody().register(&token, OTHER, "m").await.ok();
        let assigned = world
            .number("SELECT COUNT(*) FROM machine_assignments WHERE machine_id LIKE '%b2'")
            .await;
        assert_eq!(assigned, 0, "the admin's own tenant is another one");
    }
}

#[tokio::test]
async fn bad_registrations_spend_nothing_and_name_the_field() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        let good = registration(&token, BUILD, "m");
        let with = |field: &str, value: Value| {
            let mut body = good.clone();
            body[field] = value;
            body
        };
        for field in [
            "registration_token",
            "machine_id",
            "machine_name",
            "hostname",
            "os_type",
            "os_version",
            "capabilities",
            "agent_version",
        ] {
            let mut body = good.clone();
            body.as_object_mut().unwrap().remove(field);
            let refused = world.nobody().post("/api/remote/agent/register", body).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.text.contains(field), "{refused}");
        }
        for (field, value) in [
            ("machine_id", json!("build-1")),
            ("machine_name", json!(" ")),
            ("machine_name", json!("x".repeat(256))),
            ("hostname", json!("x".repeat(256))),
            ("os_version", json!("x".repeat(256))),
            ("capabilities", json!([])),
            ("capabilities", json!({ "x": "x".repeat(65_536) })),
            ("hostname", json!("a\u{0}b")),
        ] {
            let refused = world
                .nobody()
                .post("/api/remote/agent/register", with(field, value))
                .await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.text.contains(field), "{refused}");
        }
        let more = with("mood", json!("good"));
        world.nobody().post("/api/remote/agent/register", more).await.ok();
    }
}

#[tokio::test]
async fn whoever_shows_wrong_tokens_is_locked_out_of_registering_only() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        for wrong in ["", "acer_x", "acea_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            let refused = world.nobody().register(wrong, BUILD, "m").await;
            refused.refused(401, "invalid_registration_token");
        }
        let wrong = format!("acer_{}", "A".repeat(43));
        for _ in 3..31 {
            world.nobody().register(&wrong, BUILD, "m").await;
        }
        let locked = world.nobody().register(&token, BUILD, "m").await;
        assert_eq!(locked.header("retry-after"), "300");
        locked.refused(429, "registration_locked");
        world.add_user("bob").await;
        let login = world.nobody().log_in("bob", "wrong").await;
        login.refused(401, "wrong_credentials");
        world.clock.advance(Duration::from_secs(301));
        world.nobody().register(&token, BUILD, "m").await.ok();
    }
}
