//! Requests to the server's API: short ones, and the long poll. Errors name the address, the step that failed and the way out.

use std::{error::Error as _, io, time::Duration};

use ace_policies::Secret;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use crate::transport::{Connector, DialError, GatewayUrl};

/// For each step of a connection: name, TCP, proxy, TLS.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer of the server's to an agent.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Of an answer that says why something is wrong.
const MAX_SHOWN: usize = 300;
const POOL_IDLE: Duration = Duration::from_secs(60);

/// A pool of connections to one server.
pub struct Http {
    gateway: GatewayUrl,
    client: Client<Connector, Full<Bytes>>,
}

/// What the server says, whatever it is.
pub struct Answer {
    /// The address that was asked.
    pub url: String,
    pub status: StatusCode,
    /// How long it wants us to wait, where it says so in seconds.
    pub retry_after: Option<Duration>,
    /// Its clock, as the header has it.
    pub date: Option<String>,
    pub body: Bytes,
}

/// There was no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{url}: HTTP: {problem} (does a proxy in between cut connections off?)")]
    Broken { url: String, problem: String },
}

impl Http {
    /// A client of this gateway, and of nothing else.
    pub fn new(gateway: &GatewayUrl) -> io::Result<Self> {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(gateway.connector(CONNECT_PATIENCE)?);
        Ok(Self {
            gateway: gateway.clone(),
            client,
        })
    }

    /// Sends JSON to a path below the gateway's address.
    pub async fn post(
        &self,
        path: &str,
        token: Option<&Secret>,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Answer, HttpError> {
        self.send(Method::POST, path, token, body, patience).await
    }

    /// Asks for a path below the gateway's address.
    pub async fn get(&self, path: &str, token: Option<&Secret>, patience: Duration) -> Result<Answer, HttpError> {
        self.send(Method::GET, path, token, Vec::new(), patience).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Answer, HttpError> {
        let url = self.gateway.at(path).to_string();
        let broken = |problem: String| HttpError::Broken {
            url: url.clone(),
            problem,
        };
        let request = request(method, &url, token, body).map_err(|error| broken(error.to_string()))?;
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| match dial_error(&error) {
                    Some(dial) => dial.into(),
                    None => broken(with_sources(&error)),
                })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
            Ok::<_, HttpError>((head, body))
        };
        let answered = timeout(patience, exchange).await;
        let (head, body) = answered.map_err(|_| broken(format!("no answer within {patience:?}")))??;
        let text = |name| {
            head.headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        Ok(Answer {
            url,
            status: head.status,
            retry_after: text(RETRY_AFTER)
                .and_then(|text| text.parse().ok())
                .map(Duration::from_secs),
            date: text(DATE).map(str::to_owned),
            body,
        })
    }
}

/// Puts a bearer token into a request's headers, marked as one that is not to be shown.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn request(
    method: Method,
    url: &str,
    token: Option<&Secret>,
    body: Vec<u8>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(url)
        .header(USER_AGENT, crate::USER_AGENT)
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, bearer(token)?);
    }
    request.body(Full::new(body.into()))
}

fn dial_error(error: &hyper_util::client::legacy::Error) -> Option<DialError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return Some(dial.clone());
        }
        source = error.source();
    }
    None
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Answer {
    /// What the server says is wrong: its own sentence where it has one.
    pub fn problem(&self) -> String {
        problem_in(&self.body)
    }
}

/// The `error` of an answer's JSON, else the beginning of its text.
pub(crate) fn problem_in(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        error: String,
        #[serde(default)]
        hint: Option<String>,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem {
            error,
            hint: Some(hint),
        }) => format!("{error} ({hint})"),
        Ok(Problem { error, .. }) => error,
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).chars().take(MAX_SHOWN).collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}
