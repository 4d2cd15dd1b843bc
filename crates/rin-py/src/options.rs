//! Arguments of Python become options of the engine.

use pyo3::prelude::*;
use rin_engine::LoadOptions;
use rin_engine::generate::Request;
use rin_engine::sampler::SamplingParams;
use rin_engine::topology::Policy;
use rin_kernels::Tier;
use rin_kernels::ops::attention::KvType;
use rin_session::{Failure, default_load_options, invalid};

/// How a model is loaded: the items of a dictionary, all of them there.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct LoadArgs {
    threads: Option<usize>,
    context: Option<usize>,
    batch: Option<usize>,
    affinity: Option<String>,
    mlock: bool,
    huge_pages: bool,
    memory_limit: Option<u64>,
    tier: Option<String>,
    kv_type: Option<String>,
    logits_rows: Option<usize>,
}

pub(crate) fn load_options(args: &LoadArgs) -> Result<LoadOptions, Failure> {
    let mut options = default_load_options();
    options.threads = args.threads;
    options.ctx = args.context;
    options.n_batch = args.batch.unwrap_or(options.n_batch);
    options.n_logits = args.logits_rows.unwrap_or(options.n_logits);
    options.memory_limit = args.memory_limit;
    options.arena.mlock = args.mlock;
    options.arena.huge_pages = args.huge_pages;
    options.affinity = match args.affinity.as_deref() {
        None | Some("none") => Policy::None,
        Some("compact") => Policy::Compact,
        Some("scatter") => Policy::Scatter,
        Some(other) => {
            let message = format!("affinity is one of none, compact, scatter, not {}", other.escape_debug());
            return Err(invalid(message).at("affinity"));
        }
    };
    let tier = args.tier.as_deref().map(|tier| tier.parse::<Tier>().map_err(|e| invalid(e.to_string()).at("tier")));
    options.tier = tier.transpose()?;
    let kv_type = args.kv_type.as_deref();
    let kv_type = kv_type.map(|name| name.parse::<KvType>().map_err(|e| invalid(e.to_string()).at("kv_type")));
    options.kv_type = kv_type.transpose()?;
    Ok(options)
}

/// What is generated: the items of a dictionary, all of them there. None is the setting of the session, or the usual.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct GenerateArgs {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repeat_penalty: Option<f32>,
    repeat_last_n: Option<usize>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Vec<(u32, f32)>,
    seed: Option<u64>,
    stop: Vec<String>,
    ignore_eos: bool,
}

pub(crate) fn request(args: GenerateArgs, sampling: &SamplingParams, prompt: Vec<u32>) -> Request {
    let usual = sampling;
    let sampling = SamplingParams {
        temp: args.temperature.unwrap_or(usual.temp),
        top_k: args.top_k.unwrap_or(usual.top_k),
        top_p: args.top_p.unwrap_or(usual.top_p),
        min_p: args.min_p.unwrap_or(usual.min_p),
        typical_p: args.typical_p.unwrap_or(usual.typical_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(usual.repeat_penalty),
        repeat_last_n: args.repeat_last_n.unwrap_or(usual.repeat_last_n),
        presence_penalty: args.presence_penalty.unwrap_or(usual.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(usual.frequency_penalty),
        logit_bias: args.logit_bias,
        seed: args.seed.unwrap_or(usual.seed),
    };
    let (max_tokens, stop, ignore_eos) = (args.max_tokens, args.stop, args.ignore_eos);
    Request { prompt, max_tokens, sampling, stop, ignore_eos, ..Request::default() }
}
