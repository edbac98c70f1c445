//! Takes the usage-only chunk out of a stream again where the gateway asked for it and the client did not: clients that
//! never asked crash on its empty `choices`.

use memchr::{memchr2, memmem};

use crate::json;
use crate::sse::{Boundaries, Event};

/// A usage-only chunk has a few hundred bytes; an event that is longer and undecided is none.
const MAX_HELD: usize = 16 * 1024;

/// Passes an OpenAI chat stream on without its usage-only chunk, every other byte as it came.
///
/// It holds back only bytes of an event that may still turn out to be that chunk, which the first choice decides.
#[derive(Debug, Default)]
pub struct UsageChunkFilter {
    boundaries: Boundaries,
    held: Vec<u8>,
    scratch: Vec<u8>,
    /// The event that is passing is decided: it goes on.
    passing: bool,
    /// The last event ended with the chunk, with a carriage return; its line feed may come, and shares its fate.
    open_end: Option<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
}

impl UsageChunkFilter {
    /// Reads a piece of the stream and appends to `out` what goes on.
    pub fn push(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) {
        while !chunk.is_empty() {
            let line_feed = self.line_feed(chunk, out);
            match self.boundaries.next_end(chunk) {
                Some(end) => {
                    let fate = self.end(&chunk[line_feed..end], out);
                    self.open_end = (end == chunk.len() && chunk[end - 1] == b'\r').then_some(fate);
                    chunk = &chunk[end..];
                }
                None => {
                    self.part(&chunk[line_feed..], out);
                    return;
                }
            }
        }
    }

    /// Ends the stream: what is held back goes on, unless it is the chunk without its blank line.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if !is_usage_only(&self.held, &mut self.scratch) {
            out.append(&mut self.held);
        }
    }

    /// How many bytes at the chunk's begin belong to the event before it: 1 or 0.
    fn line_feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> usize {
        match self.open_end.take() {
            Some(fate) if chunk[0] == b'\n' => {
                if fate == Fate::Pass {
                    out.push(b'\n');
                }
                1
            }
            _ => 0,
        }
    }

    /// Takes the rest of an event.
    fn end(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Fate {
        if std::mem::take(&mut self.passing) {
            out.extend_from_slice(rest);
            return Fate::Pass;
        }
        if self.held.is_empty() {
            return settle(rest, &mut self.scratch, out);
        }
        self.held.extend_from_slice(rest);
        let fate = settle(&self.held, &mut self.scratch, out);
        self.held.clear();
        fate
    }

    /// Takes a part of an event that is to go on in the next chunk.
    fn part(&mut self, part: &[u8], out: &mut Vec<u8>) {
        if self.passing {
            out.extend_from_slice(part);
            return;
        }
        self.held.extend_from_slice(part);
        let comments = comments(&self.held);
        out.extend(self.held.drain(..comments));
        if self.held.len() > MAX_HELD || !may_be_usage_only(&self.held, &mut self.scratch) {
            out.append(&mut self.held);
            self.passing = true;
        }
    }
}

/// Passes or drops a whole event. Comments before it are no part of it.
fn settle(event: &[u8], scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Fate {
    if is_usage_only(event, scratch) {
        out.extend_from_slice(&event[..comments(event)]);
        return Fate::Drop;
    }
    out.extend_from_slice(event);
    Fate::Pass
}

fn is_usage_only(event: &[u8], scratch: &mut Vec<u8>) -> bool {
    // Cheap and almost always decisive.
    if memmem::find(event, b"\"usage\"").is_none() {
        return false;
    }
    let data = Event::read(event, scratch).data;
    let has_choice = |choices: &[u8]| json::elements(choices).next().is_some();
    json::begins(data, "choices").is_some_and(|choices| choices.starts_with(b"[") && !has_choice(choices))
        && json::find(data, "usage").is_some_and(|usage| usage.starts_with(b"{"))
}

/// Whether an event that begins like this may still be the chunk: nothing in it contradicts.
fn may_be_usage_only(begin: &[u8], scratch: &mut Vec<u8>) -> bool {
    let data = Event::read(begin, scratch).data;
    if !matches!(data[json::start(data)..].first(), None | Some(b'{')) {
        return false;
    }
    let first_choice = |choices: &[u8]| {
        choices
            .get(1..)
            .and_then(|rest| rest.trim_ascii_start().first().copied())
    };
    match json::begins(data, "choices") {
        Some(choices) => choices.starts_with(b"[") && matches!(first_choice(choices), None | Some(b']')),
        None => true,
    }
}

/// How many bytes of whole comment lines an event begins with.
fn comments(event: &[u8]) -> usize {
    let mut at = 0;
    while event.get(at) == Some(&b':') {
        let Some(long) = memchr2(b'\n', b'\r', &event[at..]) else {
            break;
        };
        let line_end = at + long + 1;
        // Without its line feed, which may be the next byte, a carriage return is not the line's end for sure.
        at = match (event[line_end - 1], event.get(line_end)) {
            (b'\r', None) => break,
            (b'\r', Some(b'\n')) => line_end + 1,
            _ => line_end,
        };
    }
    at
}
