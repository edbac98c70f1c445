//! The session towards an HTTP/2 client: one stream of a connection.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Request, Response, Version};
use tokio::time::timeout;

use super::answer::AnswerHead;
use super::downstream::{BodyError, Limits};
use super::h1::head::{HeadError, is_authority};
use super::headers::RequestHead;

/// A stream and the state of the request on it.
pub struct H2Server {
    request_body: RecvStream,
    respond: SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
    out: Vec<u8>,
    ended: bool,
    answers_head: bool,
    write_deadline: Duration,
}

impl H2Server {
    /// Takes a stream that the connection accepted, and its request's head.
    pub fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        limits: &Limits,
    ) -> (Self, Result<RequestHead, HeadError>) {
        let answers_head = request.method() == http::Method::HEAD;
        let (parts, request_body) = request.into_parts();
        let head = read_head(parts, limits);
        let session = Self {
            request_body,
            respond,
            body: None,
            out: Vec::new(),
            ended: false,
            answers_head,
            write_deadline: limits.write,
        };
        (session, head)
    }

    /// Whether the request's body was read to its end.
    pub fn is_request_done(&self) -> bool {
        self.request_body.is_end_stream()
    }

    /// Appends the next piece of the request's body to `body`; `false` at its end.
    pub async fn read_body(&mut self, body: &mut Vec<u8>, idle: Duration) -> Result<bool, BodyError> {
        match timeout(idle, self.request_body.data()).await {
            Err(_) => Err(BodyError::Timeout),
            Ok(None) => Ok(false),
            Ok(Some(Err(_))) => Err(BodyError::Gone),
            Ok(Some(Ok(data))) => {
                body.extend_from_slice(&data);
                let _ = self.request_body.flow_control().release_capacity(data.len());
                Ok(true)
            }
        }
    }

    /// Ready when the client reset the stream or the connection ended.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.body {
            Some(body) => body.poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    /// Sends the answer's head.
    pub fn start(&mut self, head: &AnswerHead) -> io::Result<()> {
        let mut response = Response::new(());
        *response.version_mut() = Version::HTTP_2;
        *response.status_mut() = http::StatusCode::from_u16(head.status).map_err(invalid)?;
        for (name, value) in head.headers.iter() {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(invalid)?;
            response
                .headers_mut()
                .append(name, HeaderValue::from_bytes(value).map_err(invalid)?);
        }
        if let Some(length) = head.length.filter(|_| !head.is_bodiless()) {
            response
                .headers_mut()
                .insert(http::header::CONTENT_LENGTH, length.into());
        }
        let end = self.answers_head || head.is_bodiless() || head.length == Some(0);
        self.body = Some(self.respond.send_response(response, end).map_err(broken)?);
        self.ended = end;
        Ok(())
    }

    /// Puts a piece of the answer's body into the output.
    pub fn push(&mut self, data: &[u8]) {
        if !self.ended {
            self.out.extend_from_slice(data);
        }
    }

    /// Bytes that wait to be written.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Writes what waits, as fast as the client's window allows.
    pub async fn flush(&mut self) -> io::Result<()> {
        let mut data = Bytes::from(std::mem::take(&mut self.out));
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        while !data.is_empty() {
            body.reserve_capacity(data.len());
            let capacity = timeout(self.write_deadline, poll_fn(|cx| body.poll_capacity(cx))).await;
            let granted = match capacity {
                Ok(Some(Ok(granted))) => granted,
                Ok(_) => return Err(ErrorKind::ConnectionReset.into()),
                Err(_) => return Err(ErrorKind::TimedOut.into()),
            };
            body.send_data(data.split_to(granted.min(data.len())), false)
                .map_err(broken)?;
        }
        Ok(())
    }

    /// Ends the answer properly.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.flush().await?;
        if let Some(body) = self.body.as_mut().filter(|_| !self.ended) {
            self.ended = true;
            body.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Ok(())
    }

    /// Ends the stream so that the client knows that the answer is broken.
    pub fn reset(&mut self) {
        match &mut self.body {
            Some(body) => body.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

fn read_head(parts: http::request::Parts, limits: &Limits) -> Result<RequestHead, HeadError> {
    let target = match parts.uri.path_and_query() {
        Some(target) if parts.method != http::Method::CONNECT => target.as_str(),
        _ => return Err(HeadError::Malformed("the request target is not a path")),
    };
    if target.len() > limits.heads.target {
        return Err(HeadError::TargetTooLong);
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return Err(HeadError::Malformed("the request target is not a path"));
    }
    if parts.headers.len() > limits.heads.fields {
        return Err(HeadError::TooLarge);
    }
    let mut headers = parts.headers;
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = headers.get(http::header::HOST).cloned();
    match (authority, host.as_ref().map(HeaderValue::as_bytes)) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(HeadError::Malformed("Host and :authority differ"));
        }
        (Some(one), _) | (None, Some(one)) if is_authority(one) => {
            headers.insert(
                http::header::HOST,
                HeaderValue::from_bytes(one).map_err(|_| HeadError::Malformed("Host is not text"))?,
            );
        }
        (None, None) => return Err(HeadError::Malformed("Host is missing")),
        _ => return Err(HeadError::Malformed("Host is not a host and port")),
    }
    Ok(RequestHead {
        target: target.to_owned(),
        method: parts.method,
        version: Version::HTTP_2,
        headers,
    })
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, error)
}
