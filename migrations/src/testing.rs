//! Databases for tests: one of its own for each test, on every engine at hand.
//!
//! SQLite is always there; PostgreSQL when `OPENACE_TEST_POSTGRES_URL` names a database in which schemas may be made.

use tempfile::TempDir;
use uuid::Uuid;

use crate::{Db, Engine, Options, migrate, open, sqlite_url};

/// A test's own database. The SQLite file goes with it; a PostgreSQL schema stays until its cluster goes.
#[derive(Debug)]
pub struct TestDatabase {
    pub db: Db,
    pub url: String,
    _folder: Option<TempDir>,
}

impl TestDatabase {
    pub fn engine(&self) -> Engine {
        self.db.engine
    }

    /// Opens the same database once more, as another program would.
    pub fn open_again(&self) -> impl Future<Output = Db> + Send + 'static {
        let url = self.url.clone();
        async move { open(&url, &options()).await.expect("the test database opens again") }
    }
}

/// A migrated database on each engine.
pub async fn test_databases() -> Vec<TestDatabase> {
    let databases = empty_databases().await;
    for database in &databases {
        migrate(&database.db).await.expect("the test database migrates");
    }
    databases
}

/// An empty database on each engine.
pub async fn empty_databases() -> Vec<TestDatabase> {
    let mut databases = vec![sqlite().await];
    if let Some(server) = postgres_server() {
        databases.push(postgres(&server).await);
    }
    databases
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests have no configuration file that could name their server"
)]
fn postgres_server() -> Option<String> {
    std::env::var("OPENACE_TEST_POSTGRES_URL").ok()
}

async fn sqlite() -> TestDatabase {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = sqlite_url(&folder.path().join("ace.db"));
    let db = open(&url, &options()).await.expect("a SQLite file opens");
    TestDatabase {
        db,
        url,
        _folder: Some(folder),
    }
}

/// A schema costs a hundredth of what a database costs, and is as much a test's own.
async fn postgres(server: &str) -> TestDatabase {
    let schema = format!("test_{}", Uuid::new_v4().simple());
    let admin = open(server, &options())
        .await
        .expect("the PostgreSQL server of the tests answers");
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::raw_sql(create)
        .execute(&admin.write)
        .await
        .expect("a schema can be made");
    admin.close().await;
    let separator = if server.contains('?') { '&' } else { '?' };
    let url = format!("{server}{separator}options[search_path]={schema}");
    let db = open(&url, &options()).await.expect("the new schema opens");
    TestDatabase { db, url, _folder: None }
}

/// Few connections: many tests share one server.
fn options() -> Options {
    Options {
        max_connections: 3,
        ..Options::default()
    }
}
