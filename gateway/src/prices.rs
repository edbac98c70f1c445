//! The prices in force: those of the configured file, or the built-in ones. The file is looked at again and again; what is wrong
//! with it at the start is an error, later the table before it stays in force.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ace_policies::config::Config;
use ace_policies::price::{Price, PriceError, PriceTable};
use ace_policies::usage::Usage;
use ace_policies::{KeyId, Provider};
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::metrics::Metrics;

/// A file larger than this is not a price table.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// What tokens cost. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Prices(Arc<Inner>);

struct Inner {
    table: ArcSwap<PriceTable>,
    /// `None`: the built-in table, which never changes.
    file: Option<PathBuf>,
    /// How the file was when it was last looked at; `None` where it could not be.
    seen: Mutex<Option<Mark>>,
    metrics: Arc<Metrics>,
}

/// What tells that a file has changed: its time, its size, and whether it is another one by the same name.
type Mark = (Option<SystemTime>, u64, u64);

/// Why there is no price table.
#[derive(Debug)]
pub enum PricesError {
    /// The file cannot be read.
    File(PathBuf, io::Error),
    /// Something in it is wrong.
    Table(PathBuf, PriceError),
}

impl fmt::Display for PricesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "[prices] file: {}: {error}", path.display()),
            Self::Table(path, error) => {
                let lines = error
                    .problems
                    .iter()
                    .map(|problem| format!("{}: {problem}", path.display()));
                f.write_str(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

impl std::error::Error for PricesError {}

/// Reads the table that the configuration names.
pub fn read(config: &Config) -> Result<PriceTable, PricesError> {
    match file(config) {
        Some(path) => read_file(&path).1,
        None => Ok(PriceTable::built_in()),
    }
}

impl Prices {
    /// Reads the table that the configuration names.
    pub fn load(config: &Config, metrics: Arc<Metrics>) -> Result<Self, PricesError> {
        let file = file(config);
        let (seen, table) = match &file {
            Some(path) => read_file(path),
            None => (None, Ok(PriceTable::built_in())),
        };
        Ok(Self(Arc::new(Inner {
            table: ArcSwap::from_pointee(table?),
            file,
            seen: Mutex::new(seen),
            metrics,
        })))
    }

    /// The price of a request that began at `at_ms` (UTC milliseconds). It holds for all of the request, whatever becomes of the
    /// table meanwhile.
    pub fn price(&self, provider: Provider, model: Option<&str>, key: Option<KeyId>, at_ms: i64) -> Arc<Price> {
        self.0.table.load().price(provider, model, key, at_ms).clone()
    }

    /// What a request is charged with, in micro-USD. Counts those whose model or service tier has no price of its own.
    pub fn charge(&self, price: &Price, usage: &Usage, tier: Option<&str>) -> u64 {
        let is_unpriced = price.is_default() || tier.is_some_and(|tier| !price.knows(tier));
        if is_unpriced && !usage.is_zero() {
            self.0.metrics.unpriced(price.provider());
        }
        price.cost(usage, tier)
    }

    /// The whole table.
    pub fn table(&self) -> Arc<PriceTable> {
        self.0.table.load_full()
    }

    /// Reads the file anew if it has changed. One that is wrong is logged and counted once, and changes nothing.
    pub fn reload_if_changed(&self) {
        let Some(path) = &self.0.file else { return };
        let mut seen = self.0.seen.lock();
        if fs::metadata(path).ok().map(|now| mark(&now)) == *seen {
            return;
        }
        let (now, table) = read_file(path);
        *seen = now;
        match table {
            Ok(table) => {
                self.0.table.store(Arc::new(table));
                tracing::info!(file = %path.display(), "the price table was read anew");
            }
            Err(error) => {
                self.0.metrics.price_table_errors.inc();
                tracing::error!(%error, "the price table is wrong; the one before it stays in force");
            }
        }
    }

    /// Looks at the file for ever.
    pub async fn watch(self) {
        if self.0.file.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(POLL).await;
            let prices = self.clone();
            // A file system that hangs is not to hold up the runtime.
            let _ = tokio::task::spawn_blocking(move || prices.reload_if_changed()).await;
        }
    }
}

fn file(config: &Config) -> Option<PathBuf> {
    Some(&config.prices.file)
        .filter(|file| !file.is_empty())
        .map(PathBuf::from)
}

/// How the file was before it was read, so that a change while it is read is seen as one, and what is in it.
fn read_file(path: &Path) -> (Option<Mark>, Result<PriceTable, PricesError>) {
    let metadata = fs::metadata(path);
    let seen = metadata.as_ref().ok().map(mark);
    let text = metadata.and_then(|metadata| {
        if metadata.len() > MAX_FILE_BYTES {
            return Err(io::Error::other("too large for a price table"));
        }
        fs::read_to_string(path)
    });
    let table = text
        .map_err(|error| PricesError::File(path.to_owned(), error))
        .and_then(|text| PriceTable::parse(&text).map_err(|error| PricesError::Table(path.to_owned(), error)));
    (seen, table)
}

fn mark(metadata: &Metadata) -> Mark {
    use std::os::unix::fs::MetadataExt;
    (metadata.modified().ok(), metadata.len(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::journal::JournalStats;

    const DEFAULTS: &str = "[default.openai]\ninput = \"1\"\noutput = \"1\"\n[default.anthropic]\ninput = \"1\"\noutput = \"1\"\n\
                            [default.google]\ninput = \"1\"\noutput = \"1\"\n";

    struct World {
        prices: Prices,
        file: PathBuf,
        metrics: Arc<Metrics>,
        _directory: tempfile::TempDir,
    }

    impl World {
        /// A gateway whose price file says that.
        fn with(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("prices.toml");
            fs::write(&file, text).unwrap();
            let metrics = Arc::new(Metrics::new().unwrap());
            let prices = Prices::load(&config(&file), metrics.clone()).unwrap();
            Self {
                prices,
                file,
                metrics,
                _directory: directory,
            }
        }

        /// Replaces the file and looks at it.
        fn change(&self, text: &str) {
            let new = self.file.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &self.file).unwrap();
            self.prices.reload_if_changed();
        }

        fn id(&self, model: &str) -> String {
            self.prices
                .price(Provider::OpenAi, Some(model), None, 0)
                .id()
                .to_owned()
        }

        fn errors(&self) -> u64 {
            self.metrics.price_table_errors.get()
        }
    }

    fn config(file: &Path) -> Config {
        let toml = format!("[prices]\nfile = \"{}\"", file.display());
        Config::from_sources(Some(("gateway.toml", &toml)), [], &[]).unwrap()
    }

    fn entry(model: &str) -> String {
        format!("[[price]]\nprovider = \"openai\"\nmodel = \"{model}\"\ninput = \"2\"\noutput = \"3\"\n{DEFAULTS}")
    }

    #[test]
    fn a_file_that_changes_is_read_anew() {
        let world = World::with(&entry("a"));
        let before = world.prices.price(Provider::OpenAi, Some("a"), None, 0);
        world.change(&entry("b"));
        assert_eq!([world.id("a"), world.id("b")], ["openai/default", "openai/b"]);
        assert_eq!(before.id(), "openai/a", "a request keeps the price that it began with");
        assert_eq!(world.errors(), 0);
    }

    #[test]
    fn a_file_that_goes_bad_is_told_of_once_and_changes_nothing() {
        let world = World::with(&entry("a"));
        world.change("[[price]]\n");
        world.prices.reload_if_changed();
        assert_eq!((world.id("a").as_str(), world.errors()), ("openai/a", 1));
        world.change("nonsense");
        assert_eq!((world.id("a").as_str(), world.errors()), ("openai/a", 2));
        fs::remove_file(&world.file).unwrap();
        world.prices.reload_if_changed();
        world.prices.reload_if_changed();
        assert_eq!((world.id("a").as_str(), world.errors()), ("openai/a", 3));
        world.change(&entry("b"));
        assert_eq!((world.id("b").as_str(), world.errors()), ("openai/b", 3));
    }

    #[test]
    fn at_the_start_everything_that_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prices.toml");
        let missing = read(&config(&file)).unwrap_err().to_string();
        assert!(missing.starts_with("[prices] file: "), "{missing}");
        fs::write(&file, "[default.openai]\ninput = \"1\"").unwrap();
        let wrong = read(&config(&file)).unwrap_err().to_string();
        assert_eq!(wrong.lines().count(), 3, "{wrong}");
        assert!(
            wrong.contains("prices.toml: [default.openai]: output: is missing"),
            "{wrong}"
        );
    }

    #[test]
    fn without_a_file_the_built_in_prices_hold() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let config = Config::from_sources(None, [], &[]).unwrap();
        let prices = Prices::load(&config, metrics).unwrap();
        prices.reload_if_changed();
        assert_eq!(*prices.table(), PriceTable::built_in());
    }

    #[test]
    fn requests_without_a_price_of_their_own_are_charged_and_counted() {
        let world = World::with(&entry("a"));
        let used = Usage {
            input: 10,
            ..Usage::default()
        };
        let charge = |model, usage: &Usage, tier| {
            let price = world.prices.price(Provider::OpenAi, Some(model), None, 0);
            world.prices.charge(&price, usage, tier)
        };
        let counted = || {
            let text = String::from_utf8(world.metrics.text(0, Duration::ZERO, &JournalStats::default())).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with("ace_unpriced_requests_total{provider=\"openai\"}"));
            line.unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(charge("a", &used, Some("default")), 20);
        assert_eq!((charge("b", &Usage::default(), None), counted().as_str()), (0, "0"));
        assert_eq!((charge("b", &used, None), counted().as_str()), (10, "1"));
        assert_eq!((charge("a", &used, Some("turbo")), counted().as_str()), (20, "2"));
    }
}
