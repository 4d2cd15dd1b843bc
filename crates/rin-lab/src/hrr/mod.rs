//! Holographic reduced representations: pairs of vectors in one vector of the same width.
//!
//! Binding is circular convolution, `a ⊛ b = IFFT(FFT(a) · FFT(b))`; a key whose spectrum has magnitude one everywhere
//! (`unitary`) is undone exactly by its conjugate. [`Binder`] computes it in block-floating fixed point, [`float`] in double
//! precision; [`capacity`] says how many pairs a vector holds.
//!
//! Sources: T. A. Plate, "Holographic reduced representations", IEEE Transactions on Neural Networks 6, 1995; unitary
//! keys: A. Ganesan et al., "Learning with holographic reduced representations", NeurIPS 2021.

pub mod capacity;
mod fft;
pub mod float;

pub use fft::{Binder, Block};
