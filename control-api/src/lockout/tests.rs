use std::time::Duration;

use super::network;
use crate::testing::{ADMIN_PASSWORD, worlds};

#[tokio::test]
async fn whoever_guesses_is_locked_out_and_only_they() {
    for world in worlds().await {
        for _ in 0..3 {
            world
                .nobody()
                .log_in("admin", "wrong")
                .await
                .refused(401, "wrong_credentials");
        }
        let locked = world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(429, "login_locked");
        assert_eq!(locked.header("retry-after"), "300");
        world.add_user("bob").await;
        world
            .nobody()
            .log_in("bob", "wrong")
            .await
            .refused(401, "wrong_credentials");
        // Trying on does not prolong it.
        world.clock.advance(Duration::from_secs(200));
        let locked = world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(429, "login_locked");
        assert_eq!(locked.header("retry-after"), "100");
        world.clock.advance(Duration::from_secs(101));
        world.nobody().log_in("admin", ADMIN_PASSWORD).await.ok();
    }
}

#[tokio::test]
async fn many_guesses_at_once_count_as_many() {
    for world in worlds().await {
        let mut guesses = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let nobody = world.nobody();
            guesses.spawn(async move { nobody.log_in("admin", "wrong").await.status.as_u16() });
        }
        let statuses = guesses.join_all().await;
        assert_eq!(
            statuses.iter().filter(|status| **status == 401).count(),
            3,
            "{statuses:?}"
        );
        assert_eq!(
            statuses.iter().filter(|status| **status == 429).count(),
            9,
            "{statuses:?}"
        );
    }
}

#[tokio::test]
async fn right_passwords_never_lock_anybody_out() {
    for world in worlds().await {
        for _ in 0..8 {
            world.nobody().log_in("admin", ADMIN_PASSWORD).await.ok();
        }
        assert_eq!(
            world
                .number("SELECT COALESCE(MAX(failures), 0) FROM login_failures")
                .await,
            0
        );
    }
}

#[test]
fn neighbours_in_ipv6_are_one() {
    assert_eq!(network("2001:db8:1:2:3:4:5:6".parse().unwrap()), "2001:db8:1:2::/64");
    assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1");
}
