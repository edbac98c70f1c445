//! The load generator: one thread, one task a connection, prepared bytes out, and an incremental reader for what comes
//! back. It must cost less than what it measures; the report shows its share.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncReadExt, net::TcpStream};

pub mod json;
pub mod reader;
pub mod stream;

use reader::{Reader, Step};

/// Where to send requests, and with which credential.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub token: String,
    /// The process whose CPU time is counted; none when there is nothing between the generator and the mock.
    pub pid: Option<u32>,
}

/// Bytes of a request's body.
const REQUEST_BYTES: usize = 1024;

impl Endpoint {
    /// A request that is answered with 1 kB of JSON at once.
    pub fn json_request(&self) -> Vec<u8> {
        self.request(r#"{"model":"json","messages":[{"role":"user","content":""#)
    }

    /// A request that is answered with a stream of `events`, one each `period`.
    pub fn stream_request(&self, events: usize, period: Duration) -> Vec<u8> {
        let model = format!("sse-{events}-{}", period.as_millis());
        let options = r#""stream":true,"stream_options":{"include_usage":true}"#;
        self.request(&format!(
            r#"{{"model":"{model}",{options},"messages":[{{"role":"user","content":""#
        ))
    }

    fn request(&self, opening: &str) -> Vec<u8> {
        const CLOSING: &str = r#""}]}"#;
        let filling = "x".repeat(REQUEST_BYTES - opening.len() - CLOSING.len());
        let (host, token) = (self.address, &self.token);
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\naccept: */*\r\nuser-agent: ace-bench\r\ncontent-length: {REQUEST_BYTES}\r\n\r\n"
        );
        format!("{head}{opening}{filling}{CLOSING}").into_bytes()
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            reader: Reader::default(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        })
    }
}

/// Holds a small answer whole; a partial read then tells that the socket is empty without asking again.
const READ_BYTES: usize = 4096;

/// One client connection.
pub struct Connection {
    pub stream: TcpStream,
    reader: Reader,
    buffer: Box<[u8]>,
}

impl Connection {
    /// Reads once and hands the body's bytes to `sink`; true when the answer is complete. Anything but 200 is an error.
    pub async fn read_some(&mut self, mut sink: impl FnMut(&[u8])) -> anyhow::Result<bool> {
        let read = self.stream.read(&mut self.buffer).await?;
        if read == 0 {
            anyhow::bail!("the connection was closed in the middle of an answer");
        }
        let mut rest = &self.buffer[..read];
        loop {
            match self.reader.step(&mut rest)? {
                Step::More => return Ok(false),
                Step::Body(bytes) => sink(bytes),
                Step::End => return Ok(true),
            }
        }
    }
}
