//! The conversation with an agent, whatever carries it.

use ace_policies::SessionId;
use ace_policies::wire::{Connect, FromAgent, PROTOCOL, ToAgent};
use sqlx::Row;

use super::connections::{self, Connection};
use super::credential::{Verdict, unregistered, verdict};
use super::hand_over::{Dialect, Handed, fresh_token, hand_over};
use super::{Agent, lost, reports};
use crate::App;
use crate::error::ApiError;
use crate::queue;

/// An agent that is connected.
pub(super) struct Link {
    pub app: App,
    pub agent: Agent,
    pub connection: Connection,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It does.
    Good,
    /// Another connection of this machine has taken its place.
    Replaced,
    /// It was taken for dead, after a time without a database for instance. The agent is to connect anew.
    Lapsed,
    /// Its token has ended.
    Revoked,
    /// Its machine was taken off the list.
    Unregistered,
}

impl Link {
    /// Takes an agent's first word and makes its connection the machine's; returns the answer. What was handed to another
    /// connection and not acknowledged is due again. Errors: 400 where the agent is one that cannot be understood.
    pub async fn open(
        app: App,
        agent: Agent,
        connection: Connection,
        hello: &Connect,
    ) -> Result<(Self, ToAgent), ApiError> {
        judge(&agent, hello)?;
        let mut record = app.record().await?;
        connections::lock(&mut record, agent.machine).await?;
        reports::introduced(&mut record, &agent, hello).await?;
        connections::claim(&mut record, &agent, connection).await?;
        lost::wonder(&mut record, agent.machine, &hello.sessions).await?;
        queue::redeliver(&mut record, agent.machine).await?;
        let sessions = reports::known(&mut record, agent.machine, &hello.sessions).await?;
        record.commit().await?;
        let welcome = ToAgent::Welcome {
            protocol: PROTOCOL,
            heartbeat_interval_s: app.config().heartbeat_interval.as_secs(),
            server_time_ms: app.now(),
            sessions,
        };
        let link = Self { app, agent, connection };
        Ok((link, welcome))
    }

    /// Takes a message and returns what is to be said to it. Errors are such that the agent must begin anew, or wait: what cannot be
    /// used is said in an answer.
    pub async fn hear(&self, message: FromAgent) -> Result<Vec<ToAgent>, ApiError> {
        let output = match &message {
            FromAgent::Output { session_id, lines } => lines.last().map(|line| (*session_id, line.seq)),
            _ => None,
        };
        match self.take(message).await {
            Err(error) if error.status().is_client_error() => Ok(refused(&error, output)),
            answer => answer,
        }
    }

    async fn take(&self, message: FromAgent) -> Result<Vec<ToAgent>, ApiError> {
        let (app, agent) = (&self.app, &self.agent);
        match message {
            FromAgent::Connect(_) => return Err(ApiError::bad("already_connected", "connect comes first, and once")),
            FromAgent::Heartbeat { capabilities, .. } => reports::heartbeat(app, agent, capabilities.as_ref()).await?,
            FromAgent::Output { session_id, lines } => {
                let last_seq = reports::output(app, agent, session_id, &lines).await?;
                return Ok(vec![ToAgent::OutputAck { session_id, last_seq }]);
            }
            FromAgent::Status {
                session_id,
                run,
                state,
                busy,
                resume_id,
                message,
            } => {
                let said = reports::Said {
                    state,
                    busy,
                    resume_id: resume_id.as_deref(),
                    message: message.as_deref(),
                };
                reports::status(app, agent, session_id, run, said).await?;
            }
            FromAgent::Approval {
                session_id,
                run,
                request_id,
                tool_name,
                input,
            } => reports::asked(app, agent, session_id, Some(run), (&request_id, &tool_name, &input)).await?,
            FromAgent::ApprovalCancelled { session_id, request_id } => {
                reports::withdrawn(app, agent, session_id, &request_id).await?;
            }
            FromAgent::Ack { command_id } => reports::acknowledged(app, agent, command_id).await?,
            FromAgent::Done {
                command_id,
                result,
                error,
            } => {
                let outcome = error.as_ref().map_or(Ok(result.as_ref()), Err);
                reports::done(app, agent, command_id, outcome).await?;
            }
            FromAgent::TokenRequest { session_id, run } => return self.token(session_id, run).await,
        }
        Ok(Vec::new())
    }

    async fn token(&self, session_id: SessionId, run: i64) -> Result<Vec<ToAgent>, ApiError> {
        let token = fresh_token(&self.app, &self.agent, session_id, run).await?;
        let token = token.ok_or_else(|| {
            let message =
                format!("session {session_id} does not run here, or not in run {run}: there is no token for it");
            ApiError::forbidden("no_such_run", message)
        })?;
        Ok(vec![ToAgent::Token {
            session_id,
            token: token.token,
            expires_at_s: token.expires_at,
        }])
    }

    /// What the agent is to do next, as much as goes at once, and whether there is more: to be asked for when this is sent. The leases of
    /// what waits to be sent run.
    pub async fn due(&self) -> Result<(Vec<ToAgent>, bool), ApiError> {
        while queue::is_anything_due(&self.app, self.agent.machine).await? {
            let (handed, more) = hand_over(&self.app, &self.agent, Some(self.connection.id), Dialect::Own).await?;
            if !handed.is_empty() || !more {
                return Ok((handed.into_iter().map(told).collect(), more));
            }
        }
        Ok((Vec::new(), false))
    }

    /// Whether this connection is the machine's still, and its token good.
    pub async fn standing(&self) -> Result<Standing, ApiError> {
        match verdict(&self.app, self.agent.machine, &self.agent.token_hash).await? {
            Verdict::Good => {}
            Verdict::Ended => return Ok(Standing::Revoked),
            Verdict::Unregistered => return Ok(Standing::Unregistered),
        }
        let row = sqlx::query("SELECT connection_id FROM agent_connections WHERE machine_id = $1")
            .bind(self.agent.machine.to_string())
            .fetch_optional(&self.app.db().read)
            .await?;
        let holder: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        match holder {
            Some(holder) if holder == self.connection.id.to_string() => Ok(Standing::Good),
            Some(_) => Ok(Standing::Replaced),
            None => Ok(Standing::Lapsed),
        }
    }
}

fn told(handed: Handed) -> ToAgent {
    ToAgent::Command {
        command_id: handed.command_id,
        expires_at_ms: handed.expires_at,
        command: handed.command,
    }
}

fn judge(agent: &Agent, hello: &Connect) -> Result<(), ApiError> {
    if hello.machine_id != agent.machine {
        let message = "the agent token is another machine's: machine_id is not the one that it was given to";
        return Err(ApiError::forbidden("wrong_machine", message));
    }
    if hello.protocol != PROTOCOL {
        let message = format!(
            "protocol {} is not spoken here, only {PROTOCOL}; update the agent or the server",
            hello.protocol
        );
        return Err(ApiError::bad("unknown_protocol", message));
    }
    Ok(())
}

/// Says that something cannot be used. Output that has no place is acknowledged as well: the agent need not keep it.
fn refused(error: &ApiError, output: Option<(SessionId, i64)>) -> Vec<ToAgent> {
    let output = output.map(|(session_id, last_seq)| ToAgent::OutputAck { session_id, last_seq });
    output.into_iter().chain([said(error, false)]).collect()
}

/// An error as agents are told it.
pub(super) fn said(error: &ApiError, fatal: bool) -> ToAgent {
    ToAgent::Error {
        code: error.code().to_owned(),
        message: error.message().to_owned(),
        fatal,
    }
}

impl Standing {
    /// Why it does not go on.
    pub fn farewell(self) -> Option<ToAgent> {
        let farewell = match self {
            Self::Good => return None,
            Self::Replaced => ApiError::conflict("replaced", "another connection of this machine has taken over"),
            Self::Lapsed => ApiError::conflict("not_connected", "this connection is not known here; connect anew"),
            Self::Revoked => ApiError::forbidden("invalid_agent_token", "the agent token was revoked or replaced"),
            Self::Unregistered => unregistered(),
        };
        Some(said(&farewell, true))
    }
}
