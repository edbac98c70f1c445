//! Calls the provider over a real socket, as the gateway does.

use http::HeaderValue;
use http_body_util::Full;
use hyper::client::conn::http1;
use serde_json::json;

use super::*;

struct World {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
}

impl World {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = Self {
            address: listener.local_addr().unwrap(),
            shutdown: CancellationToken::new(),
        };
        let keys = Keys {
            openai: "sk-demo".into(),
            anthropic: "sk-ant-demo".into(),
            google: "AIza-demo".into(),
        };
        tokio::spawn(serve(listener, keys, world.shutdown.clone()));
        world
    }

    async fn call(&self, method: &str, path: &str, credential: (&str, &str), body: Value) -> (u16, HeaderMap, String) {
        self.call_and(method, path, credential, body, || ()).await
    }

    /// Calls, and does something when the head of the answer is there.
    async fn call_and(
        &self,
        method: &str,
        path: &str,
        credential: (&str, &str),
        body: Value,
        begun: impl FnOnce(),
    ) -> (u16, HeaderMap, String) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string());
        let request = request
            .header("content-type", "application/json")
            .header(credential.0, credential.1);
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let response = sender
            .send_request(request.body(Full::new(Bytes::from(body))).unwrap())
            .await
            .unwrap();
        begun();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            head.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    async fn json(&self, path: &str, credential: (&str, &str), body: Value) -> Value {
        let method = if body.is_null() { "GET" } else { "POST" };
        let (status, _, text) = self.call(method, path, credential, body).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

const OPENAI: (&str, &str) = ("authorization", "Bearer sk-demo");
const ANTHROPIC: (&str, &str) = ("x-api-key", "sk-ant-demo");
const GOOGLE: (&str, &str) = ("x-goog-api-key", "AIza-demo");

/// The data of each event of a stream.
fn data(stream: &str) -> Vec<Value> {
    let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    lines
        .filter(|line| *line != "[DONE]")
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn chat_answers_whole_and_streamed_with_the_same_usage() {
    let world = World::start().await;
    let mut body = json!({"model": "gpt-5.5", "messages": [{"role": "user", "content": "hi"}]});
    let whole = world.json("/v1/chat/completions", OPENAI, body.clone()).await;
    assert!(
        whole["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .contains("hi")
    );
    assert!(
        whole["usage"]["completion_tokens_details"]["reasoning_tokens"]
            .as_u64()
            .unwrap()
            > 0
    );
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let (_, headers, stream) = world.call("POST", "/v1/chat/completions", OPENAI, body).await;
    assert_eq!(
        headers["content-type"],
        HeaderValue::from_static("text/event-stream; charset=utf-8")
    );
    let chunks = data(&stream);
    assert!(stream.ends_with("data: [DONE]\n\n"));
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
}

#[tokio::test]
async fn chat_sends_no_usage_chunk_unasked() {
    let world = World::start().await;
    let body = json!({"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let (_, _, stream) = world.call("POST", "/v1/chat/completions", OPENAI, body).await;
    assert!(
        data(&stream)
            .iter()
            .all(|chunk| chunk.get("usage").is_none() && chunk["choices"][0].is_object())
    );
}

#[tokio::test]
async fn responses_end_with_the_usage() {
    let world = World::start().await;
    let body = json!({"model": "gpt-5.5", "input": "hi", "stream": true});
    let (_, _, stream) = world.call("POST", "/v1/responses", OPENAI, body).await;
    let events = data(&stream);
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    assert!(
        events.last().unwrap()["response"]["usage"]["total_tokens"]
            .as_u64()
            .unwrap()
            > 0
    );
}

#[tokio::test]
async fn long_prompts_are_partly_cached() {
    let world = World::start().await;
    let long = "word ".repeat(4000);
    let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": long}]});
    let usage = world.json("/v1/chat/completions", OPENAI, body).await["usage"].clone();
    assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 1000);
    let marked = json!([{"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}]);
    let body = json!({"model": "claude-opus-5-5", "max_tokens": 9, "system": marked, "messages": []});
    let usage = world.json("/v1/messages", ANTHROPIC, body).await["usage"].clone();
    assert!(usage["cache_read_input_tokens"].as_u64().unwrap() > 1000);
    assert_eq!(
        usage["cache_creation"]["ephemeral_5m_input_tokens"],
        usage["cache_creation_input_tokens"]
    );
}

#[tokio::test]
async fn messages_stream_with_cumulative_usage() {
    let world = World::start().await;
    let body = json!({"model": "claude-opus-5-5", "max_tokens": 99, "stream": true, "thinking": {"type": "adaptive"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    let (_, _, stream) = world.call("POST", "/v1/messages?beta=true", ANTHROPIC, body).await;
    let events = data(&stream);
    assert_eq!(events[0]["message"]["usage"]["output_tokens"], 1);
    assert!(events.iter().any(|event| event["delta"]["type"] == "thinking_delta"));
    let delta = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert!(delta["usage"]["output_tokens"].as_u64().unwrap() > 1);
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

#[tokio::test]
async fn gemini_streams_as_events_and_as_an_array() {
    let world = World::start().await;
    let body = json!({"contents": [{"parts": [{"text": "hi"}]}]});
    let path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
    let (_, _, events) = world
        .call("POST", &format!("{path}?alt=sse"), GOOGLE, body.clone())
        .await;
    let array = world.json(path, GOOGLE, body.clone()).await;
    let whole = world
        .json("/v1beta/models/gemini-2.5-pro:generateContent", GOOGLE, body)
        .await;
    let events = data(&events);
    assert_eq!(events.last().unwrap()["usageMetadata"], whole["usageMetadata"]);
    assert_eq!(
        array.as_array().unwrap().last().unwrap()["usageMetadata"],
        whole["usageMetadata"]
    );
    assert!(whole["usageMetadata"]["thoughtsTokenCount"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_gemini_upload_takes_two_steps_and_no_key_at_the_second() {
    let world = World::start().await;
    let body = json!({"file": {"displayName": "a.txt"}});
    let (status, headers, _) = world.call("POST", "/upload/v1beta/files", GOOGLE, body).await;
    assert_eq!(
        (status, headers["x-goog-upload-status"].to_str().unwrap()),
        (200, "active")
    );
    let url = headers["x-goog-upload-url"].to_str().unwrap().to_owned();
    let path = url.strip_prefix(&format!("http://{}", world.address)).unwrap();
    let (status, headers, text) = world.call("POST", path, ("x-nothing", "x"), json!("hello")).await;
    assert_eq!(
        (status, headers["x-goog-upload-status"].to_str().unwrap()),
        (200, "final")
    );
    let file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["file"]["sizeBytes"], "7");
    let name = file["file"]["name"].as_str().unwrap();
    assert_eq!(
        world.json(&format!("/v1beta/{name}"), GOOGLE, Value::Null).await["state"],
        "ACTIVE"
    );
    assert_eq!(
        world
            .call("DELETE", &format!("/v1beta/{name}"), GOOGLE, Value::Null)
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn everything_else_has_its_answer() {
    let world = World::start().await;
    let embedded = world
        .json(
            "/v1/embeddings",
            OPENAI,
            json!({"model": "text-embedding-3-small", "input": ["a", "b"]}),
        )
        .await;
    assert_eq!(embedded["data"].as_array().unwrap().len(), 2);
    let batch = json!({"requests": [{"content": {"parts": [{"text": "a"}]}}]});
    let embedded = world
        .json("/v1beta/models/gemini-embedding-001:batchEmbedContents", GOOGLE, batch)
        .await;
    assert_eq!(embedded["embeddings"][0]["values"].as_array().unwrap().len(), 256);
    let counted = world
        .json(
            "/v1/messages/count_tokens",
            ANTHROPIC,
            json!({"model": "m", "messages": []}),
        )
        .await;
    assert!(counted["input_tokens"].as_u64().unwrap() > 0);
    assert_eq!(world.json("/v1/models", OPENAI, Value::Null).await["object"], "list");
    assert_eq!(
        world.json("/v1/models", ANTHROPIC, Value::Null).await["has_more"],
        false
    );
    assert_eq!(
        world.json("/v1/models", GOOGLE, Value::Null).await["models"][0]["version"],
        "001"
    );
}

#[tokio::test]
async fn a_wrong_key_is_refused_in_the_dialect() {
    let world = World::start().await;
    for (path, credential, code) in [
        (
            "/v1/chat/completions",
            ("authorization", "Bearer sk-wrong"),
            "/error/code",
        ),
        ("/v1/messages", ("x-api-key", "sk-wrong"), "/error/type"),
        (
            "/v1beta/models/m:generateContent",
            ("x-goog-api-key", "wrong"),
            "/error/status",
        ),
    ] {
        let (status, _, text) = world.call("POST", path, credential, json!({})).await;
        assert_eq!(status, 401, "{path}");
        assert!(
            serde_json::from_str::<Value>(&text).unwrap().pointer(code).is_some(),
            "{text}"
        );
    }
}

#[test]
fn a_compressed_body_is_read() {
    let mut headers = HeaderMap::new();
    headers.insert("content-encoding", HeaderValue::from_static("zstd"));
    let packed = zstd::encode_all(&b"{\"model\":\"m\"}"[..], 0).unwrap();
    assert_eq!(read_json(&headers, &packed).unwrap()["model"], "m");
}

#[tokio::test]
async fn shutting_down_lets_a_stream_finish() {
    let world = World::start().await;
    let body = json!({"model": "gpt-5.5", "input": "hi", "stream": true});
    let shut_down = || world.shutdown.cancel();
    let stream = world.call_and("POST", "/v1/responses", OPENAI, body, shut_down).await;
    assert!(stream.2.contains("response.completed"));
    let over = std::time::Instant::now();
    while TcpStream::connect(world.address).await.is_ok() {
        assert!(over.elapsed() < Duration::from_secs(20), "it listens still");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
