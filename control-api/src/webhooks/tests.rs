use std::sync::{Arc, Mutex};
use std::time::Duration;

use ace_policies::Secret;
use ace_policies::config::Notify;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::deliver::Post;
use super::send::{SIGNATURE, client, sign};
use crate::config::NotifyConfig;
use crate::teller::tests::{happens, inbox};
use crate::teller::{self};
use crate::testing::{Client, World, config, master, worlds};
use crate::{App, ControlConfig, Trust};

type Letters = Vec<(HeaderMap, Vec<u8>)>;

/// A receiver that remembers what it was sent, and answers what it is told to.
#[derive(Clone)]
pub(crate) struct Receiver {
    letters: Arc<Mutex<Letters>>,
    answer: Arc<Mutex<u16>>,
    pub url: String,
}

impl Receiver {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            letters: Arc::default(),
            answer: Arc::new(Mutex::new(204)),
            url: format!("http://{}/hook?key=k", listener.local_addr().unwrap()),
        };
        let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    pub fn answers(&self, status: u16) {
        *self.answer.lock().unwrap() = status;
    }

    pub fn letters(&self) -> Letters {
        std::mem::take(&mut self.letters.lock().unwrap())
    }

    fn events(&self) -> Vec<Value> {
        self.letters()
            .iter()
            .map(|(_, body)| serde_json::from_slice(body).unwrap())
            .collect()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: axum::body::Bytes) -> Response {
    receiver.letters.lock().unwrap().push((headers, body.to_vec()));
    let status = *receiver.answer.lock().unwrap();
    let elsewhere = [("location", "http://127.0.0.1:1/elsewhere")];
    (StatusCode::from_u16(status).unwrap(), elsewhere).into_response()
}

/// The same world, whose webhooks and pushes may go to this machine.
pub(crate) async fn open_to_here(world: &World) -> App {
    let section = Notify {
        allow: vec!["127.0.0.1".to_owned()],
        ..Notify::default()
    };
    let config = ControlConfig {
        notify: NotifyConfig::new(&section).unwrap(),
        ..config()
    };
    let db = world.database.db.clone();
    App::open(db, &master(1), config, world.clock.clone()).await.unwrap()
}

async fn set_up(world: &World) -> (App, Client, Receiver) {
    let app = open_to_here(world).await;
    let admin = world.admin().await.through(app.router(Trust::Socket));
    (app, admin, Receiver::new().await)
}

/// The admin, with a login that is young enough for the time that has passed.
async fn admin_again(world: &World, app: &App) -> Client {
    world.admin().await.through(app.router(Trust::Socket))
}

async fn hook(admin: &Client, receiver: &Receiver, events: Value) -> Value {
    let wish = json!({ "url": receiver.url, "events": events, "description": "ours" });
    admin.post("/api/webhooks", wish).await.ok().json
}

/// Tells what happened, and delivers what is due.
async fn deliver(app: &App) {
    teller::tell(app).await.unwrap();
    let mut post = Post::new(app.clone(), client(app).unwrap());
    post.round().await.unwrap();
    post.end().await;
}

async fn done(app: &App, status: &str) {
    happens(app, "session.state", None, None, None, json!({ "status": status })).await;
}

#[tokio::test]
async fn what_happens_is_delivered_signed_and_in_order() {
    for world in worlds().await {
        let (app, admin, receiver) = set_up(&world).await;
        let made = hook(&admin, &receiver, json!(["session.*"])).await;
        let secret = Secret::new(made["secret"].as_str().unwrap().to_owned());
        for status in ["active", "completed"] {
            done(&app, status).await;
        }
        happens(&app, "machine.online", None, None, None, json!({})).await;
        deliver(&app).await;
        let letters = receiver.letters();
        assert_eq!(letters.len(), 2);
        let (headers, body) = &letters[0];
        let text = std::str::from_utf8(body).unwrap();
        let now = world.app.now() / 1000;
        assert_eq!(headers[SIGNATURE].to_str().unwrap(), sign(&secret, now, text));
        assert_eq!(headers["x-ace-event"], "session.state");
        let event: Value = serde_json::from_str(text).unwrap();
        assert_eq!(headers["x-ace-event-id"], event["id"].as_str().unwrap());
        assert_eq!(
            (&event["type"], &event["data"], &event["created_at"]),
            (
                &json!("session.state"),
                &json!({ "status": "active" }),
                &json!("2026-01-31T12:00:00.000Z")
            )
        );
        assert!(std::str::from_utf8(&letters[1].1).unwrap().contains("completed"));
        deliver(&app).await;
        assert_eq!(receiver.letters().len(), 0, "nothing is sent twice");
    }
}

#[test]
fn the_signature_is_what_the_guide_says() {
    let secret = Secret::new("whsec_test".to_owned());
    // printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec_test
    let expected = "t=1700000000,v1=35495024f4ef3f94e5a93e22221544c4b75e9a42300cd965ab81cb85cd994e91";
    assert_eq!(sign(&secret, 1_700_000_000, "{}"), expected);
}

#[tokio::test]
async fn what_fails_is_tried_again_after_growing_pauses() {
    for world in worlds().await {
        let (app, admin, receiver) = set_up(&world).await;
        hook(&admin, &receiver, json!(["*"])).await;
        receiver.answers(503);
        done(&app, "completed").await;
        deliver(&app).await;
        deliver(&app).await;
        assert_eq!(receiver.letters().len(), 1, "not before its time");
        let list = || async {
            let admin = admin_again(&world, &app).await;
            admin.get("/api/webhooks/1/deliveries").await.ok().json["deliveries"][0].clone()
        };
        let one = list().await;
        assert_eq!(
            (&one["state"], &one["due_at"], &one["last_status"], &one["last_error"]),
            (
                &json!("due"),
                &json!("2026-01-31T12:00:05.000Z"),
                &json!(503),
                &json!("the receiver answered 503")
            )
        );
        let mut tries = 1;
        // Shorter than the patience with which the webhook is switched off.
        for _ in 0..11 {
            world.clock.advance(Duration::from_secs(6 * 3600));
            deliver(&app).await;
            tries += receiver.letters().len();
        }
        assert_eq!(tries, 11, "the last pauses are longer than six hours");
        receiver.answers(204);
        world.clock.advance(Duration::from_secs(12 * 3600));
        deliver(&app).await;
        assert_eq!((&list().await["state"], receiver.letters().len()), (&json!("sent"), 1));
        let hooks = admin_again(&world, &app).await.get("/api/webhooks").await.ok().json;
        assert_eq!(hooks["webhooks"][0]["failing_since"], json!(null));
    }
}

#[tokio::test]
async fn one_that_fails_for_days_is_switched_off_and_the_admins_are_told() {
    for world in worlds().await {
        let (app, admin, receiver) = set_up(&world).await;
        hook(&admin, &receiver, json!(["*"])).await;
        receiver.answers(500);
        done(&app, "completed").await;
        deliver(&app).await;
        world.clock.advance(Duration::from_secs(3 * 86_400));
        done(&app, "error").await;
        deliver(&app).await;
        let admin = admin_again(&world, &app).await;
        let hooks = admin.get("/api/webhooks").await.ok().json;
        assert_eq!(
            (&hooks["webhooks"][0]["is_active"], &hooks["webhooks"][0]["disabled_at"]),
            (&json!(false), &json!("2026-02-03T12:00:00.000Z"))
        );
        assert_eq!(
            inbox(&world, ace_policies::UserId(1)).await,
            [
                "The webhook to 127.0.0.1 was switched off | Nothing has got through for days. The last time: the receiver answered 500."
            ]
        );
        assert!(
            world
                .audit()
                .await
                .contains(&"ace-gateway webhooks.disable webhook:1 ok".to_owned())
        );
        receiver.letters();
        receiver.answers(200);
        world.clock.advance(Duration::from_secs(600));
        deliver(&app).await;
        assert_eq!(receiver.letters().len(), 0);
        admin.patch("/api/webhooks/1", json!({ "is_active": true })).await.ok();
        deliver(&app).await;
        assert_eq!(receiver.events().len(), 2, "what was not delivered is delivered now");
    }
}

#[tokio::test]
async fn several_nodes_deliver_together_and_twice_nothing() {
    for world in worlds().await {
        let (app, admin, receiver) = set_up(&world).await;
        hook(&admin, &receiver, json!(["*"])).await;
        for _ in 0..20 {
            done(&app, "completed").await;
        }
        let other = open_to_here(&world).await;
        tokio::join!(deliver(&app), deliver(&other));
        deliver(&app).await;
        let mut ids: Vec<_> = receiver.events().iter().map(|event| event["id"].to_string()).collect();
        assert_eq!(ids.len(), 20);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 20);
    }
}

#[tokio::test]
async fn a_node_that_died_with_a_delivery_in_hand_leaves_it_to_another() {
    for world in worlds().await {
        let (app, admin, receiver) = set_up(&world).await;
        hook(&admin, &receiver, json!(["*"])).await;
        done(&app, "completed").await;
        teller::tell(&app).await.unwrap();
        // What the claim of a node that never came back leaves.
        sqlx::query("UPDATE webhook_deliveries SET due_at = due_at + 60000, attempts = 1")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        deliver(&app).await;
        assert_eq!(receiver.letters().len(), 0);
        world.clock.advance(Duration::from_secs(60));
        deliver(&app).await;
        assert_eq!(receiver.letters().len(), 1);
    }
}

#[tokio::test]
async fn trap_34_nothing_is_sent_inside_or_after_a_redirect() {
    for world in worlds().await {
        let (app, admin, receiver) = set_up(&world).await;
        for (url, code) in [
            ("http://169.254.169.254/latest", "url_forbidden"),
            ("https://10.0.0.1/x", "url_forbidden"),
            ("https://metadata.google.internal/x", "url_forbidden"),
            ("http://example.com/x", "url_forbidden"),
            ("ftp://example.com/x", "url_invalid"),
            ("https://user:pass@example.com/x", "url_invalid"),
            ("nowhere", "url_invalid"),
        ] {
            let refused = admin
                .post("/api/webhooks", json!({ "url": url }))
                .await
                .refused(400, code);
            assert!(!refused.text.contains("egress"), "{refused}");
        }
        hook(&admin, &receiver, json!(["*"])).await;
        receiver.answers(302);
        let tested = admin.post("/api/webhooks/1/test", json!({})).await.ok().json;
        assert_eq!(
            (&tested["ok"], &tested["error"]),
            (
                &json!(false),
                &json!("the receiver answered 302: it redirects elsewhere, which is not followed")
            )
        );
        // What was allowed when it was made is asked again when it is sent.
        let closed = world.admin().await;
        let tested = closed.post("/api/webhooks/1/test", json!({})).await.ok().json;
        assert!(tested["error"].as_str().unwrap().contains("notify.allow"), "{tested}");
        assert_eq!(receiver.letters().len(), 1);
        drop(app);
    }
}

#[tokio::test]
async fn a_webhooks_life_is_recorded_and_its_secret_shown_once() {
    for world in worlds().await {
        let (_app, admin, receiver) = set_up(&world).await;
        let made = hook(&admin, &receiver, json!(["quota.threshold"])).await;
        let secret = made["secret"].as_str().unwrap();
        assert!(secret.starts_with("whsec_") && secret.len() == 49);
        let change = json!({ "rotate_secret": true, "events": ["*"] });
        let changed = admin.patch("/api/webhooks/1", change).await.ok().json;
        let rotated = changed["secret"].as_str().unwrap();
        assert_ne!(rotated, secret);
        assert_eq!(changed["webhook"]["events"], json!(["*"]));
        let tested = admin.post("/api/webhooks/1/test", json!({})).await.ok().json;
        assert_eq!((&tested["ok"], &tested["status"]), (&json!(true), &json!(204)));
        let letters = receiver.letters();
        let now = world.app.now() / 1000;
        let signed = sign(
            &Secret::new(rotated.to_owned()),
            now,
            std::str::from_utf8(&letters[0].1).unwrap(),
        );
        assert_eq!(letters[0].0[SIGNATURE].to_str().unwrap(), signed);
        for path in ["/api/webhooks", "/api/webhooks/1/deliveries", "/api/audit"] {
            let text = admin.get(path).await.ok().text;
            assert!(!text.contains(secret) && !text.contains(rotated), "{path}");
        }
        admin.delete("/api/webhooks/1").await.ok();
        admin.delete("/api/webhooks/1").await.refused(404, "not_found");
        let audit = world.audit().await;
        assert_eq!(
            audit.iter().filter(|entry| entry.contains("webhooks.update")).count(),
            4
        );
        assert_eq!(world.number("SELECT COUNT(*) FROM webhook_deliveries").await, 0);
    }
}

#[tokio::test]
async fn wishes_that_make_no_sense_name_the_field() {
    let world = &worlds().await[0];
    let admin = world.admin().await;
    for (wish, field) in [
        (json!({ "url": "https://example.com", "events": [] }), "events"),
        (json!({ "url": "https://example.com", "events": ["session"] }), "events"),
        (json!({ "url": "https://example.com", "events": ["x.*"] }), "events"),
        (
            json!({ "url": "https://example.com", "description": "x".repeat(201) }),
            "description",
        ),
    ] {
        let refused = admin.post("/api/webhooks", wish).await.refused(400, "invalid_field");
        assert!(refused.json["error"].as_str().unwrap().starts_with(field), "{refused}");
    }
    let bad = admin.get("/api/webhooks/1/deliveries").await;
    bad.refused(404, "not_found");
}
