//! A write transaction, and who is told of it once it is saved.

use std::collections::BTreeSet;

use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::Value;
use sqlx::{Any, AnyConnection, Transaction};

use crate::App;
use crate::error::ApiError;
use crate::wakeups::{Wakeup, relay};

/// What other programs keep copies of, and look at again when its version grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Topic {
    /// Users and sessions: who is active, which tokens are revoked.
    Auth,
    /// Provider keys and signing keys.
    Keys,
    /// Limits.
    Quota,
}

impl Topic {
    const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Keys => "keys",
            Self::Quota => "quota",
        }
    }
}

/// A write under way. By itself it is for what no person does: what agents report, what time brings. People's acts are a
/// [`Write`](crate::write::Write), which is this and an audit entry.
#[must_use = "nothing is saved without commit"]
pub(crate) struct Record {
    app: App,
    transaction: Transaction<'static, Any>,
    // Ordered, so that two transactions never wait for each other's topics.
    topics: BTreeSet<Topic>,
    rings: BTreeSet<Wakeup>,
    events: Vec<Told>,
}

/// An event that waits to be saved.
struct Told {
    at: i64,
    kind: &'static str,
    tenant: i64,
    user: Option<i64>,
    machine: Option<String>,
    session: Option<String>,
    data: String,
    cause: Option<String>,
    told_at: Option<i64>,
}

/// Something that those who follow live, notifications and webhooks are told of.
pub(crate) struct Event<'a> {
    /// Such as `session.state`.
    pub kind: &'static str,
    pub tenant: TenantId,
    /// Whose it is.
    pub user: Option<UserId>,
    pub machine: Option<MachineId>,
    pub session: Option<SessionId>,
    /// No secrets, no prompts, no output.
    pub data: &'a Value,
}

impl Record {
    pub async fn begin(app: App) -> Result<Self, ApiError> {
        let transaction = app.db().begin_write().await?;
        Ok(Self {
            app,
            transaction,
            topics: BTreeSet::new(),
            rings: BTreeSet::new(),
            events: Vec::new(),
        })
    }

    /// Where the statements go.
    pub fn sql(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    pub fn app(&self) -> &App {
        &self.app
    }

    /// Makes the holders of copies look again once this is saved.
    pub fn wake(&mut self, topic: Topic) {
        self.topics.insert(topic);
    }

    /// Wakes those who wait for something once this is saved.
    pub fn ring(&mut self, wakeup: Wakeup) {
        self.rings.insert(wakeup);
    }

    /// Tells what happened, once this is saved.
    pub fn tell(&mut self, event: Event<'_>) {
        let told = self.told(event);
        self.events.push(told);
    }

    /// The same, unless something with this cause was told before, by whatever node.
    pub fn tell_once(&mut self, event: Event<'_>, cause: String) {
        let told = self.told(event);
        self.events.push(Told {
            cause: Some(cause),
            ..told
        });
    }

    /// Tells only those who follow live: it makes no notification and no webhook.
    pub fn tell_live(&mut self, event: Event<'_>) {
        let told = self.told(event);
        self.events.push(Told {
            told_at: Some(told.at),
            ..told
        });
    }

    fn told(&self, event: Event<'_>) -> Told {
        Told {
            at: self.app.now(),
            kind: event.kind,
            tenant: event.tenant.0,
            user: event.user.map(|user| user.0),
            machine: event.machine.map(|machine| machine.to_string()),
            session: event.session.map(|session| session.to_string()),
            data: event.data.to_string(),
            cause: None,
            told_at: None,
        }
    }

    /// Saves it, and then tells those who wait.
    pub async fn commit(mut self) -> Result<(), ApiError> {
        for topic in &self.topics {
            sqlx::query("UPDATE wakeups SET version = version + 1 WHERE topic = $1")
                .bind(topic.name())
                .execute(&mut *self.transaction)
                .await?;
        }
        self.save_events().await?;
        relay::notify(&self.app, &mut self.transaction, &self.rings).await?;
        self.transaction.commit().await?;
        for wakeup in self.rings {
            self.app.wakeups().ring(wakeup);
        }
        Ok(())
    }

    /// Last of all, under a lock that all take last: ids of events are in the order in which others see them.
    async fn save_events(&mut self) -> Result<(), ApiError> {
        if self.events.is_empty() {
            return Ok(());
        }
        sqlx::query("UPDATE event_order SET version = version + 1 WHERE id = 1")
            .execute(&mut *self.transaction)
            .await?;
        for event in std::mem::take(&mut self.events) {
            event.save(&mut self.transaction).await?;
        }
        self.ring(Wakeup::Events);
        Ok(())
    }
}

impl Told {
    async fn save(self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO events (at, kind, tenant_id, user_id, machine_id, session_id, data, cause, told_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (cause) DO NOTHING",
        )
        .bind(self.at)
        .bind(self.kind)
        .bind(self.tenant)
        .bind(self.user)
        .bind(self.machine)
        .bind(self.session)
        .bind(self.data)
        .bind(self.cause)
        .bind(self.told_at)
        .execute(connection)
        .await?;
        Ok(())
    }
}
