use std::time::Duration;

use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use crate::testing::worlds;

#[tokio::test]
async fn an_admin_makes_and_renames_tenants() {
    for world in worlds().await {
        let admin = world.admin().await;
        let made = admin.post("/api/tenants", json!({ "name": " Research " })).await;
        allow_duplicates!(assert_snapshot!(made, @r#"
        200
        {
          "success": true,
          "tenant": {
            "created_at": "2026-01-31T12:00:00.000Z",
            "id": 2,
            "name": "Research"
          }
        }
        "#));
        admin
            .post("/api/tenants", json!({ "name": "Research" }))
            .await
            .refused(409, "tenant_name_taken");
        let renamed = admin.patch("/api/tenants/2", json!({ "name": "Lab" })).await.ok();
        assert_eq!(renamed.json["tenant"]["name"], "Lab");
        admin
            .patch("/api/tenants/2", json!({ "name": "default" }))
            .await
            .refused(409, "tenant_name_taken");
        admin
            .patch("/api/tenants/9", json!({ "name": "x" }))
            .await
            .refused(404, "not_found");
        let audit = world.audit().await;
        assert!(audit.contains(&"admin tenants.create tenant:2 ok".to_owned()));
        assert!(audit.contains(&"admin tenants.update tenant:2 ok".to_owned()));
    }
}

#[tokio::test]
async fn a_tenant_needs_a_name() {
    for world in worlds().await {
        let admin = world.admin().await;
        for wrong in [
            json!({}),
            json!({ "name": " " }),
            json!({ "name": "x".repeat(101) }),
            json!({ "name": "a\nb" }),
        ] {
            let refused = admin.post("/api/tenants", wrong).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.text.contains("name"), "{refused}");
        }
    }
}

#[tokio::test]
async fn tenants_are_listed_in_pages() {
    for world in worlds().await {
        let admin = world.admin().await;
        for name in ["a", "b", "c"] {
            // The first tenant was made by the clock of the database.
            world.clock.advance(Duration::from_secs(1));
            admin.post("/api/tenants", json!({ "name": name })).await.ok();
        }
        let mut names = Vec::new();
        let mut path = "/api/tenants?limit=2".to_owned();
        loop {
            let page = admin.get(&path).await.ok().json;
            names.extend(
                page["tenants"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|tenant| tenant["name"].to_string()),
            );
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/tenants?limit=2&after={next}");
        }
        names.sort();
        assert_eq!(names, ["\"a\"", "\"b\"", "\"c\"", "\"default\""]);
    }
}
