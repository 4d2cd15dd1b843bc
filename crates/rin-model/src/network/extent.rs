//! The sizes of a network's values, and whether they fit each other and the tensors.

use std::collections::HashMap;

use super::{Body, Network, Node, Op, PortKind};
use crate::config::inconsistent;
use crate::error::{Error, fault};
use crate::mode::Mode;
use crate::tensor::TensorTable;

/// Most inputs, and most outputs.
const MAX_PORTS: usize = 64;
/// Most nodes.
const MAX_NODES: usize = 1 << 14;
/// Most values of a row.
const MAX_WIDTH: usize = 1 << 24;
/// Longest name, in bytes.
const MAX_NAME: usize = 256;
/// Most values of a head.
const MAX_HEAD: usize = 4096;

/// How many rows of numbers a value has for each row of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// One.
    One,
    /// As many as this, always: a picture's patches.
    Fixed(usize),
    /// As many as the sequences that go in have in this row, and then some.
    Sequence {
        /// Most that go in.
        most: usize,
        /// How many more there are.
        extra: usize,
    },
}

impl Positions {
    /// Most rows of numbers for a row of the inputs.
    pub fn most(self) -> usize {
        match self {
            Self::One => 1,
            Self::Fixed(n) => n,
            Self::Sequence { most, extra } => most.saturating_add(extra),
        }
    }

    /// One position more.
    fn and_one(self) -> Option<Self> {
        match self {
            Self::One => None,
            Self::Fixed(n) => Some(Self::Fixed(n.checked_add(1)?)),
            Self::Sequence { most, extra } => Some(Self::Sequence { most, extra: extra.checked_add(1)? }),
        }
    }
}

/// The sizes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Values in a row, or at a position.
    pub width: usize,
    /// Rows of numbers per row of the inputs.
    pub positions: Positions,
}

impl Extent {
    /// Most values of a row, all its positions together.
    pub const MOST: usize = MAX_WIDTH;
}

/// The sizes of all values by name, as [`Network::extents`] finds them.
pub type Extents<'a> = HashMap<&'a str, Extent>;

impl Network {
    /// The sizes of every value of a body of nodes; `shape` gives the shapes of the tensors.
    ///
    /// # Errors
    /// `InconsistentConfig` names a port, a node or a value that does not fit; `MissingTensor` and `BadShape` a tensor.
    pub fn extents<'a>(&'a self, shape: impl Fn(&str) -> Option<&'a [u64]>) -> Result<Extents<'a>, Error> {
        let nodes = match &self.body {
            Body::Nodes(nodes) => nodes,
            Body::Whole(whole) => &whole.nodes,
            _ => return Err(inconsistent("body", "a list of nodes", "another")),
        };
        let shape = |name: &str| match &self.body {
            Body::Whole(whole) => whole.shape(name, &shape),
            _ => shape(name),
        };
        let mut extents = Extents::new();
        self.inputs(&mut extents)?;
        for node in nodes {
            check_name("nodes", &node.output)?;
            let extent = node_extent(node, &extents, &shape)?;
            if !(1..=MAX_WIDTH).contains(&extent.width.saturating_mul(extent.positions.most())) {
                let expected = format!("1 to {MAX_WIDTH} values in a row");
                return Err(inconsistent(&node.output, expected, format!("{extent:?}")));
            }
            if extents.insert(&node.output, extent).is_some() {
                return Err(twice(&node.output));
            }
        }
        for output in &self.outputs {
            let width = known(&extents, &output.name)?.width;
            if !output.labels.is_empty() && output.labels.len() != width {
                let found = format!("{} names for `{}`", output.labels.len(), output.name);
                return Err(inconsistent("outputs.labels", format!("{width}, one name per class, or none"), found));
            }
        }
        Ok(extents)
    }

    fn inputs<'a>(&'a self, extents: &mut Extents<'a>) -> Result<(), Error> {
        let sequences: Vec<usize> =
            self.inputs.iter().filter(|port| port.kind == PortKind::Sequence).map(super::Port::positions).collect();
        let most = sequences.first().copied().unwrap_or(0);
        if sequences.iter().any(|&n| n != most) {
            let found = format!("{sequences:?}");
            return Err(inconsistent("inputs", "sequences of one number of positions", found));
        }
        let lengths = self.inputs.iter().filter(|port| port.kind == PortKind::Length);
        if lengths.clone().count() > usize::from(most > 0) {
            let expected = "at most one length, and a sequence that it counts";
            return Err(inconsistent("inputs", expected, format!("{} lengths", lengths.count())));
        }
        for port in &self.inputs {
            check_name("inputs", &port.name)?;
            let width = port.width();
            if !(1..=MAX_WIDTH).contains(&width) {
                return Err(inconsistent("inputs", format!("rows of 1 to {MAX_WIDTH} values"), width));
            }
            if port.kind == PortKind::Length && width != 1 {
                return Err(inconsistent(&port.name, "a length of one number", width));
            }
            let positions = match port.kind {
                PortKind::Sequence => Positions::Sequence { most, extra: 0 },
                PortKind::Row | PortKind::Length => Positions::One,
            };
            if extents.insert(&port.name, Extent { width: port.unit(), positions }).is_some() {
                return Err(twice(&port.name));
            }
        }
        Ok(())
    }

    /// Holds the description against itself and the tensors of its file.
    ///
    /// # Errors
    /// As for [`extents`](Self::extents).
    pub(crate) fn check(&self, tensors: &TensorTable) -> Result<(), Error> {
        for (field, n) in [("inputs", self.inputs.len()), ("outputs", self.outputs.len())] {
            if !(1..=MAX_PORTS).contains(&n) {
                return Err(inconsistent(field, format!("1 to {MAX_PORTS}"), n));
            }
        }
        match (&self.body, self.mode) {
            (Body::Nodes(nodes), Mode::Mlp | Mode::Attn) => {
                if !(1..=MAX_NODES).contains(&nodes.len()) {
                    return Err(inconsistent("nodes", format!("1 to {MAX_NODES}"), nodes.len()));
                }
                self.extents(|name| tensors.get(name).map(|tensor| tensor.shape.as_slice())).map(|_| ())
            }
            (Body::Spiking(spiking), Mode::Snn) => spiking.check(&self.inputs, &self.outputs, tensors),
            (Body::Integer(integer), Mode::Rin) => integer.check(&self.inputs, &self.outputs, tensors),
            (Body::Whole(whole), Mode::Rin) => {
                if !(1..=MAX_NODES).contains(&whole.nodes.len()) {
                    return Err(inconsistent("nodes", format!("1 to {MAX_NODES}"), whole.nodes.len()));
                }
                let extents = self.extents(|name| tensors.get(name).map(|tensor| tensor.shape.as_slice()))?;
                whole.check(self, &extents, tensors)
            }
            (Body::Graph(graph), Mode::Mlp | Mode::Attn) => graph.check(&self.inputs, &self.outputs, tensors),
            (Body::Graph(_), mode) => Err(inconsistent("mode", "one whose networks are graphs", mode)),
            (Body::Integer(_) | Body::Whole(_), mode) => {
                Err(inconsistent("mode", "rin, for a network in integers", mode))
            }
            (Body::Spiking(_), mode) => Err(inconsistent("mode", "snn, for a network of spiking neurons", mode)),
            (Body::Nodes(_), mode) => Err(inconsistent("mode", "one whose networks are lists of nodes", mode)),
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Error> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(inconsistent(field, format!("names of 1 to {MAX_NAME} bytes"), name.len()))
}

fn twice(name: &str) -> Error {
    Error::Duplicate(fault("config", name, "each value made once", "the name twice"))
}

fn known(extents: &Extents<'_>, name: &str) -> Result<Extent, Error> {
    extents.get(name).copied().ok_or_else(|| inconsistent(name, "an input or the output of an earlier node", "neither"))
}

fn node_extent<'a>(
    node: &Node,
    extents: &Extents<'_>,
    shape: &impl Fn(&str) -> Option<&'a [u64]>,
) -> Result<Extent, Error> {
    let wrong = |expected: String, found: String| inconsistent(&node.output, expected, found);
    if node.inputs.len() != node.op.n_inputs() {
        let expected = format!("{} inputs of {}", node.op.n_inputs(), node.op.name());
        return Err(wrong(expected, node.inputs.len().to_string()));
    }
    let mut inputs = node.inputs.iter().map(|name| known(extents, name));
    let x = inputs.next().unwrap_or(Ok(Extent { width: 0, positions: Positions::One }))?;
    for other in inputs {
        let other = other?;
        if other.width != x.width {
            return Err(wrong(format!("inputs of one width, {}", x.width), other.width.to_string()));
        }
        if other.positions != x.positions {
            let expected = format!("inputs of as many positions, {:?}", x.positions);
            return Err(wrong(expected, format!("{:?}", other.positions)));
        }
    }
    let vector = |name: &str, width: usize| vector(name, width, shape);
    match &node.op {
        Op::Dense { weight, bias, .. } => {
            let rows = match *dims(weight, shape)? {
                [rows, cols] if cols >= to_u64(x.width) => usize::try_from(rows).unwrap_or(usize::MAX),
                ref dims => {
                    let expected = format!("a matrix with rows of at least {}", x.width);
                    return Err(Error::BadShape(fault("tensor", weight, expected, format!("shape {dims:?}"))));
                }
            };
            if !(1..=MAX_WIDTH).contains(&rows) {
                return Err(wrong(format!("1 to {MAX_WIDTH} outputs"), rows.to_string()));
            }
            bias.as_ref().map_or(Ok(()), |bias| vector(bias, rows))?;
            Ok(Extent { width: rows, ..x })
        }
        Op::LayerNorm { eps, .. } | Op::RmsNorm { eps, .. } if !(*eps > 0.0 && *eps < 1.0) => {
            Err(wrong("eps above 0 and below 1".to_owned(), eps.to_string()))
        }
        Op::RmsNorm { weight, .. } => {
            vector(weight, x.width)?;
            Ok(x)
        }
        Op::LayerNorm { weight, bias, .. } | Op::Scale { weight, bias, .. } => {
            vector(weight, x.width)?;
            vector(bias, x.width)?;
            Ok(x)
        }
        Op::Activation { .. } | Op::Add { .. } | Op::Multiply | Op::Softmax => Ok(x),
        _ => sequence_extent(node, x, shape),
    }
}

/// As [`node_extent`], of the operations that know positions, on an input of these sizes.
fn sequence_extent<'a>(node: &Node, x: Extent, shape: &impl Fn(&str) -> Option<&'a [u64]>) -> Result<Extent, Error> {
    let wrong = |expected: String, found: String| inconsistent(&node.output, expected, found);
    let sequence = || {
        if x.positions == Positions::One {
            return Err(wrong(format!("a sequence as the input of {}", node.op.name()), "a row".to_owned()));
        }
        Ok(())
    };
    match &node.op {
        Op::Embed { table } => {
            sequence()?;
            if x.width != 1 {
                return Err(wrong("one number at a position".to_owned(), x.width.to_string()));
            }
            Ok(Extent { width: table_of(table, 1, None, shape)?, ..x })
        }
        Op::AddPositions { table } => {
            sequence()?;
            table_of(table, x.positions.most(), Some(x.width), shape)?;
            Ok(x)
        }
        Op::Prepend { vector: name } => {
            sequence()?;
            vector(name, x.width, shape)?;
            let positions = x.positions.and_one();
            let positions = positions.ok_or_else(|| wrong("a sequence".to_owned(), "a row".to_owned()))?;
            Ok(Extent { positions, ..x })
        }
        Op::Patches { channels, height, width, size } => {
            patches(x, [*channels, *height, *width, *size]).map_err(|expected| wrong(expected, format!("{x:?}")))
        }
        Op::Rotate { heads, pairs, angles, .. } => {
            sequence()?;
            let head = head_of(x.width, *heads).map_err(|expected| wrong(expected, x.width.to_string()))?;
            let of_position = pairs.checked_mul(2).filter(|&n| (1..=head).contains(&n));
            let Some(of_position) = of_position else {
                return Err(wrong(format!("1 to {} pairs in a head of {head}", head >> 1), pairs.to_string()));
            };
            match *dims(angles, shape)? {
                [n] if n >= to_u64(of_position.saturating_mul(x.positions.most())) => Ok(x),
                ref dims => {
                    let expected = format!("a vector of {of_position} angles for {} positions", x.positions.most());
                    Err(Error::BadShape(fault("tensor", angles, expected, format!("shape {dims:?}"))))
                }
            }
        }
        Op::Attention { heads, .. } => {
            sequence()?;
            head_of(x.width, *heads).map_err(|expected| wrong(expected, x.width.to_string()))?;
            Ok(Extent { width: x.width.checked_div(3).unwrap_or(0), ..x })
        }
        // A pool: all other operations are those of rows.
        _ => {
            sequence()?;
            Ok(Extent { positions: Positions::One, ..x })
        }
    }
}

/// The width of a head whose queries, keys and values lie in rows of `width`; or what is expected.
fn head_of(width: usize, heads: usize) -> Result<usize, String> {
    let parts = heads.checked_mul(3).filter(|&parts| parts > 0);
    let head = parts.filter(|&parts| width.is_multiple_of(parts)).and_then(|parts| width.checked_div(parts));
    head.filter(|head| (1..=MAX_HEAD).contains(head))
        .ok_or_else(|| format!("queries, keys and values of {heads} heads, of at most {MAX_HEAD} values"))
}

/// Checks that a tensor is a vector of this width.
fn vector<'a>(name: &str, width: usize, shape: &impl Fn(&str) -> Option<&'a [u64]>) -> Result<(), Error> {
    let dims = dims(name, shape)?;
    if dims == [to_u64(width)] {
        return Ok(());
    }
    Err(Error::BadShape(fault("tensor", name, format!("shape [{width}]"), format!("{dims:?}"))))
}

/// The width of a table with at least so many rows.
fn table_of<'a>(
    name: &str,
    rows: usize,
    width: Option<usize>,
    shape: &impl Fn(&str) -> Option<&'a [u64]>,
) -> Result<usize, Error> {
    let dims = dims(name, shape)?;
    let found = match *dims {
        [found, cols] if found >= to_u64(rows) => usize::try_from(cols).ok(),
        _ => None,
    };
    found.filter(|&found| (1..=MAX_WIDTH).contains(&found) && width.is_none_or(|width| width == found)).ok_or_else(
        || {
            let width = width.map_or(String::new(), |width| format!(" of {width} values"));
            let expected = format!("a matrix of at least {rows} rows{width}");
            Error::BadShape(fault("tensor", name, expected, format!("shape {dims:?}")))
        },
    )
}

/// The squares of a picture; or what is expected.
fn patches(x: Extent, [channels, height, width, size]: [usize; 4]) -> Result<Extent, String> {
    let of = |n: usize| n.checked_div(size).filter(|_| n.is_multiple_of(size));
    let sizes = || {
        let pixels = channels.checked_mul(height)?.checked_mul(width)?;
        let positions = of(height)?.checked_mul(of(width)?)?;
        let patch = channels.checked_mul(size)?.checked_mul(size)?;
        (pixels == x.width && x.positions == Positions::One && positions > 0).then_some((positions, patch))
    };
    let (positions, patch) = sizes().ok_or_else(|| {
        format!("a picture of {channels} x {height} x {width} values in one row, cut into whole squares of {size}")
    })?;
    Ok(Extent { width: patch, positions: Positions::Fixed(positions) })
}

fn dims<'a>(name: &str, shape: &impl Fn(&str) -> Option<&'a [u64]>) -> Result<&'a [u64], Error> {
    shape(name).ok_or_else(|| Error::MissingTensor(fault("tensor", name, "the tensor that a node names", "none")))
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
