//! A write transaction with its audit entry inside.

use std::fmt::Display;

use ace_policies::{TenantId, UserId};
use serde::Serialize;
use sqlx::AnyConnection;

use crate::App;
use crate::audit::{self, Entry};
use crate::error::ApiError;
use crate::record::{Event, Record};
use crate::wakeups::Wakeup;

pub(crate) use crate::record::Topic;

/// An act under way. Dropped without [`Write::commit`] it has never happened.
#[must_use = "nothing is saved without commit"]
pub struct Write {
    record: Record,
    entry: Entry,
}

impl Write {
    pub(crate) async fn begin(app: App, entry: Entry) -> Result<Self, ApiError> {
        let record = Record::begin(app).await?;
        Ok(Self { record, entry })
    }

    /// Where the statements of the act go.
    pub fn sql(&mut self) -> &mut AnyConnection {
        self.record.sql()
    }

    /// The transaction without the audit entry, for steps that agents' reports take as well.
    pub(crate) fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Says what is acted on.
    pub fn target(&mut self, target: impl Display) -> &mut Self {
        self.entry.target = target.to_string();
        self
    }

    /// Says in whose tenant it is, where that comes out only during the act.
    pub(crate) fn tenant(&mut self, tenant: TenantId) -> &mut Self {
        self.entry.tenant = Some(tenant);
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
        self.record.wake(topic);
        self
    }

    /// Wakes those who wait for something once this is saved.
    pub(crate) fn ring(&mut self, wakeup: Wakeup) -> &mut Self {
        self.record.ring(wakeup);
        self
    }

    /// Tells those who follow live, notifications and webhooks.
    pub(crate) fn tell(&mut self, event: Event<'_>) {
        self.record.tell(event);
    }

    /// Saves the act, its audit entry and its wake-ups.
    pub async fn commit(mut self) -> Result<(), ApiError> {
        let app = self.record.app().clone();
        audit::append(self.record.sql(), &self.entry, app.audit_keys(), app.now()).await?;
        self.record.commit().await
    }
}
