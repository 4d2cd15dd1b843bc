//! The energy of a span of time, domain by domain.

use std::time::Duration;

use crate::{Domain, DomainKind, Error, Source};

/// What one domain took.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The domain.
    pub domain: Domain,
    /// In J, or why that is not known.
    pub joules: Result<f64, Error>,
    /// Standard uncertainty in J, from the sensor's resolution and from how often it is brought up to date.
    pub uncertainty: f64,
}

/// What all domains took in a span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Where it comes from.
    pub source: Source,
    /// How long it was.
    pub time: Duration,
    /// Each domain.
    pub lines: Vec<Line>,
    /// What stands for the whole: which kind of domain is added up.
    pub covers: Option<DomainKind>,
    total: Result<f64, Error>,
    /// Standard uncertainty of the total in J; 0 where there is no total.
    pub uncertainty: f64,
}

impl Measurement {
    pub(crate) fn of(source: Source, time: Duration, lines: Vec<Line>) -> Self {
        let covers = covers(&lines.iter().map(|line| &line.domain).collect::<Vec<_>>());
        let (total, uncertainty) = total(&lines, covers);
        Self { source, time, lines, covers, total, uncertainty }
    }

    /// The energy of the whole, in J: the sum over all packages, or what the source has in their place.
    ///
    /// # Errors
    /// What is wrong with one of its domains, or [`Error::NoTotal`] where only parts are measured, and
    /// [`Error::BelowResolution`] where the sensor cannot tell the sum from nothing.
    pub fn joules(&self) -> Result<f64, Error> {
        self.total.clone()
    }

    /// The source and what it stands for, as in `perf (package)`.
    pub fn source_name(&self) -> String {
        self.source.name_of(self.covers)
    }

    /// Mean power of the whole, in W.
    ///
    /// # Errors
    /// As [`Measurement::joules`].
    pub fn watts(&self) -> Result<f64, Error> {
        Ok(self.joules()? / self.time.as_secs_f64().max(f64::MIN_POSITIVE))
    }

    /// The sum of the lines of memory, which are beside the whole; none where there are none or one is not known.
    pub fn dram_joules(&self) -> Option<f64> {
        let mut dram = self.lines.iter().filter(|line| line.domain.kind == DomainKind::Dram).peekable();
        dram.peek()?;
        dram.map(|line| line.joules.as_ref().ok().copied()).sum()
    }

    /// Energy per token, in J; none for no tokens or no energy.
    pub fn joules_per(&self, tokens: u64) -> Option<f64> {
        (tokens > 0).then(|| Some(self.joules().ok()? / tokens as f64))?
    }
}

/// The kind that stands for the whole: the best that there is, or the only rail of a board.
pub(crate) fn covers(domains: &[&Domain]) -> Option<DomainKind> {
    let has = |kind: DomainKind| domains.iter().any(|domain| domain.kind == kind);
    let best = DomainKind::TOTALS.into_iter().find(|total| has(*total));
    let only_rail = || (domains.len() == 1 && has(DomainKind::Rail)).then_some(DomainKind::Rail);
    best.or_else(only_rail)
}

fn total(lines: &[Line], covers: Option<DomainKind>) -> (Result<f64, Error>, f64) {
    let Some(kind) = covers else {
        let names = lines.iter().map(|line| line.domain.name.clone()).collect();
        return (Err(Error::NoTotal { names }), 0.0);
    };
    let (mut joules, mut square) = (0.0, 0.0);
    for line in lines.iter().filter(|line| line.domain.kind == kind) {
        match &line.joules {
            Ok(found) => joules += found,
            Err(error) => return (Err(error.clone()), 0.0),
        }
        square += line.uncertainty * line.uncertainty;
    }
    (Ok(joules), square.sqrt())
}
