//! A database of the story's own in the PostgreSQL that `tests/run` starts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::process::Command;

use crate::Program;

/// A fresh, empty database.
pub struct Postgres {
    server: String,
    name: String,
}

impl Postgres {
    /// # Panics
    /// When `OPENACE_TEST_POSTGRES_URL` names no server that lets us.
    #[expect(
        clippy::disallowed_methods,
        reason = "where PostgreSQL is is a setting of the stories"
    )]
    pub async fn create() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let server = std::env::var("OPENACE_TEST_POSTGRES_URL").expect("tests/run sets OPENACE_TEST_POSTGRES_URL");
        let name = format!("story_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        psql(&server, &format!("CREATE DATABASE {name}")).await;
        Self { server, name }
    }

    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{}", self.name)
    }

    /// Where the server listens.
    ///
    /// # Panics
    /// When `OPENACE_TEST_POSTGRES_URL` names no address.
    pub fn address(&self) -> SocketAddr {
        let (_, rest) = self.server.rsplit_once('@').expect("a URL with a user");
        let (authority, _) = rest.split_once('/').expect("a URL with a database");
        let address = authority.replace("localhost", "127.0.0.1").parse();
        address.unwrap_or_else(|_| panic!("no address in {}", self.server))
    }

    /// The same database by another way.
    pub fn url_by(&self, address: SocketAddr) -> String {
        self.url().replace(&self.address().to_string(), &address.to_string())
    }

    /// Ends every connection to the database, as a restart of the server does.
    pub async fn cut_connections(&self) {
        let others = "pid <> pg_backend_pid()";
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND {others}",
            self.name
        );
        psql(&self.server, &cut).await;
    }

    /// Lets nobody in until [`Postgres::open`].
    pub async fn close(&self) {
        psql(
            &self.server,
            &format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", self.name),
        )
        .await;
        self.cut_connections().await;
    }

    pub async fn open(&self) {
        psql(
            &self.server,
            &format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.name),
        )
        .await;
    }
}

async fn psql(server: &str, statement: &str) {
    let mut command = Command::new("psql");
    command.args(["-q", "-v", "ON_ERROR_STOP=1", server, "-c", statement]);
    let (status, output) = Program::run(command).await;
    assert!(status.success(), "{statement}: {output}");
}
