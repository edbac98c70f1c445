//! The provider: answers 1 kB of JSON at once, or a stream of 120-byte events on a timer, each with the time it left.
//!
//! As cheap as can be, because it shares two cores with what is measured: no HTTP library, one buffer a connection.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    sync::mpsc,
    time::{MissedTickBehavior, interval_at},
};

/// Bytes of a JSON answer's body.
pub const JSON_BYTES: usize = 1024;
/// Bytes of one event of a stream.
pub const EVENT_BYTES: usize = 120;
/// Stands before the 16 digits of the time at which an event left.
pub const MARK: u8 = b'@';
pub const MARK_DIGITS: usize = 16;

/// A running provider. It lives as long as the process.
#[derive(Clone, Copy)]
pub struct Mock {
    pub address: SocketAddr,
}

/// Starts the provider on `threads` threads of its own.
pub fn start(threads: usize) -> anyhow::Result<Mock> {
    epoch();
    let listener = StdListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let workers: Vec<_> = (1..threads).map(|_| worker()).collect::<io::Result<_>>()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("mock-0".into())
        .spawn(move || runtime.block_on(accept(listener, workers)))?;
    Ok(Mock { address })
}

type Worker = mpsc::UnboundedSender<std::net::TcpStream>;

fn worker() -> io::Result<Worker> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<std::net::TcpStream>();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        while let Some(stream) = receiver.recv().await {
            if let Ok(stream) = TcpStream::from_std(stream) {
                tokio::spawn(serve(stream));
            }
        }
    };
    std::thread::Builder::new()
        .name("mock-n".into())
        .spawn(move || runtime.block_on(work))?;
    Ok(sender)
}

/// Takes connections in turn for this thread and the others.
async fn accept(listener: StdListener, workers: Vec<Worker>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    for turn in (0..=workers.len()).cycle() {
        let (stream, _) = listener.accept().await?;
        match workers.get(turn) {
            Some(worker) => worker
                .send(stream.into_std()?)
                .context("a worker of the mock has ended")?,
            None => drop(tokio::spawn(serve(stream))),
        }
    }
    Ok(())
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let json = json_answer();
    let mut buffer = Vec::with_capacity(4096);
    while let Some(asked) = read_request(&mut stream, &mut buffer).await? {
        match asked {
            Asked::Json => stream.write_all(&json).await?,
            Asked::Stream { events, period } => write_stream(&mut stream, events, period).await?,
        }
    }
    Ok(())
}

enum Asked {
    Json,
    Stream { events: usize, period: Duration },
}

/// Reads one request and leaves the buffer empty; none when the client has closed.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Asked>> {
    loop {
        if let Some(asked) = parse(buffer)? {
            buffer.clear();
            return Ok(Some(asked));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse(request: &[u8]) -> io::Result<Option<Asked>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(request).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let length = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let Some(length) = length else {
        return Err(io::Error::other("the mock wants a content-length"));
    };
    let body = &request[head_bytes..];
    Ok((body.len() >= length).then(|| asked(body)))
}

/// The model's name says what is asked for: `json`, or `sse-<events>-<period in ms>`.
fn asked(body: &[u8]) -> Asked {
    const STREAM: &[u8] = b"\"sse-";
    let Some(at) = memchr::memmem::find(body, STREAM) else {
        return Asked::Json;
    };
    let mut numbers = body[at + STREAM.len()..]
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| {
            digits
                .iter()
                .fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'))
        });
    let (events, period) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(1));
    Asked::Stream {
        events: events as usize,
        period: Duration::from_millis(period),
    }
}

fn json_answer() -> Vec<u8> {
    let frame = |content: &str| {
        format!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"json","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}}}"#
        )
    };
    let body = frame(&"x".repeat(JSON_BYTES - frame("").len()));
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {JSON_BYTES}\r\nx-request-id: r1\r\n\r\n{body}")
        .into_bytes()
}

async fn write_stream(stream: &mut TcpStream, events: usize, period: Duration) -> io::Result<()> {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(HEAD).await?;
    let mut timer = interval_at(tokio::time::Instant::now() + period, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..events {
        timer.tick().await;
        stream.write_all(event().as_bytes()).await?;
    }
    stream.write_all(last_event().as_bytes()).await
}

/// One event as a chunk of the transfer coding, with the time in it.
fn event() -> String {
    let now = epoch().elapsed().as_nanos();
    let event = format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}{now:016}\"}}}}]}}",
        MARK as char
    );
    format!("{EVENT_BYTES:x}\r\n{event:width$}\n\n\r\n", width = EVENT_BYTES - 2)
}

fn last_event() -> String {
    let event = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":100,\"total_tokens\":112}}\n\ndata: [DONE]\n\n";
    format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len())
}

/// The beginning of time for both ends of a measurement: they live in one process.
pub fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_they_claim() {
        let answer = json_answer();
        let body = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - body, JSON_BYTES);
        assert_eq!(event().len(), 2 + 2 + EVENT_BYTES + 2);
        assert!(event().starts_with("78\r\ndata: {") && event().ends_with("\n\n\r\n"));
    }

    #[test]
    fn the_model_says_what_is_asked_for() {
        assert!(matches!(asked(br#"{"model":"json"}"#), Asked::Json));
        let Asked::Stream { events, period } = asked(br#"{"model":"sse-100-10","stream":true}"#) else {
            panic!("a stream")
        };
        assert_eq!((events, period), (100, Duration::from_millis(10)));
    }
}
