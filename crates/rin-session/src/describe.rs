//! What a model is and takes, in numbers and as JSON.

use rin_engine::{Engine, LoadOptions, Plan};
use rin_model::{Mode, ModelFile, Port};
use serde::Serialize;

use crate::rows::{Output, RowModel};
use crate::text::TextModel;
use crate::{Failure, RinStatus};

/// The sizes of a model; 0 where it has none of the kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Info {
    /// The family, as "llama", or the mode of a network that continues no text.
    pub architecture: String,
    /// Layers.
    pub num_layers: usize,
    /// Width of the embedding, or of the first input.
    pub model_dim: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Positions that it was trained for.
    pub max_seq_len: usize,
    /// Inner width of the feed-forward network.
    pub ffn_dim: usize,
    /// Positions of the context as it was loaded.
    pub context: usize,
    /// Elements of all tensors.
    pub num_parameters: u64,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// The same in MB of 1000000 bytes.
    pub size_mb: f64,
}

impl Info {
    pub(crate) fn of_text(engine: &Engine) -> Self {
        let (plan, file) = (engine.plan(), engine.file());
        let config = &plan.config;
        Self {
            architecture: config.arch.name().to_owned(),
            num_layers: config.n_layers,
            model_dim: config.dim,
            vocab_size: config.vocab,
            num_heads: config.n_heads,
            num_kv_heads: config.n_kv_heads,
            max_seq_len: config.ctx,
            ffn_dim: config.ffn_dim,
            context: plan.options.ctx,
            ..Self::of_file(file)
        }
    }

    pub(crate) fn of_rows(model: &RowModel) -> Self {
        let file = model.file();
        let matrices = file.tensors().iter().filter(|tensor| tensor.shape.len() > 1).count();
        Self {
            architecture: file.mode().unwrap_or(Mode::Mlp).name().to_owned(),
            num_layers: matrices,
            model_dim: model.ports().inputs.first().map_or(0, Port::width),
            ..Self::of_file(file)
        }
    }

    fn of_file(file: &ModelFile) -> Self {
        Self {
            architecture: String::new(),
            num_layers: 0,
            model_dim: 0,
            vocab_size: 0,
            num_heads: 0,
            num_kv_heads: 0,
            max_seq_len: 0,
            ffn_dim: 0,
            context: 0,
            num_parameters: file.n_params(),
            file_bytes: file.file_bytes(),
            size_mb: file.file_bytes() as f64 / 1e6,
        }
    }
}

/// The memory that a model takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanBytes {
    /// The sum of those below.
    pub total: u64,
    /// Weights.
    pub weights: u64,
    /// Keys and values, membranes.
    pub state: u64,
    /// Everything between the layers.
    pub scratch: u64,
    /// Tokenizer and sampler.
    pub vocabulary: u64,
    /// What this process may take now, where that is known.
    pub limit: Option<u64>,
    /// Whether it fits that limit.
    pub fits: bool,
}

impl PlanBytes {
    /// Of a file, without loading it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or planned.
    pub fn of_file(path: &std::path::Path, options: &LoadOptions) -> Result<Self, Failure> {
        let file = ModelFile::open(path)?;
        if file.network().is_none() {
            return Ok(Self::of_text(&options.plan(&file)?, options));
        }
        let rows =
            file.network().map_or(1, |network| rin_engine::network::rows_at_once(network, options.n_batch, None));
        let plan = rin_engine::network::NetworkPlan::new(&file, rows.max(1))?;
        Ok(Self::of_rows([plan.weights.bytes(), plan.state_bytes, plan.scratch_bytes], options))
    }

    pub(crate) fn of_text(plan: &Plan, options: &LoadOptions) -> Self {
        let parts = [plan.weights.bytes(), plan.state_bytes, plan.scratch_bytes, plan.vocabulary_bytes];
        Self::new(plan.total_bytes(), parts, options)
    }

    pub(crate) fn of_rows([weights, state, scratch]: [usize; 3], options: &LoadOptions) -> Self {
        let total = weights.saturating_add(state).saturating_add(scratch);
        Self::new(total, [weights, state, scratch, 0], options)
    }

    fn new(total: usize, parts: [usize; 4], options: &LoadOptions) -> Self {
        let limit = options.limit();
        let [weights, state, scratch, vocabulary] = parts.map(|n| n as u64);
        let total = total as u64;
        let fits = limit.as_ref().is_none_or(|limit| limit.admit(total).is_ok());
        Self { total, weights, state, scratch, vocabulary, limit: limit.map(|limit| limit.bytes), fits }
    }
}

/// What a loaded model is, for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Described<'a> {
    name: String,
    path: String,
    format: String,
    mode: &'static str,
    #[serde(flatten)]
    info: Info,
    tier: Option<&'static str>,
    threads: usize,
    has_tokenizer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    eos: Vec<u32>,
    inputs: &'a [Port],
    outputs: &'a [Output],
    notes: Vec<String>,
}

fn name(file: &ModelFile) -> String {
    let stem = file.path().file_stem().unwrap_or(file.path().as_os_str());
    let named = file.network().and_then(|network| network.name.clone());
    let name = file.config().ok().and_then(|config| config.name.clone()).or(named);
    name.unwrap_or_else(|| stem.to_string_lossy().into_owned())
}

impl<'a> Described<'a> {
    pub(crate) fn of_text(model: &'a TextModel) -> Self {
        let engine = &model.engine;
        let file = engine.file();
        let special = model.tokenizer().ok().map(|tokenizer| tokenizer.special().clone());
        Self {
            name: name(file),
            path: file.path().display().to_string(),
            format: file.format().to_string(),
            mode: Mode::Transformer.name(),
            info: Info::of_text(engine),
            tier: Some(engine.tier().name()),
            threads: engine.threads(),
            has_tokenizer: special.is_some(),
            bos: special.as_ref().and_then(|special| special.bos),
            eos: special.map(|special| special.end).unwrap_or_default(),
            inputs: &[],
            outputs: &[],
            notes: engine.notes().map(str::to_owned).collect(),
        }
    }

    pub(crate) fn of_rows(model: &'a RowModel) -> Self {
        let file = model.file();
        Self {
            name: name(file),
            path: file.path().display().to_string(),
            format: file.format().to_string(),
            mode: file.mode().unwrap_or(Mode::Mlp).name(),
            info: Info::of_rows(model),
            tier: Some(model.tier().name()),
            threads: model.threads(),
            has_tokenizer: false,
            bos: None,
            eos: Vec::new(),
            inputs: &model.ports().inputs,
            outputs: &model.ports().outputs,
            notes: Vec::new(),
        }
    }
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(RinStatus::Inference, "Failed", format!("no JSON can say this: {error}")))
}
