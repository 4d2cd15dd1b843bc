//! The families of networks: their names, and the tensors that each needs, in one table.

use crate::config::{Arch, Config, Pairing, RopeScaling, inconsistent};
use crate::error::{Error, fault};
use crate::memory::{Address, Memory, MemoryKind};
use crate::qwen3_next::{self, QWEN35_TEXT};
use crate::tensor::{RowOrder, TensorTable};

/// What sets one family apart.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) arch: Arch,
    /// `general.architecture` of GGUF files.
    pub(crate) gguf: &'static str,
    /// `model_type`s of Hugging Face configurations.
    pub(crate) hf: &'static [&'static str],
    /// Which elements of a head rotate together.
    pub(crate) pairing: Pairing,
    /// Whether Hugging Face files hold the rows of q and k in the order of rotated halves, against `pairing`.
    pub(crate) hf_half_rows: bool,
    /// Tensors that exist once.
    model: &'static [TensorRule],
    /// Tensors of each layer.
    layer: &'static [TensorRule],
    /// What the names of a layer's tensors begin with in Hugging Face files.
    hf_layers: &'static str,
    /// What may stand before all names in Hugging Face files.
    hf_prefix: &'static str,
}

const DECODER: Family = Family {
    arch: Arch::Llama,
    gguf: "llama",
    hf: &["llama", "mistral"],
    pairing: Pairing::Interleaved,
    hf_half_rows: true,
    model: &DECODER_MODEL,
    layer: &DECODER_LAYER,
    hf_layers: "model.layers.",
    hf_prefix: "",
};

pub(crate) static FAMILIES: [Family; 6] = [
    DECODER,
    Family { arch: Arch::Qwen2, gguf: "qwen2", hf: &["qwen2"], pairing: Pairing::Half, hf_half_rows: false, ..DECODER },
    Family {
        arch: Arch::Qwen3Next,
        gguf: "qwen3next",
        hf: &["qwen3_next", QWEN35_TEXT],
        pairing: Pairing::Half,
        hf_half_rows: false,
        ..DECODER
    },
    Family {
        arch: Arch::Mamba2,
        gguf: "mamba2",
        hf: &["mamba2"],
        pairing: Pairing::Half,
        hf_half_rows: false,
        model: &MAMBA_MODEL,
        layer: &MAMBA_LAYER,
        hf_layers: "backbone.layers.",
        hf_prefix: "",
    },
    Family {
        arch: Arch::Rwkv7,
        gguf: "rwkv7",
        hf: &["rwkv7"],
        pairing: Pairing::Half,
        hf_half_rows: false,
        model: &RWKV_MODEL,
        layer: &RWKV_LAYER,
        hf_layers: "model.layers.",
        hf_prefix: "",
    },
    Family {
        arch: Arch::Gpt2,
        gguf: "gpt2",
        hf: &["gpt2"],
        pairing: Pairing::Half,
        hf_half_rows: false,
        model: &GPT2_MODEL,
        layer: &GPT2_LAYER,
        hf_layers: "h.",
        hf_prefix: "transformer.",
    },
];

/// A width in terms of the configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Width {
    Dim,
    Q,
    /// Queries, and their gates where a family has them.
    QAndGate,
    Kv,
    Head,
    Ffn,
    Vocab,
    Ctx,
    /// Queries, keys and values.
    Qkv,
    RopePairs,
    /// Queries, keys, values and gates of a memory.
    MemIn,
    MemChannels,
    MemTaps,
    MemDecay,
    MemHeads,
    MemTwiceHeads,
    MemKeys,
    MemValues,
    MemValue,
    MemSlots,
    MemKey,
    /// What Mamba-2 projects its input to.
    MambaIn,
    /// Whatever the file has; the plan holds it against the tensors beside it.
    Any,
}

impl Width {
    fn of(self, config: &Config, layer: usize) -> Option<u64> {
        let of_memory = |f: fn(&Memory) -> usize| config.memory_of(layer).map_or(0, f);
        let width = match self {
            Self::Dim => config.dim,
            Self::QAndGate if config.arch == Arch::Qwen3Next => config.q_dim().saturating_mul(2),
            Self::Q | Self::QAndGate => config.q_dim(),
            Self::Kv => config.kv_dim(),
            Self::Head => config.head_dim,
            Self::Ffn => config.ffn_dim,
            Self::Vocab => config.vocab,
            Self::Ctx => config.ctx,
            Self::Qkv => config.kv_dim().saturating_mul(2).saturating_add(config.q_dim()),
            Self::RopePairs => config.rope.dims.checked_div(2).unwrap_or(0),
            Self::MemIn => of_memory(|m| {
                let gate = if m.output_gate { m.v_width() } else { 0 };
                m.channels().saturating_add(gate)
            }),
            Self::MemChannels => of_memory(Memory::channels),
            Self::MemTaps => of_memory(|m| m.conv),
            Self::MemDecay => of_memory(Memory::decay_width),
            Self::MemHeads => of_memory(|m| m.v_heads),
            Self::MemTwiceHeads => of_memory(|m| m.v_heads.saturating_mul(2)),
            Self::MemKeys => of_memory(Memory::k_width),
            Self::MemValues => of_memory(Memory::v_width),
            Self::MemValue => of_memory(|m| m.v_dim),
            Self::MemSlots => of_memory(|m| m.k_heads.saturating_mul(m.slots)),
            Self::MemKey => of_memory(|m| m.k_dim),
            Self::MambaIn => of_memory(|m| m.channels().saturating_add(m.v_width()).saturating_add(m.v_heads)),
            Self::Any => return None,
        };
        Some(u64::try_from(width).unwrap_or(u64::MAX))
    }
}

/// When a tensor is needed.
#[derive(Debug, Clone, Copy)]
enum Needed {
    Always,
    Untied,
    RopeFactors,
    /// In layers that attend.
    Attention,
    QkvBias,
    AttnOutputBias,
    /// Norms of query and key heads.
    HeadNorms,
    MlpBias,
    /// In layers with a memory.
    Memory,
    Conv,
    Decay,
    /// Beta alone.
    Beta,
    /// Queries, keys, values and gates in one matrix, or in two.
    MemoryIn,
    /// Beta and decay in one matrix, or in two.
    BetaAndDecay,
    /// Biases of decays.
    DecayBias,
    Rate,
    Skip,
    /// Keys of the seventh RWKV.
    RwkvKeys,
    Codebook,
    OutputNorm,
    /// In all layers but the first.
    Later,
    /// In one of two forms; the plan says what is missing.
    EitherForm,
}

/// The tensors of a layer that stand in for one, where a file has them.
fn instead_of(name: &str) -> &'static [&'static str] {
    match name {
        "mem_in.weight" => &["mem_qkv.weight", "mem_gate.weight"],
        "mem_ba.weight" => &["mem_beta.weight", "mem_decay.weight"],
        _ => &[],
    }
}

impl Needed {
    fn by(self, config: &Config, layer: usize) -> bool {
        let memory = config.memory_of(layer);
        let has = |f: &dyn Fn(&Memory) -> bool| memory.is_some_and(f);
        let is = |kinds: &[MemoryKind]| memory.is_some_and(|m| kinds.contains(&m.kind));
        match self {
            Self::Always => true,
            Self::Untied => !config.tied_embeddings,
            Self::RopeFactors => config.rope.scaling == RopeScaling::Factors,
            Self::Attention => memory.is_none(),
            Self::QkvBias => memory.is_none() && config.qkv_bias,
            Self::AttnOutputBias => memory.is_none() && config.attn_output_bias,
            Self::HeadNorms => memory.is_none() && config.arch == Arch::Qwen3Next,
            Self::MlpBias => config.mlp_bias,
            Self::Memory | Self::MemoryIn => memory.is_some(),
            Self::Conv => has(&|m| m.conv > 0),
            Self::Decay => has(&|m| m.decay_width() > 0 && m.kind != MemoryKind::GatedDelta),
            Self::Beta => has(&|m| m.has_beta() && m.kind != MemoryKind::GatedDelta),
            Self::BetaAndDecay => is(&[MemoryKind::GatedDelta]),
            Self::DecayBias => has(&|m| m.decay_width() > 0),
            Self::Rate => is(&[MemoryKind::GatedDelta, MemoryKind::Mamba2]),
            Self::Skip => is(&[MemoryKind::Mamba2]),
            Self::RwkvKeys => is(&[MemoryKind::Rwkv7]),
            Self::Codebook => has(&|m| m.bhrr.as_ref().is_some_and(|arms| arms.address != Address::Hash)),
            Self::OutputNorm => has(&|m| m.output_norm),
            Self::Later => layer > 0,
            Self::EitherForm => false,
        }
    }
}

#[derive(Debug)]
struct TensorRule {
    /// Name in GGUF files; in a layer, what follows `blk.N.`.
    name: &'static str,
    /// Name in Hugging Face files; in a layer, what follows the layer's number. Empty: never there.
    hf: &'static str,
    shape: &'static [Width],
    needed: Needed,
}

const fn rule(name: &'static str, hf: &'static str, shape: &'static [Width], needed: Needed) -> TensorRule {
    TensorRule { name, hf, shape, needed }
}

use Width::{
    Any, Ctx, Dim, Ffn, Head, Kv, MambaIn, MemChannels, MemDecay, MemHeads, MemIn, MemKey, MemKeys, MemSlots, MemTaps,
    MemTwiceHeads, MemValue, MemValues, Q, QAndGate, Qkv, RopePairs, Vocab,
};

static DECODER_MODEL: [TensorRule; 4] = [
    rule(EMBEDDING, "model.embed_tokens.weight", &[Vocab, Dim], Needed::Always),
    rule("output_norm.weight", "model.norm.weight", &[Dim], Needed::Always),
    rule(OUTPUT, "lm_head.weight", &[Vocab, Dim], Needed::Untied),
    rule(ROPE_FACTORS, "", &[RopePairs], Needed::RopeFactors),
];

static DECODER_LAYER: [TensorRule; 35] = [
    rule("attn_norm.weight", "input_layernorm.weight", &[Dim], Needed::Always),
    rule("attn_q.weight", "self_attn.q_proj.weight", &[QAndGate, Dim], Needed::Attention),
    rule("attn_q.bias", "self_attn.q_proj.bias", &[Q], Needed::QkvBias),
    rule("attn_k.weight", "self_attn.k_proj.weight", &[Kv, Dim], Needed::Attention),
    rule("attn_k.bias", "self_attn.k_proj.bias", &[Kv], Needed::QkvBias),
    rule("attn_v.weight", "self_attn.v_proj.weight", &[Kv, Dim], Needed::Attention),
    rule("attn_v.bias", "self_attn.v_proj.bias", &[Kv], Needed::QkvBias),
    rule("attn_q_norm.weight", "self_attn.q_norm.weight", &[Head], Needed::HeadNorms),
    rule("attn_k_norm.weight", "self_attn.k_norm.weight", &[Head], Needed::HeadNorms),
    rule("attn_output.weight", "self_attn.o_proj.weight", &[Dim, Q], Needed::Attention),
    rule("attn_output.bias", "self_attn.o_proj.bias", &[Dim], Needed::AttnOutputBias),
    rule("mem_in.weight", "linear_attn.in_proj_qkvz.weight", &[MemIn, Dim], Needed::MemoryIn),
    rule("mem_qkv.weight", "linear_attn.in_proj_qkv.weight", &[MemChannels, Dim], Needed::EitherForm),
    rule("mem_gate.weight", "linear_attn.in_proj_z.weight", &[MemValues, Dim], Needed::EitherForm),
    rule("mem_conv.weight", "linear_attn.conv1d.weight", &[MemChannels, MemTaps], Needed::Conv),
    rule("mem_ba.weight", "linear_attn.in_proj_ba.weight", &[MemTwiceHeads, Dim], Needed::BetaAndDecay),
    rule("mem_beta.weight", "linear_attn.in_proj_b.weight", &[MemHeads, Dim], Needed::Beta),
    rule("mem_decay.weight", "linear_attn.in_proj_a.weight", &[MemDecay, Dim], Needed::Decay),
    rule("mem_decay.bias", "linear_attn.dt_bias", &[MemDecay], Needed::DecayBias),
    rule("mem_rate", "linear_attn.A_log", &[MemHeads], Needed::Rate),
    rule("mem_skip", "", &[MemHeads], Needed::Skip),
    rule("mem_learn.weight", "", &[MemKeys, Dim], Needed::RwkvKeys),
    rule("mem_learn.bias", "", &[MemKeys], Needed::RwkvKeys),
    rule("mem_key_unit", "", &[MemKeys], Needed::RwkvKeys),
    rule("mem_key_rate", "", &[MemKeys], Needed::RwkvKeys),
    rule("mem_codebook", "", &[MemSlots, MemKey], Needed::Codebook),
    rule("mem_norm.weight", "linear_attn.norm.weight", &[MemValue], Needed::OutputNorm),
    rule("mem_output.weight", "linear_attn.out_proj.weight", &[Dim, MemValues], Needed::Memory),
    rule("ffn_norm.weight", "post_attention_layernorm.weight", &[Dim], Needed::Always),
    rule("ffn_gate.weight", "mlp.gate_proj.weight", &[Ffn, Dim], Needed::Always),
    rule("ffn_gate.bias", "mlp.gate_proj.bias", &[Ffn], Needed::MlpBias),
    rule("ffn_up.weight", "mlp.up_proj.weight", &[Ffn, Dim], Needed::Always),
    rule("ffn_up.bias", "mlp.up_proj.bias", &[Ffn], Needed::MlpBias),
    rule("ffn_down.weight", "mlp.down_proj.weight", &[Dim, Ffn], Needed::Always),
    rule("ffn_down.bias", "mlp.down_proj.bias", &[Dim], Needed::MlpBias),
];

static MAMBA_MODEL: [TensorRule; 3] = [
    rule(EMBEDDING, "backbone.embeddings.weight", &[Vocab, Dim], Needed::Always),
    rule("output_norm.weight", "backbone.norm_f.weight", &[Dim], Needed::Always),
    rule(OUTPUT, "lm_head.weight", &[Vocab, Dim], Needed::Untied),
];

static MAMBA_LAYER: [TensorRule; 9] = [
    rule("attn_norm.weight", "norm.weight", &[Dim], Needed::Always),
    rule("ssm_in.weight", "mixer.in_proj.weight", &[MambaIn, Dim], Needed::Always),
    rule("ssm_conv1d.weight", "mixer.conv1d.weight", &[MemChannels, MemTaps], Needed::Always),
    rule("ssm_conv1d.bias", "mixer.conv1d.bias", &[MemChannels], Needed::EitherForm),
    rule("ssm_dt.bias", "mixer.dt_bias", &[MemHeads], Needed::Always),
    rule("ssm_a", "mixer.A_log", &[MemHeads], Needed::Always),
    rule("ssm_d", "mixer.D", &[MemHeads], Needed::Always),
    rule("ssm_norm.weight", "mixer.norm.weight", &[MemValues], Needed::Always),
    rule("ssm_out.weight", "mixer.out_proj.weight", &[Dim, MemValues], Needed::Always),
];

static RWKV_MODEL: [TensorRule; 6] = [
    rule(EMBEDDING, "model.embeddings.weight", &[Vocab, Dim], Needed::Always),
    rule("token_embd_norm.weight", "model.layers.0.pre_norm.weight", &[Dim], Needed::Always),
    rule("token_embd_norm.bias", "model.layers.0.pre_norm.bias", &[Dim], Needed::Always),
    rule("output_norm.weight", "model.norm.weight", &[Dim], Needed::Always),
    rule("output_norm.bias", "model.norm.bias", &[Dim], Needed::Always),
    rule(OUTPUT, "lm_head.weight", &[Vocab, Dim], Needed::Always),
];

static RWKV_LAYER: [TensorRule; 36] = [
    rule("attn_norm.weight", "attn_norm.weight", &[Dim], Needed::Always),
    rule("attn_norm.bias", "attn_norm.bias", &[Dim], Needed::Always),
    rule("attn_norm_2.weight", "ffn_norm.weight", &[Dim], Needed::Always),
    rule("attn_norm_2.bias", "ffn_norm.bias", &[Dim], Needed::Always),
    rule("time_mix_lerp_fused.weight", "", &[Any], Needed::EitherForm),
    rule("time_mix_lerp_r.weight", "attn.x_r", &[Dim], Needed::EitherForm),
    rule("time_mix_lerp_w.weight", "attn.x_w", &[Dim], Needed::EitherForm),
    rule("time_mix_lerp_k.weight", "attn.x_k", &[Dim], Needed::EitherForm),
    rule("time_mix_lerp_v.weight", "attn.x_v", &[Dim], Needed::EitherForm),
    rule("time_mix_lerp_a.weight", "attn.x_a", &[Dim], Needed::EitherForm),
    rule("time_mix_lerp_g.weight", "attn.x_g", &[Dim], Needed::EitherForm),
    rule("time_mix_w0.weight", "attn.w_lora.lora.2.bias", &[Dim], Needed::Always),
    rule("time_mix_w1.weight", "attn.w_lora.lora.0.weight", &[Any, Dim], Needed::Always),
    rule("time_mix_w2.weight", "attn.w_lora.lora.2.weight", &[Dim, Any], Needed::Always),
    rule("time_mix_a0.weight", "attn.a_lora.lora.2.bias", &[Dim], Needed::Always),
    rule("time_mix_a1.weight", "attn.a_lora.lora.0.weight", &[Any, Dim], Needed::Always),
    rule("time_mix_a2.weight", "attn.a_lora.lora.2.weight", &[Dim, Any], Needed::Always),
    rule("time_mix_v0.weight", "attn.v_lora.lora.2.bias", &[Dim], Needed::Later),
    rule("time_mix_v1.weight", "attn.v_lora.lora.0.weight", &[Any, Dim], Needed::Later),
    rule("time_mix_v2.weight", "attn.v_lora.lora.2.weight", &[Dim, Any], Needed::Later),
    rule("time_mix_g1.weight", "attn.g_lora.lora.0.weight", &[Any, Dim], Needed::Always),
    rule("time_mix_g2.weight", "attn.g_lora.lora.2.weight", &[Dim, Any], Needed::Always),
    rule("time_mix_k_k.weight", "attn.k_k", &[Dim], Needed::Always),
    rule("time_mix_k_a.weight", "attn.k_a", &[Dim], Needed::Always),
    rule("time_mix_r_k.weight", "attn.r_k", &[Dim], Needed::Always),
    rule("time_mix_receptance.weight", "attn.r_proj.weight", &[Dim, Dim], Needed::Always),
    rule("time_mix_key.weight", "attn.k_proj.weight", &[Dim, Dim], Needed::Always),
    rule("time_mix_value.weight", "attn.v_proj.weight", &[Dim, Dim], Needed::Always),
    rule("time_mix_output.weight", "attn.o_proj.weight", &[Dim, Dim], Needed::Always),
    rule("time_mix_ln.weight", "attn.g_norm.weight", &[Dim], Needed::Always),
    rule("time_mix_ln.bias", "attn.g_norm.bias", &[Dim], Needed::Always),
    rule("channel_mix_lerp_k.weight", "ffn.x_k", &[Dim], Needed::Always),
    rule("channel_mix_key.weight", "ffn.key.weight", &[Ffn, Dim], Needed::Always),
    rule("channel_mix_value.weight", "ffn.value.weight", &[Dim, Ffn], Needed::Always),
    rule("pre_norm.weight", "pre_norm.weight", &[Dim], Needed::EitherForm),
    rule("pre_norm.bias", "pre_norm.bias", &[Dim], Needed::EitherForm),
];

static GPT2_MODEL: [TensorRule; 5] = [
    rule(EMBEDDING, "wte.weight", &[Vocab, Dim], Needed::Always),
    rule(POSITIONS, "wpe.weight", &[Ctx, Dim], Needed::Always),
    rule("output_norm.weight", "ln_f.weight", &[Dim], Needed::Always),
    rule("output_norm.bias", "ln_f.bias", &[Dim], Needed::Always),
    rule(OUTPUT, "lm_head.weight", &[Vocab, Dim], Needed::Untied),
];

static GPT2_LAYER: [TensorRule; 12] = [
    rule("attn_norm.weight", "ln_1.weight", &[Dim], Needed::Always),
    rule("attn_norm.bias", "ln_1.bias", &[Dim], Needed::Always),
    rule("attn_qkv.weight", "attn.c_attn.weight", &[Qkv, Dim], Needed::Always),
    rule("attn_qkv.bias", "attn.c_attn.bias", &[Qkv], Needed::Always),
    rule("attn_output.weight", "attn.c_proj.weight", &[Dim, Q], Needed::Always),
    rule("attn_output.bias", "attn.c_proj.bias", &[Dim], Needed::Always),
    rule("ffn_norm.weight", "ln_2.weight", &[Dim], Needed::Always),
    rule("ffn_norm.bias", "ln_2.bias", &[Dim], Needed::Always),
    rule("ffn_up.weight", "mlp.c_fc.weight", &[Ffn, Dim], Needed::Always),
    rule("ffn_up.bias", "mlp.c_fc.bias", &[Ffn], Needed::Always),
    rule("ffn_down.weight", "mlp.c_proj.weight", &[Dim, Ffn], Needed::Always),
    rule("ffn_down.bias", "mlp.c_proj.bias", &[Dim], Needed::Always),
];

/// Tensors that files may hold with several dimensions and that are rows of numbers all the same.
const ROWS: [&str; 23] = [
    "mem_conv.weight",
    "mem_rate",
    "mem_skip",
    "mem_codebook",
    "ssm_conv1d.weight",
    "ssm_a",
    "ssm_d",
    "ssm_norm.weight",
    "time_mix_lerp_fused.weight",
    "time_mix_lerp_r.weight",
    "time_mix_lerp_w.weight",
    "time_mix_lerp_k.weight",
    "time_mix_lerp_v.weight",
    "time_mix_lerp_a.weight",
    "time_mix_lerp_g.weight",
    "time_mix_w0.weight",
    "time_mix_a0.weight",
    "time_mix_v0.weight",
    "time_mix_k_k.weight",
    "time_mix_k_a.weight",
    "time_mix_r_k.weight",
    "time_mix_ln.weight",
    "channel_mix_lerp_k.weight",
];

/// Whether a tensor is a row of numbers whatever its dimensions.
pub(crate) fn is_row(name: &str) -> bool {
    let in_layer = name.strip_prefix("blk.").and_then(layer_and_rest).map(|(_, rest)| rest);
    in_layer.is_some_and(|rest| ROWS.contains(&rest))
}

/// The embedding, whose rows are the vocabulary.
pub(crate) const EMBEDDING: &str = "token_embd.weight";
/// The output matrix, absent where it is the embedding.
pub(crate) const OUTPUT: &str = "output.weight";
/// Learned positions, a table that is looked up and never multiplied with.
pub const POSITIONS: &str = "position_embd.weight";
/// Divisors of the rotary frequencies.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// GGUF name of a tensor of layer `layer`.
pub(crate) fn layer_name(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

/// Splits `N.rest`, where N is written as numbers are.
pub(crate) fn layer_and_rest(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('.')?;
    let layer: usize = digits.parse().ok()?;
    (layer.to_string() == digits).then_some((layer, rest))
}

/// A tensor of a network, by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorName {
    /// Canonical name, that of GGUF.
    pub name: String,
    /// Name in Hugging Face files; none where they never have it.
    pub hf: Option<String>,
}

/// The names of all tensors that a network needs, layer by layer.
pub(crate) fn tensor_names(config: &Config) -> Vec<TensorName> {
    let family = config.arch.family();
    let hf = |rule: &TensorRule, place: &str| {
        // The head is beside what the prefix stands for.
        let prefix = if rule.name == OUTPUT { "" } else { family.hf_prefix };
        (!rule.hf.is_empty()).then(|| format!("{prefix}{place}{}", rule.hf))
    };
    let model = |rule: &TensorRule| TensorName { name: rule.name.to_owned(), hf: hf(rule, "") };
    let in_layer = |layer: usize| {
        family.layer.iter().filter(move |rule| rule.needed.by(config, layer)).map(move |rule| TensorName {
            name: layer_name(layer, rule.name),
            hf: hf(rule, &format!("{}{layer}.", family.hf_layers)),
        })
    };
    let is_first = |rule: &&TensorRule| rule.name == EMBEDDING;
    let needed = |rule: &&TensorRule| rule.needed.by(config, 0);
    let first = family.model.iter().filter(is_first).map(model);
    let last = family.model.iter().filter(|rule| !is_first(rule)).filter(needed).map(model);
    first.chain((0..config.n_layers).flat_map(in_layer)).chain(last).collect()
}

/// GGUF name of a tensor in a Hugging Face file; none where no family has it.
pub(crate) fn canonical_name(hf: &str) -> Option<String> {
    // The text of a network that sees as well.
    if let Some(rest) = hf.strip_prefix("model.language_model.") {
        return canonical_name(&format!("model.{rest}"));
    }
    FAMILIES.iter().find_map(|family| {
        let hf = hf.strip_prefix(family.hf_prefix).unwrap_or(hf);
        let once = family.model.iter().find(|rule| !rule.hf.is_empty() && rule.hf == hf);
        if let Some(rule) = once {
            return Some(rule.name.to_owned());
        }
        let (layer, rest) = hf.strip_prefix(family.hf_layers).and_then(layer_and_rest)?;
        let rule = family.layer.iter().find(|rule| !rule.hf.is_empty() && rule.hf == rest)?;
        Some(layer_name(layer, rule.name))
    })
}

/// Order of the rows of a tensor in a Hugging Face file.
pub(crate) fn hf_rows(config: &Config, name: &str) -> RowOrder {
    let in_layer = name.strip_prefix("blk.").and_then(layer_and_rest);
    if let Some((_, "ssm_a" | "mem_rate")) = in_layer {
        return RowOrder::LogOfNegative;
    }
    if config.arch == Arch::Qwen3Next {
        return qwen3_next::rows(config, name, in_layer);
    }
    if config.arch == Arch::Gpt2 {
        let matrix = matches!(in_layer, Some((_, rest)) if rest.ends_with(".weight") && !rest.contains("norm"));
        return if matrix { RowOrder::Transposed } else { RowOrder::AsStored };
    }
    let heads = rotated_heads(config, name).filter(|_| config.arch.family().hf_half_rows);
    heads.map_or(RowOrder::AsStored, |heads| RowOrder::HalfToInterleaved { heads })
}

/// Number of heads in a tensor whose rows the rotary embedding pairs: queries and keys.
pub(crate) fn rotated_heads(config: &Config, name: &str) -> Option<usize> {
    match name.strip_prefix("blk.").and_then(layer_and_rest).map(|(_, rest)| rest) {
        Some("attn_q.weight" | "attn_q.bias") => Some(config.n_heads),
        Some("attn_k.weight" | "attn_k.bias") => Some(config.n_kv_heads),
        _ => None,
    }
}

/// Holds configuration and tensors against each other.
///
/// `InconsistentConfig` for a vocabulary that is not the embedding's and for layers that do not match the tensors';
/// `MissingTensor` and `BadShape` for what the family needs.
pub(crate) fn check_tensors(config: &Config, table: &TensorTable) -> Result<(), Error> {
    if config.n_layers > table.all().len() {
        let expected = format!("at most {}, the number of tensors", table.all().len());
        return Err(inconsistent("n_layers", expected, config.n_layers));
    }
    for tensor in table.all() {
        if let Some((layer, _)) = tensor.name.strip_prefix("blk.").and_then(layer_and_rest)
            && layer >= config.n_layers
        {
            let found = format!("{} beside `{}`", config.n_layers, tensor.source_name);
            return Err(inconsistent("n_layers", "all layers of the file", found));
        }
    }
    if let Some([rows, _]) = table.get(EMBEDDING).map(|tensor| tensor.shape.as_slice())
        && Some(*rows) != Vocab.of(config, 0)
    {
        return Err(inconsistent("vocab", format!("{rows}, the rows of the embedding"), config.vocab));
    }
    let family = config.arch.family();
    for rule in family.model {
        check_tensor(config, table, rule, 0, rule.name)?;
    }
    for layer in 0..config.n_layers {
        for rule in family.layer {
            let parts = family.layer.iter().filter(|part| instead_of(rule.name).contains(&part.name));
            let has = |part: &TensorRule| table.get(&layer_name(layer, part.name)).is_some();
            if rule.needed.by(config, layer) && parts.clone().any(has) {
                for part in parts {
                    check_shape(config, table, part, layer, &layer_name(layer, part.name))?;
                }
                continue;
            }
            check_tensor(config, table, rule, layer, &layer_name(layer, rule.name))?;
        }
    }
    Ok(())
}

fn check_tensor(
    config: &Config,
    table: &TensorTable,
    rule: &TensorRule,
    layer: usize,
    name: &str,
) -> Result<(), Error> {
    if rule.needed.by(config, layer) { check_shape(config, table, rule, layer, name) } else { Ok(()) }
}

/// Whether a tensor is there, of the shape that its rule says.
fn check_shape(config: &Config, table: &TensorTable, rule: &TensorRule, layer: usize, name: &str) -> Result<(), Error> {
    let shape: Vec<Option<u64>> = rule.shape.iter().map(|width| width.of(config, layer)).collect();
    let words = || {
        let widths: Vec<String> = shape.iter().map(|n| n.map_or("any".to_owned(), |n| n.to_string())).collect();
        format!("shape [{}]", widths.join(", "))
    };
    let Some(tensor) = table.get(name) else {
        return Err(Error::MissingTensor(fault("tensor", name, words(), "no such tensor")));
    };
    let fits = if is_row(name) {
        // However its dimensions are cut.
        let product = |n: &[u64]| n.iter().fold(1_u64, |product, &n| product.saturating_mul(n));
        let expected: Option<Vec<u64>> = shape.iter().copied().collect();
        expected.is_none_or(|expected| product(&expected) == product(&tensor.shape))
    } else {
        tensor.shape.len() == shape.len()
            && shape.iter().zip(&tensor.shape).all(|(want, n)| want.is_none_or(|w| w == *n))
    };
    if fits {
        return Ok(());
    }
    let found = format!("{:?}", tensor.shape);
    Err(Error::BadShape(fault("tensor", &tensor.source_name, words(), found)))
}
