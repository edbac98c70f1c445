//! Stands in for `libz-ng-sys`: the same functions and types from stock zlib.
//!
//! flate2's `zlib-ng` feature only uses names that both libraries share, so a re-export is enough. That compressing and reading
//! back works is proved by the test `trap_21_a_compressed_body_is_read_from_a_copy_and_never_edited` in `gateway/src/body.rs`.
pub use libz_sys::*;
