//! Functions of one and of two numbers over whole arrays, as graphs of arrays have them.
//!
//! The functions that [`activation`](super::activation) has too are the same functions. Sources of the others: the
//! definitions of the ONNX operators of the same names.

mod binary;
mod unary;

pub use binary::{Binary, Zip};
pub use unary::{Map, Unary};
