//! Keys and values of attention rounded in blocks of tokens, after a transform along time.

use super::{Basis, rounded};

/// Tokens of a block.
pub const TIME: usize = 16;
/// The most bits that a coefficient gets.
const MOST: u32 = 8;

/// How a cache of keys and values is rounded: each block of [`TIME`] tokens is turned along time, channel by channel; then
/// coefficient `k` of all channels of a head is rounded to `bits[k]` bits, with a 16-bit scale. The tokens after the last
/// whole block stay as they are, as a cache that rounds what is complete would have them.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeCoder {
    basis: Basis,
    /// Of each layer, of keys and of values, for each coefficient.
    bits: Vec<[[u32; TIME]; 2]>,
}

impl TimeCoder {
    /// With `bits` for every coefficient.
    pub fn even(basis: Basis, layers: usize, bits: u32) -> Self {
        Self { basis, bits: vec![[[bits; TIME]; 2]; layers] }
    }

    /// With `bits` on average, given to the coefficients so that the expected error is least: of each layer, `rows` are the
    /// keys and the values that a text has, `(tokens, width)`.
    pub fn fitted(basis: Basis, bits: u32, rows: &[[&[f32]; 2]], width: usize) -> Self {
        let of = |rows: &[f32]| shared_out(&powers(basis, rows, width), bits);
        Self { basis, bits: rows.iter().map(|[keys, values]| [of(keys), of(values)]).collect() }
    }

    /// Bits of the coefficients of a layer's keys (0) or values (1).
    pub fn bits(&self, layer: usize, which: usize) -> Option<&[u32; TIME]> {
        self.bits.get(layer)?.get(which)
    }

    /// The keys (0) or values (1) of a head, `(tokens, dim)`, as they come back.
    pub fn run(&self, layer: usize, which: usize, rows: &[f32], dim: usize) -> Vec<f32> {
        let mut out = rows.to_vec();
        let Some(bits) = self.bits(layer, which) else { return out };
        for block in out.chunks_exact_mut(TIME * dim) {
            let mut spectrum = turned(self.basis, block, dim);
            for (coefficient, bits) in bits.iter().enumerate() {
                let group: Vec<f64> = spectrum.iter().map(|channel| channel[coefficient]).collect();
                let group = if *bits == 0 { vec![0.0; dim] } else { rounded(&group, *bits) };
                spectrum.iter_mut().zip(group).for_each(|(channel, x)| channel[coefficient] = x);
            }
            for (c, channel) in spectrum.into_iter().enumerate() {
                for (t, x) in self.basis.back(channel).into_iter().enumerate() {
                    block[t * dim + c] = x as f32;
                }
            }
        }
        out
    }
}

/// A block `(TIME, width)` channel by channel in a basis.
fn turned(basis: Basis, block: &[f32], width: usize) -> Vec<Vec<f64>> {
    let channel = |c: usize| (0..TIME).map(|t| f64::from(block[t * width + c])).collect();
    (0..width).map(|c| basis.turn(channel(c))).collect()
}

/// Mean square of each coefficient.
fn powers(basis: Basis, rows: &[f32], width: usize) -> [f64; TIME] {
    let mut powers = [0.0; TIME];
    for block in rows.chunks_exact(TIME * width) {
        for channel in turned(basis, block, width) {
            powers.iter_mut().zip(channel).for_each(|(power, x)| *power += x * x);
        }
    }
    powers
}

/// Gives `bits` on average, each to where the error is largest: a bit takes three quarters of it away.
fn shared_out(powers: &[f64; TIME], bits: u32) -> [u32; TIME] {
    let mut given = [0_u32; TIME];
    for _ in 0..TIME as u32 * bits {
        let error = |k: usize| powers[k] * libm::exp2(-2.0 * f64::from(given[k]));
        let open = (0..TIME).filter(|k| given[*k] < MOST);
        let Some(worst) = open.max_by(|a, b| error(*a).total_cmp(&error(*b))) else { break };
        given[worst] += 1;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 32;

    /// Slow waves, one per channel.
    fn waves(tokens: usize) -> Vec<f32> {
        let at = |i: usize| libm::sin(0.04 * (i / DIM) as f64 + (i % DIM) as f64) as f32;
        (0..tokens * DIM).map(at).collect()
    }

    fn error(a: &[f32], b: &[f32]) -> f64 {
        let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (squares / a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>()).sqrt()
    }

    #[test]
    fn slow_signals_are_smaller_after_a_cosine_transform_and_the_last_tokens_stay() {
        let rows = waves(4 * TIME + 5);
        let whole = 4 * TIME * DIM;
        let coded = |coder: &TimeCoder| {
            let found = coder.run(0, 1, &rows, DIM);
            assert_eq!(found[whole..], rows[whole..]);
            error(&rows[..whole], &found[..whole])
        };
        let plain = coded(&TimeCoder::even(Basis::None, 1, 3));
        let cosine = coded(&TimeCoder::fitted(Basis::Cosine, 3, &[[&rows, &rows]], DIM));
        assert!(plain > 0.1 && cosine < plain / 10.0, "{plain} {cosine}");
        // Each token has a scale of its own, so nothing is gained where coefficients are tokens.
        let fitted = TimeCoder::fitted(Basis::None, 3, &[[&rows, &rows]], DIM);
        assert_eq!(fitted.bits(0, 0).unwrap().iter().sum::<u32>(), 3 * TIME as u32);
        assert_eq!(
            TimeCoder::fitted(Basis::Cosine, 3, &[[&rows, &rows]], DIM).bits(0, 1).unwrap().iter().sum::<u32>(),
            48
        );
        // A layer that it does not know is left alone.
        assert_eq!(TimeCoder::even(Basis::Hadamard, 1, 2).run(1, 0, &rows, DIM), rows);
    }
}
