use ace_policies::edge::{self, EdgeHeaders};
use ace_policies::vault::{MasterKey, purpose};
use serde_json::json;

use crate::testing::{ADMIN_PASSWORD, Client, NOON, World, config, master, worlds};
use crate::{App, Trust};

/// What a gateway knows of a client.
fn origin() -> EdgeHeaders {
    EdgeHeaders {
        client: "203.0.113.9".parse().unwrap(),
        scheme: "https".to_owned(),
        host: "ace.example.com".to_owned(),
        request_id: "01890000-0000-7000-8000-000000000001".to_owned(),
        time: NOON / 1000,
    }
}

/// A request as a gateway with the key of this number sends it on.
fn through_gateway(client: Client, number: u8, origin: &EdgeHeaders, method: &str, path: &str) -> Client {
    let key = MasterKey::from_bytes([number; 32]).subkey(purpose::GATEWAY_HEADERS);
    let signed = client.with(edge::SIGNATURE, &origin.sign(&key, method, path));
    origin
        .to_headers()
        .iter()
        .fold(signed, |client, (name, value)| client.with(name, value))
}

/// Somebody who reaches the TCP socket.
fn outside(world: &World) -> Client {
    world.nobody().through(world.app.router(Trust::Signed))
}

const CHECK: &str = "/api/auth/check";

#[tokio::test]
async fn only_a_gateway_comes_in_over_tcp() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    outside(world).get(CHECK).await.refused(403, "not_from_gateway");
    outside(world).get("/").await.refused(403, "not_from_gateway");
    assert_eq!(outside(world).get("/healthz").await.ok().text, "ok\n");
    let good = through_gateway(outside(world), 1, &origin(), "GET", CHECK)
        .get(CHECK)
        .await
        .ok();
    assert_eq!(good.header("x-ace-request-id"), origin().request_id);
}

#[tokio::test]
async fn a_signature_is_for_one_request_now() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let refused = async |client: Client| client.get(CHECK).await.refused(403, "not_from_gateway");
    refused(through_gateway(outside(world), 2, &origin(), "GET", CHECK)).await;
    refused(through_gateway(outside(world), 1, &origin(), "POST", CHECK)).await;
    refused(through_gateway(outside(world), 1, &origin(), "GET", "/api/users")).await;
    refused(through_gateway(
        outside(world),
        1,
        &origin(),
        "GET",
        "/api/auth/check?x=1",
    ))
    .await;
    let stale = EdgeHeaders {
        time: NOON / 1000 - 61,
        ..origin()
    };
    refused(through_gateway(outside(world), 1, &stale, "GET", CHECK)).await;
    let early = EdgeHeaders {
        time: NOON / 1000 + 61,
        ..origin()
    };
    refused(through_gateway(outside(world), 1, &early, "GET", CHECK)).await;
    let unsigned = origin()
        .to_headers()
        .iter()
        .fold(outside(world), |client, (name, value)| client.with(name, value));
    refused(unsigned).await;
}

#[tokio::test]
async fn a_wrong_signature_is_refused_on_the_trusted_socket_too() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    through_gateway(world.nobody(), 2, &origin(), "GET", CHECK)
        .get(CHECK)
        .await
        .refused(403, "not_from_gateway");
    through_gateway(world.nobody(), 1, &origin(), "GET", CHECK)
        .get(CHECK)
        .await
        .ok();
    world.nobody().get(CHECK).await.ok();
}

#[tokio::test]
async fn gateways_with_the_older_master_key_are_believed_during_a_change() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let mut keys = master(2);
    keys.older = vec![MasterKey::from_bytes([1; 32])];
    let app = App::open(world.database.db.clone(), &keys, config(), world.clock.clone())
        .await
        .unwrap();
    for number in [1, 2] {
        let client = world.nobody().through(app.router(Trust::Signed));
        through_gateway(client, number, &origin(), "GET", CHECK)
            .get(CHECK)
            .await
            .ok();
    }
}

#[tokio::test]
async fn the_clients_address_and_scheme_are_the_gateways_word() {
    for world in worlds().await {
        let path = "/api/auth/login";
        let client = through_gateway(world.nobody(), 1, &origin(), "POST", path);
        let login = client
            .post(path, json!({ "username": "admin", "password": ADMIN_PASSWORD }))
            .await
            .ok();
        assert!(login.header("set-cookie").ends_with("; Secure"), "over https");
        let entry = world
            .admin()
            .await
            .get("/api/audit?action=account.login")
            .await
            .ok()
            .json["entries"][0]
            .clone();
        assert_eq!(entry["ip"], "203.0.113.9");
        assert_eq!((&entry["actor_user_id"], &entry["tenant_id"]), (&json!(1), &json!(1)));
        assert_eq!(entry["request_id"], origin().request_id);
    }
}

#[tokio::test]
async fn every_answer_has_an_id_and_is_kept_by_no_cache() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    for (client, path) in [
        (world.nobody(), "/api/nothing"),
        (world.nobody(), "/"),
        (outside(world), "/api/meta"),
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.header("x-ace-request-id").len(), 36, "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
}
