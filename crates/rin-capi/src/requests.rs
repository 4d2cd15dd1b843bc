//! Between the structs of `rin.h` and the types of the engine.

use std::ffi::c_char;
use std::path::Path;
use std::ptr::null;
use std::time::Duration;

use rin_energy::Status;
use rin_engine::LoadOptions;
use rin_engine::generate::{FinishReason, Request};
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::EncodeOptions;
use rin_engine::topology::Policy;
use rin_kernels::Tier;
use rin_kernels::ops::attention::KvType;
use rin_model::Mode;
use rin_session::{
    Failure, Generated, ImportRequest, PlanBytes, RinStatus, Session, TensorRequest, TrainRequest,
    default_load_options, invalid,
};

use crate::pointer::{StructOut, array, copied, free, read, text, text_or_none, values};
use crate::types::{
    RIN_LOAD_HUGE_PAGES, RIN_LOAD_MLOCK, RIN_TEXT_CONTROL, RIN_TEXT_NO_SPECIAL, RinAffinity, RinEnergyStatus,
    RinFinish, RinGenerateOptions, RinImportOptions, RinLoadOptions, RinLogitBias, RinMode, RinModelInfo, RinPlan,
    RinResult, RinTensor, RinTrainOptions,
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
        logits_rows: 0,
        reserved2: 0,
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
    if given.flags & !known != 0 || given.reserved != 0 || given.reserved2 != 0 {
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
    options.n_logits = positive(given.logits_rows).unwrap_or(options.n_logits);
    options.memory_limit = (given.memory_limit > 0).then_some(given.memory_limit);
    options.arena.mlock = given.flags & RIN_LOAD_MLOCK != 0;
    options.arena.huge_pages = given.flags & RIN_LOAD_HUGE_PAGES != 0;
    // SAFETY: by contract.
    if let Some(tier) = unsafe { text_or_none(given.tier, "tier") }? {
        options.tier = Some(tier.parse::<Tier>().map_err(|error| invalid(error.to_string()).at("tier"))?);
    }
    // SAFETY: by contract.
    if let Some(kv_type) = unsafe { text_or_none(given.kv_type, "kv_type") }? {
        options.kv_type = Some(kv_type.parse::<KvType>().map_err(|error| invalid(error.to_string()).at("kv_type"))?);
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
        temperature: f32::NAN,
        top_p: f32::NAN,
        top_k: u32::MAX,
        every_step: 0,
        logit_bias: null(),
        n_logit_bias: 0,
    }
}

/// How text is generated, with the strings that end it.
#[derive(Debug)]
pub(crate) struct GenerateOptions {
    given: RinGenerateOptions,
    stop: Vec<String>,
    logit_bias: Vec<(u32, f32)>,
    pub(crate) text: EncodeOptions,
}

/// # Safety
/// As [`read`], `stop` points at `n_stop` zero-terminated strings, and `logit_bias` at `n_logit_bias` values.
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
    let stop = stop.collect::<Result<_, _>>()?;
    // SAFETY: by contract.
    let bias: &[RinLogitBias] = unsafe { values(given.logit_bias, given.n_logit_bias, "logit_bias") }?;
    let logit_bias = bias.iter().map(|one| (one.id, one.bias)).collect();
    Ok(GenerateOptions { stop, logit_bias, text: encode_options(given.text_flags)?, given })
}

/// Whether and how text is turned into ids.
pub(crate) fn encode_options(flags: u32) -> Result<EncodeOptions, Failure> {
    if flags & !(RIN_TEXT_NO_SPECIAL | RIN_TEXT_CONTROL) != 0 {
        return Err(invalid(format!("flags of text are RIN_TEXT_NO_SPECIAL and RIN_TEXT_CONTROL, not {flags:#x}")));
    }
    let (no_special, control) = (flags & RIN_TEXT_NO_SPECIAL != 0, flags & RIN_TEXT_CONTROL != 0);
    Ok(EncodeOptions { add_special: !no_special, parse_special: control })
}

impl GenerateOptions {
    /// Whether the callback is called before every step.
    pub(crate) fn every_step(&self) -> bool {
        self.given.every_step != 0
    }

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
            temp: if given.temperature.is_nan() { sampling.temp } else { given.temperature },
            top_p: if given.top_p.is_nan() { sampling.top_p } else { given.top_p },
            top_k: if given.top_k == u32::MAX { sampling.top_k } else { given.top_k as usize },
            logit_bias: self.logit_bias,
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

/// What a network computes, for C.
pub(crate) fn mode(mode: Mode) -> RinMode {
    match mode {
        Mode::Mlp => RinMode::Mlp,
        Mode::Snn => RinMode::Snn,
        Mode::Attn => RinMode::Attn,
        Mode::Rin => RinMode::Thor,
        _ => RinMode::Transformer,
    }
}

/// What a number of C says that a network computes.
pub(crate) fn mode_of(number: i32) -> Result<Mode, Failure> {
    let found = Mode::ALL.into_iter().find(|known| mode(*known) as i32 == number);
    found.ok_or_else(|| invalid(format!("a mode is one of RinMode, not {number}")))
}

pub(crate) fn info(session: &Session) -> Result<RinModelInfo, Failure> {
    let info = session.info()?;
    Ok(RinModelInfo {
        struct_size: 0,
        num_layers: small(info.num_layers),
        model_dim: small(info.model_dim),
        vocab_size: small(info.vocab_size),
        num_heads: small(info.num_heads),
        num_kv_heads: small(info.num_kv_heads),
        max_seq_len: small(info.max_seq_len),
        ffn_dim: small(info.ffn_dim),
        context: small(info.context),
        num_parameters: info.num_parameters,
        file_bytes: info.file_bytes,
        size_mb: info.size_mb,
        architecture: array(&info.architecture),
        mode: mode(session.mode()?) as i32,
        reserved: 0,
    })
}

pub(crate) fn plan(plan: &PlanBytes) -> RinPlan {
    RinPlan {
        struct_size: 0,
        total_bytes: plan.total,
        weights_bytes: plan.weights,
        state_bytes: plan.state,
        scratch_bytes: plan.scratch,
        vocabulary_bytes: plan.vocabulary,
        limit_bytes: plan.limit.unwrap_or(0),
        fits: i32::from(plan.fits),
        reserved: 0,
    }
}

pub(crate) fn plan_of_file(path: &str, options: &LoadOptions) -> Result<RinPlan, Failure> {
    Ok(plan(&PlanBytes::of_file(Path::new(path), options)?))
}

/// # Safety
/// As [`read`], and the strings are null or zero-terminated during `'a`.
pub(crate) unsafe fn import_options<'a>(pointer: *const RinImportOptions) -> Result<ImportRequest<'a>, Failure> {
    let defaults = RinImportOptions { struct_size: 0, quant: null(), network: null(), overwrite: 0, reserved: 0 };
    if pointer.is_null() {
        return Ok(ImportRequest::default());
    }
    // SAFETY: by contract.
    let given = unsafe { read(pointer, defaults) }?;
    if given.reserved != 0 {
        return Err(invalid(format!("reserved is 0, not {}", given.reserved)));
    }
    // SAFETY: by contract.
    let quant = unsafe { text_or_none(given.quant, "quant") }?;
    // SAFETY: by contract.
    let network = unsafe { text_or_none(given.network, "network") }?.map(Path::new);
    Ok(ImportRequest { quant, network, overwrite: given.overwrite != 0 })
}

/// # Safety
/// `pointer` is null or points at `n` tensors; of each the strings are null or zero-terminated, shape and data null or as long
/// as they say, all during `'a`.
pub(crate) unsafe fn tensors<'a>(pointer: *const RinTensor, n: usize) -> Result<Vec<TensorRequest<'a>>, Failure> {
    // SAFETY: by contract.
    let given: &[RinTensor] = unsafe { values(pointer, n, "tensors") }?;
    // SAFETY: by contract.
    given.iter().map(|given| unsafe { tensor(given) }).collect()
}

/// # Safety
/// The strings are null or zero-terminated, shape and data null or as long as they say, all during `'a`.
unsafe fn tensor<'a>(given: &RinTensor) -> Result<TensorRequest<'a>, Failure> {
    // SAFETY: by contract.
    let name = unsafe { text(given.name, "name of a tensor") }?;
    // SAFETY: by contract.
    let dtype = unsafe { text(given.dtype, "dtype of a tensor") }?;
    // SAFETY: by contract.
    let shape = unsafe { values(given.shape, given.n_dims, "shape of a tensor") }?;
    // SAFETY: by contract.
    let bytes = unsafe { values(given.data.cast::<u8>(), given.n_bytes, "data of a tensor") }?;
    Ok(TensorRequest { name, dtype, shape, bytes })
}

/// # Safety
/// As [`read`].
pub(crate) unsafe fn train_options(pointer: *const RinTrainOptions) -> Result<TrainRequest, Failure> {
    if pointer.is_null() {
        return Ok(TrainRequest::default());
    }
    // SAFETY: by contract.
    let given = unsafe { read(pointer, RinTrainOptions { struct_size: 0, resume: 0, overwrite: 0 }) }?;
    Ok(TrainRequest { resume: given.resume != 0, overwrite: given.overwrite != 0 })
}

/// Why a generation ended, for C.
fn finish(reason: FinishReason) -> RinFinish {
    match reason {
        FinishReason::Stop => RinFinish::Stop,
        FinishReason::Length => RinFinish::Length,
        FinishReason::Cancelled => RinFinish::Cancelled,
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
