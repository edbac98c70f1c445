//! Who may do what: the permission table, and the only maker of a `Permit`.

mod action;

pub use action::{Action, Rule};

use crate::names::names;
use crate::{Denied, TenantId, UserId};

/// Decides whether an actor may do something to a thing that it stands in this relation to.
///
/// System admins may do everything. For others a thing of another tenant is as good as absent, and so is a relation
/// that the caller did not look up: the default standing allows nothing that is about a thing.
pub fn check(actor: &Actor, action: Action, standing: &Standing) -> Result<Permit, Denied> {
    check_password(actor, action)?;
    check_scope(actor, action.scope())?;
    if actor.role != Role::Admin {
        check_rule(actor, action, standing)?;
    }
    Ok(Permit {
        actor: actor.clone(),
        action,
    })
}

fn check_password(actor: &Actor, action: Action) -> Result<(), Denied> {
    if actor.must_change_password && !action.allowed_before_password_change() {
        return Err(Denied::PasswordChangeRequired);
    }
    Ok(())
}

fn check_scope(actor: &Actor, needed: Scope) -> Result<(), Denied> {
    match &actor.scopes {
        Some(scopes) if !scopes.iter().any(|scope| scope.covers(needed)) => Err(Denied::ScopeMissing(needed)),
        _ => Ok(()),
    }
}

fn check_rule(actor: &Actor, action: Action, standing: &Standing) -> Result<(), Denied> {
    let here = standing.tenant == Some(actor.tenant);
    let owner = standing.owner == Some(actor.user);
    let machine = standing.machine.filter(|_| here);
    let yes = match action.rule() {
        Rule::Anyone => true,
        Rule::Owner => owner && standing.tenant.is_none_or(|tenant| tenant == actor.tenant),
        Rule::Assigned => machine.is_some(),
        Rule::MachineAdmin => machine == Some(MachinePermission::Admin),
        Rule::SessionParty => here && (owner || machine == Some(MachinePermission::Admin)),
        Rule::SystemAdmin => false,
    };
    if yes { Ok(()) } else { Err(action.denial(machine)) }
}

/// The proof that an actor may do something. Only `check` makes one; the door to a write asks for it.
#[derive(Debug)]
pub struct Permit {
    actor: Actor,
    action: Action,
}

impl Permit {
    /// Who may.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What they may.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The permission that this actor may really grant on a machine: a machine admin grants `user`, whatever was asked.
    pub fn grantable(&self, asked: MachinePermission) -> MachinePermission {
        if self.actor.role == Role::Admin {
            asked
        } else {
            MachinePermission::User
        }
    }
}

/// The user who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// The user's id.
    pub user: UserId,
    /// The user's name, for the audit log.
    pub username: String,
    /// The user's tenant.
    pub tenant: TenantId,
    /// The user's role.
    pub role: Role,
    /// Whether the password was generated and not changed yet.
    pub must_change_password: bool,
    /// What the personal token that was used is limited to; `None` for a login.
    pub scopes: Option<Vec<Scope>>,
}

/// The relation of an actor to the thing they want to act on. What is unknown stays `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The thing's tenant.
    pub tenant: Option<TenantId>,
    /// Whose the thing is.
    pub owner: Option<UserId>,
    /// The actor's own permission on the machine that the thing is, or is on.
    pub machine: Option<MachinePermission>,
}

names! {
    /// What a user is in the whole installation.
    Role {
        /// A system admin, who may do everything.
        Admin = "admin",
        /// Everybody else.
        User = "user",
    }
    UnknownRole "role"
}

names! {
    /// What a user is on one machine they are assigned to.
    MachinePermission {
        /// Manages the machine's users and sessions.
        Admin = "admin",
        /// Uses the machine.
        User = "user",
    }
    UnknownPermission "machine permission"
}

names! {
    /// What a personal API token reaches. A scope never adds to what its user may do.
    Scope {
        /// Looking at what the user may see.
        Read = "read",
        /// Looking, and running and steering sessions.
        Write = "write",
        /// Asking for proxy tokens, which is to say calling the LLM.
        Llm = "llm",
        /// Everything the user may do, other tokens and administration included.
        Full = "full",
    }
    UnknownScope "scope"
}

impl Scope {
    /// Whether holding this scope satisfies a need for `needed`.
    pub const fn covers(self, needed: Self) -> bool {
        matches!(
            (self, needed),
            (Self::Full, _)
                | (Self::Write, Self::Write | Self::Read)
                | (Self::Read, Self::Read)
                | (Self::Llm, Self::Llm)
        )
    }
}

#[cfg(test)]
mod tests;
