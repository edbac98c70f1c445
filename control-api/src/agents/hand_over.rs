//! Handing commands over, with the secrets that they need: those are made now, and lie in no table.

use std::time::Duration;

use ace_policies::SessionId;
use ace_policies::wire::{Command, Failure, FailureCode, Start};
use axum::http::StatusCode;
use uuid::Uuid;

use super::{Agent, reports};
use crate::error::ApiError;
use crate::machines;
use crate::queue::{self, Due};
use crate::record::Record;
use crate::sessions::SessionRow;
use crate::{App, IssuedToken, TokenWish};

/// How an agent speaks, as far as it matters for what it is handed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    /// It acknowledges all commands, and asks for tokens when they end.
    Own,
    /// It acknowledges some, and goes on with the token it was started with.
    Python,
}

/// A command as it is handed over.
#[derive(Clone, Debug)]
pub(super) struct Handed {
    /// Its row, for [`settled`].
    pub id: i64,
    pub command_id: Uuid,
    /// UTC milliseconds.
    pub expires_at: i64,
    pub command: Command,
}

/// Takes what a machine's agent is to do next, as much as goes at once; with `holder` only while that is the machine's connection.
/// Returns as well whether there is more: of what there is, nothing may be wanted any more.
pub(super) async fn hand_over(
    app: &App,
    agent: &Agent,
    holder: Option<Uuid>,
    dialect: Dialect,
) -> Result<(Vec<Handed>, bool), ApiError> {
    let mut record = app.record().await?;
    let (all, more) = queue::deliver(&mut record, agent.machine, holder).await?;
    let mut due = Vec::with_capacity(all.len());
    for command in all {
        let session = session_to_start(&mut record, agent, &command).await?;
        if session.is_none() && matches!(command.command, Command::StartSession(_)) {
            queue::drop_overtaken(&mut record, &command).await?;
            continue;
        }
        due.push((command, session));
    }
    record.commit().await?;
    let mut handed = Vec::with_capacity(due.len());
    for (due, session) in due {
        handed.extend(with_secrets(app, agent, dialect, due, session).await?);
    }
    Ok((handed, more))
}

/// Notes what an agent that does not acknowledge everything is taken to have done with what it is handed: last of all before it is.
pub(super) async fn settled(app: &App, handed: &[Handed]) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    for handed in handed {
        queue::settle_on_delivery(&mut record, handed.id, handed.command.kind()).await?;
    }
    record.commit().await
}

/// The session that a command starts, where it is to be started still, in that run.
async fn session_to_start(record: &mut Record, agent: &Agent, due: &Due) -> Result<Option<SessionRow>, ApiError> {
    let Command::StartSession(start) = &due.command else {
        return Ok(None);
    };
    let session = current(record, agent, start.session_id, start.run).await?;
    Ok(session)
}

/// A session of the machine that is live, in this run.
async fn current(
    record: &mut Record,
    agent: &Agent,
    session: SessionId,
    run: i64,
) -> Result<Option<SessionRow>, ApiError> {
    let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = $1")
        .bind(session.to_string())
        .fetch_optional(record.sql())
        .await?;
    let row = row.as_ref().map(SessionRow::read).transpose()?;
    Ok(row.filter(|row| row.machine == Some(agent.machine) && row.run == run && row.status.is_live()))
}

async fn with_secrets(
    app: &App,
    agent: &Agent,
    dialect: Dialect,
    due: Due,
    session: Option<SessionRow>,
) -> Result<Option<Handed>, ApiError> {
    let command = match (due.command.clone(), session) {
        (Command::StartSession(start), Some(session)) => {
            start_with_token(app, agent, dialect, &due, start, &session).await?
        }
        (Command::RotateToken { rotation_id, .. }, _) => rotation(app, agent, &due, rotation_id).await?,
        (command, _) => Some(command),
    };
    Ok(command.map(|command| Handed {
        id: due.id,
        command_id: due.command_id,
        expires_at: due.expires_at,
        command,
    }))
}

async fn start_with_token(
    app: &App,
    agent: &Agent,
    dialect: Dialect,
    due: &Due,
    start: Start,
    session: &SessionRow,
) -> Result<Option<Command>, ApiError> {
    let ttl = match dialect {
        Dialect::Own => app.config().token_ttl,
        Dialect::Python if agent.allow_long_tokens => app.config().long_token_ttl,
        Dialect::Python => {
            refuse_start(app, agent, due, FailureCode::Unsupported, NO_LONG_TOKENS).await?;
            return Ok(None);
        }
    };
    let Some(token) = token(app, agent, session, ttl).await? else {
        refuse_tokenless(app, agent, due, session).await?;
        return Ok(None);
    };
    Ok(Some(Command::StartSession(Start {
        proxy_token: token.token,
        proxy_token_expires_at_s: token.expires_at,
        last_seq: session.last_seq,
        ..start
    })))
}

const NO_LONG_TOKENS: &str = "this machine's agent cannot renew proxy tokens, and tokens that last as long as their session are not allowed on this \
     machine; an admin can allow them, or install the current agent";

/// A start that can get no token: the session has ended just now, or its owner may not use anything any more.
async fn refuse_tokenless(app: &App, agent: &Agent, due: &Due, session: &SessionRow) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    if current(&mut record, agent, session.id, session.run).await?.is_none() {
        queue::drop_overtaken(&mut record, due).await?;
        return record.commit().await;
    }
    drop(record);
    let message = "there is no proxy token for the session: its owner is disabled";
    refuse_start(app, agent, due, FailureCode::Forbidden, message).await
}

async fn refuse_start(
    app: &App,
    agent: &Agent,
    due: &Due,
    code: FailureCode,
    message: &'static str,
) -> Result<(), ApiError> {
    let message = message.to_owned();
    reports::done(app, agent, due.command_id, Err(&Failure { code, message })).await
}

/// A token for a session. `None` where the session has ended just now, or its owner is disabled.
async fn token(app: &App, agent: &Agent, session: &SessionRow, ttl: Duration) -> Result<Option<IssuedToken>, ApiError> {
    let wish = TokenWish {
        user: session.user,
        session: Some((session.id, agent.machine)),
        provider: None,
        tool: session.cli_tool.clone(),
        ttl,
    };
    match app.issue_proxy_token(&wish).await {
        Ok(token) => Ok(Some(token)),
        Err(error) if error.status() == StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

/// A fresh token for a session of this machine that is live, in its current run.
pub(super) async fn fresh_token(
    app: &App,
    agent: &Agent,
    session: SessionId,
    run: i64,
) -> Result<Option<IssuedToken>, ApiError> {
    let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = $1")
        .bind(session.to_string())
        .fetch_optional(&app.db().read)
        .await?;
    let row = row.as_ref().map(SessionRow::read).transpose()?;
    match row.filter(|row| row.machine == Some(agent.machine) && row.run == run) {
        Some(row) => token(app, agent, &row, app.config().token_ttl).await,
        None => Ok(None),
    }
}

/// The agent's own new token. The rotation is over as soon as that is used: then nothing is handed over any more.
async fn rotation(app: &App, agent: &Agent, due: &Due, rotation_id: String) -> Result<Option<Command>, ApiError> {
    let mut record = app.record().await?;
    let token = machines::rotation_token(&mut record, agent.machine, &rotation_id).await?;
    if token.is_none() {
        queue::settle_as_done(&mut record, due).await?;
    }
    record.commit().await?;
    Ok(token.map(|token| Command::RotateToken {
        rotation_id,
        new_token: token.expose().to_owned(),
    }))
}
