//! Checks, goldens and releases of this repository.
fn main() {}
