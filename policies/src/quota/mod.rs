//! Limits: who they are set on, what they count, over which time, and how a limit's remainder is cut into leases.
//!
//! An [`Account`] is charged by every request that names it. A limit stands on an account and has a [`LimitName`], which is a
//! [`Metric`] over a [`Period`]. What is used and leased is kept for each [`Bucket`]: an account in one particular period.

mod calendar;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use calendar::{Calendar, Day, FORTNIGHT_MS, UnknownTimeZone, fortnight};

use crate::{KeyId, MachineId, SessionId, TenantId, UserId};

/// Whom a request is charged to. One request charges several: its user, tenant, key, and session and machine where it has them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Account {
    /// A person, whatever they call from.
    User(UserId),
    /// Everybody of a tenant.
    Tenant(TenantId),
    /// One AI coding run.
    Session(SessionId),
    /// Everything that runs on a machine.
    Machine(MachineId),
    /// Everything that goes out with a provider key.
    ProviderKey(KeyId),
}

impl Account {
    /// The names of the kinds, in tables and the HTTP API.
    pub const KINDS: [&str; 5] = ["user", "tenant", "session", "machine", "api_key"];

    /// The name of its kind, in tables and the HTTP API.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Tenant(_) => "tenant",
            Self::Session(_) => "session",
            Self::Machine(_) => "machine",
            Self::ProviderKey(_) => "api_key",
        }
    }

    /// Its id within its kind, as tables hold it.
    pub fn id(&self) -> String {
        match self {
            Self::User(id) => id.to_string(),
            Self::Tenant(id) => id.to_string(),
            Self::Session(id) => id.to_string(),
            Self::Machine(id) => id.to_string(),
            Self::ProviderKey(id) => id.to_string(),
        }
    }

    /// The account that a table's two columns name.
    pub fn parse(kind: &str, id: &str) -> Option<Self> {
        match kind {
            "user" => id.parse().ok().map(Self::User),
            "tenant" => id.parse().ok().map(Self::Tenant),
            "session" => id.parse().ok().map(Self::Session),
            "machine" => id.parse().ok().map(Self::Machine),
            "api_key" => id.parse().ok().map(Self::ProviderKey),
            _ => None,
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind().replace('_', " "), self.id())
    }
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Metric {
    /// Tokens of every class, each once.
    Tokens,
    /// Requests that a provider answered.
    Requests,
    /// Millionths of a US dollar.
    Cost,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Requests, Self::Cost];
}

/// Over which time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Period {
    /// A minute of the clock.
    Minute,
    /// A calendar day in the configured time zone.
    Day,
    /// A calendar month in the configured time zone.
    Month,
    /// No time: what runs at this moment.
    Open,
}

impl Period {
    /// Every period.
    pub const ALL: [Self; 4] = [Self::Minute, Self::Day, Self::Month, Self::Open];

    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
            Self::Month => "month",
            Self::Open => "open",
        }
    }

    /// Whether what was used in it is kept. Of the others only leases are.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Day | Self::Month)
    }
}

impl FromStr for Period {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|period| period.as_str() == name).ok_or(())
    }
}

/// An account in one period: what a row of usage, a lease or a reservation is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Bucket {
    /// The account.
    pub account: Account,
    /// The kind of period.
    pub period: Period,
    /// Where the period begins, in UTC milliseconds; 0 for [`Period::Open`].
    pub start_ms: i64,
}

/// Amounts of each metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// Tokens.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
    /// Millionths of a US dollar.
    pub cost_micro_usd: u64,
}

impl Amounts {
    /// The amount of one metric.
    pub const fn of(&self, metric: Metric) -> u64 {
        match metric {
            Metric::Tokens => self.tokens,
            Metric::Requests => self.requests,
            Metric::Cost => self.cost_micro_usd,
        }
    }

    /// The amount of one metric, to be changed.
    pub const fn of_mut(&mut self, metric: Metric) -> &mut u64 {
        match metric {
            Metric::Tokens => &mut self.tokens,
            Metric::Requests => &mut self.requests,
            Metric::Cost => &mut self.cost_micro_usd,
        }
    }

    /// Metric by metric; what would overflow saturates.
    pub fn plus(mut self, other: Self) -> Self {
        for metric in Metric::ALL {
            *self.of_mut(metric) = self.of(metric).saturating_add(other.of(metric));
        }
        self
    }

    /// Metric by metric; what would be below zero is zero.
    pub fn minus(mut self, other: Self) -> Self {
        for metric in Metric::ALL {
            *self.of_mut(metric) = self.of(metric).saturating_sub(other.of(metric));
        }
        self
    }

    /// Metric by metric the smaller one.
    pub fn at_most(mut self, other: Self) -> Self {
        for metric in Metric::ALL {
            *self.of_mut(metric) = self.of(metric).min(other.of(metric));
        }
        self
    }

    /// Whether there is nothing of anything.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// Declares the limits with their names.
macro_rules! limits {
    ($($(#[$doc:meta])* $limit:ident = $name:literal, $words:literal, $metric:ident, $period:ident;)+) => {
        /// What a limit is about.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum LimitName {
            $($(#[$doc])* #[serde(rename = $name)] $limit,)+
        }

        impl LimitName {
            /// Every limit.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$limit),+];

            /// The name in tables and the HTTP API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$limit => $name,)+
                }
            }

            /// The name in a sentence.
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$limit => $words,)+
                }
            }

            /// What it counts.
            pub const fn metric(self) -> Metric {
                match self {
                    $(Self::$limit => Metric::$metric,)+
                }
            }

            /// Over which time.
            pub const fn period(self) -> Period {
                match self {
                    $(Self::$limit => Period::$period,)+
                }
            }
        }
    };
}

limits! {
    /// Tokens of a day.
    TokensPerDay = "tokens_per_day", "tokens per day", Tokens, Day;
    /// Tokens of a month.
    TokensPerMonth = "tokens_per_month", "tokens per month", Tokens, Month;
    /// Requests of a day.
    RequestsPerDay = "requests_per_day", "requests per day", Requests, Day;
    /// Requests of a month.
    RequestsPerMonth = "requests_per_month", "requests per month", Requests, Month;
    /// Cost of a day, in millionths of a US dollar.
    CostPerDay = "cost_micro_usd_per_day", "cost per day (micro-USD)", Cost, Day;
    /// Cost of a month, in millionths of a US dollar.
    CostPerMonth = "cost_micro_usd_per_month", "cost per month (micro-USD)", Cost, Month;
    /// Tokens of a minute.
    TokensPerMinute = "tokens_per_minute", "tokens per minute", Tokens, Minute;
    /// Requests of a minute.
    RequestsPerMinute = "requests_per_minute", "requests per minute", Requests, Minute;
    /// Requests at once.
    ParallelRequests = "parallel_requests", "parallel requests", Requests, Open;
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for LimitName {
    type Err = UnknownLimit;

    fn from_str(name: &str) -> Result<Self, UnknownLimit> {
        let found = Self::ALL.into_iter().find(|limit| limit.as_str() == name);
        found.ok_or_else(|| UnknownLimit(name.to_owned()))
    }
}

/// The name is not a limit's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown limit '{0}'")]
pub struct UnknownLimit(pub String);

/// A limit that is set. Where none is, the account is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// What it is about.
    pub name: LimitName,
    /// The most that may be used; 0 blocks.
    pub maximum: u64,
    /// It is decided and told, but nothing is refused.
    pub dry_run: bool,
}

/// How much of what is left of a limit one gateway is given, of `holders` that may ask: at least what it needs, and beyond that a share
/// that leaves something for the others. The shares shrink with what is left, until they are what is needed and no more.
///
/// `None` where what is left is less than the need.
pub fn slice(left: u64, need: u64, holders: u64) -> Option<u64> {
    let share = left / holders.max(1).saturating_mul(2);
    (need <= left).then(|| share.max(need))
}

/// The soft thresholds (percent of `maximum`) that use passes when it grows from `before` to `after`.
pub fn passed(thresholds: &[u8], maximum: u64, before: u64, after: u64) -> impl Iterator<Item = u8> {
    let reaches = move |used: u64, percent: u8| u128::from(used) * 100 >= u128::from(maximum) * u128::from(percent);
    let passed = move |percent: &u8| maximum > 0 && !reaches(before, *percent) && reaches(after, *percent);
    thresholds.iter().copied().filter(passed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_read_back() {
        for limit in LimitName::ALL {
            assert_eq!(limit.as_str().parse(), Ok(limit));
            assert_eq!(serde_json::to_string(&limit).unwrap(), format!("\"{limit}\""));
        }
        for period in Period::ALL {
            assert_eq!(period.as_str().parse(), Ok(period));
        }
        let session = SessionId(uuid::Uuid::from_u128(5));
        let accounts = [
            Account::User(UserId(7)),
            Account::Tenant(TenantId(1)),
            Account::Session(session),
            Account::Machine(MachineId(session.0)),
            Account::ProviderKey(KeyId(3)),
        ];
        for (account, kind) in accounts.into_iter().zip(Account::KINDS) {
            assert_eq!(account.kind(), kind);
            assert_eq!(Account::parse(account.kind(), &account.id()), Some(account));
        }
        assert_eq!(Account::parse("user", "x"), None);
        assert_eq!(Account::ProviderKey(KeyId(3)).to_string(), "api key 3");
    }

    #[test]
    fn trap_12_a_limit_of_n_lets_n_through() {
        assert_eq!(slice(1, 1, 1), Some(1));
        assert_eq!(slice(0, 1, 1), None);
        assert_eq!(slice(0, 0, 1), Some(0));
        assert_eq!(slice(100, 10, 1), Some(50));
        assert_eq!(slice(100, 10, 5), Some(10));
        assert_eq!(slice(100, 80, 5), Some(80));
    }

    #[test]
    fn thresholds_are_passed_once() {
        let passed = |before, after| passed(&[80, 95], 1000, before, after).collect::<Vec<_>>();
        assert_eq!(passed(0, 799), [0_u8; 0]);
        assert_eq!(passed(799, 800), [80]);
        assert_eq!(passed(800, 900), [0_u8; 0]);
        assert_eq!(passed(10, 2000), [80, 95]);
        assert_eq!(super::passed(&[80], 0, 0, 10).count(), 0, "a block has no thresholds");
    }

    proptest! {
        #[test]
        fn a_slice_covers_the_need_and_never_passes_what_is_left(left: u64, need: u64, holders in 0_u64..100) {
            match slice(left, need, holders) {
                Some(slice) => prop_assert!((need..=left).contains(&slice)),
                None => prop_assert!(need > left),
            }
        }
    }
}
