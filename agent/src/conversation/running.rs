//! A process while it runs: what it prints, and how it ends.

use crate::{
    driver::Exit,
    process::{Line, Order, Process},
};

/// A process, read until nothing of it is left.
pub struct Running {
    process: Process,
    stdout_open: bool,
    stderr_open: bool,
    /// The last that it complained about.
    words: String,
}

/// What a process has to say.
pub enum News {
    /// It printed a line.
    Stdout(Line),
    /// It complained.
    Stderr(Line),
    /// Nothing of it is left.
    Ended(Exit),
}

/// So much of its complaints goes along with the news of its end.
const WORDS_BYTES: usize = 2000;

impl Running {
    /// Takes a process over.
    pub fn new(process: Process) -> Self {
        Self {
            process,
            stdout_open: true,
            stderr_open: true,
            words: String::new(),
        }
    }

    /// Tells its guard what to do.
    pub fn order(&self, order: Order) {
        self.process.orders.give(order);
    }

    /// Everything that it printed comes before its end.
    async fn next(&mut self) -> News {
        loop {
            tokio::select! {
                line = self.process.stdout.next(), if self.stdout_open => match line {
                    Ok(Some(line)) => return News::Stdout(line),
                    _ => self.stdout_open = false,
                },
                line = self.process.stderr.next(), if self.stderr_open => match line {
                    Ok(Some(line)) => {
                        self.remember(&line.data);
                        return News::Stderr(line);
                    }
                    _ => self.stderr_open = false,
                },
                status = self.process.guard.wait(), if !self.stdout_open && !self.stderr_open => {
                    let code = status.ok().and_then(|status| status.code()).unwrap_or(-1);
                    return News::Ended(Exit { code, words: std::mem::take(&mut self.words) });
                }
            }
        }
    }

    fn remember(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(&line[..line.len().min(WORDS_BYTES)]);
        self.words.push_str(&line);
        let over = self.words.len().saturating_sub(WORDS_BYTES);
        if let Some(at) = (over..=self.words.len()).find(|at| self.words.is_char_boundary(*at)) {
            self.words.drain(..at);
        }
    }
}

/// What the process says next; forever nothing where there is none, or where nothing may be read.
pub async fn next(running: &mut Option<Running>, may_read: bool) -> News {
    match running {
        Some(running) if may_read => running.next().await,
        _ => std::future::pending().await,
    }
}
