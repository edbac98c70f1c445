//! The machine that a session runs on: whether it can take one, and what its CLIs can.

use ace_policies::{MachineId, Provider, TenantId, UserId};
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::store;
use crate::App;
use crate::error::ApiError;
use crate::machines::{self, Presence};
use crate::record::Record;

/// A machine, locked: nobody else starts a session on it meanwhile.
pub(super) struct Host {
    pub id: MachineId,
    pub tenant: TenantId,
    pub name: String,
    pub workspace_type: String,
    max_sessions: i64,
    online: bool,
    tools: Tools,
}

impl Host {
    /// Locks a machine. `None` where there is none. Sessions are locked after it, never before.
    pub async fn lock(record: &mut Record, id: MachineId) -> Result<Option<Self>, ApiError> {
        let Some(row) = machines::hold(record.sql(), id).await? else {
            return Ok(None);
        };
        let now = record.app().now();
        let presence = Presence::of(record.sql(), id, now).await?;
        Self::read(id, &row, presence.online).map(Some)
    }

    fn read(id: MachineId, row: &AnyRow, online: bool) -> Result<Self, ApiError> {
        let python = row.try_get::<String, _>("dialect")? == "python";
        Ok(Self {
            id,
            tenant: TenantId(row.try_get("tenant_id")?),
            name: row.try_get("machine_name")?,
            workspace_type: row.try_get("workspace_type")?,
            max_sessions: row.try_get("max_sessions")?,
            online,
            tools: Tools::read(&row.try_get::<String, _>("capabilities")?, python),
        })
    }

    /// Errors: 400 `machine_offline`.
    pub fn refuse_offline(&self) -> Result<(), ApiError> {
        let refusal = || {
            let message = format!("the machine {} is offline", self.name);
            ApiError::bad("machine_offline", message).hint("check that its agent is running and reaches this server")
        };
        self.online.then_some(()).ok_or_else(refusal)
    }

    /// Errors: 400 `unknown_cli_tool`, naming the tools that there are.
    pub fn refuse_tool(&self, tool: &str) -> Result<(), ApiError> {
        if self.tools.has(tool) {
            return Ok(());
        }
        let message = format!(
            "the machine {} has no CLI '{tool}'; it has {}",
            self.name,
            self.tools.named()
        );
        Err(ApiError::bad("unknown_cli_tool", message))
    }

    /// Errors: 400 `unsupported` where the CLI is known not to do this.
    pub fn refuse_feature(&self, tool: &str, feature: &str, what: &str) -> Result<(), ApiError> {
        if self.tools.can(tool, feature) {
            return Ok(());
        }
        let message = format!("{tool} on {} does not take {what}", self.name);
        Err(ApiError::bad("unsupported", message))
    }

    /// Whether one more session would be too many: then what to say.
    pub async fn full(&self, record: &mut Record) -> Result<Option<String>, ApiError> {
        let live = store::live_on(record.sql(), self.id).await?;
        let message = || {
            format!(
                "the machine {} runs {live} sessions already, of {}",
                self.name, self.max_sessions
            )
        };
        Ok((live >= self.max_sessions).then(message))
    }
}

/// The CLIs of a machine, as its agent tells them: objects as `policies::wire` has them, or bare names from an older agent.
struct Tools {
    installed: Vec<Tool>,
    generic: Vec<String>,
    /// Whether the agent is the older one: it may have CLIs that it does not tell of, and it drops attachments.
    older: bool,
}

struct Tool {
    id: String,
    /// Empty where the agent does not tell.
    features: Vec<String>,
}

impl Tools {
    fn read(capabilities: &str, python: bool) -> Self {
        let capabilities: Value = serde_json::from_str(capabilities).unwrap_or_default();
        let clis = capabilities["clis"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            installed: clis.iter().filter_map(Tool::read).collect(),
            generic: strings(&capabilities["generic_clis"]),
            older: python,
        }
    }

    fn has(&self, tool: &str) -> bool {
        self.tells_nothing() || self.find(tool).is_some() || self.generic.iter().any(|name| name == tool)
    }

    fn can(&self, tool: &str, feature: &str) -> bool {
        let told = self.find(tool).map_or(&[][..], |tool| tool.features.as_slice());
        match told {
            [] => !(self.older && feature == "attachments"),
            told => told.iter().any(|name| name == feature),
        }
    }

    fn tells_nothing(&self) -> bool {
        self.older && self.installed.is_empty()
    }

    fn find(&self, tool: &str) -> Option<&Tool> {
        self.installed.iter().find(|installed| installed.id == tool)
    }

    fn named(&self) -> String {
        let names: Vec<&str> = self.installed.iter().map(|tool| tool.id.as_str()).collect();
        let names = [names, self.generic.iter().map(String::as_str).collect()].concat();
        if names.is_empty() {
            return "none".to_owned();
        }
        names.join(", ")
    }
}

impl Tool {
    fn read(value: &Value) -> Option<Self> {
        if let Some(id) = value.as_str() {
            return Some(Self {
                id: id.to_owned(),
                features: Vec::new(),
            });
        }
        let id = value["id"].as_str().or_else(|| value["name"].as_str())?;
        value["installed"].as_bool().unwrap_or(true).then(|| Self {
            id: id.to_owned(),
            features: strings(&value["features"]),
        })
    }
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The provider whose API a CLI speaks; `None` for those that speak several, or that are not known.
fn provider_of(tool: &str) -> Option<Provider> {
    match tool {
        "claude-code" => Some(Provider::Anthropic),
        "qwen-code-cli" | "qwen-code" | "codex" | "codex-cli" => Some(Provider::OpenAi),
        "gemini-cli" | "gemini" => Some(Provider::Google),
        _ => None,
    }
}

/// Refuses a model that no provider key of the owner's tenant could be used for. Errors: 400 `model_not_available`.
///
/// Only lists count: a key without one is for whatever its provider has, and where there is no key at all the CLI's first request says so.
pub(super) async fn refuse_model(
    app: &App,
    connection: &mut AnyConnection,
    owner: UserId,
    tool: &str,
    model: &str,
) -> Result<(), ApiError> {
    let asked = app.config().model_aliases.get(model).map_or(model, String::as_str);
    let rows = sqlx::query(
        "SELECT provider, models FROM api_key_store
         WHERE is_active = 1 AND tenant_id = (SELECT tenant_id FROM users WHERE id = $1) ORDER BY id",
    )
    .bind(owner.0)
    .fetch_all(connection)
    .await?;
    let wanted = provider_of(tool).map(Provider::as_str);
    let mut served = Vec::new();
    for row in &rows {
        if wanted.is_some_and(|wanted| row.try_get::<String, _>(0).is_ok_and(|provider| provider != wanted)) {
            continue;
        }
        let Some(models) = row.try_get::<Option<String>, _>(1)? else {
            return Ok(());
        };
        served.extend(serde_json::from_str::<Vec<String>>(&models).map_err(ApiError::internal)?);
    }
    if served.is_empty() || served.iter().any(|one| one == asked) {
        return Ok(());
    }
    served.sort();
    served.dedup();
    let message = format!("the model '{model}' is not available; there are {}", served.join(", "));
    Err(ApiError::bad("model_not_available", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_read_from_either_agents_words() {
        let own = r#"{"clis": [{"id": "claude-code", "installed": true, "features": ["resume"]}, {"id": "codex", "installed": false}],
                     "generic_clis": ["aider"]}"#;
        let tools = Tools::read(own, false);
        assert!(tools.has("claude-code") && tools.has("aider") && !tools.has("codex"));
        assert!(
            tools.can("claude-code", "resume") && !tools.can("claude-code", "abort") && tools.can("aider", "abort")
        );
        assert_eq!(tools.named(), "claude-code, aider");
        let older = Tools::read(r#"{"clis": ["qwen-code-cli"]}"#, true);
        assert!(older.has("qwen-code-cli") && !older.has("codex"));
        assert!(older.can("qwen-code-cli", "model") && !older.can("qwen-code-cli", "attachments"));
        assert!(Tools::read("{}", true).has("codex"), "it does not tell");
        assert_eq!(Tools::read("{}", false).named(), "none");
    }
}
