//! Body framing of RFC 9112 §6 and §7: by length, chunked, or until the connection closes.

use super::Malformed;

/// The longest chunk-size line that is accepted, extensions included.
const MAX_SIZE_LINE: usize = 256;
/// How many bytes of trailers are read past and dropped.
const MAX_TRAILERS: usize = 8 * 1024;

/// Takes body bytes out of wire bytes, whatever the cuts.
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In a chunk-size line: the size so far, how many digits it has, bytes of the line seen.
    Size {
        size: u64,
        digits: u8,
        seen: usize,
    },
    /// Past the size, in an extension.
    Extension {
        size: u64,
        seen: usize,
    },
    /// The line feed that ends a size line.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataFeed,
    /// At the start of a trailer line.
    Trailer {
        seen: usize,
    },
    TrailerLine {
        seen: usize,
    },
    TrailerFeed {
        seen: usize,
    },
    /// The line feed that ends the message.
    LastFeed,
    Done,
}

/// What one call of [`Decoder::decode`] did.
pub struct Decoded {
    /// Wire bytes taken from the front of the input.
    pub consumed: usize,
    /// Whether the body ended.
    pub done: bool,
}

impl Decoder {
    /// A body of exactly `length` bytes.
    pub fn length(length: u64) -> Self {
        Self {
            state: if length == 0 {
                State::Done
            } else {
                State::Length(length)
            },
        }
    }

    /// A chunked body.
    pub fn chunked() -> Self {
        Self {
            state: State::Size {
                size: 0,
                digits: 0,
                seen: 0,
            },
        }
    }

    /// A body that ends with the connection.
    pub fn until_close() -> Self {
        Self {
            state: State::UntilClose,
        }
    }

    /// Whether the whole body was decoded.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body.
    pub fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Decodes as much of `wire` as there is and gives body bytes to `sink`, in pieces as large as possible.
    pub fn decode(&mut self, wire: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<Decoded, Malformed> {
        let mut at = 0;
        while at < wire.len() && self.state != State::Done {
            at += self.step(&wire[at..], sink)?;
        }
        Ok(Decoded {
            consumed: at,
            done: self.is_done(),
        })
    }

    /// One state on, never on empty input; returns how many bytes it took.
    fn step(&mut self, wire: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<usize, Malformed> {
        let byte = wire[0];
        self.state = match self.state {
            State::Length(left) => {
                let (taken, left) = take(wire, left, sink);
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                return Ok(taken);
            }
            State::Data { left } => {
                let (taken, left) = take(wire, left, sink);
                self.state = if left == 0 {
                    State::DataReturn
                } else {
                    State::Data { left }
                };
                return Ok(taken);
            }
            State::UntilClose => {
                sink(wire);
                return Ok(wire.len());
            }
            State::Size { size, digits, seen } => size_byte(byte, size, digits, seen)?,
            State::Extension { size, seen } => extension_byte(byte, size, seen)?,
            State::SizeEnd { size } => match (byte, size) {
                (b'\n', 0) => State::Trailer { seen: 0 },
                (b'\n', left) => State::Data { left },
                _ => return Err(Malformed("a chunk size line does not end in CRLF")),
            },
            State::DataReturn => expect(byte, b'\r', State::DataFeed, "a chunk is longer than its size")?,
            State::DataFeed => {
                let next = State::Size {
                    size: 0,
                    digits: 0,
                    seen: 0,
                };
                expect(byte, b'\n', next, "a chunk does not end in CRLF")?
            }
            State::Trailer { .. } if byte == b'\r' => State::LastFeed,
            State::Trailer { seen } => trailer_byte(byte, seen)?,
            State::TrailerLine { seen } if byte == b'\r' => State::TrailerFeed { seen: seen + 1 },
            State::TrailerLine { seen } => trailer_byte(byte, seen)?,
            State::TrailerFeed { seen } => expect(
                byte,
                b'\n',
                State::Trailer { seen: seen + 1 },
                "a trailer does not end in CRLF",
            )?,
            State::LastFeed => expect(byte, b'\n', State::Done, "a chunked body does not end in CRLF")?,
            State::Done => State::Done,
        };
        Ok(1)
    }
}

fn take(wire: &[u8], left: u64, sink: &mut dyn FnMut(&[u8])) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(wire.len());
    sink(&wire[..taken]);
    (taken, left - taken as u64)
}

fn size_byte(byte: u8, size: u64, digits: u8, seen: usize) -> Result<State, Malformed> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(State::SizeEnd { size }),
        b';' | b' ' | b'\t' if digits > 0 => return extension_byte(byte, size, seen),
        _ => return Err(Malformed("a chunk size is not a hexadecimal number")),
    };
    if digits == 16 {
        return Err(Malformed("a chunk size is too large"));
    }
    Ok(State::Size {
        size: size << 4 | u64::from(digit),
        digits: digits + 1,
        seen: seen + 1,
    })
}

fn extension_byte(byte: u8, size: u64, seen: usize) -> Result<State, Malformed> {
    match byte {
        b'\r' => Ok(State::SizeEnd { size }),
        b'\n' | 0 => Err(Malformed("a chunk extension holds a control character")),
        _ if seen >= MAX_SIZE_LINE => Err(Malformed("a chunk extension is too long")),
        _ => Ok(State::Extension { size, seen: seen + 1 }),
    }
}

fn trailer_byte(byte: u8, seen: usize) -> Result<State, Malformed> {
    match byte {
        b'\n' | 0 => Err(Malformed("a trailer holds a control character")),
        _ if seen >= MAX_TRAILERS => Err(Malformed("the trailers are too long")),
        _ => Ok(State::TrailerLine { seen: seen + 1 }),
    }
}

fn expect(byte: u8, wanted: u8, next: State, otherwise: &'static str) -> Result<State, Malformed> {
    if byte == wanted {
        Ok(next)
    } else {
        Err(Malformed(otherwise))
    }
}

/// Appends one chunk in chunked framing. Nothing for empty data, which would end the body.
pub fn frame_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[data.len() >> (place * 4) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_in_pieces(mut decoder: Decoder, wire: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let mut body = Vec::new();
        let mut consumed = 0;
        for part in wire.chunks(piece.max(1)) {
            let decoded = decoder.decode(part, &mut |data| body.extend_from_slice(data))?;
            consumed += decoded.consumed;
            if decoded.done {
                break;
            }
        }
        Ok((body, consumed, decoder.is_done()))
    }

    #[track_caller]
    fn check_chunked(wire: &[u8], want: Result<(&[u8], usize, bool), ()>) {
        for piece in 1..=wire.len() {
            let got = decode_in_pieces(Decoder::chunked(), wire, piece);
            match (&got, want) {
                (Ok((body, consumed, done)), Ok(want)) => {
                    assert_eq!((&body[..], *consumed, *done), want, "piece {piece}")
                }
                (Err(_), Err(())) => {}
                _ => panic!("piece {piece}: {got:?}"),
            }
        }
    }

    #[test]
    fn chunked_bodies_are_decoded_whatever_the_cuts() {
        check_chunked(b"5\r\nhello\r\n0\r\n\r\nrest", Ok((b"hello", 15, true)));
        check_chunked(
            b"A;x=\"y\"\r\n0123456789\r\n1 \r\n!\r\n0\r\nX: y\r\nZ: \r\n\r\n",
            Ok((b"0123456789!", 44, true)),
        );
        check_chunked(b"00003\r\nabc\r\n0;\r\n\r\n", Ok((b"abc", 18, true)));
        check_chunked(b"3\r\nabc\r\n", Ok((b"abc", 8, false)));
    }

    #[test]
    fn smuggling_shapes_are_refused() {
        for wire in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"-1\r\n",
            b"+5\r\nhello",
            b"0x5\r\nhello",
            b"\r\n",
            b";x\r\n",
            b" 5\r\nhello",
            b"11111111111111111\r\n",
            b"5;\n\r\nhello",
            b"0\r\nX: y\n\r\n",
            b"0\r\n\r!",
            b"5\r\rhello",
        ] {
            check_chunked(wire, Err(()));
        }
        let mut flood = b"5;".to_vec();
        flood.resize(400, b'x');
        assert!(decode_in_pieces(Decoder::chunked(), &flood, 400).is_err());
        let mut trailers = b"0\r\nX: ".to_vec();
        trailers.resize(10_000, b'x');
        assert!(decode_in_pieces(Decoder::chunked(), &trailers, 10_000).is_err());
    }

    #[test]
    fn length_bodies_stop_at_their_length() {
        assert_eq!(
            decode_in_pieces(Decoder::length(3), b"abcdef", 2),
            Ok((b"abc".to_vec(), 3, true))
        );
        assert!(Decoder::length(0).is_done());
        assert_eq!(
            decode_in_pieces(Decoder::until_close(), b"abc", 2),
            Ok((b"abc".to_vec(), 3, false))
        );
    }

    proptest! {
        #[test]
        fn framing_and_decoding_are_inverse(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), piece in 1usize..50) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                frame_chunk(chunk, &mut wire);
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (body, consumed, done) = decode_in_pieces(Decoder::chunked(), &wire, piece).expect("well-formed");
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(consumed, wire.len());
            prop_assert!(done);
        }

        #[test]
        fn any_bytes_are_taken_or_refused_alike_whatever_the_cuts(wire in prop::collection::vec(prop::sample::select(&b"0123aF;\r\n xX:"[..]), 0..60), piece in 1usize..20) {
            prop_assert_eq!(decode_in_pieces(Decoder::chunked(), &wire, piece), decode_in_pieces(Decoder::chunked(), &wire, usize::MAX));
        }
    }
}
