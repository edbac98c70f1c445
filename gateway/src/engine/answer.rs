//! The head of an answer on its way to the client, before its framing is chosen.

use super::headers::Headers;

/// Status and end-to-end fields. Framing (`content-length`, `transfer-encoding`) and `connection` are added by the session
/// that writes it, because they belong to the hop.
pub struct AnswerHead {
    /// Status code.
    pub status: u16,
    /// Reason phrase; empty takes the standard one.
    pub reason: String,
    /// End-to-end fields only.
    pub headers: Headers,
    /// Length of the body where it is known before it is sent.
    pub length: Option<u64>,
}

impl AnswerHead {
    /// An answer whose body has `length` bytes.
    pub fn new(status: u16, length: Option<u64>) -> Self {
        Self {
            status,
            reason: String::new(),
            headers: Headers::with_capacity(8),
            length,
        }
    }

    /// Whether an answer with this status never has a body (RFC 9110 §6.4.1).
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, 100..=199 | 204 | 304)
    }
}
