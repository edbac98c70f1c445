//! The audit log: who did what to what, from where, and how it was before and after.
//!
//! Each entry carries a hash over itself and the hash before it, so that a changed or missing entry shows.

mod chain;
mod list;
mod verify;

use ace_policies::access::{Action, Actor, Permit};
use ace_policies::edge::EdgeHeaders;
use ace_policies::{TenantId, UserId};

pub(crate) use chain::{Keys, append};
pub(crate) use list::routes;
pub use verify::{Broken, Verified};

/// What an act is called that people do without a permit, or the program by itself.
pub(crate) mod act {
    pub const LOGIN: &str = "account.login";
    pub const LOGOUT: &str = "account.logout";
    pub const REGISTER_MACHINE: &str = "agents.register";
    pub const BOOTSTRAP: &str = "system.bootstrap";
    pub const DISABLE_WEBHOOK: &str = "webhooks.disable";
    pub const REWRAP: &str = "system.rewrap";
    pub const ANSWER_BY_RULE: &str = "sessions.answer_by_rule";
    pub const ROTATE_SIGNING_KEY: &str = "signing_keys.rotate";
}

/// An entry that is not in the chain yet.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub actor: Option<UserId>,
    pub actor_name: String,
    pub tenant: Option<TenantId>,
    pub action: &'static str,
    pub target: String,
    pub before: Option<String>,
    pub after: Option<String>,
    pub ip: String,
    pub request_id: String,
    pub result: &'static str,
}

impl Entry {
    /// An act that somebody may do.
    pub fn of(permit: &Permit, edge: &EdgeHeaders) -> Self {
        Self::by(permit.actor(), permit.action(), edge)
    }

    /// An act that somebody wanted to do and may not.
    pub fn denied(actor: &Actor, action: Action, edge: &EdgeHeaders, code: &str) -> Self {
        Self {
            result: "denied",
            after: Some(format!("{{\"code\":\"{code}\"}}")),
            ..Self::by(actor, action, edge)
        }
    }

    /// An act of somebody who has not proved who they are.
    pub fn unproved(name: &str, action: &'static str, edge: &EdgeHeaders) -> Self {
        Self {
            ip: edge.client.to_string(),
            request_id: edge.request_id.clone(),
            ..Self::system(name, action)
        }
    }

    /// An act of the program itself.
    pub fn system(name: &str, action: &'static str) -> Self {
        Self {
            actor: None,
            actor_name: name.to_owned(),
            tenant: None,
            action,
            target: String::new(),
            before: None,
            after: None,
            ip: String::new(),
            request_id: String::new(),
            result: "ok",
        }
    }

    fn by(actor: &Actor, action: Action, edge: &EdgeHeaders) -> Self {
        Self {
            actor: Some(actor.user),
            tenant: Some(actor.tenant),
            ..Self::unproved(&actor.username, action.name(), edge)
        }
    }
}

#[cfg(test)]
mod tests;
