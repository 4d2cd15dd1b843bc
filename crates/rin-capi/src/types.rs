//! The types of `rin.h`. Its comments are these.

use std::ffi::{c_char, c_void};

pub use rin_session::RinStatus;

/// Kinds of networks.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RinMode {
    /// Multilayer perceptron.
    Mlp = 0,
    /// Spiking network.
    Snn = 1,
    /// Attention without a cache.
    Attn = 2,
    /// Integers from input to output: the network of the first RIN, called THOR then.
    Thor = 3,
    /// Transformer.
    Transformer = 4,
}

/// Where workers are pinned.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RinAffinity {
    /// Nowhere: the threads of a host program are left as they are.
    None = 0,
    /// Close together. The thread that loads a model is pinned too.
    Compact = 1,
    /// Far apart. The thread that loads a model is pinned too.
    Scatter = 2,
}

/// Why a generation ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RinFinish {
    /// A token or a string that ends texts.
    Stop = 0,
    /// The number of tokens asked for, or the end of the context.
    Length = 1,
    /// The callback asked for it.
    Cancelled = 2,
}

/// Where a figure for energy comes from.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RinEnergyStatus {
    /// Nowhere: there is none, and the fields hold NaN.
    Unmeasured = 0,
    /// A sensor.
    Measured = 1,
}

/// Pages of the model and its memory are kept out of reach of swapping, where the system permits it.
pub const RIN_LOAD_MLOCK: u32 = 1;
/// Huge pages, where the system has them.
pub const RIN_LOAD_HUGE_PAGES: u32 = 2;

/// No token for the beginning or the end of a text is added.
pub const RIN_TEXT_NO_SPECIAL: u32 = 1;
/// Control tokens that the text spells out become tokens. Never set it for text from outside.
pub const RIN_TEXT_CONTROL: u32 = 2;

/// Loaded models and their settings. See the rules at the top.
#[derive(Debug)]
pub struct RinContext(());

/// Hears text as it comes: whole characters, `bytes` of UTF-8 and a zero after them. The text is valid during the call
/// only. `user` is what was given with it. Anything but 0 ends what runs. It runs on the thread that called rin_generate()
/// or whatever it was given to, in the floating-point environment of that thread. It must return: no longjmp, no exception.
/// rin_import_model() and rin_train() give it one JSON object per call, whose `event` says what happened.
pub type RinCallback = Option<unsafe extern "C" fn(text: *const c_char, bytes: usize, user: *mut c_void) -> i32>;

/// How a model is loaded. Fill it with rin_load_options_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinLoadOptions {
    /// sizeof(RinLoadOptions).
    pub struct_size: usize,
    /// Threads that compute, that of the caller among them; 0: the physical cores that the process may use.
    pub threads: u32,
    /// Positions of the context; 0: those of the model, at most 4096.
    pub context: u32,
    /// Most tokens of a prompt in one step; 0: 512.
    pub batch: u32,
    /// One of RinAffinity.
    pub affinity: i32,
    /// RIN_LOAD_MLOCK, RIN_LOAD_HUGE_PAGES, or both.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Most bytes of memory, beside the limits of the system; 0: no limit of its own.
    pub memory_limit: u64,
    /// The highest instruction tier to use, as "avx2"; NULL: the best there is.
    pub tier: *const c_char,
    /// How keys and values are stored: "f32", "f16" or "q8"; NULL: as the weights suggest.
    pub kv_type: *const c_char,
    /// Rows of logits that rin_logits() computes in one step; 0: 1.
    pub logits_rows: u32,
    /// 0.
    pub reserved2: u32,
}

/// A value that is added to the logit of a token; -INFINITY forbids it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinLogitBias {
    /// The token.
    pub id: u32,
    /// The value.
    pub bias: f32,
}

/// How text is generated, beside the settings of the context. Fill it with rin_generate_options_init().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinGenerateOptions {
    /// sizeof(RinGenerateOptions).
    pub struct_size: usize,
    /// Most tokens; 0: until the context is full.
    pub max_tokens: u32,
    /// How the prompt becomes tokens: RIN_TEXT_NO_SPECIAL, RIN_TEXT_CONTROL, or both.
    pub text_flags: u32,
    /// Not 0: tokens that end texts are tokens like any other.
    pub ignore_eos: u32,
    /// How many of the last tokens the penalties look at.
    pub repeat_last_n: u32,
    /// Seed of the random generator. The same model, prompt, settings and seed give the same text.
    pub seed: u64,
    /// Keeps tokens with at least this share of the most probable one's probability.
    pub min_p: f32,
    /// Keeps the most typical tokens up to this probability; 1: all.
    pub typical_p: f32,
    /// Divides the logits of recent tokens; 1: off.
    pub repeat_penalty: f32,
    /// Is subtracted from the logits of recent tokens.
    pub presence_penalty: f32,
    /// Is subtracted from the logits of recent tokens once per occurrence.
    pub frequency_penalty: f32,
    /// 0.
    pub reserved: u32,
    /// Strings that end the text and are not part of it, `n_stop` of them; NULL where `n_stop` is 0.
    pub stop: *const *const c_char,
    /// Number of strings in `stop`.
    pub n_stop: usize,
    /// As rin_set_temperature(), for this generation; NaN: that of the context.
    pub temperature: f32,
    /// As rin_set_top_p(), for this generation; NaN: that of the context.
    pub top_p: f32,
    /// As rin_set_top_k(), for this generation; UINT32_MAX: that of the context.
    pub top_k: u32,
    /// Not 0: the callback is called before every step too, and within long prompts, with empty text, for programs that look
    /// whether to end.
    pub every_step: u32,
    /// Added to logits, `n_logit_bias` of them; NULL where that is 0.
    pub logit_bias: *const RinLogitBias,
    /// Number of values in `logit_bias`.
    pub n_logit_bias: usize,
}

/// Values of an input of a network on rows of numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinInput {
    /// The values, row by row.
    pub values: *const f32,
    /// How many there are.
    pub n_values: usize,
}

/// Room for the values of an output.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinOutput {
    /// Room for the values, row by row.
    pub values: *mut f32,
    /// How many there are to be.
    pub n_values: usize,
}

/// How a model is imported.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinImportOptions {
    /// sizeof(RinImportOptions).
    pub struct_size: usize,
    /// Type of the matrices that the source holds as floats, as "Q8_0"; NULL keeps all types.
    pub quant: *const c_char,
    /// A TOML file that says what the tensors of a PyTorch or safetensors file make; NULL for files that say it.
    pub network: *const c_char,
    /// Not 0: a file at the destination may be replaced.
    pub overwrite: u32,
    /// 0.
    pub reserved: u32,
}

/// A tensor of a network that is written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinTensor {
    /// Its name, which the description of the network refers to.
    pub name: *const c_char,
    /// Type of its values, "F32" for weights; for the arrays of networks in integers also "I8", "U8", "U16", "I32".
    pub dtype: *const c_char,
    /// Its shape, `n_dims` numbers.
    pub shape: *const usize,
    /// Numbers in `shape`: 1 or 2.
    pub n_dims: usize,
    /// Its values in little-endian order, row by row.
    pub data: *const c_void,
    /// Bytes of `data`.
    pub n_bytes: usize,
}

/// How a training is run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinTrainOptions {
    /// sizeof(RinTrainOptions).
    pub struct_size: usize,
    /// Not 0: goes on from the last checkpoint.
    pub resume: u32,
    /// Not 0: results of an earlier training of this name may be replaced.
    pub overwrite: u32,
}

/// What a model is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinModelInfo {
    /// sizeof(RinModelInfo), set by the caller.
    pub struct_size: usize,
    /// Layers.
    pub num_layers: u32,
    /// Width of the embedding.
    pub model_dim: u32,
    /// Tokens of the vocabulary.
    pub vocab_size: u32,
    /// Query heads.
    pub num_heads: u32,
    /// Key and value heads.
    pub num_kv_heads: u32,
    /// Positions that the model was trained for.
    pub max_seq_len: u32,
    /// Inner width of the feed-forward network.
    pub ffn_dim: u32,
    /// Positions of the context as it was loaded.
    pub context: u32,
    /// Elements of all tensors.
    pub num_parameters: u64,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// The same in MB of 1000000 bytes.
    pub size_mb: f64,
    /// The family, as "llama", with a zero at the end.
    pub architecture: [c_char; 32],
    /// What it computes, one of RinMode.
    pub mode: i32,
    /// 0.
    pub reserved: i32,
}

/// What a generation gave. Give it back to rin_free_result().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinResult {
    /// sizeof(RinResult), set by the caller.
    pub struct_size: usize,
    /// Generated tokens, `num_tokens` of them; NULL where there are none.
    pub tokens: *mut u32,
    /// Generated text, `text_bytes` of UTF-8 and a zero after them; empty where the model has no tokenizer.
    pub text: *mut c_char,
    /// Bytes of `text` without the zero.
    pub text_bytes: usize,
    /// Tokens in `tokens`.
    pub num_tokens: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// One of RinFinish.
    pub finish: i32,
    /// One of RinEnergyStatus.
    pub energy_status: i32,
    /// Energy of the machine from the first token fed to the last, in J; NaN where it was not measured.
    pub energy_joules: f64,
    /// Standard uncertainty of that, in J; NaN where it was not measured.
    pub energy_uncertainty_joules: f64,
    /// Generated tokens after the first per second; NaN for fewer than two tokens.
    pub tokens_per_second: f64,
    /// Time of all of it, in ns.
    pub latency_ns: u64,
    /// Time to the first token, in ns.
    pub first_token_ns: u64,
    /// "sha256:" and 64 digits over the bits of the logits of every step, with a zero at the end.
    pub digest: [c_char; 72],
}

/// The memory that a model takes, in bytes: all of it, known before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RinPlan {
    /// sizeof(RinPlan), set by the caller.
    pub struct_size: usize,
    /// The sum of those below.
    pub total_bytes: u64,
    /// Weights.
    pub weights_bytes: u64,
    /// Keys and values.
    pub state_bytes: u64,
    /// Everything between the layers.
    pub scratch_bytes: u64,
    /// Tokenizer and sampler.
    pub vocabulary_bytes: u64,
    /// What this process may take now; 0 where that is not known.
    pub limit_bytes: u64,
    /// 1 where it fits that limit, 0 where it does not.
    pub fits: i32,
    /// 0.
    pub reserved: i32,
}
