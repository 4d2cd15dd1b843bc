//! The tests of the tests: each check of the validation suite sees what is broken on purpose, and does not pass where
//! nothing could fail. That of memory is in `validate_memory.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::cast_possible_truncation, reason = "random numbers for a test")]

mod checks;
mod machine;
mod model;
mod suite;
