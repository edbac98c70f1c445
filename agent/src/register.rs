//! Making a machine known to its server: a one-time token becomes the machine's own.

use std::time::Duration;

use ace_policies::{MachineId, Secret, wire::Capabilities};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    http::{Answer, Http, HttpError},
    machine::Facts,
};

const PATH: &str = "api/remote/agent/register";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server is told.
#[derive(Serialize)]
struct Registration<'a> {
    registration_token: &'a str,
    machine_id: MachineId,
    machine_name: &'a str,
    hostname: &'a str,
    os_type: &'a str,
    os_version: &'a str,
    capabilities: Capabilities,
    agent_version: &'static str,
}

/// What it answers.
#[derive(Deserialize)]
struct Registered {
    machine: Machine,
}

#[derive(Deserialize)]
struct Machine {
    agent_token: String,
}

/// The machine is not known by this attempt.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Trying again is safe, and may help: the server spends a token only when it stores the machine, and answers a repeated
    /// registration of the same machine.
    #[error(transparent)]
    NotReached(#[from] HttpError),
    #[error("{url} answers {status}: {problem}")]
    NotNow {
        url: String,
        status: StatusCode,
        problem: String,
    },
    #[error(
        "the server refuses the registration token: {0}. It is good once and for an hour; ask an administrator for a new one \
         (Manage > Remote Machines > Generate Registration Token)"
    )]
    Token(String),
    #[error("{url} refuses the registration with {status}: {problem}")]
    Refused {
        url: String,
        status: StatusCode,
        problem: String,
    },
    #[error("{url} answers, but not as a server of ours would: {problem}; is server_url right?")]
    Strange { url: String, problem: String },
}

impl RegisterError {
    /// Whether the same attempt may work later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NotReached(_) | Self::NotNow { .. })
    }
}

/// Registers the machine and returns its token.
pub async fn register(
    http: &Http,
    token: &Secret,
    machine_id: MachineId,
    machine_name: &str,
    facts: &Facts,
) -> Result<Secret, RegisterError> {
    let body = serde_json::to_vec(&Registration {
        registration_token: token.expose(),
        machine_id,
        machine_name,
        hostname: &facts.hostname,
        os_type: &facts.os_type,
        os_version: &facts.os_version,
        capabilities: facts.capabilities(),
        agent_version: crate::VERSION,
    });
    let answer = http.post(PATH, None, body.unwrap_or_default(), PATIENCE).await?;
    understand(answer)
}

fn understand(answer: Answer) -> Result<Secret, RegisterError> {
    let (url, status, problem) = (answer.url.clone(), answer.status, answer.problem());
    match status {
        StatusCode::OK => match serde_json::from_slice::<Registered>(&answer.body) {
            Ok(registered) => Ok(Secret::new(registered.machine.agent_token)),
            Err(error) => Err(RegisterError::Strange {
                url,
                problem: error.to_string(),
            }),
        },
        StatusCode::UNAUTHORIZED => Err(RegisterError::Token(problem)),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(RegisterError::Strange { url, problem }),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(RegisterError::NotNow { url, status, problem })
        }
        status => Err(RegisterError::Refused { url, status, problem }),
    }
}
