//! Gemini's file service: the resumable upload in two steps, and the list of what was uploaded.
//! Source: <https://ai.google.dev/gemini-api/docs/files>.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Method;
use serde_json::{Value, json};

use super::answer::{Answer, Call};
use super::google;

/// The files of one run, by name; they are not kept, only told of.
#[derive(Default)]
pub struct Uploads {
    files: Mutex<BTreeMap<String, Value>>,
}

impl Uploads {
    /// The second step. Its absolute URL came from the first and is the only credential.
    pub fn finish(&self, call: &Call) -> Option<Answer> {
        let id = call
            .path
            .starts_with("/upload/")
            .then(|| call.parameter("upload_id"))
            .flatten()?;
        let mut files = self.files();
        let Some(file) = files.get_mut(id) else {
            return Some(google::error(404, "Upload not found."));
        };
        file["sizeBytes"] = json!(call.bytes.to_string());
        file["state"] = json!("ACTIVE");
        Some(Answer::json(200, json!({"file": file})).with("x-goog-upload-status", "final"))
    }

    /// The first step, and the list; none where the call is not about files.
    pub fn answer(&self, call: &Call) -> Option<Answer> {
        if call.path.starts_with("/upload/") {
            return Some(self.start(call));
        }
        let (_, path) = call.path.split_once("/files")?;
        let id = path.trim_start_matches('/');
        Some(match (&call.method, id) {
            (&Method::GET, "") => Answer::json(200, json!({"files": self.files().values().collect::<Vec<_>>()})),
            (&Method::GET, id) => found(self.files().get(id).cloned()),
            (&Method::DELETE, id) => found(self.files().remove(id).map(|_| json!({}))),
            _ => google::error(404, "Requested entity was not found."),
        })
    }

    fn start(&self, call: &Call) -> Answer {
        let id = call.id("").chars().rev().take(12).collect::<String>();
        let file = json!({
            "name": format!("files/{id}"),
            "displayName": call.field("file")["displayName"],
            "mimeType": call.header("x-goog-upload-header-content-type"),
            "uri": format!("http://{}/v1beta/files/{id}", call.header("host")),
            "state": "PROCESSING",
            "source": "UPLOADED",
        });
        self.files().insert(id.clone(), file);
        let url = format!(
            "http://{}{}?upload_id={id}&upload_protocol=resumable",
            call.header("host"),
            call.path
        );
        Answer::json(200, json!({}))
            .with("x-goog-upload-status", "active")
            .with("x-goog-upload-control-url", url.clone())
            .with("x-goog-upload-url", url)
    }

    /// A panic while the lock is held cannot leave a file half-written: its map is changed in single steps.
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found(value: Option<Value>) -> Answer {
    value.map_or_else(
        || google::error(404, "Requested entity was not found."),
        |value| Answer::json(200, value),
    )
}
