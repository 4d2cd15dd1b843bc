//! What lies between populations of neurons: linear maps, put together along the edges of a graph.

use super::{Graph, Node, fault};
use rin_model::Error;
use rin_model::hdf5::{Dataset, Elements};

/// Elements that a map may have.
const MAX_ELEMENTS: usize = 1 << 26;

/// Kinds of nodes that hold neurons.
pub(super) const NEURONS: [&str; 7] = ["LIF", "CubaLIF", "LI", "CubaLI", "IF", "I", "Threshold"];
/// Kinds of nodes that pass numbers on, by a linear map or as they are.
const MAPS: [&str; 6] = ["Linear", "Affine", "Scale", "Flatten", "Input", "Output"];

/// `y = W x + b`.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// `outputs × inputs`.
    pub(super) weights: Vec<f64>,
    pub(super) bias: Vec<f64>,
}

/// A map that ends at some node, and where its input comes from.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// A node of neurons, or the input of the graph.
    pub(super) from: String,
    pub(super) map: Map,
}

/// The numbers of a parameter.
pub(super) fn numbers(node: &Node, name: &str, key: &str) -> Result<Vec<f64>, Error> {
    optional(node, name, key)?.ok_or_else(|| {
        Error::MissingKey(fault(name, format!("the parameter `{key}` of a node of type {}", node.kind), "none"))
    })
}

/// As [`numbers`], of a parameter that may be absent.
pub(super) fn optional(node: &Node, name: &str, key: &str) -> Result<Option<Vec<f64>>, Error> {
    let Some(dataset) = node.get(key) else { return Ok(None) };
    let numbers = of_dataset(dataset);
    match numbers {
        Some(numbers) if numbers.iter().all(|x| x.is_finite()) => Ok(Some(numbers)),
        _ => Err(Error::BadType(fault(name, format!("finite numbers in `{key}`"), "something else"))),
    }
}

/// The elements as floats.
pub(super) fn of_dataset(dataset: &Dataset) -> Option<Vec<f64>> {
    match &dataset.elements {
        Elements::Floats(values) => Some(values.clone()),
        #[expect(clippy::cast_precision_loss, reason = "sizes and counts")]
        Elements::Integers(values) => Some(values.iter().map(|&value| value as f64).collect()),
        Elements::Strings(_) => None,
    }
}

impl Map {
    /// The map that changes nothing.
    pub(super) fn identity(width: usize, name: &str) -> Result<Self, Error> {
        let mut weights = vec![0.0; product(width, width, name)?];
        weights.iter_mut().step_by(width.saturating_add(1)).for_each(|weight| *weight = 1.0);
        Ok(Self { outputs: width, inputs: width, weights, bias: vec![0.0; width] })
    }

    /// The map of a node; none for one that passes its input on.
    fn of(node: &Node, name: &str) -> Result<Option<Self>, Error> {
        match node.kind.as_str() {
            "Linear" | "Affine" => {
                let shape = node.get("weight").map(|weight| weight.shape.clone()).unwrap_or_default();
                let weights = numbers(node, name, "weight")?;
                let &[outputs, inputs] = shape.as_slice() else {
                    return Err(Error::BadShape(fault(name, "a weight of two dimensions", format!("{shape:?}"))));
                };
                let bias = match node.kind.as_str() {
                    "Affine" => numbers(node, name, "bias")?,
                    _ => vec![0.0; outputs],
                };
                if bias.len() != outputs {
                    return Err(Error::BadShape(fault(name, format!("{outputs} biases"), bias.len().to_string())));
                }
                Ok(Some(Self { outputs, inputs, weights, bias }))
            }
            "Scale" => {
                let scale = numbers(node, name, "scale")?;
                let mut map = Self::identity(scale.len(), name)?;
                let diagonal = map.weights.iter_mut().step_by(scale.len().saturating_add(1));
                diagonal.zip(&scale).for_each(|(weight, &scale)| *weight = scale);
                Ok(Some(map))
            }
            _ => Ok(None),
        }
    }

    /// This map after another.
    fn after(&self, first: &Self, name: &str) -> Result<Self, Error> {
        if self.inputs != first.outputs {
            let expected = format!("{} inputs, as its weight has", self.inputs);
            return Err(Error::BadShape(fault(name, expected, first.outputs.to_string())));
        }
        let mut weights = vec![0.0; product(self.outputs, first.inputs, name)?];
        let mut bias = self.bias.clone();
        let rows = weights.chunks_mut(first.inputs.max(1)).zip(self.weights.chunks(self.inputs.max(1)));
        for ((out, row), bias) in rows.zip(&mut bias) {
            let parts = row.iter().zip(first.weights.chunks(first.inputs.max(1))).zip(&first.bias);
            for ((&factor, below), &constant) in parts {
                if factor != 0.0 {
                    out.iter_mut().zip(below).for_each(|(out, &weight)| *out += factor * weight);
                    *bias += factor * constant;
                }
            }
        }
        Ok(Self { outputs: self.outputs, inputs: first.inputs, weights, bias })
    }
}

fn product(rows: usize, cols: usize, name: &str) -> Result<usize, Error> {
    rows.checked_mul(cols).filter(|&elements| elements <= MAX_ELEMENTS).ok_or_else(|| {
        let expected = format!("connections of at most {MAX_ELEMENTS} weights");
        Error::BudgetExceeded(fault(name, expected, format!("{rows} × {cols}")))
    })
}

impl Graph {
    /// Every kind of node that is neither neurons nor a map, each once.
    pub(super) fn check_kinds(&self) -> Result<(), Error> {
        let mut unknown: Vec<&str> = Vec::new();
        for (_, node) in &self.nodes {
            let kind = node.kind.as_str();
            if !NEURONS.contains(&kind) && !MAPS.contains(&kind) && !unknown.contains(&kind) {
                unknown.push(kind);
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let expected = format!("nodes of type {} or {}", MAPS.join(", "), NEURONS.join(", "));
        Err(Error::Unsupported(fault("nodes", expected, unknown.join(", "))))
    }

    /// The one node of a kind that stands at an end of the graph.
    pub(super) fn end(&self, kind: &str) -> Result<&str, Error> {
        let at_end = |name: &str| match kind {
            "Input" => !self.edges.iter().any(|(_, to)| to == name),
            _ => !self.edges.iter().any(|(from, _)| from == name),
        };
        let mut ends = self.nodes.iter().filter(|(name, node)| node.kind == kind && at_end(name));
        match (ends.next(), ends.next()) {
            (Some((name, _)), None) => Ok(name),
            (None, _) => Err(Error::MissingKey(fault("nodes", format!("one {kind}"), "none"))),
            _ => Err(Error::Unsupported(fault("nodes", format!("one {kind}"), "several"))),
        }
    }

    /// The sources of an edge's target.
    pub(super) fn sources<'g>(&'g self, to: &'g str) -> impl Iterator<Item = &'g str> {
        self.edges.iter().filter(move |(_, target)| target == to).map(|(from, _)| from.as_str())
    }

    /// Every path of maps that ends in what feeds `to`, from neurons or from the input. `width` tells the width of these.
    pub(super) fn paths(
        &self,
        to: &str,
        width: &dyn Fn(&str) -> Result<usize, Error>,
        depth: usize,
    ) -> Result<Vec<Path>, Error> {
        if depth > self.nodes.len() {
            return Err(Error::Unsupported(fault(to, "neurons in every circle of the graph", "a circle of maps")));
        }
        let mut paths = Vec::new();
        for from in self.sources(to) {
            let Some(node) = self.get(from) else {
                return Err(Error::MissingKey(fault(from, "a node, since an edge names it", "none")));
            };
            let is_source = NEURONS.contains(&node.kind.as_str());
            if is_source || (node.kind == "Input" && self.sources(from).next().is_none()) {
                paths.push(Path { from: from.to_owned(), map: Map::identity(width(from)?, from)? });
                continue;
            }
            let own = Map::of(node, from)?;
            for path in self.paths(from, width, depth.saturating_add(1))? {
                let map = match &own {
                    Some(own) => own.after(&path.map, from)?,
                    None => path.map,
                };
                paths.push(Path { from: path.from, map });
            }
            if paths.len() > self.nodes.len().saturating_mul(4) {
                return Err(Error::BudgetExceeded(fault(to, "fewer ways from neurons to neurons", "more")));
            }
        }
        Ok(paths)
    }
}
