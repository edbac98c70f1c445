use ace_migrations::Engine;
use ace_policies::{TenantId, UserId};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use super::{Notification, notify};
use crate::testing::{World, worlds};

async fn told(world: &World, user: UserId, cause: &str) {
    let mut record = world.app.record().await.unwrap();
    let notification = Notification {
        kind: "session.completed",
        title: format!("Title {cause}"),
        body: "Body".to_owned(),
        target: "session:x".to_owned(),
        data: json!({ "title": cause }),
        cause: cause.to_owned(),
    };
    notify(&mut record, TenantId(1), &[user], notification).await.unwrap();
    record.commit().await.unwrap();
}

#[tokio::test]
async fn the_inbox_is_ones_own_and_newest_first() {
    for world in worlds().await {
        let alice = world.add_user("alice").await;
        for cause in ["a", "b", "c", "c"] {
            told(&world, alice, cause).await;
        }
        told(&world, UserId(1), "for the admin").await;
        let client = world.logged_in(alice).await;
        let page = client.get("/api/notifications?limit=2").await.ok().json;
        assert_eq!(
            (&page["unread"], page["notifications"].as_array().unwrap().len()),
            (&json!(3), 2)
        );
        insta::allow_duplicates! {
            insta::assert_snapshot!(page["notifications"][0], @r#"{"body":"Body","created_at":"2026-01-31T12:00:00.000Z","data":{"title":"c"},"id":3,"kind":"session.completed","read_at":null,"target":"session:x","title":"Title c"}"#);
        }
        let next = page["next"].as_str().unwrap();
        let rest = client.get(&format!("/api/notifications?after={next}")).await.ok().json;
        assert_eq!(rest["notifications"][0]["title"], "Title a");
        assert_eq!(rest["next"], json!(null));
    }
}

#[tokio::test]
async fn what_is_read_is_read_and_others_stay_as_they_are() {
    for world in worlds().await {
        let alice = world.add_user("alice").await;
        for cause in ["a", "b", "c"] {
            told(&world, alice, cause).await;
        }
        told(&world, UserId(1), "for the admin").await;
        let client = world.logged_in(alice).await;
        let one = client.patch("/api/notifications", json!({ "ids": [1, 4, 99] })).await;
        assert_eq!((&one.json["changed"], &one.json["unread"]), (&json!(1), &json!(2)));
        let all = client
            .patch("/api/notifications", json!({ "all": true, "up_to": 2 }))
            .await;
        assert_eq!((&all.json["changed"], &all.json["unread"]), (&json!(1), &json!(1)));
        let unread = client.get("/api/notifications?unread=true").await.ok().json;
        assert_eq!(unread["notifications"][0]["title"], "Title c");
        let back = json!({ "ids": [1], "read": false });
        assert_eq!(client.patch("/api/notifications", back).await.ok().json["unread"], 2);
        let admin = world.admin().await.get("/api/notifications").await.ok().json;
        assert_eq!(admin["unread"], 1);
        assert!(
            world
                .audit()
                .await
                .contains(&format!("alice notifications.update user:{alice} ok"))
        );
    }
}

#[tokio::test]
async fn wishes_that_make_no_sense_name_the_field() {
    let world = &worlds().await[0];
    let admin = world.admin().await;
    for (wish, field) in [
        (json!({}), "ids"),
        (json!({ "ids": [] }), "ids"),
        (json!({ "ids": [1], "all": true }), "all"),
        (json!({ "ids": [1], "up_to": 2 }), "up_to"),
        (json!({ "ids": vec![1; 501] }), "ids"),
    ] {
        let refused = admin
            .patch("/api/notifications", wish)
            .await
            .refused(400, "invalid_field");
        assert!(refused.json["error"].as_str().unwrap().starts_with(field), "{refused}");
    }
}

#[tokio::test]
async fn nothing_is_looked_for_row_by_row() {
    for world in worlds().await {
        let mut connection = world.database.db.write.acquire().await.unwrap();
        let explain = match world.database.engine() {
            Engine::Sqlite => "EXPLAIN QUERY PLAN",
            Engine::Postgres => {
                // Small tables are read whole where that is allowed.
                let forbid = sqlx::query("SET enable_seqscan = off");
                forbid.execute(&mut *connection).await.unwrap();
                "EXPLAIN"
            }
        };
        for (statement, index) in [
            (
                "UPDATE notifications SET read_at = 1 WHERE cause = 'x' AND read_at IS NULL",
                "notifications_unread_by_cause",
            ),
            (
                "SELECT id FROM notifications WHERE created_at < 5 LIMIT 9",
                "notifications_by_age",
            ),
            (
                "SELECT id FROM webhook_deliveries WHERE created_at < 5 LIMIT 9",
                "webhook_deliveries_by_age",
            ),
        ] {
            let plan = sqlx::query(AssertSqlSafe(format!("{explain} {statement}")));
            let plan = plan.fetch_all(&mut *connection).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get(row.len() - 1)).collect();
            assert!(plan.join(" ").contains(index), "{plan:?}");
        }
    }
}
