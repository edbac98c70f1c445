//! Stands in for `libz-ng-sys`: the same functions and types from stock zlib.
//!
//! flate2's `zlib-ng` feature only uses names that both libraries share, so a re-export is enough. The gateway's test
//! `gzip_round_trip` proves that compressing and reading back works.
pub use libz_sys::*;
