//! The operations, one folder each.

pub mod activation;
pub mod attention;
pub mod byte_rate;
#[cfg(test)]
pub(crate) mod cases;
pub mod elementwise;
pub mod integer;
pub mod integer_product;
pub mod layer_norm;
pub mod lif;
pub mod linear;
pub mod memory;
mod prefetch;
pub mod quantize;
pub mod rms_norm;
pub mod rope;
pub mod softmax;
pub mod sparse;
pub mod swiglu;
pub mod ternary;
pub mod wide;
