//! The keys of GGUF files of networks with memories, as llama.cpp writes them.

use super::{
    BLOCK_COUNT, CONTEXT_LENGTH, EMBEDDING_LENGTH, FEED_FORWARD_LENGTH, Keys, LAYER_NORM_EPS, NAME, NORM_EPS,
    check_embedding, missing,
};
use crate::config::{Activation, Arch, Config, Norm, Pairing, Rope, RopeScaling, inconsistent};
use crate::error::Error;
use crate::family::{EMBEDDING, OUTPUT, check_tensors};
use crate::memory::{Memory, MemoryKind};
use crate::tensor::TensorTable;

/// `general.architecture` of Qwen3.5: Qwen3-Next with a matrix of its own for each gate, and heads of values in tiled
/// order (llama.cpp's `conversion/qwen.py`).
pub(super) const QWEN35: &str = "qwen35";

/// The memories of Qwen3-Next and Qwen3.5: the gated delta rule in all of the `n_layers` layers but every fourth.
pub(super) fn qwen3_next(keys: &Keys<'_, '_>, n_layers: usize) -> Result<Vec<Option<Memory>>, Error> {
    let v_heads = keys.needed("ssm.time_step_rank")?;
    let memory = Memory {
        kind: MemoryKind::GatedDelta,
        k_heads: keys.needed("ssm.group_count")?,
        v_heads,
        k_dim: keys.needed("ssm.state_size")?,
        v_dim: head_width(keys, v_heads)?,
        tiled: keys.prefix == QWEN35,
        slots: 0,
        conv: keys.needed("ssm.conv_kernel")?,
        output_norm: true,
        output_gate: true,
        bhrr: None,
    };
    let every = keys.number("full_attention_interval")?.unwrap_or(4).max(1);
    Ok((1..=n_layers).map(|layer| (!layer.is_multiple_of(every)).then(|| memory.clone())).collect())
}

/// Numbers of a value: the inner width over its heads.
fn head_width(keys: &Keys<'_, '_>, v_heads: usize) -> Result<usize, Error> {
    let inner = keys.needed("ssm.inner_size")?;
    match inner.checked_div(v_heads) {
        Some(v_dim) if inner.is_multiple_of(v_heads) => Ok(v_dim),
        _ => Err(inconsistent("ssm.time_step_rank", format!("a divisor of ssm.inner_size = {inner}"), v_heads)),
    }
}

/// The numbers that both families without attention have.
struct Common {
    arch: Arch,
    ffn_dim: usize,
    norm_eps: f32,
    memory: Memory,
}

/// Mamba-2: `ssm.*` keys.
pub(super) fn mamba2(keys: &Keys<'_, '_>, tensors: &TensorTable) -> Result<Config, Error> {
    let v_heads = keys.needed("ssm.time_step_rank")?;
    let v_dim = head_width(keys, v_heads)?;
    let memory = Memory {
        kind: MemoryKind::Mamba2,
        k_heads: keys.number("ssm.group_count")?.unwrap_or(1),
        v_heads,
        k_dim: keys.needed("ssm.state_size")?,
        v_dim,
        tiled: false,
        slots: 0,
        conv: keys.needed("ssm.conv_kernel")?,
        output_norm: true,
        output_gate: true,
        bhrr: None,
    };
    let norm_eps = keys.float(NORM_EPS)?.ok_or_else(|| missing(&keys.key(NORM_EPS)))?;
    finish(keys, tensors, Common { arch: Arch::Mamba2, ffn_dim: 0, norm_eps, memory })
}

/// RWKV-7: `wkv.head_size` and the width of the channel mix.
pub(super) fn rwkv7(keys: &Keys<'_, '_>, tensors: &TensorTable) -> Result<Config, Error> {
    let dim = keys.needed(EMBEDDING_LENGTH)?;
    let head = keys.needed("wkv.head_size")?;
    let heads = match dim.checked_div(head) {
        Some(heads) if dim.is_multiple_of(head) => heads,
        _ => return Err(inconsistent("wkv.head_size", format!("a divisor of embedding_length = {dim}"), head)),
    };
    let norm_eps = keys.float(LAYER_NORM_EPS)?.ok_or_else(|| missing(&keys.key(LAYER_NORM_EPS)))?;
    let ffn_dim = keys.needed(FEED_FORWARD_LENGTH)?;
    finish(keys, tensors, Common { arch: Arch::Rwkv7, ffn_dim, norm_eps, memory: Memory::of_rwkv7(heads, head) })
}

fn finish(keys: &Keys<'_, '_>, tensors: &TensorTable, common: Common) -> Result<Config, Error> {
    let Common { arch, ffn_dim, norm_eps, memory } = common;
    let rows = tensors.get(EMBEDDING).and_then(|tensor| tensor.shape.first().copied());
    let vocab = match keys.number("vocab_size")? {
        Some(vocab) => vocab,
        None => usize::try_from(rows.unwrap_or(0)).unwrap_or(usize::MAX),
    };
    let n_layers = keys.needed(BLOCK_COUNT)?;
    let config = Config {
        arch,
        name: keys.metadata.str(NAME)?.map(str::to_owned),
        n_layers,
        dim: keys.needed(EMBEDDING_LENGTH)?,
        n_heads: memory.v_heads,
        n_kv_heads: memory.v_heads,
        head_dim: memory.v_dim,
        ffn_dim,
        vocab,
        ctx: keys.needed(CONTEXT_LENGTH)?,
        norm_eps,
        rope: Rope::unused(),
        qkv_bias: false,
        attn_output_bias: false,
        mlp_bias: false,
        tied_embeddings: tensors.get(OUTPUT).is_none(),
        window: None,
        activation: Activation::Silu,
        norm: Norm::Rms,
        eos: Vec::new(),
        bos: None,
        memory: vec![Some(memory); n_layers.min(tensors.all().len())],
    };
    check_embedding(&config, tensors)?;
    config.validate()?;
    check_tensors(&config, tensors)?;
    Ok(config)
}

impl Memory {
    /// The memory of a layer of RWKV-7: `heads` of `head × head` numbers.
    pub fn of_rwkv7(heads: usize, head: usize) -> Self {
        Self {
            kind: MemoryKind::Rwkv7,
            k_heads: heads,
            v_heads: heads,
            k_dim: head,
            v_dim: head,
            tiled: false,
            slots: 0,
            conv: 0,
            output_norm: true,
            output_gate: true,
            bhrr: None,
        }
    }
}

impl Rope {
    /// The rotation of networks without attention, which nothing reads.
    pub fn unused() -> Self {
        Self { dims: 2, ..Self::none() }
    }

    /// No rotation: positions are learned.
    pub(crate) fn none() -> Self {
        Self { base: 10_000.0, dims: 0, pairing: Pairing::Half, scaling: RopeScaling::None }
    }
}
