//! How a SQLite file is opened: what every connection is told, and who may read the file.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor, Row};

use crate::{Db, Engine, Error, Options, pool};

/// What would end the path, or be decoded, in a `sqlite:` URL.
const PATH_ESCAPES: &AsciiSet = &CONTROLS.add(b'?').add(b'#').add(b'%');

/// How long to wait before asking again for the lock that the switch to WAL needs.
const WAL_RETRY: Duration = Duration::from_millis(20);

/// The database URL of a SQLite file.
pub fn url(path: &Path) -> String {
    format!("sqlite:{}", utf8_percent_encode(&path.to_string_lossy(), PATH_ESCAPES))
}

pub(crate) async fn open(url: &str, options: &Options) -> Result<Db, Error> {
    create_file(url)?;
    let busy_timeout = options.busy_timeout;
    // The writer comes first: it switches the file to WAL, which a connection that cannot write could not do.
    //
    // On a full disk SQLite rolls a transaction back by itself, and sqlx, whose own ROLLBACK fails then, takes it to be open for ever.
    // Nothing could be begun on that connection any more: it gives way to a new one.
    let write = pool(1)
        .after_connect(move |connection, _| Box::pin(prepare(connection, busy_timeout, Access::Write)))
        .before_acquire(|connection, _| {
            let is_free = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_free) })
        })
        .connect(url)
        .await
        .map_err(Error::Open)?;
    let read = pool(options.max_connections)
        .after_connect(move |connection, _| Box::pin(prepare(connection, busy_timeout, Access::Read)))
        .connect(url)
        .await
        .map_err(Error::Open)?;
    Ok(Db {
        engine: Engine::Sqlite,
        read,
        write,
        address: crate::Address(url.into()),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Sets up one connection.
///
/// `synchronous = NORMAL`: in WAL mode a crash of the program loses nothing, and a power cut can lose the last commits
/// but never damages the file. An act and its audit entry are one commit, so they are lost together or not at all, and
/// the gateway's requests are in its journal as well. `FULL` would cost a disk flush for each commit.
async fn prepare(connection: &mut AnyConnection, busy_timeout: Duration, access: Access) -> Result<(), sqlx::Error> {
    let query_only = if access == Access::Read { "ON" } else { "OFF" };
    let pragmas = format!(
        "PRAGMA busy_timeout = {}; PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL; PRAGMA query_only = {query_only}",
        busy_timeout.as_millis(),
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(pragmas))).await?;
    match access {
        Access::Read => Ok(()),
        Access::Write => switch_to_wal(connection, busy_timeout).await,
    }
}

/// Switches the file to write-ahead logging.
///
/// SQLite does not wait for this lock, whatever `busy_timeout` says; of two programs that open a new file at once, one
/// would fail.
async fn switch_to_wal(connection: &mut AnyConnection, patience: Duration) -> Result<(), sqlx::Error> {
    let tries = patience.as_millis() / WAL_RETRY.as_millis();
    for _ in 0..tries {
        match sqlx::query("PRAGMA journal_mode = WAL")
            .fetch_one(&mut *connection)
            .await
        {
            Ok(row) if row.try_get::<String, _>(0)? == "wal" => return Ok(()),
            Err(error) if !is_locked(&error) => return Err(error),
            _ => tokio::time::sleep(WAL_RETRY).await,
        }
    }
    sqlx::query("PRAGMA journal_mode = WAL")
        .execute(connection)
        .await
        .map(drop)
}

fn is_locked(error: &sqlx::Error) -> bool {
    const BUSY: &str = "5";
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == BUSY)
        || error.to_string().contains("database is locked")
}

/// Creates the file readable by its owner alone; SQLite itself would leave that to the umask. It gives its journal
/// files the same mode.
fn create_file(url: &str) -> Result<(), Error> {
    let options: SqliteConnectOptions = url.parse().map_err(Error::Open)?;
    let path = options.get_filename();
    if path.as_os_str().is_empty() || path.to_string_lossy().starts_with("file:") || url.contains("mode=memory") {
        return Err(Error::InMemory);
    }
    let mut file = std::fs::OpenOptions::new();
    file.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    match file.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::Create(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn one(pool: &sqlx::AnyPool, sql: &'static str) -> String {
        let row = sqlx::query(sql).fetch_one(pool).await.unwrap();
        row.try_get::<String, _>(0)
            .or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()))
            .unwrap()
    }

    async fn fresh() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::open(&url(&folder.path().join("ace.db")), &Options::default())
            .await
            .unwrap();
        (folder, db)
    }

    #[tokio::test]
    async fn writing_goes_on_when_a_full_disk_has_room_again() {
        let (_folder, db) = fresh().await;
        sqlx::query("CREATE TABLE t (x TEXT)").execute(&db.write).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 10")
            .execute(&db.write)
            .await
            .unwrap();
        let mut transaction = db.begin_write().await.unwrap();
        let much = "INSERT INTO t VALUES (hex(zeroblob(100000)))";
        let full = sqlx::query(much).execute(&mut *transaction).await.unwrap_err();
        assert!(full.to_string().contains("full"), "{full}");
        drop(transaction);
        let mut transaction = db.begin_write().await.unwrap();
        sqlx::query(much).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(one(&db.read, "SELECT COUNT(*) FROM t").await, "1");
    }

    #[tokio::test]
    async fn every_connection_is_told_the_same() {
        let (_folder, db) = fresh().await;
        for pool in [&db.read, &db.write] {
            assert_eq!(one(pool, "PRAGMA journal_mode").await, "wal");
            assert_eq!(one(pool, "PRAGMA synchronous").await, "1");
            assert_eq!(one(pool, "PRAGMA foreign_keys").await, "1");
            assert_eq!(one(pool, "PRAGMA busy_timeout").await, "5000");
        }
    }

    #[tokio::test]
    async fn the_read_pool_cannot_write() {
        let (_folder, db) = fresh().await;
        sqlx::query("CREATE TABLE t (a INTEGER)")
            .execute(&db.write)
            .await
            .unwrap();
        let error = sqlx::query("INSERT INTO t VALUES (1)")
            .execute(&db.read)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("readonly"), "{error}");
    }

    #[tokio::test]
    async fn only_the_owner_may_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, db) = fresh().await;
        sqlx::query("CREATE TABLE t (a INTEGER)")
            .execute(&db.write)
            .await
            .unwrap();
        for name in ["ace.db", "ace.db-wal", "ace.db-shm"] {
            let mode = std::fs::metadata(folder.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[tokio::test]
    async fn a_path_may_hold_any_character() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b?c#d%20e.db");
        crate::open(&url(&path), &Options::default()).await.unwrap();
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_database_in_memory_is_refused() {
        for url in ["sqlite::memory:", "sqlite:", "sqlite://x?mode=memory"] {
            let refused = crate::open(url, &Options::default()).await.unwrap_err();
            assert!(matches!(refused, Error::InMemory), "{url}: {refused}");
        }
    }
}
