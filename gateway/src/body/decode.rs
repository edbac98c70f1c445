//! A decoded copy of a compressed request body, for reading only. Codex compresses with zstd; the original goes on.

use std::borrow::Cow;
use std::io::Read;

use super::BodyError;

/// The body in clear: itself where it is not compressed, a bounded copy where it is, `None` where the encoding is not
/// one of ours.
pub(super) fn decoded<'b>(
    bytes: &'b [u8],
    encoding: Option<&str>,
    max_bytes: usize,
) -> Result<Option<Cow<'b, [u8]>>, BodyError> {
    let name = encoding.unwrap_or_default().trim().to_ascii_lowercase();
    let copy = match name.as_str() {
        "" | "identity" => return Ok(Some(Cow::Borrowed(bytes))),
        "gzip" | "x-gzip" => bounded(flate2::read::MultiGzDecoder::new(bytes), "gzip", max_bytes),
        "deflate" if has_zlib_head(bytes) => bounded(flate2::read::ZlibDecoder::new(bytes), "deflate", max_bytes),
        "deflate" => bounded(flate2::read::DeflateDecoder::new(bytes), "deflate", max_bytes),
        "zstd" => match zstd::stream::read::Decoder::with_buffer(bytes) {
            Ok(decoder) => bounded(decoder, "zstd", max_bytes),
            Err(_) => Err(BodyError::NotEncoded("zstd")),
        },
        _ => return Ok(None),
    };
    copy.map(|copy| Some(Cow::Owned(copy)))
}

fn bounded(decoder: impl Read, name: &'static str, max_bytes: usize) -> Result<Vec<u8>, BodyError> {
    let mut copy = Vec::new();
    // One byte more than allowed tells a body that is too large from one that just fits.
    let most = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(most)
        .read_to_end(&mut copy)
        .map_err(|_| BodyError::NotEncoded(name))?;
    if copy.len() > max_bytes {
        Err(BodyError::DecodedTooLarge { max_bytes })
    } else {
        Ok(copy)
    }
}

/// `deflate` means zlib's format; some clients send the raw stream (RFC 9110, 8.4.1.2).
fn has_zlib_head(bytes: &[u8]) -> bool {
    matches!(bytes, [first, second, ..] if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}
