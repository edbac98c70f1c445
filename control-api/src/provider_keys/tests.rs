use ace_policies::ssrf::EgressAllow;
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};

use crate::testing::{NOON, World, config, master, worlds};
use crate::{App, Clock, Trust};

const KEY: &str = "sk-proj-very-secret-abcd";

/// The seed's own line.
fn seeds() -> Value {
    json!({ "provider": "openai", "key_name": "production", "api_key": KEY, "base_url": "https://api.openai.com/v1" })
}

#[tokio::test]
async fn a_key_is_stored_and_never_shown() {
    for world in worlds().await {
        let admin = world.admin().await;
        let stored = admin.post("/api/remote/api-keys", seeds()).await;
        allow_duplicates!(assert_snapshot!(stored, @r#"
        200
        {
          "key": {
            "base_url": "https://api.openai.com/v1",
            "created_at": "2026-01-31T12:00:00.000Z",
            "id": 1,
            "is_active": true,
            "key_hint": "sk-…abcd",
            "key_name": "production",
            "last_used_at": null,
            "max_parallel": null,
            "models": null,
            "priority": 0,
            "provider": "openai",
            "status": "ok",
            "tenant_id": 1,
            "updated_at": "2026-01-31T12:00:00.000Z",
            "weight": 100
          },
          "success": true
        }
        "#));
        let list = admin.get("/api/remote/api-keys").await.ok();
        assert_eq!(list.json["keys"].as_array().unwrap().len(), 1);
        let audit = admin.get("/api/audit").await.ok();
        for answer in [&stored, &list, &audit] {
            assert!(!answer.text.contains("very-secret"), "{answer}");
        }
    }
}

#[tokio::test]
async fn trap_33_the_database_holds_no_key_in_the_clear() {
    for world in worlds().await {
        world.admin().await.post("/api/remote/api-keys", seeds()).await.ok();
        let sealed: Vec<u8> = sqlx::query_scalar("SELECT sealed FROM api_key_store")
            .fetch_one(&world.database.db.read)
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&sealed);
        assert!(
            !text.contains("secret") && !text.contains("c2VjcmV0"),
            "neither plain nor base64"
        );
    }
}

#[tokio::test]
async fn the_same_name_replaces_and_wakes_the_gateways() {
    for world in worlds().await {
        let admin = world.admin().await;
        let first = admin.post("/api/remote/api-keys", seeds()).await.ok();
        let version = world.number("SELECT version FROM wakeups WHERE topic = 'keys'").await;
        admin
            .patch("/api/remote/api-keys/1", json!({ "is_active": false }))
            .await
            .ok();
        let mut other = seeds();
        other["api_key"] = json!("sk-another-secret-wxyz");
        other["base_url"] = Value::Null;
        let second = admin.post("/api/remote/api-keys", other).await.ok();
        assert_eq!(first.json["key"]["id"], second.json["key"]["id"]);
        assert_eq!(second.json["key"]["key_hint"], "sk-…wxyz");
        assert_eq!(second.json["key"]["is_active"], true);
        assert_eq!(second.json["key"]["base_url"], "https://api.openai.com/v1");
        assert_eq!(
            world.number("SELECT version FROM wakeups WHERE topic = 'keys'").await,
            version + 2
        );
        assert_eq!(world.number("SELECT COUNT(*) FROM api_key_store").await, 1);
    }
}

#[tokio::test]
async fn trap_34_a_key_never_goes_to_an_inner_address() {
    for world in worlds().await {
        let admin = world.admin().await;
        let cases = [
            ("http://169.254.169.254/latest", "base_url_forbidden"),
            ("https://169.254.169.254", "base_url_forbidden"),
            ("https://[fd00:ec2::254]/", "base_url_forbidden"),
            ("https://metadata.google.internal", "base_url_forbidden"),
            ("https://localhost:8080", "base_url_forbidden"),
            ("https://10.0.0.1/v1", "base_url_forbidden"),
            ("https://2130706433/", "base_url_forbidden"),
            ("http://api.openai.com/v1", "base_url_forbidden"),
            ("https://user:pass@api.openai.com", "base_url_invalid"),
            ("https://api.openai.com/v1?x=1", "base_url_invalid"),
            ("file:///etc/passwd", "base_url_invalid"),
            ("nonsense", "base_url_invalid"),
        ];
        admin.post("/api/remote/api-keys", seeds()).await.ok();
        for (url, code) in cases {
            let mut wish = seeds();
            wish["base_url"] = json!(url);
            admin.post("/api/remote/api-keys", wish).await.refused(400, code);
            admin
                .patch("/api/remote/api-keys/1", json!({ "base_url": url }))
                .await
                .refused(400, code);
        }
    }
}

#[tokio::test]
async fn bad_keys_are_refused_naming_the_field() {
    for world in worlds().await {
        let admin = world.admin().await;
        let cases = [
            ("provider", json!("mistral"), "provider: unknown provider 'mistral'"),
            ("key_name", json!(""), "key_name: "),
            ("api_key", json!("your-token"), "api_key: this is a placeholder"),
            ("api_key", json!("sk with spaces"), "api_key: "),
            ("api_key", json!(7), "api_key: invalid type"),
            ("models", json!([]), "models: "),
            ("weight", json!(-1), "weight: "),
            ("max_parallel", json!(0), "max_parallel: "),
            ("tenant_id", json!(99), "tenant_id: "),
            ("apikey", json!("x"), "unknown field `apikey`"),
        ];
        for (field, value, message) in cases {
            let mut wish = seeds();
            wish[field] = value;
            let refused = admin.post("/api/remote/api-keys", wish).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.json["error"].as_str().unwrap().contains(message), "{refused}");
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM api_key_store").await, 0);
    }
}

#[tokio::test]
async fn a_key_can_be_changed_rotated_and_deleted() {
    for world in worlds().await {
        let admin = world.admin().await;
        admin.post("/api/remote/api-keys", seeds()).await.ok();
        let path = "/api/remote/api-keys/1";
        let limited = json!({ "max_parallel": 4, "models": ["gpt-4o"], "priority": 5, "is_active": false });
        let changed = admin.patch(path, limited).await.ok();
        assert_eq!(changed.json["key"]["max_parallel"], 4);
        assert_eq!(changed.json["key"]["models"], json!(["gpt-4o"]));
        let rotated = admin
            .patch(
                path,
                json!({ "api_key": "sk-rotated-secret-1234", "max_parallel": null }),
            )
            .await
            .ok();
        assert_eq!(rotated.json["key"]["key_hint"], "sk-…1234");
        assert_eq!(rotated.json["key"]["max_parallel"], Value::Null);
        assert_eq!(
            rotated.json["key"]["models"],
            json!(["gpt-4o"]),
            "what is left out stays"
        );
        admin.delete(path).await.ok();
        admin.delete(path).await.refused(404, "not_found");
        admin.patch(path, json!({})).await.refused(404, "not_found");
        let audit = world.audit().await;
        let acts = ["create", "update", "update", "delete"].map(|act| format!("admin api_keys.{act} api_key:1 ok"));
        assert_eq!(audit[1..], acts);
    }
}

/// A provider that has one model and one key.
async fn provider() -> String {
    let models = get(async |headers: HeaderMap| match headers.get("authorization") {
        Some(key) if key == &format!("Bearer {KEY}") => Ok(Json(json!({ "data": [{ "id": "gpt-4o" }] }))),
        key => Err((axum::http::StatusCode::UNAUTHORIZED, format!("bad key {key:?}"))),
    });
    let moved = get(async || axum::response::Redirect::temporary("http://169.254.169.254/"));
    let router = Router::new().route("/v1/models", models).route("/moved/models", moved);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// The same world with a control plane that may reach this machine.
async fn with_loopback(world: &World) -> Router {
    let mut config = config();
    config.egress = EgressAllow::parse(&["127.0.0.1"]).unwrap();
    let app = App::open(world.database.db.clone(), &master(1), config, Clock::set_to(NOON))
        .await
        .unwrap();
    app.router(Trust::Socket)
}

#[tokio::test]
async fn a_key_can_be_tried_out() {
    for world in worlds().await {
        let base = provider().await;
        let admin = world.admin().await.through(with_loopback(&world).await);
        let mut wish = seeds();
        wish["base_url"] = json!(format!("{base}/v1"));
        admin.post("/api/remote/api-keys", wish).await.ok();
        let path = "/api/remote/api-keys/1";
        let good = admin.json("POST", &format!("{path}/test"), json!({})).await.ok();
        assert_eq!(
            (&good.json["ok"], &good.json["models"]),
            (&json!(true), &json!(1)),
            "{good}"
        );

        admin
            .patch(path, json!({ "api_key": "sk-wrong-secret-9999" }))
            .await
            .ok();
        let wrong = admin
            .send("POST", &format!("{path}/test"), axum::body::Body::empty())
            .await
            .ok();
        assert_eq!(
            (&wrong.json["ok"], &wrong.json["status"]),
            (&json!(false), &json!(401)),
            "{wrong}"
        );
        assert!(!wrong.text.contains("sk-wrong"), "{wrong}");

        admin
            .patch(path, json!({ "base_url": format!("{base}/moved") }))
            .await
            .ok();
        let moved = admin.json("POST", &format!("{path}/test"), json!({})).await.ok();
        assert_eq!(
            (&moved.json["ok"], &moved.json["status"]),
            (&json!(false), &json!(307)),
            "not followed: {moved}"
        );
    }
}

#[tokio::test]
async fn trap_34_a_key_that_older_rules_allowed_stays_here() {
    for world in worlds().await {
        let base = provider().await;
        let port = base.rsplit(':').next().unwrap();
        world.admin().await.post("/api/remote/api-keys", seeds()).await.ok();
        sqlx::query("UPDATE api_key_store SET base_url = $1")
            .bind(format!("http://127.0.0.1:{port}/v1"))
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let refused = world
            .admin()
            .await
            .json("POST", "/api/remote/api-keys/1/test", json!({}))
            .await
            .ok();
        assert_eq!(refused.json["ok"], false);
        assert!(
            refused.json["error"].as_str().unwrap().contains("127.0.0.1"),
            "{refused}"
        );
    }
}
