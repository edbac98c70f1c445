use std::fs;

use ace_migrations::testing::test_databases;
use serde_json::json;

use crate::testing::{NOON, World, config, master, worlds};
use crate::{App, Clock, FirstAdmin, bootstrap};

const DEFAULTS: &str = "[default.openai]\ninput = \"1\"\noutput = \"1\"\n[default.anthropic]\ninput = \"1\"\noutput = \"1\"\n\
                        [default.google]\ninput = \"1\"\noutput = \"1\"\n";

#[tokio::test]
async fn the_built_in_prices_are_shown() {
    for world in worlds().await {
        let table = world.admin().await.get("/api/prices").await.ok().json;
        assert_eq!((&table["source"], &table["problems"]), (&json!("built-in"), &json!([])));
        let prices = table["prices"].as_array().unwrap();
        let opus = prices
            .iter()
            .find(|price| price["model"] == "claude-opus-4-5*")
            .unwrap();
        assert_eq!(opus["id"], "anthropic/claude-opus-4-5*@2025-11-24");
        assert_eq!(opus["from"], "2025-11-24T00:00:00.000Z");
        assert_eq!(
            (&opus["input"], &opus["cache_write_1h"]),
            (&json!("5.00"), &json!("10.00"))
        );
        assert_eq!(opus["tiers"]["batch"]["output"], "12.50");
        let defaults = prices.iter().filter(|price| price["is_default"] == true).count();
        assert_eq!(defaults, 3);
    }
}

#[tokio::test]
async fn a_file_is_shown_as_it_is_now_with_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prices.toml");
    for database in test_databases().await {
        let config = crate::ControlConfig {
            price_file: Some(file.clone()),
            ..config()
        };
        let clock = Clock::set_to(NOON);
        let app = App::open(database.db.clone(), &master(1), config, clock.clone())
            .await
            .unwrap();
        bootstrap(&app, FirstAdmin { password: None }).await.unwrap();
        let world = World { app, clock, database };
        sqlx::query("UPDATE users SET must_change_password = 0")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let admin = world.admin().await;

        let entry = "[[price]]\nprovider = \"openai\"\nmodel = \"qwen*\"\nkey_ids = [3]\ninput = \"0.4\"\noutput = \"1.2\"\n\
                     above = [{ input_tokens = 1000, input = \"0.8\", output = \"2.4\" }]\n";
        fs::write(&file, format!("{entry}{DEFAULTS}")).unwrap();
        let table = admin.get("/api/prices").await.ok().json;
        assert_eq!(table["source"], json!(file.display().to_string()));
        let qwen = &table["prices"][0];
        assert_eq!((&qwen["id"], &qwen["key_ids"]), (&json!("openai/qwen*#3"), &json!([3])));
        assert_eq!(
            (&qwen["above"][0]["input_tokens"], &qwen["above"][0]["cache_read"]),
            (&json!(1000), &json!("0.80"))
        );

        fs::write(
            &file,
            DEFAULTS.replace("output = \"1\"\n[default.google]", "[default.google]"),
        )
        .unwrap();
        let table = admin.get("/api/prices").await.ok().json;
        assert_eq!(table["prices"], json!([]));
        let problem = table["problems"][0].as_str().unwrap();
        assert!(
            problem.starts_with("[default.anthropic]: output: is missing"),
            "{problem}"
        );

        fs::remove_file(&file).unwrap();
        let table = admin.get("/api/prices").await.ok().json;
        assert_eq!(table["problems"].as_array().unwrap().len(), 1);
    }
}
