//! A PostgreSQL server of the story's own, to be killed.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::{Program, eventually, lasting_port};

/// How long making a cluster may take on a busy machine.
const MAKING: Duration = Duration::from_secs(90);

/// A running server with an empty database. It ends with the story.
pub struct Cluster {
    server: Program,
    port: u16,
    // Last: the server must end first.
    folder: TempDir,
}

impl Cluster {
    /// # Panics
    /// When there is no PostgreSQL on this machine.
    pub async fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder of ours");
        if rustix::process::geteuid().is_root() {
            // The server refuses to run as root.
            let mode = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(folder.path(), mode).expect("a folder of ours");
            let mut chown = Command::new("chown");
            chown.arg("postgres").arg(&data);
            assert!(Program::run(chown).await.0.success());
        }
        let mut initdb = command(&data, "initdb");
        initdb.args([
            "-D",
            "cluster",
            "-U",
            "ace",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
        ]);
        let (status, log) = Program::run_within(initdb, MAKING).await;
        assert!(status.success(), "{log}");
        let port = lasting_port();
        let server = serve(&data, port).await;
        Self { server, port, folder }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("postgres://ace@{}/postgres", self.address())
    }

    /// Kills the server. Those that it has started end when they see that it is gone.
    pub async fn crash(&mut self) {
        self.server.crash().await;
    }

    /// Starts it again, with what it had committed.
    pub async fn restart(&mut self) {
        self.server = serve(&self.folder.path().join("data"), self.port).await;
    }
}

/// Starts the server until it stands: the one that was killed may still be in its way.
async fn serve(data: &Path, port: u16) -> Program {
    eventually("PostgreSQL to start", async || {
        let mut server = Program::open(postgres(data, port));
        for _ in 0..200 {
            if server.has_ended() {
                return None;
            }
            if answers(port).await {
                return Some(server);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    })
    .await
}

/// What is committed survives whatever happens to the processes; only the machine must not lose power.
fn postgres(data: &Path, port: u16) -> Command {
    let mut command = command(data, "postgres");
    let port = port.to_string();
    command.args([
        "-D",
        "cluster",
        "-p",
        &port,
        "-h",
        "127.0.0.1",
        "-c",
        "fsync=off",
        "-c",
        "max_connections=100",
    ]);
    command.arg("-k").arg(data);
    command
}

async fn answers(port: u16) -> bool {
    let mut psql = Command::new("psql");
    let url = format!("postgres://ace@127.0.0.1:{port}/postgres");
    psql.args(["-q", &url, "-c", "SELECT 1"]);
    Program::run(psql).await.0.success()
}

/// One of the server's programs, as whoever may run it.
fn command(data: &Path, program: &str) -> Command {
    let path = server_programs().join(program);
    let mut command = match rustix::process::geteuid().is_root() {
        false => Command::new(path),
        true => {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
                .arg(path);
            command
        }
    };
    command.current_dir(data);
    command
}

/// Debian keeps them out of the PATH.
#[expect(
    clippy::disallowed_methods,
    reason = "where PostgreSQL is is a setting of the stories"
)]
fn server_programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = installed
        .filter_map(Result::ok)
        .map(|version| version.path().join("bin"));
    let mut found: Vec<_> = versions
        .chain(std::env::split_paths(&path))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL's initdb: tests/run installs it")
}
