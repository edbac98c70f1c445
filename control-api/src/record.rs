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

    /// Tells what happened.
    pub async fn tell(&mut self, event: Event<'_>) -> Result<(), ApiError> {
        sqlx::query(
            "INSERT INTO events (at, kind, tenant_id, user_id, machine_id, session_id, data) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.app.now())
        .bind(event.kind)
        .bind(event.tenant.0)
        .bind(event.user.map(|user| user.0))
        .bind(event.machine.map(|machine| machine.to_string()))
        .bind(event.session.map(|session| session.to_string()))
        .bind(event.data.to_string())
        .execute(&mut *self.transaction)
        .await?;
        self.ring(Wakeup::Events);
        Ok(())
    }

    /// Saves it, and then tells those who wait.
    pub async fn commit(mut self) -> Result<(), ApiError> {
        for topic in &self.topics {
            sqlx::query("UPDATE wakeups SET version = version + 1 WHERE topic = $1")
                .bind(topic.name())
                .execute(&mut *self.transaction)
                .await?;
        }
        relay::notify(&self.app, &mut self.transaction, &self.rings).await?;
        self.transaction.commit().await?;
        for wakeup in self.rings {
            self.app.wakeups().ring(wakeup);
        }
        Ok(())
    }
}
