use serde_json::json;

use crate::testing::{config, master, worlds};
use crate::{App, Trust, rewrap};

#[tokio::test]
async fn a_change_of_master_key_loses_nothing() {
    for world in worlds().await {
        let admin = world.admin().await;
        for name in ["one", "two"] {
            let wish = json!({ "provider": "openai", "key_name": name, "api_key": format!("sk-secret-of-{name}") });
            admin.post("/api/remote/api-keys", wish).await.ok();
        }
        let hook = json!({ "url": "https://hooks.example.com/x" });
        admin.post("/api/webhooks", hook).await.ok();
        admin.get("/api/push-subscriptions/key").await.ok();
        let (db, clock) = (world.database.db.clone(), world.clock.clone());
        let mut both = master(2);
        both.older = vec![master(1).current];
        let app = App::open(db.clone(), &both, config(), clock.clone()).await.unwrap();
        let status = admin.clone().through(app.router(Trust::Socket));
        assert_eq!(status.get("/api/status").await.ok().json["sealed_with_older_keys"], 5);
        assert_eq!(rewrap(&app).await.unwrap(), 5);
        assert_eq!(rewrap(&app).await.unwrap(), 0);
        assert_eq!(status.get("/api/status").await.ok().json["sealed_with_older_keys"], 0);

        let lost = App::open(db.clone(), &master(1), config(), clock.clone()).await;
        assert!(lost.is_err(), "the old key alone opens nothing any more");
        let alone = App::open(db, &master(2), config(), clock).await.unwrap();
        assert!(alone.signing_key().await.is_ok());
        let opened = crate::provider_keys::opened(&alone, 1).await;
        assert_eq!(opened.expose(), "sk-secret-of-one");
    }
}

#[tokio::test]
async fn a_rewrap_that_was_stopped_goes_on() {
    for world in worlds().await {
        let admin = world.admin().await;
        for number in 0..(super::BATCH + 5) {
            let wish = json!({ "provider": "google", "key_name": number.to_string(), "api_key": "AIza-secret" });
            admin.post("/api/remote/api-keys", wish).await.ok();
        }
        let mut both = master(2);
        both.older = vec![master(1).current];
        let app = App::open(world.database.db.clone(), &both, config(), world.clock.clone())
            .await
            .unwrap();
        assert_eq!(
            super::rewrap_batch(&app, super::Table::ProviderKeys).await.unwrap(),
            100
        );
        // Half of it is under each key; both can be opened.
        crate::provider_keys::opened(&app, 1).await;
        crate::provider_keys::opened(&app, super::BATCH + 5).await;
        assert_eq!(rewrap(&app).await.unwrap(), 6);
        assert!(
            world
                .audit()
                .await
                .contains(&"ace-control system.rewrap api_key_store ok".to_owned())
        );
    }
}
