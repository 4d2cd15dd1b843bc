//! The operations, one folder each.

pub mod attention;
#[cfg(test)]
pub(crate) mod cases;
pub mod linear;
mod prefetch;
pub mod quantize;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
