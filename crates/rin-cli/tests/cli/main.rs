//! The `rin` binary from outside: arguments in; streams, JSON, files and exit codes out.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod configuration;
#[cfg(test)]
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(test)]
mod encoder;
#[cfg(test)]
#[cfg(unix)]
mod energy;
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
mod network;
#[cfg(test)]
mod onnx;
#[cfg(test)]
mod program;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod signals;
#[cfg(test)]
mod spiking;
#[cfg(test)]
mod tokens;
#[cfg(test)]
#[cfg(all(feature = "train", target_os = "linux"))]
mod train;
#[cfg(test)]
mod verify;
