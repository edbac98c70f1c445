//! Typed ids, so that a user's number never lands where a tenant's belongs. They are parsed at the door.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Declares an id as a transparent newtype over the value that the database and the wire carry.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = <$inner as FromStr>::Err;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

id! {
    /// Names a person who may log in.
    UserId(i64)
}
id! {
    /// Names a tenant; nothing crosses from one to another.
    TenantId(i64)
}
id! {
    /// Names a row of the provider key store.
    KeyId(i64)
}
id! {
    /// Names one AI coding run on a machine.
    SessionId(Uuid)
}
id! {
    /// Names a remote machine.
    MachineId(Uuid)
}
id! {
    /// Names one HTTP request, from the edge to the ledger and the audit log.
    RequestId(Uuid)
}

impl TenantId {
    /// The tenant that exists from the first start.
    pub const DEFAULT: Self = Self(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let session = SessionId(Uuid::from_u128(7));
        assert_eq!(session.to_string().parse::<SessionId>(), Ok(session));
        assert_eq!("42".parse::<UserId>(), Ok(UserId(42)));
        assert!("42x".parse::<UserId>().is_err());
        assert!("not-a-uuid".parse::<MachineId>().is_err());
    }

    #[test]
    fn ids_are_bare_values_in_json() {
        assert_eq!(serde_json::to_string(&TenantId::DEFAULT).unwrap(), "1");
        let machine: MachineId = serde_json::from_str("\"00000000-0000-0000-0000-000000000009\"").unwrap();
        assert_eq!(machine, MachineId(Uuid::from_u128(9)));
    }
}
