//! Spiking networks among the networks on rows: one step runs all time steps of all rows.
//!
//! Weights and constants lie in the arena as [`crate::snn`] lays them out; what the file holds is read twice, for the plan
//! and for the layout, and let go.

use super::NetworkError;
use super::inputs::Domain;
use super::plan::{NetworkPlan, OutputSlot, Step};
use crate::Error;
use crate::arena::{Arena, cast_mut};
use crate::plan::{Placed, SlotId, Slots};
use crate::run::Machine;
use crate::snn::{Coding, Counts, DENSE_PERCENT, Layout, Network, Run, check_input, lay_out};
use crate::weights::Weights;
use rin_model::{ModelFile, Positions};

/// Rows whose state there is room for at once, and so the most workers of a run.
const MAX_UNITS: usize = 64;

/// A whole spiking network.
#[derive(Clone, Debug)]
pub struct SpikingStep {
    /// The network, without its weights: those are in their slot.
    network: Network,
    layout: Layout,
    /// Weights and constants, laid out for the kernels.
    weights: SlotId,
    /// `(units, state of a row)`.
    state: SlotId,
    units: usize,
    /// f32 `(rows, outputs)`.
    out: SlotId,
}

impl SpikingStep {
    /// Rows whose state there is room for at once.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// The spiking network, whose weights are elsewhere.
    pub(super) fn network(&self) -> &Network {
        &self.network
    }
}

/// Plans a spiking network for up to `n_rows` rows at once.
pub(super) fn plan_spiking(
    file: &ModelFile,
    described: &rin_model::Network,
    n_rows: usize,
) -> Result<NetworkPlan, Error> {
    let mut network = Network::of_file(file)?;
    let layout = Layout::new(&network)?;
    for projection in network.layers.iter_mut().flat_map(|layer| &mut layer.projections) {
        projection.weights = Vec::new();
    }
    let domain = match network.coding {
        Coding::Spikes => Domain::Flags,
        Coding::Direct { scale } | Coding::Rate { scale, .. } | Coding::Latency { scale } => Domain::UpTo(1.0 / scale),
    };
    let mut s = Slots::new(file, n_rows);
    let units = n_rows.clamp(1, MAX_UNITS);
    let weights = s.slot("weights, laid out".to_owned(), Some(1), layout.weights_bytes, true);
    let state = s.slot("neurons".to_owned(), Some(units), layout.state_bytes, false);
    let out = s.scratch("output f32", network.outputs(), 4);
    s.uses([weights, state, out]);
    s.advance();
    let outputs = vec![OutputSlot { slot: out, width: network.outputs(), positions: Positions::One }];
    let step = SpikingStep { network, layout, weights, state, units, out };
    let Placed { slots, state_bytes, scratch_bytes, weights } = s.place(&[out])?;
    Ok(NetworkPlan {
        network: described.clone(),
        n_rows,
        domains: vec![domain],
        steps: vec![Step::Spiking(Box::new(step))],
        slots,
        outputs,
        state_bytes,
        scratch_bytes,
        weights,
    })
}

/// Lays the weights of a spiking network out.
pub(super) fn make_ready(plan: &NetworkPlan, weights: &Weights, arena: &mut Arena) -> Result<(), Error> {
    let Some(step) = spiking_step(plan) else { return Ok(()) };
    let slot = &plan.slots[step.weights.0];
    let range = slot.offset..slot.offset + slot.bytes;
    let [bytes] = arena.slices_mut([range])?;
    lay_out(&Network::of_file(weights.file())?, &step.layout, bytes)
}

/// The step of a spiking network.
pub(super) fn spiking_step(plan: &NetworkPlan) -> Option<&SpikingStep> {
    plan.steps.iter().find_map(|step| match step {
        Step::Spiking(step) => Some(&**step),
        _ => None,
    })
}

impl Machine<'_> {
    /// All time steps of the rows `first` and following; `counts` hears what they took.
    pub(super) fn spiking(
        &mut self,
        step: &SpikingStep,
        inputs: &[&[f32]],
        first: usize,
        rows: usize,
        counts: &mut [Counts],
    ) -> Result<(), Error> {
        let [input] = *inputs else {
            return Err(NetworkError::InputCount { found: inputs.len(), expected: 1 }.into());
        };
        let SpikingStep { network, layout, units, .. } = step;
        let outputs = rows * network.outputs();
        let (row_len, _) = check_input(network, input, network.steps, outputs)?;
        let ranges = [
            self.range(step.weights, layout.weights_bytes),
            self.range(step.state, units * layout.state_bytes),
            self.range(step.out, outputs * 4),
        ];
        let [weights, state, out] = self.arena.slices_mut(ranges)?;
        let run = Run {
            network,
            layout,
            weights,
            kernels: &self.kernels.spiking,
            dense_percent: DENSE_PERCENT,
            steps: network.steps,
            row_len,
            first,
        };
        run.rows(self.pool, input, rows, cast_mut(out)?, state, counts);
        Ok(())
    }
}
