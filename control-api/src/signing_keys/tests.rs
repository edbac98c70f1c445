use std::time::Duration;

use crate::testing::worlds;

#[tokio::test]
async fn a_new_key_signs_only_when_every_gateway_has_it_and_the_old_one_verifies_on() {
    for world in worlds().await {
        let first = world.app.signing_key().await.unwrap().kid;
        let second = world.app.rotate_signing_key().await.unwrap();
        assert_ne!(first, second);
        assert_eq!(world.app.signing_key().await.unwrap().kid, first);
        world.clock.advance(Duration::from_secs(10));
        assert_eq!(world.app.signing_key().await.unwrap().kid, second);
        // The last token of the first key was signed just now, for five minutes.
        let retired: i64 = sqlx::query_scalar("SELECT retired_at FROM signing_keys WHERE kid = $1")
            .bind(&first)
            .fetch_one(&world.database.db.read)
            .await
            .unwrap();
        assert_eq!(retired, world.app.now() + 604_800_000);
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM signing_keys WHERE retired_at IS NULL")
                .await,
            1
        );
    }
}

#[tokio::test]
async fn a_rotation_wakes_the_gateways_and_is_recorded() {
    for world in worlds().await {
        let before = world.number("SELECT version FROM wakeups WHERE topic = 'keys'").await;
        let kid = world.app.rotate_signing_key().await.unwrap();
        assert_eq!(
            world.number("SELECT version FROM wakeups WHERE topic = 'keys'").await,
            before + 1
        );
        assert_eq!(
            world.audit().await[1],
            format!("ace-control signing_keys.rotate signing_key:{kid} ok")
        );
    }
}
