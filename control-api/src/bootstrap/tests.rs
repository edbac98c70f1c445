use ace_policies::Secret;

use crate::testing::{World, config, empty_worlds, master};
use crate::{App, Bootstrap, FirstAdmin, OpenError, bootstrap};

async fn start(world: &World, password: Option<&str>) -> Result<Bootstrap, crate::ApiError> {
    let password = password.map(|password| Secret::new(password.to_owned()));
    bootstrap(&world.app, FirstAdmin { password }).await
}

#[tokio::test]
async fn trap_33_the_first_admin_gets_a_password_of_their_own() {
    for world in empty_worlds().await {
        let first = start(&world, None).await.unwrap();
        let password = first.admin_password.unwrap();
        world
            .nobody()
            .log_in("admin", "admin123")
            .await
            .refused(401, "wrong_credentials");
        world.nobody().log_in("admin", password.expose()).await.ok();
        let again = start(&world, None).await.unwrap();
        assert!(again.admin_password.is_none() && !again.admin_created);
        assert_eq!(world.number("SELECT COUNT(*) FROM users").await, 1);
        assert_eq!(world.number("SELECT COUNT(*) FROM signing_keys").await, 1);
    }
}

#[tokio::test]
async fn the_operators_password_is_taken_as_it_is_but_once() {
    for world in empty_worlds().await {
        // The seed's own line works for whoever asks for it.
        let first = start(&world, Some("admin123")).await.unwrap();
        assert!(first.admin_password.is_none() && first.admin_created);
        let login = world.nobody().log_in("admin", "admin123").await.ok();
        assert_eq!(login.json["user"]["must_change_password"], false);
        start(&world, Some("another one")).await.unwrap();
        world
            .nobody()
            .log_in("admin", "another one")
            .await
            .refused(401, "wrong_credentials");
    }
}

#[tokio::test]
async fn a_placeholder_is_no_password() {
    for world in empty_worlds().await {
        for weak in ["", "short", "changeme-please", "<your-token>"] {
            assert!(start(&world, Some(weak)).await.is_err(), "{weak:?}");
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM users").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_at_once_make_one_admin() {
    for world in empty_worlds().await {
        let mut nodes = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let db = world.database.open_again();
            let clock = world.clock.clone();
            nodes.spawn(async move {
                let app = App::open(db.await, &master(1), config(), clock).await.unwrap();
                bootstrap(&app, FirstAdmin { password: None })
                    .await
                    .unwrap()
                    .admin_password
                    .is_some()
            });
        }
        let shown = nodes.join_all().await;
        assert_eq!(shown.iter().filter(|shown| **shown).count(), 1, "{shown:?}");
        assert_eq!(world.number("SELECT COUNT(*) FROM users").await, 1);
        assert_eq!(world.number("SELECT COUNT(*) FROM signing_keys").await, 1);
    }
}

#[tokio::test]
async fn a_database_of_another_master_key_is_refused_at_the_start() {
    for world in empty_worlds().await {
        start(&world, None).await.unwrap();
        let db = world.database.db.clone();
        let refused = App::open(db, &master(2), config(), world.clock.clone())
            .await
            .err()
            .unwrap();
        assert!(matches!(refused, OpenError::UnknownMasterKey { .. }), "{refused}");
        assert!(
            refused.to_string().contains("OPENACE_ENCRYPTION_KEY_PREVIOUS"),
            "{refused}"
        );
    }
}
