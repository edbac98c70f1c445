//! What was once said between a real CLI and a program, said again to a driver.
//!
//! A fixture has a line a message: `> ` what was written to the CLI, `< ` what it answered.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use super::{Act, Acts, Driver, Input, Message, Refused, Setting, Told, text};
use crate::adapter::Adapters;

/// A driver, and the names of its calls beside those of the fixture.
struct Replay {
    driver: Driver,
    /// Calls that the driver has made and the fixture has not yet, by their methods.
    made: HashMap<String, VecDeque<Value>>,
    ids: HashMap<u64, Value>,
    words: Vec<String>,
}

/// The fixture through the driver of a CLI: what it tells, and what people see.
fn replay(cli: &str, fixture: &str, setting: Setting) -> Vec<String> {
    let adapters = Adapters::load(std::path::Path::new("/none"), &[]).unwrap();
    let driver = Driver::new(&adapters.find(cli).unwrap(), setting);
    let mut replay = Replay {
        driver,
        made: HashMap::new(),
        ids: HashMap::new(),
        words: Vec::new(),
    };
    let acts = replay.driver.begin();
    replay.note(acts);
    for line in fixture.lines() {
        match line.split_at(2) {
            ("> ", said) => replay.said(&serde_json::from_str(said).unwrap()),
            (_, printed) => replay.printed(printed),
        }
    }
    replay.words
}

impl Replay {
    fn said(&mut self, message: &Value) {
        if let Some(input) = input_of(message) {
            match self.driver.input(input) {
                Ok(acts) => self.note(acts),
                Err(Refused::Restart) => self.words.push("refused: restart".to_owned()),
                Err(Refused::Never(why) | Refused::Failed(why)) => self.words.push(format!("refused: {why}")),
            }
        }
        if let (Some(method), Some(id)) = (text(message, "/method"), message["id"].as_u64())
            && let Some(made) = self.made.get_mut(method).and_then(VecDeque::pop_front)
        {
            self.ids.insert(id, made);
        }
    }

    fn printed(&mut self, line: &str) {
        let mut message: Value = serde_json::from_str(line).unwrap_or_default();
        let is_answer = message.get("method").is_none() && message.get("type").is_none();
        let line = match message["id"].as_u64().filter(|_| is_answer) {
            None => line.to_owned(),
            Some(id) => {
                // The fixture's call was refused by the driver: there is no answer to it.
                let Some(made) = self.ids.get(&id) else { return };
                message["id"] = made.clone();
                message.to_string()
            }
        };
        let acts = self.driver.line(line.into_bytes());
        self.note(acts);
    }

    fn note(&mut self, acts: Acts) {
        for act in acts.0 {
            let word = match act {
                Act::Write(line) => {
                    let message: Value = serde_json::from_slice(&line).unwrap();
                    if let Some(method) = text(&message, "/method") {
                        self.made
                            .entry(method.to_owned())
                            .or_default()
                            .push_back(message["id"].clone());
                    }
                    continue;
                }
                Act::Close => "close".to_owned(),
                Act::Print(stream, line) => format!("{stream} {}", seen(&line)),
                Act::Tell(Told::Asked {
                    request_id, tool_name, ..
                }) => format!("asks {request_id} for {tool_name}"),
                Act::Tell(told) => format!("{told:?}"),
            };
            // Pieces are many; one stands for them.
            if self.words.last() != Some(&word) {
                self.words.push(word);
            }
        }
    }
}

fn input_of(message: &Value) -> Option<Input> {
    let at = |pointer| text(message, pointer).map(str::to_owned);
    let prompt = at("/params/prompt/0/text")
        .or_else(|| at("/params/input/0/text"))
        .or_else(|| at("/message/content"));
    if let Some(content) = prompt {
        return Some(Input::Message(Message {
            content,
            attachments: Vec::new(),
        }));
    }
    match at("/method").or_else(|| at("/request/subtype")).as_deref() {
        Some("session/cancel" | "turn/interrupt" | "interrupt") => Some(Input::Interrupt),
        Some("session/set_mode" | "set_permission_mode") => at("/params/modeId")
            .or_else(|| at("/request/mode"))
            .map(Input::PermissionMode),
        Some("session/set_model" | "set_model") => {
            at("/params/modelId").or_else(|| at("/request/model")).map(Input::Model)
        }
        Some(_) => None,
        None => {
            let id = at("/response/request_id").or_else(|| message.get("id").map(Value::to_string))?;
            Some(Input::Answer {
                request_id: id,
                allow: true,
                message: None,
            })
        }
    }
}

/// An event in a few words.
fn seen(line: &[u8]) -> String {
    let Ok(event) = serde_json::from_slice::<Value>(line) else {
        return String::from_utf8_lossy(line).trim_end().to_owned();
    };
    let kind = text(&event, "/type").unwrap_or_default();
    match kind {
        "assistant" | "user" => {
            let block = event
                .pointer("/message/content/0")
                .unwrap_or(&event["message"]["content"]);
            let what = text(block, "/type").unwrap_or("text");
            let words = [
                block["text"].as_str(),
                block["name"].as_str(),
                block["content"].as_str(),
                block.as_str(),
            ];
            let words: String = words.into_iter().flatten().collect();
            format!(
                "{kind} {what} {}",
                words.chars().take(40).collect::<String>().replace('\n', " ")
            )
        }
        "result" => format!(
            "result {} {}",
            event["is_error"],
            text(&event, "/result")
                .unwrap_or_default()
                .chars()
                .take(40)
                .collect::<String>()
                .replace('\n', " ")
        ),
        "system" => format!("system {}", text(&event, "/subtype").unwrap_or_default()),
        kind => kind.to_owned(),
    }
}

/// What a driver makes of a fixture.
#[track_caller]
pub fn check(cli: &str, fixture: &str, resume_id: Option<&str>, expected: &[&str]) {
    let setting = Setting {
        cwd: "/repo".to_owned(),
        resume_id: resume_id.map(str::to_owned),
        ..Setting::default()
    };
    assert_eq!(replay(cli, fixture, setting), expected);
}
