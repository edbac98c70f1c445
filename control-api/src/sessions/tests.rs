//! Sessions as people meet them. Agents are played by what their reports call.

mod acts;
mod create;
mod list;
mod rights;
mod tidy;

use ace_policies::session::Report;
use ace_policies::wire::{Data, Line, Stream};
use ace_policies::{MachineId, SessionId, UserId};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::SessionRow;
use crate::testing::{Client, World};
use crate::{output, sessions};

pub(crate) const CAPABILITIES: &str = r#"{"clis": [
    {"id": "qwen-code-cli", "installed": true, "features": ["model", "permission_mode", "resume", "approvals"]},
    {"id": "claude-code", "installed": true},
    {"id": "codex", "installed": false}], "generic_clis": ["aider"]}"#;

impl World {
    /// A machine that is online, with room for two sessions.
    pub async fn host(&self, number: u128) -> MachineId {
        let id = MachineId(Uuid::from_u128(number));
        self.run(
            "INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, agent_version,
                                          capabilities, max_sessions, created_at)
             VALUES ($1, 1, 'box', 'box', 'linux', '6', '0.1.0', $2, 2, 0)",
            &[&id.to_string(), CAPABILITIES],
        )
        .await;
        self.connect(id).await;
        id
    }

    /// The machine's agent comes.
    pub async fn connect(&self, machine: MachineId) {
        let now = self.app.now().to_string();
        self.run(
            "INSERT INTO agent_connections (machine_id, connection_id, node_id, transport, connected_at, seen_at, expires_at)
             VALUES ($1, 'c', 'n', 'ws', CAST($2 AS BIGINT), CAST($2 AS BIGINT), CAST($2 AS BIGINT) + 15000)",
            &[&machine.to_string(), &now],
        )
        .await;
    }

    /// The machine's agent is gone.
    pub async fn disconnect(&self, machine: MachineId) {
        self.run(
            "DELETE FROM agent_connections WHERE machine_id = $1",
            &[&machine.to_string()],
        )
        .await;
    }

    /// A user who may use the machine, logged in.
    pub async fn assigned(&self, name: &str, machine: MachineId, permission: &str) -> Client {
        let user = self.add_user(name).await;
        self.assign(user, machine, permission).await;
        self.logged_in(user).await
    }

    pub async fn assign(&self, user: UserId, machine: MachineId, permission: &str) {
        self.run(
            "INSERT INTO machine_assignments (machine_id, user_id, permission, granted_at) VALUES ($1, CAST($2 AS BIGINT), $3, 0)",
            &[&machine.to_string(), &user.to_string(), permission],
        )
        .await;
    }

    pub async fn run(&self, sql: &'static str, values: &[&str]) {
        let query = values
            .iter()
            .fold(sqlx::query(sql), |query, value| query.bind((*value).to_owned()));
        query.execute(&self.database.db.write).await.unwrap();
    }

    /// The commands that were pushed, in order: type, run, state.
    pub async fn commands(&self) -> Vec<String> {
        let rows = sqlx::query("SELECT type, run, state FROM agent_commands ORDER BY id")
            .fetch_all(&self.database.db.read)
            .await
            .unwrap();
        let command = |row: &sqlx::any::AnyRow| {
            let (kind, run, state): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
            format!("{kind} {run} {state}")
        };
        rows.iter().map(command).collect()
    }

    /// The payload of the last command.
    pub async fn last_command(&self) -> Value {
        let payload: String = sqlx::query_scalar("SELECT payload FROM agent_commands ORDER BY id DESC LIMIT 1")
            .fetch_one(&self.database.db.read)
            .await
            .unwrap();
        serde_json::from_str(&payload).unwrap()
    }

    /// What was told, in order: kind and data.
    pub async fn events(&self, kind: &str) -> Vec<Value> {
        let rows = sqlx::query("SELECT data FROM events WHERE kind = $1 ORDER BY id")
            .bind(kind.to_owned())
            .fetch_all(&self.database.db.read)
            .await
            .unwrap();
        rows.iter()
            .map(|row| serde_json::from_str(&row.get::<String, _>(0)).unwrap())
            .collect()
    }

    /// The session's agent reports on a run.
    pub async fn reports(&self, session: SessionId, run: i64, report: Report, message: Option<&str>) -> SessionRow {
        let mut record = self.app.record().await.unwrap();
        let row = sessions::lock(&mut record, session).await.unwrap().unwrap();
        let row = sessions::reported(&mut record, &row, run, report, true, Some("conversation-1"), message)
            .await
            .unwrap();
        record.commit().await.unwrap();
        row
    }

    /// The session's CLI prints lines, numbered from `first`.
    pub async fn prints(&self, session: SessionId, machine: MachineId, first: i64, lines: &[&str]) -> i64 {
        let at = self.app.now();
        let line = |(seq, text): (i64, &&str)| Line {
            seq,
            stream: Stream::Stdout,
            at,
            data: Data(text.as_bytes().to_vec()),
        };
        let lines: Vec<Line> = (first..).zip(lines).map(line).collect();
        let mut record = self.app.record().await.unwrap();
        let last = output::append(&mut record, session, machine, &lines).await.unwrap();
        record.commit().await.unwrap();
        last
    }
}

impl Client {
    /// Starts a session on a machine.
    pub async fn starts(&self, machine: MachineId) -> SessionId {
        let made = self.post("/api/remote/sessions", wish(machine)).await.ok();
        made.json["session"]["session_id"].as_str().unwrap().parse().unwrap()
    }

    pub async fn act(&self, session: SessionId, act: &str) -> crate::testing::Answer {
        self.post(&at(session, act), json!({})).await
    }

    pub async fn says(&self, session: SessionId, content: &str) -> crate::testing::Answer {
        self.post(&at(session, "/chat"), json!({ "content": content })).await
    }

    pub async fn sees(&self, session: SessionId) -> Value {
        self.get(&at(session, "")).await.ok().json["session"].clone()
    }
}

pub(crate) fn wish(machine: MachineId) -> Value {
    json!({ "machine_id": machine, "project_path": "/srv/app" })
}

/// The path of a session's resource.
pub(crate) fn at(session: SessionId, rest: &str) -> String {
    format!("/api/remote/sessions/{session}{rest}")
}
