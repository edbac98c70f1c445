//! Checks the whole chain, from the first entry to the last.

use sqlx::Row;

use super::chain::Link;
use crate::App;

/// Entries read at a time.
const BATCH: i64 = 1000;

/// A whole chain. Whoever can write to the database can also cut off its end and the note of where it ends: to notice
/// that, compare with what an earlier check said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    pub entries: u64,
    /// The hash of the last entry, empty when there is none.
    pub head: String,
}

/// Why the audit log cannot be trusted, or not be checked.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("audit entry {0} was changed, or is not of this installation")]
    Changed(i64),
    #[error("an entry before audit entry {0} is missing, or entries were moved")]
    Gap(i64),
    #[error("entries at the end of the audit log are missing: {expected} were written, {found} are there")]
    Cut { expected: i64, found: u64 },
    #[error("audit entry {0} was made under master key {1}; give it as OPENACE_ENCRYPTION_KEY_PREVIOUS to check it")]
    UnknownKey(i64, String),
    #[error("the database did not answer: {0}")]
    Database(#[from] sqlx::Error),
}

impl App {
    /// Checks the hash of every audit entry, and that none is missing between the first and the last.
    pub async fn verify_audit(&self) -> Result<Verified, Broken> {
        let mut verified = Verified {
            entries: 0,
            head: String::new(),
        };
        let mut last = i64::MIN;
        loop {
            let rows = sqlx::query("SELECT * FROM audit_log WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(last)
                .bind(BATCH)
                .fetch_all(&self.db().read)
                .await?;
            if rows.is_empty() {
                return self.verify_head(verified).await;
            }
            for row in &rows {
                last = row.try_get("id")?;
                let link = Link::read(row)?;
                verified.head = self.verify_link(last, &link, &verified.head, row.try_get("hash")?)?;
                verified.entries += 1;
            }
        }
    }

    async fn verify_head(&self, verified: Verified) -> Result<Verified, Broken> {
        let row = sqlx::query("SELECT entries, hash FROM audit_head WHERE id = 1")
            .fetch_one(&self.db().read)
            .await?;
        let (expected, hash): (i64, String) = (row.try_get("entries")?, row.try_get("hash")?);
        // More than was found may have been added since; less, or another end, may not.
        let grown =
            i64::try_from(verified.entries).is_ok_and(|found| found < expected) && self.goes_on(&verified).await?;
        if hash == verified.head || grown {
            return Ok(verified);
        }
        Err(Broken::Cut {
            expected,
            found: verified.entries,
        })
    }

    /// Whether an entry was added after the one that was the last.
    async fn goes_on(&self, verified: &Verified) -> Result<bool, sqlx::Error> {
        let next = sqlx::query("SELECT COUNT(*) FROM audit_log WHERE previous_hash = $1").bind(&verified.head);
        Ok(next.fetch_one(&self.db().read).await?.try_get::<i64, _>(0)? > 0)
    }

    fn verify_link(&self, id: i64, link: &Link, previous: &str, hash: String) -> Result<String, Broken> {
        let Some(key) = self.audit_keys().get(&link.key_id) else {
            return Err(Broken::UnknownKey(id, link.key_id.clone()));
        };
        if link.hash(key) != hash {
            return Err(Broken::Changed(id));
        }
        if link.previous_hash != previous {
            return Err(Broken::Gap(id));
        }
        Ok(hash)
    }
}
