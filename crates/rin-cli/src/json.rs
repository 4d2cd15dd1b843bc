//! The JSON of `rin run` and `rin inspect`, field by field as the contract has it.

use rin_engine::generate::Outcome;
use rin_engine::limits::LimitError;
use rin_engine::plan::Cut;
use rin_engine::plan::Slot;
use rin_engine::{Plan, limits};
use rin_model::{DType, Mode, ModelFile};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a model is.
#[derive(Debug, Serialize)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) format: String,
    pub(crate) mode: Option<&'static str>,
    pub(crate) arch: Option<String>,
    pub(crate) n_params: u64,
    pub(crate) file_bytes: u64,
    pub(crate) quant: Option<&'static str>,
}

impl Model {
    /// Describes a file; `mode` is none where RIN does not run its network.
    pub(crate) fn of(file: &ModelFile, mode: Option<Mode>) -> Self {
        let config = file.config().ok();
        let stem = file.path().file_stem().unwrap_or(file.path().as_os_str());
        let named = file.network().and_then(|network| network.name.clone());
        let name = config.and_then(|config| config.name.clone()).or(named);
        let stated = || {
            let mut metadata = file.metadata();
            metadata.find_map(
                |(key, value)| {
                    if key == "general.architecture" { Some(value.as_str()?.to_owned()) } else { None }
                },
            )
        };
        Self {
            name: name.unwrap_or_else(|| stem.to_string_lossy().into_owned()),
            path: file.path().display().to_string(),
            format: file.format().to_string(),
            mode: mode.map(Mode::name),
            arch: config.map(|config| config.arch.name().to_owned()).or_else(stated),
            n_params: file.n_params(),
            file_bytes: file.file_bytes(),
            quant: quant(file),
        }
    }
}

/// The type that most weights of the matrices have.
fn quant(file: &ModelFile) -> Option<&'static str> {
    let mut weights: BTreeMap<DType, u64> = BTreeMap::new();
    for tensor in file.tensors().iter().filter(|tensor| tensor.shape.len() > 1) {
        let sum = weights.entry(tensor.dtype).or_default();
        *sum = sum.saturating_add(tensor.n_elements());
    }
    weights.into_iter().max_by_key(|(_, weights)| *weights).map(|(dtype, _)| dtype.name())
}

/// `rin run --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) model: Model,
    pub(crate) prompt_tokens: usize,
    pub(crate) generated_tokens: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish_reason: &'static str,
    pub(crate) timings: Timings,
    pub(crate) memory: Memory,
    pub(crate) drafted_tokens: usize,
    pub(crate) accepted_tokens: usize,
    pub(crate) allocations_during_inference: u64,
    pub(crate) energy: rin_energy::Record,
    /// Over several ranks: each host once, and the sums of their domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) energy_by_host: Option<rin_cluster::energy::Sum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) power: Option<crate::energy::Power>,
    pub(crate) digest: String,
    pub(crate) tier: &'static str,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    pub(crate) version: &'static str,
}

/// How long it took. Rates are none where nothing was timed.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Timings {
    pub(crate) load_ms: f64,
    pub(crate) prefill_ms: f64,
    pub(crate) prefill_tps: Option<f64>,
    pub(crate) decode_ms: f64,
    pub(crate) decode_tps: Option<f64>,
    pub(crate) first_token_ms: f64,
}

impl Timings {
    /// `steps` is the number of forward passes, the one over the prompt included.
    pub(crate) fn of(load: std::time::Duration, prompt_tokens: usize, steps: u32, outcome: &Outcome) -> Self {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        let rate = |n: u32, time: std::time::Duration| {
            let seconds = time.as_secs_f64();
            (n > 0 && seconds > 0.0).then(|| f64::from(n) / seconds)
        };
        // A generation that was cancelled before its first step has no time for its prompt.
        let prompt = if steps == 0 { 0 } else { u32::try_from(prompt_tokens).unwrap_or(u32::MAX) };
        Self {
            load_ms: ms(load),
            prefill_ms: ms(outcome.prefill),
            prefill_tps: rate(prompt, outcome.prefill),
            decode_ms: ms(outcome.decode),
            decode_tps: rate(steps.saturating_sub(1), outcome.decode),
            first_token_ms: ms(outcome.first_token),
        }
    }
}

/// What it took, in bytes.
#[expect(clippy::struct_field_names, reason = "the names of the contract")]
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) plan_bytes: usize,
    pub(crate) weights_bytes: usize,
    pub(crate) state_bytes: usize,
    pub(crate) scratch_bytes: usize,
    pub(crate) vocabulary_bytes: usize,
    pub(crate) peak_rss_bytes: Option<u64>,
}

impl Memory {
    /// The plan's bytes, and the process's peak until now.
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            plan_bytes: plan.total_bytes(),
            weights_bytes: plan.weights.bytes(),
            state_bytes: plan.state_bytes,
            scratch_bytes: plan.scratch_bytes,
            vocabulary_bytes: plan.vocabulary_bytes,
            peak_rss_bytes: limits::peak_rss_bytes(),
        }
    }
}

/// `rin inspect --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Inspect<'a> {
    pub(crate) model: Model,
    pub(crate) config: Option<&'a rin_model::Config>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<&'a rin_model::Network>,
    pub(crate) tensors: Vec<Tensor<'a>>,
    pub(crate) tokenizer: Option<TokenizerInfo>,
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
    /// Why the model cannot be run, or its text not be encoded; empty where all is well.
    pub(crate) problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<PlanInfo<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ranks: Vec<RankInfo>,
}

/// What one of several processes holds.
#[derive(Debug, Serialize)]
pub(crate) struct RankInfo {
    pub(crate) rank: usize,
    pub(crate) cut: Cut,
    pub(crate) first_layer: usize,
    pub(crate) end_layer: usize,
    pub(crate) total_bytes: usize,
    pub(crate) weights_bytes: usize,
    pub(crate) state_bytes: usize,
    pub(crate) scratch_bytes: usize,
    pub(crate) vocabulary_bytes: usize,
}

/// A tensor.
#[derive(Debug, Serialize)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a [u64],
    pub(crate) dtype: DType,
    pub(crate) bytes: u64,
    pub(crate) offset: u64,
}

/// A tokenizer.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizerInfo {
    pub(crate) kind: &'static str,
    pub(crate) vocab: usize,
    pub(crate) special: SpecialInfo,
}

/// Ids with a meaning of their own.
#[derive(Debug, Serialize)]
pub(crate) struct SpecialInfo {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) eot: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) pad: Option<u32>,
    pub(crate) end: Vec<u32>,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
}

/// A plan, and whether it fits this machine.
#[derive(Debug, Serialize)]
pub(crate) struct PlanInfo<'a> {
    pub(crate) total_bytes: usize,
    pub(crate) weights_bytes: usize,
    pub(crate) state_bytes: usize,
    pub(crate) scratch_bytes: usize,
    pub(crate) vocabulary_bytes: usize,
    pub(crate) slots: &'a [Slot],
    pub(crate) fits: bool,
    /// What a run would be told.
    #[serde(skip)]
    pub(crate) refusal: Option<LimitError>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) limit_source: Option<String>,
}
