//! Exchanges that were thought of rather than generated.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::{Ask, Dialect, Exchange, Script};

/// Each is a defect that some gateway had, or an edge of the formats.
pub fn remarkable() -> Vec<Exchange> {
    let ok = || Script::json(200, &serde_json::json!({"ok": true}));
    let mut all = Vec::new();
    let mut add = |name: &str, dialect: Dialect, ask: Ask, script: Script, asks_for_usage: bool| {
        all.push(Exchange {
            name: name.to_owned(),
            dialect,
            ask,
            script,
            asks_for_usage,
        });
    };
    let chat = |body: &str| {
        Ask::post("/v1/chat/completions")
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    let done = || Script::events(["data: {\"choices\":[]}\n\n", "data: [DONE]\n\n"], Duration::ZERO);
    let usage = r#"{ "model":"m", "n":1.0,"stream" : true ,"messages":[],"big":12345678901234567890 }"#;
    add("usage is asked for", Dialect::OpenAi, chat(usage), done(), true);
    let usage = r#"{"stream_options":{"include_obfuscation":false},"model":"m","stream":true,"messages":[]}"#;
    add(
        "usage is asked for beside other options",
        Dialect::OpenAi,
        chat(usage),
        done(),
        true,
    );
    add(
        "no JSON type",
        Dialect::OpenAi,
        Ask::post("/v1/files")
            .header("content-type", "application/octet-stream")
            .body(&b"\xff\x00{\"a\":1}"[..]),
        ok(),
        false,
    );
    add(
        "no type at all",
        Dialect::Anthropic,
        Ask::post("/v1/files").body(&b"\xff\xfe\r\n"[..]),
        ok(),
        false,
    );
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\u{0}\u{1}\r\n--b--\r\n";
    add(
        "a form",
        Dialect::OpenAi,
        Ask::post("/v1/files")
            .header("content-type", "multipart/form-data; boundary=b")
            .body(form),
        ok(),
        false,
    );
    let packed = gzip(br#"{"model":"claude-opus-5-5","max_tokens":1,"messages":[]}"#);
    let ask = Ask::post("/v1/messages")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    add(
        "trap 21: a compressed body",
        Dialect::Anthropic,
        ask.body(packed),
        ok(),
        false,
    );
    let ask = Ask::post("/v1/responses")
        .header("content-type", "application/json")
        .header("content-encoding", "zstd");
    add(
        "trap 21: a body compressed as Codex does",
        Dialect::OpenAi,
        ask.body(zstd(br#"{"model":"gpt-5.5","input":"hi"}"#)),
        ok(),
        false,
    );
    add(
        "a body of invalid UTF-8 in a JSON text",
        Dialect::Google,
        Ask::post(Dialect::Google.path())
            .header("content-type", "application/json")
            .body(&b"{\"contents\":[{\"parts\":[{\"text\":\"\xff\xfe\"}]}]}"[..]),
        ok(),
        false,
    );
    add(
        "an empty answer",
        Dialect::OpenAi,
        Ask::get("/v1/models"),
        Script::raw("HTTP/1.1 204 No Content\r\nx: y\r\n\r\n"),
        false,
    );
    add(
        "no type and no length",
        Dialect::Google,
        Ask::get("/v1beta/models"),
        Script::raw("HTTP/1.1 200 OK\r\n\r\n\u{0}x").close(),
        false,
    );
    let html = "<html>\r\n<h1>502 Bad Gateway</h1>\u{0}</html>";
    add(
        "an error page",
        Dialect::OpenAi,
        Dialect::OpenAi.ask(),
        Script::answer(502, "text/html; charset=latin1", html),
        false,
    );
    let packed = gzip(b"{\"id\":\"x\"}");
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    );
    add(
        "a compressed answer",
        Dialect::OpenAi,
        Ask::get("/v1/files/f/content"),
        Script::raw([head.as_bytes(), &packed].concat()),
        false,
    );
    let odd = "HTTP/1.1 200 OK\r\nX-Latin: caf\u{e9}\r\nX-Empty:\r\nx-long: ";
    let head = format!("{odd}{}\r\ncontent-length: 0\r\n\r\n", "y".repeat(20_000));
    add(
        "odd headers",
        Dialect::Anthropic,
        Ask::get("/v1/models"),
        Script::raw(head),
        false,
    );
    all
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("memory takes every byte")
}

/// One raw block, as RFC 8878 allows for what is not worth compressing: enough for a body of up to 255 bytes.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short body");
    let block = (u32::from(length) << 3 | 1).to_le_bytes();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, length], &block[..3], bytes].concat()
}
