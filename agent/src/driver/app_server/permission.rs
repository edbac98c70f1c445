//! What Codex may do without asking: when it asks, and what its sandbox lets through.

use serde_json::{Value, json};

/// A pair of Codex's own settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permission {
    /// When it asks.
    pub approval: &'static str,
    /// What it can do without asking.
    pub sandbox: &'static str,
}

/// By the names of both settings, one of which decides the other.
const MODES: [(&str, Permission); 6] = [
    (
        "untrusted",
        Permission {
            approval: "untrusted",
            sandbox: "workspace-write",
        },
    ),
    ("on-request", Permission::USUAL),
    (
        "never",
        Permission {
            approval: "never",
            sandbox: "workspace-write",
        },
    ),
    (
        "read-only",
        Permission {
            approval: "on-request",
            sandbox: "read-only",
        },
    ),
    ("workspace-write", Permission::USUAL),
    (
        "danger-full-access",
        Permission {
            approval: "never",
            sandbox: "danger-full-access",
        },
    ),
];

impl Permission {
    /// What it is where nothing is asked for.
    pub const USUAL: Self = Self {
        approval: "on-request",
        sandbox: "workspace-write",
    };

    /// What a mode stands for.
    pub fn of(mode: &str) -> Result<Self, String> {
        let found = MODES.iter().find(|(name, _)| *name == mode);
        found.map(|(_, permission)| *permission).ok_or_else(|| {
            let names: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
            format!("`{mode}` is none of Codex's permission modes: {}", names.join(", "))
        })
    }

    /// The sandbox, as a turn is told.
    pub fn policy(self) -> Value {
        match self.sandbox {
            "read-only" => json!({ "type": "readOnly" }),
            "danger-full-access" => json!({ "type": "dangerFullAccess" }),
            _ => json!({ "type": "workspaceWrite" }),
        }
    }
}
