//! The tables of usage.

/// Sums by some span of time and by all that is below it in [`key`](Table::key).
#[derive(Clone, Copy)]
pub enum Table {
    Hourly,
    Daily,
    /// The days of a fortnight in one.
    Fortnights,
    /// Days once more, by session as well.
    Sessions,
}

/// What the rows of every table are told apart by, behind their time.
const KEY: [&str; 6] = ["model", "provider", "api_key_id", "user_id", "machine_id", "tenant_id"];

impl Table {
    /// Every table, in the order in which they are locked.
    pub const ALL: [Self; 4] = [Self::Hourly, Self::Daily, Self::Fortnights, Self::Sessions];

    /// Its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hourly => "usage_hourly",
            Self::Daily => "usage_daily",
            Self::Fortnights => "usage_fortnights",
            Self::Sessions => "usage_sessions",
        }
    }

    /// Its columns in the order in which [`Key`](super::Key) has them.
    pub fn key(self) -> Vec<&'static str> {
        let session = self.is_by_session().then_some("session_id");
        session.into_iter().chain([self.time()]).chain(KEY).collect()
    }

    /// Whether sessions are told apart in it.
    pub const fn is_by_session(self) -> bool {
        matches!(self, Self::Sessions)
    }

    const fn time(self) -> &'static str {
        match self {
            Self::Hourly => "hour_start",
            Self::Daily | Self::Sessions => "day_start",
            Self::Fortnights => "fortnight_start",
        }
    }
}
