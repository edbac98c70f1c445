use serde_json::json;

use crate::background;
use crate::teller::tests::{happens, machine};
use crate::testing::worlds;

#[tokio::test]
async fn admins_see_what_runs_and_what_waits() {
    for world in worlds().await {
        let admin = world.admin().await;
        let machine = machine(&world, "prod").await;
        let now = world.app.now();
        for (sql, at) in [
            (
                "INSERT INTO ledger_instances (instance_id, gateway_id, started_at, expires_at) VALUES ('a', 'g', 0, $1)",
                now + 1,
            ),
            (
                "INSERT INTO ledger_instances (instance_id, gateway_id, started_at, expires_at) VALUES ('b', 'h', 1, $1)",
                now,
            ),
        ] {
            let inserted = sqlx::query(sql).bind(at);
            inserted.execute(&world.database.db.write).await.unwrap();
        }
        sqlx::query(
            "INSERT INTO agent_connections (machine_id, connection_id, node_id, transport, connected_at, seen_at, expires_at)
             VALUES ($1, 'c', 'n', 'ws', $2, $2, $2)",
        )
        .bind(machine.to_string())
        .bind(now - 1)
        .execute(&world.database.db.write)
        .await
        .unwrap();
        background::say(&world.app, now).await.unwrap();
        happens(&world.app, "machine.online", None, Some(machine), None, json!({})).await;
        let status = admin.get("/api/status").await.ok().json;
        let alive = |list: &str| {
            let all = status[list].as_array().unwrap().iter();
            all.map(|one| one["alive"] == true).collect::<Vec<_>>()
        };
        assert_eq!(
            (alive("gateways"), alive("control_nodes")),
            (vec![true, false], vec![true])
        );
        assert_eq!(status["control_nodes"][0]["this"], true);
        assert_eq!(status["machines"], json!({ "total": 1, "online": 1, "connected": 0 }));
        assert_eq!(
            status["events"],
            json!({ "waiting": 1, "oldest_at": "2026-01-31T12:00:00.000Z" })
        );
        assert_eq!(status["webhooks"], json!({ "waiting": 0, "oldest_at": null }));
    }
}
