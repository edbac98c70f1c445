//! Whole sessions on this machine: the real runner, the real guard, and CLIs, behaved and misbehaved, invented and real.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests: a failure is a panic, and processes live by the real clock"
)]

mod clis;
mod disk;
mod guard;
mod relay;
mod sessions;
mod world;
