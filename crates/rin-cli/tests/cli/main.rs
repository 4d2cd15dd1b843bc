//! The `rin` binary from outside: arguments in; streams, JSON, files and exit codes out.

#[cfg(test)]
mod configuration;
#[cfg(test)]
mod eval;
#[cfg(test)]
mod export;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod files;
#[cfg(test)]
mod generation;
#[cfg(test)]
mod inspection;
#[cfg(test)]
mod program;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod signals;
#[cfg(test)]
mod tokens;
