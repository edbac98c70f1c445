//! The database: its schema for SQLite and PostgreSQL, and how it is opened.
//!
//! Queries are no part of this crate; each stands beside its use and is written once for both engines.

mod migrate;
mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::postgres::PgListener;
use sqlx::{Any, AnyConnection, AnyPool, Connection, Executor, Transaction};

pub use migrate::{Applied, Pending, check, migrate};
pub use sqlite::url as sqlite_url;

/// How long a caller waits for a free connection before the answer is an error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// What every PostgreSQL connection is told first. Both limits end what a lost client would otherwise hold forever.
const POSTGRES_SESSION: &str = "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'";

/// Opens the database that `url` names: `sqlite:<path>` (created when absent, mode 0600) or `postgres://…`.
///
/// The schema is not touched; that is [`migrate`]'s work.
pub async fn open(url: &str, options: &Options) -> Result<Db, Error> {
    sqlx::any::install_default_drivers();
    match Engine::of(url)? {
        Engine::Sqlite => sqlite::open(url, options).await,
        Engine::Postgres => open_postgres(url, options).await,
    }
}

/// An open database.
#[derive(Clone, Debug)]
pub struct Db {
    pub engine: Engine,
    /// For queries. On SQLite these connections cannot write.
    pub read: AnyPool,
    /// For transactions. On SQLite this is one connection: the file has one writer anyway, and a queue in the process
    /// is fairer than the file's lock.
    pub write: AnyPool,
    pub(crate) address: Address,
}

/// Where the database is. It may hold a password, so it is not shown.
#[derive(Clone)]
pub(crate) struct Address(Arc<str>);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Db {
    /// Begins to hear what other programs notify of on a channel, over a connection of its own. `None` on SQLite, which has no such
    /// thing.
    pub async fn listen(&self, channel: &str) -> Result<Option<PgListener>, sqlx::Error> {
        match self.engine {
            Engine::Sqlite => Ok(None),
            Engine::Postgres => {
                let mut listener = PgListener::connect(&self.address.0).await?;
                listener.listen(channel).await?;
                Ok(Some(listener))
            }
        }
    }

    /// Begins a write transaction.
    ///
    /// On SQLite it takes the write lock at once: a transaction that reads first and asks for the lock later can only
    /// fail when somebody else has written in between.
    pub async fn begin_write(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        match self.engine {
            Engine::Sqlite => self.write.begin_with("BEGIN IMMEDIATE").await,
            Engine::Postgres => self.write.begin().await,
        }
    }

    /// Closes all connections, after the queries under way.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// The database engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// The engine that a database URL asks for.
    pub fn of(url: &str) -> Result<Engine, Error> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Engine::Sqlite),
            Some("postgres" | "postgresql") => Ok(Engine::Postgres),
            _ => Err(Error::UnknownEngine),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        }
    }
}

/// The limits of an open database.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections of the read pool; on PostgreSQL shared by reads and writes.
    pub max_connections: u32,
    /// How long a statement waits for another process's lock (SQLite).
    pub busy_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 8,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a database cannot be used. No variant shows the URL: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database URL must start with sqlite: or postgres://")]
    UnknownEngine,
    #[error("the database must be a file: SQLite in memory is not shared between connections")]
    InMemory,
    #[error("cannot create the database file: {0}")]
    Create(#[source] std::io::Error),
    #[error("cannot open the database: {0}")]
    Open(#[source] sqlx::Error),
    #[error(
        "the database has schema version {database}, this program knows only up to {program}: \
         it was written by a newer version; run that one, or restore a backup"
    )]
    Newer { database: i64, program: i64 },
    #[error("schema version {0} of the database differs from this program's: it was made by a different build")]
    Changed(i64),
    #[error("cannot bring the database up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("the database did not answer: {0}")]
    Query(#[from] sqlx::Error),
}

async fn open_postgres(url: &str, options: &Options) -> Result<Db, Error> {
    knock(url).await?;
    let pool = pool(options.max_connections)
        .after_connect(|connection, _| Box::pin(async move { run(connection, POSTGRES_SESSION).await }))
        .connect(url)
        .await
        .map_err(Error::Open)?;
    Ok(Db {
        engine: Engine::Postgres,
        read: pool.clone(),
        write: pool,
        address: Address(url.into()),
    })
}

/// Connects once without the pool: the pool would try again until its time is over, and then not say what was wrong.
async fn knock(url: &str) -> Result<(), Error> {
    let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, AnyConnection::connect(url)).await;
    let connection = connected
        .map_err(|_| Error::Open(sqlx::Error::PoolTimedOut))?
        .map_err(Error::Open)?;
    connection.close().await.map_err(Error::Open)
}

fn pool(max_connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(max_connections.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
}

async fn run(connection: &mut AnyConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::raw_sql(sql)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_chooses_the_engine() {
        assert_eq!(Engine::of("sqlite:/var/lib/ace.db").unwrap(), Engine::Sqlite);
        assert_eq!(Engine::of("postgres://ace@db/ace").unwrap(), Engine::Postgres);
        assert_eq!(Engine::of("postgresql://ace@db/ace").unwrap(), Engine::Postgres);
        for wrong in ["", "ace.db", "mysql://db/ace"] {
            assert!(matches!(Engine::of(wrong), Err(Error::UnknownEngine)), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_error_never_shows_the_url() {
        let error = open("postgres://ace:s3cret@127.0.0.1:1/ace", &Options::default())
            .await
            .unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
