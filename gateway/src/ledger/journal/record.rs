//! What the journal keeps of a request, and its form in a file.
//!
//! A record is `[len u32 LE][crc32 u32 LE][kind u8][payload]`. `len` counts kind and payload and is never 0, so that the zeros of a
//! preallocated file are its end. The checksum is over kind and payload and begins at the segment's seed, not at 0: bytes of
//! another segment that a file system shows after a loss of power, or a record hidden inside a client's path, never pass for
//! records of this one. The payload is postcard: fields in order, without names, so any change of a field is a new
//! [`super::segment::VERSION`].

use ace_policies::usage::{Source, Usage};
use ace_policies::{KeyId, MachineId, Provider, SessionId, TenantId, UserId};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// The most bytes of an [`Opened`] in a file, frame included.
pub const MAX_OPENED_BYTES: usize = 2_048;
/// The most bytes of a [`Settled`] in a file, frame included: the room that is kept free for every open request.
pub const MAX_SETTLED_BYTES: usize = 1_280;
/// What comes before the payload.
pub(super) const FRAME_BYTES: usize = 9;
const KIND_AT: usize = 8;

/// A request at its admission.
///
/// Texts are cut when they are written (the path at 1,024 bytes, others at less), in the journal and in JSON alike.
///
/// `T` is `String` where it is read, and may be `&str` where it is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "T: AsRef<str>", deserialize = "T: Deserialize<'de>"))]
pub struct Opened<T = String> {
    /// The request's id, the identity of its ledger row.
    pub request_id: Uuid,
    /// Who is charged.
    pub tenant: TenantId,
    /// See `tenant`.
    pub user: UserId,
    /// The AI coding run that it belongs to.
    pub session: Option<SessionId>,
    /// The machine of that run.
    pub machine: Option<MachineId>,
    /// The tool that called, by its token.
    #[serde(serialize_with = "short::<128, _, _>")]
    pub tool: T,
    /// Whose API is called.
    pub provider: Provider,
    /// The key that it goes out with, where one is chosen already.
    pub key: Option<KeyId>,
    /// Method and path, without the query.
    #[serde(serialize_with = "short::<32, _, _>")]
    pub method: T,
    /// See `method`.
    #[serde(serialize_with = "short::<1024, _, _>")]
    pub path: T,
    /// Model that was asked for.
    #[serde(serialize_with = "short_option::<256, _, _>")]
    pub model_asked: Option<T>,
    /// UTC milliseconds at which the request's head was read.
    pub started_at_ms: i64,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Whether a stream of events was asked for.
    pub streamed: bool,
    /// UTC milliseconds at which the day began that is charged.
    pub day_start_ms: i64,
    /// The same for the month.
    pub month_start_ms: i64,
    /// Tokens that are reserved.
    pub estimate: Usage,
    /// What they cost, in micro-USD.
    pub estimate_cost_micro_usd: u64,
    /// The price by which they do.
    #[serde(serialize_with = "short_option::<256, _, _>")]
    pub price: Option<T>,
}

/// A request at its end: what its ledger row needs besides [`Opened`]. Texts are cut like there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "T: AsRef<str>", deserialize = "T: Deserialize<'de>"))]
pub struct Settled<T = String> {
    /// The request's id.
    pub request_id: Uuid,
    /// The key that it went out with.
    pub key: Option<KeyId>,
    /// Model that answered, by the answer's own word.
    #[serde(serialize_with = "short_option::<256, _, _>")]
    pub model_served: Option<T>,
    /// Status sent to the client; 499 where it left before there was one.
    pub status: u16,
    /// Why it is not a complete answer.
    #[serde(serialize_with = "short_option::<128, _, _>")]
    pub error_kind: Option<T>,
    /// Tokens by class.
    pub usage: Usage,
    /// Where the figures come from.
    pub source: Source,
    /// Whether the answer was a stream of events.
    pub streamed: bool,
    /// Milliseconds from the start to the first byte of the answer.
    pub ttfb_ms: Option<u64>,
    /// Milliseconds from the start to the end.
    pub duration_ms: u64,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The id under which the provider knows the request.
    #[serde(serialize_with = "short_option::<256, _, _>")]
    pub upstream_request_id: Option<T>,
    /// What it is charged, in micro-USD.
    pub cost_micro_usd: u64,
    /// The price by which it is.
    #[serde(serialize_with = "short_option::<256, _, _>")]
    pub price: Option<T>,
    /// The provider's service tier, where it named one.
    #[serde(serialize_with = "short_option::<64, _, _>")]
    pub service_tier: Option<T>,
    /// 1 where the request counts as one, 0 where it never reached the provider or failed for nothing.
    pub charged_requests: u64,
}

fn short<const MAX: usize, T: AsRef<str>, S: Serializer>(text: &T, to: S) -> Result<S::Ok, S::Error> {
    let text = text.as_ref();
    text[..text.floor_char_boundary(MAX)].serialize(to)
}

fn short_option<const MAX: usize, T: AsRef<str>, S: Serializer>(text: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    let text = text.as_ref().map(AsRef::as_ref);
    text.map(|text: &str| &text[..text.floor_char_boundary(MAX)])
        .serialize(to)
}

/// An [`Opened`] as it was written, to be read again should it be needed: rarely, so that it is kept as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept(Box<[u8]>);

impl Kept {
    /// What an encoded record holds.
    pub(super) fn of(record: &[u8]) -> Self {
        Self(record[FRAME_BYTES..].into())
    }

    /// Reads it.
    pub fn read(&self) -> Option<Opened> {
        whole(&self.0)
    }
}

/// The number of a record's kind. Zero is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Opened = 1,
    Settled = 2,
    /// An [`Opened`] that was taken back, because the disk did not take it.
    Void = 255,
}

/// A record as it is read.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Record {
    Opened(Opened),
    /// With the number of the segment in which its request was opened.
    Settled(u64, Settled),
    Void,
}

/// Puts a request's admission into the buffer, all but the checksum.
pub(super) fn opened<'a>(opened: &Opened<impl AsRef<str>>, buffer: &'a mut [u8; MAX_OPENED_BYTES]) -> &'a mut [u8] {
    encode(Kind::Opened, opened, buffer)
}

/// The same for its end. `opened_in` is the segment in which it was opened.
pub(super) fn settled<'a>(
    opened_in: u64,
    settled: &Settled<impl AsRef<str>>,
    buffer: &'a mut [u8; MAX_SETTLED_BYTES],
) -> &'a mut [u8] {
    encode(Kind::Settled, &(opened_in, settled), buffer)
}

fn encode<'a>(kind: Kind, payload: &impl Serialize, buffer: &'a mut [u8]) -> &'a mut [u8] {
    let written = postcard::to_slice(payload, &mut buffer[FRAME_BYTES..])
        .expect("texts are cut, so that the longest record fits")
        .len();
    let len = u32::try_from(1 + written).expect("a record is small");
    buffer[..4].copy_from_slice(&len.to_le_bytes());
    buffer[KIND_AT] = kind as u8;
    &mut buffer[..FRAME_BYTES + written]
}

/// Puts the checksum in.
pub(super) fn seal(record: &mut [u8], seed: u32) {
    let crc = checksum(seed, &record[KIND_AT..]);
    record[4..KIND_AT].copy_from_slice(&crc.to_le_bytes());
}

/// Makes an encoded record one that is passed over when it is read. Its length stays.
pub(super) fn void(record: &mut [u8]) {
    record[KIND_AT] = Kind::Void as u8;
}

/// The first record of several.
pub(super) fn first(records: &mut [u8]) -> Option<&mut [u8]> {
    let (len, _) = frame(*records.first_chunk()?);
    records.get_mut(..KIND_AT + len)
}

/// A record's length without its frame's first eight bytes, and its checksum.
pub(super) fn frame(bytes: [u8; KIND_AT]) -> (usize, u32) {
    let [l0, l1, l2, l3, c0, c1, c2, c3] = bytes;
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    (
        usize::try_from(len).unwrap_or(usize::MAX),
        u32::from_le_bytes([c0, c1, c2, c3]),
    )
}

/// The longest `len` that a frame can have.
pub(super) const MAX_LEN: usize = MAX_OPENED_BYTES - KIND_AT;

/// Reads kind and payload; `None` if they are not what the checksum is of, or nothing that this version knows.
pub(super) fn decode(bytes: &[u8], crc: u32, seed: u32) -> Option<Record> {
    if checksum(seed, bytes) != crc {
        return None;
    }
    let (&kind, payload) = bytes.split_first()?;
    match kind {
        kind if kind == Kind::Opened as u8 => whole(payload).map(Record::Opened),
        kind if kind == Kind::Settled as u8 => whole(payload).map(|(seat, settled)| Record::Settled(seat, settled)),
        kind if kind == Kind::Void as u8 => Some(Record::Void),
        _ => None,
    }
}

fn whole<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(bytes);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample::{opened_sample, settled_sample};
    use super::*;

    fn longest() -> (Opened, Settled) {
        let text = "ä".repeat(5_000);
        let usage = Usage {
            input: u64::MAX,
            cache_read: u64::MAX,
            cache_write_5m: u64::MAX,
            cache_write_1h: u64::MAX,
            output: u64::MAX,
            reasoning: u64::MAX,
            audio_input: u64::MAX,
            audio_output: u64::MAX,
        };
        let opened = Opened {
            request_id: Uuid::max(),
            tenant: TenantId(i64::MIN),
            user: UserId(i64::MIN),
            session: Some(SessionId(Uuid::max())),
            machine: Some(MachineId(Uuid::max())),
            tool: text.clone(),
            provider: Provider::Google,
            key: Some(KeyId(i64::MIN)),
            method: text.clone(),
            path: text.clone(),
            model_asked: Some(text.clone()),
            started_at_ms: i64::MIN,
            bytes_in: u64::MAX,
            streamed: true,
            day_start_ms: i64::MIN,
            month_start_ms: i64::MIN,
            estimate: usage,
            estimate_cost_micro_usd: u64::MAX,
            price: Some(text.clone()),
        };
        let settled = Settled {
            request_id: Uuid::max(),
            key: Some(KeyId(i64::MIN)),
            model_served: Some(text.clone()),
            status: u16::MAX,
            error_kind: Some(text.clone()),
            usage,
            source: Source::None,
            streamed: true,
            ttfb_ms: Some(u64::MAX),
            duration_ms: u64::MAX,
            bytes_in: u64::MAX,
            bytes_out: u64::MAX,
            upstream_request_id: Some(text.clone()),
            cost_micro_usd: u64::MAX,
            price: Some(text.clone()),
            service_tier: Some(text),
            charged_requests: u64::MAX,
        };
        (opened, settled)
    }

    fn read(record: &mut [u8]) -> Option<Record> {
        seal(record, 7);
        let (frame_bytes, rest) = record.split_first_chunk().expect("a frame");
        let (len, crc) = frame(*frame_bytes);
        assert_eq!(len, rest.len());
        decode(rest, crc, 7)
    }

    #[test]
    fn a_record_reads_back() {
        let written = opened_sample(1);
        assert_eq!(
            read(opened(&written, &mut [0; MAX_OPENED_BYTES])),
            Some(Record::Opened(written))
        );
        let written = settled_sample(1);
        assert_eq!(
            read(settled(9, &written, &mut [0; MAX_SETTLED_BYTES])),
            Some(Record::Settled(9, written))
        );
    }

    #[test]
    fn texts_are_cut_between_characters_so_that_the_longest_record_fits() {
        let (long, end) = longest();
        let Some(Record::Opened(read_back)) = read(opened(&long, &mut [0; MAX_OPENED_BYTES])) else {
            panic!("the longest admission is readable");
        };
        assert_eq!(read_back.path, "ä".repeat(512));
        assert_eq!((read_back.tool.len(), read_back.estimate), (128, long.estimate));
        let Some(Record::Settled(u64::MAX, read_back)) = read(settled(u64::MAX, &end, &mut [0; MAX_SETTLED_BYTES]))
        else {
            panic!("the longest end is readable");
        };
        assert_eq!(read_back.service_tier, Some("ä".repeat(32)));
    }

    #[test]
    fn an_admission_is_plain_json_in_the_database() {
        let written = opened_sample(3);
        let json = serde_json::to_value(&written).expect("plain fields");
        assert_eq!(json["user"], 42);
        assert_eq!(json["estimate"]["input"], 3_000);
        assert_eq!(serde_json::from_value::<Opened>(json).expect("reads back"), written);
    }

    #[test]
    fn a_record_that_was_taken_back_is_passed_over() {
        let mut buffer = [0; MAX_OPENED_BYTES];
        let record = opened(&opened_sample(1), &mut buffer);
        void(record);
        assert_eq!(read(record), Some(Record::Void));
    }

    #[test]
    fn a_record_of_another_segment_is_none_of_this_one() {
        let mut buffer = [0; MAX_OPENED_BYTES];
        let record = opened(&opened_sample(1), &mut buffer);
        seal(record, 7);
        let (frame_bytes, rest) = record.split_first_chunk().expect("a frame");
        assert_eq!(decode(rest, frame(*frame_bytes).1, 8), None);
    }

    /// A journal outlives the program that wrote it: who changes a field has to count `VERSION` up.
    #[test]
    fn the_form_of_version_1_stays() {
        let mut buffer = [0; MAX_OPENED_BYTES];
        let bytes = opened(&opened_sample(1), &mut buffer).to_vec();
        let mut buffer = [0; MAX_SETTLED_BYTES];
        let end = settled(300, &settled_sample(1), &mut buffer);
        assert_eq!(super::super::segment::VERSION, 1);
        assert_eq!(
            (hex::encode(bytes), hex::encode(end)),
            (OPENED_1.to_owned(), SETTLED_1.to_owned())
        );
    }

    const OPENED_1: &str = "7d000000000000000110000000000000000000000000000000020254011000000000000000000000000000000007000b636c617564\
        652d636f646501010604504f53540c2f76312f6d657373616765730108636c617564652d318080e682b9660a0180ecb4ddb86680ec9dcab366e8070000\
        008020000000f0a2040108636c617564652d2a";
    const SETTLED_1: &str = "4a0000000000000002ac02100000000000000000000000000000000201060108636c617564652d31c80100010000000200000000\
        0101fa01a01f0aa84601057265715f31d2090108636c617564652d2a0001";
}
