//! What the tensors of a state dictionary make: layers, activation functions, outputs.

use super::{ForeignError, Tensor, Trained};
use rin_kernels::Format;
use rin_model::{Body, Function, Mode, Network, Node, Op, Output, OutputKind, Port};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// ε of norms where nothing says another: PyTorch's.
const EPS: f32 = 1e-5;

/// A network in words, for tensors that do not say what they make. See `docs/network.md`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Name of the network.
    pub name: Option<String>,
    /// Shape of an input row; none: the width of the first matrix.
    pub input_shape: Option<Vec<usize>>,
    /// Function between the dense layers, where `layers` is empty.
    pub activation: Option<Function>,
    /// The layers in their order; empty: those of the tensors, in the file's order.
    #[serde(default)]
    pub layers: Vec<Layer>,
    /// What comes out; empty: the last layer.
    #[serde(default)]
    pub outputs: Vec<OutputLayer>,
}

/// A layer, known by the tensors that begin with its name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// What the names of its tensors begin with, before `.weight`.
    pub tensors: String,
    /// Applied to what it computes.
    #[serde(default)]
    pub activation: Function,
    /// The layer whose output it takes; none: the one before it.
    pub from: Option<String>,
    /// A layer whose output is added before the activation: a residual. `input` is the input.
    pub add: Option<String>,
    /// ε of a norm.
    pub eps: Option<f32>,
}

/// An output.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputLayer {
    /// The layer that it comes from.
    pub layer: String,
    /// Meaning of its numbers.
    pub kind: OutputKind,
    /// Names of the classes.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl Description {
    /// Reads a description in TOML.
    ///
    /// # Errors
    /// [`ForeignError::Description`] with the place.
    pub fn parse(text: &str) -> Result<Self, ForeignError> {
        toml::from_str(text).map_err(|error| ForeignError::description(error.to_string().trim_end()))
    }
}

/// Name of the input.
const INPUT: &str = "input";

/// The network that `tensors` make.
pub(super) fn build(tensors: Vec<Tensor>, description: Option<&Description>) -> Result<Trained, ForeignError> {
    let described = description.cloned().unwrap_or_default();
    let mut builder = Builder::new(tensors)?;
    let layers = if described.layers.is_empty() { builder.in_file_order(&described)? } else { described.layers };
    let named = layers.iter().flat_map(|layer| layer.from.iter().chain(&layer.add));
    builder.named = named.chain(described.outputs.iter().map(|output| &output.layer)).cloned().collect();
    for layer in &layers {
        builder.layer(layer)?;
    }
    let unused = builder.unused();
    if let Some(first) = unused.first() {
        let what = format!("{} tensors belong to no layer that is named, `{first}` among them", unused.len());
        return Err(ForeignError::description(what));
    }
    builder.finish(described.name, described.input_shape, described.outputs)
}

/// Tensors that no computation of a trained network reads.
const COUNTERS: &str = ".num_batches_tracked";

struct Builder {
    /// By name; taken out once they are used.
    tensors: HashMap<String, Tensor>,
    order: Vec<String>,
    nodes: Vec<Node>,
    out: Vec<Tensor>,
    /// The value that each layer leaves, and its width.
    values: HashMap<String, (String, usize)>,
    last: Option<String>,
    input_width: Option<usize>,
    /// Layers whose values are wanted by name, as they are.
    named: HashSet<String>,
}

impl Builder {
    fn new(tensors: Vec<Tensor>) -> Result<Self, ForeignError> {
        let tensors: Vec<Tensor> = tensors.into_iter().filter(|tensor| !tensor.name.ends_with(COUNTERS)).collect();
        let order: Vec<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let tensors: HashMap<String, Tensor> = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let high: Vec<&String> =
            order.iter().filter(|name| tensors.get(*name).is_some_and(|tensor| tensor.shape.len() > 2)).collect();
        if !high.is_empty() {
            let names = high.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let what =
                format!("networks of dense layers and norms are imported, and these tensors are of others: {names}");
            return Err(ForeignError::unsupported(what));
        }
        let (nodes, out, values) = (Vec::new(), Vec::new(), HashMap::new());
        Ok(Self { tensors, order, nodes, out, values, last: None, input_width: None, named: HashSet::new() })
    }

    /// The layers of the tensors, one after the other, with one activation between.
    fn in_file_order(&self, described: &Description) -> Result<Vec<Layer>, ForeignError> {
        let prefix = |name: &String| name.strip_suffix(".weight").map(str::to_owned);
        let names: Vec<String> = self.order.iter().filter_map(prefix).collect();
        let is_matrix = |name: &String| self.tensors.get(&format!("{name}.weight")).is_some_and(|t| t.shape.len() == 2);
        let last = names.iter().rposition(is_matrix);
        let Some(last) = last else {
            return Err(ForeignError::description("no tensor is the matrix of a dense layer, called NAME.weight"));
        };
        if last > 0 && described.activation.is_none() {
            return Err(ForeignError::description(
                "a state dictionary does not say which activation function stands between its layers",
            ));
        }
        let between = described.activation.unwrap_or_default();
        // After a dense layer and the norms that follow it.
        let layer = |(i, name): (usize, &String)| {
            let ends = names.get(i.saturating_add(1)).is_none_or(is_matrix);
            let activation = if ends && i < last { between } else { Function::Identity };
            Layer { tensors: name.clone(), activation, from: None, add: None, eps: None }
        };
        Ok(names.iter().enumerate().map(layer).collect())
    }

    fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// The vector of a layer; none where the file has none.
    fn vector(&mut self, name: &str, width: usize) -> Result<Option<Vec<f32>>, ForeignError> {
        let Some(tensor) = self.take(name) else { return Ok(None) };
        if tensor.shape == [width] {
            return Ok(Some(tensor.values));
        }
        Err(ForeignError::description(format!("`{name}` has the shape {:?} where [{width}] is needed", tensor.shape)))
    }

    fn value(&self, layer: &str) -> Result<(String, usize), ForeignError> {
        if let Some(value) = self.values.get(layer) {
            return Ok(value.clone());
        }
        match self.input_width {
            Some(width) if layer == INPUT => Ok((INPUT.to_owned(), width)),
            _ => Err(ForeignError::description(format!("no layer before it is called `{layer}`"))),
        }
    }

    fn layer(&mut self, layer: &Layer) -> Result<(), ForeignError> {
        let name = &layer.tensors;
        let weight = self.take(&format!("{name}.weight")).ok_or_else(|| {
            ForeignError::description(format!("there is no tensor `{name}.weight`, or two layers are called so"))
        })?;
        let (from, width) = match (&layer.from, &self.last) {
            (Some(from), _) => self.value(from)?,
            (None, Some(last)) => self.value(last)?,
            (None, None) => {
                let width = weight.shape.last().copied().unwrap_or(0);
                self.input_width = Some(width);
                (INPUT.to_owned(), width)
            }
        };
        let sum = layer.add.is_some();
        let function = if sum { Function::Identity } else { layer.activation };
        let made = match weight.shape[..] {
            [rows, cols] if cols == width => self.dense(name, weight, rows, &from, function)?,
            [len] if len == width => self.norm(layer, weight.values, width, &from, function)?,
            _ => {
                let what = format!("`{name}.weight` has the shape {:?} and its input {width} values", weight.shape);
                return Err(ForeignError::description(what));
            }
        };
        let made = match &layer.add {
            None => made,
            Some(other) => {
                let (other, other_width) = self.value(other)?;
                if other_width != made.1 {
                    let what = format!("`{name}` has {} values and `{other}`, which is added, {other_width}", made.1);
                    return Err(ForeignError::description(what));
                }
                let output = format!("{name}+{other}");
                let op = Op::Add { function: layer.activation };
                self.nodes.push(Node { inputs: vec![made.0, other], output: output.clone(), op });
                (output, made.1)
            }
        };
        self.values.insert(name.clone(), made);
        self.last = Some(name.clone());
        Ok(())
    }

    fn dense(
        &mut self,
        name: &str,
        weight: Tensor,
        rows: usize,
        from: &str,
        function: Function,
    ) -> Result<(String, usize), ForeignError> {
        let bias = self.vector(&format!("{name}.bias"), rows)?;
        let op = Op::Dense {
            weight: format!("{name}.weight"),
            bias: bias.is_some().then(|| format!("{name}.bias")),
            function,
        };
        self.out.push(weight);
        self.out.extend(bias.map(|values| Tensor {
            name: format!("{name}.bias"),
            shape: vec![rows],
            values,
            format: Format::F32,
        }));
        self.nodes.push(Node { inputs: vec![from.to_owned()], output: name.to_owned(), op });
        Ok((name.to_owned(), rows))
    }

    /// A layer norm, or a batch norm, which is known by its statistics.
    fn norm(
        &mut self,
        layer: &Layer,
        weight: Vec<f32>,
        width: usize,
        from: &str,
        function: Function,
    ) -> Result<(String, usize), ForeignError> {
        let name = &layer.tensors;
        let bias = self.vector(&format!("{name}.bias"), width)?.unwrap_or_else(|| vec![0.0; width]);
        let mean = self.vector(&format!("{name}.running_mean"), width)?;
        let variance = self.vector(&format!("{name}.running_var"), width)?;
        let eps = layer.eps.unwrap_or(EPS);
        if !(eps > 0.0 && eps < 1.0) {
            return Err(ForeignError::description(format!("eps of `{name}` is {eps}; it lies above 0 and below 1")));
        }
        let (Some(mean), Some(variance)) = (mean, variance) else {
            let op = Op::LayerNorm { weight: format!("{name}.weight"), bias: format!("{name}.bias"), eps };
            self.push_vectors(name, weight, bias);
            return Ok(self.made(name, width, from, op, function));
        };
        // y = (x - mean) / sqrt(variance + eps) * weight + bias, in double precision once and for all.
        let factor = |(g, v): (&f32, &f32)| f64::from(*g) / (f64::from(*v) + f64::from(eps)).sqrt();
        let factors: Vec<f64> = weight.iter().zip(&variance).map(factor).collect();
        let shifts: Vec<f64> =
            bias.iter().zip(&mean).zip(&factors).map(|((b, m), f)| f64::from(*b) - f64::from(*m) * f).collect();
        if self.fold(name, from, &factors, &shifts, function) {
            return Ok((from.to_owned(), width));
        }
        self.push_vectors(name, narrow(&factors), narrow(&shifts));
        let op = Op::Scale { weight: format!("{name}.weight"), bias: format!("{name}.bias"), function };
        self.nodes.push(Node { inputs: vec![from.to_owned()], output: name.clone(), op });
        Ok((name.clone(), width))
    }

    /// Folds a batch norm into the dense layer right before it, if that is where it stands.
    fn fold(&mut self, name: &str, from: &str, factors: &[f64], shifts: &[f64], function: Function) -> bool {
        let Some(Node { output, op, .. }) = self.nodes.last_mut() else { return false };
        let Op::Dense { weight, bias, function: before } = op else { return false };
        let free = self.last.as_deref() == Some(from) && !self.named.contains(from);
        if output != from || *before != Function::Identity || !free {
            return false;
        }
        *before = function;
        let weight = weight.clone();
        let bias_name = bias.get_or_insert_with(|| format!("{from}.bias")).clone();
        if let Some(matrix) = self.out.iter_mut().find(|tensor| tensor.name == weight) {
            let cols = matrix.shape.get(1).copied().unwrap_or(1).max(1);
            for (row, factor) in matrix.values.chunks_exact_mut(cols).zip(factors) {
                for w in row.iter_mut() {
                    *w = narrowed(f64::from(*w) * factor);
                }
            }
        }
        let folded = |old: &[f32]| -> Vec<f32> {
            let old = old.iter().map(|b| f64::from(*b)).chain(std::iter::repeat(0.0));
            old.zip(factors).zip(shifts).map(|((b, f), s)| narrowed(b * f + s)).collect()
        };
        match self.out.iter_mut().find(|tensor| tensor.name == bias_name) {
            Some(bias) => bias.values = folded(&bias.values),
            None => self.out.push(Tensor {
                name: bias_name,
                shape: vec![shifts.len()],
                values: folded(&[]),
                format: Format::F32,
            }),
        }
        self.values.insert(name.to_owned(), (from.to_owned(), shifts.len()));
        true
    }

    fn push_vectors(&mut self, name: &str, weight: Vec<f32>, bias: Vec<f32>) {
        let tensor = |part: &str, values: Vec<f32>| Tensor {
            name: format!("{name}.{part}"),
            shape: vec![values.len()],
            values,
            format: Format::F32,
        };
        self.out.extend([tensor("weight", weight), tensor("bias", bias)]);
    }

    /// A node, and one for its function where it has one.
    fn made(&mut self, name: &str, width: usize, from: &str, op: Op, function: Function) -> (String, usize) {
        self.nodes.push(Node { inputs: vec![from.to_owned()], output: name.to_owned(), op });
        if function == Function::Identity {
            return (name.to_owned(), width);
        }
        let output = format!("{name}:{}", function.name());
        let op = Op::Activation { function };
        self.nodes.push(Node { inputs: vec![name.to_owned()], output: output.clone(), op });
        (output, width)
    }

    /// Names of tensors that no layer has taken, in the file's order.
    fn unused(&self) -> Vec<&str> {
        self.order.iter().filter(|name| self.tensors.contains_key(*name)).map(String::as_str).collect()
    }

    fn finish(
        self,
        name: Option<String>,
        input_shape: Option<Vec<usize>>,
        outputs: Vec<OutputLayer>,
    ) -> Result<Trained, ForeignError> {
        let width = self.input_width.unwrap_or(0);
        let shape = input_shape.unwrap_or_else(|| vec![width]);
        if shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m)) != Some(width) {
            let what = format!("input_shape is {shape:?}, and the first layer takes {width} values");
            return Err(ForeignError::description(what));
        }
        let last = self.last.clone().unwrap_or_default();
        let outputs = if outputs.is_empty() {
            vec![OutputLayer { layer: last, kind: OutputKind::Values, labels: Vec::new() }]
        } else {
            outputs
        };
        let output = |output: OutputLayer| {
            let (name, _) = self.value(&output.layer)?;
            Ok(Output { name, kind: output.kind, labels: output.labels })
        };
        let outputs = outputs.into_iter().map(output).collect::<Result<Vec<_>, ForeignError>>()?;
        let inputs = vec![Port::row(INPUT, shape)];
        let network = Network { mode: Mode::Mlp, name, inputs, outputs, body: Body::Nodes(self.nodes) };
        Ok(Trained { network, tensors: self.out })
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| narrowed(*value)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn narrowed(value: f64) -> f32 {
    value as f32
}
