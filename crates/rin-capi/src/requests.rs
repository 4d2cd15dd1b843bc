//! Between the structs of `rin.h` and the types of the engine.

use std::ffi::c_char;
use std::path::Path;
use std::ptr::null;
use std::time::Duration;

use rin_energy::Status;
use rin_engine::generate::{FinishReason, Request};
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::EncodeOptions;
use rin_engine::topology::Policy;
use rin_engine::{Engine, LoadOptions, Plan};
use rin_kernels::Tier;
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;

use crate::context::{Generated, default_load_options, encode_options, finish};
use crate::failure::{Failure, invalid};
use crate::pointer::{StructOut, array, copied, free, read, text, text_or_none, values};
use crate::types::{
    RIN_LOAD_HUGE_PAGES, RIN_LOAD_MLOCK, RinAffinity, RinEnergyStatus, RinFinish, RinGenerateOptions, RinLoadOptions,
    RinModelInfo, RinPlan, RinResult, RinStatus,
};

/// Nothing was generated.
pub(crate) const NO_RESULT: RinResult = RinResult {
    struct_size: 0,
    tokens: std::ptr::null_mut(),
    text: std::ptr::null_mut(),
    text_bytes: 0,
    num_tokens: 0,
    prompt_tokens: 0,
    finish: RinFinish::Length as i32,
    energy_status: RinEnergyStatus::Unmeasured as i32,
    energy_joules: f64::NAN,
    energy_uncertainty_joules: f64::NAN,
    tokens_per_second: f64::NAN,
    latency_ns: 0,
    first_token_ns: 0,
    digest: [0; 72],
};

pub(crate) fn load_defaults() -> RinLoadOptions {
    RinLoadOptions {
        struct_size: 0,
        threads: 0,
        context: 0,
        batch: 0,
        affinity: RinAffinity::None as i32,
        flags: 0,
        reserved: 0,
        memory_limit: 0,
        tier: null(),
        kv_type: null(),
    }
}

/// # Safety
/// As [`read`], and the strings are null or zero-terminated.
pub(crate) unsafe fn load_options(pointer: *const RinLoadOptions) -> Result<LoadOptions, Failure> {
    let mut options = default_load_options();
    if pointer.is_null() {
        return Ok(options);
    }
    // SAFETY: by contract.
    let given = unsafe { read(pointer, load_defaults()) }?;
    let known = RIN_LOAD_MLOCK | RIN_LOAD_HUGE_PAGES;
    if given.flags & !known != 0 || given.reserved != 0 {
        let expected = "flags are RIN_LOAD_MLOCK and RIN_LOAD_HUGE_PAGES, reserved is 0";
        return Err(invalid(format!(
            "{expected}, not {:#x} and {}; call rin_load_options_init",
            given.flags, given.reserved
        )));
    }
    let positive = |n: u32| (n > 0).then_some(n as usize);
    options.affinity = match given.affinity {
        n if n == RinAffinity::None as i32 => Policy::None,
        n if n == RinAffinity::Compact as i32 => Policy::Compact,
        n if n == RinAffinity::Scatter as i32 => Policy::Scatter,
        n => return Err(invalid(format!("affinity is one of RinAffinity, not {n}"))),
    };
    options.threads = positive(given.threads);
    options.ctx = positive(given.context);
    options.n_batch = positive(given.batch).unwrap_or(options.n_batch);
    options.memory_limit = (given.memory_limit > 0).then_some(given.memory_limit);
    options.arena.mlock = given.flags & RIN_LOAD_MLOCK != 0;
    options.arena.huge_pages = given.flags & RIN_LOAD_HUGE_PAGES != 0;
    // SAFETY: by contract.
    if let Some(tier) = unsafe { text_or_none(given.tier, "tier") }? {
        options.tier = Some(tier.parse::<Tier>().map_err(|error| invalid(error.to_string()))?);
    }
    // SAFETY: by contract.
    if let Some(kv_type) = unsafe { text_or_none(given.kv_type, "kv_type") }? {
        options.kv_type = Some(kv_type.parse::<KvType>().map_err(|error| invalid(error.to_string()))?);
    }
    Ok(options)
}

pub(crate) fn generate_defaults() -> RinGenerateOptions {
    let sampling = SamplingParams::default();
    RinGenerateOptions {
        struct_size: 0,
        max_tokens: 0,
        text_flags: 0,
        ignore_eos: 0,
        repeat_last_n: u32::try_from(sampling.repeat_last_n).unwrap_or(u32::MAX),
        seed: sampling.seed,
        min_p: sampling.min_p,
        typical_p: sampling.typical_p,
        repeat_penalty: sampling.repeat_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        reserved: 0,
        stop: null(),
        n_stop: 0,
    }
}

/// How text is generated, with the strings that end it.
#[derive(Debug)]
pub(crate) struct GenerateOptions {
    given: RinGenerateOptions,
    stop: Vec<String>,
    pub(crate) text: EncodeOptions,
}

/// # Safety
/// As [`read`], and `stop` points at `n_stop` zero-terminated strings.
pub(crate) unsafe fn generate_options(pointer: *const RinGenerateOptions) -> Result<GenerateOptions, Failure> {
    let mut given = generate_defaults();
    if !pointer.is_null() {
        // SAFETY: by contract.
        given = unsafe { read(pointer, given) }?;
    }
    if given.reserved != 0 {
        return Err(invalid(format!("reserved is 0, not {}; call rin_generate_options_init", given.reserved)));
    }
    // SAFETY: by contract.
    let stop: &[*const c_char] = unsafe { values(given.stop, given.n_stop, "stop") }?;
    // SAFETY: by contract.
    let stop = stop.iter().map(|stop| unsafe { text(*stop, "a string of stop") }.map(str::to_owned));
    Ok(GenerateOptions { stop: stop.collect::<Result<_, _>>()?, text: encode_options(given.text_flags)?, given })
}

impl GenerateOptions {
    /// A request with the settings of a context.
    pub(crate) fn request(self, sampling: &SamplingParams, prompt: Vec<u32>) -> Request {
        let given = self.given;
        let sampling = SamplingParams {
            min_p: given.min_p,
            typical_p: given.typical_p,
            repeat_penalty: given.repeat_penalty,
            repeat_last_n: given.repeat_last_n as usize,
            presence_penalty: given.presence_penalty,
            frequency_penalty: given.frequency_penalty,
            seed: given.seed,
            ..sampling.clone()
        };
        let ignore_eos = given.ignore_eos != 0;
        Request { stop: self.stop, ignore_eos, ..bare(sampling, prompt, given.max_tokens) }
    }
}

/// A request as usual.
pub(crate) fn request(sampling: &SamplingParams, prompt: Vec<u32>, max_tokens: u32) -> Request {
    bare(sampling.clone(), prompt, max_tokens)
}

fn bare(sampling: SamplingParams, prompt: Vec<u32>, max_tokens: u32) -> Request {
    let max_tokens = (max_tokens > 0).then_some(max_tokens as usize);
    Request { prompt, max_tokens, sampling, ..Request::default() }
}

/// Counts that a plan has bounded are far below this.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(crate) fn info(engine: &Engine) -> RinModelInfo {
    let (plan, file) = (engine.plan(), engine.file());
    let config = &plan.config;
    RinModelInfo {
        struct_size: 0,
        num_layers: small(config.n_layers),
        model_dim: small(config.dim),
        vocab_size: small(config.vocab),
        num_heads: small(config.n_heads),
        num_kv_heads: small(config.n_kv_heads),
        max_seq_len: small(config.ctx),
        ffn_dim: small(config.ffn_dim),
        context: small(plan.options.ctx),
        num_parameters: file.n_params(),
        file_bytes: file.file_bytes(),
        size_mb: file.file_bytes() as f64 / 1e6,
        architecture: array(config.arch.name()),
    }
}

pub(crate) fn plan_of_file(path: &str, options: &LoadOptions) -> Result<RinPlan, Failure> {
    let file = ModelFile::open(Path::new(path))?;
    Ok(plan(&options.plan(&file)?, options))
}

pub(crate) fn plan(plan: &Plan, options: &LoadOptions) -> RinPlan {
    let limit = options.limit();
    let bytes = |n: usize| n as u64;
    let total = bytes(plan.total_bytes());
    RinPlan {
        struct_size: 0,
        total_bytes: total,
        weights_bytes: bytes(plan.weights.bytes()),
        state_bytes: bytes(plan.state_bytes),
        scratch_bytes: bytes(plan.scratch_bytes),
        vocabulary_bytes: bytes(plan.vocabulary_bytes),
        limit_bytes: limit.as_ref().map_or(0, |limit| limit.bytes),
        fits: i32::from(limit.is_none_or(|limit| limit.admit(total).is_ok())),
        reserved: 0,
    }
}

/// Writes what was generated, and says whether it was cancelled.
pub(crate) fn tell(found: &Generated, out: Option<&StructOut<RinResult>>) -> Result<(), Failure> {
    let outcome = &found.outcome;
    if let Some(out) = out {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (later, seconds) = (outcome.tokens.len().saturating_sub(1), outcome.decode.as_secs_f64());
        let measured = found.energy.status == Status::Measured;
        let tokens = copied(&outcome.tokens)?;
        let with_zero: Vec<u8> = outcome.text.bytes().chain([0]).collect();
        let text = copied(&with_zero).inspect_err(|_| {
            // SAFETY: made a moment ago, and nobody else has it.
            unsafe { free(tokens) };
        })?;
        out.set(&RinResult {
            struct_size: 0,
            tokens,
            text: text.cast(),
            text_bytes: outcome.text.len(),
            num_tokens: small(outcome.tokens.len()),
            prompt_tokens: small(found.prompt_tokens),
            finish: finish(outcome.finish) as i32,
            energy_status: if measured { RinEnergyStatus::Measured } else { RinEnergyStatus::Unmeasured } as i32,
            energy_joules: found.energy.joules.unwrap_or(f64::NAN),
            energy_uncertainty_joules: found.energy.uncertainty_joules.unwrap_or(f64::NAN),
            tokens_per_second: if later > 0 { later as f64 / seconds } else { f64::NAN },
            latency_ns: ns(found.latency),
            first_token_ns: ns(outcome.first_token),
            digest: array(&outcome.digest.to_string()),
        });
    }
    match outcome.finish {
        FinishReason::Cancelled => {
            Err(Failure::new(RinStatus::Cancelled, "Cancelled", "the callback ended the generation"))
        }
        _ => Ok(()),
    }
}
