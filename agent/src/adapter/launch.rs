//! From a row and a session to what is run.

use std::path::{Path, PathBuf};

use ace_policies::wire::{Failure, FailureCode};

use super::{
    Adapter, Feature,
    template::{Place, Template},
};
use crate::process::{Launch, environment::CliEnvironment};

/// What is known when a CLI is started.
#[derive(Clone, Debug)]
pub struct Given {
    /// The relay's address, without a path.
    pub url: String,
    /// What the CLI shows the relay. Worth nothing elsewhere.
    pub key: String,
    /// The session.
    pub session_id: String,
    /// The CLI's name for the conversation to go on with.
    pub resume_id: Option<String>,
    /// The model, where one was asked for.
    pub model: Option<String>,
    /// The permission mode, where one was asked for.
    pub permission_mode: Option<String>,
    /// Where it runs.
    pub project: PathBuf,
    /// The session's private directory.
    pub dir: PathBuf,
}

/// Why a row cannot be used for what is asked for.
pub type Mismatch = Failure;

impl Adapter {
    /// What is run; for a turn with its message.
    pub fn launch(&self, given: &Given, common: &CliEnvironment, prompt: Option<&str>) -> Result<Launch, Mismatch> {
        self.look_at(given)?;
        let program = common.find(&self.executable).ok_or_else(|| self.missing())?;
        let home = common.get("HOME").unwrap_or_default().to_owned();
        let filler = Filler {
            adapter: self,
            given,
            home,
            prompt,
        };
        Ok(Launch {
            program,
            args: filler.args(),
            env: common.with(filler.env()),
            cwd: given.project.clone(),
        })
    }

    /// The files of the session's private directory with their content.
    pub fn files(&self, given: &Given, common: &CliEnvironment) -> Vec<(PathBuf, String)> {
        let home = common.get("HOME").unwrap_or_default().to_owned();
        let filler = Filler {
            adapter: self,
            given,
            home,
            prompt: None,
        };
        let files = self.files.iter();
        files
            .filter_map(|(name, content)| Some((given.dir.join(name), filler.fill(content)?)))
            .collect()
    }

    /// The permission mode that it is started with.
    pub fn permission_mode<'a>(&'a self, asked: Option<&'a str>) -> Option<&'a str> {
        asked.or(self.args.default_permission_mode.as_deref())
    }

    /// Whether it can.
    pub fn can(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// That its executable is not there, and what to do about it.
    pub fn missing(&self) -> Failure {
        let mut message = format!(
            "{} is not installed: there is no `{}` in PATH",
            self.name, self.executable
        );
        if let Some(install) = &self.install {
            message.push_str(&format!("; install it with `{}`", install.command.join(" ")));
        }
        Failure {
            code: FailureCode::Unsupported,
            message,
        }
    }

    fn look_at(&self, given: &Given) -> Result<(), Mismatch> {
        self.plain("model", given.model.as_deref(), Feature::Model)?;
        self.plain(
            "permission mode",
            given.permission_mode.as_deref(),
            Feature::PermissionMode,
        )?;
        self.plain("conversation", given.resume_id.as_deref(), Feature::Resume)
    }

    /// A name becomes an argument, and part of JSON or TOML: it must not be able to become another one.
    fn plain(&self, what: &str, name: Option<&str>, feature: Feature) -> Result<(), Mismatch> {
        let Some(name) = name else { return Ok(()) };
        if !is_plain_name(name) {
            let message = format!("`{}` is no name of a {what}", name.escape_debug());
            return Err(Failure {
                code: FailureCode::Invalid,
                message,
            });
        }
        if !self.can(feature) {
            let message = format!("{} cannot be given a {what}", self.name);
            return Err(Failure {
                code: FailureCode::Unsupported,
                message,
            });
        }
        Ok(())
    }
}

/// Whether a name of a model, a mode or a conversation is one: it cannot be taken for an option, or end a quoted text.
pub fn is_plain_name(name: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || "\"'\\`${}".contains(c);
    !name.is_empty() && name.len() <= 256 && !name.starts_with('-') && !name.contains(odd)
}

struct Filler<'a> {
    adapter: &'a Adapter,
    given: &'a Given,
    home: String,
    prompt: Option<&'a str>,
}

impl Filler<'_> {
    fn args(&self) -> Vec<String> {
        let args = &self.adapter.args;
        let conversation = if self.given.resume_id.is_some() {
            &args.resume
        } else {
            &args.new
        };
        [
            &args.start,
            conversation,
            &args.model,
            &args.permission_mode,
            &args.prompt,
        ]
        .into_iter()
        .filter_map(|list| list.iter().map(|arg| self.fill(arg)).collect::<Option<Vec<_>>>())
        .flatten()
        .collect()
    }

    fn env(&self) -> Vec<(String, String)> {
        let env = self.adapter.env.iter();
        env.filter_map(|(name, value)| Some((name.clone(), self.fill(value)?)))
            .collect()
    }

    fn fill(&self, template: &Template) -> Option<String> {
        template.fill(|place| self.value(place))
    }

    fn value(&self, place: Place) -> Option<&str> {
        let given = self.given;
        match place {
            Place::Url => Some(&given.url),
            Place::Key => Some(&given.key),
            Place::SessionId => Some(&given.session_id),
            Place::ResumeId => given.resume_id.as_deref(),
            Place::Model => given.model.as_deref(),
            Place::PermissionMode => self.adapter.permission_mode(given.permission_mode.as_deref()),
            Place::Project => path(&given.project),
            Place::Dir => path(&given.dir),
            Place::Home => Some(&self.home),
            Place::Prompt => self.prompt,
        }
    }
}

fn path(path: &Path) -> Option<&str> {
    path.to_str()
}

impl Adapter {
    /// Whether a turn's message goes to the standard input.
    pub fn reads_the_message(&self) -> bool {
        !self.args.prompt.iter().any(|arg| arg.has(Place::Prompt))
    }
}
