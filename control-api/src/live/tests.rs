use std::time::Duration;

use ace_policies::{MachineId, UserId};
use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::json;
use tower::ServiceExt;

use crate::teller::tests::{assign, happens, machine, session};
use crate::testing::{Client, World, worlds};
use crate::{Trust, teller};

/// The kinds of events in a stream that has ended.
async fn kinds(client: &Client, path: &str) -> Vec<String> {
    let text = client.get(path).await.ok().text;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap())
        .filter_map(|data| Some(data.get("kind")?.as_str()?.to_owned()))
        .collect()
}

/// Alice has a session on a machine that bob is an admin and carol a user of; dave has nothing to do with it.
async fn scene(world: &World) -> (MachineId, [UserId; 4]) {
    let machine = machine(world, "prod").await;
    let mut users = Vec::new();
    for name in ["alice", "bob", "carol", "dave"] {
        users.push(world.add_user(name).await);
    }
    let users: [UserId; 4] = users.try_into().unwrap();
    for (user, permission) in users.iter().zip(["user", "admin", "user"]) {
        assign(world, machine, *user, permission).await;
    }
    let session = session(world, machine, users[0]).await;
    let app = &world.app;
    happens(app, "machine.offline", None, Some(machine), None, json!({})).await;
    let done = json!({ "status": "completed" });
    happens(app, "session.state", Some(users[0]), Some(machine), Some(session), done).await;
    happens(app, "quota.threshold", Some(users[3]), None, None, json!({})).await;
    (machine, users)
}

#[tokio::test]
async fn everybody_sees_what_is_theirs() {
    for world in worlds().await {
        let (_, users) = scene(&world).await;
        world.app.closing().cancel();
        let (machine, session, quota) = ("machine.offline", "session.state", "quota.threshold");
        for (user, expected) in [
            (users[0], &[machine, session][..]),
            (users[1], &[machine, session]),
            (users[2], &[machine]),
            (users[3], &[quota]),
            (UserId(1), &[machine, session, quota]),
        ] {
            let client = world.logged_in(user).await;
            assert_eq!(kinds(&client, "/api/live?after=0").await, expected, "{user}");
        }
    }
}

#[tokio::test]
async fn trap_44_a_stream_goes_on_where_it_broke_off() {
    for world in worlds().await {
        scene(&world).await;
        world.app.closing().cancel();
        let admin = world.admin().await;
        let rest = admin.clone().with("last-event-id", "1");
        assert_eq!(
            kinds(&rest, "/api/live?after=0").await,
            ["session.state", "quota.threshold"],
            "the header wins"
        );
        let answer = admin.get("/api/live?after=2").await.ok();
        assert_eq!(
            ["content-type", "cache-control", "x-accel-buffering"].map(|name| answer.header(name)),
            ["text/event-stream", "no-cache", "no"]
        );
        assert!(
            answer
                .text
                .starts_with("event: ready\ndata: {\"missed\":false}\nid: 2\n\nevent: quota\ndata: {"),
            "{answer}"
        );
        assert!(answer.text.ends_with("\nid: 3\n\n"), "{answer}");
        let future = admin.get("/api/live?after=99").await.ok();
        assert_eq!(future.text, "event: ready\ndata: {\"missed\":true}\nid: 3\n\n");
        sqlx::query("DELETE FROM events WHERE id < 3")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let gone = admin.get("/api/live?after=1").await.ok();
        assert!(gone.text.contains("\"missed\":true"), "{gone}");
        admin
            .with("last-event-id", "x")
            .get("/api/live")
            .await
            .refused(400, "invalid_field");
    }
}

async fn open(world: &World, cookie: &str) -> BodyDataStream {
    let request = Request::get("/api/live")
        .header("host", "ace.test")
        .header("cookie", cookie);
    let router = world.app.router(Trust::Socket);
    let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().into_data_stream()
}

async fn next(stream: &mut BodyDataStream) -> Option<String> {
    let next = tokio::time::timeout(Duration::from_secs(60), stream.next());
    let bytes = next.await.expect("something comes")?.unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The cookie of a new login.
async fn log_in(world: &World) -> String {
    let answer = world
        .nobody()
        .log_in("admin", crate::testing::ADMIN_PASSWORD)
        .await
        .ok();
    format!("session_token={}", answer.cookie())
}

#[tokio::test]
async fn what_happens_comes_at_once_and_an_end_of_the_program_ends_the_stream() {
    for world in worlds().await {
        let mut stream = open(&world, &log_in(&world).await).await;
        assert!(next(&mut stream).await.unwrap().starts_with("event: ready"));
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = tokio::time::Instant::now();
            let waiting = tokio::spawn(async move {
                let event = next(&mut stream).await;
                (event, stream)
            });
            tokio::task::yield_now().await;
            happens(&world.app, "machine.online", None, None, None, json!({})).await;
            let (event, same) = waiting.await.unwrap();
            assert!(event.unwrap().contains("machine.online"));
            times.push(start.elapsed());
            stream = same;
        }
        times.sort();
        // A poll would take two seconds each time. One try may be slow where much else is to do.
        assert!(times[2] < Duration::from_millis(1500), "{times:?}");
        world.app.closing().cancel();
        assert_eq!(next(&mut stream).await, None);
    }
}

#[tokio::test]
async fn who_may_not_look_any_more_sees_nothing_more() {
    for world in worlds().await {
        let cookie = log_in(&world).await;
        let mut stream = open(&world, &cookie).await;
        next(&mut stream).await.unwrap();
        world
            .nobody()
            .with("cookie", &cookie)
            .post("/api/auth/logout", json!({}))
            .await
            .ok();
        world.clock.advance(Duration::from_secs(15));
        happens(&world.app, "machine.online", None, None, None, json!({})).await;
        assert_eq!(next(&mut stream).await, None);
    }
}

#[tokio::test]
async fn a_notification_is_for_its_user_alone() {
    for world in worlds().await {
        let (_, users) = scene(&world).await;
        teller::tell(&world.app).await.unwrap();
        world.app.closing().cancel();
        let made = |kinds: Vec<String>| kinds.iter().filter(|kind| *kind == "notification.created").count();
        let alice = world.logged_in(users[0]).await;
        assert_eq!(made(kinds(&alice, "/api/live?after=0").await), 1);
        let carol = world.logged_in(users[2]).await;
        assert_eq!(made(kinds(&carol, "/api/live?after=0").await), 0);
    }
}

#[tokio::test]
async fn admins_follow_the_request_log_without_bodies() {
    for world in worlds().await {
        let mut stream = open(&world, &log_in(&world).await).await;
        next(&mut stream).await.unwrap();
        sqlx::query(
            "INSERT INTO request_ledger (request_id, tenant_id, user_id, tool, provider, method, path, status,
             usage_source, duration_ms, started_at, gateway_id, input_tokens)
             VALUES ('r', 1, 1, 'claude-code', 'anthropic', 'POST', '/v1/messages', 200, 'provider', 5, 0, 'g', 7)",
        )
        .execute(&world.database.db.write)
        .await
        .unwrap();
        happens(&world.app, "machine.online", None, None, None, json!({})).await;
        let mut text = next(&mut stream).await.unwrap();
        while !text.contains("event: request") {
            text.push_str(&next(&mut stream).await.unwrap());
        }
        assert!(
            text.contains("\"username\":\"admin\"") && text.contains("\"input_tokens\":7"),
            "{text}"
        );
        let request = text.split("event: request").nth(1).unwrap();
        assert!(
            !request.contains("\nid:"),
            "a request does not move the place to go on from"
        );
    }
}
