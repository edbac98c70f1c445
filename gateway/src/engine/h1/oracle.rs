//! Our HTTP/1 reader against Pingora's: whatever ours accepts, Pingora's reads in the same way. Ours may refuse more.

use std::io::Cursor;

use bytes::Bytes;
use pingora_core::protocols::http::v1::{client, server};
use proptest::prelude::*;

use super::body::Decoder;
use super::head::{HeadLimits, find_end, parse_request, parse_response};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 16 * 1024,
    fields: 100,
    target: 1000,
};

/// A message as far as two readers can differ on it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    start: String,
    fields: Vec<(String, Vec<u8>)>,
    /// `None`: the body is cut off or its framing broken.
    body: Option<Vec<u8>>,
}

fn sorted(fields: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = fields.collect();
    fields.sort();
    fields
}

fn body_of(mut decoder: Decoder, wire: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    decoder.decode(wire, &mut |data| body.extend_from_slice(data)).ok()?;
    (decoder.is_done() || decoder.is_until_close()).then_some(body)
}

fn our_request(wire: &[u8]) -> Option<Read> {
    let end = find_end(wire, 0, &LIMITS).ok()??;
    let (head, decoder) = parse_request(&Bytes::copy_from_slice(&wire[..end]), &LIMITS).ok()?;
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    Some(Read {
        start: format!("{} {}", head.method, head.target),
        fields: sorted(fields),
        body: body_of(decoder, &wire[end..]),
    })
}

fn our_response(wire: &[u8]) -> Option<Read> {
    let end = find_end(wire, 0, &LIMITS).ok()??;
    let (head, decoder, _) = parse_response(&wire[..end], false).ok()?;
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    Some(Read {
        start: head.status.to_string(),
        fields: sorted(fields),
        body: body_of(decoder, &wire[end..]),
    })
}

async fn their_request(wire: &[u8]) -> Option<Read> {
    let mut session = server::HttpSession::new(Box::new(Cursor::new(wire.to_vec())));
    session.read_request().await.ok()??;
    let head = session.req_header();
    let start = format!("{} {}", head.method, String::from_utf8_lossy(head.raw_path()));
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let fields = sorted(fields);
    let mut body = Some(Vec::new());
    loop {
        match session.read_body_bytes().await {
            Ok(Some(piece)) => body.iter_mut().for_each(|body| body.extend_from_slice(&piece)),
            Ok(None) => break,
            Err(_) => {
                body = None;
                break;
            }
        }
    }
    Some(Read { start, fields, body })
}

async fn their_response(wire: &[u8]) -> Option<Read> {
    let mut session = client::HttpSession::new(Box::new(Cursor::new(wire.to_vec())));
    session.read_response().await.ok()?;
    let head = session.resp_header()?;
    let start = head.status.as_u16().to_string();
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let fields = sorted(fields);
    let mut body = Some(Vec::new());
    loop {
        match session.read_body_bytes().await {
            Ok(Some(piece)) => body.iter_mut().for_each(|body| body.extend_from_slice(&piece)),
            Ok(None) => break,
            Err(_) => {
                body = None;
                break;
            }
        }
    }
    Some(Read { start, fields, body })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

/// Pieces that smuggling is made of, in any order.
fn fields() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "Host: a\r\n",
        "Host: a:80\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 05\r\n",
        "content-length: 5, 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Connection: close\r\n",
        "X: y\r\n",
        "X:\r\n",
        "X: \u{e9}\r\n",
        " folded\r\n",
        "X: y\n",
        "No colon\r\n",
    ]);
    prop::collection::vec(field, 0..5).prop_map(|fields| fields.concat())
}

fn body() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "hello",
        "hello and more",
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
        "5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n",
        "5\r\nhel",
        "0\r\n\r\n",
        "zz\r\n",
        "5\nhello\n0\n\n",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_we_accept_of_a_request_pingora_reads_alike(start in prop::sample::select(vec!["GET / HTTP/1.1\r\n", "POST /v1/x?a=b HTTP/1.1\r\n", "POST /x HTTP/1.0\r\n", "GET  / HTTP/1.1\r\n"]), fields in fields(), body in body()) {
        let wire = format!("{start}Host: h\r\n{fields}\r\n{body}");
        for wire in [wire.replacen("Host: h\r\n", "", 1), wire] {
            let Some(ours) = our_request(wire.as_bytes()) else { continue };
            if ours.body.is_none() {
                continue;
            }
            prop_assert_eq!(Some(ours), run(their_request(wire.as_bytes())), "{:?}", wire);
        }
    }

    #[test]
    fn what_we_accept_of_an_answer_pingora_reads_alike(start in prop::sample::select(vec!["HTTP/1.1 200 OK\r\n", "HTTP/1.1 204 \r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 304 Not Modified\r\n", "HTTP/1.1 500\r\n"]), fields in fields(), body in body()) {
        let wire = format!("{start}{fields}\r\n{body}");
        let Some(ours) = our_response(wire.as_bytes()) else { return Ok(()) };
        if ours.body.is_none() {
            return Ok(());
        }
        prop_assert_eq!(Some(ours), run(their_response(wire.as_bytes())), "{:?}", wire);
    }
}
