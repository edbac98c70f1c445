//! What the drivers' tests share.
