//! How much a session may have on the disk, and what becomes of lines for which there is no space.

use std::io;

use ace_policies::{SessionId, wire::Stream};

use super::{Dropped, Full, Inner, record};

impl Inner {
    pub(super) fn room_for(&self, session: SessionId, size: u64) -> Result<(), Full> {
        let track = self.sessions.get(&session);
        // Once lines are dropped there has to be some space before it begins anew: else every other line would be dropped.
        let part = |limit: u64| match track.is_some_and(|track| track.dropped.is_some()) {
            true => limit / 8 * 7,
            false => limit,
        };
        if track.map_or(0, |track| track.lines.bytes()) + size > part(self.share) {
            return Err(Full::Share(self.share));
        }
        if self.bytes() + size > part(self.total) {
            return Err(Full::Total(self.total));
        }
        Ok(())
    }

    pub(super) fn append(&mut self, session: SessionId, stream: Stream, at: i64, data: &[u8]) -> Result<i64, Full> {
        self.room_for(session, record::size(data))?;
        self.tell_of_dropped(session, at)?;
        Ok(self.track(session)?.lines.append(stream, at, data)?)
    }

    pub(super) fn count_or_refuse(
        &mut self,
        session: SessionId,
        bytes: usize,
        full: Full,
    ) -> Result<Option<i64>, Full> {
        let track = self.track(session)?;
        let Some(dropped) = &mut track.dropped else {
            return Err(full);
        };
        dropped.lines += 1;
        dropped.bytes += bytes as u64;
        Ok(None)
    }

    pub(super) fn tell_of_dropped(&mut self, session: SessionId, at: i64) -> io::Result<()> {
        let track = self.track(session)?;
        if let Some(Dropped { lines, bytes }) = track.dropped {
            let text = format!("[ace-agent] {lines} lines ({bytes} bytes) were dropped here: the spool was full\n");
            track.lines.append(Stream::System, at, text.as_bytes())?;
            track.dropped = None;
        }
        Ok(())
    }

    pub(super) fn last_time(&mut self, session: SessionId) -> i64 {
        let track = self.sessions.get_mut(&session);
        track.map_or(0, |track| track.lines.last_at())
    }
}
