//! How a line lies on disk: length and CRC-32 before it, so that a cut or damaged end is told from a whole record.
//!
//! `length u32 | crc u32 | seq i64 | at i64 | stream u8 | data`, little-endian; length counts what follows the CRC, and the CRC is
//! over the same bytes.

use ace_policies::wire::{Data, Line, Stream};

const HEAD: usize = 8;
const FIXED: usize = 17;
/// Far above the longest line that is ever written; a length beyond it is damage.
const MAX_PAYLOAD: usize = 2 << 20;

/// How many bytes a line takes on disk.
pub(super) fn size(data: &[u8]) -> u64 {
    (HEAD + FIXED + data.len()) as u64
}

/// Appends a line's record to `out`.
pub(super) fn encode(seq: i64, at: i64, stream: Stream, data: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&((FIXED + data.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.push(code(stream));
    out.extend_from_slice(data);
    let crc = crc32fast::hash(&out[start + HEAD..]);
    out[start + 4..start + HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// The first record of `bytes` and its size, or `None` where there is no whole and sound one.
pub(super) fn decode(bytes: &[u8]) -> Option<(Line, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if !(FIXED..=MAX_PAYLOAD).contains(&length) {
        return None;
    }
    let crc = u32::from_le_bytes(bytes.get(4..HEAD)?.try_into().ok()?);
    let payload = bytes.get(HEAD..HEAD + length)?;
    if crc32fast::hash(payload) != crc {
        return None;
    }
    let line = Line {
        seq: i64::from_le_bytes(payload[..8].try_into().ok()?),
        at: i64::from_le_bytes(payload[8..16].try_into().ok()?),
        stream: stream(payload[16])?,
        data: Data(payload[FIXED..].to_vec()),
    };
    Some((line, HEAD + length))
}

const fn code(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
        Stream::System => 3,
    }
}

const fn stream(code: u8) -> Option<Stream> {
    match code {
        1 => Some(Stream::Stdout),
        2 => Some(Stream::Stderr),
        3 => Some(Stream::System),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_neither_cut_nor_damaged() {
        let line = Line {
            seq: 7,
            at: 1_700_000_000_000,
            stream: Stream::Stderr,
            data: Data(b"h\xffi\n".to_vec()),
        };
        let mut bytes = Vec::new();
        encode(line.seq, line.at, line.stream, &line.data.0, &mut bytes);
        assert_eq!(bytes.len() as u64, size(&line.data.0));
        assert_eq!(decode(&bytes), Some((line, bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
            let mut damaged = bytes.clone();
            damaged[cut] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {cut}");
        }
    }
}
