//! A graph as steps over slots: where every value lies, and what is made ready when the network is loaded.

use super::prepare::{MAX_INPUTS, Prepared, prepare};
use super::product::integer_panel;
use crate::Error;
use crate::network::Domain;
use crate::network::NetworkPlan;
use crate::network::plan::{OutputSlot, Step};
use crate::plan::{Act, Part, Placed, SlotId, Slots, kernel_of};
use crate::weights::ArrayId;
use rin_kernels::ops::integer_product::padded;
use rin_kernels::pack::LANES;
use rin_model::graph::{Graph, GraphNode, GraphOp, ValueType};
use rin_model::{ModelFile, Network, Positions};

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the arena.
    Slot(SlotId),
    /// In the file: number of the tensor.
    Tensor(ArrayId),
}

/// A product with packed weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearStep {
    /// The input as the product takes it.
    pub(crate) act: Act,
    /// Whether the input has to be brought there: rows filled up, or a constant.
    pub(crate) staged: bool,
    pub(crate) part: Part,
    pub(crate) rows: usize,
    /// Values of a row of the input.
    pub(crate) width: usize,
}

/// An operation with the places of its values.
#[derive(Clone, Debug)]
pub(crate) struct GraphStep {
    pub(crate) op: Prepared,
    pub(crate) linear: Option<LinearStep>,
    pub(crate) inputs: Vec<Place>,
    pub(crate) input_bytes: Vec<usize>,
    pub(crate) out: SlotId,
    pub(crate) out_bytes: usize,
    pub(crate) scratch: Option<SlotId>,
}

/// An operand of an integer product that is made ready once: a constant as 16-bit rows or panels in a slot of state.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    pub(crate) slot: SlotId,
    pub(crate) dtype: rin_model::DType,
    pub(crate) tensor: ArrayId,
    pub(crate) zeros: ArrayId,
    /// Length of what is summed up.
    pub(crate) k: usize,
    /// Columns of a matrix `(k, n)` that becomes panels; none: rows.
    pub(crate) columns: Option<usize>,
}

/// A graph that is ready to be run.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) types: Vec<ValueType>,
    pub(crate) inputs: Vec<SlotId>,
    pub(crate) steps: Vec<GraphStep>,
    pub(crate) ready: Vec<Ready>,
    /// The value of each output.
    pub(crate) outputs: Vec<(Place, usize)>,
}

/// Plans the graph of a network's file for up to `n_rows` rows.
///
/// # Errors
///
/// When the graph does not fit its file, or a size leaves the address space.
pub(crate) fn plan(file: &ModelFile, network: &Network, graph: &Graph, n_rows: usize) -> Result<NetworkPlan, Error> {
    let shape = |name: &str| -> Option<Vec<usize>> {
        file.tensor(name)?.shape.iter().map(|&n| usize::try_from(n).ok()).collect()
    };
    let constant = |name: &str| {
        let tensor = file.tensor(name).filter(|tensor| !tensor.packed)?;
        Some(ValueType { dtype: tensor.dtype, shape: shape(name)? })
    };
    let types = graph.types(constant, shape)?;
    let mut writer = Writer {
        s: Slots::new(file, n_rows),
        file,
        program: Program { types, inputs: Vec::new(), steps: Vec::new(), ready: Vec::new(), outputs: Vec::new() },
        places: Vec::new(),
    };
    // The rows that come out live as long as the rows that go in are worked on.
    let mut outputs = Vec::with_capacity(graph.outputs.len());
    for (output, &value) in network.outputs.iter().zip(&graph.outputs) {
        let width = writer.program.types[value as usize].count();
        let slot = writer.s.scratch(format!("output {} f32", output.name), width, 4);
        outputs.push(OutputSlot { slot, width, positions: Positions::One });
    }
    for (port, value) in network.inputs.iter().zip(&graph.inputs) {
        let slot = writer.slot(&format!("input {} {}", port.name, value.dtype), value);
        writer.program.inputs.push(slot);
        writer.places.push(Place::Slot(slot));
    }
    for name in &graph.constants {
        let tensor = writer.s.array(name)?;
        writer.places.push(Place::Tensor(tensor));
    }
    for node in &graph.nodes {
        writer.node(node)?;
    }
    for &value in &graph.outputs {
        let place = writer.places[value as usize];
        writer.uses(place);
        writer.program.outputs.push((place, value as usize));
    }
    writer.s.advance();
    let results: Vec<SlotId> = outputs.iter().map(|output| output.slot).collect();
    let Placed { slots, state_bytes, scratch_bytes, weights } = writer.s.place(&results)?;
    let steps = vec![Step::Graph(Box::new(writer.program))];
    Ok(NetworkPlan {
        network: network.clone(),
        n_rows,
        domains: network.inputs.iter().map(|_| Domain::Numbers).collect(),
        steps,
        slots,
        outputs,
        state_bytes,
        scratch_bytes,
        weights,
    })
}

struct Writer<'f> {
    s: Slots<'f>,
    file: &'f ModelFile,
    program: Program,
    places: Vec<Place>,
}

impl Writer<'_> {
    fn slot(&mut self, name: &str, value: &ValueType) -> SlotId {
        let name = format!("{name} {:?}", value.shape);
        self.s.slot(name, Some(value.bytes()), 1, false)
    }

    fn uses(&mut self, place: Place) {
        if let Place::Slot(slot) = place {
            self.s.uses([slot]);
        }
    }

    fn node(&mut self, node: &GraphNode) -> Result<(), Error> {
        let mut inputs: Vec<Place> = node.inputs.iter().map(|&value| self.places[value as usize]).collect();
        let types: Vec<ValueType> =
            node.inputs.iter().map(|&value| self.program.types[value as usize].clone()).collect();
        let made = self.program.types[self.places.len()].clone();
        let mut op = prepare(&node.op, &types.iter().collect::<Vec<_>>(), &made);
        if let (Prepared::Alias, Some(&place)) = (&op, inputs.first()) {
            self.places.push(place);
            return Ok(());
        }
        if !matches!(op, Prepared::Copy { .. }) && inputs.len() > MAX_INPUTS {
            return Err(Error::NoPlan(node.op.name()));
        }
        let mut input_bytes: Vec<usize> = types.iter().map(ValueType::bytes).collect();
        if let Some((slot, bytes)) = self.ready(&mut op, &inputs, &types) {
            (inputs[1], input_bytes[1]) = (Place::Slot(slot), bytes);
        }
        for &place in &inputs {
            self.uses(place);
        }
        let out = self.slot(node.op.name(), &made);
        let linear = match &node.op {
            GraphOp::Linear { weight, bias, function } => {
                Some(self.linear(weight, bias.as_deref(), kernel_of(*function), inputs[0], &types[0], out)?)
            }
            _ => None,
        };
        let bytes = op.scratch_bytes().ok_or(Error::PlanOverflow { what: "scratch" })?;
        let scratch = (bytes > 0).then(|| self.s.slot(format!("{} scratch", node.op.name()), Some(bytes), 1, false));
        let out_bytes = made.bytes();
        self.program.steps.push(GraphStep { op, linear, inputs, input_bytes, out, out_bytes, scratch });
        self.places.push(Place::Slot(out));
        self.s.advance();
        Ok(())
    }

    /// The constant side of an integer product, made ready in a slot of state: its slot and bytes.
    fn ready(&mut self, op: &mut Prepared, inputs: &[Place], types: &[ValueType]) -> Option<(SlotId, usize)> {
        let (Some(&Place::Tensor(tensor)), Some(&Place::Tensor(zeros))) = (inputs.get(1), inputs.get(3)) else {
            return None;
        };
        let (k, columns, len) = match op {
            Prepared::MatMulInteger { size, ready, .. } if types[1].shape.len() == 2 && size.k > 0 => {
                *ready = true;
                (size.k, Some(size.cols), size.cols.div_ceil(LANES).checked_mul(integer_panel(size.k))?)
            }
            Prepared::ConvInteger { conv, ready, .. } if conv.size().k > 0 => {
                let size = conv.size();
                *ready = true;
                (size.k, None, conv.group.checked_mul(size.rows)?.checked_mul(padded(size.k))?)
            }
            _ => return None,
        };
        let what = if columns.is_some() { "panels" } else { "rows" };
        let slot = self.s.slot(
            format!("{what} of `{}` i16", self.file.tensors()[self.s.weights().tensor_of(tensor)].name),
            Some(len),
            2,
            true,
        );
        self.program.ready.push(Ready { slot, dtype: types[1].dtype, tensor, zeros, k, columns });
        Some((slot, len.saturating_mul(2)))
    }

    fn linear(
        &mut self,
        weight: &str,
        bias: Option<&str>,
        function: rin_kernels::ops::activation::Function,
        input: Place,
        x: &ValueType,
        out: SlotId,
    ) -> Result<LinearStep, Error> {
        let matrix = self.s.matrix(weight)?;
        let bias = bias.map(|bias| self.s.vector(bias)).transpose()?;
        let width = x.shape.last().copied().unwrap_or(1);
        let rows = x.count().checked_div(width).unwrap_or(0);
        let (cols, outputs) = (self.s.weights().get(matrix).cols, self.s.weights().get(matrix).rows);
        let there = match input {
            Place::Slot(slot) if cols == width => Some(slot),
            _ => None,
        };
        let staged = there.is_none();
        // The slots of an activation are as many rows as there are in the plan: these have their own number.
        let n_rows = std::mem::replace(&mut self.s.rows, rows);
        let act = self.s.act("linear input", there, cols, &[matrix]);
        self.s.rows = n_rows;
        self.s.uses_act(&act);
        let part = Part { matrix, bias, function, out, first: 0, stride: outputs };
        Ok(LinearStep { act, staged, part, rows, width })
    }
}
