//! RWKV-7 as its author publishes it (BlinkDL's `.pth` files): a state dictionary whose names begin with `blocks.0.`.
//!
//! Names and layouts are those of the reference program (`RWKV-v7/rwkv_v7_demo.py`): the thin matrices are stored as
//! `(inputs, outputs)`, rows of numbers with leading dimensions of 1. The sizes follow from the tensors.

use super::{ForeignError, Tensor, check_cancelled};
use crate::write::{NewModel, NewTensor, write_from};
use crate::{Error, ImportOptions, Report, source};
use rin_kernels::Format;
use rin_model::{Activation, Arch, Config, Memory, Norm, Rope};
use std::path::Path;

/// ε of the layer norms, which no tensor says.
const EPS: f32 = 1e-5;
/// Tokens that a plan is made for where nothing says another number: the state does not depend on it.
const CTX: usize = 1 << 20;

/// How a tensor is laid out in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A row of numbers, whatever its dimensions.
    Row,
    /// `(outputs, inputs)`.
    Matrix,
    /// `(inputs, outputs)`.
    Transposed,
}
use Form::{Matrix, Row, Transposed};

/// The tensors of the whole network: name in the source, name in RIN, layout.
const ONCE: [(&str, &str, Form); 6] = [
    ("emb.weight", "token_embd.weight", Matrix),
    ("blocks.0.ln0.weight", "token_embd_norm.weight", Row),
    ("blocks.0.ln0.bias", "token_embd_norm.bias", Row),
    ("ln_out.weight", "output_norm.weight", Row),
    ("ln_out.bias", "output_norm.bias", Row),
    ("head.weight", "output.weight", Matrix),
];

/// The tensors of a layer.
const LAYER: [(&str, &str, Form); 33] = [
    ("ln1.weight", "attn_norm.weight", Row),
    ("ln1.bias", "attn_norm.bias", Row),
    ("ln2.weight", "attn_norm_2.weight", Row),
    ("ln2.bias", "attn_norm_2.bias", Row),
    ("att.x_r", "time_mix_lerp_r.weight", Row),
    ("att.x_w", "time_mix_lerp_w.weight", Row),
    ("att.x_k", "time_mix_lerp_k.weight", Row),
    ("att.x_v", "time_mix_lerp_v.weight", Row),
    ("att.x_a", "time_mix_lerp_a.weight", Row),
    ("att.x_g", "time_mix_lerp_g.weight", Row),
    ("att.w0", "time_mix_w0.weight", Row),
    ("att.w1", "time_mix_w1.weight", Transposed),
    ("att.w2", "time_mix_w2.weight", Transposed),
    ("att.a0", "time_mix_a0.weight", Row),
    ("att.a1", "time_mix_a1.weight", Transposed),
    ("att.a2", "time_mix_a2.weight", Transposed),
    ("att.v0", "time_mix_v0.weight", Row),
    ("att.v1", "time_mix_v1.weight", Transposed),
    ("att.v2", "time_mix_v2.weight", Transposed),
    ("att.g1", "time_mix_g1.weight", Transposed),
    ("att.g2", "time_mix_g2.weight", Transposed),
    ("att.k_k", "time_mix_k_k.weight", Row),
    ("att.k_a", "time_mix_k_a.weight", Row),
    ("att.r_k", "time_mix_r_k.weight", Row),
    ("att.receptance.weight", "time_mix_receptance.weight", Matrix),
    ("att.key.weight", "time_mix_key.weight", Matrix),
    ("att.value.weight", "time_mix_value.weight", Matrix),
    ("att.output.weight", "time_mix_output.weight", Matrix),
    ("att.ln_x.weight", "time_mix_ln.weight", Row),
    ("att.ln_x.bias", "time_mix_ln.bias", Row),
    ("ffn.x_k", "channel_mix_lerp_k.weight", Row),
    ("ffn.key.weight", "channel_mix_key.weight", Matrix),
    ("ffn.value.weight", "channel_mix_value.weight", Matrix),
];

/// Whether the tensors are those of RWKV, of any version.
pub(super) fn is_rwkv(tensors: &[Tensor]) -> bool {
    ["emb.weight", "blocks.0.ln0.weight", "blocks.0.att.key.weight"]
        .iter()
        .all(|name| tensors.iter().any(|tensor| tensor.name == *name))
}

/// The version, by the names that only it has.
fn version(tensors: &[Tensor]) -> &'static str {
    let has = |part: &str| tensors.iter().any(|tensor| tensor.name.contains(part));
    match () {
        () if has(".att.r_k") => "7",
        () if has(".att.time_maa_") => "6",
        () if has(".att.ln_x.") => "5",
        () => "4",
    }
}

/// Writes the network of a file of RWKV-7 to `dst`. A `tokenizer.json` beside `src` comes along; without one the file
/// runs on the ids of tokens alone.
pub(super) fn import(
    src: &Path,
    dst: &Path,
    tensors: Vec<Tensor>,
    format: &str,
    options: &ImportOptions,
) -> Result<Report, Error> {
    let found = version(&tensors);
    if found != "7" {
        let what = format!("the file holds RWKV-{found}, and of this family RWKV-7 runs");
        return Err(ForeignError::unsupported(what).into());
    }
    let config = config(&tensors, source::name(src))?;
    let mut out = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        check_cancelled(options)?;
        out.extend(converted(tensor, options.quant)?);
    }
    let tokenizer = std::fs::read(src.with_file_name("tokenizer.json")).unwrap_or_default();
    let model = NewModel {
        config: &config,
        tokenizer: &tokenizer,
        tokenizer_config: None,
        source: &source::name(src),
        quant: options.quant,
    };
    write_from(dst, &model, format, &out, options.overwrite)
}

/// Splits `blocks.N.rest`.
fn in_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// The numbers of the network, which its tensors show.
fn config(tensors: &[Tensor], name: String) -> Result<Config, ForeignError> {
    let shape = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor.name == name);
        match tensor.map(|tensor| &tensor.shape[..]) {
            Some([rows, cols]) => Ok([*rows, *cols]),
            Some(other) => Err(ForeignError::unsupported(format!("the tensor `{name}` is no matrix: {other:?}"))),
            None => Err(ForeignError::unsupported(format!("the file holds RWKV-7 without the tensor `{name}`"))),
        }
    };
    let [vocab, dim] = shape("emb.weight")?;
    let [heads, head] = shape("blocks.0.att.r_k")?;
    let [ffn_dim, _] = shape("blocks.0.ffn.key.weight")?;
    let layers = tensors.iter().filter_map(|tensor| in_layer(&tensor.name)).map(|(layer, _)| layer);
    let n_layers = layers.max().map_or(0, |last| last.saturating_add(1));
    // A name may say any number; each layer has tensors.
    if n_layers > tensors.len() {
        return Err(ForeignError::unsupported(format!("the names say {n_layers} layers, and not all are there")));
    }
    Ok(Config {
        arch: Arch::Rwkv7,
        name: Some(name),
        n_layers,
        dim,
        n_heads: heads,
        n_kv_heads: heads,
        head_dim: head,
        ffn_dim,
        vocab,
        ctx: CTX,
        norm_eps: EPS,
        rope: Rope::unused(),
        qkv_bias: false,
        attn_output_bias: false,
        mlp_bias: false,
        tied_embeddings: false,
        window: None,
        activation: Activation::Silu,
        norm: Norm::Rms,
        eos: Vec::new(),
        bos: None,
        memory: vec![Some(Memory::of_rwkv7(heads, head)); n_layers],
    })
}

/// A tensor as RIN has it; none for those that the first layer holds and does not use.
fn converted(tensor: Tensor, quant: Option<Format>) -> Result<Option<NewTensor>, Error> {
    let unknown = || {
        let what = format!("the tensor `{}` is none of RWKV-7's: the file holds another version of it", tensor.name);
        ForeignError::unsupported(what)
    };
    let once = ONCE.iter().find(|(source, ..)| *source == tensor.name);
    let (name, form) = match (once, in_layer(&tensor.name)) {
        (Some((_, name, form)), _) => ((*name).to_owned(), *form),
        // The first layer's values are those that later ones are blended with.
        (None, Some((0, "att.v0" | "att.v1" | "att.v2"))) => return Ok(None),
        (None, Some((layer, rest))) => {
            let (_, name, form) = LAYER.iter().find(|(source, ..)| *source == rest).ok_or_else(unknown)?;
            (format!("blk.{layer}.{name}"), *form)
        }
        (None, None) => return Err(unknown().into()),
    };
    if let Some(at) = tensor.values.iter().position(|value| !value.is_finite()) {
        let col = tensor.shape.last().copied().unwrap_or(1).max(1);
        let (row, col) = (at.checked_div(col).unwrap_or(0), at.checked_rem(col).unwrap_or(0));
        return Err(rin_engine::Error::NonFiniteWeight { tensor: tensor.name, row, col }.into());
    }
    let (shape, values) = match (form, &tensor.shape[..]) {
        (Row, _) => return Ok(Some(NewTensor::vector(&name, &tensor.values))),
        (Matrix, [rows, cols]) => ([*rows, *cols], tensor.values),
        (Transposed, [inputs, outputs]) => {
            let row = |first: usize| tensor.values.iter().skip(first).step_by((*outputs).max(1)).copied();
            ([*outputs, *inputs], (0..*outputs).flat_map(row).collect())
        }
        (_, other) => {
            let what = format!("the tensor `{}` is no matrix: {other:?}", tensor.name);
            return Err(ForeignError::unsupported(what).into());
        }
    };
    let whole = |format: &Format| shape.last().is_some_and(|cols| cols.is_multiple_of(format.block_len()));
    let format = quant.filter(whole).unwrap_or(tensor.format);
    Ok(Some(NewTensor::matrix(&name, format, shape, &values)?))
}

#[cfg(test)]
mod tests {
    use super::{Tensor, import, is_rwkv};
    use crate::ImportOptions;
    use rin_kernels::Format;
    use std::path::Path;

    fn refusal(parts: &[&str]) -> String {
        let tensors: Vec<Tensor> = ["emb.weight", "blocks.0.ln0.weight", "blocks.0.att.key.weight"]
            .iter()
            .chain(parts)
            .map(|name| Tensor {
                name: (*name).to_owned(),
                shape: vec![2, 2],
                values: vec![0.0; 4],
                format: Format::F32,
            })
            .collect();
        assert!(is_rwkv(&tensors));
        let dst = Path::new("no-such-folder/x.rin");
        import(Path::new("x.pth"), dst, tensors, "pytorch", &ImportOptions::default()).unwrap_err().to_string()
    }

    #[test]
    fn other_versions_and_foreign_tensors_are_named() {
        for (parts, version) in [
            (&["blocks.0.att.time_first", "blocks.0.att.time_decay"][..], "RWKV-4"),
            (&["blocks.0.att.ln_x.weight", "blocks.0.att.time_faaaa"], "RWKV-5"),
            (&["blocks.0.att.ln_x.weight", "blocks.0.att.time_maa_x"], "RWKV-6"),
        ] {
            let error = refusal(parts);
            assert!(error.contains(version) && error.contains("RWKV-7 runs"), "{error}");
        }
        let error = refusal(&["blocks.0.att.r_k", "blocks.0.ffn.key.weight", "blocks.0.ffn.s_emb.weight"]);
        assert!(error.contains("`blocks.0.ffn.s_emb.weight`"), "{error}");
        let error = refusal(&["blocks.0.att.r_k", "blocks.0.ffn.key.weight", "blocks.77.ln1.weight"]);
        assert!(error.contains("78 layers"), "{error}");
        let error = refusal(&["blocks.0.att.r_k"]);
        assert!(error.contains("`blocks.0.ffn.key.weight`"), "{error}");
    }
}
