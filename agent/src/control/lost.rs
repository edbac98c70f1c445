//! Why there is no connection, or no longer one, and what follows from it.

use std::time::Duration;

use http::StatusCode;

use crate::{http::HttpError, transport::DialError};

/// The end of a connection, or of an attempt at one.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error(
        "this machine has no agent token: register it (ace-agent register --server URL --token TOKEN), or put a registration_token \
         into config.json"
    )]
    NoToken,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{url} answers {status}: {problem}{}", way_out(*.status))]
    Refused {
        url: String,
        status: StatusCode,
        problem: String,
        retry_after: Option<Duration>,
    },
    #[error("the connection to {url} broke: {problem}")]
    Broken { url: String, problem: String },
    #[error("{url} has been silent for {after:?}")]
    Silent { url: String, after: Duration },
    #[error("{url} took the connection but did not say Welcome within {after:?}")]
    Speechless { url: String, after: Duration },
    #[error("the server ended the connection: {0}")]
    Closed(String),
    #[error("the server ended the connection: {message} ({code})")]
    Told { code: String, message: String },
    #[error("the sessions do not keep up with the server's messages")]
    Overrun,
    /// The token was replaced; the next connection uses the new one.
    #[error("the agent token was replaced")]
    Rotated,
    /// The machine was taken off the server's list.
    #[error("this machine was taken off the server's list")]
    Unregistered,
    /// The agent was asked to end.
    #[error("the agent ends")]
    Stopping,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Connect again after the usual wait, or the longer one that the server asked for.
    Retry(Option<Duration>),
    /// The other transport may work where this one does not.
    OtherTransport,
    /// Connect at once.
    Now,
    /// Somebody has to change something at the server.
    LongWait,
    /// The token is good for nothing.
    Unauthorized,
    /// There is nothing more to do.
    End,
}

/// Codes of the server's last words that mean: not these credentials.
const UNAUTHORIZED: [&str; 4] = ["invalid_agent_token", "revoked", "machine_deleted", "unauthorized"];
/// And those that mean: not this agent, not as it is.
const CONFLICTS: [&str; 5] = [
    "replaced",
    "conflict",
    "forbidden",
    "unsupported_protocol",
    "machine_mismatch",
];

impl Lost {
    /// Whether the token is good for nothing.
    pub fn is_unauthorized(&self) -> bool {
        self.next() == Next::Unauthorized
    }

    pub(super) fn next(&self) -> Next {
        match self {
            Self::Refused {
                status, retry_after, ..
            } => match *status {
                StatusCode::UNAUTHORIZED => Next::Unauthorized,
                StatusCode::FORBIDDEN | StatusCode::CONFLICT => Next::LongWait,
                StatusCode::TOO_MANY_REQUESTS => Next::Retry(*retry_after),
                _ if retry_after.is_some() => Next::Retry(*retry_after),
                _ => Next::OtherTransport,
            },
            Self::Told { code, .. } if UNAUTHORIZED.contains(&code.as_str()) => Next::Unauthorized,
            Self::Told { code, .. } if CONFLICTS.contains(&code.as_str()) => Next::LongWait,
            Self::Speechless { .. } => Next::OtherTransport,
            Self::NoToken => Next::Unauthorized,
            Self::Rotated => Next::Now,
            Self::Unregistered | Self::Stopping => Next::End,
            _ => Next::Retry(None),
        }
    }
}

fn way_out(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "; the agent token is invalid or revoked: register this machine again with a new registration token (ace-agent register)"
        }
        StatusCode::FORBIDDEN | StatusCode::CONFLICT => {
            "; is another agent running with this machine's id? Look at the machine in the server's list"
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            "; does server_url lead to the gateway, and does a proxy in between let WebSockets through?"
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            "; the server, or a proxy before it, is not ready"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_consequence() {
        #[track_caller]
        fn check(status: u16, retry_after: Option<u64>, expected: Next) {
            let lost = Lost::Refused {
                url: "u".to_owned(),
                status: StatusCode::from_u16(status).unwrap(),
                problem: String::new(),
                retry_after: retry_after.map(Duration::from_secs),
            };
            assert_eq!(lost.next(), expected, "{status}");
        }
        check(401, None, Next::Unauthorized);
        check(403, None, Next::LongWait);
        check(409, None, Next::LongWait);
        check(429, Some(7), Next::Retry(Some(Duration::from_secs(7))));
        check(503, Some(7), Next::Retry(Some(Duration::from_secs(7))));
        for status in [400, 404, 405, 426, 500, 501, 502, 503] {
            check(status, None, Next::OtherTransport);
        }
        let told = |code: &str| Lost::Told {
            code: code.to_owned(),
            message: String::new(),
        };
        assert_eq!(told("invalid_agent_token").next(), Next::Unauthorized);
        assert_eq!(told("replaced").next(), Next::LongWait);
        assert_eq!(told("anything").next(), Next::Retry(None));
    }
}
