//! `rin energy --by-op`: energy of kinds of operations, from windows of different composition.

use rin_bench::work::{EngineWork, KINDS, Piece, UNITS};
use rin_energy::attribution::{Composition, Share, attribute};
use rin_energy::protocol::Report;
use serde::Serialize;

/// What kinds of operations take, or why that cannot be told.
#[derive(Debug, Serialize)]
pub(crate) struct ByOp {
    pub(crate) shares: Vec<KindShare>,
    /// Windows that it rests on.
    pub(crate) windows: usize,
    pub(crate) reason: Option<String>,
}

/// A kind of operations.
#[derive(Debug, Serialize)]
pub(crate) struct KindShare {
    #[serde(flatten)]
    pub(crate) share: Share,
    pub(crate) unit: &'static str,
    /// Of the energy of all kinds in all windows.
    pub(crate) share_of_all: f64,
}

/// Shares the energy beyond that of the idle machine out among the kinds.
pub(crate) fn by_op(report: &Report, work: &EngineWork, pieces: &[Piece]) -> ByOp {
    let run = |window: &rin_energy::protocol::Window| {
        let piece = *pieces.get(window.variant?)?;
        let times = window.units as f64 / piece.tokens() as f64;
        let amounts = work.amounts(piece).map(|amount| amount * times).to_vec();
        Some(Composition { amounts, joules: report.net_joules(window)? })
    };
    let runs: Vec<Composition> = report.windows.iter().filter_map(run).collect();
    let windows = runs.len();
    match attribute(&KINDS, &runs) {
        Ok(shares) => {
            let all: f64 = shares.iter().map(|share| share.joules).sum();
            let share = |(share, unit): (Share, _)| KindShare { share_of_all: share.joules / all, share, unit };
            ByOp { shares: shares.into_iter().zip(UNITS).map(share).collect(), windows, reason: None }
        }
        Err(error) => ByOp { shares: Vec::new(), windows, reason: Some(error.to_string()) },
    }
}
