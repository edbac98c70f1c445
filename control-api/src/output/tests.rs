//! Output from the agent's batches to the browser's stream.

mod append;
mod keep;
mod read;
mod stream;
