//! Layers of leaky integrate-and-fire (LIF) neurons in integers: currents from spikes, and one step of the neurons.
//!
//! A layer of `n` outputs and `inputs` inputs has 8-bit weights. One time step is
//!
//! ```text
//! I[j]  = sum over spiking i of w[i, j]                                        AddSpikes, or DenseSpikes
//! c[j]  = (I[j] << shift) + current[j]
//! u[j]  = wrap(decay(u[j], keep_u[j]) + c[j])                                  only with a synapse; else u = c
//! v[j]  = clip(decay(v[j], keep_v[j]) + u[j] + bias[j])                        LifStep
//! s[j]  = v[j] > threshold[j];  v[j] = 0, or v[j] - threshold[j], where s[j]
//! decay(x, keep) = sign(x) * ((|x| * keep) >> 12)
//! ```
//!
//! which is the fixed-point model of Loihi as Lava simulates it (`PyLifModelBitAcc`: 24-bit `v` and `u`, 12-bit
//! decays, `shift` 6, reset to zero), with the shift and the reset by subtraction left to the caller. A leak of
//! `1 - 2^-k` is `keep = 4096 - 2^(12 - k)`; then `decay(x) = sign(x) * (|x| - ((|x| + 2^k - 1) >> k))`, so a shift and a subtraction.
//!
//! Weights lie input-major, so that a spike adds one contiguous row and a step costs what the spikes cost
//! ([`AddSpikes`]); or as lines of 16 outputs × 4 inputs for the product with all inputs ([`DenseSpikes`]), which is
//! faster where many spike. Both give the same integers. Outputs are padded to [`LIF_LANES`] with zero weights and a
//! threshold that is never reached.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod step;
#[cfg(test)]
mod tests;

pub use step::{LifNeurons, LifStep, Reset, decay};

use crate::pack::LANES;

/// Outputs are padded to a multiple of this.
pub const LIF_LANES: usize = 32;

/// The largest magnitude of a membrane: 24 bits with sign, as on Loihi.
pub const MEMBRANE_MAX: i32 = (1 << 23) - 1;

/// Fractional bits of a decay factor.
pub const DECAY_BITS: u32 = 12;

/// A decay factor that keeps everything.
pub const KEEP_ALL: u16 = 1 << DECAY_BITS;

/// Spikes whose 8-bit weights a 16-bit sum holds, whatever they are: 256 × −128 is the least 16-bit number.
#[cfg(target_arch = "x86_64")]
const WORD_SPIKES: usize = 256;

kernel! {
    /// Adds the weight row of each spike: `acc[j] += sum over i in spikes of w[i, j]`, wrapping.
    ///
    /// `w` is input-major, `inputs × acc.len()`; `acc.len()` is a positive multiple of [`LIF_LANES`]; every spike is
    /// below `inputs`. An index that comes twice counts twice.
    pub struct AddSpikes(acc: &mut [i32], w: &[i8], spikes: &[u32]);
    check: |acc: &&mut [i32], w: &&[i8], spikes: &&[u32]| check_spikes(acc, w, spikes);
    cases: tests::for_each_spikes_case;
    conformance: add_spikes;
    variants {
        Scalar => add_spikes_scalar,
        Avx2 if target_arch = "x86_64" => avx2::add_spikes,
        Avx512Vnni if target_arch = "x86_64" => avx512::add_spikes,
    }
}

kernel! {
    /// The product with every input: `acc[j] += sum over i of w[i, j] * x[i]`, wrapping.
    ///
    /// `w` is what [`pack_dense`] writes, `x.len() × acc.len()`; `acc.len()` is a positive multiple of [`LIF_LANES`],
    /// `x.len()` one of 4, and no `x` is above 127. Spikes are zeros and ones; an analogue input has 7 bits.
    pub struct DenseSpikes(acc: &mut [i32], w: &[i8], x: &[u8]);
    check: |acc: &&mut [i32], w: &&[i8], x: &&[u8]| check_dense(acc, w, x);
    cases: tests::for_each_dense_case;
    conformance: dense_spikes;
    variants {
        Scalar => dense_scalar,
        Avx2 if target_arch = "x86_64" => avx2::dense,
        Avx512Vnni if target_arch = "x86_64" => avx512::dense,
    }
}

fn check_spikes(acc: &[i32], w: &[i8], spikes: &[u32]) {
    let n = acc.len();
    assert!(n > 0 && n.is_multiple_of(LIF_LANES), "{n} outputs are no multiple of {LIF_LANES}");
    assert!(w.len().is_multiple_of(n), "{} weights in rows of {n}", w.len());
    let inputs = w.len() / n;
    let highest = spikes.iter().fold(0, |m, &i| m.max(i));
    assert!(spikes.is_empty() || (highest as usize) < inputs, "spike {highest} of {inputs} inputs");
}

fn check_dense(acc: &[i32], w: &[i8], x: &[u8]) {
    let n = acc.len();
    assert!(n > 0 && n.is_multiple_of(LIF_LANES), "{n} outputs are no multiple of {LIF_LANES}");
    assert!(x.len().is_multiple_of(4), "{} inputs are no multiple of 4", x.len());
    assert_eq!(Some(w.len()), n.checked_mul(x.len()), "weights for {n} × {}", x.len());
    let highest = x.iter().fold(0, |m, &x| m.max(x));
    assert!(highest <= 127, "an input of {highest} has more than 7 bits");
}

fn add_spikes_scalar(acc: &mut [i32], w: &[i8], spikes: &[u32]) {
    let n = acc.len();
    for &i in spikes {
        for (acc, &w) in acc.iter_mut().zip(&w[i as usize * n..][..n]) {
            *acc = acc.wrapping_add(i32::from(w));
        }
    }
}

fn dense_scalar(acc: &mut [i32], w: &[i8], x: &[u8]) {
    let (quads, _) = x.as_chunks::<4>();
    let (lines, _) = w.as_chunks::<{ LANES * 4 }>();
    for (panel, acc) in acc.chunks_exact_mut(LANES).enumerate() {
        for (line, x) in lines[panel * quads.len()..].iter().zip(quads) {
            for (acc, w) in acc.iter_mut().zip(line.as_chunks::<4>().0) {
                let sum: i32 = w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum();
                *acc = acc.wrapping_add(sum);
            }
        }
    }
}

/// Bytes that [`pack_dense`] fills for `inputs` inputs and `n` padded outputs; `None` where that overflows.
pub fn dense_bytes(inputs: usize, n: usize) -> Option<usize> {
    inputs.checked_next_multiple_of(4)?.checked_mul(n)
}

/// Input-major weights (`inputs × n`) as panels of 16 outputs, each a line of 16 outputs × 4 inputs per four inputs.
///
/// # Panics
///
/// Unless `n` is a positive multiple of [`LIF_LANES`], `w` whole rows of it, and `out` holds [`dense_bytes`].
pub fn pack_dense(w: &[i8], n: usize, out: &mut [i8]) {
    assert!(n > 0 && n.is_multiple_of(LIF_LANES), "{n} outputs are no multiple of {LIF_LANES}");
    assert!(w.len().is_multiple_of(n), "{} weights in rows of {n}", w.len());
    let inputs = w.len() / n;
    assert_eq!(Some(out.len()), dense_bytes(inputs, n), "room for {inputs} × {n}");
    let quads = inputs.div_ceil(4);
    for (line, out) in out.as_chunks_mut::<{ LANES * 4 }>().0.iter_mut().enumerate() {
        let (panel, quad) = (line / quads, line % quads);
        for (at, out) in out.iter_mut().enumerate() {
            let (output, input) = (panel * LANES + at / 4, quad * 4 + at % 4);
            *out = if input < inputs { w[input * n + output] } else { 0 };
        }
    }
}

/// Writes the indices of the bytes of `fired` that are not zero to the front of `spikes`, ascending, and tells how many.
///
/// # Panics
///
/// When `spikes` is shorter than `fired`, or `fired` is longer than an index can tell.
pub fn collect_spikes(fired: &[u8], spikes: &mut [u32]) -> usize {
    assert!(spikes.len() >= fired.len(), "room for {} of {} spikes", spikes.len(), fired.len());
    let mut count = 0;
    let mut push = |index: usize| {
        spikes[count] = u32::try_from(index).expect("a layer has fewer neurons than an index can tell");
        count += 1;
    };
    let (words, rest) = fired.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        // Zero words, most of them, cost one comparison for eight neurons.
        let word = u64::from_le_bytes(*word);
        if word != 0 {
            (0..8).filter(|byte| word >> (8 * byte) & 0xff != 0).for_each(|byte| push(8 * at + byte));
        }
    }
    for (at, &byte) in rest.iter().enumerate() {
        if byte != 0 {
            push(8 * words.len() + at);
        }
    }
    count
}
