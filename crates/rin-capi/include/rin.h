/*
 * RIN: language models on CPUs, for programs in C. Made by cbindgen from crates/rin-capi; do not edit.
 *
 *     RinContext *context;
 *     RinGenerateOptions options = { .struct_size = sizeof options };
 *     RinResult result = { .struct_size = sizeof result };
 *     rin_create(&context);
 *     if (rin_load_model(context, "model.gguf", NULL) != RIN_STATUS_OK) puts(rin_last_error());
 *     rin_generate_options_init(&options);
 *     rin_generate(context, "Once upon a time", &options, NULL, NULL, &result);
 *     puts(result.text);
 *     rin_free_result(&result);
 *     rin_destroy(context);
 *
 * Results. Every function but those of the version and of the last error returns a RinStatus, or a number that is a
 * RinStatus where it is below 0. On failure rin_last_error() has the reason in words and rin_last_error_kind() its name,
 * for each thread its own. No call ends the program: a fault in RIN is RIN_STATUS_PANIC.
 *
 * Pointers. A null pointer where something is needed is RIN_STATUS_INVALID_INPUT. Text is UTF-8 and zero-terminated;
 * what is no UTF-8 is RIN_STATUS_INVALID_INPUT too. What a pointer to something else does cannot be found out.
 *
 * Structs. The first field of each is its size: set struct_size to sizeof the struct before every use. Later versions add
 * fields at the end, and know by the size which of them a program has. A size that was not set is RIN_STATUS_STRUCT_SIZE.
 *
 * Handles. A RinContext * is a name, and nothing can be read through it. After rin_destroy() it is RIN_STATUS_CLOSED, for
 * ever.
 *
 * Threads. Every function may be called from any thread at any time. Calls on one context wait for each other, and
 * different contexts work beside each other, each with its own workers: share the cores with RinLoadOptions.threads. A
 * callback runs on the thread that called rin_generate(); for its own context it may call rin_destroy() only, which takes
 * effect when rin_generate() returns, and everything else is RIN_STATUS_BUSY. It must not wait for another thread that uses
 * its context. After fork() the child must not use contexts of its parent.
 *
 * The floating-point environment of a thread (rounding, flushing of denormals) is as before when a call returns, and in
 * callbacks; results do not depend on it.
 *
 * The variable RIN_SYS_ROOT says where /sys and /proc are, for sensors of energy.
 */

#ifndef RIN_H
#define RIN_H

#include <stddef.h>
#include <stdint.h>

// Pages of the model and its memory are kept out of reach of swapping, where the system permits it.
#define RIN_LOAD_MLOCK 1

// Huge pages, where the system has them.
#define RIN_LOAD_HUGE_PAGES 2

// No token for the beginning or the end of a text is added.
#define RIN_TEXT_NO_SPECIAL 1

// Control tokens that the text spells out become tokens. Never set it for text from outside.
#define RIN_TEXT_CONTROL 2

// What a call came to. Below 0 it failed: the message is in rin_last_error().
enum RinStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // It is done.
  RIN_STATUS_OK = 0,
  // The system refused something that is needed to begin: threads, memory for a handle.
  RIN_STATUS_INIT = -1,
  // The model does not fit the memory, or the text does not fit the cache that was planned.
  RIN_STATUS_MEMORY = -2,
  // The model cannot be read: it is missing, damaged or contradicts itself.
  RIN_STATUS_WEIGHTS = -3,
  // Computing failed.
  RIN_STATUS_INFERENCE = -4,
  // No model is loaded.
  RIN_STATUS_NOT_INITIALIZED = -5,
  // An argument is out of its range: a null pointer, text that is no UTF-8, an unknown token, a number out of bounds.
  RIN_STATUS_INVALID_INPUT = -6,
  // This version, or this model, does not do that.
  RIN_STATUS_UNSUPPORTED = -7,
  // The field struct_size of a struct was not set to its size.
  RIN_STATUS_STRUCT_SIZE = -8,
  // The context was destroyed, or never existed.
  RIN_STATUS_CLOSED = -9,
  // A callback called back into the context that called it.
  RIN_STATUS_BUSY = -10,
  // A callback asked to stop. What was computed until then is in the result.
  RIN_STATUS_CANCELLED = -11,
  // Energy is not known, or a power budget needs a sensor. Nothing else failed.
  RIN_STATUS_UNMEASURED = -12,
  // A fault in RIN itself. The model of the context is no longer loaded; the program can go on.
  RIN_STATUS_PANIC = -13,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum RinStatus RinStatus;
#else
typedef int32_t RinStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Kinds of networks.
enum RinMode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Multilayer perceptron.
  RIN_MODE_MLP = 0,
  // Spiking network.
  RIN_MODE_SNN = 1,
  // Attention without a cache.
  RIN_MODE_ATTN = 2,
  // Integers from input to output: the network of the first RIN, called THOR then.
  RIN_MODE_THOR = 3,
  // Transformer.
  RIN_MODE_TRANSFORMER = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum RinMode RinMode;
#else
typedef int32_t RinMode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Where workers are pinned.
enum RinAffinity
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Nowhere: the threads of a host program are left as they are.
  RIN_AFFINITY_NONE = 0,
  // Close together. The thread that loads a model is pinned too.
  RIN_AFFINITY_COMPACT = 1,
  // Far apart. The thread that loads a model is pinned too.
  RIN_AFFINITY_SCATTER = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum RinAffinity RinAffinity;
#else
typedef int32_t RinAffinity;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Why a generation ended.
enum RinFinish
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // A token or a string that ends texts.
  RIN_FINISH_STOP = 0,
  // The number of tokens asked for, or the end of the context.
  RIN_FINISH_LENGTH = 1,
  // The callback asked for it.
  RIN_FINISH_CANCELLED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum RinFinish RinFinish;
#else
typedef int32_t RinFinish;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Where a figure for energy comes from.
enum RinEnergyStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Nowhere: there is none, and the fields hold NaN.
  RIN_ENERGY_STATUS_UNMEASURED = 0,
  // A sensor.
  RIN_ENERGY_STATUS_MEASURED = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum RinEnergyStatus RinEnergyStatus;
#else
typedef int32_t RinEnergyStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Loaded models and their settings. See the rules at the top.
typedef struct RinContext RinContext;

// How a model is loaded. Fill it with rin_load_options_init().
typedef struct {
  // sizeof(RinLoadOptions).
  size_t struct_size;
  // Threads that compute, that of the caller among them; 0: the physical cores that the process may use.
  uint32_t threads;
  // Positions of the context; 0: those of the model, at most 4096.
  uint32_t context;
  // Most tokens of a prompt in one step; 0: 512.
  uint32_t batch;
  // One of RinAffinity.
  int32_t affinity;
  // RIN_LOAD_MLOCK, RIN_LOAD_HUGE_PAGES, or both.
  uint32_t flags;
  // 0.
  uint32_t reserved;
  // Most bytes of memory, beside the limits of the system; 0: no limit of its own.
  uint64_t memory_limit;
  // The highest instruction tier to use, as "avx2"; NULL: the best there is.
  const char *tier;
  // How keys and values are stored: "f32", "f16" or "q8"; NULL: as the weights suggest.
  const char *kv_type;
  // Rows of logits that rin_logits() computes in one step; 0: 1.
  uint32_t logits_rows;
  // 0.
  uint32_t reserved2;
} RinLoadOptions;

// What a model is.
typedef struct {
  // sizeof(RinModelInfo), set by the caller.
  size_t struct_size;
  // Layers.
  uint32_t num_layers;
  // Width of the embedding.
  uint32_t model_dim;
  // Tokens of the vocabulary.
  uint32_t vocab_size;
  // Query heads.
  uint32_t num_heads;
  // Key and value heads.
  uint32_t num_kv_heads;
  // Positions that the model was trained for.
  uint32_t max_seq_len;
  // Inner width of the feed-forward network.
  uint32_t ffn_dim;
  // Positions of the context as it was loaded.
  uint32_t context;
  // Elements of all tensors.
  uint64_t num_parameters;
  // Bytes of the files.
  uint64_t file_bytes;
  // The same in MB of 1000000 bytes.
  double size_mb;
  // The family, as "llama", with a zero at the end.
  char architecture[32];
  // What it computes, one of RinMode.
  int32_t mode;
  // 0.
  int32_t reserved;
} RinModelInfo;

// The memory that a model takes, in bytes: all of it, known before loading.
typedef struct {
  // sizeof(RinPlan), set by the caller.
  size_t struct_size;
  // The sum of those below.
  uint64_t total_bytes;
  // Weights.
  uint64_t weights_bytes;
  // Keys and values.
  uint64_t state_bytes;
  // Everything between the layers.
  uint64_t scratch_bytes;
  // Tokenizer and sampler.
  uint64_t vocabulary_bytes;
  // What this process may take now; 0 where that is not known.
  uint64_t limit_bytes;
  // 1 where it fits that limit, 0 where it does not.
  int32_t fits;
  // 0.
  int32_t reserved;
} RinPlan;

// What a generation gave. Give it back to rin_free_result().
typedef struct {
  // sizeof(RinResult), set by the caller.
  size_t struct_size;
  // Generated tokens, `num_tokens` of them; NULL where there are none.
  uint32_t *tokens;
  // Generated text, `text_bytes` of UTF-8 and a zero after them; empty where the model has no tokenizer.
  char *text;
  // Bytes of `text` without the zero.
  size_t text_bytes;
  // Tokens in `tokens`.
  uint32_t num_tokens;
  // Tokens of the prompt.
  uint32_t prompt_tokens;
  // One of RinFinish.
  int32_t finish;
  // One of RinEnergyStatus.
  int32_t energy_status;
  // Energy of the machine from the first token fed to the last, in J; NaN where it was not measured.
  double energy_joules;
  // Standard uncertainty of that, in J; NaN where it was not measured.
  double energy_uncertainty_joules;
  // Generated tokens after the first per second; NaN for fewer than two tokens.
  double tokens_per_second;
  // Time of all of it, in ns.
  uint64_t latency_ns;
  // Time to the first token, in ns.
  uint64_t first_token_ns;
  // "sha256:" and 64 digits over the bits of the logits of every step, with a zero at the end.
  char digest[72];
} RinResult;

// A value that is added to the logit of a token; -INFINITY forbids it.
typedef struct {
  // The token.
  uint32_t id;
  // The value.
  float bias;
} RinLogitBias;

// How text is generated, beside the settings of the context. Fill it with rin_generate_options_init().
typedef struct {
  // sizeof(RinGenerateOptions).
  size_t struct_size;
  // Most tokens; 0: until the context is full.
  uint32_t max_tokens;
  // How the prompt becomes tokens: RIN_TEXT_NO_SPECIAL, RIN_TEXT_CONTROL, or both.
  uint32_t text_flags;
  // Not 0: tokens that end texts are tokens like any other.
  uint32_t ignore_eos;
  // How many of the last tokens the penalties look at.
  uint32_t repeat_last_n;
  // Seed of the random generator. The same model, prompt, settings and seed give the same text.
  uint64_t seed;
  // Keeps tokens with at least this share of the most probable one's probability.
  float min_p;
  // Keeps the most typical tokens up to this probability; 1: all.
  float typical_p;
  // Divides the logits of recent tokens; 1: off.
  float repeat_penalty;
  // Is subtracted from the logits of recent tokens.
  float presence_penalty;
  // Is subtracted from the logits of recent tokens once per occurrence.
  float frequency_penalty;
  // 0.
  uint32_t reserved;
  // Strings that end the text and are not part of it, `n_stop` of them; NULL where `n_stop` is 0.
  const char *const *stop;
  // Number of strings in `stop`.
  size_t n_stop;
  // As rin_set_temperature(), for this generation; NaN: that of the context.
  float temperature;
  // As rin_set_top_p(), for this generation; NaN: that of the context.
  float top_p;
  // As rin_set_top_k(), for this generation; UINT32_MAX: that of the context.
  uint32_t top_k;
  // Not 0: the callback is called before every step too, and within long prompts, with empty text, for programs that look
  // whether to end.
  uint32_t every_step;
  // Added to logits, `n_logit_bias` of them; NULL where that is 0.
  const RinLogitBias *logit_bias;
  // Number of values in `logit_bias`.
  size_t n_logit_bias;
} RinGenerateOptions;

// Hears text as it comes: whole characters, `bytes` of UTF-8 and a zero after them. The text is valid during the call
// only. `user` is what was given with it. Anything but 0 ends what runs. It runs on the thread that called rin_generate()
// or whatever it was given to, in the floating-point environment of that thread. It must return: no longjmp, no exception.
// rin_import_model() and rin_train() give it one JSON object per call, whose `event` says what happened.
typedef int32_t (*RinCallback)(const char *text, size_t bytes, void *user);

// Values of an input of a network on rows of numbers.
typedef struct {
  // The values, row by row.
  const float *values;
  // How many there are.
  size_t n_values;
} RinInput;

// Room for the values of an output.
typedef struct {
  // Room for the values, row by row.
  float *values;
  // How many there are to be.
  size_t n_values;
} RinOutput;

// How a model is imported.
typedef struct {
  // sizeof(RinImportOptions).
  size_t struct_size;
  // Type of the matrices that the source holds as floats, as "Q8_0"; NULL keeps all types.
  const char *quant;
  // A TOML file that says what the tensors of a PyTorch or safetensors file make; NULL for files that say it.
  const char *network;
  // Not 0: a file at the destination may be replaced.
  uint32_t overwrite;
  // 0.
  uint32_t reserved;
} RinImportOptions;

// How a training is run.
typedef struct {
  // sizeof(RinTrainOptions).
  size_t struct_size;
  // Not 0: goes on from the last checkpoint.
  uint32_t resume;
  // Not 0: results of an earlier training of this name may be replaced.
  uint32_t overwrite;
} RinTrainOptions;

// A tensor of a network that is written.
typedef struct {
  // Its name, which the description of the network refers to.
  const char *name;
  // Type of its values, "F32" for weights; for the arrays of networks in integers also "I8", "U8", "U16", "I32".
  const char *dtype;
  // Its shape, `n_dims` numbers.
  const size_t *shape;
  // Numbers in `shape`: 1 or 2.
  size_t n_dims;
  // Its values in little-endian order, row by row.
  const void *data;
  // Bytes of `data`.
  size_t n_bytes;
} RinTensor;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the library, as "0.1.0". It lives as long as the program.
const char *rin_version(void);

// Version of the library as numbers.
//
// # Safety
// Each pointer is NULL or points at an unsigned integer of 32 bits.
RinStatus rin_version_numbers(uint32_t *major, uint32_t *minor, uint32_t *patch);

// What went wrong in the last call of this thread, in words; empty where it succeeded. It is valid until the next call on
// this thread. Never NULL.
const char *rin_last_error(void);

// The name of what went wrong in the last call of this thread, as "DoesNotFit": the same that `rin --json` gives. Empty
// where it succeeded. It is valid until the next call on this thread. Never NULL.
const char *rin_last_error_kind(void);

// Where it went wrong in the last call of this thread: a section and a byte of a file, a tensor, an input, an option. Empty
// where it succeeded, and where there is no place. It is valid until the next call on this thread. Never NULL.
const char *rin_last_error_place(void);

// Makes a context, without a model, and looks for sensors of energy. Give it to rin_destroy() in the end.
//
// # Safety
// `context` is NULL or points at a pointer.
RinStatus rin_create(RinContext **context);

// Ends a context and frees what it holds. Where another thread works on it, that call ends first, and this one does not
// wait for it. Any later use of the handle is RIN_STATUS_CLOSED.
RinStatus rin_destroy(RinContext *context);

// Fills options with what is usual. Set options->struct_size first.
//
// # Safety
// `options` is NULL or points at a RinLoadOptions whose `struct_size` is set.
RinStatus rin_load_options_init(RinLoadOptions *options);

// Loads a model in the place of that which is loaded: a .rin, .gguf or .safetensors file or a Hugging Face folder.
// `options` may be NULL. Where it fails, no model is loaded.
//
// # Safety
// `path` is NULL or zero-terminated. `options` is NULL or points at a RinLoadOptions whose `struct_size` is set.
RinStatus rin_load_model(RinContext *context, const char *path, const RinLoadOptions *options);

// As rin_load_model(), the model that the library carries. RIN_STATUS_UNSUPPORTED in a library that was built without one,
// as usual: cargo build --release -p rin-capi --features embedded.
//
// # Safety
// `options` is NULL or points at a RinLoadOptions whose `struct_size` is set.
RinStatus rin_load_embedded(RinContext *context,
                            const RinLoadOptions *options);

// What the loaded model is. Set info->struct_size first.
//
// # Safety
// `info` is NULL or points at a RinModelInfo whose `struct_size` is set.
RinStatus rin_get_model_info(RinContext *context, RinModelInfo *info);

// The memory that a model takes: of the file at `path`, without loading it, or of the loaded model where `path` is NULL.
// `context` may be NULL where `path` is not; `options` may be NULL, and is not looked at where `path` is. Set
// plan->struct_size first.
//
// # Safety
// `path` is NULL or zero-terminated. `options` is NULL or points at a RinLoadOptions, and `plan` at a RinPlan, whose
// `struct_size` is set.
RinStatus rin_plan(RinContext *context,
                   const char *path,
                   const RinLoadOptions *options,
                   RinPlan *plan);

// Checks that the loaded model computes what is expected, one of RinMode: a file has one mode. RIN_STATUS_UNSUPPORTED where it
// is another.
RinStatus rin_set_mode(RinContext *context,
                       int32_t mode);

// What the loaded model computes, one of RinMode.
//
// # Safety
// `mode` is NULL or points at an integer of 32 bits.
RinStatus rin_get_mode(RinContext *context, int32_t *mode);

// Divides the logits; 0 takes the most probable token. 0.8 unless set. Holds for models that are loaded later too.
RinStatus rin_set_temperature(RinContext *context, float temperature);

// Keeps so many of the most probable tokens; 0 keeps all. 40 unless set. Holds for models that are loaded later too.
RinStatus rin_set_top_k(RinContext *context, uint32_t top_k);

// Keeps the most probable tokens up to this probability; 1 keeps all. 0.95 unless set. Holds for models that are loaded
// later too.
RinStatus rin_set_top_p(RinContext *context, float top_p);

// Holds the mean power of the machine during generations at a budget in W, with rests between tokens and with fewer
// threads; 0 lifts it. It measures the idle machine for a second. RIN_STATUS_UNMEASURED where no sensor allows it.
RinStatus rin_set_power_budget(RinContext *context, double watts);

// The tokens of a text; returns their number, or a RinStatus below 0. At most `capacity` of them are written: where there
// are more, call again with room for the number returned. `ids` may be NULL where `capacity` is 0. `flags` are
// RIN_TEXT_NO_SPECIAL and RIN_TEXT_CONTROL.
//
// # Safety
// `text` is NULL or zero-terminated. `ids` is NULL or points at room for `capacity` ids.
int64_t rin_encode(RinContext *context,
                   const char *text,
                   uint32_t flags,
                   uint32_t *ids,
                   size_t capacity);

// The text of `n` tokens; returns its length in bytes without the zero at its end, or a RinStatus below 0. At most
// `capacity` bytes are written, the last of them a zero, cut off after a whole character. `text` may be NULL where
// `capacity` is 0.
//
// # Safety
// `ids` is NULL or points at `n` ids. `text` is NULL or points at room for `capacity` bytes.
int64_t rin_decode(RinContext *context, const uint32_t *ids, size_t n, char *text, size_t capacity);

// Generates up to `max_output` tokens (0: until the context is full) after `n` others, with the settings of the context,
// and otherwise as rin_generate() without options. Set result->struct_size first, and give the result to
// rin_free_result().
//
// # Safety
// `ids` is NULL or points at `n` ids. `result` is NULL or points at a RinResult whose `struct_size` is set.
RinStatus rin_infer(RinContext *context,
                    const uint32_t *ids,
                    size_t n,
                    uint32_t max_output,
                    RinResult *result);

// Fills options with what is usual. Set options->struct_size first.
//
// # Safety
// `options` is NULL or points at a RinGenerateOptions whose `struct_size` is set.
RinStatus rin_generate_options_init(RinGenerateOptions *options);

// Generates text after a prompt. `options` may be NULL for what is usual, `callback` for text that nobody hears as it
// comes, `result` for what nobody wants afterwards. RIN_STATUS_CANCELLED where the callback ended it; the result then holds
// what was generated. Set result->struct_size first, and give the result to rin_free_result().
//
// # Safety
// `prompt` is NULL or zero-terminated. `options` is NULL or points at a RinGenerateOptions whose `struct_size` is set and
// whose `stop` points at `n_stop` zero-terminated strings, `logit_bias` at `n_logit_bias` values. `callback` is NULL or keeps
// to the rules of RinCallback with `user`. `result` is NULL or points at a RinResult whose `struct_size` is set.
RinStatus rin_generate(RinContext *context,
                       const char *prompt,
                       const RinGenerateOptions *options,
                       RinCallback callback,
                       void *user,
                       RinResult *result);

// As rin_generate(), after `n` tokens in place of a prompt.
//
// # Safety
// As for rin_generate(); `ids` is NULL or points at `n` ids.
RinStatus rin_generate_ids(RinContext *context,
                           const uint32_t *ids,
                           size_t n,
                           const RinGenerateOptions *options,
                           RinCallback callback,
                           void *user,
                           RinResult *result);

// Frees what a result holds. The struct itself is its owner's, and freeing twice does no harm.
//
// # Safety
// `result` is NULL or points at a RinResult that rin_generate() or rin_infer() filled, or whose pointers are NULL.
RinStatus rin_free_result(RinResult *result);

// Energy of the machine during all generations of a context, in J. RIN_STATUS_UNMEASURED, and NaN, where it is not known.
//
// # Safety
// `joules` is NULL or points at a double.
RinStatus rin_get_energy_joules(RinContext *context,
                                double *joules);

// The same in mJ.
//
// # Safety
// `millijoules` is NULL or points at a double.
RinStatus rin_get_energy_millijoules(RinContext *context, double *millijoules);

// Energy of the machine since the context was made, whatever it did, in J. RIN_STATUS_UNMEASURED, and NaN, where it is not known.
//
// # Safety
// `joules` is NULL or points at a double.
RinStatus rin_get_machine_joules(RinContext *context,
                                 double *joules);

// Generations of a context that have ended, and calls of rin_infer_rows().
//
// # Safety
// `n` is NULL or points at an unsigned integer of 64 bits.
RinStatus rin_get_inference_count(RinContext *context, uint64_t *n);

// Tokens that all generations of a context gave.
//
// # Safety
// `n` is NULL or points at an unsigned integer of 64 bits.
RinStatus rin_get_total_tokens(RinContext *context, uint64_t *n);

// The time of one step of one token after a prompt of four, or of one row of zeros of a network on rows of numbers: the mean
// over `iterations` steps, after `warmup` that do not count. `mode` is that of the model. `rin bench` says more, with
// intervals.
//
// # Safety
// `ms_per_token` and `tokens_per_second` are NULL or point at a double each.
RinStatus rin_profile(RinContext *context,
                      int32_t mode,
                      uint32_t warmup,
                      uint32_t iterations,
                      double *ms_per_token,
                      double *tokens_per_second);

// The logits after `n` tokens, rows of as many floats as the vocabulary has tokens: after each of them, or after the last alone
// where `last` is not 0. Returns the number of floats, or a RinStatus below 0. Nothing is computed where they do not fit
// `capacity`: call again with room for the number returned. Tokens that the last such call with `last` had too are not
// computed again. `logits` may be NULL where `capacity` is 0.
//
// # Safety
// `ids` is NULL or points at `n` ids. `logits` is NULL or points at room for `capacity` floats.
int64_t rin_logits(RinContext *context,
                   const uint32_t *ids,
                   size_t n,
                   int32_t last,
                   float *logits,
                   size_t capacity);

// Computes `rows` rows of a network on rows of numbers: each input holds rows times its width values, each output has room for
// rows times its width. rin_describe() names the inputs and outputs, their shapes and their order. Values that are no
// finite numbers are RIN_STATUS_INVALID_INPUT.
//
// # Safety
// `inputs` is NULL or points at `n_inputs` inputs, `outputs` at `n_outputs` outputs; the values of each are NULL or as many as
// it says, and no output overlaps anything else.
RinStatus rin_infer_rows(RinContext *context,
                         const RinInput *inputs,
                         size_t n_inputs,
                         size_t rows,
                         const RinOutput *outputs,
                         size_t n_outputs);

// What the loaded model is and takes, as a JSON object: its name, mode and sizes, and for networks on rows of numbers `inputs`
// and `outputs` with their names, shapes, widths, kinds and labels. Returns its length in bytes without the zero at its end,
// or a RinStatus below 0. At most `capacity` bytes are written, the last of them a zero. `json` may be NULL where `capacity`
// is 0.
//
// # Safety
// `json` is NULL or points at room for `capacity` bytes.
int64_t rin_describe(RinContext *context,
                     char *json,
                     size_t capacity);

// SHA-256 over the bits of the logits of the last generation, or of the outputs of the last rows: "sha256:" and 64 digits.
// Returns its length, 0 where nothing was computed, or a RinStatus below 0. At most `capacity` bytes are written, the last of
// them a zero.
//
// # Safety
// `digest` is NULL or points at room for `capacity` bytes.
int64_t rin_get_digest(RinContext *context,
                       char *digest,
                       size_t capacity);

// Makes a .rin file of a GGUF file, a Hugging Face folder, a PyTorch or safetensors file of weights, or a file of the first RIN.
// `options` may be NULL for what is usual, `callback` where nobody wants to hear how far it is. The last object that it hears
// has the event "finished" and says what was written.
//
// # Safety
// `source` and `to` are NULL or zero-terminated. `options` is NULL or points at a RinImportOptions whose `struct_size` is set and
// whose strings are NULL or zero-terminated. `callback` is NULL or keeps to the rules of RinCallback with `user`.
RinStatus rin_import_model(const char *source,
                           const char *to,
                           const RinImportOptions *options,
                           RinCallback callback,
                           void *user);

// Trains what a TOML file says. `options` may be NULL for what is usual, `callback` where nobody wants to hear of it. The last
// object that it hears has the event "finished" and is the summary. RIN_STATUS_UNSUPPORTED in a library that was built without
// the trainer, as usual: cargo build --release -p rin-capi --features train.
//
// # Safety
// `config` is NULL or zero-terminated. `options` is NULL or points at a RinTrainOptions whose `struct_size` is set. `callback` is
// NULL or keeps to the rules of RinCallback with `user`.
RinStatus rin_train(const char *config,
                    const RinTrainOptions *options,
                    RinCallback callback,
                    void *user);

// Writes a network that a program has in memory as a .rin file. `description` is the JSON object `rin.network` of such a file:
// its mode, inputs, outputs and body. Of `options`, `quant` (for matrices of dense layers) and `overwrite` are looked at; they may
// be NULL for what is usual. `callback` hears one object with the event "finished", which says what was written.
//
// # Safety
// `to` and `description` are NULL or zero-terminated. `tensors` is NULL or points at `n` tensors, whose strings are NULL or
// zero-terminated and whose shape and data are NULL or as long as they say. `options` is NULL or points at a RinImportOptions
// whose `struct_size` is set and whose strings are NULL or zero-terminated. `callback` is NULL or keeps to the rules of
// RinCallback with `user`.
RinStatus rin_write_network(const char *to,
                            const char *description,
                            const RinTensor *tensors,
                            size_t n,
                            const RinImportOptions *options,
                            RinCallback callback,
                            void *user);

// Writes a decoder that a program has in memory as a .rin file. `config` is the JSON object `rin.config` of such a file,
// `tokenizer` a tokenizer.json of `tokenizer_bytes` bytes; tensors have the names of GGUF files. Of `options`, `quant` (for
// matrices) and `overwrite` are looked at; they may be NULL for what is usual. `callback` hears one object with the event
// "finished", which says what was written.
//
// # Safety
// `to` and `config` are NULL or zero-terminated. `tokenizer` is NULL or points at as many bytes as it says. `tensors` is NULL
// or points at `n` tensors, whose strings are NULL or zero-terminated and whose shape and data are NULL or as long as they say.
// `options` is NULL or points at a RinImportOptions whose `struct_size` is set and whose strings are NULL or zero-terminated.
// `callback` is NULL or keeps to the rules of RinCallback with `user`.
RinStatus rin_write_decoder(const char *to,
                            const char *config,
                            const char *tokenizer,
                            size_t tokenizer_bytes,
                            const RinTensor *tensors,
                            size_t n,
                            const RinImportOptions *options,
                            RinCallback callback,
                            void *user);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RIN_H */
