//! The control plane as one value: its database, keys, rules and clock; and all its routes.

use std::sync::Arc;

use ace_migrations::Db;
use ace_policies::access::Permit;
use ace_policies::edge::EdgeHeaders;
use ace_policies::vault::{Subkey, Vault, purpose};
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Router, middleware};
use sqlx::Row;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::agents::links::Links;
use crate::audit::{self, Entry};
use crate::body::MAX_BODY_BYTES;
use crate::door::{self, Door};
use crate::error::ApiError;
use crate::keys::{KeySource, MasterKeys};
use crate::password::Passwords;
use crate::record::Record;
use crate::streams::Streams;
use crate::wakeups::Wakeups;
use crate::write::Write;
use crate::{
    Clock, ControlConfig, agents, approvals, assignments, chance, explain, files, home, install, live, login, machines,
    meta, notifications, openapi, output, prices, provider_keys, proxy_tokens, push_subscriptions, quotas, sessions,
    setup, tenants, tokens, usage, users, webhooks,
};

/// The control plane. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    db: Db,
    config: ControlConfig,
    clock: Clock,
    vault: Vault,
    key_source: KeySource,
    audit_keys: audit::Keys,
    edge_keys: Vec<Subkey>,
    passwords: Passwords,
    wakeups: Wakeups,
    node_id: Uuid,
    closing: CancellationToken,
    links: Links,
    agent_files: install::Files,
    deliveries: Notify,
    leftovers: Notify,
    streams: Streams,
}

/// Whom a socket's requests may come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// From anybody who reaches it: only what a gateway has signed is believed.
    Signed,
    /// From whoever may open the file, which is this user and root.
    Socket,
}

impl App {
    /// Puts the control plane together. Errors when the database holds what none of the master keys can open: better
    /// now than at the first request.
    pub async fn open(db: Db, keys: &MasterKeys, config: ControlConfig, clock: Clock) -> Result<Self, OpenError> {
        let vault = keys
            .older
            .iter()
            .fold(Vault::new(&keys.current), |vault, older| vault.with_older(older));
        let all = || std::iter::once(&keys.current).chain(&keys.older);
        let app = Self(Arc::new(Inner {
            config,
            clock,
            vault,
            key_source: keys.source,
            audit_keys: audit::Keys::new(all()),
            edge_keys: all().map(|key| key.subkey(purpose::GATEWAY_HEADERS)).collect(),
            passwords: Passwords::new(),
            wakeups: Wakeups::default(),
            node_id: chance::id(),
            closing: CancellationToken::new(),
            links: Links::default(),
            agent_files: install::Files::default(),
            deliveries: Notify::new(),
            leftovers: Notify::new(),
            streams: Streams::default(),
            db,
        }));
        app.refuse_unknown_keys().await?;
        Ok(app)
    }

    /// All that the control plane serves.
    pub fn router(&self, trust: Trust) -> Router {
        let (api, document) = routes().split_for_parts();
        let door = Door {
            app: self.clone(),
            trust,
        };
        api.merge(openapi::route(&document))
            .merge(home::routes())
            .fallback(home::not_found)
            .method_not_allowed_fallback(wrong_method)
            .layer(CatchPanicLayer::custom(panicked))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::from_fn_with_state(door, door::enter))
            .with_state(self.clone())
    }

    /// The database, for reading. Writing is `write`'s.
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// Begins an act that somebody may do. This is the only door to a write for people's acts: what is done and the
    /// audit entry that tells of it are saved together or not at all.
    pub async fn write(&self, permit: &Permit, edge: &EdgeHeaders) -> Result<Write, ApiError> {
        Write::begin(self.clone(), Entry::of(permit, edge)).await
    }

    /// Begins an act that nobody has a permit for: of the program itself, or of somebody who is about to prove who
    /// they are.
    pub(crate) async fn write_as(&self, entry: Entry) -> Result<Write, ApiError> {
        Write::begin(self.clone(), entry).await
    }

    /// Begins a write that is no person's act: what an agent reports, what time brings. It is not audited.
    pub(crate) async fn record(&self) -> Result<Record, ApiError> {
        Record::begin(self.clone()).await
    }

    pub fn config(&self) -> &ControlConfig {
        &self.0.config
    }

    /// The time in UTC milliseconds.
    pub fn now(&self) -> i64 {
        self.0.clock.now_ms()
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.0.vault
    }

    /// Where the master key comes from.
    pub(crate) fn key_source(&self) -> KeySource {
        self.0.key_source
    }

    pub(crate) fn audit_keys(&self) -> &audit::Keys {
        &self.0.audit_keys
    }

    /// The keys that a gateway may have signed its headers with: a new master key reaches the nodes one by one.
    pub(crate) fn edge_keys(&self) -> &[Subkey] {
        &self.0.edge_keys
    }

    pub(crate) fn wakeups(&self) -> &Wakeups {
        &self.0.wakeups
    }

    /// Cancelled when this process is about to end: answers and tasks that have no end of their own end with it.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// The agents that are connected here.
    pub(crate) fn links(&self) -> &Links {
        &self.0.links
    }

    /// This process among the control nodes.
    pub(crate) fn node_id(&self) -> Uuid {
        self.0.node_id
    }

    /// Rung when webhook deliveries were queued.
    pub(crate) fn deliveries(&self) -> &Notify {
        &self.0.deliveries
    }

    /// Rung when sessions were deleted that left something.
    pub(crate) fn leftovers(&self) -> &Notify {
        &self.0.leftovers
    }

    /// The streams that people follow here.
    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    pub(crate) fn agent_files(&self) -> &install::Files {
        &self.0.agent_files
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    async fn refuse_unknown_keys(&self) -> Result<(), OpenError> {
        let rows = sqlx::query(
            "SELECT key_id FROM api_key_store UNION SELECT key_id FROM signing_keys
             UNION SELECT key_id FROM webhooks UNION SELECT key_id FROM vapid_keys",
        )
        .fetch_all(&self.db().read)
        .await?;
        for row in rows {
            let key_id: String = row.try_get(0)?;
            if !self.vault().knows(&key_id) {
                return Err(OpenError::UnknownMasterKey {
                    needed: key_id,
                    given: self.vault().key_id().to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the database holds secrets sealed with master key {needed}, but the key given is {given}; set \
         OPENACE_ENCRYPTION_KEY to the right one, or give the old one as OPENACE_ENCRYPTION_KEY_PREVIOUS and run \
         `ace-control rewrap`"
    )]
    UnknownMasterKey { needed: String, given: String },
    #[error("the database did not answer: {0}")]
    Database(#[from] sqlx::Error),
}

/// Every route of the API, each with its description.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::head())
        .merge(login::routes())
        .merge(users::routes())
        .merge(tokens::routes())
        .merge(provider_keys::routes())
        .merge(proxy_tokens::routes())
        .merge(quotas::routes())
        .merge(usage::routes())
        .merge(prices::routes())
        .merge(audit::routes())
        .merge(meta::routes())
        .merge(tenants::routes())
        .merge(machines::routes())
        .merge(assignments::routes())
        .merge(agents::routes())
        .merge(files::routes())
        .merge(install::routes())
        .merge(sessions::routes())
        .merge(output::routes())
        .merge(approvals::routes())
        .merge(notifications::routes())
        .merge(push_subscriptions::routes())
        .merge(webhooks::routes())
        .merge(live::routes())
        .merge(explain::routes())
        .merge(setup::routes())
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not know this method",
    )
}

fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    let error = ApiError::internal(text.unwrap_or_else(|| "a handler panicked".to_owned()));
    axum::response::IntoResponse::into_response(error)
}

#[cfg(test)]
mod tests;
