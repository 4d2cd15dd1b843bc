//! The `rin` command.
fn main() {}
