//! Telling two results apart: the difference of each pair of rows, its interval, and whether there is one at all.

use std::fmt::Write;

use serde::Serialize;

use crate::stats::bootstrap::{MIN_SAMPLES, difference_interval, mean_interval};
use crate::stats::mean;
use crate::stats::permutation::{difference_of_means, sign_flip};
use crate::stats::rank::mann_whitney;
use crate::{Error, Row};

/// A difference counts as shown where chance gives one as large less often than this.
pub const ALPHA: f64 = 0.05;

/// Two results beside each other.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Rows of the same model, test, threads, sequences, tier and cache in both.
    pub pairs: Vec<Pair>,
    /// Rows of A without a partner.
    pub only_a: Vec<Key>,
    /// Rows of B without a partner.
    pub only_b: Vec<Key>,
}

/// What two rows have to share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Name of the model's file, or where there is none, its type.
    pub model: String,
    /// The test.
    pub test: String,
    /// Workers.
    pub n_threads: u64,
    /// Sequences that are stepped together.
    pub n_parallel: u64,
    /// The tier.
    pub tier: String,
    /// Type of the cache.
    pub type_k: String,
}

/// Two rows compared. Rates are in tokens per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// What they share.
    pub key: Key,
    /// Mean rate of A.
    pub mean_a: f64,
    /// Mean rate of B.
    pub mean_b: f64,
    /// B over A.
    pub ratio: f64,
    /// B less A.
    pub difference: f64,
    /// 95 % interval of the difference; none of fewer than five repetitions.
    pub difference_ci95: Option<[f64; 2]>,
    /// Whether repetitions were taken in pairs, by their number.
    pub paired: bool,
    /// Of the Mann–Whitney test.
    pub p_mann_whitney: f64,
    /// Of the permutation test: of signs where paired, of the two sets where not.
    pub p_permutation: f64,
    /// What follows.
    pub verdict: Verdict,
    /// Whether the logits had the same bits; none where a digest is missing.
    pub same_digest: Option<bool>,
    /// Whether A, or B, says that it was disturbed.
    pub disturbed: [bool; 2],
}

/// Which of two rows is the faster one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A is faster.
    AFaster,
    /// B is faster.
    BFaster,
    /// Chance alone may have given the difference.
    NoDifferenceShown,
}

impl Verdict {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::AFaster => "A faster",
            Self::BFaster => "B faster",
            Self::NoDifferenceShown => "no difference shown",
        }
    }
}

impl Key {
    fn of(row: &Row) -> Self {
        Self {
            model: row.model_name().to_owned(),
            test: row.test_name(),
            n_threads: row.n_threads,
            n_parallel: row.n_parallel,
            tier: row.tier.clone(),
            type_k: row.type_k.clone(),
        }
    }

    /// In words.
    fn label(&self) -> String {
        let Self { model, test, n_threads, n_parallel, tier, type_k } = self;
        format!("{model} {test} | {n_threads} threads | {n_parallel} seq | {tier} | {type_k}")
    }
}

/// Compares the rows that have a partner; of several with the same key the first goes with the first.
pub fn compare(a: &[Row], b: &[Row]) -> Comparison {
    let mut rest: Vec<(Key, &Row)> = b.iter().map(|row| (Key::of(row), row)).collect();
    let mut comparison = Comparison { pairs: Vec::new(), only_a: Vec::new(), only_b: Vec::new() };
    for row in a {
        let key = Key::of(row);
        match rest.iter().position(|(other, _)| *other == key) {
            Some(at) => comparison.pairs.push(Pair::of(key, row, rest.remove(at).1)),
            None => comparison.only_a.push(key),
        }
    }
    comparison.only_b = rest.into_iter().map(|(key, _)| key).collect();
    comparison
}

impl Pair {
    fn of(key: Key, a: &Row, b: &Row) -> Self {
        let (x, y) = (&a.samples_ts[..], &b.samples_ts[..]);
        let (mean_a, mean_b) = (mean(x).unwrap_or(0.0), mean(y).unwrap_or(0.0));
        let paired = x.len() == y.len();
        let differences: Vec<f64> = x.iter().zip(y).map(|(x, y)| y - x).collect();
        let (difference_ci95, permutation) = if paired {
            (mean_interval(&differences), sign_flip(&differences))
        } else {
            (difference_interval(x, y), difference_of_means(x, y))
        };
        // Without samples there is nothing to tell.
        let p_mann_whitney = mann_whitney(x, y).map_or(1.0, |test| test.p);
        let p_permutation = permutation.map_or(1.0, |test| test.p);
        let shown = p_mann_whitney < ALPHA;
        let verdict = match difference_ci95 {
            Some([low, _]) if shown && low > 0.0 => Verdict::BFaster,
            Some([_, high]) if shown && high < 0.0 => Verdict::AFaster,
            _ => Verdict::NoDifferenceShown,
        };
        Self {
            key,
            mean_a,
            mean_b,
            ratio: mean_b / mean_a,
            difference: mean_b - mean_a,
            difference_ci95,
            paired,
            p_mann_whitney,
            p_permutation,
            verdict,
            same_digest: a.digest.as_ref().zip(b.digest.as_ref()).map(|(a, b)| a == b),
            disturbed: [a, b].map(|row| row.disturbed == Some(true)),
        }
    }

    fn lines(&self, text: &mut String) -> Result<(), Error> {
        writeln!(text, "- {}: **{}**", self.key.label(), self.verdict.words())?;
        write!(text, "  - A {:.2} t/s, B {:.2} t/s: {:.4} times A; ", self.mean_a, self.mean_b, self.ratio)?;
        match self.difference_ci95 {
            Some([low, high]) => {
                let how = if self.paired { "paired" } else { "unpaired" };
                write!(text, "B − A {:+.2}, 95 % interval {low:+.2} … {high:+.2} ({how})", self.difference)?;
            }
            None => write!(
                text,
                "B − A {:+.2}, without an interval: that takes {MIN_SAMPLES} repetitions of each",
                self.difference
            )?,
        }
        writeln!(text, "; p {:.4} (Mann–Whitney), {:.4} (permutation)", self.p_mann_whitney, self.p_permutation)?;
        if self.same_digest == Some(false) {
            writeln!(text, "  - the logits differ: A and B did not compute the same")?;
        }
        let names = ["A", "B"].into_iter().zip(self.disturbed);
        for (name, _) in names.filter(|(_, disturbed)| *disturbed) {
            writeln!(text, "  - {name} was disturbed while it was measured")?;
        }
        Ok(())
    }
}

impl Comparison {
    /// A list in Markdown.
    ///
    /// # Errors
    ///
    /// [`Error::Write`], which a string never gives.
    pub fn markdown(&self) -> Result<String, Error> {
        let mut text = String::new();
        for pair in &self.pairs {
            pair.lines(&mut text)?;
        }
        for (name, keys) in [("A", &self.only_a), ("B", &self.only_b)] {
            for key in keys {
                writeln!(text, "- {}: only in {name}", key.label())?;
            }
        }
        if self.pairs.is_empty() {
            writeln!(text, "\nno row of A has a partner in B: nothing was compared")?;
        }
        Ok(text)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;
    use rin_engine::sampler::philox::uniform;

    fn row(n_threads: u64, samples_ts: &[f64]) -> Row {
        let model_filename = "/a/tiny.gguf".to_owned();
        Row { n_threads, n_gen: 8, n_parallel: 1, model_filename, samples_ts: samples_ts.to_vec(), ..Row::default() }
    }

    fn one(a: &[f64], b: &[f64]) -> Pair {
        let found = compare(&[row(1, a)], &[row(1, b)]);
        assert_eq!((found.only_a.len(), found.only_b.len()), (0, 0));
        found.pairs.into_iter().next().unwrap()
    }

    #[test]
    fn a_clear_difference_is_shown() {
        let a: Vec<f64> = (0..10).map(|i| 100.0 + f64::from(i)).collect();
        let b: Vec<f64> = a.iter().map(|x| x + 20.0).collect();
        let pair = one(&a, &b);
        assert_eq!(pair.verdict, Verdict::BFaster);
        assert_eq!((pair.paired, pair.difference_ci95), (true, Some([20.0, 20.0])));
        assert!((pair.difference - 20.0).abs() < 1e-9 && (pair.ratio - 124.5 / 104.5).abs() < 1e-12);
        // All 184,756 ways to choose ten of twenty ranks, the observed one at either end.
        assert!((pair.p_mann_whitney - 2.0 / 184_756.0).abs() < 1e-12);
        assert_eq!(pair.p_permutation, 2.0 / 1024.0);
        assert_eq!(one(&b, &a).verdict, Verdict::AFaster);
        let unpaired = one(&a, &b[..9]);
        assert_eq!((unpaired.paired, unpaired.verdict), (false, Verdict::BFaster));
        assert_eq!(unpaired.p_permutation, 1.0 / 92_378.0);
    }

    #[test]
    fn noise_is_no_difference() {
        let mut shown = 0;
        for case in 0..40 {
            let a: Vec<f64> = (0..10).map(|i| 100.0 + uniform(case, i)).collect();
            let b: Vec<f64> = (0..10).map(|i| 100.0 + uniform(case, 100 + i)).collect();
            shown += usize::from(one(&a, &b).verdict != Verdict::NoDifferenceShown);
        }
        // Of 40 at 5 %, two on average; six or more have a chance of 1.4 %.
        assert!(shown < 6, "{shown} of 40");
    }

    #[test]
    fn few_repetitions_show_nothing() {
        let pair = one(&[1.0, 1.1, 1.2], &[5.0, 5.1, 5.2]);
        assert_eq!((pair.difference_ci95, pair.verdict), (None, Verdict::NoDifferenceShown));
        let text = compare(&[row(1, &[1.0])], &[row(1, &[2.0])]).markdown().unwrap();
        assert!(text.contains("no difference shown") && text.contains("without an interval"), "{text}");
    }

    #[test]
    fn rows_without_a_partner_are_listed() {
        let (mut a, mut b) = (row(1, &[1.0; 5]), row(1, &[1.0; 5]));
        a.digest = Some("sha256:a".to_owned());
        b.digest = Some("sha256:b".to_owned());
        b.disturbed = Some(true);
        let found = compare(&[a, row(2, &[1.0])], &[row(4, &[1.0]), b]);
        assert_eq!((found.pairs.len(), found.only_a.len(), found.only_b.len()), (1, 1, 1));
        assert_eq!((found.only_a[0].n_threads, found.only_b[0].n_threads), (2, 4));
        let text = found.markdown().unwrap();
        assert!(text.contains("tiny.gguf tg8 | 2 threads | 1 seq |  | : only in A"), "{text}");
        assert!(text.contains("the logits differ") && text.contains("B was disturbed") && !text.contains("A was"));
        let none = compare(&[row(1, &[1.0])], &[row(2, &[1.0])]).markdown().unwrap();
        assert!(none.contains("nothing was compared"));
    }
}
