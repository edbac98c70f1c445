//! A write transaction with its audit entry inside.

use std::collections::BTreeSet;
use std::fmt::Display;

use ace_policies::UserId;
use serde::Serialize;
use sqlx::{Any, AnyConnection, Transaction};

use crate::App;
use crate::audit::{self, Entry};
use crate::error::ApiError;

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

/// An act under way. Dropped without [`Write::commit`] it has never happened.
#[must_use = "nothing is saved without commit"]
pub struct Write {
    app: App,
    transaction: Transaction<'static, Any>,
    entry: Entry,
    // Ordered, so that two transactions never wait for each other's topics.
    topics: BTreeSet<Topic>,
}

impl Write {
    pub(crate) async fn begin(app: App, entry: Entry) -> Result<Self, ApiError> {
        let transaction = app.db().begin_write().await?;
        Ok(Self {
            app,
            transaction,
            entry,
            topics: BTreeSet::new(),
        })
    }

    /// Where the statements of the act go.
    pub fn sql(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    /// Says what is acted on.
    pub fn target(&mut self, target: impl Display) -> &mut Self {
        self.entry.target = target.to_string();
        self
    }

    /// Says how it was.
    pub fn before(&mut self, state: &impl Serialize) -> Result<&mut Self, ApiError> {
        self.entry.before = Some(serde_json::to_string(state).map_err(ApiError::internal)?);
        Ok(self)
    }

    /// Says how it will be.
    pub fn after(&mut self, state: &impl Serialize) -> Result<&mut Self, ApiError> {
        self.entry.after = Some(serde_json::to_string(state).map_err(ApiError::internal)?);
        Ok(self)
    }

    /// Says who acts, where that comes out only during the act.
    pub(crate) fn actor(&mut self, user: UserId, name: &str) -> &mut Self {
        self.entry.actor = Some(user);
        name.clone_into(&mut self.entry.actor_name);
        self
    }

    /// Makes the holders of copies look again once this is saved.
    pub(crate) fn wake(&mut self, topic: Topic) -> &mut Self {
        self.topics.insert(topic);
        self
    }

    /// Saves the act, its audit entry and its wake-ups.
    pub async fn commit(mut self) -> Result<(), ApiError> {
        for topic in &self.topics {
            sqlx::query("UPDATE wakeups SET version = version + 1 WHERE topic = $1")
                .bind(topic.name())
                .execute(&mut *self.transaction)
                .await?;
        }
        let now = self.app.now();
        audit::append(&mut self.transaction, &self.entry, self.app.audit_keys(), now).await?;
        self.transaction.commit().await?;
        Ok(())
    }
}
