//! The one source of chance of the control plane.

use rand::Rng;
use uuid::Uuid;

/// Random bytes, good for keys.
#[expect(clippy::disallowed_methods, reason = "this is the program's one source of chance")]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// A new id, later ones sorting after earlier ones.
pub(crate) fn id() -> Uuid {
    Uuid::now_v7()
}
