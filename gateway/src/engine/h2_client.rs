//! The session towards an HTTP/2 server: one stream of a shared connection.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use tokio::time::timeout;

use super::Stream;
use super::h1::client::AnswerError;
use super::headers::{Headers, ResponseHead};
use super::pool::Streams;

/// The window that we offer per stream: answers are passed on as they come, so this bounds what waits for a slow client.
const WINDOW: u32 = 1024 * 1024;
/// The connection's has room for all of them, so that clients that stop reading do not stop everybody's answers.
const CONNECTION_WINDOW: u32 = 128 * WINDOW;

/// A request in flight.
pub struct H2Client {
    answer: Option<ResponseFuture>,
    request: SendStream<Bytes>,
    body: Option<RecvStream>,
    piece: Bytes,
    done: bool,
    _counted: Streams,
}

/// Makes a connection ready for requests and leaves it to a task of its own.
pub async fn handshake(stream: Stream, max_head: usize) -> io::Result<SendRequest<Bytes>> {
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(max_head as u32)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(broken)?;
    tokio::spawn(async move {
        // Its streams hear of a broken connection themselves.
        let _ = connection.await;
    });
    Ok(requests)
}

/// The parts of a request, as HTTP/2 wants them.
pub struct H2Request<'a> {
    /// Method.
    pub method: &'a Method,
    /// Scheme, host with port, path and query.
    pub uri: String,
    /// End-to-end fields.
    pub headers: &'a Headers,
}

impl H2Client {
    /// Opens a stream and sends the request with its whole body. The body is sent while the server's window allows.
    pub async fn send(
        (requests, counted): (SendRequest<Bytes>, Streams),
        request: H2Request<'_>,
        body: Bytes,
        deadline: Duration,
    ) -> io::Result<Self> {
        let mut requests = timeout(deadline, requests.ready())
            .await
            .map_err(|_| ErrorKind::TimedOut)?
            .map_err(broken)?;
        let mut head = Request::new(());
        *head.version_mut() = Version::HTTP_2;
        *head.method_mut() = request.method.clone();
        *head.uri_mut() = request
            .uri
            .parse()
            .map_err(|error: http::uri::InvalidUri| io::Error::new(ErrorKind::InvalidInput, error))?;
        for (name, value) in request.headers.iter() {
            let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
            else {
                continue;
            };
            head.headers_mut().append(name, value);
        }
        let (answer, stream) = requests.send_request(head, body.is_empty()).map_err(broken)?;
        let mut session = Self {
            answer: Some(answer),
            request: stream,
            body: None,
            piece: Bytes::new(),
            done: false,
            _counted: counted,
        };
        session.send_body(body, deadline).await?;
        Ok(session)
    }

    async fn send_body(&mut self, mut body: Bytes, deadline: Duration) -> io::Result<()> {
        while !body.is_empty() {
            self.request.reserve_capacity(body.len());
            let granted = match timeout(deadline, poll_fn(|cx| self.request.poll_capacity(cx))).await {
                Ok(Some(Ok(granted))) => granted.min(body.len()),
                Ok(Some(Err(error))) => return Err(broken(error)),
                // The server answered early and wants no more of the body.
                Ok(None) => return Ok(()),
                Err(_) => return Err(ErrorKind::TimedOut.into()),
            };
            let piece = body.split_to(granted);
            self.request.send_data(piece, body.is_empty()).map_err(broken)?;
        }
        Ok(())
    }

    /// Waits for the head of the answer. Cancel-safe.
    pub async fn read_head(&mut self) -> Result<ResponseHead, AnswerError> {
        let Some(answer) = &mut self.answer else {
            return Err(AnswerError::Closed);
        };
        let response = answer.await.map_err(|error| AnswerError::Io(broken(error)))?;
        self.answer = None;
        let (parts, body) = response.into_parts();
        self.done = body.is_end_stream();
        self.body = Some(body);
        let mut headers = Headers::with_capacity(parts.headers.len());
        for (name, value) in &parts.headers {
            headers.push(name.as_str(), value.as_bytes());
        }
        let length = super::h1::head::content_length(headers.get_all("content-length"))?;
        Ok(ResponseHead {
            status: parts.status.as_u16(),
            reason: String::new(),
            headers,
            length,
        })
    }

    /// Gives what was received to `sink`; `true` at the end of the body.
    pub fn decode(&mut self, sink: &mut dyn FnMut(&[u8])) -> bool {
        let piece = std::mem::take(&mut self.piece);
        if !piece.is_empty() {
            sink(&piece);
        }
        self.done
    }

    /// Waits for more of the answer. Cancel-safe.
    pub async fn fill(&mut self) -> Result<bool, AnswerError> {
        let Some(body) = &mut self.body else {
            return Err(AnswerError::Closed);
        };
        match body.data().await {
            Some(Ok(data)) => {
                let _ = body.flow_control().release_capacity(data.len());
                self.piece = data;
                self.done = body.is_end_stream();
            }
            Some(Err(error)) => return Err(AnswerError::Io(broken(error))),
            None => self.done = true,
        }
        Ok(true)
    }
}

impl Drop for H2Client {
    fn drop(&mut self) {
        if !self.done {
            self.request.send_reset(Reason::CANCEL);
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection to a server that answers every request with more than a stream's window.
    async fn connection() -> SendRequest<Bytes> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data(vec![b'x'; 2 * WINDOW as usize].into(), true).unwrap();
                drop(body);
            }
        });
        handshake(Box::new(ours), 4096).await.unwrap()
    }

    async fn ask(requests: &SendRequest<Bytes>) -> H2Client {
        let request = H2Request {
            method: &Method::GET,
            uri: "http://a/".to_owned(),
            headers: &Headers::default(),
        };
        let soon = Duration::from_secs(5);
        let shared = (requests.clone(), Streams::default());
        let mut session = H2Client::send(shared, request, Bytes::new(), soon).await.unwrap();
        session.read_head().await.unwrap();
        session
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_do_not_hold_up_the_others() {
        let requests = connection().await;
        let mut stalled = Vec::new();
        for _ in 0..8 {
            stalled.push(ask(&requests).await);
        }
        let mut session = ask(&requests).await;
        let read = async {
            let mut length = 0;
            while !session.decode(&mut |data| length += data.len()) {
                session.fill().await.unwrap();
            }
            length
        };
        let length = timeout(Duration::from_secs(5), read).await.expect("not held up");
        assert_eq!(length, 2 * WINDOW as usize);
    }
}
