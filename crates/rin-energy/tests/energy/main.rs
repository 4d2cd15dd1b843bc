//! The crate on machines that are made of text: every layout, every failure, with injected files, counters and clocks.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::unchecked_time_subtraction,
    clippy::unwrap_used,
    reason = "in tests the values are known, and a panic is a failure"
)]

mod fake;
mod meter;
mod perf;
mod protocol;
mod sources;
mod system;
mod tuner;
mod watching;
