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
        && cargo(&[&["clippy", "--workspace", "--all-targets"], ALL, &["--", "-D", "warnings"]].concat(), &[])
        && cargo(&[&["clippy", "--all-targets"], BARE, &["--", "-D", "warnings"]].concat(), &[])
        && cargo(&["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// `rin` with everything.
const ALL: &[&str] = &["--locked", "--features", "rin-cli/train,rin-cli/lab"];

/// `rin` with nothing that can be left out, and its tests for what it says then.
const BARE: &[&str] = &["--locked", "-p", "rin-cli", "--no-default-features"];
const BARE_TESTS: &str = "a_build_without";

/// Tests whose claims are about release builds: allocations, page faults, system calls, peak memory.
const RELEASE: [&str; 4] = ["allocation", "pool_alloc", "no_surprise", "memory"];

/// All tests in the dev profile, and those of [`RELEASE`] in release too.
fn test() -> bool {
    let packages = ["--release", "--locked", "-p", "rin-engine", "-p", "rin-cli"];
    let tests = RELEASE.iter().flat_map(|test| ["--test", test]);
    let release: Vec<&str> = packages.into_iter().chain(tests).collect();
    if nextest() {
        let release = [&["nextest", "run"], &release[..]].concat();
        cargo(&release, &[])
            && cargo(&[&["nextest", "run"], BARE, &[BARE_TESTS]].concat(), &[])
            && cargo(&[&["nextest", "run", "--workspace", "--no-fail-fast"], ALL].concat(), &[])
    } else {
        eprintln!("cargo-nextest is not installed; the slower `cargo test` does the same");
        let release = [&["test"], &release[..]].concat();
        cargo(&release, &[])
            && cargo(&[&["test"], BARE, &[BARE_TESTS]].concat(), &[])
            && cargo(&[&["test", "--workspace", "--no-fail-fast"], ALL].concat(), &[])
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
