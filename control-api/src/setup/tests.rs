use ace_policies::UserId;
use serde_json::{Value, json};

use crate::teller::tests::{assign, machine, session};
use crate::testing::worlds;

fn done(setup: &Value) -> Vec<String> {
    let steps = setup["steps"].as_array().unwrap().iter();
    steps
        .filter(|step| step["done"] == true)
        .map(|step| step["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn each_step_is_done_when_it_is_done() {
    for world in worlds().await {
        let admin = world.admin().await;
        let setup = admin.get("/api/setup").await.ok().json;
        assert_eq!(done(&setup), ["admin_password"]);
        assert_eq!(
            (&setup["done"], &setup["next"]),
            (&json!(false), &json!("provider_key"))
        );
        let key = json!({ "provider": "openai", "key_name": "k", "api_key": "sk-secret-1" });
        admin.post("/api/remote/api-keys", key).await.ok();
        let machine = machine(&world, "prod").await;
        let alice = world.add_user("alice").await;
        assign(&world, machine, alice, "user").await;
        session(&world, machine, alice).await;
        sqlx::query(
            "INSERT INTO request_ledger (request_id, tenant_id, user_id, tool, provider, method, path, status,
             usage_source, duration_ms, started_at, gateway_id, charged_requests)
             VALUES ('r', 1, 1, 'x', 'openai', 'POST', '/', 200, 'provider', 5, 0, 'g', 1)",
        )
        .execute(&world.database.db.write)
        .await
        .unwrap();
        let setup = admin.get("/api/setup").await.ok().json;
        assert_eq!(
            (&setup["done"], &setup["next"]),
            (&json!(true), &Value::Null),
            "{setup}"
        );
        assert_eq!(setup["warnings"][0]["code"], "machines_offline");
        let nobody = world.logged_in(UserId(alice.0)).await;
        nobody.get("/api/setup").await.refused(403, "system_admin_only");
    }
}
