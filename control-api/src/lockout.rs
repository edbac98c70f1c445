//! Slows down whoever guesses passwords. The counters are in the database, so guesses cannot be spread over nodes.
//!
//! An attempt is counted before the password is looked at and given back when it was right: many guesses at once count
//! as many. One account from one address has the configured limit; ten times that bounds one address over all
//! accounts, and one account over all addresses.

use std::net::IpAddr;
use std::time::Duration;

use sqlx::{AnyConnection, Row};

use crate::App;
use crate::error::ApiError;

/// How much more is allowed over all addresses, or all accounts, than for one of each. Low enough to stop a guesser,
/// high enough that one careless colleague does not lock out an office.
const WIDE: i64 = 10;

/// An attempt that was counted, to be given back when it succeeds.
pub(crate) struct Attempt {
    address: String,
    pair: String,
    account: String,
}

impl Attempt {
    /// Counts an attempt. Errors: 429 while locked out.
    pub async fn begin(app: &App, username: &str, client: IpAddr) -> Result<Self, ApiError> {
        let (network, name) = (network(client), username.to_ascii_lowercase());
        let attempt = Self {
            address: format!("address {network}"),
            pair: format!("account {name} from {network}"),
            account: format!("account {name}"),
        };
        let mut transaction = app.db().begin_write().await?;
        let wait_ms = attempt.count(app, &mut transaction).await?;
        transaction.commit().await?;
        if wait_ms > 0 { Err(locked(wait_ms)) } else { Ok(attempt) }
    }

    /// Counts from the narrow to the wide and stops at the first lock: whoever is locked out cannot go on to lock out
    /// the account's owner.
    async fn count(&self, app: &App, connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
        let limit = i64::from(app.config().login_max_failures);
        forget_old(app, connection).await?;
        for (subject, limit) in [
            (&self.address, limit * WIDE),
            (&self.pair, limit),
            (&self.account, limit * WIDE),
        ] {
            let wait_ms = count(app, connection, subject, limit).await?;
            if wait_ms > 0 {
                return Ok(wait_ms);
            }
        }
        Ok(0)
    }

    /// Gives the attempt back: the password was right.
    pub async fn succeeded(&self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        // In the order in which they are counted, so that two transactions never wait for each other.
        for (subject, sql) in [
            (&self.address, GIVE_BACK),
            (&self.pair, FORGET),
            (&self.account, GIVE_BACK),
        ] {
            sqlx::query(sql).bind(subject).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

/// An address that registers machines. Only failures count, and after they were answered: registration tokens are too long to be
/// guessed, and a hundred machines behind one address may be registered at once.
pub(crate) struct Registrar {
    subject: String,
}

impl Registrar {
    /// Lets an address try. Errors: 429 while it is locked out.
    pub async fn enter(app: &App, client: IpAddr) -> Result<Self, ApiError> {
        let subject = format!("registration from {}", network(client));
        let row = sqlx::query("SELECT locked_until FROM login_failures WHERE subject = $1").bind(&subject);
        let row = row.fetch_optional(&app.db().read).await?;
        let locked_until = row.map(|row| row.try_get::<i64, _>(0)).transpose()?.unwrap_or_default();
        let wait_ms = locked_until - app.now();
        if wait_ms <= 0 {
            return Ok(Self { subject });
        }
        let wait = seconds(wait_ms);
        let message = format!("too many wrong registration tokens; try again in {} s", wait.as_secs());
        Err(ApiError::too_many("registration_locked", message, wait))
    }

    /// Counts a wrong token.
    pub async fn failed(&self, app: &App) -> Result<(), ApiError> {
        let limit = i64::from(app.config().login_max_failures) * WIDE;
        let mut transaction = app.db().begin_write().await?;
        count(app, &mut transaction, &self.subject, limit).await?;
        Ok(transaction.commit().await?)
    }
}

const GIVE_BACK: &str = "UPDATE login_failures SET failures = failures - 1 WHERE subject = $1 AND failures > 0";
const FORGET: &str = "DELETE FROM login_failures WHERE subject = $1";

/// Counts one attempt and returns for how many more milliseconds the subject is locked out. Attempts while locked out
/// do not prolong it.
async fn count(app: &App, connection: &mut AnyConnection, subject: &str, limit: i64) -> Result<i64, sqlx::Error> {
    let now = app.now();
    let window = millis(app.config().login_window);
    let row = sqlx::query(
        "INSERT INTO login_failures (subject, failures, window_start, locked_until) VALUES ($1, 1, $2, 0)
         ON CONFLICT (subject) DO UPDATE SET
             failures = CASE WHEN login_failures.locked_until > $2 THEN login_failures.failures
                             WHEN login_failures.window_start <= $3 THEN 1
                             ELSE login_failures.failures + 1 END,
             window_start = CASE WHEN login_failures.window_start <= $3 THEN $2 ELSE login_failures.window_start END
         RETURNING failures, locked_until",
    )
    .bind(subject)
    .bind(now)
    .bind(now - window)
    .fetch_one(&mut *connection)
    .await?;
    let (failures, locked_until): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if locked_until > now || failures <= limit {
        return Ok((locked_until - now).max(0));
    }
    let lock = millis(app.config().login_lock);
    sqlx::query("UPDATE login_failures SET locked_until = $1, failures = 0 WHERE subject = $2")
        .bind(now + lock)
        .bind(subject)
        .execute(connection)
        .await?;
    tracing::warn!(subject, "locked out after too many failures");
    Ok(lock)
}

/// Keeps the table small, whatever names are tried.
async fn forget_old(app: &App, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let now = app.now();
    sqlx::query("DELETE FROM login_failures WHERE window_start <= $1 AND locked_until <= $2")
        .bind(now - millis(app.config().login_window))
        .bind(now)
        .execute(connection)
        .await
        .map(drop)
}

/// Whoever has one IPv6 address has the 2^64 beside it.
fn network(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn locked(wait_ms: i64) -> ApiError {
    let wait = seconds(wait_ms);
    let message = format!("too many failed logins; try again in {} s", wait.as_secs());
    ApiError::too_many("login_locked", message, wait)
}

fn seconds(wait_ms: i64) -> Duration {
    Duration::from_secs(u64::try_from(wait_ms).unwrap_or_default().div_ceil(1000))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
