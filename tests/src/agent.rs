//! Agents that stories play themselves, message by message.

mod python;
mod socket;

pub use python::PythonAgent;
pub use socket::SocketAgent;

use serde_json::{Value, json};

use crate::{Answer, Ask, Door, Person};

/// A machine that is registered, and what its agent shows to be believed.
#[derive(Clone)]
pub struct Registered {
    pub door: Door,
    pub machine: String,
    pub token: String,
}

impl Registered {
    /// Registers a machine with a fresh registration token.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn by(admin: &Person, door: &Door, name: &str) -> Self {
        let said = admin
            .post("/api/remote/machines/register", json!({"tenant_id": 1}))
            .await
            .ok();
        let token = said["registration_token"].as_str().expect("a token").to_owned();
        Self::with(door, &token, &uuid(), name).await.expect("a machine")
    }

    /// Registers a machine; `None` where that is refused.
    pub async fn with(door: &Door, registration_token: &str, machine: &str, name: &str) -> Option<Self> {
        let body = json!({
            "registration_token": registration_token,
            "machine_id": machine,
            "machine_name": name,
            "hostname": name,
            "os_type": "linux",
            "os_version": "6.1",
            "capabilities": {"cpu_cores": 4, "memory_gb": 8.0},
            "agent_version": "1.0.0",
        });
        let answer = door.call(&Ask::post("/api/remote/agent/register").json(&body)).await;
        if answer.status != 200 {
            return None;
        }
        let token = answer.json()["machine"]["agent_token"]
            .as_str()
            .expect("an agent token")
            .to_owned();
        Some(Self {
            door: door.clone(),
            machine: machine.to_owned(),
            token,
        })
    }

    /// Sends a message to the address that all agents can reach.
    pub async fn message(&self, body: &Value) -> Answer {
        let ask = Ask::post("/api/remote/agent/message").bearer(&self.token).json(body);
        self.door.call(&ask).await
    }
}

/// A random id.
pub fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .expect("Linux")
        .trim()
        .to_owned()
}
