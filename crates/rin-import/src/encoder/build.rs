//! Writing an encoder down: nodes, and the tensors that they name.

use crate::foreign::{ForeignError, check_cancelled};
use crate::write::NewTensor;
use crate::{Error, ImportOptions};
use rin_kernels::Format;
use rin_model::{Function, ModelFile, Node, Op, Output, OutputKind, Port};
use std::collections::{HashMap, HashSet};

/// What goes in and what comes out.
pub(super) struct Ends {
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Output>,
}

/// An output that stands for itself.
pub(super) fn values(name: &str) -> Output {
    Output { name: name.to_owned(), kind: OutputKind::Values, labels: Vec::new() }
}

/// Parts of checkpoints that no encoder reads: heads of the pre-training, and tables that the program makes itself.
const LEFT_OUT: [&str; 6] =
    ["cls.", "lm_head.", "vocab_", "qa_outputs.", "embeddings.position_ids", "embeddings.mask_token"];

/// A network in the making.
pub(super) struct Builder<'a> {
    file: &'a ModelFile,
    options: &'a ImportOptions,
    /// Which tensor of the file has which name there.
    places: HashMap<&'a str, usize>,
    /// What the names of the encoder's tensors begin with in this file.
    prefix: String,
    used: HashSet<usize>,
    nodes: Vec<Node>,
    tensors: Vec<NewTensor>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(file: &'a ModelFile, options: &'a ImportOptions) -> Self {
        let places: HashMap<&str, usize> =
            file.tensors().iter().enumerate().map(|(i, tensor)| (tensor.source_name.as_str(), i)).collect();
        let (used, nodes, tensors) = (HashSet::new(), Vec::new(), Vec::new());
        Self { file, options, places, prefix: String::new(), used, nodes, tensors }
    }

    /// Finds what stands before `name` in the file: nothing, or one of `candidates`.
    pub(super) fn find_prefix(&mut self, candidates: &[&str], name: &str) -> Result<(), Error> {
        let found =
            [""].iter().chain(candidates).find(|prefix| self.places.contains_key(format!("{prefix}{name}").as_str()));
        let found = found.ok_or_else(|| ForeignError::unsupported(format!("the file has no tensor `{name}`")))?;
        self.prefix = (*found).to_owned();
        Ok(())
    }

    /// Whether the encoder has a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(format!("{}{name}", self.prefix).as_str())
    }

    /// Whether the file has a tensor outside the encoder.
    pub(super) fn has_head(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Shape and values of a tensor of the file.
    fn read(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), Error> {
        check_cancelled(self.options)?;
        let at = self.places.get(name).copied();
        let at = at.ok_or_else(|| ForeignError::unsupported(format!("the file has no tensor `{name}`")))?;
        self.used.insert(at);
        let too_large = || Error::TooLarge { tensor: name.to_owned() };
        let tensor = self.file.tensors().get(at).ok_or_else(too_large)?;
        let format = rin_engine::weights::format_of(tensor.dtype).filter(|format| format.block_len() == 1);
        let format = format.ok_or_else(|| {
            ForeignError::unsupported(format!("`{name}` is of the type {}, and floats are read", tensor.dtype))
        })?;
        let shape = tensor.shape.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
        let mut values = vec![0.0; usize::try_from(tensor.n_elements()).map_err(|_| too_large())?];
        rin_kernels::format::dequantize(format, self.file.bytes(tensor), &mut values);
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let cols = tensor.shape.last().and_then(|&n| usize::try_from(n).ok()).unwrap_or(1).max(1);
            let (row, col) = (place.checked_div(cols).unwrap_or(0), place.checked_rem(cols).unwrap_or(0));
            return Err(rin_engine::Error::NonFiniteWeight { tensor: name.to_owned(), row, col }.into());
        }
        Ok((shape.ok_or_else(too_large)?, values))
    }

    /// A tensor of the encoder.
    pub(super) fn own(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), Error> {
        self.read(&format!("{}{name}", self.prefix))
    }

    fn push_vector(&mut self, name: &str, values: &[f32]) -> String {
        self.tensors.push(NewTensor::vector(name, values));
        name.to_owned()
    }

    pub(super) fn node(&mut self, op: Op, inputs: &[&str], output: &str) -> String {
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        self.nodes.push(Node { inputs, output: output.to_owned(), op });
        output.to_owned()
    }

    /// A dense layer of matrices below each other, whose tensors are called `names`, from `input`.
    fn product(
        &mut self,
        names: &[String],
        input: &str,
        output: &str,
        function: Function,
    ) -> Result<(String, usize), Error> {
        let (mut rows, mut cols, mut weights, mut biases) = (0_usize, 0, Vec::new(), Vec::new());
        for name in names {
            let (shape, values) = self.read(&format!("{name}.weight"))?;
            let height = shape.first().copied().unwrap_or(0);
            cols = values.len().checked_div(height).unwrap_or(0);
            weights.extend(values);
            if self.places.contains_key(format!("{name}.bias").as_str()) {
                biases.extend(self.read(&format!("{name}.bias"))?.1);
            } else {
                biases.resize(rows.saturating_add(height), 0.0);
            }
            rows = rows.saturating_add(height);
        }
        Ok((self.push_dense(&weights, [rows, cols], &biases, input, output, function)?, rows))
    }

    fn push_dense(
        &mut self,
        weights: &[f32],
        shape: [usize; 2],
        biases: &[f32],
        input: &str,
        output: &str,
        function: Function,
    ) -> Result<String, Error> {
        let format = self.options.quant.unwrap_or(Format::F32);
        let weight = format!("{output}.weight");
        self.tensors.push(NewTensor::matrix(&weight, format, shape, weights)?);
        let bias = biases.iter().any(|&bias| bias != 0.0).then(|| self.push_vector(&format!("{output}.bias"), biases));
        Ok(self.node(Op::Dense { weight, bias, function }, &[input], output))
    }

    /// A dense layer of the encoder.
    pub(super) fn dense(&mut self, name: &str, input: &str, output: &str, function: Function) -> Result<String, Error> {
        let name = format!("{}{name}", self.prefix);
        Ok(self.product(&[name], input, output, function)?.0)
    }

    /// A dense layer of what stands behind the encoder, and its outputs.
    pub(super) fn head(
        &mut self,
        name: &str,
        input: &str,
        output: &str,
        function: Function,
    ) -> Result<(String, usize), Error> {
        self.product(&[name.to_owned()], input, output, function)
    }

    /// Queries, keys and values, and attention over them.
    pub(super) fn attention(
        &mut self,
        names: [String; 3],
        heads: usize,
        input: &str,
        layer: &str,
    ) -> Result<String, Error> {
        let names = names.map(|name| format!("{}{name}", self.prefix));
        let (qkv, _) = self.product(&names, input, &format!("{layer}.qkv"), Function::Identity)?;
        Ok(self.node(Op::Attention { heads, causal: false }, &[&qkv], &format!("{layer}.attention")))
    }

    /// A layer norm of the encoder.
    pub(super) fn norm(&mut self, name: &str, eps: f32, input: &str, output: &str) -> Result<String, Error> {
        // Names of the first checkpoints.
        let old = self.has(&format!("{name}.gamma"));
        let (_, weight) = self.own(&format!("{name}.{}", if old { "gamma" } else { "weight" }))?;
        let (_, bias) = self.own(&format!("{name}.{}", if old { "beta" } else { "bias" }))?;
        let weight = self.push_vector(&format!("{output}.weight"), &weight);
        let bias = self.push_vector(&format!("{output}.bias"), &bias);
        Ok(self.node(Op::LayerNorm { weight, bias, eps }, &[input], output))
    }

    pub(super) fn add(&mut self, x: &str, y: &str, output: &str) -> String {
        self.node(Op::Add { function: Function::Identity }, &[x, y], output)
    }

    /// A table of the encoder without its first `skip` rows, and the rows that it has; quantised where `convert`.
    pub(super) fn table(&mut self, name: &str, skip: usize, convert: bool) -> Result<(String, usize), Error> {
        let (shape, values) = self.own(name)?;
        let cols = shape.last().copied().unwrap_or(0).max(1);
        let rows = values.len().checked_div(cols).unwrap_or(0).saturating_sub(skip);
        let kept = values.get(skip.saturating_mul(cols)..).unwrap_or_default();
        // A row of a table is read as it is, so it must be whole blocks.
        let format = self.options.quant.filter(|format| convert && cols.is_multiple_of(format.block_len()));
        let tensor = NewTensor::matrix(name, format.unwrap_or(Format::F32), [rows, cols], kept)?;
        self.tensors.push(tensor);
        Ok((name.to_owned(), rows))
    }

    /// A vector of the encoder.
    pub(super) fn vector(&mut self, name: &str) -> Result<String, Error> {
        let (_, values) = self.own(name)?;
        Ok(self.push_vector(name, &values))
    }

    /// Refuses a file with tensors that nothing has read: the network would be another than was trained.
    pub(super) fn check_all_used(&self) -> Result<(), Error> {
        let of_encoder = |name: &'a str| name.strip_prefix(self.prefix.as_str()).unwrap_or(name);
        let left = |(i, name): (usize, &'a str)| {
            let known = LEFT_OUT.iter().any(|part| of_encoder(name).starts_with(part) || name.starts_with(part));
            (!self.used.contains(&i) && !known).then(|| format!("`{name}`"))
        };
        let names = self.file.tensors().iter().map(|tensor| tensor.source_name.as_str()).enumerate();
        let unused: Vec<String> = names.filter_map(left).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let first = unused.get(..unused.len().min(8)).unwrap_or_default().join(", ");
        let what =
            format!("{} tensors are no part of a network that RIN knows, the first of them {first}", unused.len());
        Err(ForeignError::unsupported(what).into())
    }

    pub(super) fn finish(self) -> (Vec<Node>, Vec<NewTensor>) {
        (self.nodes, self.tensors)
    }
}
