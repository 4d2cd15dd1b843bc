//! Where everything of a simulator lies in its mapping: weights and constants once, state once per worker.

use super::SnnError;
use super::network::{Coding, Network, Source};
use crate::arena::ALIGNMENT;
use rin_kernels::ops::lif::{LIF_LANES, dense_bytes};
use serde::Serialize;
use std::ops::Range;

/// A named piece of the mapping.
#[derive(Clone, Debug, Serialize)]
pub struct Piece {
    /// What it holds, with its shape.
    pub name: String,
    /// Start in the mapping, or in a worker's state, a multiple of 64.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Where a projection's weights lie.
#[derive(Clone, Debug)]
pub(super) struct ProjectionPlace {
    pub(super) from: Source,
    /// Whether the spikes of the step before are meant.
    pub(super) delayed: bool,
    /// Input-major rows; empty for a direct input.
    pub(super) rows: Range<usize>,
    /// Panels for the product with all inputs.
    pub(super) panels: Range<usize>,
}

/// Where a layer's constants lie in the weights, and its state in the state of a worker.
#[derive(Clone, Debug)]
pub(super) struct LayerPlace {
    /// Neurons, padded.
    pub(super) n: usize,
    pub(super) projections: Vec<ProjectionPlace>,
    pub(super) keep_v: Range<usize>,
    pub(super) keep_u: Range<usize>,
    pub(super) threshold: Range<usize>,
    pub(super) current: Range<usize>,
    pub(super) bias: Range<usize>,
    pub(super) v: Range<usize>,
    pub(super) u: Range<usize>,
    pub(super) acc: Range<usize>,
    /// `current` and what a direct input adds to it.
    pub(super) drive: Range<usize>,
    pub(super) fired: Range<usize>,
    pub(super) list: Range<usize>,
}

/// The whole mapping.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(super) layers: Vec<LayerPlace>,
    /// Inputs of a step as flags or as 7-bit magnitudes, padded.
    pub(super) input: Range<usize>,
    pub(super) input_list: Range<usize>,
    /// Readout of the output layer: i64 per neuron.
    pub(super) readout: Range<usize>,
    /// Bytes of the weights and constants.
    pub(crate) weights_bytes: usize,
    /// Bytes of the state of one worker.
    pub(crate) state_bytes: usize,
    pub(super) pieces: Vec<Piece>,
}

struct Packer {
    end: Option<usize>,
    pieces: Vec<Piece>,
}

impl Packer {
    /// The next piece; an overflow shows at the end.
    fn piece(&mut self, name: String, count: Option<usize>, size: usize) -> Range<usize> {
        let offset = self.end.unwrap_or(0);
        let bytes = count.and_then(|count| count.checked_mul(size));
        let end = bytes.and_then(|bytes| offset.checked_add(bytes));
        self.end = end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT)).filter(|_| self.end.is_some());
        let bytes = bytes.unwrap_or(0);
        if bytes > 0 {
            self.pieces.push(Piece { name, offset, bytes });
        }
        offset..offset.saturating_add(bytes)
    }

    fn finish(&mut self) -> Result<usize, SnnError> {
        let what = "more bytes than memory can have".to_owned();
        self.end.ok_or(SnnError { place: "size".to_owned(), what })
    }
}

/// A width padded to whole lanes.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(LIF_LANES)
}

impl Layout {
    /// Of a network that was checked.
    pub(crate) fn new(network: &Network) -> Result<Self, SnnError> {
        let mut weights = Packer { end: Some(0), pieces: Vec::new() };
        let mut state = Packer { end: Some(0), pieces: Vec::new() };
        let direct = matches!(network.coding, Coding::Direct { .. });
        let mut layers = Vec::with_capacity(network.layers.len());
        for (at, layer) in network.layers.iter().enumerate() {
            let n = padded(layer.outputs());
            let mut projections = Vec::with_capacity(layer.projections.len());
            for projection in &layer.projections {
                let width = network.width(projection.from).unwrap_or(0);
                let from = match projection.from {
                    Source::Input => "input".to_owned(),
                    Source::Layer(from) => format!("layer {from}"),
                };
                let name = |kind: &str| format!("layer {at} {kind} from {from} ({width}, {n}) i8");
                // The width of a panel is that of the padded source, whose flags it is multiplied with.
                let panels = dense_bytes(padded(width), n);
                let only_dense = direct && projection.from == Source::Input;
                let rows = if only_dense { Some(0) } else { width.checked_mul(n) };
                projections.push(ProjectionPlace {
                    from: projection.from,
                    delayed: matches!(projection.from, Source::Layer(from) if from >= at),
                    rows: weights.piece(name("rows"), rows, 1),
                    panels: weights.piece(name("panels"), panels, 1),
                });
            }
            let synapses = if layer.keep_u.is_empty() { 0 } else { n };
            let mut constant = |name: &str, count, size| weights.piece(format!("layer {at} {name}"), Some(count), size);
            let mut own = |name: &str, count, size| state.piece(format!("layer {at} {name}"), Some(count), size);
            layers.push(LayerPlace {
                n,
                projections,
                keep_v: constant("keep v u16", n, 2),
                keep_u: constant("keep u u16", synapses, 2),
                threshold: constant("threshold i32", n, 4),
                current: constant("current i32", n, 4),
                bias: constant("bias i32", n, 4),
                v: own("v i32", n, 4),
                u: own("u i32", synapses, 4),
                acc: own("sums i32", n, 4),
                drive: own("drive i32", n, 4),
                fired: own("fired u8", n, 1),
                list: own("spikes u32", n, 4),
            });
        }
        let width = padded(network.inputs);
        let input = state.piece("input u8".to_owned(), Some(width), 1);
        let input_list = state.piece("input spikes u32".to_owned(), Some(width), 4);
        let readout = state.piece("readout i64".to_owned(), Some(padded(network.outputs())), 8);
        let (weights_bytes, state_bytes) = (weights.finish()?, state.finish()?);
        let mut pieces = weights.pieces;
        pieces.extend(state.pieces);
        Ok(Self { layers, input, input_list, readout, weights_bytes, state_bytes, pieces })
    }
}
