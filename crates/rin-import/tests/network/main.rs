//! Networks from rows of numbers to rows of numbers: written, read, planned and run.
#![expect(clippy::unwrap_used, reason = "a failed test should say where")]

mod mlp;
mod model;
