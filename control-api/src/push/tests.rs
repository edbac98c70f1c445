use ace_policies::UserId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::{Value, json};

use super::testing::{browser, decrypt};
use super::{Stored, send_all};
use crate::notifications::Notification;
use crate::testing::{Client, World, worlds};
use crate::webhooks::tests::{Receiver, open_to_here};
use crate::{App, Trust};

async fn set_up(world: &World) -> (App, Client, Receiver) {
    let app = open_to_here(world).await;
    let admin = world.admin().await.through(app.router(Trust::Socket));
    (app, admin, Receiver::new().await)
}

fn stored(kind: &'static str) -> Vec<Stored> {
    vec![Stored {
        id: 7,
        user: UserId(1),
        notification: Notification {
            kind,
            title: "Bash waits for your answer".to_owned(),
            body: "May it?".to_owned(),
            target: "session:s".to_owned(),
            data: json!({}),
            cause: "c".to_owned(),
        },
    }]
}

#[tokio::test]
async fn a_browser_gets_what_only_it_can_read_from_a_server_it_knows() {
    for world in worlds().await {
        let (app, admin, service) = set_up(&world).await;
        let public = admin.get("/api/push-subscriptions/key").await.ok().json["public_key"].clone();
        let (private, keys) = browser();
        let (p256dh, auth) = keys.texts();
        let wish =
            json!({ "endpoint": service.url, "expirationTime": null, "keys": { "p256dh": p256dh, "auth": auth } });
        admin.post("/api/push-subscriptions", wish).await.ok();
        send_all(&app, &stored("approval.requested")).await;
        let letters = service.letters();
        let (headers, body) = &letters[0];
        let text: Value = serde_json::from_slice(&decrypt(&keys, private, body)).unwrap();
        let expected = json!({ "id": 7, "kind": "approval.requested", "title": "Bash waits for your answer",
                               "body": "May it?", "target": "session:s" });
        assert_eq!(text, expected);
        assert_eq!(
            ["content-encoding", "urgency", "ttl"].map(|name| headers[name].to_str().unwrap()),
            ["aes128gcm", "high", "86400"]
        );
        let authorization = headers["authorization"].to_str().unwrap();
        let (token, key) = authorization
            .strip_prefix("vapid t=")
            .unwrap()
            .split_once(", k=")
            .unwrap();
        assert_eq!(key, public.as_str().unwrap());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let point = URL_SAFE_NO_PAD.decode(key).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature);
        assert!(verified.is_ok());
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let origin = service.url.split("/hook").next().unwrap();
        assert_eq!(claims, json!({ "aud": origin, "exp": world.app.now() / 1000 + 43_200 }));
    }
}

#[tokio::test]
async fn a_browser_is_told_what_it_wants_and_no_more() {
    for world in worlds().await {
        let (app, admin, service) = set_up(&world).await;
        let (private, keys) = browser();
        let (p256dh, auth) = keys.texts();
        let wish = json!({ "endpoint": service.url, "keys": { "p256dh": p256dh, "auth": auth },
                           "kinds": ["session.error"], "private": true });
        admin.post("/api/push-subscriptions", wish).await.ok();
        send_all(&app, &stored("approval.requested")).await;
        assert_eq!(service.letters().len(), 0);
        send_all(&app, &stored("session.error")).await;
        let text = String::from_utf8(decrypt(&keys, private, &service.letters()[0].1)).unwrap();
        assert!(
            text.contains("There is something new.") && !text.contains("Bash"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_subscription_that_is_over_is_forgotten_and_one_that_is_refused_is_marked() {
    for world in worlds().await {
        let (app, admin, service) = set_up(&world).await;
        let (p256dh, auth) = browser().1.texts();
        let wish = json!({ "endpoint": service.url, "keys": { "p256dh": p256dh, "auth": auth } });
        admin.post("/api/push-subscriptions", wish).await.ok();
        service.answers(403);
        send_all(&app, &stored("session.error")).await;
        let list = || async { admin.get("/api/push-subscriptions").await.ok().json["subscriptions"].clone() };
        assert_eq!(list().await[0]["failed_at"], "2026-01-31T12:00:00.000Z");
        service.answers(410);
        send_all(&app, &stored("session.error")).await;
        assert_eq!(list().await, json!([]));
    }
}
