//! Output on its way to the server: numbered, on disk, and kept until the server says that it has it.
//!
//! A line is sent only once it is safely on disk, so that the server never has a number that a power cut takes back from us. What
//! is here is bounded: first the session's CLI waits, and only when that does not help are lines dropped, and the session's viewers told.

mod backlog;
mod cut;
mod intake;
mod record;
mod segment;
mod space;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use ace_policies::{
    SessionId,
    wire::{Line, Stream},
};
use tokio::sync::Notify;

pub use intake::{Intake, spawn as spawn_intake};
use segment::{Limits, Lines};

/// The most lines of one batch.
pub const MAX_BATCH_LINES: usize = 500;
/// The most JSON of one batch; with the message around it, it stays below the largest message.
const BATCH_JSON_BYTES: usize = ace_policies::wire::MAX_BATCH_BYTES;
/// A session may always have this much, however many there are.
const MIN_SHARE: u64 = 1 << 20;
/// Sessions of which nothing has been heard for so long, and which the server has all of, leave the disk.
const KEEP_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The unacknowledged output of all sessions.
pub struct Spool {
    inner: Mutex<Inner>,
    /// Rung when something can be sent.
    ready: Notify,
    /// Rung when space was made.
    space: Condvar,
}

struct Inner {
    dir: PathBuf,
    total: u64,
    share: u64,
    sessions: HashMap<SessionId, Track>,
}

struct Track {
    lines: Lines,
    acked: i64,
    /// The last line that a power cut cannot take away.
    safe: i64,
    dropped: Option<Dropped>,
    /// Its disk fails: that was told.
    failing: bool,
}

#[derive(Clone, Copy, Default)]
struct Dropped {
    lines: u64,
    bytes: u64,
}

/// Why a line is not taken just now.
#[derive(Debug, thiserror::Error)]
pub enum Full {
    #[error("this session's share of {0} bytes is used up")]
    Share(u64),
    #[error("all sessions' {0} bytes are used up")]
    Total(u64),
    #[error("the disk does not take it: {0}")]
    Disk(#[from] io::Error),
}

/// A session with something to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Which.
    pub session_id: SessionId,
    /// The server has everything up to here.
    pub acked: i64,
    /// Lines up to here can be sent.
    pub safe: i64,
}

/// How much is here, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// Bytes on disk.
    pub bytes: u64,
    /// Lines that the server has not acknowledged.
    pub lines: u64,
}

impl Spool {
    /// Opens what an agent before left in `dir`, a directory a session. `total` bytes are for all sessions; each has its share.
    pub fn open(dir: &Path, total: u64, max_sessions: u32) -> io::Result<Self> {
        crate::config::private_dir(dir)?;
        let mut sessions = HashMap::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(id) = id.filter(|_| entry.path().is_dir()) else {
                continue;
            };
            match Track::open(&entry.path(), 1) {
                Ok(track) => _ = sessions.insert(id, track),
                Err(error) => {
                    tracing::error!(session = %id, %error, "a session's output cannot be read; the others go on")
                }
            }
        }
        Ok(Self {
            inner: Mutex::new(Inner {
                dir: dir.to_owned(),
                total,
                share: (total / u64::from(max_sessions.max(1))).max(MIN_SHARE),
                sessions,
            }),
            ready: Notify::new(),
            space: Condvar::new(),
        })
    }

    /// Appends a line and tells its number; `None` where it was dropped. It can be sent after the next [`Self::sync`].
    pub fn append(&self, session: SessionId, stream: Stream, at: i64, data: &[u8]) -> Result<Option<i64>, Full> {
        let data = cut::fitting(data, 0);
        let mut inner = self.lock();
        match inner.append(session, stream, at, &data) {
            Ok(seq) => Ok(Some(seq)),
            Err(full) => inner.count_or_refuse(session, data.len(), full),
        }
    }

    /// Gives up on a line that [`Self::append`] refused: it and those after it are counted until there is space again.
    pub fn drop_line(&self, session: SessionId, at: i64, bytes: usize, why: &Full) {
        tracing::error!(session = %session, "output is dropped: {why}");
        let mut inner = self.lock();
        let Ok(track) = inner.track(session) else { return };
        track.dropped = Some(Dropped {
            lines: 1,
            bytes: bytes as u64,
        });
        let text = format!("[ace-agent] output is dropped from here on: {why}\n");
        // Beyond the limits on purpose, and where the disk is full in vain: the count that follows it says the same.
        let _ = track.lines.append(Stream::System, at, text.as_bytes());
    }

    /// Makes everything so far outlive a power cut, and thereby ready to be sent. Blocks; appending goes on meanwhile. False where that
    /// is to be tried again for a session; it holds up no other.
    pub fn sync(&self) -> bool {
        let unsafe_yet = self.lock().unsafe_yet();
        let mut all = true;
        for (session, last, file) in unsafe_yet {
            let synced = file.and_then(|file| file.sync_data());
            all &= self.lock().synced(session, last, synced);
        }
        self.ready.notify_waiters();
        all
    }

    /// Waits until something may have become ready to be sent.
    pub fn ready(&self) -> tokio::sync::futures::Notified<'_> {
        self.ready.notified()
    }

    /// The sessions with something to send.
    pub fn pending(&self) -> Vec<Pending> {
        let inner = self.lock();
        let all = inner.sessions.iter().map(|(session_id, track)| Pending {
            session_id: *session_id,
            acked: track.acked,
            safe: track.safe,
        });
        all.filter(|pending| pending.safe > pending.acked).collect()
    }

    /// The next lines after `seq`, as many as one message takes.
    pub fn batch(&self, session: SessionId, seq: i64) -> io::Result<Vec<Line>> {
        let mut inner = self.lock();
        let Some(track) = inner.sessions.get_mut(&session) else {
            return Ok(Vec::new());
        };
        let limits = Limits {
            lines: MAX_BATCH_LINES,
            bytes: BATCH_JSON_BYTES,
            up_to: track.safe,
        };
        track.lines.after(seq, limits)
    }

    /// The server has everything up to `seq`. A number that we have not reached is taken over: someone else's lines have it.
    pub fn acknowledge(&self, session: SessionId, seq: i64) -> io::Result<()> {
        let mut inner = self.lock();
        let Some(track) = inner.sessions.get_mut(&session) else {
            return Ok(());
        };
        track.take_over(seq)?;
        if seq > track.acked {
            track.acked = seq;
            track.lines.acknowledge(seq)?;
            if track.dropped.is_some() && inner.room_for(session, 0).is_ok() {
                let at = inner.last_time(session);
                let _ = inner.tell_of_dropped(session, at);
            }
            self.space.notify_all();
        }
        Ok(())
    }

    /// A run begins: its first line follows the last that the server has.
    pub fn begin(&self, session: SessionId, last_seq: i64) -> io::Result<()> {
        self.lock().track(session)?.take_over(last_seq)
    }

    /// The number of a session's last line, 0 where there is none.
    pub fn last_seq(&self, session: SessionId) -> i64 {
        let inner = self.lock();
        inner.sessions.get(&session).map_or(0, |track| track.lines.next() - 1)
    }

    /// The number of the last line that the server has, 0 where it has none.
    pub fn acked(&self, session: SessionId) -> i64 {
        let inner = self.lock();
        inner.sessions.get(&session).map_or(0, |track| track.acked)
    }

    /// The server does not know the session any more: nobody will ever want its lines.
    pub fn forget(&self, session: SessionId) {
        let mut inner = self.lock();
        if inner.sessions.remove(&session).is_some() {
            let dir = inner.dir.join(session.to_string());
            if let Err(error) = segment::remove_all(&dir) {
                tracing::warn!(session = %session, %error, "the output of a deleted session stays on disk");
            }
            self.space.notify_all();
        }
    }

    /// Removes what is left of sessions that have been quiet for a month and that the server has all of.
    pub fn tidy(&self, now: SystemTime, is_in_use: impl Fn(SessionId) -> bool) {
        let mut inner = self.lock();
        let dir = inner.dir.clone();
        inner.sessions.retain(|session, track| {
            let has_all = track.acked >= track.lines.next() - 1 || track.lines.bytes() == 0;
            let path = dir.join(session.to_string());
            let old = newest(&path).is_ok_and(|newest| now.duration_since(newest).is_ok_and(|age| age > KEEP_IDLE));
            let remove = has_all && old && !is_in_use(*session);
            !(remove && fs::remove_dir_all(&path).is_ok())
        });
    }

    /// How much is here.
    pub fn figures(&self) -> Figures {
        let inner = self.lock();
        let lines = inner
            .sessions
            .values()
            .map(|track| track.lines.next() - 1 - track.acked);
        Figures {
            bytes: inner.bytes(),
            lines: lines.sum::<i64>().max(0) as u64,
        }
    }

    /// Waits until there is space again, but not longer than `patience`. Blocks the thread.
    fn wait_for_space(&self, patience: Duration) {
        let inner = self.lock();
        drop(self.space.wait_timeout(inner, patience));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole by the time a call returns; a panic elsewhere leaves nothing half done here.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn track(&mut self, session: SessionId) -> io::Result<&mut Track> {
        match self.sessions.entry(session) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let dir = self.dir.join(session.to_string());
                Ok(entry.insert(Track::open(&dir, 1)?))
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.sessions.values().map(|track| track.lines.bytes()).sum()
    }

    /// The sessions with lines that a power cut could take away, the last of them, and the file they are in.
    fn unsafe_yet(&mut self) -> Vec<(SessionId, i64, io::Result<Arc<File>>)> {
        let tracks = self.sessions.iter_mut();
        let unsafe_yet = tracks.filter(|(_, track)| track.safe < track.lines.next() - 1);
        unsafe_yet
            .map(|(session, track)| (*session, track.lines.next() - 1, track.lines.appended()))
            .collect()
    }

    /// Notes that lines are safe up to `last`, or makes up for it that they are not.
    fn synced(&mut self, session: SessionId, last: i64, synced: io::Result<()>) -> bool {
        let Some(track) = self.sessions.get_mut(&session) else {
            return true;
        };
        let made_safe = match synced {
            Ok(()) => Ok(last),
            Err(_) => track.lines.rewrite().map(|()| track.lines.next() - 1),
        };
        match made_safe {
            Ok(last) => track.safe = track.safe.max(last),
            Err(ref error) if !track.failing => {
                tracing::error!(session = %session, %error, "output cannot be made safe; it waits, and is written anew");
            }
            Err(_) => {}
        }
        track.failing = made_safe.is_err();
        !track.failing
    }
}

impl Track {
    fn open(dir: &Path, floor: i64) -> io::Result<Self> {
        let lines = Lines::open(dir, floor)?;
        Ok(Self {
            acked: lines.first() - 1,
            // What was on disk when we began is either safe by now or made so before the first line of this run.
            safe: lines.next() - 1,
            lines,
            dropped: None,
            failing: false,
        })
    }

    fn take_over(&mut self, seq: i64) -> io::Result<()> {
        if seq >= self.lines.next() {
            self.lines.skip_to(seq + 1)?;
            self.safe = self.safe.max(seq);
            self.acked = self.acked.max(seq);
        }
        Ok(())
    }
}

fn newest(dir: &Path) -> io::Result<SystemTime> {
    let mut newest = fs::metadata(dir)?.modified()?;
    for entry in fs::read_dir(dir)? {
        newest = newest.max(entry?.metadata()?.modified()?);
    }
    Ok(newest)
}

#[cfg(test)]
mod tests;
