//! After a disk has failed to keep what it took.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
};

use super::{Limits, Lines, open_private};
use crate::{config::sync_dir, spool::record};

impl Lines {
    /// Nobody needs what is in the last segment: whether it is safe makes no difference.
    pub(super) fn let_go(&mut self) {
        self.file = None;
        self.suspect = false;
    }

    /// Writes the last segment once more, into another file that takes its place, and makes that safe. What can no longer be read of
    /// it is told in its place. Until it succeeds nothing can be appended.
    pub fn rewrite(&mut self) -> io::Result<()> {
        (self.suspect, self.file, self.cursor) = (true, None, None);
        let Some(first) = self.segments.back().map(|last| last.first) else {
            self.suspect = false;
            return Ok(());
        };
        let everything = Limits {
            lines: usize::MAX,
            bytes: usize::MAX,
            up_to: self.next - 1,
        };
        let mut bytes = Vec::new();
        for line in self.after(first - 1, everything)? {
            record::encode(line.seq, line.at, line.stream, &line.data.0, &mut bytes);
        }
        self.replace_last(first, &bytes)?;
        (self.suspect, self.cursor) = (false, None);
        Ok(())
    }

    fn replace_last(&mut self, first: i64, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(first);
        let aside = path.with_extension("new");
        let mut file = open_private(&aside, OpenOptions::new().write(true).create(true).truncate(true))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        sync_dir(&self.dir)?;
        let last = self.segments.back_mut().expect("it is replaced");
        last.bytes = bytes.len() as u64;
        Ok(())
    }

    /// As on a disk that takes what is written and cannot keep it.
    #[cfg(test)]
    pub fn append_to(&mut self, file: fs::File) {
        self.file = Some(std::sync::Arc::new(file));
    }
}
