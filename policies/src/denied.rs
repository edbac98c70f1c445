//! Every reason for which the permission rules say no, each with a stable code.

use crate::access::Scope;

/// Why an act is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Denied {
    /// The actor's password was generated and must be changed before anything else.
    #[error("change your password first: it was generated and others may have seen it")]
    PasswordChangeRequired,
    /// The personal token that was used does not reach this far.
    #[error("this API token lacks the scope '{0}'; use a token that has it, or log in")]
    ScopeMissing(Scope),
    /// Only system admins may.
    #[error("only a system admin may do this")]
    SystemAdminOnly,
    /// Only system admins and the machine's admins may.
    #[error("only a system admin or an admin of this machine may do this")]
    MachineAdminOnly,
    /// A machine admin may not touch another admin of the machine.
    #[error("a machine admin cannot change or revoke another admin of the machine; ask a system admin")]
    MachineAdminProtected,
    /// The actor is not assigned to the machine that a session was asked for on.
    #[error("you are not assigned to this machine; ask an admin to assign you")]
    NotAssigned,
    /// The machine is not there, or not for the actor to know of.
    #[error("no such machine")]
    MachineNotFound,
    /// The session is not there, or not for the actor to know of.
    #[error("no such session")]
    SessionNotFound,
    /// The thing is not there, or not for the actor to know of.
    #[error("not found")]
    NotFound,
}

impl Denied {
    /// The code by which programs tell the reasons apart.
    pub const fn code(self) -> &'static str {
        match self {
            Self::PasswordChangeRequired => "password_change_required",
            Self::ScopeMissing(_) => "scope_missing",
            Self::SystemAdminOnly => "system_admin_only",
            Self::MachineAdminOnly => "machine_admin_only",
            Self::MachineAdminProtected => "machine_admin_protected",
            Self::NotAssigned => "not_assigned",
            Self::MachineNotFound => "machine_not_found",
            Self::SessionNotFound => "session_not_found",
            Self::NotFound => "not_found",
        }
    }

    /// The HTTP status: 404 where the actor may not even know of the thing.
    pub const fn status(self) -> u16 {
        match self {
            Self::NotAssigned => 400,
            Self::MachineNotFound | Self::SessionNotFound | Self::NotFound => 404,
            _ => 403,
        }
    }
}
