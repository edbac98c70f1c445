use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use super::Broken;
use crate::testing::{World, config, master, worlds};
use crate::{App, Verified};

/// A world in which a few things have happened.
async fn busy_worlds() -> Vec<World> {
    let worlds = worlds().await;
    for world in &worlds {
        let admin = world.admin().await;
        for name in ["ann", "ben", "cid"] {
            admin.post("/api/tokens", json!({ "name": name })).await.ok();
        }
    }
    worlds
}

/// Lifts the guard that an intruder with the database's own rights can lift as well.
async fn tamper(world: &World, sql: &'static str) {
    let guards = match world.database.engine() {
        ace_migrations::Engine::Sqlite => {
            "DROP TRIGGER audit_log_is_append_only_update; DROP TRIGGER audit_log_is_append_only_delete"
        }
        ace_migrations::Engine::Postgres => "DROP TRIGGER audit_log_is_append_only ON audit_log",
    };
    for sql in [guards, sql] {
        sqlx::raw_sql(sql).execute(&world.database.db.write).await.unwrap();
    }
}

#[tokio::test]
async fn a_whole_chain_is_verified() {
    for world in busy_worlds().await {
        let Verified { entries, head } = world.app.verify_audit().await.unwrap();
        assert_eq!(entries, 4);
        assert_eq!(head.len(), 64);
    }
}

#[tokio::test]
async fn what_was_done_to_the_log_shows() {
    for world in busy_worlds().await {
        tamper(&world, "UPDATE audit_log SET actor_name = 'mallory' WHERE id = 3").await;
        assert!(matches!(world.app.verify_audit().await, Err(Broken::Changed(3))));
    }
    for world in busy_worlds().await {
        tamper(&world, "UPDATE audit_log SET before = '' WHERE id = 2").await;
        assert!(
            matches!(world.app.verify_audit().await, Err(Broken::Changed(2))),
            "NULL and empty are two things"
        );
    }
    for world in busy_worlds().await {
        tamper(&world, "DELETE FROM audit_log WHERE id = 2").await;
        assert!(matches!(world.app.verify_audit().await, Err(Broken::Gap(3))));
    }
    for world in busy_worlds().await {
        tamper(&world, "DELETE FROM audit_log WHERE id = 4").await;
        assert!(matches!(
            world.app.verify_audit().await,
            Err(Broken::Cut { expected: 4, found: 3 })
        ));
    }
}

#[tokio::test]
async fn a_chain_of_two_master_keys_is_verified_with_both() {
    for world in busy_worlds().await {
        let mut keys = master(2);
        keys.older = vec![master(1).current];
        let app = App::open(world.database.db.clone(), &keys, config(), world.clock.clone())
            .await
            .unwrap();
        crate::rewrap(&app).await.unwrap();
        assert_eq!(app.verify_audit().await.unwrap().entries, 5);
        let alone = App::open(world.database.db.clone(), &master(2), config(), world.clock.clone())
            .await
            .unwrap();
        assert!(matches!(alone.verify_audit().await, Err(Broken::UnknownKey(1, _))));
    }
}

#[tokio::test]
async fn acts_at_once_make_one_chain() {
    for world in worlds().await {
        let admin = world.admin().await;
        let mut acts = tokio::task::JoinSet::new();
        for number in 0..20 {
            let admin = admin.clone();
            acts.spawn(async move {
                admin
                    .post("/api/tokens", json!({ "name": number.to_string() }))
                    .await
                    .ok()
            });
        }
        acts.join_all().await;
        assert_eq!(world.app.verify_audit().await.unwrap().entries, 21);
    }
}

#[tokio::test]
async fn an_act_and_its_entry_are_saved_together_or_not_at_all() {
    for world in worlds().await {
        let admin = world.admin().await;
        let entries = world.audit().await.len();
        admin
            .patch("/api/users/1", json!({ "role": "user" }))
            .await
            .refused(409, "last_admin");
        assert_eq!(world.audit().await.len(), entries);
        assert_eq!(world.number("SELECT COUNT(*) FROM users WHERE role = 'admin'").await, 1);
    }
}

#[tokio::test]
async fn who_tried_what_they_may_not_is_recorded() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        bob.post("/api/users", json!({ "username": "eve" }))
            .await
            .refused(403, "system_admin_only");
        bob.get("/api/users").await.refused(403, "system_admin_only");
        assert_eq!(
            world.audit().await[1..],
            ["bob users.create  denied"],
            "reads are not recorded"
        );
    }
}

#[tokio::test]
async fn the_log_is_listed_in_pages_and_filtered() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let first = admin.get("/api/audit?limit=1&action=personal_tokens.create").await.ok();
        let entry = &first.json["entries"][0];
        assert_eq!(
            (&entry["actor"], &entry["after"]["name"]),
            (&json!("admin"), &json!("cid"))
        );
        let next = first.json["next"].as_str().unwrap();
        let second = admin
            .get(&format!(
                "/api/audit?limit=2&action=personal_tokens.create&after={next}"
            ))
            .await
            .ok();
        assert_eq!(second.json["entries"].as_array().unwrap().len(), 2);
        assert!(second.json.get("next").is_none());
        let none = admin.get("/api/audit?from=2026-01-31T12:00:01Z").await.ok();
        assert_eq!(none.json["entries"], json!([]));
        let csv = admin.get("/api/audit?format=csv&action=system.bootstrap").await.ok();
        allow_duplicates!(
            assert_snapshot!(csv.text.lines().next().unwrap(), @"id,at,actor_user_id,actor,tenant_id,action,target,before,after,ip,request_id,result")
        );
        assert!(csv.text.contains("system.bootstrap,user:1"), "{csv}");
    }
}
