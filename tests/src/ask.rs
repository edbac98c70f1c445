//! A request, written out byte by byte.

use bytes::Bytes;
use serde_json::Value;

/// A request that a story sends; what it does not say is not sent, `Host` and the framing of the body excepted.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    None,
    Whole(Bytes),
    Chunks(Vec<Bytes>),
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// A body with `content-length`.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// A body of unknown length, in these chunks.
    pub fn chunks(mut self, chunks: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        self.body = Body::Chunks(chunks.into_iter().map(Into::into).collect());
        self
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }

    /// The request line and the headers, with the empty line after them.
    pub fn head(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut line =
            |name: &str, value: &[u8]| head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        if !self.has("host") {
            line("Host", host.as_bytes());
        }
        self.headers.iter().for_each(|(name, value)| line(name, value));
        match &self.body {
            Body::Whole(body) if !self.has("content-length") => {
                line("Content-Length", body.len().to_string().as_bytes())
            }
            Body::Chunks(_) => line("Transfer-Encoding", b"chunked"),
            _ => {}
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The whole request.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let mut all = self.head(host);
        match &self.body {
            Body::None => {}
            Body::Whole(body) => all.extend_from_slice(body),
            Body::Chunks(chunks) => {
                chunks.iter().for_each(|bytes| all.extend_from_slice(&chunk(bytes)));
                all.extend_from_slice(b"0\r\n\r\n");
            }
        }
        all
    }
}

/// One chunk of the chunked coding.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}
