//! A network's description as steps over slots.

use super::NetworkError;
use super::inputs::{Domain, domains};
use super::integer::{IntegerStep, plan_integer};
use super::sequence::SequenceOp;
use super::spiking::{SpikingStep, plan_spiking};
use super::whole::{WholeStep, plan_whole};
use crate::Error;
use crate::graph::Program;
use crate::plan::{Act, Part, Placed, Slot, SlotId, Slots, kernel_of};
use crate::weights::{MatrixId, VectorId, WeightTable};
use rin_kernels::format::Activation;
use rin_kernels::ops::activation::Function;
use rin_model::{Body, Extent, Extents, ModelFile, Network, Node, Op, PortKind, Positions};
use std::collections::HashMap;

/// Most rows of one run.
const MAX_ROWS: usize = 1 << 20;

/// Rows of a named value.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// Its slots. A row holds `act.cols` values: those of the value, and zeros up to what the products after it ask for.
    pub act: Act,
    /// Values in a row, or at a position.
    pub width: usize,
    /// Rows of numbers per row of the inputs.
    pub positions: Positions,
}

/// An operation on rows, one by one.
#[derive(Clone, Copy, Debug)]
pub enum RowOp {
    /// Layer norm.
    LayerNorm {
        /// Factors.
        weight: VectorId,
        /// Summands.
        bias: VectorId,
        /// ε.
        eps: f32,
    },
    /// By the root of the mean square.
    RmsNorm {
        /// Factors.
        weight: VectorId,
        /// ε.
        eps: f32,
    },
    /// `function(x · weight + bias)`, element by element.
    Scale {
        /// Factors.
        weight: VectorId,
        /// Summands.
        bias: VectorId,
        /// Applied to each element.
        function: Function,
    },
    /// `function(x)`.
    Activate(Function),
    /// `function(x + y)`.
    Add(Function),
    /// `x · y`.
    Multiply,
    /// Softmax.
    Softmax,
}

/// One operation over slots.
#[derive(Clone, Debug)]
pub enum Step {
    /// Takes the rows of an input.
    Input {
        /// Which input.
        port: usize,
        /// Output.
        out: Value,
    },
    /// A product with its bias and activation function, then quantised as the next products ask.
    Dense {
        /// Input.
        x: Act,
        /// The matrix; its output is the f32 slot of `out`.
        part: [Part; 1],
        /// Output.
        out: Value,
    },
    /// An operation on rows, then quantised.
    Rows {
        /// The operation.
        op: RowOp,
        /// First operand.
        x: Value,
        /// Second operand, where there is one.
        y: Option<Value>,
        /// Output.
        out: Value,
    },
    /// An operation that knows positions, then quantised.
    Sequence {
        /// The operation.
        op: SequenceOp,
        /// Operand.
        x: Value,
        /// Output.
        out: Value,
    },
    /// Attention of every position to its sequence, then quantised.
    Attention {
        /// Heads.
        heads: usize,
        /// Whether positions after its own are left out.
        causal: bool,
        /// Queries, keys and values.
        x: Value,
        /// Pages of keys and values, `(units, pages of one head of one sequence)`.
        pages: SlotId,
        /// Heads of sequences that fit in at once.
        units: usize,
        /// Output.
        out: Value,
    },
    /// A step of a network in integers.
    Integer(IntegerStep),
    /// Sequences one after the other become rows with zeros where positions do not count.
    Unpack {
        /// Operand.
        x: Value,
        /// Output: f32 `(rows, positions, width)`.
        out: SlotId,
    },
    /// A step of a list of nodes in integers.
    Whole(WholeStep),
    /// A whole spiking network.
    Spiking(Box<SpikingStep>),
    /// A whole graph of arrays, row by row.
    Graph(Box<Program>),
}

/// Where an output lies after a run.
#[derive(Clone, Copy, Debug)]
pub struct OutputSlot {
    /// f32 `(rows, positions, width)`.
    pub slot: SlotId,
    /// Values at a position.
    pub width: usize,
    /// Rows of numbers per row of the inputs.
    pub positions: Positions,
}

/// A network with all its bytes, known before anything is loaded.
#[derive(Debug)]
pub struct NetworkPlan {
    /// The network.
    pub network: Network,
    /// Most rows of one run.
    pub n_rows: usize,
    /// Which numbers each input takes.
    pub domains: Vec<Domain>,
    /// Operations, in order.
    pub steps: Vec<Step>,
    /// Slots of the arena.
    pub slots: Vec<Slot>,
    /// Where the outputs lie.
    pub outputs: Vec<OutputSlot>,
    /// Bytes of state: from the start of the arena.
    pub state_bytes: usize,
    /// Bytes of scratch: the rest of the arena.
    pub scratch_bytes: usize,
    /// Weights that the steps name.
    pub weights: WeightTable,
}

impl NetworkPlan {
    /// Plans the network of `file` for up to `n_rows` rows at once, from its header alone; of a spiking network the arrays are
    /// read too.
    ///
    /// # Errors
    ///
    /// When the file holds no network of this kind, an option is out of range, or a size leaves the address space.
    pub fn new(file: &ModelFile, n_rows: usize) -> Result<Self, Error> {
        Self::limited(file, n_rows, None)
    }

    /// As [`new`](Self::new), for sequences of at most `positions`.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn limited(file: &ModelFile, n_rows: usize, positions: Option<usize>) -> Result<Self, Error> {
        let network = file.network().ok_or(NetworkError::TakesText)?;
        let mut network = network.clone();
        if let Some(positions) = positions {
            for port in network.inputs.iter_mut().filter(|port| port.kind == PortKind::Sequence) {
                port.shape[0] = port.shape[0].min(positions.max(1));
            }
        }
        let network = &network;
        if !(1..=MAX_ROWS).contains(&n_rows) {
            let (expected, found) = (format!("1 to {MAX_ROWS}"), n_rows.to_string());
            return Err(Error::BadOption { field: "rows", expected, found });
        }
        let nodes = match &network.body {
            Body::Nodes(nodes) => nodes,
            Body::Graph(graph) => return crate::graph::plan(file, network, graph, n_rows),
            Body::Integer(integer) => return plan_integer(file, network, integer, n_rows),
            Body::Whole(whole) => return plan_whole(file, network, whole, n_rows),
            Body::Spiking(_) => return plan_spiking(file, network, n_rows),
            _ => return Err(Error::NoPlan(network.mode.name())),
        };
        Writer::new(file, network, nodes, n_rows)?.write(nodes)
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.state_bytes + self.scratch_bytes
    }

    /// Bytes of everything: weights, state and scratch.
    pub fn total_bytes(&self) -> usize {
        self.weights.bytes() + self.arena_bytes()
    }
}

/// Writes the steps of a list of nodes down.
pub(super) struct Writer<'f> {
    pub(super) s: Slots<'f>,
    network: &'f Network,
    pub(super) n_rows: usize,
    extents: Extents<'f>,
    /// The matrices that each value is multiplied with.
    readers: HashMap<&'f str, Vec<MatrixId>>,
    values: HashMap<&'f str, Value>,
    steps: Vec<Step>,
}

impl<'f> Writer<'f> {
    fn new(file: &'f ModelFile, network: &'f Network, nodes: &'f [Node], n_rows: usize) -> Result<Self, Error> {
        let extents = network.extents(|name| file.tensor(name).map(|tensor| tensor.shape.as_slice()))?;
        let mut s = Slots::new(file, n_rows);
        let mut readers: HashMap<&str, Vec<MatrixId>> = HashMap::new();
        for node in nodes {
            if let Op::Dense { weight, .. } = &node.op {
                readers.entry(&node.inputs[0]).or_default().push(s.matrix(weight)?);
            }
        }
        Ok(Self { s, network, n_rows, extents, readers, values: HashMap::new(), steps: Vec::new() })
    }

    fn write(mut self, nodes: &'f [Node]) -> Result<NetworkPlan, Error> {
        for (port, input) in self.network.inputs.iter().enumerate() {
            let out = self.value(&input.name)?;
            self.push(Step::Input { port, out });
        }
        for node in nodes {
            self.node(node)?;
        }
        let mut outputs = Vec::with_capacity(self.network.outputs.len());
        for output in &self.network.outputs {
            let value = self.values[output.name.as_str()];
            let slot = match value.positions {
                Positions::Sequence { .. } => self.unpacked(&output.name, value),
                _ if value.act.cols == value.width => value.act.x,
                _ => self.without_gaps(&output.name, value),
            };
            outputs.push(OutputSlot { slot, width: value.width, positions: value.positions });
        }
        let results: Vec<SlotId> = outputs.iter().map(|output| output.slot).collect();
        let Placed { slots, state_bytes, scratch_bytes, weights } = self.s.place(&results)?;
        Ok(NetworkPlan {
            network: self.network.clone(),
            n_rows: self.n_rows,
            domains: domains(self.network, &self.steps, &weights),
            steps: self.steps,
            slots,
            outputs,
            state_bytes,
            scratch_bytes,
            weights,
        })
    }

    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
        self.s.advance();
    }

    /// The slots of a value that the step to come makes.
    pub(super) fn value(&mut self, name: &'f str) -> Result<Value, Error> {
        let Extent { width, positions } = self.extents[name];
        let readers = self.readers.get(name).map_or(&[][..], Vec::as_slice);
        let weights = self.s.weights();
        let cols = readers.first().map_or(width, |&first| weights.get(first).cols);
        for &reader in readers {
            let matrix = weights.get(reader);
            // Zeros fill a row up to whole blocks, which rows of floats do not need.
            let fits = matrix.cols == cols && matrix.cols - width < Activation::Block256.block_len();
            if !fits {
                return Err(Error::BadShape {
                    tensor: matrix.name.clone(),
                    rows: matrix.rows,
                    cols: matrix.cols,
                    format: matrix.format.name().to_owned(),
                    reason: format!("the rows of its input `{name}` hold {width} values, filled up to {cols}"),
                });
            }
        }
        self.s.rows = self.n_rows.checked_mul(positions.most()).ok_or(Error::PlanOverflow { what: "slot" })?;
        let act = self.s.act(name, None, cols, readers);
        self.s.uses_act(&act);
        let value = Value { act, width, positions };
        self.values.insert(name, value);
        Ok(value)
    }

    /// An earlier value, read by the step to come.
    pub(super) fn read(&mut self, name: &str) -> Value {
        let value = self.values[name];
        self.s.uses_act(&value.act);
        value
    }

    fn node(&mut self, node: &'f Node) -> Result<(), Error> {
        if let Op::Dense { weight, bias, function } = &node.op {
            let matrix = self.s.matrix(weight)?;
            let bias = bias.as_ref().map(|bias| self.s.vector(bias)).transpose()?;
            let x = self.read(&node.inputs[0]).act;
            let out = self.value(&node.output)?;
            let part =
                Part { matrix, bias, function: kernel_of(*function), out: out.act.x, first: 0, stride: out.act.cols };
            self.push(Step::Dense { x, part: [part], out });
            return Ok(());
        }
        let op = match &node.op {
            Op::Embed { .. }
            | Op::AddPositions { .. }
            | Op::Prepend { .. }
            | Op::Patches { .. }
            | Op::Rotate { .. }
            | Op::Attention { .. }
            | Op::Pool { .. } => return self.sequence_node(node),
            Op::LayerNorm { weight, bias, eps } => {
                RowOp::LayerNorm { weight: self.s.vector(weight)?, bias: self.s.vector(bias)?, eps: *eps }
            }
            Op::RmsNorm { weight, eps } => RowOp::RmsNorm { weight: self.s.vector(weight)?, eps: *eps },
            Op::Scale { weight, bias, function } => RowOp::Scale {
                weight: self.s.vector(weight)?,
                bias: self.s.vector(bias)?,
                function: kernel_of(*function),
            },
            Op::Activation { function } => RowOp::Activate(kernel_of(*function)),
            Op::Add { function } => RowOp::Add(kernel_of(*function)),
            Op::Multiply => RowOp::Multiply,
            Op::Softmax => RowOp::Softmax,
            other => return Err(Error::NoPlan(other.name())),
        };
        let x = self.read(&node.inputs[0]);
        let y = node.inputs.get(1).map(|name| self.read(name));
        let out = self.value(&node.output)?;
        self.push(Step::Rows { op, x, y, out });
        Ok(())
    }

    /// A copy of a value whose rows follow each other without zeros between them.
    fn without_gaps(&mut self, name: &str, x: Value) -> SlotId {
        self.s.uses_act(&x.act);
        self.s.rows = self.n_rows.saturating_mul(x.positions.most());
        let act = self.s.act(&format!("output {name}"), None, x.width, &[]);
        self.s.uses_act(&act);
        let out = Value { act, ..x };
        self.push(Step::Rows { op: RowOp::Activate(Function::Identity), x, y: None, out });
        act.x
    }
}
