//! Decoders as networks on rows of ids, for the mode rin: a whole causal pass that gives the logits of every position.
//!
//! The graph is that of `rin_engine::arch::decoder` (llama, mistral, qwen2, gpt2), written down as nodes: key and value heads are
//! repeated for the query heads that share them, cosines and sines become a table of positions. The source is whatever a
//! decoder can be read from: a GGUF file, a Hugging Face folder, a `.rin` file that was imported or trained.

use crate::convert::{Built, Converted};
use crate::foreign::{ForeignError, INTEGERS_NEED_ROWS};
use crate::write::NewTensor;
use crate::{Error, ImportOptions, Report, source, staged};
use rin_engine::arch::rope;
use rin_engine::weights::{matrix_values, vector_values};
use rin_kernels::ops::rope::RopeTable;
use rin_kernels::ops::wide::attention::MAX_POSITIONS;
use rin_kernels::{Cpu, Format};
use rin_model::{
    Arch, Body, Config, Extent, Function, Mode, ModelFile, Network, Node, Norm, Op, Output, OutputKind, POSITIONS,
    Pairing, Port, RopeScaling, TensorInfo,
};
use std::path::Path;

/// Writes the decoder in `file` to `dst`, in integers.
pub(crate) fn import(file: &ModelFile, src: &Path, dst: &Path, options: &ImportOptions) -> Result<Report, Error> {
    let Some(rows) = &options.calibration else {
        return Err(ForeignError::unsupported(INTEGERS_NEED_ROWS).into());
    };
    if file.network().is_some() {
        return Err(unsupported("the source is a network on rows already; import what it was made from"));
    }
    staged::check_destination(dst, &source::files(file)?, options.overwrite)?;
    let name = source::name(src);
    let floats = build(file, &name)?;
    let format = file.format().to_string();
    let converted = Converted { name: &name, format: &format, quant: None };
    // In integers there is nothing else to write.
    let own = || build(file, &name);
    let report = converted.beside_floats(dst, &floats, own, rows, options)?;
    file.check_unchanged()?;
    Ok(report)
}

fn unsupported(what: &str) -> Error {
    ForeignError::unsupported(what).into()
}

/// The network in f32 and its tensors.
fn build(file: &ModelFile, name: &str) -> Result<Built, Error> {
    let c = file.config()?;
    if !matches!(c.arch, Arch::Llama | Arch::Qwen2 | Arch::Gpt2) || c.memory.iter().any(Option::is_some) {
        let families = "llama, mistral, qwen2 and gpt2";
        let what = format!("the mode rin takes decoders of the families {families}, and this is {}", c.arch);
        return Err(unsupported(&what));
    }
    // A window as long as the sequence is none.
    let fitting = Extent::MOST.checked_div(c.vocab).unwrap_or(0).min(c.window.unwrap_or(usize::MAX));
    let positions = c.ctx.min(fitting).clamp(1, MAX_POSITIONS);
    let mut b = Builder { file, config: c, nodes: Vec::new(), tensors: Vec::new() };
    if !c.learned_positions() {
        b.angles(positions)?;
    }
    b.write()?;
    let Builder { nodes, tensors, .. } = b;
    let network = Network {
        mode: Mode::Attn,
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        inputs: vec![Port::sequence("ids", positions, false), Port::length()],
        outputs: vec![Output { name: "logits".to_owned(), kind: OutputKind::Logits, labels: Vec::new() }],
        body: Body::Nodes(nodes),
    };
    Ok((network, tensors))
}

const ANGLES: &str = "rope.angles";

struct Builder<'a> {
    file: &'a ModelFile,
    config: &'a Config,
    nodes: Vec<Node>,
    tensors: Vec<NewTensor>,
}

impl<'a> Builder<'a> {
    fn tensor(&self, name: &str) -> Result<&'a TensorInfo, Error> {
        self.file.tensor(name).ok_or_else(|| unsupported(&format!("the file has no tensor `{name}`")))
    }

    fn node(&mut self, op: Op, inputs: &[&str], output: &str) -> String {
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        self.nodes.push(Node { inputs, output: output.to_owned(), op });
        output.to_owned()
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let tensor = self.tensor(name)?;
        Ok(vector_values(tensor, self.file.bytes(tensor))?)
    }

    /// Rows of a matrix, and their length.
    fn matrix(&self, name: &str) -> Result<(Vec<f32>, usize), Error> {
        let tensor = self.tensor(name)?;
        let cols = tensor.shape.last().and_then(|&n| usize::try_from(n).ok()).unwrap_or(0);
        Ok((matrix_values(tensor, self.file.bytes(tensor))?, cols))
    }

    /// The table of positions, as decoders compute it at each.
    fn angles(&mut self, positions: usize) -> Result<(), Error> {
        let rope = &self.config.rope;
        let factors = match rope.scaling {
            RopeScaling::Factors => Some(self.vector("rope_freqs.weight")?),
            _ => None,
        };
        let pairs = self.pairs();
        let mut frequencies = vec![0.0; pairs];
        let scale = rope::frequencies(rope, factors.as_deref(), &mut frequencies);
        let mut angles = vec![0.0; positions.saturating_mul(pairs).saturating_mul(2)];
        let op = RopeTable::select(&Cpu::detect());
        for (position, row) in angles.chunks_exact_mut(pairs.saturating_mul(2).max(1)).enumerate() {
            let (cos, sin) = row.split_at_mut(pairs);
            op.run(cos, sin, &frequencies, position as f32, scale);
        }
        self.tensors.push(NewTensor::vector(ANGLES, &angles));
        Ok(())
    }

    fn pairs(&self) -> usize {
        self.config.rope.dims >> 1
    }

    /// A vector of the file under another name.
    fn push_vector(&mut self, tensor: &str, name: String) -> Result<String, Error> {
        self.tensors.push(NewTensor::vector(&name, &self.vector(tensor)?));
        Ok(name)
    }

    /// The norm called `name` in the file.
    fn norm(&mut self, name: &str, input: &str, output: &str) -> Result<String, Error> {
        let weight = self.push_vector(&format!("{name}.weight"), format!("{output}.weight"))?;
        let eps = self.config.norm_eps;
        let op = match self.config.norm {
            Norm::Layer => {
                let bias = self.push_vector(&format!("{name}.bias"), format!("{output}.bias"))?;
                Op::LayerNorm { weight, bias, eps }
            }
            _ => Op::RmsNorm { weight, eps },
        };
        Ok(self.node(op, &[input], output))
    }

    /// A table of the file that is looked up.
    fn table(&mut self, tensor: &str, name: &str) -> Result<(), Error> {
        let (values, width) = self.matrix(tensor)?;
        let rows = values.len().checked_div(width).unwrap_or(0);
        self.tensors.push(NewTensor::matrix(name, Format::F32, [rows, width], &values)?);
        Ok(())
    }

    /// A dense layer of matrices below each other, each given by its name and by how many query heads share one of its own.
    fn dense(
        &mut self,
        parts: &[(&str, usize)],
        bias: bool,
        function: Function,
        input: &str,
        output: &str,
    ) -> Result<String, Error> {
        let (mut weights, mut biases, mut width) = (Vec::new(), Vec::new(), 0);
        for &(name, shared) in parts {
            let (rows, cols) = self.matrix(&format!("{name}.weight"))?;
            let head = if shared > 1 { self.config.head_dim } else { rows.len().checked_div(cols).unwrap_or(0) };
            repeat(&rows, head.saturating_mul(cols), shared, &mut weights);
            if bias {
                repeat(&self.vector(&format!("{name}.bias"))?, head, shared, &mut biases);
            }
            width = cols;
        }
        let rows = weights.len().checked_div(width).unwrap_or(0);
        let weight = format!("{output}.weight");
        self.tensors.push(NewTensor::matrix(&weight, Format::F32, [rows, width], &weights)?);
        let bias = bias.then(|| format!("{output}.bias"));
        if let Some(name) = &bias {
            self.tensors.push(NewTensor::vector(name, &biases));
        }
        Ok(self.node(Op::Dense { weight, bias, function }, &[input], output))
    }

    fn write(&mut self) -> Result<(), Error> {
        let c = self.config;
        let (identity, add) = (Function::Identity, || Op::Add { function: Function::Identity });
        self.table("token_embd.weight", "words")?;
        let mut x = self.node(Op::Embed { table: "words".to_owned() }, &["ids"], "embedding");
        if c.learned_positions() {
            self.table(POSITIONS, "positions")?;
            x = self.node(Op::AddPositions { table: "positions".to_owned() }, &[&x], "embedding_at_positions");
        }
        let shared = c.n_heads.checked_div(c.n_kv_heads).unwrap_or(1);
        for layer in 0..c.n_layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            let of = |part: &str| format!("layer.{layer}.{part}");
            let normed = self.norm(&name("attn_norm"), &x, &of("attention_norm"))?;
            let [q, k, v, all, o] = ["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output"].map(name);
            let separate = [(&*q, 1), (&*k, shared), (&*v, shared)];
            let parts = if c.arch == Arch::Gpt2 { &[(&*all, 1)][..] } else { &separate };
            let qkv = self.dense(parts, c.qkv_bias, identity, &normed, &of("qkv"))?;
            let turned = if c.learned_positions() {
                qkv
            } else {
                let (pairs, interleaved) = (self.pairs(), c.rope.pairing == Pairing::Interleaved);
                let rotate = Op::Rotate { heads: c.n_heads, pairs, interleaved, angles: ANGLES.to_owned() };
                self.node(rotate, &[&qkv], &of("turned"))
            };
            let attention = Op::Attention { heads: c.n_heads, causal: true };
            let attention = self.node(attention, &[&turned], &of("attention"));
            let out = self.dense(&[(&o, 1)], c.attn_output_bias, identity, &attention, &of("attention_out"))?;
            x = self.node(add(), &[&out, &x], &of("attention_sum"));
            let normed = self.norm(&name("ffn_norm"), &x, &of("norm"))?;
            let [gate, up, down] = ["ffn_gate", "ffn_up", "ffn_down"].map(name);
            let function = c.activation.function();
            let inner = if c.arch == Arch::Gpt2 {
                self.dense(&[(&up, 1)], c.mlp_bias, function, &normed, &of("up"))?
            } else {
                let gate = self.dense(&[(&gate, 1)], c.mlp_bias, function, &normed, &of("gate"))?;
                let up = self.dense(&[(&up, 1)], c.mlp_bias, identity, &normed, &of("up"))?;
                self.node(Op::Multiply, &[&gate, &up], &of("gated"))
            };
            let down = self.dense(&[(&down, 1)], c.mlp_bias, identity, &inner, &of("down"))?;
            x = self.node(add(), &[&down, &x], &of("sum"));
        }
        let normed = self.norm("output_norm", &x, "output_norm")?;
        let output = if c.tied_embeddings { "token_embd" } else { "output" };
        self.dense(&[(output, 1)], false, identity, &normed, "logits")?;
        Ok(())
    }
}

/// Each `size` values as often as `times` says, one after the other.
fn repeat(values: &[f32], size: usize, times: usize, to: &mut Vec<f32>) {
    for values in values.chunks(size.max(1)) {
        for _ in 0..times {
            to.extend_from_slice(values);
        }
    }
}
