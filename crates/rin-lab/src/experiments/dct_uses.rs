//! Uses of the cosine transform: weights against their singular vectors, keys and values along time.

use rin_bench::stats::multiple::holm;

use super::loss;
use crate::dct::{Basis, TimeCoder, rounded};
use crate::decoder::{Arithmetic, Decoder, Matrix, Seen};
use crate::random::Random;
use crate::report::{Table, digits, interval};
use crate::results::Results;
use crate::{Case, Context, Error, Scale};

/// What counts as the same by default, in nats.
const MARGIN: f64 = 0.02;
/// What counts as the same here: this share of what rounding costs, which may be less than [`MARGIN`] as a whole.
const SHARE: f64 = 0.25;
/// Numbers that share a scale.
const GROUP: usize = 64;
/// Bits of a 16-bit scale for each of them.
const SCALE_BITS: f64 = 16.0 / GROUP as f64;
/// Bits that the numbers of singular vectors are tried with.
const FACTOR_BITS: [u32; 3] = [3, 4, 6];
/// Rounds of the iteration that finds singular vectors.
const ROUNDS: usize = 12;
/// Bits of a cache's numbers; their scales (16 bits for the 32 channels of a head) are the same for all.
const CACHE_BITS: [u32; 1] = [2];
const BASES: [(&str, Basis); 3] = [("as they are", Basis::None), ("Hadamard", Basis::Hadamard), ("DCT", Basis::Cosine)];
/// Characters that these are measured on.
const CHARS: usize = 20_000;
/// Windows of training text that bits are shared out by.
const CALIBRATION: usize = 8;

pub(super) const SINGULAR_VECTORS: &str = "singular vectors";

pub(super) fn svd_case(bits: u32) -> String {
    format!("loss, {bits} bits, {SINGULAR_VECTORS}")
}

fn cache_case(bits: u32, basis: &str) -> String {
    format!("loss, cache of {bits} bits, {basis}")
}

pub(super) fn cases(scale: Scale, weight_bits: &'static [u32]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &bits in weight_bits {
        cases.push(loss::case(svd_case(bits), scale.pick(2000, CHARS), move |decoder, _, context| {
            decoder.change_weights(|matrix| low_rank(matrix, bits, context))?;
            Ok(Arithmetic::FLOAT)
        }));
    }
    for bits in CACHE_BITS {
        for (name, basis) in BASES {
            let case = loss::case(cache_case(bits, name), scale.pick(2000, CHARS), move |decoder, train, _| {
                let cache = Some(coder(decoder, basis, bits, train)?);
                Ok(Arithmetic { cache, ..Arithmetic::FLOAT })
            });
            cases.push(case);
        }
    }
    cases
}

/// How a cache is rounded in a basis: as it is with the same bits for every token, turned with bits by the powers of the
/// coefficients over training text.
fn coder(decoder: &Decoder, basis: Basis, bits: u32, train: &[u32]) -> Result<TimeCoder, Error> {
    let config = decoder.config();
    if basis == Basis::None {
        return Ok(TimeCoder::even(basis, config.n_layers, bits));
    }
    let mut rows = vec![[Vec::new(), Vec::new()]; config.n_layers];
    for window in train.chunks_exact(config.ctx).take(CALIBRATION) {
        let mut seen = Seen::default();
        decoder.logits(window, &Arithmetic::FLOAT, Some(&mut seen))?;
        for (rows, [keys, values]) in rows.iter_mut().zip(seen.cache) {
            rows[0].extend(keys);
            rows[1].extend(values);
        }
    }
    let rows: Vec<[&[f32]; 2]> = rows.iter().map(|[keys, values]| [keys.as_slice(), values.as_slice()]).collect();
    Ok(TimeCoder::fitted(basis, bits, &rows, config.kv_dim()))
}

/// A matrix of the bits that `bits` a weight and the scales take, as the product of rounded factors: the bits of their
/// numbers that leave the least error, and the rank that then fits.
fn low_rank(matrix: &Matrix, bits: u32, context: &Context<'_>) -> Result<Vec<f32>, Error> {
    let (rows, cols) = (matrix.rows, matrix.cols);
    let budget = (f64::from(bits) + SCALE_BITS) * (rows * cols) as f64;
    let rank =
        |bits: u32| ((budget / (f64::from(bits) + SCALE_BITS) / (rows + cols) as f64) as usize).min(rows.min(cols));
    let most = rank(FACTOR_BITS[0]);
    let w: Vec<f64> = matrix.values().iter().map(|x| f64::from(*x)).collect();
    let right = singular_vectors(&w, rows, cols, most);
    context.check()?;
    let left: Vec<Vec<f64>> = right.iter().map(|v| w.chunks_exact(cols).map(|row| dot(row, v)).collect()).collect();
    let mut best: Option<(f64, Vec<f64>)> = None;
    for bits in FACTOR_BITS {
        let mut product = vec![0.0; rows * cols];
        for (left, right) in left.iter().zip(&right).take(rank(bits)) {
            let (left, right) = (in_groups(left, bits), in_groups(right, bits));
            for (row, left) in product.chunks_exact_mut(cols).zip(left) {
                row.iter_mut().zip(&right).for_each(|(x, right)| *x += left * right);
            }
        }
        let error: f64 = product.iter().zip(&w).map(|(a, b)| (a - b) * (a - b)).sum();
        if best.as_ref().is_none_or(|best| error < best.0) {
            best = Some((error, product));
        }
    }
    Ok(best.map(|best| best.1).unwrap_or(w).into_iter().map(|x| x as f32).collect())
}

fn in_groups(x: &[f64], bits: u32) -> Vec<f64> {
    x.chunks(GROUP).flat_map(|group| rounded(group, bits)).collect()
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f64>() + a1.iter().zip(b1).map(|(a, b)| a * b).sum::<f64>()
}

/// The first `n` right singular vectors of a matrix `(rows, cols)`, by orthogonal iteration (Golub and Van Loan, section
/// 8.2.4): near those of the largest values, and of the space that the rest span.
pub(super) fn singular_vectors(w: &[f64], rows: usize, cols: usize, n: usize) -> Vec<Vec<f64>> {
    // The square matrix of the columns.
    let mut square = vec![0.0; cols * cols];
    for row in w.chunks_exact(cols).take(rows) {
        for (x, line) in row.iter().zip(square.chunks_exact_mut(cols)) {
            line.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y);
        }
    }
    let mut random = Random::new(1, 601);
    let mut vectors: Vec<Vec<f64>> = (0..n.min(cols)).map(|_| (0..cols).map(|_| random.normal()).collect()).collect();
    for _ in 0..ROUNDS {
        for v in &mut vectors {
            *v = square.chunks_exact(cols).map(|line| dot(line, v)).collect();
        }
        for at in 0..vectors.len() {
            let (done, rest) = vectors.split_at_mut(at);
            let Some(v) = rest.first_mut() else { break };
            // Twice, as once leaves what rounding does.
            for _ in 0..2 {
                for other in done.iter() {
                    let along = dot(v, other);
                    v.iter_mut().zip(other).for_each(|(v, other)| *v -= along * other);
                }
            }
            let length = dot(v, v).sqrt().max(1e-300);
            for v in v.iter_mut() {
                *v /= length;
            }
        }
    }
    vectors
}

/// The cosine transform less another way to round to as many bits, on the same characters.
pub(super) struct Against {
    pub(super) bits: u32,
    pub(super) other: &'static str,
    /// What rounding in the other way costs, in nats.
    pub(super) cost: f64,
    /// Its equivalence is that within [`SHARE`] of the cost.
    pub(super) difference: loss::Difference,
    /// After Holm.
    pub(super) p: f64,
    /// Of equivalence within [`MARGIN`].
    p_fixed: f64,
}

/// The cosine transform against other ways, whose cases are named by bits and way.
pub(super) fn against(
    results: &Results,
    case: impl Fn(u32, &str) -> String,
    bits: &[u32],
    others: &[&'static str],
) -> Result<Vec<Against>, Error> {
    let mut all = Vec::new();
    for &bits in bits {
        for &other in others {
            let [cosine, base] = ["DCT", other].map(|way| case(bits, way));
            let cost = loss::difference(results, &base, loss::FLOAT, MARGIN)?.paired.mean;
            let fixed = loss::difference(results, &cosine, &base, MARGIN)?;
            // Where rounding costs nothing, nothing is within a share of it.
            let difference = loss::difference(results, &cosine, &base, (SHARE * cost).max(1e-9))?;
            let (p, p_fixed) = (difference.paired.p, fixed.equivalence.p);
            all.push(Against { bits, other, cost, difference, p, p_fixed });
        }
    }
    let adjusted = holm(&all.iter().map(|one| one.p).collect::<Vec<_>>());
    all.iter_mut().zip(adjusted).for_each(|(one, p)| one.p = p);
    Ok(all)
}

pub(super) fn told(ci: Option<[f64; 2]>) -> String {
    ci.map_or_else(|| "-".to_owned(), interval)
}

/// The table of such differences.
pub(super) fn against_table(caption: &str, all: &[Against]) -> Table {
    let mut table = Table::new(
        caption,
        &[
            "bits",
            "DCT less",
            "nats",
            "95 % interval",
            "adjusted p",
            "the other's cost, nats",
            "p of the same within a quarter of it",
            "p of the same within 0.02 nats",
        ],
    );
    for one in all {
        table.row([
            one.bits.to_string(),
            one.other.to_owned(),
            format!("{:+.4}", one.difference.paired.mean),
            told(one.difference.ci95),
            digits(one.p),
            format!("{:+.4}", one.cost),
            digits(one.difference.equivalence.p),
            digits(one.p_fixed),
        ]);
    }
    table
}

/// The tables of caches, and whether the cosine transform along time gains anything.
pub(super) fn caches(results: &Results) -> Result<([Table; 2], String), Error> {
    let mut table = Table::new(
        format!(
            "Loss with keys and values rounded in blocks of {} tokens, the tokens after the last whole block in floats, {} characters (0.5 bits more for scales):",
            crate::dct::TIME,
            results.number(&cache_case(CACHE_BITS[0], BASES[0].0), "/chars")?
        ),
        &["bits", "along time", "more nats than floats", "95 % interval"],
    );
    for bits in CACHE_BITS {
        for (name, _) in BASES {
            let whole = loss::difference(results, &cache_case(bits, name), loss::FLOAT, MARGIN)?;
            table.row([bits.to_string(), name.to_owned(), format!("{:+.4}", whole.paired.mean), told(whole.ci95)]);
        }
    }
    let against = against(results, cache_case, &CACHE_BITS, &["as they are", "Hadamard"])?;
    let words = against.iter().map(|one| {
        let better = one.p < 0.05 && one.difference.paired.mean < 0.0;
        let worse = one.p < 0.05 && one.difference.paired.mean > 0.0;
        format!(
            "{} against `{}` at {} bits: {:+.4} nats (95 % interval {}) of a cost of {:.4}",
            if better {
                "a gain"
            } else if worse {
                "a loss"
            } else {
                "a gain is not shown"
            },
            one.other,
            one.bits,
            one.difference.paired.mean,
            told(one.difference.ci95),
            one.cost,
        )
    });
    let words = words.collect::<Vec<_>>().join("; ");
    let second = against_table("The cosine transform along time against the others, p adjusted over these:", &against);
    Ok(([table, second], words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_low_rank_comes_back_and_vectors_are_orthonormal() {
        let (rows, cols) = (96, 64);
        let mut random = Random::new(3, 7);
        let mut draw = |n: usize| (0..n).map(|_| random.normal()).collect::<Vec<f64>>();
        let (a, b) = (draw(rows * 3), draw(cols * 3));
        let w: Vec<f64> = (0..rows * cols).map(|i| dot(&a[i / cols * 3..][..3], &b[i % cols * 3..][..3])).collect();
        let vectors = singular_vectors(&w, rows, cols, 3);
        for (i, v) in vectors.iter().enumerate() {
            for (j, u) in vectors.iter().enumerate() {
                assert!((dot(u, v) - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
        }
        // What the three vectors span is all there is.
        for row in w.chunks_exact(cols) {
            let mut rest = row.to_vec();
            for v in &vectors {
                let along = dot(&rest, v);
                rest.iter_mut().zip(v).for_each(|(x, v)| *x -= along * v);
            }
            assert!(dot(&rest, &rest) < 1e-12 * dot(row, row));
        }
        // Its three dimensions take few bits.
        let values: Vec<f32> = w.iter().map(|x| *x as f32).collect();
        let matrix = Matrix::of("low", rows, cols, values.clone()).unwrap();
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let context = Context { data: std::path::Path::new(""), python: None, cancel: &cancel };
        let found = low_rank(&matrix, 3, &context).unwrap();
        let square = |x: f32| f64::from(x) * f64::from(x);
        let wrong: f64 = found.iter().zip(&values).map(|(a, b)| square(a - b)).sum();
        assert!(wrong < 0.01 * values.iter().map(|x| square(*x)).sum::<f64>(), "{wrong}");
    }
}
