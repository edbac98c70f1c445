//! Sending a request whose body follows piece by piece, as the client sends it.

use std::time::Duration;

use super::Downstream;
use super::connect::Origin;
use super::downstream::BodyError;
use super::h1::body::frame_chunk;
use super::h1::client::{AnswerError, H1Client};
use super::headers::ResponseHead;
use super::upstream::{OutRequest, REFUSAL, Upstream, UpstreamError, Upstreams};

/// Limits on a body that is passed on as it comes.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    /// Its length, where the client announced it.
    pub length: Option<u64>,
    /// The most bytes.
    pub max: u64,
    /// Between two pieces.
    pub idle: Duration,
    /// For the whole body.
    pub total: Duration,
    /// For the answer to begin once the body is sent.
    pub first_byte: Duration,
}

/// Why an upload got no answer.
#[derive(Debug)]
pub enum UploadError {
    /// The client's side.
    Body(BodyError),
    /// The provider's side.
    Upstream(UpstreamError),
}

impl From<BodyError> for UploadError {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<UpstreamError> for UploadError {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl Upstreams {
    /// Sends a request and its body as the client brings it; returns the answer and how many bytes of the body were sent.
    ///
    /// It takes a connection of its own, over HTTP/1: a body that has flowed cannot be sent again, so a pooled connection that
    /// turns out to be closed would be an error for the client.
    pub async fn upload(
        &self,
        origin: &Origin,
        request: &OutRequest,
        downstream: &mut Downstream,
        limits: UploadLimits,
    ) -> Result<(Upstream, ResponseHead, u64), UploadError> {
        if limits.length.is_some_and(|length| length > limits.max) {
            return Err(BodyError::TooLarge.into());
        }
        let mut session = H1Client::new(self.connect_h1(origin).await?);
        let broken = |error| UpstreamError::Broken(AnswerError::Io(error));
        let head = self.upload_head(origin, request, limits.length);
        session.send(head, &[], self.write_deadline()).await.map_err(broken)?;
        let mut sent = 0;
        let pieces = self.send_pieces(&mut session, downstream, limits, &mut sent);
        let pieces_sent = tokio::time::timeout(limits.total, pieces)
            .await
            .map_err(|_| BodyError::Timeout)??;
        let patience = match pieces_sent {
            Sent::Whole => limits.first_byte,
            Sent::Refused => REFUSAL,
            Sent::Answered(head) => {
                session.close_after();
                return Ok((Upstream::H1(session, origin.key.clone()), head, sent));
            }
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(patience, session.read_head(self.max_head(), false, false)) => answer,
            () = downstream.gone() => return Err(BodyError::Gone.into()),
        };
        let head = answer
            .map_err(|_| UpstreamError::Timeout)?
            .map_err(UpstreamError::Broken)?;
        if matches!(pieces_sent, Sent::Refused) {
            session.close_after();
        }
        Ok((Upstream::H1(session, origin.key.clone()), head, sent))
    }

    async fn send_pieces(
        &self,
        session: &mut H1Client,
        downstream: &mut Downstream,
        limits: UploadLimits,
        sent: &mut u64,
    ) -> Result<Sent, UploadError> {
        let (mut piece, mut wire) = (Vec::new(), Vec::new());
        loop {
            piece.clear();
            let more = tokio::select! {
                biased;
                // The provider answers before it has the whole body: it wants no more of it. Interim answers are read past.
                head = session.read_head(self.max_head(), false, false) => {
                    return Ok(Sent::Answered(head.map_err(UpstreamError::Broken)?));
                }
                more = downstream.read_body(&mut piece, limits.idle) => more?,
            };
            *sent += piece.len() as u64;
            if *sent > limits.max {
                return Err(BodyError::TooLarge.into());
            }
            let bytes = match (limits.length, more) {
                (Some(_), _) => &piece,
                (None, true) => {
                    wire.clear();
                    frame_chunk(&piece, &mut wire);
                    &wire
                }
                (None, false) => &b"0\r\n\r\n".to_vec(),
            };
            if !bytes.is_empty() && session.send_more(bytes, self.write_deadline()).await.is_err() {
                return Ok(Sent::Refused);
            }
            if !more {
                return Ok(Sent::Whole);
            }
        }
    }
}

enum Sent {
    Whole,
    /// The provider answered already.
    Answered(ResponseHead),
    /// The provider stopped reading.
    Refused,
}
