//! Lines that are too long for a message.

use std::borrow::Cow;

use ace_policies::wire::MAX_BATCH_BYTES;

/// The longest a line may be in a message, as JSON spells it: a message takes a megabyte, and holds more than one line's data.
const MAX_JSON_BYTES: usize = 900 << 10;

/// What a message needs for a line beside its data.
const AROUND: usize = 96;

/// How many bytes of JSON a line's data takes, at most.
pub(super) fn json_size(data: &[u8]) -> usize {
    let inner = match str::from_utf8(data) {
        Ok(_) => data.iter().map(|byte| spelled(*byte)).sum(),
        Err(_) => data.len().div_ceil(3) * 4,
    };
    inner + AROUND
}

/// `"`, `\` and the common control characters take two bytes, the others six.
const fn spelled(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// A line that fits; what is cut off, and what was left out of it before, is told at its end.
pub(super) fn fitting(data: &[u8], left_out: u64) -> Cow<'_, [u8]> {
    let whole = data.len() as u64 + left_out;
    let mark = |kept: usize| format!("…[ace-agent: cut after {kept} of {whole} bytes]\n");
    let room = mark(data.len()).len();
    // With its mark it fits, and is not cut again. The newline takes two bytes.
    let most = MAX_JSON_BYTES - AROUND - room - 1;
    if left_out == 0 && data.len() <= MAX_BATCH_BYTES && json_size(data) <= MAX_JSON_BYTES {
        return Cow::Borrowed(data);
    }
    let mut keep = 0;
    let mut spent = 0;
    while keep < data.len().min(MAX_BATCH_BYTES - room) {
        spent += spelled(data[keep]);
        if spent > most {
            break;
        }
        keep += 1;
    }
    keep = boundary(data, keep);
    Cow::Owned([&data[..keep], mark(keep).as_bytes()].concat())
}

/// Not in the middle of a character.
fn boundary(data: &[u8], mut at: usize) -> usize {
    let continues = |at: usize| data.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    for _ in 0..3 {
        if at == 0 || !continues(at) {
            break;
        }
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use ace_policies::{
        SessionId,
        wire::{Data, FromAgent, Line, MAX_MESSAGE_BYTES, Stream},
    };
    use uuid::Uuid;

    use super::*;

    #[track_caller]
    fn check(data: Vec<u8>, cut: bool) {
        let whole = data.len();
        let fitted = fitting(&data, 0).into_owned();
        assert!(fitting(&fitted, 0) == fitted, "nothing is cut twice: {whole} bytes");
        assert!(fitted.len() <= MAX_BATCH_BYTES);
        assert_eq!(fitted != data, cut, "{whole} bytes");
        let line = Line {
            seq: 1,
            at: 1,
            stream: Stream::Stdout,
            data: Data(fitted.clone()),
        };
        let (session_id, lines) = (SessionId(Uuid::nil()), vec![line]);
        let message = serde_json::to_vec(&FromAgent::Output { session_id, lines }).unwrap();
        assert!(message.len() <= MAX_MESSAGE_BYTES, "{} for {whole}", message.len());
        assert!(message.len() <= json_size(&fitted) + 200);
        if cut {
            let text = String::from_utf8_lossy(&fitted);
            assert!(text.ends_with(&format!(" of {whole} bytes]\n")));
        }
    }

    #[test]
    fn every_line_fits_into_a_message() {
        check(b"short\n".to_vec(), false);
        check(vec![b'x'; MAX_BATCH_BYTES], false);
        check(vec![b'x'; MAX_BATCH_BYTES + 1], true);
        check(vec![b'"'; MAX_BATCH_BYTES], true);
        check(vec![0; 300_000], true);
        check(vec![0xff; 300_000], false);
        check(vec![0xff; 3_000_000], true);
        check("é".repeat(MAX_BATCH_BYTES).into_bytes(), true);
        assert!(str::from_utf8(&fitting("é".repeat(MAX_BATCH_BYTES).as_bytes(), 0)).is_ok());
        check(vec![], false);
        // Between what was once cut by others and what is cut here.
        check(vec![0x1b; 150_000], false);
        let marked = fitting(b"the beginning", 1 << 20).into_owned();
        assert!(marked.ends_with(b"cut after 13 of 1048589 bytes]\n"));
    }
}
