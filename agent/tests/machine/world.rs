//! A machine with the real runner, the real guard, and a CLI that does what it is told to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command as Shell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ace_agent::{
    adapter::Adapters,
    process::environment::CliEnvironment,
    runner::{self, Config},
    supervisor::Limits,
    transport::{BreakGlass, GatewayUrl},
    uplink::{Down, Up, Uplink},
};
use ace_policies::{
    SessionId,
    secret::Secret,
    session::Report,
    wire::{Behavior, Command, Failure, FromAgent, Known, PROTOCOL, Start, Stream, ToAgent},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Machine {
    pub dir: TempDir,
    pub project: PathBuf,
    pub session: SessionId,
    pub limits: Limits,
    pub gateway: String,
    /// Adapters besides the built-in ones.
    pub adapters: Vec<String>,
    /// In front of everything else in `PATH`.
    pub path: Vec<PathBuf>,
    pub said: Vec<FromAgent>,
    pub printed: Vec<(Stream, Vec<u8>)>,
    /// How much of each line that was too long was not kept.
    pub left_out: Vec<u64>,
    /// Where the latest end of a turn is in `printed`.
    last_result: Option<usize>,
    up: Option<mpsc::Receiver<Up>>,
    down: Option<mpsc::Sender<Down>>,
    stop: CancellationToken,
    runner: Option<JoinHandle<()>>,
}

pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn key() -> Secret {
    Secret::new(format!("acel_{}", Uuid::new_v4().simple()))
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("project");
        fs::create_dir(&project).unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/fake_cli.py");
        let row = format!(
            "id = \"fake\"\nexecutable = \"python3\"\ndriver = \"stream_json\"\n\
             features = [\"resume\", \"model\", \"permission_mode\", \"approvals\", \"abort\"]\n\
             [args]\nstart = [{fake:?}]\nnew = [\"--session-id\", \"{{session_id}}\"]\nresume = [\"--resume\", \"{{resume_id}}\"]\n\
             model = [\"--model\", \"{{model}}\"]\n[env]\nFAKE_URL = \"{{url}}\"\nFAKE_KEY = \"{{key}}\"\n"
        );
        Self {
            dir,
            project,
            session: SessionId::from(Uuid::new_v4()),
            limits: Limits::default(),
            gateway: "http://127.0.0.1:9".to_owned(),
            adapters: vec![row],
            path: Vec::new(),
            said: Vec::new(),
            printed: Vec::new(),
            left_out: Vec::new(),
            last_result: None,
            up: None,
            down: None,
            stop: CancellationToken::new(),
            runner: None,
        }
    }

    /// Starts the runner, as the agent does, and says what the server knows.
    pub async fn start(&mut self, known: &[(SessionId, i64)]) {
        let rows = self.dir.path().join("adapters.d");
        fs::create_dir_all(&rows).unwrap();
        for (number, row) in self.adapters.iter().enumerate() {
            fs::write(rows.join(format!("{number}.toml")), row).unwrap();
        }
        let (out, up) = mpsc::channel(16);
        let (down, incoming) = mpsc::channel(16);
        let config = Config {
            executable: env!("CARGO_BIN_EXE_ace-agent").into(),
            dir: self.dir.path().join("state"),
            adapters: Adapters::load(&rows, &["cat".to_owned()]).unwrap(),
            environment: CliEnvironment::of(self.environment()),
            roots: Vec::new(),
            limits: self.limits.clone(),
            gateway: GatewayUrl::parse(&self.gateway, "test", BreakGlass::Closed).unwrap(),
            machine: None,
            new_key: key,
            clock: std::time::SystemTime::now,
        };
        self.stop = CancellationToken::new();
        (self.up, self.down) = (Some(up), Some(down));
        self.runner = Some(tokio::spawn(runner::run(
            config,
            Uplink { out, down: incoming },
            self.stop.clone(),
        )));
        self.welcome(known).await;
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = std::env::var("PATH").unwrap();
        let path = std::env::join_paths(self.path.iter().cloned().chain(std::env::split_paths(&path))).unwrap();
        vec![
            ("PATH".to_owned(), path.into_string().unwrap()),
            ("HOME".to_owned(), self.dir.path().to_str().unwrap().to_owned()),
            ("OPENACE_AGENT_TOKEN".to_owned(), "acea_secret".to_owned()),
        ]
    }

    pub async fn welcome(&mut self, known: &[(SessionId, i64)]) {
        let known = known.iter().map(|(session_id, run)| Known {
            session_id: *session_id,
            run: *run,
            live: true,
            last_seq: 0,
        });
        let sessions = known.collect();
        let welcome = ToAgent::Welcome {
            protocol: PROTOCOL,
            heartbeat_interval_s: 60,
            server_time_ms: now(),
            sessions,
        };
        self.tell(welcome).await;
    }

    pub async fn tell(&self, message: ToAgent) {
        let down = self.down.as_ref().unwrap();
        down.send(Down::Heard(message)).await.unwrap();
    }

    /// Sends a command; answers what became of it.
    pub async fn command(&mut self, command: Command) -> Result<(), Failure> {
        let id = self.push(command).await;
        self.done(id).await
    }

    pub async fn push(&mut self, command: Command) -> Uuid {
        let command_id = Uuid::new_v4();
        self.tell(ToAgent::Command {
            command_id,
            expires_at_ms: now() + 60_000,
            command,
        })
        .await;
        command_id
    }

    pub async fn done(&mut self, id: Uuid) -> Result<(), Failure> {
        let find = |machine: &Self| {
            machine.said.iter().find_map(|said| match said {
                FromAgent::Done { command_id, error, .. } if *command_id == id => Some(error.clone()),
                _ => None,
            })
        };
        self.until("the command to be done", |machine| find(machine).is_some())
            .await;
        find(self).unwrap().map_or(Ok(()), Err)
    }

    /// Waits until it is so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.up.as_mut().unwrap().recv()).await {
                Ok(Some(up)) => self.keep(up),
                Ok(None) => panic!("the runner ended before {what}: {:#?}", self.said),
                Err(_) => panic!("waited in vain for {what}:\n{:#?}\n{}", self.said, self.text()),
            }
        }
    }

    /// What is said and printed until nothing has come for a second. As long as it is held, it takes its room.
    pub async fn hold(&mut self) -> Vec<Up> {
        let mut held = Vec::new();
        while let Ok(Some(up)) = timeout(Duration::from_secs(1), self.up.as_mut().unwrap().recv()).await {
            held.push(up);
        }
        held
    }

    pub fn keep(&mut self, up: Up) {
        match up {
            Up::Say(word) => self.said.push(word),
            Up::Print {
                stream, data, left_out, ..
            } => {
                self.left_out.extend((left_out > 0).then_some(left_out));
                if is_result(&data) {
                    self.last_result = Some(self.printed.len());
                }
                self.printed.push((stream, data));
            }
        }
    }

    pub fn start_of(&self, cli: &str, run: i64) -> Start {
        Start {
            session_id: self.session,
            run,
            project_path: self.project.to_str().unwrap().to_owned(),
            cli_tool: cli.to_owned(),
            model: None,
            permission_mode: None,
            resume_id: None,
            proxy_token: "proxy-token".to_owned(),
            proxy_token_expires_at_s: now() / 1000 + 300,
            last_seq: 0,
        }
    }

    pub async fn session(&mut self, cli: &str) -> Result<(), Failure> {
        self.command(Command::StartSession(self.start_of(cli, 1))).await
    }

    pub fn message(&self, content: &str) -> Command {
        Command::SendMessage {
            session_id: self.session,
            content: content.to_owned(),
            attachments: Vec::new(),
        }
    }

    /// A whole turn; answers what was printed in it.
    pub async fn turn(&mut self, content: &str) -> String {
        let before = self.printed.len();
        self.command(self.message(content)).await.unwrap();
        self.turn_ends(before).await
    }

    pub async fn turn_ends(&mut self, before: usize) -> String {
        self.until("the turn to end", |machine| {
            machine.last_result.is_some_and(|at| at >= before)
        })
        .await;
        self.until("the end to be told", |machine| {
            let last = machine.said.iter().rev().find_map(|said| match said {
                FromAgent::Status { busy, .. } => Some(*busy),
                _ => None,
            });
            last == Some(false)
        })
        .await;
        text(&self.printed[before..])
    }

    pub async fn stop_session(&mut self) {
        self.command(Command::StopSession {
            session_id: self.session,
        })
        .await
        .unwrap();
    }

    pub async fn asked(&mut self) -> (String, String, Value) {
        let from = self.said.len();
        self.until("a question", |machine| machine.said[from..].iter().any(is_question))
            .await;
        match self.said[from..].iter().find(|said| is_question(said)).unwrap() {
            FromAgent::Approval {
                request_id,
                tool_name,
                input,
                ..
            } => (request_id.clone(), tool_name.clone(), input.clone()),
            _ => unreachable!(),
        }
    }

    pub async fn answer(&mut self, request_id: &str, behavior: Behavior) -> Result<(), Failure> {
        self.command(Command::PermissionResponse {
            session_id: self.session,
            request_id: request_id.to_owned(),
            behavior,
            tool_name: "x".to_owned(),
            message: Some("not today".to_owned()),
        })
        .await
    }

    /// Everything that was printed.
    pub fn text(&self) -> String {
        text(&self.printed)
    }

    /// The CLI's latest name for the conversation.
    pub fn resume_id(&self) -> Option<String> {
        self.said.iter().rev().find_map(|said| match said {
            FromAgent::Status { resume_id, .. } => resume_id.clone(),
            _ => None,
        })
    }

    pub fn reports(&self) -> Vec<Report> {
        let reports = self.said.iter().filter_map(|said| match said {
            FromAgent::Status { state, .. } => Some(*state),
            _ => None,
        });
        let mut reports: Vec<Report> = reports.collect();
        reports.dedup();
        reports
    }

    /// Ends the agent as a service manager does, and waits for it.
    pub async fn shut_down(&mut self) {
        self.stop.cancel();
        while let Ok(Some(up)) = timeout(PATIENCE, self.up.as_mut().unwrap().recv()).await {
            self.keep(up);
        }
        self.runner.take().unwrap().await.unwrap();
    }

    /// Processes that run in the project's directory.
    pub fn processes(&self) -> Vec<String> {
        in_directory(&self.project)
    }

    pub async fn nobody_is_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "still there: {:?}", self.processes());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_question(said: &FromAgent) -> bool {
    matches!(said, FromAgent::Approval { .. })
}

fn is_result(line: &[u8]) -> bool {
    line.starts_with(b"{") && serde_json::from_slice::<Value>(line).is_ok_and(|event| event["type"] == "result")
}

fn text(printed: &[(Stream, Vec<u8>)]) -> String {
    printed
        .iter()
        .map(|(stream, data)| format!("{stream}: {}", String::from_utf8_lossy(data)))
        .collect()
}

pub fn in_directory(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let there = processes.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir));
    let there = there.filter(|entry| !fs::read(entry.path().join("cmdline")).unwrap_or_default().is_empty());
    there.map(|entry| name(&entry.path())).collect()
}

fn name(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    format!("{} {line}", process.file_name().unwrap().to_string_lossy())
}

pub fn kill(pid: &str) {
    assert!(Shell::new("kill").args(["-9", pid]).status().unwrap().success());
}
