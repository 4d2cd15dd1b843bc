//! The accuracy of an inverse transform by the procedure of IEEE 1180-1990.
//!
//! The procedure, and its random generator, are those of ITU-T H.261, annex A; the same stands in ISO/IEC 23002-1:2006.
//! The limits are those of IEEE 1180-1990, section 3.3: a peak error of 1, mean square errors of 0.06 per place and 0.02
//! over all, mean errors of 0.015 per place and 0.0015 over all, and zeros from zeros.

use super::{definition, definition_inverse};

/// A range of random values: −low … high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The magnitude of the least value.
    pub low: i32,
    /// The largest value.
    pub high: i32,
    /// 1, or −1 for the values with the other sign.
    pub sign: i32,
}

/// The six ranges of the procedure.
pub const RANGES: [Range; 6] = [
    Range { low: 256, high: 255, sign: 1 },
    Range { low: 5, high: 5, sign: 1 },
    Range { low: 300, high: 300, sign: 1 },
    Range { low: 256, high: 255, sign: -1 },
    Range { low: 5, high: 5, sign: -1 },
    Range { low: 300, high: 300, sign: -1 },
];

/// Blocks of the procedure.
pub const BLOCKS: usize = 10_000;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// The largest error of a value.
    pub peak: f64,
    /// The largest mean square error of a place.
    pub mse: f64,
    /// The mean square error over all.
    pub overall_mse: f64,
    /// The largest magnitude of the mean error of a place.
    pub mean: f64,
    /// The magnitude of the mean error over all.
    pub overall_mean: f64,
}

impl Accuracy {
    /// Whether all limits are kept.
    pub fn meets(&self) -> bool {
        self.peak <= 1.0
            && self.mse <= 0.06
            && self.overall_mse <= 0.02
            && self.mean <= 0.015
            && self.overall_mean <= 0.0015
    }
}

/// The generator of the procedure.
struct Generator(i32);

impl Generator {
    /// A value in −low … high.
    fn next(&mut self, low: i32, high: i32) -> i32 {
        self.0 = self.0.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let x = f64::from(self.0 & 0x7fff_fffe) / f64::from(0x7fff_ffff) * f64::from(low + high + 1);
        x as i32 - low
    }
}

/// A transform of rows and columns in double precision.
fn both(block: &[f64; 64], transform: impl Fn(&[f64]) -> Vec<f64>) -> [f64; 64] {
    let mut values = *block;
    for row in values.as_chunks_mut::<8>().0 {
        let transformed = transform(row);
        row.copy_from_slice(&transformed);
    }
    for column in 0..8 {
        let of: [f64; 8] = std::array::from_fn(|i| values[8 * i + column]);
        for (i, x) in transform(&of).into_iter().enumerate() {
            values[8 * i + column] = x;
        }
    }
    values
}

/// Measures an inverse on random blocks of a range.
pub fn measure(inverse: impl Fn(&[i32; 64]) -> [i32; 64], range: Range, blocks: usize) -> Accuracy {
    let mut generator = Generator(1);
    let (mut sums, mut squares, mut peak) = ([0.0; 64], [0.0; 64], 0.0_f64);
    for _ in 0..blocks {
        let pixels: [f64; 64] = std::array::from_fn(|_| f64::from(range.sign * generator.next(range.low, range.high)));
        let coefficients = both(&pixels, definition).map(|x| (x.round() as i32).clamp(-2048, 2047));
        let right = both(&coefficients.map(f64::from), definition_inverse).map(|x| (x.round() as i32).clamp(-256, 255));
        for (at, (found, right)) in inverse(&coefficients).iter().zip(&right).enumerate() {
            let error = f64::from(found - right);
            sums[at] += error;
            squares[at] += error * error;
            peak = peak.max(error.abs());
        }
    }
    let n = blocks as f64;
    let most = |values: &[f64]| values.iter().map(|x| (x / n).abs()).fold(0.0, f64::max);
    Accuracy {
        peak,
        mse: most(&squares),
        overall_mse: squares.iter().sum::<f64>() / (64.0 * n),
        mean: most(&sums),
        overall_mean: (sums.iter().sum::<f64>() / (64.0 * n)).abs(),
    }
}
