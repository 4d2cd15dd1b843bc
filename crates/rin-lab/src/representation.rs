//! How far what a student makes of a text is from what its teacher makes of it.

use rin_engine::eval::LogSoftmax;
use rin_train::train::Seen;

use crate::Error;

/// Linear centred kernel alignment of two representations of the same things, `(things, width)` each: 1 where one is a
/// rotation and scaling of the other, 0 where nothing of one is linear in the other (S. Kornblith, M. Norouzi, H. Lee, G. Hinton,
/// "Similarity of neural network representations revisited", ICML 2019).
///
/// # Errors
/// [`Error::Input`] where the numbers of things differ or a representation is constant.
pub fn linear_cka(a: &[f32], width_a: usize, b: &[f32], width_b: usize) -> Result<f64, Error> {
    let (a, b) = (centred(a, width_a)?, centred(b, width_b)?);
    if a.len() / width_a != b.len() / width_b {
        let numbers = format!("{} and {} things, but they must be the same", a.len() / width_a, b.len() / width_b);
        return Err(Error::input("representations", numbers));
    }
    let size = |x: &[f64], width: usize| squares(x, width, x, width).sqrt();
    let both = size(&a, width_a) * size(&b, width_b);
    if both > 0.0 {
        Ok(squares(&a, width_a, &b, width_b) / both)
    } else {
        Err(Error::input("representations", "one is the same for all things"))
    }
}

/// Each column without its mean.
fn centred(x: &[f32], width: usize) -> Result<Vec<f64>, Error> {
    if width == 0 || x.is_empty() || !x.len().is_multiple_of(width) {
        return Err(Error::input("representations", format!("{} numbers are no rows of {width}", x.len())));
    }
    let n = (x.len() / width) as f64;
    let mut means = vec![0.0; width];
    for row in x.chunks_exact(width) {
        means.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    // Divided last: the sum of equal numbers is exact, so what is constant becomes zero.
    for mean in &mut means {
        *mean /= n;
    }
    Ok(x.chunks_exact(width).flat_map(|row| row.iter().zip(&means).map(|(x, mean)| f64::from(*x) - mean)).collect())
}

/// The sum of the squares of `aᵀ b`.
fn squares(a: &[f64], width_a: usize, b: &[f64], width_b: usize) -> f64 {
    let mut product = vec![0.0; width_a * width_b];
    for (a, b) in a.chunks_exact(width_a).zip(b.chunks_exact(width_b)) {
        for (x, out) in a.iter().zip(product.chunks_exact_mut(width_b)) {
            out.iter_mut().zip(b).for_each(|(out, y)| *out += x * y);
        }
    }
    product.iter().map(|x| x * x).sum()
}

/// The logarithms of the probabilities of a row of logits.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let softmax = LogSoftmax::of(logits, &mut Vec::new());
    logits.iter().map(|x| softmax.map_or(f64::NAN, |softmax| softmax.log_p(*x))).collect()
}

/// What a student's logits are against its teacher's, on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitDistance {
    /// The student's loss against the text, in nats per token.
    pub nats: f64,
    /// The teacher's.
    pub teacher_nats: f64,
    /// `KL(teacher ‖ student)` of the next token, the mean in nats.
    pub kl: f64,
    /// Tokens after which the two hold another token for the most probable.
    pub disagreements: usize,
}

/// Compares logits `(tokens, vocab)` of the same tokens; `targets` is the token after each. Logits that are no numbers make the
/// sums none.
///
/// # Errors
/// [`Error::Input`] where they are not of the same tokens.
pub fn logit_distance(student: &[f32], teacher: &[f32], vocab: usize, targets: &[u32]) -> Result<LogitDistance, Error> {
    let n = targets.len();
    if n == 0 || vocab == 0 || student.len() != n * vocab || teacher.len() != n * vocab {
        return Err(Error::input("logits", format!("they are not of {n} tokens")));
    }
    let (mut nats, mut teacher_nats, mut kl, mut disagreements) = (0.0, 0.0, 0.0, 0);
    for ((student, teacher), target) in student.chunks_exact(vocab).zip(teacher.chunks_exact(vocab)).zip(targets) {
        let (s, t) = (log_probabilities(student), log_probabilities(teacher));
        let of_target = |x: &[f64]| x.get(*target as usize).copied().unwrap_or(f64::NAN);
        nats -= of_target(&s);
        teacher_nats -= of_target(&t);
        kl += t.iter().zip(&s).map(|(t, s)| libm::exp(*t) * (t - s)).sum::<f64>();
        let best = |x: &[f64]| (0..x.len()).max_by(|a, b| x[*a].total_cmp(&x[*b]));
        disagreements += usize::from(best(&s) != best(&t));
    }
    let n = n as f64;
    Ok(LogitDistance { nats: nats / n, teacher_nats: teacher_nats / n, kl: kl / n, disagreements })
}

/// What a student makes of tokens against what its teacher does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Its loss against the text, in nats per token.
    pub nats: f64,
    /// `KL(teacher ‖ student)` of the next token, the mean in nats.
    pub kl: f64,
    /// Share of the tokens after which the two hold another token for the most probable.
    pub disagreement: f64,
    /// [`linear_cka`] of the streams after the last layers.
    pub cka: f64,
}

/// Compares what both made of the same tokens; `targets` is the token after each.
///
/// # Errors
/// [`Error::Input`] where they are not of the same tokens.
pub fn distance(student: &Seen, teacher: &Seen, targets: &[u32]) -> Result<Distance, Error> {
    if student.vocab != teacher.vocab {
        return Err(Error::input("logits", "they are over different vocabularies"));
    }
    let LogitDistance { nats, kl, disagreements, .. } =
        logit_distance(&student.logits, &teacher.logits, student.vocab, targets)?;
    let cka = linear_cka(&student.hidden, student.dim, &teacher.hidden, teacher.dim)?;
    Ok(Distance { nats, kl, disagreement: disagreements as f64 / targets.len() as f64, cka })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[expect(clippy::cast_possible_truncation, reason = "numbers of a test")]
    fn normal(n: usize, stream: u32) -> Vec<f32> {
        let mut random = Random::new(5, stream);
        (0..n).map(|_| random.normal() as f32).collect()
    }

    /// The other form of the definition: centred Gram matrices, `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`.
    fn by_gram(a: &[f32], wa: usize, b: &[f32], wb: usize) -> f64 {
        let gram = |x: &[f32], w: usize| -> Vec<Vec<f64>> {
            let dot = |p: &[f32], q: &[f32]| p.iter().zip(q).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum::<f64>();
            let full: Vec<Vec<f64>> = x.chunks(w).map(|p| x.chunks(w).map(|q| dot(p, q)).collect()).collect();
            let n = full.len() as f64;
            let means: Vec<f64> = full.iter().map(|row| row.iter().sum::<f64>() / n).collect();
            let all = means.iter().sum::<f64>() / n;
            let row = |i: usize| (0..full.len()).map(|j| full[i][j] - means[i] - means[j] + all).collect();
            (0..full.len()).map(row).collect()
        };
        let hsic = |k: &[Vec<f64>], l: &[Vec<f64>]| -> f64 {
            k.iter().flatten().zip(l.iter().flatten()).map(|(k, l)| k * l).sum()
        };
        let (k, l) = (gram(a, wa), gram(b, wb));
        hsic(&k, &l) / (hsic(&k, &k) * hsic(&l, &l)).sqrt()
    }

    #[test]
    fn alignment_is_that_of_centred_gram_matrices() {
        let (n, wa, wb) = (40, 3, 5);
        let mut a = normal(n * wa, 1);
        for x in &mut a {
            *x += 2.0;
        }
        let noise = normal(n * wb, 2);
        let b: Vec<f32> = (0..n * wb).map(|i| a[i / wb * wa + i % wb % wa] + 0.5 * noise[i]).collect();
        let found = linear_cka(&a, wa, &b, wb).unwrap();
        assert!((found - by_gram(&a, wa, &b, wb)).abs() < 1e-9 && (0.5..0.999).contains(&found), "{found}");
        // Rotated by a quarter turn, moved, and twice as large.
        let turned: Vec<f32> = a.chunks(wa).flat_map(|r| [1.0 - 2.0 * r[1], 2.0 * r[0], 2.0 * r[2] + 7.0]).collect();
        assert!((linear_cka(&a, wa, &turned, wa).unwrap() - 1.0).abs() < 1e-6);
        assert!(linear_cka(&a, wa, &b[wb..], wb).is_err() && linear_cka(&vec![1.0; n], 1, &b, wb).is_err());
    }

    #[test]
    fn logits_are_compared_as_distributions() {
        let seen = |logits: Vec<f32>| Seen { logits, vocab: 2, hidden: vec![0.0, 1.0], dim: 1 };
        let (student, teacher) = (seen(vec![0.0, 0.0, 9.0, 9.0]), seen(vec![1.0, 1.0, 0.0, 1.098_612_3]));
        let found = distance(&student, &teacher, &[0, 1]).unwrap();
        // Rows: equal; and (1/4, 3/4) against (1/2, 1/2).
        let kl = 0.25 * libm::log(0.5) + 0.75 * libm::log(1.5);
        assert!((found.nats - libm::log(2.0)).abs() < 1e-6 && (found.kl - kl / 2.0).abs() < 1e-6, "{found:?}");
        assert!((found.cka - 1.0).abs() < 1e-9);
        assert!(distance(&student, &teacher, &[0]).is_err());
        let turned = seen(vec![0.0, 1.0, 1.0, 0.0]);
        assert!((distance(&turned, &seen(vec![1.0, 0.0, 1.0, 0.0]), &[0, 0]).unwrap().disagreement - 0.5).abs() < 1e-9);
    }
}
