//! The journal by its public face, on real files.

mod crash;
mod disk;
mod faulty;
mod life;
mod model;
mod reading;
pub(super) mod sample;
mod together;
