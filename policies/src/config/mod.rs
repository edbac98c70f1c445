//! The one configuration file of the gateway and the control API, and what may stand in for it.
//!
//! A flag wins over the environment, that over the file, that over the default. Nothing is ignored: an unknown key, a
//! wrong type or a figure out of range is an error that says where it stands and what to write instead. Reading the
//! file and the environment is left to the programs.

mod problem;
mod schema;
mod secret_ref;
mod sections;
mod setting;
mod sources;
mod validate;

pub(crate) use problem::did_you_mean;
pub use problem::{ConfigError, Origin, Problem};
pub use secret_ref::SecretRef;
pub use sections::*;
pub use setting::{Fsync, HangUp, LogFormat, LogLevel};

/// A flag of a command line that stands for a key: the key (`gateway.port`), its value, and the flag (`--port`).
pub type Flag = (String, String, String);

impl Config {
    /// Reads the configuration out of its sources. Every problem is found, not only the first.
    ///
    /// `file` is the file's name for messages, and its text. `env` may be the whole environment: variables that are
    /// not `OPENACE_<SECTION>_<KEY>` are left alone.
    pub fn from_sources(
        file: Option<(&str, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigError> {
        let mut merge = sources::Merge::default();
        if let Some((name, text)) = file {
            merge.file(name, text);
        }
        merge.env(env);
        merge.flags(flags);
        merge.finish()
    }

    /// Prints every key with its effective value as TOML; literal secrets show as `***`.
    pub fn to_toml_masked(&self) -> String {
        let sections = self.sections();
        let blocks = sections.iter().map(|(name, section)| {
            let lines: Vec<String> = section
                .entries()
                .iter()
                .map(|(key, value)| format!("{key} = {value}\n"))
                .collect();
            format!("[{name}]\n{}", lines.concat())
        });
        blocks.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests;
