//! A limit that is spent, as people and programs are told of it.

use std::fmt;

use ace_policies::quota::{Account, LimitName, Period};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Refusal;

/// A limit that leaves no more, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose limit it is.
    pub account: Account,
    /// What it limits, over which time.
    pub limit: LimitName,
    /// What requests that are over have used, in tokens, requests or millionths of a US dollar.
    pub used: u64,
    /// What requests that are under way have reserved.
    pub reserved: u64,
    /// What may be used.
    pub maximum: u64,
    /// When the period ends, in UTC milliseconds; `None` where it is no time that is waited for.
    pub resets_at_ms: Option<i64>,
}

impl Spent {
    /// The refusal that this is: a day or a month is nothing to wait for, a minute or a place that gets free is.
    pub fn refusal(self, now_ms: i64) -> Refusal {
        if self.limit.period().is_settled() {
            return Refusal::Quota(self);
        }
        let wait_ms = self.resets_at_ms.map_or(0, |at| at.saturating_sub(now_ms));
        let retry_after_s = u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000).max(1);
        Refusal::RateLimit {
            spent: self,
            retry_after_s,
        }
    }

    /// RFC 3339, UTC, to the second.
    fn resets_at(&self) -> Option<String> {
        let at = OffsetDateTime::from_unix_timestamp(self.resets_at_ms?.div_euclid(1000)).ok()?;
        at.format(&Rfc3339).ok()
    }

    /// The figures, for programs.
    pub(super) fn figures(&self) -> Value {
        json!({
            "account": self.account.to_string(),
            "limit": self.limit.as_str(),
            "used": self.used,
            "reserved": self.reserved,
            "maximum": self.maximum,
            "resets_at": self.resets_at(),
        })
    }

    /// The same as texts, which is what Google's errors have room for.
    pub(super) fn metadata(&self) -> Value {
        texts(&self.figures())
    }

    /// Google's form of them (google.rpc.QuotaFailure). By `PerDay` in the id its own CLI knows that waiting does not help.
    pub(super) fn quota_failure(&self) -> Value {
        let id = self.limit.as_str().split('_').map(capitalised).collect::<String>();
        json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{
            "subject": self.account.to_string(),
            "description": self.to_string(),
            "quotaMetric": format!("ace-gateway/{}", self.limit),
            "quotaId": id,
            "quotaValue": self.maximum.to_string(),
        }]})
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            account,
            limit,
            used,
            reserved,
            maximum,
            ..
        } = self;
        write!(f, "{} of {account}: ", limit.words())?;
        match limit.period() {
            Period::Open => write!(f, "{} running of {maximum}", used.saturating_add(*reserved))?,
            _ => write!(f, "{used} used and {reserved} reserved of {maximum}")?,
        }
        match self.resets_at() {
            Some(at) => write!(f, "; resets at {at}"),
            None => Ok(()),
        }
    }
}

fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    first.to_ascii_uppercase() + rest
}

/// The members that have a value, as texts.
fn texts(figures: &Value) -> Value {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let members = figures.as_object().into_iter().flatten();
    let texts = members.filter_map(|(name, value)| Some((name.clone(), text(value)?.into())));
    Value::Object(texts.collect())
}
