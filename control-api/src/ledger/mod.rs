//! Looks after the ledger from a shell: whether its sums are right, and whether a provider counted the same.

mod check;
mod verify;

pub use verify::{Difference, LedgerVerified, Part, Range};

#[cfg(test)]
mod tests;
