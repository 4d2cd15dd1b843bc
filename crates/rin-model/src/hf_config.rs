//! `config.json` and `generation_config.json` of a Hugging Face folder, in the forms before and since transformers 5.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::config::{Activation, Arch, Config, Norm, Rope, RopeScaling, derived_head_dim, inconsistent};
use crate::error::{Error, fault};
use crate::json;
use crate::qwen3_next::QWEN35_TEXT;

#[path = "hf_gpt2.rs"]
mod gpt2;
#[path = "hf_recurrent.rs"]
mod recurrent;

/// What RIN reads of `config.json`.
#[derive(Debug, Deserialize)]
struct ConfigJson {
    model_type: Option<String>,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
    num_hidden_layers: Option<usize>,
    hidden_size: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    layer_norm_epsilon: Option<f32>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeJson>,
    rope_parameters: Option<RopeJson>,
    partial_rotary_factor: Option<f32>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    /// Absent and `null` differ for Mistral.
    #[serde(default)]
    sliding_window: WindowJson,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    hidden_act: Option<String>,
    eos_token_id: Option<Ids>,
    bos_token_id: Option<Ids>,
    quantization_config: Option<IgnoredAny>,
    #[serde(flatten)]
    recurrent: recurrent::RecurrentJson,
    #[serde(flatten)]
    gpt2: gpt2::Gpt2Json,
}

/// Rotary parameters: `rope_scaling` of old, `rope_parameters` of new.
#[derive(Debug, Default, Deserialize)]
struct RopeJson {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    mscale: Option<f32>,
    mscale_all_dim: Option<f32>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f32>,
    /// Parameters per kind of layer, which no family of RIN has.
    full_attention: Option<IgnoredAny>,
    sliding_attention: Option<IgnoredAny>,
}

/// What RIN reads of `generation_config.json`.
#[derive(Debug, Default, Deserialize)]
struct GenerationJson {
    eos_token_id: Option<Ids>,
}

/// One id or several; −1 stands for none.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(i64),
    Many(Vec<i64>),
}

impl Ids {
    fn list(&self) -> Result<Vec<u32>, Error> {
        let ids = match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        };
        let to_id = |&id: &i64| {
            u32::try_from(id).map_err(|_| Error::BadVocab(fault(SECTION, "eos_token_id, bos_token_id", "an id", id)))
        };
        ids.iter().filter(|&&id| id != -1).map(to_id).collect()
    }
}

/// A window that may be left out, or be said not to exist.
#[derive(Debug, Clone, Copy, Default)]
enum WindowJson {
    #[default]
    Absent,
    Stated(Option<usize>),
}

impl<'de> Deserialize<'de> for WindowJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Stated)
    }
}

const SECTION: &str = "config.json";

fn unsupported(name: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::Unsupported(fault(SECTION, name, expected, found))
}

fn needed<T>(value: Option<T>, name: &str) -> Result<T, Error> {
    value.ok_or_else(|| Error::MissingKey(fault(SECTION, name, "a network's description", "no such key")))
}

impl Config {
    /// Reads `config.json` and, where there is one, `generation_config.json`; checks the numbers, not the tensors.
    ///
    /// # Errors
    /// `BadHeader`, `UnknownArchitecture`, `MissingKey`, `Unsupported`, and what [`validate`](Self::validate) gives.
    pub fn from_hf(config_json: &[u8], generation_json: Option<&[u8]>) -> Result<Self, Error> {
        json::check_size(config_json, SECTION)?;
        json::check_size(generation_json.unwrap_or_default(), "generation_config.json")?;
        let text = without_infinity(config_json);
        let json: ConfigJson = match text_of_qwen35(&text)? {
            Some(text) => json::parse(&text, SECTION)?,
            None => json::parse(&text, SECTION)?,
        };
        let generation: GenerationJson = match generation_json {
            Some(bytes) => json::parse(bytes, "generation_config.json")?,
            None => GenerationJson::default(),
        };
        let arch = Arch::from_hf(needed(json.model_type.as_deref(), "model_type")?)?;
        refuse_what_is_not_run(&json)?;
        match arch {
            Arch::Mamba2 => return recurrent::mamba2(&json, generation),
            Arch::Rwkv7 => return recurrent::rwkv7(&json, generation),
            Arch::Gpt2 => return gpt2::config(&json, generation),
            Arch::Llama | Arch::Qwen2 | Arch::Qwen3Next => {}
        }
        let dim = needed(json.hidden_size, "hidden_size")?;
        let n_heads = needed(json.num_attention_heads, "num_attention_heads")?;
        let head_dim = match json.head_dim {
            Some(head_dim) => head_dim,
            None => derived_head_dim(dim, n_heads)?,
        };
        let n_layers = needed(json.num_hidden_layers, "num_hidden_layers")?;
        let ctx = needed(json.max_position_embeddings, "max_position_embeddings")?;
        let attention_bias = json.attention_bias.unwrap_or(false);
        let config = Self {
            arch,
            n_layers,
            dim,
            n_heads,
            n_kv_heads: json.num_key_value_heads.unwrap_or(n_heads),
            head_dim,
            ffn_dim: needed(json.intermediate_size, "intermediate_size")?,
            vocab: needed(json.vocab_size, "vocab_size")?,
            ctx,
            norm_eps: json.rms_norm_eps.unwrap_or(1e-6),
            rope: rope(&json, arch, head_dim, ctx)?,
            qkv_bias: attention_bias || arch == Arch::Qwen2,
            attn_output_bias: attention_bias && arch == Arch::Llama,
            mlp_bias: json.mlp_bias.unwrap_or(false),
            tied_embeddings: json.tie_word_embeddings.unwrap_or(false),
            window: if arch == Arch::Qwen3Next { None } else { window(&json, arch, n_layers)? },
            activation: Activation::Silu,
            norm: Norm::Rms,
            eos: eos_of(&json, generation)?,
            bos: json.bos_token_id.as_ref().map_or(Ok(Vec::new()), Ids::list)?.first().copied(),
            name: json.name.clone().filter(|name| !name.is_empty()),
            memory: if arch == Arch::Qwen3Next { recurrent::qwen3_next(&json, n_layers)? } else { Vec::new() },
        };
        config.validate()?;
        Ok(config)
    }
}

/// The part of a configuration of Qwen3.5 that describes its text, where it has another part for pictures.
fn text_of_qwen35(text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    #[derive(Deserialize)]
    struct Whole {
        model_type: Option<String>,
        text_config: Option<Map<String, Value>>,
        tie_word_embeddings: Option<bool>,
    }
    let whole: Whole = json::parse(text, SECTION)?;
    let (Some("qwen3_5"), Some(mut part)) = (whole.model_type.as_deref(), whole.text_config) else { return Ok(None) };
    part.insert("model_type".to_owned(), json!(QWEN35_TEXT));
    if let Some(tied) = whole.tie_word_embeddings {
        part.entry("tie_word_embeddings").or_insert(json!(tied));
    }
    Ok(Some(Value::Object(part).to_string().into_bytes()))
}

/// The ids that end a text.
fn eos_of(json: &ConfigJson, generation: GenerationJson) -> Result<Vec<u32>, Error> {
    let eos = generation.eos_token_id.or(json.eos_token_id.clone());
    eos.map_or(Ok(Vec::new()), |ids| ids.list())
}

/// The text with `Infinity`, which Python writes outside of JSON's rules, as `null`.
fn without_infinity(text: &[u8]) -> Cow<'_, [u8]> {
    const WORD: &[u8] = b"Infinity";
    let (mut in_string, mut escaped) = (false, false);
    let mut out = Cow::Borrowed(text);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'"' if !escaped => in_string = !in_string,
            b'I' if !in_string && text.get(at..).is_some_and(|rest| rest.starts_with(WORD)) => {
                let end = at.saturating_add(WORD.len());
                if let Some(place) = out.to_mut().get_mut(at..end) {
                    place.copy_from_slice(b"null    ");
                }
            }
            _ => {}
        }
        escaped = in_string && byte == b'\\' && !escaped;
    }
    out
}

fn refuse_what_is_not_run(json: &ConfigJson) -> Result<(), Error> {
    let activation = json.hidden_act.as_deref().unwrap_or("silu");
    if !["silu", "swish"].contains(&activation) {
        return Err(unsupported("hidden_act", "silu", crate::error::shorten(activation)));
    }
    if json.quantization_config.is_some() {
        let expected = "weights in F32, F16 or BF16";
        return Err(unsupported("quantization_config", expected, "weights that another tool quantised"));
    }
    Ok(())
}

/// How far attention reaches back, if all layers agree.
fn window(json: &ConfigJson, arch: Arch, n_layers: usize) -> Result<Option<usize>, Error> {
    let is_mistral = json.model_type.as_deref() == Some("mistral");
    // An old Mistral configuration without the key means 4096, as its class has it.
    let stated = match json.sliding_window {
        WindowJson::Absent => is_mistral.then_some(4096),
        WindowJson::Stated(window) => window,
    };
    if let Some(types) = &json.layer_types {
        let sliding = types.iter().filter(|kind| *kind == "sliding_attention").count();
        let full = types.iter().filter(|kind| *kind == "full_attention").count();
        return match (sliding, full) {
            (0, full) if full == types.len() => Ok(None),
            (sliding, 0) if sliding == types.len() => Ok(Some(needed(stated, "sliding_window")?)),
            _ => Err(unsupported("layer_types", "one kind of attention in all layers", "several kinds")),
        };
    }
    if is_mistral {
        return Ok(stated);
    }
    if arch == Arch::Llama || !json.use_sliding_window.unwrap_or(false) {
        return Ok(None);
    }
    match json.max_window_layers {
        Some(0) => Ok(Some(needed(stated, "sliding_window")?)),
        Some(full) if full >= n_layers => Ok(None),
        full => {
            let found = format!("a window from layer {} on", full.unwrap_or(28));
            Err(unsupported("max_window_layers", "a window in all layers or in none", found))
        }
    }
}

fn rope(json: &ConfigJson, arch: Arch, head_dim: usize, ctx: usize) -> Result<Rope, Error> {
    let none = RopeJson::default();
    let parameters = json.rope_parameters.as_ref().or(json.rope_scaling.as_ref()).unwrap_or(&none);
    if parameters.full_attention.is_some() || parameters.sliding_attention.is_some() {
        return Err(unsupported("rope_parameters", "one set for all layers", "a set per kind of layer"));
    }
    let whole = if arch == Arch::Qwen3Next { 0.25 } else { 1.0 };
    let partial = parameters.partial_rotary_factor.or(json.partial_rotary_factor).unwrap_or(whole);
    if arch != Arch::Qwen3Next && (partial - 1.0).abs() > f32::EPSILON {
        return Err(unsupported("partial_rotary_factor", "1", partial));
    }
    Ok(Rope {
        base: parameters.rope_theta.or(json.rope_theta).unwrap_or(10_000.0),
        dims: rotated(head_dim, partial)?,
        pairing: arch.family().pairing,
        scaling: scaling(parameters, ctx)?,
    })
}

/// Elements of a head that rotate, as transformers rounds them.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
fn rotated(head_dim: usize, partial: f32) -> Result<usize, Error> {
    if partial > 0.0 && partial <= 1.0 {
        return Ok((head_dim as f32 * partial) as usize);
    }
    Err(unsupported("partial_rotary_factor", "above 0 and at most 1", partial))
}

fn scaling(json: &RopeJson, ctx: usize) -> Result<RopeScaling, Error> {
    let kind = json.rope_type.as_deref().or(json.old_type.as_deref()).unwrap_or("default");
    let original = json.original_max_position_embeddings;
    Ok(match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed(json.factor, "rope factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: needed(json.factor, "rope factor")?,
            low_freq_factor: needed(json.low_freq_factor, "rope low_freq_factor")?,
            high_freq_factor: needed(json.high_freq_factor, "rope high_freq_factor")?,
            original_ctx: original.unwrap_or(ctx),
        },
        "yarn" => RopeScaling::Yarn {
            factor: match json.factor {
                Some(factor) => factor,
                None => ratio(ctx, needed(original, "rope factor")?)?,
            },
            original_ctx: original.unwrap_or(ctx),
            attention_factor: json.attention_factor,
            multiplier: 1.0,
            beta_fast: json.beta_fast.unwrap_or(32.0),
            beta_slow: json.beta_slow.unwrap_or(1.0),
            mscale: json.mscale,
            mscale_all_dim: json.mscale_all_dim,
            truncate: json.truncate.unwrap_or(true),
        },
        other => {
            return Err(unsupported("rope_type", "default, linear, llama3 or yarn", crate::error::shorten(other)));
        }
    })
}

fn ratio(ctx: usize, original: usize) -> Result<f32, Error> {
    #[expect(clippy::cast_precision_loss, reason = "contexts are far below 2^24 or powers of two")]
    let ratio = ctx as f32 / original as f32;
    if ratio.is_finite() { Ok(ratio) } else { Err(inconsistent("rope.original_ctx", "at least 1", original)) }
}

impl Config {
    /// `config.json` of this network, in the form of transformers 4, which version 5 reads too; `dtype` is the type of the
    /// tensors as PyTorch calls it.
    ///
    /// # Errors
    /// `Unsupported` for what no class of transformers computes.
    pub fn to_hf(&self, dtype: &str) -> Result<Value, Error> {
        if self.arch == Arch::Gpt2 {
            return Ok(gpt2::to_hf(self, dtype));
        }
        if self.rope.dims != self.head_dim {
            let found = format!("{} of {}", self.rope.dims, self.head_dim);
            return Err(unsupported("rope.dims", "heads that rotate as a whole", found));
        }
        if !self.memory.is_empty() {
            let found = self.memory.iter().flatten().next().map_or("softmax", |memory| memory.kind.name());
            return Err(unsupported("memory", "attention in all layers", found));
        }
        let (class, model_type, own) = match (self.arch, self.window) {
            (Arch::Llama, None) => ("LlamaForCausalLM", "llama", self.llama_fields()?),
            (Arch::Llama, Some(window)) => {
                self.refuse_biases("no biases beside an attention window", false)?;
                ("MistralForCausalLM", "mistral", json!({ "sliding_window": window }))
            }
            (Arch::Qwen2, window) => {
                self.refuse_biases("biases on queries, keys and values alone", true)?;
                let use_window = window.is_some();
                let full_layers = if use_window { 0 } else { self.n_layers };
                let own = json!({
                    "use_sliding_window": use_window, "sliding_window": window, "max_window_layers": full_layers
                });
                ("Qwen2ForCausalLM", "qwen2", own)
            }
            (other, _) => return Err(unsupported("arch", "llama, qwen2 or gpt2", other)),
        };
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_size": self.dim,
            "intermediate_size": self.ffn_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.ctx,
            "rms_norm_eps": shortest(self.norm_eps),
            "rope_theta": shortest(self.rope.base),
            "rope_scaling": self.rope.scaling_json()?,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied_embeddings,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos_json(),
            "torch_dtype": dtype,
            "use_cache": true,
        });
        if let Value::Object(config) = &mut config {
            config.extend(own.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
            config.extend(self.name.as_ref().map(|name| ("_name_or_path".to_owned(), json!(name))));
        }
        Ok(config)
    }

    fn eos_json(&self) -> Value {
        match self.eos.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            all => json!(all),
        }
    }

    fn llama_fields(&self) -> Result<Value, Error> {
        if self.qkv_bias != self.attn_output_bias {
            let found = format!("{} and {}", self.qkv_bias, self.attn_output_bias);
            return Err(unsupported("qkv_bias, attn_output_bias", "biases on all of attention or on none", found));
        }
        Ok(json!({ "attention_bias": self.qkv_bias, "mlp_bias": self.mlp_bias }))
    }

    fn refuse_biases(&self, expected: &str, qkv: bool) -> Result<(), Error> {
        if self.qkv_bias == qkv && !self.attn_output_bias && !self.mlp_bias {
            return Ok(());
        }
        let found = format!("{}, {}, {}", self.qkv_bias, self.attn_output_bias, self.mlp_bias);
        Err(unsupported("qkv_bias, attn_output_bias, mlp_bias", expected, found))
    }
}

impl Rope {
    fn scaling_json(&self) -> Result<Value, Error> {
        Ok(match &self.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": shortest(*factor) }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_ctx } => json!({
                "rope_type": "llama3",
                "factor": shortest(*factor),
                "low_freq_factor": shortest(*low_freq_factor),
                "high_freq_factor": shortest(*high_freq_factor),
                "original_max_position_embeddings": original_ctx,
            }),
            RopeScaling::Yarn {
                factor,
                original_ctx,
                attention_factor,
                multiplier: _,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                truncate,
            } if self.is_yarn_of_transformers() => {
                let optional =
                    [("attention_factor", attention_factor), ("mscale", mscale), ("mscale_all_dim", mscale_all_dim)];
                let mut yarn = Map::from_iter([
                    ("rope_type".to_owned(), json!("yarn")),
                    ("factor".to_owned(), shortest(*factor)),
                    ("original_max_position_embeddings".to_owned(), json!(original_ctx)),
                    ("beta_fast".to_owned(), shortest(*beta_fast)),
                    ("beta_slow".to_owned(), shortest(*beta_slow)),
                    ("truncate".to_owned(), json!(truncate)),
                ]);
                yarn.extend(optional.into_iter().filter_map(|(key, x)| Some((key.to_owned(), shortest((*x)?)))));
                Value::Object(yarn)
            }
            other => {
                let expected = "a scaling that config.json has a name for";
                return Err(unsupported("rope.scaling", expected, format!("{other:?}")));
            }
        })
    }

    /// Whether the attention factor is transformers' own, or given as a whole.
    fn is_yarn_of_transformers(&self) -> bool {
        matches!(self.scaling, RopeScaling::Yarn { multiplier, .. } if multiplier.to_bits() == 1.0_f32.to_bits())
    }
}

/// A number with as few digits as tell it from its neighbours.
fn shortest(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
