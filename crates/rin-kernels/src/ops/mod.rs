//! The operations, one folder each.

pub mod add;
pub mod argmax;
pub mod attention;
#[cfg(test)]
pub(crate) mod cases;
pub mod quantize;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
