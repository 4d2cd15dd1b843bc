//! ONNX models become graphs of typed arrays, or lists of layers where that is all they are.
//!
//! [`rin_model::onnx`] takes the file apart. Here every operator is taken apart in turn, by the list in [`ops`], into the
//! few operations that the engine has. Shapes are worked out on the way, and whatever follows from constants and shapes
//! alone is computed now, so that nothing of it is left in the file.

mod builder;
mod error;
mod node;
mod ops;
mod rows;
mod types;

use crate::foreign::ForeignError;
use crate::write::{NewArray, NewTensor};
use crate::{Error, ImportOptions};
use builder::{Builder, Finished, Val};
use error::OnnxError;
use node::Context;
use rin_engine::graph::Held;
use rin_kernels::Format;
use rin_model::graph::{GraphOp, ValueType};
use rin_model::onnx::{Dim, ExternalFiles, Model, ValueInfo, element_name};
use rin_model::{Body, Mode, Network, Output, OutputKind, Port};
use std::collections::{BTreeMap, HashMap};

/// The operators of ONNX that are run, by name, each with what is not run of it.
pub fn operators() -> impl Iterator<Item = (&'static str, &'static str)> {
    ops::OPERATORS.iter().map(|operator| (operator.name, operator.limits))
}

/// The first version of the standard operators that is read, and the last.
const OPSETS: std::ops::RangeInclusive<i64> = 6..=26;

/// A network with everything that its file will hold.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) network: Network,
    pub(crate) tensors: Vec<NewTensor>,
    pub(crate) arrays: Vec<NewArray>,
}

/// Makes a network of the bytes of an ONNX file; `files` opens what lies beside it.
pub(crate) fn read(bytes: &[u8], files: &mut ExternalFiles, options: &ImportOptions) -> Result<Imported, Error> {
    let model = Model::read(bytes)?;
    let opset = check(&model)?;
    let sizes = Sizes::new(&model, &options.dims)?;
    let mut lowering =
        Lowering { builder: Builder::default(), names: HashMap::new(), uses: HashMap::new(), bound: HashMap::new() };
    let (inputs, ports) = lowering.inputs(&model, &sizes)?;
    lowering.constants(&model, files)?;
    lowering.nodes(&model, opset, files)?;
    let mut outputs = Vec::new();
    let mut described = Vec::new();
    for output in &model.graph.outputs {
        let val = lowering.names.get(output.name).copied();
        let val = val.ok_or_else(|| missing("the model's outputs", output.name))?;
        let softmax = matches!(lowering.builder.made_by(val), Some((GraphOp::Softmax { log: false, .. }, _)));
        let kind = if softmax { OutputKind::Probabilities } else { OutputKind::Values };
        described.push(Output { name: output.name.to_owned(), kind, labels: Vec::new() });
        outputs.push(val);
    }
    if inputs.is_empty() || outputs.is_empty() {
        return Err(OnnxError::shape("a model without inputs or without outputs computes nothing").into());
    }
    let name = (!model.graph.name.is_empty()).then(|| model.graph.name.chars().take(80).collect());
    let finished = lowering.builder.finish(&inputs, &outputs)?;
    let layers = rows::layers(&finished, &finished.types()?, &ports, &described);
    let Finished { graph, mut constants, mut weights } = finished;
    let body = match layers {
        Some((nodes, vectors)) => {
            constants.clear();
            weights.extend(vectors);
            Body::Nodes(nodes)
        }
        None => Body::Graph(graph),
    };
    let format = options.quant.unwrap_or(Format::F32);
    let mut tensors = Vec::with_capacity(weights.len());
    for weight in &weights {
        tensors.push(match weight.shape[..] {
            [rows, cols] => NewTensor::matrix(&weight.name, format, [rows, cols], &weight.values)?,
            _ => NewTensor::vector(&weight.name, &weight.values),
        });
    }
    let arrays = constants.into_iter().map(|(name, held)| array(name, &held)).collect();
    let network = Network { mode: Mode::Mlp, name, inputs: ports, outputs: described, body };
    Ok(Imported { network, tensors, arrays })
}

fn array(name: String, held: &Held) -> NewArray {
    let ValueType { dtype, shape } = held.value().clone();
    let shape = shape.into_iter().map(|n| u64::try_from(n).unwrap_or(u64::MAX)).collect();
    // Files and the machines that RIN runs on are little-endian.
    NewArray { name, dtype, shape, bytes: held.bytes().to_vec() }
}

fn missing(what: &str, name: &str) -> Error {
    let name: String = name.chars().take(80).collect();
    OnnxError::shape(format!("{what} ask for `{name}`, which nothing before them makes; nodes have to stand in the order in which they run, without cycles")).into()
}

/// What a model needs and RIN does not have, all of it at once; else the version of its operators.
fn check(model: &Model<'_>) -> Result<i64, Error> {
    let mut unknown: BTreeMap<String, usize> = BTreeMap::new();
    let shown = |text: &str| text.chars().take(80).collect::<String>();
    for node in &model.graph.nodes {
        if ops::find(node.domain, node.op).is_none() {
            let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", shown(node.domain)) };
            let count = unknown.entry(format!("{domain}{}", shown(node.op))).or_default();
            *count = count.saturating_add(1);
        }
    }
    let mut elements: BTreeMap<&str, String> = BTreeMap::new();
    let mut note = |element: i32, name: &str| {
        if types::known_dtype(element).is_none() {
            elements.entry(element_name(element)).or_insert_with(|| shown(name));
        }
    };
    let ports = model.graph.inputs.iter().chain(&model.graph.outputs);
    ports.for_each(|port| note(port.element.unwrap_or(0), port.name));
    model.graph.initializers.iter().for_each(|tensor| note(tensor.element, tensor.name));
    let mut lacking: Vec<String> = unknown
        .into_iter()
        .map(|(name, n)| if n == 1 { format!("operator {name}") } else { format!("operator {name} ({n} nodes)") })
        .collect();
    lacking.extend(elements.into_iter().map(|(element, name)| format!("elements of {element} (`{name}`)")));
    if model.graph.sparse > 0 {
        lacking.push("sparse constants".to_owned());
    }
    let opset =
        model.opsets.iter().find(|(domain, _)| matches!(*domain, "" | "ai.onnx")).map_or(1, |(_, version)| *version);
    if !OPSETS.contains(&opset) && lacking.is_empty() {
        lacking.push(format!(
            "operators of version {opset} (versions {} to {} are read)",
            OPSETS.start(),
            OPSETS.end()
        ));
    }
    if lacking.is_empty() { Ok(opset) } else { Err(ForeignError::Operators { lacking }.into()) }
}

/// Sizes that the file leaves open.
struct Sizes<'a> {
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Sizes<'a> {
    /// Finds all of them, or says which are missing. A first dimension that is open counts rows, which run one by one.
    fn new(model: &Model<'a>, given: &'a [(String, usize)]) -> Result<Self, Error> {
        let mut by_name: HashMap<&str, usize> = given.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        let constants: Vec<&str> = model.graph.initializers.iter().map(|tensor| tensor.name).collect();
        let open = |input: &&ValueInfo<'_>| !constants.contains(&input.name);
        let inputs: Vec<&ValueInfo<'a>> = model.graph.inputs.iter().filter(open).collect();
        for input in &inputs {
            if let Some(Dim::Named(name)) = input.shape.as_deref().and_then(<[_]>::first) {
                by_name.entry(name).or_insert(1);
            }
        }
        let mut lacking: Vec<&str> = Vec::new();
        let mut unnamed = Vec::new();
        for input in &inputs {
            for (at, dim) in input.shape.as_deref().unwrap_or_default().iter().enumerate() {
                match dim {
                    Dim::Named(name) if !by_name.contains_key(name) && !lacking.contains(name) => lacking.push(name),
                    Dim::Unknown if at > 0 && !by_name.contains_key(unnamed_dim(input.name, at).as_str()) => {
                        unnamed.push(unnamed_dim(input.name, at));
                    }
                    _ => {}
                }
            }
        }
        if lacking.is_empty() && unnamed.is_empty() {
            return Ok(Self { by_name });
        }
        let names = lacking.into_iter().chain(unnamed.iter().map(String::as_str));
        let names: Vec<String> =
            names.map(|name| format!("--dim {}=SIZE", name.chars().take(80).collect::<String>())).collect();
        Err(ForeignError::Sizes { names }.into())
    }

    fn of(&self, input: &str, at: usize, dim: Dim<'_>) -> usize {
        match dim {
            Dim::Size(n) => usize::try_from(n).unwrap_or(usize::MAX),
            Dim::Named(name) => self.by_name.get(name).copied().unwrap_or(1),
            Dim::Unknown => self.by_name.get(unnamed_dim(input, at).as_str()).copied().unwrap_or(1),
        }
    }
}

/// What a size without a name is called.
fn unnamed_dim(input: &str, at: usize) -> String {
    format!("{input}.{at}")
}

/// A model on its way into a graph.
struct Lowering<'a> {
    builder: Builder,
    names: HashMap<&'a str, Val>,
    /// How often each name is read.
    uses: HashMap<&'a str, usize>,
    /// How often each value is read, under all names that it has so far.
    bound: HashMap<Val, usize>,
}

impl<'a> Lowering<'a> {
    fn inputs(&mut self, model: &Model<'a>, sizes: &Sizes<'_>) -> Result<(Vec<Val>, Vec<Port>), Error> {
        let graph = &model.graph;
        let reads = graph.nodes.iter().flat_map(|node| &node.inputs).copied();
        // An output is read by whoever runs the model, and by nobody else who could change it.
        for name in reads.chain(graph.outputs.iter().flat_map(|output| [output.name, output.name])) {
            let count = self.uses.entry(name).or_default();
            *count = count.saturating_add(1);
        }
        let constants: std::collections::HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name).collect();
        let (mut values, mut ports) = (Vec::new(), Vec::new());
        for input in graph.inputs.iter().filter(|input| !constants.contains(input.name)) {
            let dtype = types::dtype_of(input.element.unwrap_or(0))?;
            let dims = input.shape.as_deref().ok_or_else(|| {
                OnnxError::shape(format!(
                    "input `{}` has no shape; export the model with the shapes of its inputs",
                    input.name
                ))
            })?;
            let shape: Vec<usize> = dims.iter().enumerate().map(|(at, &dim)| sizes.of(input.name, at, dim)).collect();
            // A first dimension of size 1 counts rows.
            let row = match shape.split_first() {
                Some((1, rest)) => rest.to_vec(),
                _ => shape.clone(),
            };
            let value = ValueType { dtype, shape };
            if let Some(fault) = value.fault() {
                return Err(OnnxError::shape(format!("input `{}`: {fault}", input.name)).into());
            }
            let val = self.builder.input(value);
            self.bind(input.name, val)?;
            ports.push(Port::row(input.name, row));
            values.push(val);
        }
        Ok((values, ports))
    }

    fn constants(&mut self, model: &Model<'a>, files: &mut ExternalFiles) -> Result<(), Error> {
        for tensor in &model.graph.initializers {
            let held = types::held_of(tensor, files)?;
            let val = self.builder.constant(held);
            self.bind(tensor.name, val)?;
        }
        Ok(())
    }

    fn bind(&mut self, name: &'a str, val: Val) -> Result<(), Error> {
        if self.names.insert(name, val).is_some() {
            let what = format!(
                "`{}` is made twice; the file is damaged: export the model again",
                name.chars().take(80).collect::<String>()
            );
            return Err(OnnxError::shape(what).into());
        }
        let uses = self.uses.get(name).copied().unwrap_or(0);
        let bound = self.bound.entry(val).or_default();
        *bound = bound.saturating_add(uses);
        Ok(())
    }

    fn nodes(&mut self, model: &Model<'a>, opset: i64, files: &mut ExternalFiles) -> Result<(), Error> {
        for node in &model.graph.nodes {
            let Some(operator) = ops::find(node.domain, node.op) else { continue };
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for &name in &node.inputs {
                let val = self.names.get(name).copied();
                if val.is_none() && !name.is_empty() {
                    return Err(missing(&format!("the inputs of node `{}` ({})", node.label(), node.op), name));
                }
                inputs.push(val);
            }
            let once = |val: &Option<Val>| val.is_some_and(|val| self.bound.get(&val) == Some(&1));
            let alone = inputs.iter().map(once).collect();
            let mut cx = Context { builder: &mut self.builder, node, inputs, alone, opset, files };
            let made = (operator.rule)(&mut cx).map_err(|error| error.at(node.op, node.label()))?;
            for (at, &name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                let val = made.get(at).copied().ok_or_else(|| {
                    OnnxError::shape(format!("output {at} is not made by this operator")).at(node.op, node.label())
                })?;
                self.bind(name, val)?;
            }
        }
        Ok(())
    }
}
