//! The `rin` command: see `lib.rs`.

use std::process::ExitCode;

/// Counts, so that "nothing is allocated during inference" is a measured figure.
#[global_allocator]
static GLOBAL: rin_kernels::alloc::CountingAllocator = rin_kernels::alloc::CountingAllocator;

fn main() -> ExitCode {
    rin_cli::run_command(std::env::args_os().collect())
}
