//! The one error of the API: what people read, what programs match on, and what only the log may say.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use ace_policies::Denied;
use ace_policies::session::State;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// An answer that says no, or that something broke.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    session_status: Option<State>,
    retry_after: Option<Duration>,
    /// For the log alone.
    cause: Option<Box<dyn Error + Send + Sync>>,
}

/// The body of every error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// A sentence for people.
    error: Cow<'static, str>,
    /// Stable, for programs.
    #[schema(value_type = String)]
    code: &'static str,
    /// The way out, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<Cow<'static, str>>,
    /// The state of the session, where that is what is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session_status: Option<State>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            hint: None,
            session_status: None,
            retry_after: None,
            cause: None,
        }
    }

    /// A body or query that is not what it should be. The message names the field.
    pub(crate) fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A field whose value is not acceptable.
    pub(crate) fn field(field: &str, problem: impl fmt::Display) -> Self {
        Self::bad("invalid_field", format!("{field}: {problem}"))
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authenticated", "log in first").hint("POST /api/auth/login")
    }

    pub(crate) fn forbidden(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    pub(crate) fn not_found(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("no such {what}"))
    }

    pub(crate) fn conflict(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(crate) fn too_many(code: &'static str, message: impl Into<Cow<'static, str>>, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
    }

    /// Something of ours broke. The cause goes to the log, not to the caller.
    pub(crate) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let message = "something went wrong here; the log of the control API has the reason under this request id";
        Self {
            cause: Some(cause.into()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        }
    }

    /// The database cannot be asked now. Nothing is allowed meanwhile.
    fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let message = "the database does not answer; try again in a moment";
        Self {
            cause: Some(cause.into()),
            retry_after: Some(Duration::from_secs(2)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        }
    }

    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Says in which state a session is that something was refused for.
    #[must_use]
    pub(crate) fn session_status(self, state: State) -> Self {
        Self {
            session_status: Some(state),
            ..self
        }
    }

    /// What people read.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code of the answer.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{}: {cause}", self.code),
            None => f.write_str(&self.message),
        }
    }
}

impl Error for ApiError {}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::FORBIDDEN);
        let error = Self::new(status, denied.code(), denied.to_string());
        match denied {
            Denied::PasswordChangeRequired => error.hint("POST /api/auth/change-password"),
            _ => error,
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(status = self.status.as_u16(), code = self.code, cause = %cause, "request failed");
        }
        let body = ErrorBody {
            error: self.message,
            code: self.code,
            hint: self.hint,
            session_status: self.session_status,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response
    }
}

/// What a constraint of the database says about a write.
pub(crate) trait OnConstraint<T> {
    /// Turns the violation of a unique constraint into an answer for people; other errors stay what they are.
    fn on_duplicate(self, answer: impl FnOnce() -> ApiError) -> Result<T, ApiError>;
}

impl<T> OnConstraint<T> for Result<T, sqlx::Error> {
    fn on_duplicate(self, answer: impl FnOnce() -> ApiError) -> Result<T, ApiError> {
        self.map_err(|error| match error.as_database_error() {
            Some(violation) if violation.is_unique_violation() => answer(),
            _ => error.into(),
        })
    }
}
