//! The journal by its public face, on real files.

mod crash;
mod disk;
mod life;
mod model;
mod reading;
pub(super) mod sample;
