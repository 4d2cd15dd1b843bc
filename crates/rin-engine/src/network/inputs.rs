//! What goes into a network: which numbers, and how many positions its sequences have.

use super::NetworkError;
use super::plan::{NetworkPlan, Step};
use super::sequence::SequenceOp;
use crate::Error;
use crate::weights::WeightTable;
use rin_model::{Network, Port, PortKind, Positions};

/// Which numbers an input takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Domain {
    /// Any.
    Numbers,
    /// Whole numbers below this: the rows of a table.
    Ids(usize),
    /// Whole numbers up to this: positions that count.
    Length(usize),
    /// 0 or 1: spikes.
    Flags,
    /// Any; what lies beyond this magnitude counts as this much.
    UpTo(f32),
}

impl Domain {
    /// A number from -2 to 2, and where others are wanted, one of those in its place.
    pub fn fit(self, x: f32) -> f32 {
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "rounded down; negative becomes 0")]
        let whole = |n: usize| (((x + 2.0) * 0.25 * n as f32) as usize).min(n - 1) as f32;
        match self {
            Self::Numbers => x,
            Self::Flags => f32::from(u8::from(x > 2.0 / 3.0)),
            Self::UpTo(most) => 0.5 * x * most,
            Self::Ids(n) => whole(n.max(1)),
            Self::Length(most) => whole(most + 1),
        }
    }
}

/// How many rows a batch of `n_batch` is, at least one: where they are sequences the batch counts their positions, of at
/// most `ctx` in each.
pub fn rows_at_once(network: &Network, n_batch: usize, ctx: Option<usize>) -> usize {
    let sequences = network.inputs.iter().filter(|port| port.kind == PortKind::Sequence);
    let most = sequences.map(Port::positions).max().unwrap_or(1);
    (n_batch / most.min(ctx.unwrap_or(most)).max(1)).max(1)
}

/// Which numbers the inputs of a network take: those that tables are read by are ids.
pub(super) fn domains(network: &Network, steps: &[Step], weights: &WeightTable) -> Vec<Domain> {
    let made = |port: usize| {
        steps.iter().find_map(|step| match step {
            Step::Input { port: found, out } if *found == port => Some(out.act.x),
            _ => None,
        })
    };
    let ids = |port: usize| {
        let slot = made(port)?;
        let tables = steps.iter().filter_map(|step| match step {
            Step::Sequence { op: SequenceOp::Embed { table }, x, .. } if x.act.x == slot => {
                Some(weights.get(*table).rows)
            }
            _ => None,
        });
        tables.min()
    };
    let most = network.inputs.iter().map(Port::positions).max().unwrap_or(1);
    let domain = |(port, input): (usize, &Port)| match (input.kind, ids(port)) {
        (PortKind::Length, _) => Domain::Length(most),
        (_, Some(ids)) => Domain::Ids(ids),
        _ => Domain::Numbers,
    };
    network.inputs.iter().enumerate().map(domain).collect()
}

/// Rows of a run, and where the positions of each begin.
#[derive(Debug)]
pub(super) struct Spans {
    /// Positions before each row that count, and of all; empty where the network takes no sequence.
    starts: Vec<usize>,
    rows: usize,
    /// Positions of every row, those that do not count among them.
    padded: usize,
    /// Most of them.
    most: usize,
}

impl Spans {
    /// Room for the rows of a plan.
    pub(super) fn new(plan: &NetworkPlan) -> Self {
        let padded = plan.network.inputs.iter().map(Port::positions).max().unwrap_or(1);
        let sequences = plan.network.inputs.iter().any(|port| port.kind == PortKind::Sequence);
        Self { starts: vec![0; if sequences { plan.n_rows + 1 } else { 0 }], rows: 0, padded, most: padded }
    }

    /// No rows.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
    }

    /// Rows of the inputs.
    pub(super) fn count(&self) -> usize {
        self.rows
    }

    /// Checks the inputs and counts their positions.
    pub(super) fn read(&mut self, plan: &NetworkPlan, inputs: &[&[f32]], rows: usize) -> Result<(), Error> {
        let ports = &plan.network.inputs;
        if inputs.len() != ports.len() {
            return Err(NetworkError::InputCount { found: inputs.len(), expected: ports.len() }.into());
        }
        let mut padded = None;
        for (values, port) in inputs.iter().zip(ports) {
            if values.is_empty() && port.optional {
                continue;
            }
            if port.kind == PortKind::Sequence {
                padded = Some(sequence_size(values, port, rows, padded)?);
                continue;
            }
            let (found, width) = (values.len(), port.width());
            if Some(found) != rows.checked_mul(width) {
                return Err(NetworkError::InputSize { name: port.name.clone(), found, rows, width }.into());
            }
        }
        for ((values, port), domain) in inputs.iter().zip(ports).zip(&plan.domains) {
            if let Domain::Ids(ids) = *domain
                && let Some(at) = values.iter().position(|&x| whole(x, ids - 1).is_none())
            {
                let (name, row) = (port.name.clone(), at / (values.len() / rows.max(1)).max(1));
                return Err(NetworkError::Id { name, row, found: values[at].to_string(), ids }.into());
            }
        }
        self.padded = padded.unwrap_or(self.most);
        let lengths = inputs.iter().zip(ports).find(|(_, port)| port.kind == PortKind::Length);
        let lengths = lengths.map(|(values, _)| *values).unwrap_or_default();
        for row in 0..rows.min(self.starts.len().saturating_sub(1)) {
            let found = lengths.get(row).copied().unwrap_or(0.0);
            let Some(length) = whole(found, self.padded) else {
                return Err(NetworkError::Length { row, found: found.to_string(), most: self.padded }.into());
            };
            self.starts[row + 1] = self.starts[row] + if length == 0 { self.padded } else { length };
        }
        self.rows = rows;
        Ok(())
    }

    /// Rows of numbers of a value, over all rows of the inputs.
    pub(super) fn rows(&self, positions: Positions) -> usize {
        self.start(positions, self.rows)
    }

    /// The first of the rows of numbers that belong to a row of the inputs.
    pub(super) fn start(&self, positions: Positions, row: usize) -> usize {
        match positions {
            Positions::One => row,
            Positions::Fixed(n) => row * n,
            Positions::Sequence { extra, .. } => self.starts.get(row).copied().unwrap_or(0) + row * extra,
        }
    }

    /// The row of the inputs that row `at` of a value belongs to, and its position there.
    pub(super) fn place(&self, positions: Positions, at: usize) -> (usize, usize) {
        match positions {
            Positions::One => (at, 0),
            Positions::Fixed(n) => (at / n.max(1), at % n.max(1)),
            Positions::Sequence { extra, .. } => {
                let starts = &self.starts[..=self.rows];
                let mut row = 0;
                // The last row that begins at `at` or before it.
                let (mut low, mut high) = (0, self.rows);
                while low < high {
                    let middle = low.midpoint(high);
                    if starts[middle] + middle * extra <= at {
                        (row, low) = (middle, middle + 1);
                    } else {
                        high = middle;
                    }
                }
                (row, at - starts[row] - row * extra)
            }
        }
    }

    /// Where a row of numbers of an input lies among all that were given, those that do not count included.
    pub(super) fn padded(&self, positions: Positions, at: usize) -> usize {
        match positions {
            Positions::Sequence { .. } => {
                let (row, position) = self.place(positions, at);
                row * self.padded + position
            }
            _ => at,
        }
    }

    /// Positions of a row of a value, those that do not count included.
    pub(super) fn padded_positions(&self, positions: Positions) -> usize {
        match positions {
            Positions::Sequence { extra, .. } => self.padded + extra,
            other => other.most(),
        }
    }
}

/// A whole number from 0 to `most`.
fn whole(x: f32, most: usize) -> Option<usize> {
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "compared with what it came from")]
    let n = x as usize;
    // NaN is no distance from anything.
    (n <= most && (x - n as f32).abs() <= 0.0).then_some(n)
}

/// How many positions each row of a sequence has.
fn sequence_size(values: &[f32], port: &Port, rows: usize, before: Option<usize>) -> Result<usize, Error> {
    let unit = port.unit();
    let row = rows.saturating_mul(unit).max(1);
    let positions = values.len() / row;
    let whole = values.len().is_multiple_of(row) && (1..=port.positions()).contains(&positions);
    if rows == 0 && values.is_empty() {
        return Ok(before.unwrap_or(1));
    }
    if whole && before.is_none_or(|before| before == positions) {
        return Ok(positions);
    }
    Err(NetworkError::SequenceSize {
        name: port.name.clone(),
        found: values.len(),
        rows,
        positions: before.unwrap_or(port.positions()),
        exact: before.is_some(),
        unit,
    }
    .into())
}
