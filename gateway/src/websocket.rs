//! A server's WebSocket frames, read from a copy as they flow by (RFC 6455, 5): text messages come out whole, whatever the
//! cuts; everything else is stepped over.

/// The longest header: two bytes, a length of eight, a mask of four.
const MAX_HEADER: usize = 14;

/// A buffer that has grown beyond this is given back after its message: most connections are silent most of the time.
const KEPT: usize = 4 * 1024;

/// Finds text messages in what a server sends. It keeps a message only while that is in pieces, and never a byte of
/// binary messages and control frames.
#[derive(Debug)]
pub struct Frames {
    header: Header,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    frame: Frame,
    message: Message,
    held: Vec<u8>,
    max_bytes: usize,
    skipped: u64,
    closed: bool,
}

/// A header, or the part of it that is there.
#[derive(Debug, Default)]
struct Header {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

/// What the current frame is to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// Its header has not ended.
    Coming,
    /// It stands between a message's frames and is none of them.
    Control,
    Part,
    LastPart,
}

/// The message that the last data frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    Wanted,
    Unwanted,
}

impl Frames {
    /// A text message of more than `max_bytes` is skipped and counted; the stream goes on.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            header: Header::default(),
            left: 0,
            frame: Frame::Coming,
            message: Message::None,
            held: Vec::new(),
            max_bytes,
            skipped: 0,
            closed: false,
        }
    }

    /// Hands every text message that ends in these bytes to `each`. One that lies in them in one frame is not copied.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            if self.frame == Frame::Coming {
                bytes = self.header.take(bytes);
                if !self.header.is_whole() {
                    return;
                }
                self.begin();
            }
            let long = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(long);
            self.left -= long as u64;
            self.payload(payload, &mut each);
            bytes = rest;
        }
    }

    /// Text messages that were too large, broken off or compressed, and therefore not handed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether the last frame has come whole.
    pub fn is_between_frames(&self) -> bool {
        self.frame == Frame::Coming && self.header.len == 0
    }

    /// Whether the server has said that it closes.
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Takes up a frame by its header.
    fn begin(&mut self) {
        const CONTINUATION: u8 = 0;
        const TEXT: u8 = 1;
        const CLOSE: u8 = 8;
        self.left = self.header.length();
        let opcode = self.header.opcode();
        if opcode >= CLOSE {
            self.closed |= opcode == CLOSE;
            self.frame = Frame::Control;
            return;
        }
        self.frame = if self.header.is_final() {
            Frame::LastPart
        } else {
            Frame::Part
        };
        if opcode != CONTINUATION {
            // One that was not continued to its end never ends.
            self.skip();
            self.message = if opcode == TEXT {
                Message::Wanted
            } else {
                Message::Unwanted
            };
        }
        let long = self.left.saturating_add(self.held.len() as u64);
        if !self.header.is_plain() || long > self.max_bytes as u64 {
            self.skip();
        }
    }

    fn payload(&mut self, payload: &[u8], each: &mut impl FnMut(&[u8])) {
        let ends = self.left == 0 && self.frame == Frame::LastPart;
        if self.frame != Frame::Control && self.message == Message::Wanted {
            if ends && self.held.is_empty() {
                each(payload);
            } else {
                self.held.extend_from_slice(payload);
                if ends {
                    each(&self.held);
                }
            }
        }
        if ends {
            self.message = Message::None;
            self.release();
        }
        if self.left == 0 {
            self.frame = Frame::Coming;
            self.header.len = 0;
        }
    }

    /// Gives up the message that is being read, if one is.
    fn skip(&mut self) {
        if self.message == Message::Wanted {
            self.skipped += 1;
            self.message = Message::Unwanted;
            self.release();
        }
    }

    fn release(&mut self) {
        self.held.clear();
        if self.held.capacity() > KEPT {
            self.held = Vec::new();
        }
    }
}

impl Header {
    /// Takes what belongs to the header and returns what follows it.
    fn take<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        // The second byte tells how many there are.
        while !self.is_whole() && !rest.is_empty() {
            let long = (self.wanted() - self.len).min(rest.len());
            let (part, after) = rest.split_at(long);
            self.bytes[self.len..self.len + long].copy_from_slice(part);
            self.len += long;
            rest = after;
        }
        rest
    }

    fn is_whole(&self) -> bool {
        self.len == self.wanted()
    }

    fn wanted(&self) -> usize {
        if self.len < 2 {
            return 2;
        }
        let mask = if self.is_masked() { 4 } else { 0 };
        2 + self.length_bytes() + mask
    }

    /// How many bytes the length takes beside the second one.
    fn length_bytes(&self) -> usize {
        match self.bytes[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn length(&self) -> u64 {
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        match self.length_bytes() {
            0 => u64::from(self.bytes[1] & 0x7f),
            long => self.bytes[2..2 + long].iter().fold(0, add),
        }
    }

    fn opcode(&self) -> u8 {
        self.bytes[0] & 0x0f
    }

    fn is_final(&self) -> bool {
        self.bytes[0] & 0x80 != 0
    }

    fn is_masked(&self) -> bool {
        self.bytes[1] & 0x80 != 0
    }

    /// Whether the payload is what it says: no extension has changed it, and no mask, which servers must not use.
    fn is_plain(&self) -> bool {
        self.bytes[0] & 0x70 == 0 && !self.is_masked()
    }
}

/// Frames for tests.
#[cfg(test)]
pub(crate) mod testing {
    /// A final frame holds a message's end.
    pub const FINAL: u8 = 0x80;
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = FINAL | 8;
    pub const PING: u8 = FINAL | 9;

    /// A server's frame, with its length as short as it can be told.
    pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let long = payload.len();
        let length = match long {
            0..126 => vec![long as u8],
            126..0x1_0000 => [&[126][..], &(long as u16).to_be_bytes()].concat(),
            _ => [&[127][..], &(long as u64).to_be_bytes()].concat(),
        };
        [&[first][..], &length, payload].concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::*;
    use super::*;

    const MAX: usize = 100_000;

    fn read(frames: &mut Frames, wire: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for bytes in wire.chunks(piece.max(1)) {
            frames.feed(bytes, |message| messages.push(message.to_vec()));
        }
        messages
    }

    /// Reads a wire in one piece, in pieces of every size up to a few, and cut once anywhere.
    #[track_caller]
    fn check(wire: &[u8], messages: &[&[u8]], skipped: u64) {
        for piece in (1..20).chain([wire.len()]) {
            let mut frames = Frames::new(MAX);
            assert_eq!(read(&mut frames, wire, piece), messages, "in pieces of {piece}");
            assert_eq!(frames.skipped(), skipped, "in pieces of {piece}");
        }
        for cut in 0..wire.len().min(300) {
            let mut frames = Frames::new(MAX);
            let mut found = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                frames.feed(part, |message| found.push(message.to_vec()));
            }
            assert_eq!(found, messages, "cut at {cut}");
        }
    }

    #[test]
    fn text_messages_come_out_whole_whatever_their_length() {
        for long in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, MAX] {
            let text = vec![b'x'; long];
            let wire = [frame(FINAL | TEXT, &text), frame(FINAL | TEXT, b"next")].concat();
            check(&wire, &[&text, b"next"], 0);
        }
    }

    #[test]
    fn a_length_may_be_told_in_more_bytes_than_it_needs() {
        let wire = [&[FINAL | TEXT, 127, 0, 0, 0, 0, 0, 0, 0, 2][..], b"hi"].concat();
        check(&wire, &[b"hi"], 0);
        let wire = [&[FINAL | TEXT, 126, 0, 2][..], b"hi"].concat();
        check(&wire, &[b"hi"], 0);
    }

    #[test]
    fn fragments_are_joined_and_control_frames_between_them_are_none() {
        let wire = [
            frame(TEXT, b"one "),
            frame(PING, b"are you there"),
            frame(CONTINUATION, b""),
            frame(CONTINUATION, b"two"),
            frame(FINAL | 10, b""),
            frame(FINAL, b" three"),
            frame(FINAL | TEXT, b"next"),
        ];
        check(&wire.concat(), &[b"one two three", b"next"], 0);
        let empty = [frame(TEXT, b""), frame(PING, b""), frame(FINAL, b"")];
        check(&empty.concat(), &[b""], 0);
    }

    #[test]
    fn binary_messages_are_stepped_over_and_nothing_is_kept_of_them() {
        let wire = [
            frame(BINARY, &[7; 70_000]),
            frame(PING, b"p"),
            frame(FINAL, &[7; 70_000]),
            frame(FINAL | 3, b"a kind to come"),
        ]
        .concat();
        for piece in [1, 1000, wire.len()] {
            let mut frames = Frames::new(MAX);
            assert_eq!(read(&mut frames, &wire, piece), [b""; 0]);
            assert_eq!((frames.held.capacity(), frames.skipped()), (0, 0));
            assert_eq!(read(&mut frames, &frame(FINAL | TEXT, b"text"), piece), [b"text"]);
        }
    }

    #[test]
    fn what_is_too_large_is_skipped_and_told_without_being_kept() {
        let large = frame(FINAL | TEXT, &[b'x'; MAX + 1]);
        check(&[large.clone(), frame(FINAL | TEXT, b"next")].concat(), &[b"next"], 1);
        let mut frames = Frames::new(MAX);
        read(&mut frames, &large[..large.len() - 1], 1000);
        assert_eq!((frames.held.capacity(), frames.skipped()), (0, 1));

        let half = [b'x'; MAX / 2 + 1];
        let fragments = [
            frame(TEXT, &half),
            frame(CONTINUATION, &half),
            frame(PING, b""),
            frame(FINAL, &half),
            frame(FINAL | TEXT, b"next"),
        ];
        check(&fragments.concat(), &[b"next"], 1);
    }

    #[test]
    fn a_length_that_nobody_has_is_survived() {
        for first in [FINAL | TEXT, TEXT, FINAL | BINARY, PING, FINAL] {
            let wire = [&[first, 127][..], &[0xff; 8], &[b'x'; 5000]].concat();
            let mut frames = Frames::new(MAX);
            assert_eq!(read(&mut frames, &wire, 7), [b""; 0]);
            assert_eq!(frames.held.capacity(), 0);
        }
        // Two that add up to more than there are.
        let wire = [frame(TEXT, b"ab"), [&[FINAL, 127][..], &[0xff; 8]].concat()].concat();
        let mut frames = Frames::new(MAX);
        assert_eq!(read(&mut frames, &wire, 1), [b""; 0]);
        assert_eq!(frames.skipped(), 1);
    }

    #[test]
    fn what_a_server_must_not_send_is_skipped_and_the_frames_stay_in_step() {
        let masked = [&[FINAL | TEXT, 0x80 | 2][..], b"mask", b"hi"].concat();
        let compressed = frame(FINAL | TEXT | 0x40, b"hi");
        for strange in [masked, compressed] {
            let wire = [strange, frame(FINAL | TEXT, b"next")].concat();
            check(&wire, &[b"next"], 1);
        }
        let never_ended = [frame(TEXT, b"begun"), frame(FINAL | TEXT, b"next")].concat();
        check(&never_ended, &[b"next"], 1);
        let never_begun = [frame(FINAL, b"goes on"), frame(FINAL | TEXT, b"next")].concat();
        check(&never_begun, &[b"next"], 0);
    }

    #[test]
    fn memory_of_a_large_message_is_given_back() {
        let mut frames = Frames::new(MAX);
        let wire = frame(FINAL | TEXT, &[b'x'; MAX]);
        assert_eq!(read(&mut frames, &wire, 1000).len(), 1);
        assert_eq!(frames.held.capacity(), 0);
    }

    #[test]
    fn a_goodbye_is_heard() {
        let mut frames = Frames::new(MAX);
        read(&mut frames, &frame(PING, b""), 1);
        assert!(!frames.has_closed());
        read(&mut frames, &frame(CLOSE, b"\x03\xe8bye"), 1);
        assert!(frames.has_closed());
    }

    #[derive(Clone, Debug)]
    enum Sent {
        Message { text: bool, parts: Vec<Vec<u8>> },
        Control(Vec<u8>),
    }

    fn sent() -> impl Strategy<Value = Vec<Sent>> {
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
        let parts = proptest::collection::vec(bytes(300), 1..5);
        let message = (any::<bool>(), parts).prop_map(|(text, parts)| Sent::Message { text, parts });
        let sent = prop_oneof![3 => message, 1 => bytes(125).prop_map(Sent::Control)];
        proptest::collection::vec(sent, 0..8)
    }

    /// The wire, with a control frame behind every part, and the text messages on it.
    fn written(sent: &[Sent], between: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut wire, mut texts) = (Vec::new(), Vec::new());
        for one in sent {
            match one {
                Sent::Control(payload) => wire.extend(frame(PING, payload)),
                Sent::Message { text, parts } => {
                    for (at, part) in parts.iter().enumerate() {
                        let kind = if *text { TEXT } else { BINARY };
                        let kind = if at == 0 { kind } else { CONTINUATION };
                        let end = if at + 1 == parts.len() { FINAL } else { 0 };
                        wire.extend(frame(end | kind, part));
                        wire.extend(frame(PING, between));
                    }
                    texts.extend(text.then(|| parts.concat()));
                }
            }
        }
        (wire, texts)
    }

    proptest! {
        #[test]
        fn messages_are_found_whatever_the_cuts(
            sent in sent(),
            between in proptest::collection::vec(any::<u8>(), 0..20),
            pieces in proptest::collection::vec(1usize..200, 1..12),
        ) {
            let (wire, texts) = written(&sent, &between);
            let (mut frames, mut found, mut rest) = (Frames::new(MAX), Vec::new(), wire.as_slice());
            for piece in pieces.iter().cycle() {
                let (bytes, tail) = rest.split_at((*piece).min(rest.len()));
                frames.feed(bytes, |message| found.push(message.to_vec()));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, texts);
            prop_assert_eq!(frames.skipped(), 0);
        }

        /// Whatever the bytes, nothing panics, the cuts do not matter, and no more is kept than is allowed.
        #[test]
        fn any_bytes_are_survived(wire in proptest::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let (mut whole, mut cut) = (Frames::new(64), Frames::new(64));
            prop_assert_eq!(read(&mut whole, &wire, usize::MAX), read(&mut cut, &wire, piece));
            prop_assert_eq!(whole.skipped(), cut.skipped());
            prop_assert!(cut.held.len() <= 64);
        }
    }
}
