//! Checks and tests of this repository: `cargo xtask check`, `cargo xtask test`.
//!
//! Every command that the README and CI name is here, so that both run the same thing.
#![expect(clippy::print_stderr, reason = "a task talks to the person who runs it")]

use std::process::{Command, ExitCode};

const HELP: &str = "cargo xtask TASK

  check   format, lints and documentation
  test    all tests; needs nothing but a Rust toolchain (cargo-nextest is used where it is installed)
  ci      check, then test";

fn main() -> ExitCode {
    let tasks: &[fn() -> bool] = match std::env::args().nth(1).as_deref() {
        Some("check") => &[check],
        Some("test") => &[test],
        Some("ci") => &[check, test],
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    if tasks.iter().all(|task| task()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Format, lints, documentation; warnings are errors.
fn check() -> bool {
    cargo(&["fmt", "--all", "--check"], &[])
        && cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])
        && cargo(&["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// All tests in the dev profile, and in release those whose claims are about release builds: allocations.
fn test() -> bool {
    let release = ["--release", "--locked", "-p", "rin-engine", "--test", "allocation", "--test", "pool_alloc"];
    if nextest() {
        let release = [&["nextest", "run"], &release[..]].concat();
        cargo(&release, &[]) && cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"], &[])
    } else {
        eprintln!("cargo-nextest is not installed; the slower `cargo test` does the same");
        let release = [&["test"], &release[..]].concat();
        cargo(&release, &[]) && cargo(&["test", "--workspace", "--locked", "--no-fail-fast"], &[])
    }
}

fn nextest() -> bool {
    let found = Command::new(env!("CARGO")).args(["nextest", "--version"]).output();
    found.is_ok_and(|o| o.status.success())
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> bool {
    eprintln!("cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO")).args(args).envs(env.iter().copied()).status();
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("error: cargo cannot be started: {error}");
            false
        }
    }
}
