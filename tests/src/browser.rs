//! Somebody's browser that follows a session: it reconnects by itself and says which event it saw last.

use std::time::Duration;

use serde_json::Value;

use crate::{Ask, Door, End, Person, Wire};

/// A stream of server-sent events.
pub struct Browser {
    door: Door,
    cookie: String,
    path: String,
    wire: Option<Wire>,
    text: String,
    last_id: Option<String>,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

impl Browser {
    pub fn of(person: &Person, door: &Door, path: &str) -> Self {
        Self {
            door: door.clone(),
            cookie: person.cookie().to_owned(),
            path: path.to_owned(),
            wire: None,
            text: String::new(),
            last_id: None,
        }
    }

    /// Follows it at another door from now on.
    pub fn moves_to(&mut self, door: &Door) {
        self.door = door.clone();
        self.wire = None;
    }

    /// The next event, over as many connections as it takes; `None` when nothing came for so long.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Event> {
        tokio::time::timeout(patience, self.next()).await.ok()
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.take() {
                if event.id.is_some() {
                    self.last_id.clone_from(&event.id);
                }
                return event;
            }
            if self.more().await.is_none() {
                self.wire = None;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Reads on, on a new connection if there is none.
    async fn more(&mut self) -> Option<()> {
        if self.wire.is_none() {
            self.wire = self.connects().await.ok();
            self.text.clear();
        }
        let piece = self.wire.as_mut()?.piece().await?;
        self.text.push_str(&String::from_utf8_lossy(&piece.bytes));
        Some(())
    }

    async fn connects(&self) -> Result<Wire, End> {
        let mut ask = Ask::get(&self.path)
            .header("cookie", &self.cookie)
            .header("accept", "text/event-stream");
        if let Some(id) = &self.last_id {
            ask = ask.header("last-event-id", id);
        }
        let mut wire = Wire::try_connect(self.door.address).await?;
        let head = wire.ask(&ask).await.try_answer_head("GET").await?;
        if head.status == 200 { Ok(wire) } else { Err(End::Closed) }
    }

    /// The first whole event of what was read; comments are skipped.
    fn take(&mut self) -> Option<Event> {
        loop {
            let end = self.text.find("\n\n")?;
            let block: String = self.text.drain(..end + 2).collect();
            let field = |name: &str| {
                let lines = block
                    .lines()
                    .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                let lines: Vec<_> = lines.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect();
                (!lines.is_empty()).then(|| lines.join("\n"))
            };
            if let Some(data) = field("data") {
                return Some(Event {
                    id: field("id"),
                    event: field("event").unwrap_or_else(|| "message".to_owned()),
                    data: serde_json::from_str(&data).unwrap_or(Value::Null),
                });
            }
        }
    }
}
