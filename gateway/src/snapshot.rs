//! What the hot path knows: users, sessions, signing keys and provider keys, read from the database and replaced as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use ace_policies::quota::{Account, Limit, Metric};
use ace_policies::token::{Claims, Keyring};
use ace_policies::{Provider, SessionId, TenantId, UserId};

use crate::keys::ProviderKey;

/// One consistent view. Never changed, only replaced.
pub struct Snapshot {
    /// Keys that verify proxy tokens, and how often they have changed since the start.
    pub keyring: Keyring,
    /// Grows with every change of the keyring: a remembered verdict is good for its own version only.
    pub keyring_version: u64,
    /// Every user that is not disabled.
    pub users: HashMap<UserId, UserState>,
    /// Every session that lives.
    pub sessions: HashMap<SessionId, SessionState>,
    /// Active provider keys of a tenant for a provider, highest priority first.
    pub keys: HashMap<(TenantId, Provider), Vec<Arc<ProviderKey>>>,
    /// Every limit that is set.
    pub limits: Arc<Limits>,
}

/// The limits on accounts.
#[derive(Default)]
pub struct Limits(HashMap<Account, Vec<Limit>, ahash::RandomState>);

impl Limits {
    /// The limits on an account; none for most.
    pub fn of(&self, account: &Account) -> &[Limit] {
        match self.0.is_empty() {
            true => &[],
            false => self.0.get(account).map_or(&[], Vec::as_slice),
        }
    }
}

impl Limits {
    /// Whether nobody is limited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether tokens or cost of one of these accounts are limited, and not only in a dry run.
    pub fn measure(&self, accounts: [Option<Account>; 5]) -> bool {
        let is_hard = |limit: &Limit| !limit.dry_run && limit.name.metric() != Metric::Requests;
        let mut accounts = accounts.iter().flatten();
        accounts.any(|account| self.of(account).iter().any(is_hard))
    }
}

impl FromIterator<(Account, Limit)> for Limits {
    fn from_iter<T: IntoIterator<Item = (Account, Limit)>>(limits: T) -> Self {
        let mut all = Self::default();
        for (account, limit) in limits {
            all.0.entry(account).or_default().push(limit);
        }
        all
    }
}

/// What is known of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserState {
    /// The tenant that the user belongs to.
    pub tenant: TenantId,
    /// Grows when the user's proxy tokens are revoked.
    pub generation: i64,
}

/// What is known of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionState {
    /// Whose session it is.
    pub user: UserId,
    /// Grows when the session's proxy tokens are revoked.
    pub generation: i64,
}

/// Whether verified claims still hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They do.
    Good,
    /// They name somebody or something that this view does not know; a newer one may.
    Unknown,
    /// Revoked.
    Revoked,
}

impl Default for Snapshot {
    /// Knows nobody.
    fn default() -> Self {
        let keyring = Keyring::new(Vec::new());
        Self {
            keyring,
            keyring_version: 0,
            users: HashMap::new(),
            sessions: HashMap::new(),
            keys: HashMap::new(),
            limits: Arc::default(),
        }
    }
}

impl Snapshot {
    /// Whether the user and the session that the claims name still stand, with the generation that the claims were made under.
    pub fn standing(&self, claims: &Claims) -> Standing {
        let Some(user) = self.users.get(&claims.user) else {
            return Standing::Unknown;
        };
        let session = match claims.session {
            None => 0,
            Some(session) => match self.sessions.get(&session) {
                Some(session) if session.user == claims.user => session.generation,
                Some(_) => return Standing::Revoked,
                None => return Standing::Unknown,
            },
        };
        let current = user.generation + session;
        match claims.generation {
            _ if user.tenant != claims.tenant => Standing::Revoked,
            generation if generation == current => Standing::Good,
            generation if generation > current => Standing::Unknown,
            _ => Standing::Revoked,
        }
    }

    /// The keys of a tenant for a provider, highest priority first.
    pub fn keys_of(&self, tenant: TenantId, provider: Provider) -> &[Arc<ProviderKey>] {
        self.keys.get(&(tenant, provider)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn claims(session: Option<SessionId>, generation: i64) -> Claims {
        let (user, tenant) = (UserId(1), TenantId(1));
        Claims {
            session,
            user,
            tenant,
            machine: None,
            provider: None,
            tool: String::new(),
            models: None,
            iat: 0,
            exp: 0,
            jti: Uuid::nil(),
            generation,
        }
    }

    #[test]
    fn generations_of_user_and_session_revoke() {
        let session = SessionId(Uuid::from_u128(1));
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.standing(&claims(None, 0)), Standing::Unknown);
        snapshot.users.insert(
            UserId(1),
            UserState {
                tenant: TenantId(1),
                generation: 2,
            },
        );
        assert_eq!(snapshot.standing(&claims(None, 2)), Standing::Good);
        assert_eq!(snapshot.standing(&claims(None, 1)), Standing::Revoked);
        assert_eq!(snapshot.standing(&claims(None, 3)), Standing::Unknown);
        assert_eq!(snapshot.standing(&claims(Some(session), 2)), Standing::Unknown);
        snapshot.sessions.insert(
            session,
            SessionState {
                user: UserId(1),
                generation: 1,
            },
        );
        assert_eq!(snapshot.standing(&claims(Some(session), 3)), Standing::Good);
        assert_eq!(snapshot.standing(&claims(Some(session), 2)), Standing::Revoked);
    }

    #[test]
    fn a_token_of_another_tenant_or_of_somebody_elses_session_is_revoked() {
        let session = SessionId(Uuid::from_u128(1));
        let mut snapshot = Snapshot::default();
        snapshot.users.insert(
            UserId(1),
            UserState {
                tenant: TenantId(2),
                generation: 0,
            },
        );
        assert_eq!(snapshot.standing(&claims(None, 0)), Standing::Revoked);
        snapshot.users.insert(
            UserId(1),
            UserState {
                tenant: TenantId(1),
                generation: 0,
            },
        );
        snapshot.sessions.insert(
            session,
            SessionState {
                user: UserId(9),
                generation: 0,
            },
        );
        assert_eq!(snapshot.standing(&claims(Some(session), 0)), Standing::Revoked);
    }
}
