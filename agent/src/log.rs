//! Where the agent's own words go: standard error (a service's journal takes it), `agent.log`, and warnings `agent-error.log`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A file that has grown beyond this becomes `agent.log.1`, and so on.
const MAX_BYTES: u64 = 5 << 20;
/// Older ones that are kept.
const KEPT: u32 = 3;

/// Logs to standard error, and with a directory to the files there.
pub fn init(level: LevelFilter, dir: Option<&Path>) -> io::Result<()> {
    // Of libraries only warnings: they could tell more than they should.
    let filter = EnvFilter::new(format!("warn,ace_agent={level}"));
    let stderr = fmt::layer().with_writer(io::stderr);
    let file = |name: &str| {
        dir.map(|dir| Rolling::open(&dir.join(name)).map(Mutex::new))
            .transpose()
    };
    let all = file("agent.log")?.map(|file| fmt::layer().with_ansi(false).with_writer(file));
    let errors = file("agent-error.log")?.map(|file| {
        let layer = fmt::layer().with_ansi(false).with_writer(file);
        layer.with_filter(LevelFilter::WARN)
    });
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(stderr)
        .with(all)
        .with(errors);
    registry.try_init().map_err(io::Error::other)
}

/// A log file of a limited size, and a few before it.
struct Rolling {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Rolling {
    fn open(path: &Path) -> io::Result<Self> {
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn roll(&self) -> io::Result<File> {
        for number in (1..KEPT).rev() {
            drop(fs::rename(self.numbered(number), self.numbered(number + 1)));
        }
        fs::rename(&self.path, self.numbered(1))?;
        append_to(&self.path)
    }
}

impl Write for Rolling {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.size + text.len() as u64 > MAX_BYTES {
            self.file = self.roll()?;
            self.size = 0;
        }
        let written = self.file.write(text)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_an_end_and_the_latest_is_in_the_first_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut rolling = Rolling::open(&path).unwrap();
        let line = [b'x'; 1 << 20];
        for _ in 0..40 {
            rolling.write_all(&line).unwrap();
        }
        rolling.write_all(b"last\n").unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"last\n"));
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), 1 + KEPT as usize);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= MAX_BYTES));
    }
}
