//! The permission table: every act of the control API, who may do it, and which scope a personal token needs for it.

use std::fmt;

use serde::Serialize;

use super::{MachinePermission, Scope};
use crate::Denied;

/// Who, besides system admins, may do something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// Everybody who is logged in: the act is about the actor's own, or shows only what is theirs.
    Anyone,
    /// Whose it is.
    Owner,
    /// Whoever is assigned to the machine.
    Assigned,
    /// The machine's admins.
    MachineAdmin,
    /// Whose session it is, and the admins of the machine it runs on.
    SessionParty,
    /// Nobody else.
    SystemAdmin,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident = $name:literal, $rule:ident, $scope:ident;)+) => {
        /// An act of the control API.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Action {
            $($(#[$doc])* $action,)+
        }

        impl Action {
            /// Every act.
            pub const ALL: &[Self] = &[$(Self::$action),+];

            /// The name in the audit log.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)+
                }
            }

            /// Who may do it.
            pub const fn rule(self) -> Rule {
                match self {
                    $(Self::$action => Rule::$rule,)+
                }
            }

            /// The scope that a personal token needs for it.
            pub const fn scope(self) -> Scope {
                match self {
                    $(Self::$action => Scope::$scope,)+
                }
            }
        }
    };
}

actions! {
    /// Reads the actor's own account.
    AccountRead = "account.read", Anyone, Read;
    /// Changes the actor's own password.
    AccountChangePassword = "account.change_password", Anyone, Full;
    /// Ends the actor's login.
    AccountLogout = "account.logout", Anyone, Read;

    /// Lists personal API tokens.
    PersonalTokensList = "personal_tokens.list", Owner, Read;
    /// Makes a personal API token for the actor.
    PersonalTokensCreate = "personal_tokens.create", Anyone, Full;
    /// Revokes a personal API token.
    PersonalTokensRevoke = "personal_tokens.revoke", Owner, Full;

    /// Lists tenants.
    TenantsList = "tenants.list", SystemAdmin, Read;
    /// Makes a tenant.
    TenantsCreate = "tenants.create", SystemAdmin, Full;
    /// Changes a tenant.
    TenantsUpdate = "tenants.update", SystemAdmin, Full;

    /// Lists users.
    UsersList = "users.list", SystemAdmin, Read;
    /// Reads one user.
    UsersRead = "users.read", SystemAdmin, Read;
    /// Makes a user.
    UsersCreate = "users.create", SystemAdmin, Full;
    /// Changes a user: role, state, limits.
    UsersUpdate = "users.update", SystemAdmin, Full;
    /// Sets a new password for a user.
    UsersResetPassword = "users.reset_password", SystemAdmin, Full;

    /// Makes a registration token.
    MachinesRegister = "machines.register", SystemAdmin, Full;
    /// Lists machines: one's own, for a system admin all.
    MachinesList = "machines.list", Anyone, Read;
    /// Reads one machine.
    MachinesRead = "machines.read", Assigned, Read;
    /// Changes a machine's settings.
    MachinesUpdate = "machines.update", SystemAdmin, Full;
    /// Unregisters a machine.
    MachinesDelete = "machines.delete", SystemAdmin, Full;
    /// Lists the users of a machine.
    MachinesListUsers = "machines.list_users", MachineAdmin, Read;
    /// Lists the sessions on a machine.
    MachinesListSessions = "machines.list_sessions", MachineAdmin, Read;
    /// Rotates a machine's agent token.
    MachinesRotateToken = "machines.rotate_token", SystemAdmin, Full;
    /// Revokes a machine's agent token.
    MachinesRevokeToken = "machines.revoke_token", SystemAdmin, Full;
    /// Looks at a machine's files and the state of its repositories.
    MachinesBrowse = "machines.browse", Assigned, Read;

    /// Assigns a user to a machine, or changes the permission of one who is not its admin.
    AssignmentsCreate = "assignments.create", MachineAdmin, Full;
    /// Revokes the access of a user who is not an admin of the machine.
    AssignmentsRevoke = "assignments.revoke", MachineAdmin, Full;
    /// Changes or revokes the access of one of a machine's admins.
    AssignmentsRevokeAdmin = "assignments.revoke_admin", SystemAdmin, Full;

    /// Lists provider keys, masked.
    ApiKeysList = "api_keys.list", SystemAdmin, Read;
    /// Stores a provider key.
    ApiKeysCreate = "api_keys.create", SystemAdmin, Full;
    /// Changes or rotates a provider key.
    ApiKeysUpdate = "api_keys.update", SystemAdmin, Full;
    /// Deletes a provider key.
    ApiKeysDelete = "api_keys.delete", SystemAdmin, Full;
    /// Tries a provider key out.
    ApiKeysTest = "api_keys.test", SystemAdmin, Full;
    /// Makes a new key that signs proxy tokens.
    SigningKeysRotate = "signing_keys.rotate", SystemAdmin, Full;

    /// Starts a session on a machine.
    SessionsCreate = "sessions.create", Assigned, Write;
    /// Lists sessions: one's own and those on the machines one is admin of.
    SessionsList = "sessions.list", Anyone, Read;
    /// Reads a session: state, output, transcript, approvals.
    SessionsRead = "sessions.read", SessionParty, Read;
    /// Sends a message.
    SessionsChat = "sessions.chat", SessionParty, Write;
    /// Stops a session.
    SessionsStop = "sessions.stop", SessionParty, Write;
    /// Pauses a session.
    SessionsPause = "sessions.pause", SessionParty, Write;
    /// Resumes a session.
    SessionsResume = "sessions.resume", SessionParty, Write;
    /// Ends a session's turn.
    SessionsAbort = "sessions.abort", SessionParty, Write;
    /// Changes a session's model.
    SessionsSetModel = "sessions.set_model", SessionParty, Write;
    /// Changes a session's permission mode.
    SessionsSetPermissionMode = "sessions.set_permission_mode", SessionParty, Write;
    /// Answers a tool's request for permission.
    SessionsAnswerApproval = "sessions.answer_approval", SessionParty, Write;
    /// Renames or archives a session.
    SessionsUpdate = "sessions.update", SessionParty, Write;
    /// Deletes an ended session.
    SessionsDelete = "sessions.delete", SessionParty, Write;

    /// Follows what happens: one's own, for a system admin all.
    LiveRead = "live.read", Anyone, Read;
    /// Reads one's own notifications.
    NotificationsRead = "notifications.read", Anyone, Read;
    /// Marks one's own notifications.
    NotificationsUpdate = "notifications.update", Anyone, Write;
    /// Changes one's own browser push subscriptions.
    PushSubscriptionsUpdate = "push_subscriptions.update", Anyone, Write;
    /// Lists webhooks.
    WebhooksList = "webhooks.list", SystemAdmin, Read;
    /// Makes, changes or deletes a webhook.
    WebhooksUpdate = "webhooks.update", SystemAdmin, Full;

    /// Asks for a proxy token.
    ProxyTokensCreate = "proxy_tokens.create", Anyone, Llm;

    /// Reads the version and what is switched on.
    MetaRead = "meta.read", Anyone, Read;
    /// Reads the health of the parts.
    StatusRead = "status.read", SystemAdmin, Read;
    /// Reads the list of first steps.
    SetupRead = "setup.read", SystemAdmin, Read;
    /// Reads the price table.
    PricesRead = "prices.read", SystemAdmin, Read;
    /// Changes the price table.
    PricesUpdate = "prices.update", SystemAdmin, Full;
    /// Asks why a request is or is not allowed.
    Explain = "explain", SystemAdmin, Read;

    /// Reads the limits of a user and what is left of them, for a system admin also those of others than users.
    QuotaRead = "quota.read", Owner, Read;
    /// Sets the limits of a user, tenant, session, machine or provider key.
    QuotaUpdate = "quota.update", SystemAdmin, Full;
    /// Reads usage sums of a user, for a system admin of all.
    UsageRead = "usage.read", Owner, Read;
    /// Reads the request log of a user, for a system admin of all.
    RequestsRead = "requests.read", Owner, Read;
    /// Reads the audit log.
    AuditRead = "audit.read", SystemAdmin, Read;
}

impl Action {
    /// Whether it changes something, and so belongs into the audit log.
    pub const fn changes(self) -> bool {
        !matches!(self.scope(), Scope::Read) || matches!(self, Self::AccountLogout)
    }

    /// Whether somebody with a generated password may do it: what it takes to change the password, or to leave.
    pub(super) const fn allowed_before_password_change(self) -> bool {
        matches!(
            self,
            Self::AccountRead | Self::AccountChangePassword | Self::AccountLogout | Self::MetaRead
        )
    }

    /// The reason that is given to somebody who stands outside the rule; `machine` is their permission on the machine.
    pub(super) const fn denial(self, machine: Option<MachinePermission>) -> Denied {
        match (self, self.rule()) {
            (Self::SessionsCreate, _) => Denied::NotAssigned,
            (Self::AssignmentsRevokeAdmin, _) | (_, Rule::MachineAdmin) => match machine {
                Some(MachinePermission::Admin) => Denied::MachineAdminProtected,
                Some(MachinePermission::User) => Denied::MachineAdminOnly,
                None => Denied::MachineNotFound,
            },
            (_, Rule::Assigned) => Denied::MachineNotFound,
            (_, Rule::SessionParty) => Denied::SessionNotFound,
            (_, Rule::Owner | Rule::Anyone) => Denied::NotFound,
            (_, Rule::SystemAdmin) => Denied::SystemAdminOnly,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
