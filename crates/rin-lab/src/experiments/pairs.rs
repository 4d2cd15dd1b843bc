//! Arms that were trained with several seeds, compared in pairs.

use rin_bench::stats::multiple::holm;
use rin_bench::stats::permutation::sign_flip;
use rin_bench::stats::student::{Equivalence, Paired, equivalence, paired};

use crate::Error;
use crate::report::{Table, digits, interval};
use crate::results::Results;

/// An arm less another, paired by seed.
pub(super) struct Comparison {
    pub(super) names: [&'static str; 2],
    pub(super) differences: Vec<f64>,
    pub(super) test: Paired,
    /// After Holm.
    pub(super) p: f64,
    pub(super) equivalence: Equivalence,
}

impl Comparison {
    /// Whether the first is the better one.
    pub(super) fn wins(&self) -> bool {
        self.test.mean < 0.0 && self.p < 0.05
    }

    /// The difference in words.
    pub(super) fn told(&self) -> String {
        format!("{:+.4} nats (95 % interval {})", self.test.mean, interval(self.test.ci95))
    }
}

/// Compares arms by the numbers of their seeds, which `column` gives.
pub(super) fn compare(
    results: &Results,
    pairs: &[[&'static str; 2]],
    column: impl Fn(&str) -> Result<Vec<f64>, Error>,
    margin: f64,
) -> Result<Vec<Comparison>, Error> {
    let few = || Error::Missing { experiment: results.header.experiment.clone(), what: "two seeds".to_owned() };
    let mut all = Vec::new();
    for names in pairs {
        let [a, b] = names.map(&column);
        let differences: Vec<f64> = a?.iter().zip(b?).map(|(a, b)| a - b).collect();
        let test = paired(&differences).ok_or_else(few)?;
        let equivalence = equivalence(&differences, margin).ok_or_else(few)?;
        all.push(Comparison { names: *names, differences, test, p: test.p, equivalence });
    }
    let adjusted = holm(&all.iter().map(|c| c.p).collect::<Vec<_>>());
    all.iter_mut().zip(adjusted).for_each(|(comparison, p)| comparison.p = p);
    Ok(all)
}

/// The table of comparisons.
pub(super) fn comparisons_table(all: &[Comparison], margin: f64) -> Table {
    let mut table = Table::new(
        format!(
            "Differences of nats, paired by seed (negative: the first is better). The last column is of \"the same within {margin} nats\":"
        ),
        &["", "mean", "95 % interval", "adjusted p", "p of sign flips", "p of equivalence"],
    );
    for c in all {
        let [a, b] = c.names;
        table.row([
            format!("{a} − {b}"),
            format!("{:+.4}", c.test.mean),
            interval(c.test.ci95),
            digits(c.p),
            sign_flip(&c.differences).map_or_else(|| "-".to_owned(), |test| digits(test.p)),
            digits(c.equivalence.p),
        ]);
    }
    table
}
