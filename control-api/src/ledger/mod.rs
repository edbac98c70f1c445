//! Looks after the ledger from a shell: whether its sums are right, and whether a provider counted the same.

mod check;
mod export;
mod figures;
mod reconcile;
mod verify;

pub use export::{Export, ExportError, Field, Line, Reading};
pub use figures::{Class, Figures, Finding, Verdict};
pub use reconcile::{Ours, Reconciled};
pub use verify::{Difference, LedgerVerified, Part, Range};

#[cfg(test)]
mod reconcile_tests;
#[cfg(test)]
mod tests;
