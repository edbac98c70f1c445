//! From what happened to who is told of it, and in which words.

use ace_policies::quota::{Account, LimitName};
use ace_policies::{TenantId, UserId};
use serde_json::{Value, json};
use sqlx::{AnyConnection, Row};

use crate::error::ApiError;
use crate::record::{Event, Record};
use crate::teller::Happened;

/// Something that somebody is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Notification {
    pub kind: &'static str,
    pub title: String,
    pub body: String,
    pub target: String,
    /// What title and body are made of.
    pub data: Value,
    /// One cause makes one notification.
    pub cause: String,
}

/// A notification that was stored, for one user.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub id: i64,
    pub user: UserId,
    pub notification: Notification,
}

/// Stores what an event gives people to know. Returns what is new.
pub(crate) async fn of_event(record: &mut Record, event: &Happened) -> Result<Vec<Stored>, ApiError> {
    if event.kind == "approval.answered" {
        settle(record, event).await?;
    }
    let Some((users, notification)) = told(record, event).await? else {
        return Ok(Vec::new());
    };
    notify(record, event.tenant, &users, notification).await
}

/// Stores a notification for each user that has not been told of its cause.
pub(crate) async fn notify(
    record: &mut Record,
    tenant: TenantId,
    users: &[UserId],
    notification: Notification,
) -> Result<Vec<Stored>, ApiError> {
    let mut stored = Vec::new();
    for user in users {
        if let Some(id) = store(record, *user, &notification).await? {
            let data = json!({ "id": id, "kind": notification.kind });
            record.tell_live(Event {
                kind: "notification.created",
                tenant,
                user: Some(*user),
                machine: None,
                session: None,
                data: &data,
            });
            stored.push(Stored {
                id,
                user: *user,
                notification: notification.clone(),
            });
        }
    }
    Ok(stored)
}

async fn store(record: &mut Record, user: UserId, new: &Notification) -> Result<Option<i64>, ApiError> {
    let now = record.app().now();
    let row = sqlx::query(
        "INSERT INTO notifications (user_id, kind, title, body, target, data, cause, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (user_id, cause) DO NOTHING RETURNING id",
    )
    .bind(user.0)
    .bind(new.kind)
    .bind(&new.title)
    .bind(&new.body)
    .bind(&new.target)
    .bind(new.data.to_string())
    .bind(&new.cause)
    .bind(now)
    .fetch_optional(record.sql())
    .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Every active system admin.
pub(crate) async fn system_admins(connection: &mut AnyConnection) -> Result<Vec<UserId>, ApiError> {
    let rows = sqlx::query("SELECT id FROM users WHERE role = 'admin' AND is_active = 1 ORDER BY id")
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok(UserId(row.try_get(0)?))).collect()
}

type Told = Option<(Vec<UserId>, Notification)>;

/// Who is told what. Most events are for those who look, and nobody is called for them.
async fn told(record: &mut Record, event: &Happened) -> Result<Told, ApiError> {
    match event.kind.as_str() {
        "approval.requested" => approval(record, event).await,
        "session.state" => session(record, event).await,
        "machine.offline" => machine(record, event).await,
        "quota.threshold" => quota(record, event).await,
        _ => Ok(None),
    }
}

/// The cause of the notification that a question makes.
fn approval_cause(event: &Happened) -> Option<String> {
    let session = event.session?;
    Some(format!("approval:{session}:{}", event.text("request_id")?))
}

/// Answered is as good as read.
async fn settle(record: &mut Record, event: &Happened) -> Result<(), ApiError> {
    let Some(cause) = approval_cause(event) else {
        return Ok(());
    };
    let now = record.app().now();
    sqlx::query("UPDATE notifications SET read_at = $1 WHERE cause = $2 AND read_at IS NULL")
        .bind(now)
        .bind(cause)
        .execute(record.sql())
        .await?;
    Ok(())
}

async fn approval(record: &mut Record, event: &Happened) -> Result<Told, ApiError> {
    let (Some(cause), Some(about)) = (approval_cause(event), About::of(record, event).await?) else {
        return Ok(None);
    };
    let tool = event.text("tool_name").unwrap_or("a tool");
    let notification = Notification {
        kind: "approval.requested",
        title: format!("{tool} waits for your answer"),
        body: format!("{} asks whether it may use {tool}.", about.words()),
        target: about.target(),
        data: about.data(json!({ "tool_name": tool })),
        cause,
    };
    Ok(Some((vec![about.owner], notification)))
}

async fn session(record: &mut Record, event: &Happened) -> Result<Told, ApiError> {
    let (kind, title, end) = match event.text("status") {
        Some("completed") => ("session.completed", "A session is done", "is done."),
        Some("error") => ("session.error", "A session broke off", "could not go on"),
        _ => return Ok(None),
    };
    let Some(about) = About::of(record, event).await? else {
        return Ok(None);
    };
    let body = match (kind, event.text("error")) {
        ("session.error", Some(error)) => format!("{} {end}: {error}", about.words()),
        ("session.error", None) => format!("{} {end}.", about.words()),
        _ => format!("{} {end}", about.words()),
    };
    let notification = Notification {
        kind,
        title: title.to_owned(),
        body,
        target: about.target(),
        data: about.data(json!({ "error": event.text("error") })),
        cause: event.cause(),
    };
    Ok(Some((vec![about.owner], notification)))
}

/// What a session's notification says about it.
struct About {
    session: String,
    owner: UserId,
    title: String,
    machine: String,
}

impl About {
    async fn of(record: &mut Record, event: &Happened) -> Result<Option<Self>, ApiError> {
        let Some(session) = event.session else { return Ok(None) };
        let row = sqlx::query(
            "SELECT user_id, COALESCE(title, project_path) AS title, machine_name FROM agent_sessions WHERE session_id = $1",
        )
        .bind(session.to_string())
        .fetch_optional(record.sql())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Self {
            session: session.to_string(),
            owner: UserId(row.try_get("user_id")?),
            title: row.try_get("title")?,
            machine: row.try_get("machine_name")?,
        }))
    }

    fn words(&self) -> String {
        match self.machine.as_str() {
            "" => format!("\u{201c}{}\u{201d}", self.title),
            machine => format!("\u{201c}{}\u{201d} on {machine}", self.title),
        }
    }

    fn target(&self) -> String {
        format!("session:{}", self.session)
    }

    fn data(&self, more: Value) -> Value {
        let mut data = json!({ "session_id": self.session, "title": self.title, "machine_name": self.machine });
        if let (Value::Object(data), Value::Object(more)) = (&mut data, more) {
            data.extend(more);
        }
        data
    }
}

async fn machine(record: &mut Record, event: &Happened) -> Result<Told, ApiError> {
    let Some(machine) = event.machine else { return Ok(None) };
    let row = sqlx::query("SELECT machine_name FROM remote_machines WHERE machine_id = $1")
        .bind(machine.to_string())
        .fetch_optional(record.sql())
        .await?;
    let Some(row) = row else { return Ok(None) };
    let name: String = row.try_get(0)?;
    let rows = sqlx::query(
        "SELECT id FROM users WHERE is_active = 1 AND (role = 'admin' OR id IN
            (SELECT user_id FROM machine_assignments WHERE machine_id = $1 AND permission = 'admin')) ORDER BY id",
    )
    .bind(machine.to_string())
    .fetch_all(record.sql())
    .await?;
    let users = rows
        .iter()
        .map(|row| Ok(UserId(row.try_get(0)?)))
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    let notification = Notification {
        kind: "machine.offline",
        title: format!("{name} is offline"),
        body: format!("The agent on {name} is not heard of any more. Sessions on it wait until it is back."),
        target: format!("machine:{machine}"),
        data: json!({ "machine_id": machine, "machine_name": name }),
        cause: event.cause(),
    };
    Ok(Some((users, notification)))
}

async fn quota(record: &mut Record, event: &Happened) -> Result<Told, ApiError> {
    let account = event.text("account_kind").zip(event.text("account_id"));
    let account = account.and_then(|(kind, id)| Account::parse(kind, id));
    let (Some(account), Some(percent)) = (account, event.data.get("percent").and_then(Value::as_i64)) else {
        return Ok(None);
    };
    let limit = event.text("limit").unwrap_or_default();
    let words = LimitName::ALL.into_iter().find(|name| name.as_str() == limit);
    let words = words.map_or(limit, |name| name.words());
    // Those of whom it is; what is nobody's own is for those who set the limits.
    let (users, whose) = match (event.user, account) {
        (Some(user), Account::User(_)) => (vec![user], "your ".to_owned()),
        (Some(user), _) => (vec![user], format!("the {account}'s ")),
        (None, _) => (system_admins(record.sql()).await?, format!("the {account}'s ")),
    };
    let notification = Notification {
        kind: "quota.threshold",
        title: format!("{percent} % of {whose}{words} are used"),
        body: "When nothing is left, requests are refused until the limit starts anew.".to_owned(),
        target: "quota".to_owned(),
        data: event.data.clone(),
        cause: event.cause(),
    };
    Ok(Some((users, notification)))
}
