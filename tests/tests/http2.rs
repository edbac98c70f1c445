//! HTTP/2 on both sides of the gateway: the same calls, the same stories.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_tests::{Ask, Ca, Dialect, H2Provider, Script, World, events};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::Notify;

const GAP: Duration = Duration::from_millis(50);
/// Far below the time after which the gateway gives up on a silent side.
const SOON: Duration = Duration::from_secs(10);
/// Between events that a busy machine must not run together.
const APART: Duration = Duration::from_millis(300);
/// How long a stream lasts that others do not wait for.
const LONG: Duration = Duration::from_secs(2);

async fn worlds() -> [World; 2] {
    [World::start().await, World::builder().tls().start().await]
}

#[tokio::test]
async fn whole_answers_in_the_clear_and_over_tls() {
    for world in worlds().await {
        let mut client = world.h2().await;
        for dialect in Dialect::ALL {
            world.provider.forget();
            let answer = client
                .call(&dialect.authorize(dialect.ask(), &world.token(dialect).await))
                .await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "{\"ok\":true}"));
            assert!(answer.headers.contains_key("x-ace-request-id"));
            let seen = world.provider.request();
            assert_eq!((seen.credentials(), seen.json()), (dialect.injected(), dialect.body()));
        }
        assert_eq!(client.call(&Ask::post("/v1/messages").body("{}")).await.status, 401);
    }
}

#[tokio::test]
async fn streams_arrive_chunk_by_chunk() {
    for world in worlds().await {
        let mut client = world.h2().await;
        world.provider.plays(Script::events(events(5), APART));
        let ask = Dialect::Anthropic
            .streaming_ask()
            .header("x-api-key", world.token(Dialect::Anthropic).await);
        let answer = client.call(&ask).await;
        assert_eq!((answer.text(), answer.broken), (events(5).concat(), None));
        assert!(answer.pieces.len() >= 5 && answer.pieces[4].at - answer.pieces[0].at > APART);
    }
}

#[tokio::test]
async fn bodies_of_any_length_arrive_whole() {
    for world in worlds().await {
        let mut client = world.h2().await;
        let token = world.token(Dialect::OpenAi).await;
        for (n, length) in [0, 1, 16_384, 65_536, 65_537, 1_000_000].into_iter().enumerate() {
            let body = Bytes::from(vec![b'x'; length]);
            world.provider.plays(Script::answer(200, "text/plain", &body));
            let answer = client
                .call(&Ask::post("/v1/files").bearer(&token).body(body.clone()))
                .await;
            assert!(
                answer.status == 200 && answer.body == body,
                "{length}: {} came back",
                answer.body.len()
            );
            assert!(world.provider.requests()[n].body == body, "{length}");
        }
    }
}

#[tokio::test]
async fn streams_share_a_connection_and_do_not_wait_for_each_other() {
    let world = World::start().await;
    let client = world.h2().await;
    world
        .provider
        .plays(Script::stream().chunk("data: {}\n\n").wait(LONG).last_chunk());
    let ask = Dialect::OpenAi
        .streaming_ask()
        .bearer(&world.token(Dialect::OpenAi).await);
    let begun = Instant::now();
    let calls = (0..20).map(|_| {
        let (mut client, ask) = (client.clone(), ask.clone());
        tokio::spawn(async move { client.call(&ask).await.text() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("a call"), "data: {}\n\n");
    }
    assert!(
        begun.elapsed() < LONG * 10,
        "20 streams of two seconds took {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn hanging_up_on_a_stream_reaches_the_provider_and_spares_the_others() {
    let world = World::start().await;
    let mut client = world.h2().await;
    let ask = Dialect::OpenAi
        .streaming_ask()
        .bearer(&world.token(Dialect::OpenAi).await);
    for before in [Script::stream().chunk("data: {}\n\n"), Script::stream()] {
        world.provider.forget();
        world.provider.plays(before.silence());
        let stream = client.open(&ask).await;
        world.provider.arrival(0).await;
        let left = Instant::now();
        stream.hang_up();
        assert!(world.provider.departure(0).await - left < SOON);
    }
    world.provider.plays(Script::answer(200, "application/json", "{}"));
    assert_eq!(client.call(&ask).await.status, 200);
}

#[tokio::test]
async fn a_stream_that_breaks_at_the_provider_breaks_for_the_client() {
    let world = World::start().await;
    let mut client = world.h2().await;
    // A reset takes away what the gateway has not read yet: it waits until the client has it.
    let told = Arc::new(Notify::new());
    world
        .provider
        .plays(Script::stream().chunk("data: {}\n\n").until_told(&told).reset());
    let ask = Dialect::OpenAi
        .streaming_ask()
        .bearer(&world.token(Dialect::OpenAi).await);
    let mut stream = client.open(&ask).await;
    assert_eq!(stream.piece().await.expect("a piece").bytes, "data: {}\n\n");
    told.notify_one();
    assert!(stream.piece().await.is_none(), "nothing more");
    assert!(stream.broken.is_some(), "a broken stream looked complete");
    assert_eq!(
        client.call(&Ask::get("/healthz")).await.status,
        200,
        "the connection lives on"
    );
}

#[tokio::test]
async fn pseudo_headers_cannot_smuggle() {
    let world = World::start().await;
    let mut client = world.h2().await;
    let token = world.token(Dialect::OpenAi).await;
    let ask = Dialect::OpenAi
        .ask()
        .bearer(&token)
        .header("x-forwarded-for", "10.1.2.3")
        .header("cookie", "a=b");
    assert_eq!(client.call(&ask).await.status, 200);
    let seen = world.provider.request();
    assert!(!seen.head.has("cookie") && !seen.head.has("x-forwarded-for"));
    assert_eq!(seen.header("host"), Some(world.provider.address.to_string()));
    for header in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
        let ask = Dialect::OpenAi.ask().bearer(&token).header(header, "chunked");
        let refused = client
            .clone()
            .try_open(&ask)
            .await
            .map_or(true, |stream| stream.status >= 400);
        assert!(refused, "{header} has no place in HTTP/2");
    }
}

/// A gateway that trusts this authority and whose keys lead to this provider.
async fn in_front_of(provider: &H2Provider, ca: &Ca, folder: &TempDir) -> World {
    let authority = ca.write(folder.path()).authority;
    let world = World::builder()
        .without_keys()
        .config("upstream", format!("ca_file = {authority:?}"))
        .start()
        .await;
    for dialect in Dialect::ALL {
        world
            .store_key(dialect, &dialect.base_url(&provider.url()), dialect.key())
            .await;
    }
    world
}

#[tokio::test]
async fn providers_are_called_over_http2_where_they_speak_it() {
    let (ca, folder) = (Ca::new(), TempDir::new().expect("a folder"));
    let provider = H2Provider::start(&ca, "text/event-stream", events(5), APART).await;
    let world = in_front_of(&provider, &ca, &folder).await;
    for (n, dialect) in Dialect::ALL.into_iter().enumerate() {
        let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
        let answer = world.call(&ask).await.expect(200);
        assert_eq!(answer.text(), events(5).concat());
        let times: Vec<_> = answer.pieces.iter().map(|piece| piece.at - answer.head_at).collect();
        assert!(times.len() >= 5 && times[4] - times[0] > APART, "{times:?}");
        let seen = &provider.requests()[n];
        let (name, prefix) = dialect.credential();
        assert_eq!(seen.headers[name], format!("{prefix}{}", dialect.key()));
        assert_eq!(seen.path, dialect.streaming_path());
    }
}

#[tokio::test]
async fn hanging_up_resets_the_stream_at_the_provider() {
    let (ca, folder) = (Ca::new(), TempDir::new().expect("a folder"));
    let provider = H2Provider::start(&ca, "text/event-stream", events(600), GAP).await;
    let world = in_front_of(&provider, &ca, &folder).await;
    let ask = Dialect::Anthropic
        .streaming_ask()
        .header("x-api-key", world.token(Dialect::Anthropic).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await.answer_head("POST").await;
    wire.piece().await.expect("a first event");
    let left = Instant::now();
    drop(wire);
    assert!(provider.departure(0).await - left < SOON);
}

#[tokio::test]
async fn a_provider_whose_certificate_nobody_vouches_for_is_not_called() {
    let (ca, folder) = (Ca::new(), TempDir::new().expect("a folder"));
    let provider = H2Provider::start(&Ca::new(), "application/json", vec!["{}"], GAP).await;
    let world = in_front_of(&provider, &ca, &folder).await;
    world.main_call(Dialect::OpenAi).await.expect(502);
    assert_eq!(provider.requests().len(), 0);
}
