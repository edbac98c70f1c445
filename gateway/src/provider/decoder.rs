//! A decoded copy of a compressed answer, for the provider that compresses although it was asked not to: a meter that
//! reads compressed bytes reads nothing and does not notice.

use std::io::Write;

use flate2::write::{MultiGzDecoder, ZlibDecoder};
use zstd::stream::{raw, zio};

use super::reader::Reader;

/// Feeds a reader what a body says in clear.
pub(super) struct Decoder {
    coding: Coding,
    /// The bytes are not in the encoding that the head names, or in none that is known here: only their number counts.
    blind: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer is plain; the others are the rare ones"
)]
enum Coding {
    Plain(Reader),
    Gzip(Box<MultiGzDecoder<Reader>>),
    Deflate(Box<ZlibDecoder<Reader>>),
    Zstd(Box<zio::Writer<Reader, raw::Decoder<'static>>>),
}

impl Decoder {
    pub fn new(encoding: Option<&str>, reader: Reader) -> Self {
        let name = encoding.unwrap_or_default().trim().to_ascii_lowercase();
        let coding = match name.as_str() {
            "" | "identity" => Coding::Plain(reader),
            "gzip" | "x-gzip" => Coding::Gzip(Box::new(MultiGzDecoder::new(reader))),
            "deflate" => Coding::Deflate(Box::new(ZlibDecoder::new(reader))),
            "zstd" => match raw::Decoder::new() {
                Ok(decoder) => Coding::Zstd(Box::new(zio::Writer::new(reader, decoder))),
                Err(_) => {
                    return Self {
                        coding: Coding::Plain(reader),
                        blind: true,
                    };
                }
            },
            _ => {
                return Self {
                    coding: Coding::Plain(reader),
                    blind: true,
                };
            }
        };
        Self { coding, blind: false }
    }

    pub fn feed(&mut self, chunk: &[u8]) {
        if self.blind {
            self.reader_mut().count_only(chunk);
            return;
        }
        let decoded = match &mut self.coding {
            Coding::Plain(reader) => {
                reader.feed(chunk);
                Ok(())
            }
            Coding::Gzip(decoder) => write(decoder, chunk),
            Coding::Deflate(decoder) => write(decoder, chunk),
            Coding::Zstd(decoder) => write(decoder, chunk),
        };
        self.blind = decoded.is_err();
    }

    /// Whether bytes can be added to the stream as they are.
    pub fn is_plain(&self) -> bool {
        !self.blind && matches!(self.coding, Coding::Plain(_))
    }

    pub fn reader(&self) -> &Reader {
        match &self.coding {
            Coding::Plain(reader) => reader,
            Coding::Gzip(decoder) => decoder.get_ref(),
            Coding::Deflate(decoder) => decoder.get_ref(),
            Coding::Zstd(decoder) => decoder.writer(),
        }
    }

    pub fn reader_mut(&mut self) -> &mut Reader {
        match &mut self.coding {
            Coding::Plain(reader) => reader,
            Coding::Gzip(decoder) => decoder.get_mut(),
            Coding::Deflate(decoder) => decoder.get_mut(),
            Coding::Zstd(decoder) => decoder.writer_mut(),
        }
    }
}

/// Decoders keep back what they have decoded until they are flushed.
fn write(decoder: &mut impl Write, chunk: &[u8]) -> std::io::Result<()> {
    decoder.write_all(chunk)?;
    decoder.flush()
}
