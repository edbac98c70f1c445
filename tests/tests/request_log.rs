//! The request log: what was used, as the provider told it, once per request, whoever hung up.

use std::io::Write as _;
use std::time::Duration;

use ace_tests::{Ask, Dialect, Script, World};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const FAST: Duration = Duration::ZERO;

/// The numbers of a row that differ from nothing.
fn tokens(row: &Value) -> Value {
    let names = [
        "input",
        "cache_read",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
        "audio_input",
        "audio_output",
    ];
    let counted = names.iter().filter_map(|name| {
        let count = row[format!("{name}_tokens")]
            .as_i64()
            .unwrap_or_else(|| panic!("no {name}_tokens in {row}"));
        (count != 0).then(|| ((*name).to_owned(), json!(count)))
    });
    Value::Object(counted.collect())
}

async fn only_row(world: &World) -> Value {
    let mut rows = world.alice.request_log(1).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

async fn logs(dialect: Dialect, script: Script, streams: bool, expected: Value) {
    let world = World::start().await;
    world.provider.plays(script);
    let ask = if streams {
        dialect.streaming_ask()
    } else {
        dialect.ask()
    };
    world
        .call(&dialect.authorize(ask, &world.token(dialect).await))
        .await
        .expect(200);
    let row = only_row(&world).await;
    assert_eq!(
        (tokens(&row), &row["usage_source"]),
        (expected, &json!("provider")),
        "{row}"
    );
    assert_eq!(
        (&row["provider"], &row["status"], &row["streamed"]),
        (&json!(dialect.name()), &json!(200), &json!(streams))
    );
}

#[tokio::test]
async fn whole_answers_are_counted_by_class() {
    let usage = json!({"model": "gpt-5.5-2026", "usage": {"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 192}}});
    let expected = json!({"input": 86, "cache_read": 1920, "output": 300, "reasoning": 192});
    logs(Dialect::OpenAi, Script::json(200, &usage), false, expected).await;
    let usage = json!({"usage": {"input_tokens": 21, "cache_creation_input_tokens": 188_086, "cache_read_input_tokens": 17,
        "cache_creation": {"ephemeral_5m_input_tokens": 456, "ephemeral_1h_input_tokens": 187_630}, "output_tokens": 393}});
    let expected =
        json!({"input": 21, "cache_read": 17, "cache_write_5m": 456, "cache_write_1h": 187_630, "output": 393});
    logs(Dialect::Anthropic, Script::json(200, &usage), false, expected).await;
    let usage = json!({"usageMetadata": {"promptTokenCount": 500, "cachedContentTokenCount": 400, "candidatesTokenCount": 20,
        "thoughtsTokenCount": 70, "totalTokenCount": 590}});
    let expected = json!({"input": 100, "cache_read": 400, "output": 90, "reasoning": 70});
    logs(Dialect::Google, Script::json(200, &usage), false, expected).await;
}

#[tokio::test]
async fn trap_3_streams_are_counted_by_their_last_word() {
    let events = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":40}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"input_tokens\":7,\"output_tokens\":60}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ];
    let expected = json!({"input": 7, "cache_read": 100, "output": 60});
    logs(Dialect::Anthropic, Script::events(events, FAST), true, expected).await;
    let events = [
        "data: {\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":10,\"totalTokenCount\":10}}\r\n\r\n",
        "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":4,\"thoughtsTokenCount\":5,\"totalTokenCount\":19}}\r\n\r\n",
    ];
    let expected = json!({"input": 10, "output": 9, "reasoning": 5});
    logs(Dialect::Google, Script::events(events, FAST), true, expected).await;
}

#[tokio::test]
async fn trap_5_a_chat_stream_is_counted_although_the_client_did_not_ask() {
    let world = World::start().await;
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    world.provider.plays(Script::events([usage, "data: [DONE]\n\n"], FAST));
    let mut body = Dialect::OpenAi.body();
    body["stream"] = true.into();
    let ask = Ask::post("/v1/chat/completions")
        .bearer(&world.token(Dialect::OpenAi).await)
        .json(&body);
    assert_eq!(world.call(&ask).await.expect(200).text(), "data: [DONE]\n\n");
    assert_eq!(tokens(&only_row(&world).await), json!({"input": 3, "output": 4}));
}

#[tokio::test]
async fn trap_4_who_hangs_up_is_charged_for_what_came() {
    let world = World::start().await;
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":50,\"output_tokens\":1}}}\n\n";
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a few words of an answer that goes on\"}}\n\n";
    world
        .provider
        .plays(Script::stream().chunk(start).chunk(delta).silence());
    let ask = Dialect::Anthropic
        .streaming_ask()
        .header("x-api-key", world.token(Dialect::Anthropic).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await.answer_head("POST").await;
    wire.piece().await.expect("a first event");
    wire.piece().await.expect("a second event");
    drop(wire);
    let row = only_row(&world).await;
    assert_eq!(row["input_tokens"], 50, "{row}");
    assert!(row["output_tokens"].as_i64() > Some(1), "{row}");
    assert!(
        ["partial", "estimated"].contains(&row["usage_source"].as_str().unwrap_or_default()),
        "{row}"
    );
}

#[tokio::test]
async fn trap_4_who_hangs_up_before_the_answer_is_charged_for_the_question() {
    let world = World::start().await;
    world.provider.plays(Script::new().silence());
    let ask = Dialect::OpenAi.authorize(Dialect::OpenAi.ask(), &world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await;
    world.provider.arrival(0).await;
    drop(wire);
    let row = only_row(&world).await;
    let tokens = (Dialect::OpenAi.body().to_string().len() as i64 + 3) / 4;
    assert_eq!(
        (row["input_tokens"].as_i64(), &row["usage_source"], &row["error_kind"]),
        (Some(tokens), &json!("estimated"), &json!("client_gone")),
        "{row}"
    );
}

#[tokio::test]
async fn a_request_that_never_reached_the_provider_costs_nothing() {
    let world = World::start().await;
    world.provider.plays(Script::new().reset());
    world.main_call(Dialect::OpenAi).await.expect(502);
    let row = only_row(&world).await;
    assert_eq!(
        (tokens(&row), &row["status"], &row["usage_source"]),
        (json!({}), &json!(502), &json!("none")),
        "{row}"
    );
}

#[tokio::test]
async fn refusals_of_the_provider_are_logged_and_cost_nothing() {
    let world = World::start().await;
    world
        .provider
        .plays(Script::json(429, &json!({"error": {"message": "slow down"}})));
    world.main_call(Dialect::OpenAi).await.expect(429);
    let row = only_row(&world).await;
    assert_eq!((tokens(&row), &row["status"]), (json!({}), &json!(429)), "{row}");
}

#[tokio::test]
async fn a_row_tells_who_asked_for_what_and_how_long_it_took() {
    let world = World::start().await;
    let head = "HTTP/1.1 200 OK\r\nx-request-id: req_upstream\r\ncontent-type: application/json\r\n";
    let body = r#"{"model":"gpt-5.5-2026-01-01","usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let answer = Script::new()
        .wait(Duration::from_millis(200))
        .send(format!("{head}content-length: {}\r\n\r\n{body}", body.len()));
    world.provider.plays(answer);
    let answer = world.main_call(Dialect::OpenAi).await.expect(200);
    let row = only_row(&world).await;
    assert_eq!(row["request_id"].as_str(), answer.header("x-ace-request-id").as_deref());
    assert_eq!(
        (&row["model_asked"], &row["model_served"]),
        (&json!("gpt-5.5"), &json!("gpt-5.5-2026-01-01"))
    );
    assert_eq!(
        (&row["method"], &row["path"]),
        (&json!("POST"), &json!("/v1/chat/completions"))
    );
    assert_eq!(row["upstream_request_id"], "req_upstream");
    assert!(
        row["duration_ms"].as_i64() >= Some(200) && row["ttfb_ms"].as_i64() >= Some(190),
        "{row}"
    );
    assert_eq!(
        (row["bytes_in"].as_i64(), row["bytes_out"].as_i64()),
        (
            Some(Dialect::OpenAi.body().to_string().len() as i64),
            Some(body.len() as i64)
        )
    );
}

#[tokio::test]
async fn every_request_is_logged_once() {
    let world = World::start().await;
    world.provider.plays(Script::json(
        200,
        &json!({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
    ));
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let mut ids = Vec::new();
    let mut wire = world.wire().await;
    for _ in 0..150 {
        ids.push(
            wire.call(&ask)
                .await
                .expect(200)
                .header("x-ace-request-id")
                .unwrap_or_default(),
        );
    }
    let rows = world.alice.request_log(150).await;
    let logged: Vec<_> = rows
        .iter()
        .map(|row| row["request_id"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(logged, ids);
    assert_eq!(
        rows.iter()
            .map(|row| row["output_tokens"].as_i64().unwrap_or(0))
            .sum::<i64>(),
        300
    );
}

#[tokio::test]
async fn people_see_their_own_requests_and_the_admin_all() {
    let world = World::start().await;
    let bob = world.joins("bob").await;
    world.main_call(Dialect::OpenAi).await.expect(200);
    world
        .call(&Dialect::OpenAi.ask().bearer(&bob.proxy_token(None).await))
        .await
        .expect(200);
    assert_eq!(world.admin.request_log(2).await.len(), 2);
    assert_eq!(
        (world.alice.request_log(1).await.len(), bob.request_log(1).await.len()),
        (1, 1)
    );
}

#[tokio::test]
async fn what_was_logged_is_there_although_the_gateway_is_killed() {
    let mut world = World::start().await;
    world.provider.plays(Script::json(
        200,
        &json!({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
    ));
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    for _ in 0..20 {
        wire.call(&ask).await.expect(200);
    }
    world.alice.request_log(20).await;
    world.gateway.crash().await;
    world.restart().await;
    assert_eq!(world.alice.request_log(20).await.len(), 20);
}

#[tokio::test]
async fn trap_8_a_compressed_answer_is_counted_although_nobody_asked_for_compression() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(br#"{"usage":{"prompt_tokens":8,"completion_tokens":9}}"#)
        .expect("memory");
    let packed = encoder.finish().expect("memory");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n";
    let answer = [
        format!("{head}content-length: {}\r\n\r\n", packed.len()).as_bytes(),
        &packed,
    ]
    .concat();
    logs(
        Dialect::OpenAi,
        Script::raw(answer),
        false,
        json!({"input": 8, "output": 9}),
    )
    .await;
}

#[tokio::test]
async fn an_alias_is_another_name_for_a_model_and_the_log_has_both() {
    let world = World::builder()
        .config("models.alias", "\"gpt-5.5\" = \"qwen3-coder-plus\"")
        .start()
        .await;
    world.provider.plays(Script::json(
        200,
        &json!({"model": "qwen3-coder-plus", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    ));
    world.main_call(Dialect::OpenAi).await.expect(200);
    let expected = Dialect::OpenAi
        .body()
        .to_string()
        .replace("gpt-5.5", "qwen3-coder-plus");
    assert_eq!(world.provider.request().body, expected);
    let row = only_row(&world).await;
    assert_eq!(
        (&row["model_asked"], &row["model_served"]),
        (&json!("gpt-5.5"), &json!("qwen3-coder-plus"))
    );
}
