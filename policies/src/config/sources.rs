//! The sources of a configuration, laid over each other: the file, then the environment, then the flags.

use std::{collections::HashMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, ConfigError, Flag, Origin, Problem,
    problem::{did_you_mean, distance},
    schema::Given,
    validate,
};

const PREFIX: &str = "OPENACE_";

/// Variables that read like keys of ours but are the command line client's.
const CLIENT_VARIABLES: [&str; 4] = [
    "OPENACE_GATEWAY_URL",
    "OPENACE_GATEWAY_TOKEN",
    "OPENACE_GATEWAY_PASSWORD",
    "OPENACE_GATEWAY_USERNAME",
];

/// A configuration in the making, with where each value came from and what was wrong so far.
#[derive(Default)]
pub(super) struct Merge {
    config: Config,
    origins: HashMap<(String, String), Origin>,
    problems: Vec<Problem>,
}

impl Merge {
    /// Lays the file's values over the defaults.
    pub(super) fn file(&mut self, name: &str, text: &str) {
        let at = |span: Range<usize>| Origin::File {
            name: name.to_owned(),
            line: line(text, span.start),
        };
        match DeTable::parse(text) {
            Ok(table) => {
                for (section, value) in table.get_ref() {
                    self.file_section(section, value, &at);
                }
            }
            // The message only: the parser's full text quotes the line, which may hold a secret.
            Err(error) => self.report(at(error.span().unwrap_or(0..0)), None, None, error.message()),
        }
    }

    fn file_section(
        &mut self,
        name: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
        at: &dyn Fn(Range<usize>) -> Origin,
    ) {
        let (section, origin) = (name.get_ref().as_ref(), at(name.span()));
        let DeValue::Table(table) = value.get_ref() else {
            return self.report(origin, None, Some(section), &self.key_outside(section));
        };
        if self.config.section_mut(section).is_none() {
            return self.report(origin, Some(section), None, &self.unknown_section(section));
        }
        for (key, value) in table {
            self.set(section, key.get_ref(), Given::Toml(value.get_ref()), at(key.span()));
        }
    }

    /// Lays the variables `OPENACE_<SECTION>_<KEY>` over the file.
    pub(super) fn env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        let mut ours: Vec<_> = env.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        ours.sort();
        for (name, value) in ours {
            self.variable(&name, &value);
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let known = self.variables();
        if let Some((_, section, key)) = known.iter().find(|(variable, ..)| variable == name) {
            return self.set(section, key, Given::Text(value), Origin::Env(name.to_owned()));
        }
        let near = known.iter().map(|(variable, ..)| variable.as_str());
        if self.reads_like_ours(name) {
            let hint = did_you_mean(name, near)
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            let message = format!("unknown setting{hint}");
            self.report(Origin::Env(name.to_owned()), None, None, &message);
        }
    }

    /// Whether a variable must be a key of ours, or a misspelt one. `OPENACE_ENCRYPTION_KEY` and its like are not.
    fn reads_like_ours(&self, name: &str) -> bool {
        if CLIENT_VARIABLES.contains(&name) {
            return false;
        }
        let sections = self.config.sections();
        let in_section = |section: &str| name[PREFIX.len()..].starts_with(&format!("{}_", section.to_uppercase()));
        sections.iter().any(|(section, _)| in_section(section))
            || self
                .variables()
                .iter()
                .any(|(variable, ..)| distance(name, variable) == 1)
    }

    /// Every variable with its section and key.
    fn variables(&self) -> Vec<(String, &'static str, &'static str)> {
        let sections = self.config.sections();
        let keys = sections
            .iter()
            .flat_map(|(name, section)| section.keys().iter().map(move |key| (*name, *key)));
        keys.map(|(section, key)| (format!("{PREFIX}{}_{}", section, key).to_uppercase(), section, key))
            .collect()
    }

    /// Lays the flags over everything else.
    pub(super) fn flags(&mut self, flags: &[Flag]) {
        for (path, value, flag) in flags {
            let (section, key) = path.split_once('.').unwrap_or((path, ""));
            self.set(section, key, Given::Text(value), Origin::Flag(flag.clone()));
        }
    }

    /// Checks what depends on more than one key, and gives the configuration if nothing was wrong.
    pub(super) fn finish(mut self) -> Result<Config, ConfigError> {
        for (section, keys, message) in validate::problems(&self.config) {
            // Of several keys, one that somebody set is the one to look at.
            let origin_of = |key: &&'static str| self.origins.get(&(section.to_owned(), (*key).to_owned()));
            let set = keys.iter().find_map(|key| Some((*key, origin_of(key)?.clone())));
            let (key, origin) = set.unwrap_or((keys[0], Origin::Default));
            self.report(origin, Some(section), Some(key), &message);
        }
        if self.problems.is_empty() {
            Ok(self.config)
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }

    fn set(&mut self, section: &str, key: &str, given: Given<'_>, origin: Origin) {
        let known = self
            .config
            .section_mut(section)
            .is_some_and(|section| section.keys().contains(&key));
        if !known {
            return self.report(origin, Some(section), Some(key), &self.unknown_key(section, key));
        }
        let result = self
            .config
            .section_mut(section)
            .map_or(Ok(()), |section| section.set(key, given));
        match result {
            Ok(()) => drop(self.origins.insert((section.to_owned(), key.to_owned()), origin)),
            Err(message) => self.report(origin, Some(section), Some(key), &message),
        }
    }

    fn unknown_key(&self, section: &str, key: &str) -> String {
        let sections = self.config.sections();
        let here = sections
            .iter()
            .filter(|(name, _)| *name == section)
            .flat_map(|(_, section)| section.keys());
        if let Some(near) = did_you_mean(key, here.copied()) {
            return format!("unknown key; did you mean `{near}`?");
        }
        match sections.iter().find(|(_, section)| section.keys().contains(&key)) {
            Some((other, _)) => format!("unknown key; it belongs into [{other}]"),
            None => "unknown key; `conf/gateway.toml` lists them all".to_owned(),
        }
    }

    fn unknown_section(&self, section: &str) -> String {
        let sections = self.config.sections();
        match did_you_mean(section, sections.iter().map(|(name, _)| *name)) {
            Some(near) => format!("unknown section; did you mean [{near}]?"),
            None => "unknown section; `conf/gateway.toml` lists them all".to_owned(),
        }
    }

    fn key_outside(&self, key: &str) -> String {
        let sections = self.config.sections();
        match sections.iter().find(|(_, section)| section.keys().contains(&key)) {
            Some((section, _)) => format!("stands outside of any section; it belongs into [{section}]"),
            None if sections.iter().any(|(name, _)| *name == key) => format!("is a section; write [{key}]"),
            None => "unknown key outside of any section; `conf/gateway.toml` lists them all".to_owned(),
        }
    }

    fn report(&mut self, origin: Origin, section: Option<&str>, key: Option<&str>, message: &str) {
        let (section, key) = (section.map(str::to_owned), key.map(str::to_owned));
        self.problems.push(Problem {
            origin,
            section,
            key,
            message: message.to_owned(),
        });
    }
}

fn line(text: &str, offset: usize) -> usize {
    1 + text
        .as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
}
