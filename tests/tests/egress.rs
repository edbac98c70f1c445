//! Where the gateway may connect to: the public internet, and nothing inside unless the operator says so.

use ace_tests::{Dialect, World};
use serde_json::{Value, json};

/// A gateway that may go to public addresses only.
async fn strict() -> World {
    World::builder()
        .without_keys()
        .config_instead("egress", "allow = []")
        .start()
        .await
}

fn key(base_url: &str) -> Value {
    json!({"provider": "openai", "key_name": "main", "api_key": "sk-0123456789abcdef", "base_url": base_url})
}

#[tokio::test]
async fn trap_34_base_urls_to_inner_addresses_are_refused_when_they_are_stored() {
    let world = strict().await;
    for base_url in [
        "http://127.0.0.1:8080/v1",
        "https://127.0.0.1/v1",
        "https://127.1/v1",
        "https://2130706433/v1",
        "https://0x7f000001/v1",
        "https://0/v1",
        "https://10.0.0.1/v1",
        "https://172.16.0.1/v1",
        "https://192.168.1.1/v1",
        "https://100.64.0.1/v1",
        "https://169.254.169.254/latest",
        "https://[::1]/v1",
        "https://[::ffff:127.0.0.1]/v1",
        "https://[64:ff9b::7f00:1]/v1",
        "https://[fd00::1]/v1",
        "https://[fe80::1]/v1",
        "https://0.0.0.0/v1",
        "https://localhost/v1",
        "https://localhost./v1",
        "http://api.openai.com/v1",
        "https://user:secret@api.openai.com/v1",
        "https://api.openai.com/v1?x=y",
        "https://api.openai.com/v1#x",
        "ftp://api.openai.com/v1",
        "file:///etc/passwd",
        "api.openai.com",
        "https://",
    ] {
        let said = world.admin.post("/api/remote/api-keys", key(base_url)).await;
        assert_eq!(said.status, 400, "{base_url:?}: {}", said.body);
        assert!(!said.body.to_string().contains("secret"), "{}", said.body);
    }
    world
        .admin
        .post("/api/remote/api-keys", key("https://api.openai.com/v1"))
        .await
        .ok();
}

#[tokio::test]
async fn an_address_that_was_allowed_once_is_not_called_when_it_is_not_any_more() {
    let mut world = World::start().await;
    world.main_call(Dialect::OpenAi).await.expect(200);
    world.gateway.terminate();
    world.gateway.exit(ace_tests::PATIENCE).await;
    world.configure_instead("egress", "allow = []");
    world.restart().await;
    let called = world.provider.connections();
    world.main_call(Dialect::OpenAi).await.expect(502);
    assert_eq!(world.provider.connections(), called);
}

#[tokio::test]
async fn names_are_checked_by_the_address_they_lead_to() {
    let mut world = World::builder()
        .without_keys()
        .config_instead("egress", "allow = [\"localhost\"]")
        .start()
        .await;
    let url = world.provider.url().replace("127.0.0.1", "localhost");
    world
        .store_key(Dialect::Anthropic, &url, Dialect::Anthropic.key())
        .await;
    world.main_call(Dialect::Anthropic).await.expect(200);
    world.gateway.terminate();
    world.gateway.exit(ace_tests::PATIENCE).await;
    world.configure_instead("egress", "allow = [\"192.0.2.0/24\"]");
    world.restart().await;
    world.main_call(Dialect::Anthropic).await.expect(502);
}
