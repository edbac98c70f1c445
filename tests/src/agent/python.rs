//! The older agent: it asks about once a second and is told what to do in the answer.

use serde_json::{Value, json};

use super::Registered;
use crate::{Answer, eventually};

pub struct PythonAgent {
    pub registered: Registered,
    pending: Vec<Value>,
}

impl PythonAgent {
    /// Tells the server that it is there.
    ///
    /// # Panics
    /// When it is not believed.
    pub async fn starts(registered: Registered) -> Self {
        let mut agent = Self {
            registered,
            pending: Vec::new(),
        };
        let said = agent
            .says(json!({"type": "register", "capabilities": {"cpu_cores": 4, "memory_gb": 8.0}, "ip_address": "10.0.0.7"}))
            .await;
        assert_eq!(said["type"], "register_ack", "{said}");
        agent
    }

    pub fn machine(&self) -> &str {
        &self.registered.machine
    }

    /// Says something that must be accepted, and keeps the commands in the answer.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn says(&mut self, message: Value) -> Value {
        let said = self.tries(message).await.expect(200).json();
        assert_eq!(said["success"], true, "{said}");
        let commands = said["pending_commands"].as_array().cloned().unwrap_or_default();
        self.pending.extend(commands);
        said
    }

    /// Says something.
    pub async fn tries(&self, mut message: Value) -> Answer {
        message["machine_id"] = json!(self.registered.machine);
        self.registered.message(&message).await
    }

    /// The next command, which must be this one.
    ///
    /// # Panics
    /// When there is another one, or none.
    pub async fn hears(&mut self, command: &str) -> Value {
        let heard = self.next(command).await;
        assert_eq!(
            (&heard["type"], &heard["command"]),
            (&json!("command"), &json!(command)),
            "{heard}"
        );
        assert!(heard["command_id"].is_string(), "{heard}");
        heard
    }

    async fn next(&mut self, what: &str) -> Value {
        if self.pending.is_empty() {
            let registered = &self.registered;
            let poll = json!({"type": "poll", "machine_id": registered.machine});
            self.pending = eventually(what, async || {
                let said = registered.message(&poll).await.expect(200).json();
                said["pending_commands"]
                    .as_array()
                    .filter(|commands| !commands.is_empty())
                    .cloned()
            })
            .await;
        }
        self.pending.remove(0)
    }

    /// Says that a command was carried out.
    pub async fn did(&mut self, command: &Value) {
        self.says(
            json!({"type": "command_response", "request_id": command["command_id"], "result": {"success": true}}),
        )
        .await;
    }

    /// Prints lines in a session.
    pub async fn prints(&mut self, session: &str, lines: &[Value]) {
        for line in lines {
            self.says(json!({
                "type": "session_output", "session_id": session, "data": format!("{line}\n"), "stream": "stdout", "is_complete": false,
            }))
            .await;
        }
    }

    /// Says how a session is.
    pub async fn status(&mut self, session: &str, status: &str) {
        self.says(json!({"type": "session_status", "session_id": session, "status": status, "pid": 4711}))
            .await;
    }

    /// Nothing is left to do.
    ///
    /// # Panics
    /// When something is.
    pub async fn hears_nothing(&mut self) {
        let said = self.says(json!({"type": "poll"})).await;
        assert_eq!(
            (&said["type"], self.pending.len()),
            (&json!("poll_ack"), 0),
            "{:?}",
            self.pending
        );
    }
}
