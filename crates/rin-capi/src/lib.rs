//! `librin`: RIN for programs in C. `include/rin.h` is made from this crate and documents it.
//!
//! Each function checks its pointers ([`pointer`]), finds its context ([`handle`]), does its work in safe code
//! (`rin-session`) and turns what happened into a status, panics included ([`failure`]). A C boundary cannot be had without
//! unsafe code: it reads through pointers that another language gives. Everything that follows a pointer is in [`pointer`]
//! or is the one call of a callback; here the contracts of `rin.h` are handed on.

#![expect(unsafe_code, reason = "the boundary to C: pointers come in, and symbols have names of their own")]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

mod callback;
mod compute;
mod convert;
mod failure;
mod handle;
mod pointer;
mod requests;
mod types;

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;

use callback::Callback;
use failure::{Part, count, status};
use pointer::{Out, StructOut, room, text, values};
use rin_session::{Failure, Session, Silent};

pub use compute::*;
pub use convert::*;
pub use types::*;

/// Version of the library, as "0.1.0". It lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn rin_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

/// Version of the library as numbers.
///
/// # Safety
/// Each pointer is NULL or points at an unsigned integer of 32 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_version_numbers(major: *mut u32, minor: *mut u32, patch: *mut u32) -> RinStatus {
    status(|| {
        let numbers =
            [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
        for (pointer, (number, name)) in
            [major, minor, patch].into_iter().zip(numbers.into_iter().zip(["major", "minor", "patch"]))
        {
            // SAFETY: by contract.
            unsafe { Out::new(pointer, name) }?.set(number.parse().unwrap_or(0));
        }
        Ok(())
    })
}

/// What went wrong in the last call of this thread, in words; empty where it succeeded. It is valid until the next call on
/// this thread. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn rin_last_error() -> *const c_char {
    failure::last(Part::Message)
}

/// The name of what went wrong in the last call of this thread, as "DoesNotFit": the same that `rin --json` gives. Empty
/// where it succeeded. It is valid until the next call on this thread. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn rin_last_error_kind() -> *const c_char {
    failure::last(Part::Kind)
}

/// Where it went wrong in the last call of this thread: a section and a byte of a file, a tensor, an input, an option. Empty
/// where it succeeded, and where there is no place. It is valid until the next call on this thread. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn rin_last_error_place() -> *const c_char {
    failure::last(Part::Place)
}

/// Makes a context, without a model, and looks for sensors of energy. Give it to rin_destroy() in the end.
///
/// # Safety
/// `context` is NULL or points at a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_create(context: *mut *mut RinContext) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { Out::new(context, "context") }?;
        out.set(std::ptr::null_mut());
        out.set(handle::open(Session::new()));
        Ok(())
    })
}

/// Ends a context and frees what it holds. Where another thread works on it, that call ends first, and this one does not
/// wait for it. Any later use of the handle is RIN_STATUS_CLOSED.
#[unsafe(no_mangle)]
pub extern "C" fn rin_destroy(context: *mut RinContext) -> RinStatus {
    status(|| handle::close(context))
}

/// Fills options with what is usual. Set options->struct_size first.
///
/// # Safety
/// `options` is NULL or points at a RinLoadOptions whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_load_options_init(options: *mut RinLoadOptions) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        unsafe { StructOut::new(options) }?.set(&requests::load_defaults());
        Ok(())
    })
}

/// Loads a model in the place of that which is loaded: a .rin, .gguf or .safetensors file or a Hugging Face folder.
/// `options` may be NULL. Where it fails, no model is loaded.
///
/// # Safety
/// `path` is NULL or zero-terminated. `options` is NULL or points at a RinLoadOptions whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_load_model(
    context: *mut RinContext,
    path: *const c_char,
    options: *const RinLoadOptions,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: by contract.
        let options = unsafe { requests::load_options(options) }?;
        handle::with(context, |session| session.load(Path::new(path), &options))
    })
}

/// As rin_load_model(), the model that the library carries. RIN_STATUS_UNSUPPORTED in a library that was built without one,
/// as usual: cargo build --release -p rin-capi --features embedded.
///
/// # Safety
/// `options` is NULL or points at a RinLoadOptions whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_load_embedded(context: *mut RinContext, options: *const RinLoadOptions) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let options = unsafe { requests::load_options(options) }?;
        handle::with(context, |session| session.load_embedded(&options))
    })
}

/// What the loaded model is. Set info->struct_size first.
///
/// # Safety
/// `info` is NULL or points at a RinModelInfo whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_model_info(context: *mut RinContext, info: *mut RinModelInfo) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { StructOut::new(info) }?;
        out.set(&handle::with(context, |session| requests::info(session))?);
        Ok(())
    })
}

/// The memory that a model takes: of the file at `path`, without loading it, or of the loaded model where `path` is NULL.
/// `context` may be NULL where `path` is not; `options` may be NULL, and is not looked at where `path` is. Set
/// plan->struct_size first.
///
/// # Safety
/// `path` is NULL or zero-terminated. `options` is NULL or points at a RinLoadOptions, and `plan` at a RinPlan, whose
/// `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_plan(
    context: *mut RinContext,
    path: *const c_char,
    options: *const RinLoadOptions,
    plan: *mut RinPlan,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { StructOut::new(plan) }?;
        // SAFETY: by contract.
        let path = unsafe { pointer::text_or_none(path, "path") }?;
        let plan = if let Some(path) = path {
            // SAFETY: by contract.
            requests::plan_of_file(path, &unsafe { requests::load_options(options) }?)?
        } else {
            handle::with(context, |session| Ok(requests::plan(&session.plan()?)))?
        };
        out.set(&plan);
        Ok(())
    })
}

/// Checks that the loaded model computes what is expected, one of RinMode: a file has one mode. RIN_STATUS_UNSUPPORTED where it
/// is another.
#[unsafe(no_mangle)]
pub extern "C" fn rin_set_mode(context: *mut RinContext, mode: i32) -> RinStatus {
    status(|| handle::with(context, |session| session.check_mode(requests::mode_of(mode)?)))
}

/// What the loaded model computes, one of RinMode.
///
/// # Safety
/// `mode` is NULL or points at an integer of 32 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_mode(context: *mut RinContext, mode: *mut i32) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { Out::new(mode, "mode") }?;
        out.set(requests::mode(handle::with(context, |session| session.mode())?) as i32);
        Ok(())
    })
}

/// Divides the logits; 0 takes the most probable token. 0.8 unless set. Holds for models that are loaded later too.
#[unsafe(no_mangle)]
pub extern "C" fn rin_set_temperature(context: *mut RinContext, temperature: f32) -> RinStatus {
    status(|| handle::with(context, |session| session.set(|sampling| sampling.temp = temperature)))
}

/// Keeps so many of the most probable tokens; 0 keeps all. 40 unless set. Holds for models that are loaded later too.
#[unsafe(no_mangle)]
pub extern "C" fn rin_set_top_k(context: *mut RinContext, top_k: u32) -> RinStatus {
    status(|| handle::with(context, |session| session.set(|sampling| sampling.top_k = top_k as usize)))
}

/// Keeps the most probable tokens up to this probability; 1 keeps all. 0.95 unless set. Holds for models that are loaded
/// later too.
#[unsafe(no_mangle)]
pub extern "C" fn rin_set_top_p(context: *mut RinContext, top_p: f32) -> RinStatus {
    status(|| handle::with(context, |session| session.set(|sampling| sampling.top_p = top_p)))
}

/// Holds the mean power of the machine during generations at a budget in W, with rests between tokens and with fewer
/// threads; 0 lifts it. It measures the idle machine for a second. RIN_STATUS_UNMEASURED where no sensor allows it.
#[unsafe(no_mangle)]
pub extern "C" fn rin_set_power_budget(context: *mut RinContext, watts: f64) -> RinStatus {
    status(|| handle::with(context, |session| session.set_power_budget(watts)))
}

/// The tokens of a text; returns their number, or a RinStatus below 0. At most `capacity` of them are written: where there
/// are more, call again with room for the number returned. `ids` may be NULL where `capacity` is 0. `flags` are
/// RIN_TEXT_NO_SPECIAL and RIN_TEXT_CONTROL.
///
/// # Safety
/// `text` is NULL or zero-terminated. `ids` is NULL or points at room for `capacity` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_encode(
    context: *mut RinContext,
    text: *const c_char,
    flags: u32,
    ids: *mut u32,
    capacity: usize,
) -> i64 {
    count(|| {
        // SAFETY: by contract.
        let text = unsafe { pointer::text(text, "text") }?;
        // SAFETY: by contract.
        let room = unsafe { room(ids, capacity, "ids") }?;
        let options = requests::encode_options(flags)?;
        let found = handle::with(context, |session| session.encode(text, options))?;
        for (place, id) in room.iter_mut().zip(&found) {
            place.write(*id);
        }
        Ok(found.len())
    })
}

/// The text of `n` tokens; returns its length in bytes without the zero at its end, or a RinStatus below 0. At most
/// `capacity` bytes are written, the last of them a zero, cut off after a whole character. `text` may be NULL where
/// `capacity` is 0.
///
/// # Safety
/// `ids` is NULL or points at `n` ids. `text` is NULL or points at room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_decode(
    context: *mut RinContext,
    ids: *const u32,
    n: usize,
    text: *mut c_char,
    capacity: usize,
) -> i64 {
    count(|| {
        // SAFETY: by contract.
        let ids = unsafe { values(ids, n, "ids") }?;
        // SAFETY: by contract.
        let room = unsafe { room(text, capacity, "text") }?;
        let found = handle::with(context, |session| session.decode(ids))?;
        Ok(pointer::write_text(room, &found))
    })
}

/// Generates up to `max_output` tokens (0: until the context is full) after `n` others, with the settings of the context,
/// and otherwise as rin_generate() without options. Set result->struct_size first, and give the result to
/// rin_free_result().
///
/// # Safety
/// `ids` is NULL or points at `n` ids. `result` is NULL or points at a RinResult whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_infer(
    context: *mut RinContext,
    ids: *const u32,
    n: usize,
    max_output: u32,
    result: *mut RinResult,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { StructOut::new(result) }?;
        out.set(&requests::NO_RESULT);
        // SAFETY: by contract.
        let ids = unsafe { values(ids, n, "ids") }?;
        let found = handle::with(context, |session| {
            let request = requests::request(session.sampling(), ids.to_vec(), max_output);
            session.generate(&request, &mut Silent)
        })?;
        requests::tell(&found, Some(&out))
    })
}

/// Fills options with what is usual. Set options->struct_size first.
///
/// # Safety
/// `options` is NULL or points at a RinGenerateOptions whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_generate_options_init(options: *mut RinGenerateOptions) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        unsafe { StructOut::new(options) }?.set(&requests::generate_defaults());
        Ok(())
    })
}

/// Generates text after a prompt. `options` may be NULL for what is usual, `callback` for text that nobody hears as it
/// comes, `result` for what nobody wants afterwards. RIN_STATUS_CANCELLED where the callback ended it; the result then holds
/// what was generated. Set result->struct_size first, and give the result to rin_free_result().
///
/// # Safety
/// `prompt` is NULL or zero-terminated. `options` is NULL or points at a RinGenerateOptions whose `struct_size` is set and
/// whose `stop` points at `n_stop` zero-terminated strings, `logit_bias` at `n_logit_bias` values. `callback` is NULL or keeps
/// to the rules of RinCallback with `user`. `result` is NULL or points at a RinResult whose `struct_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_generate(
    context: *mut RinContext,
    prompt: *const c_char,
    options: *const RinGenerateOptions,
    callback: RinCallback,
    user: *mut c_void,
    result: *mut RinResult,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { empty_result(result) }?;
        // SAFETY: by contract.
        let prompt = unsafe { text(prompt, "prompt") }?;
        // SAFETY: by contract.
        let options = unsafe { requests::generate_options(options) }?;
        // SAFETY: by contract.
        let mut callback = unsafe { Callback::new(callback, user, options.every_step()) };
        let found = handle::with(context, |session| {
            let prompt = session.encode(prompt, options.text)?;
            session.generate(&options.request(session.sampling(), prompt), &mut callback)
        })?;
        requests::tell(&found, out.as_ref())
    })
}

/// As rin_generate(), after `n` tokens in place of a prompt.
///
/// # Safety
/// As for rin_generate(); `ids` is NULL or points at `n` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_generate_ids(
    context: *mut RinContext,
    ids: *const u32,
    n: usize,
    options: *const RinGenerateOptions,
    callback: RinCallback,
    user: *mut c_void,
    result: *mut RinResult,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { empty_result(result) }?;
        // SAFETY: by contract.
        let ids = unsafe { values(ids, n, "ids") }?;
        // SAFETY: by contract.
        let options = unsafe { requests::generate_options(options) }?;
        // SAFETY: by contract.
        let mut callback = unsafe { Callback::new(callback, user, options.every_step()) };
        let found = handle::with(context, |session| {
            session.generate(&options.request(session.sampling(), ids.to_vec()), &mut callback)
        })?;
        requests::tell(&found, out.as_ref())
    })
}

/// A place for a result, emptied, where there is one.
///
/// # Safety
/// The pointer is null or points at a RinResult whose `struct_size` is set.
unsafe fn empty_result(result: *mut RinResult) -> Result<Option<StructOut<RinResult>>, Failure> {
    if result.is_null() {
        return Ok(None);
    }
    // SAFETY: by contract.
    let out = unsafe { StructOut::new(result) }?;
    out.set(&requests::NO_RESULT);
    Ok(Some(out))
}

/// Frees what a result holds. The struct itself is its owner's, and freeing twice does no harm.
///
/// # Safety
/// `result` is NULL or points at a RinResult that rin_generate() or rin_infer() filled, or whose pointers are NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_free_result(result: *mut RinResult) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let held = unsafe { pointer::read(result, requests::NO_RESULT) }?;
        // SAFETY: by contract the two are NULL or from this library, and the struct is emptied before anyone frees them
        // once more.
        unsafe { pointer::free(held.tokens) };
        // SAFETY: as above.
        unsafe { pointer::free(held.text) };
        // SAFETY: by contract.
        unsafe { StructOut::new(result) }?.set(&requests::NO_RESULT);
        Ok(())
    })
}

/// Energy of the machine during all generations of a context, in J. RIN_STATUS_UNMEASURED, and NaN, where it is not known.
///
/// # Safety
/// `joules` is NULL or points at a double.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_energy_joules(context: *mut RinContext, joules: *mut f64) -> RinStatus {
    // SAFETY: the same contract.
    unsafe { energy(context, joules, "joules", 1.0, Session::joules) }
}

/// The same in mJ.
///
/// # Safety
/// `millijoules` is NULL or points at a double.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_energy_millijoules(context: *mut RinContext, millijoules: *mut f64) -> RinStatus {
    // SAFETY: the same contract.
    unsafe { energy(context, millijoules, "millijoules", 1e3, Session::joules) }
}

/// # Safety
/// The pointer is null or points at a double.
unsafe fn energy(
    context: *mut RinContext,
    pointer: *mut f64,
    name: &str,
    factor: f64,
    of: fn(&Session) -> Result<f64, Failure>,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { Out::new(pointer, name) }?;
        out.set(f64::NAN);
        out.set(handle::with(context, |session| of(session))? * factor);
        Ok(())
    })
}

/// Energy of the machine since the context was made, whatever it did, in J. RIN_STATUS_UNMEASURED, and NaN, where it is not known.
///
/// # Safety
/// `joules` is NULL or points at a double.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_machine_joules(context: *mut RinContext, joules: *mut f64) -> RinStatus {
    // SAFETY: the same contract.
    unsafe { energy(context, joules, "joules", 1.0, Session::machine_joules) }
}

/// Generations of a context that have ended, and calls of rin_infer_rows().
///
/// # Safety
/// `n` is NULL or points at an unsigned integer of 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_inference_count(context: *mut RinContext, n: *mut u64) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { Out::new(n, "n") }?;
        out.set(handle::with(context, |session| Ok(session.inference_count()))?);
        Ok(())
    })
}

/// Tokens that all generations of a context gave.
///
/// # Safety
/// `n` is NULL or points at an unsigned integer of 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_total_tokens(context: *mut RinContext, n: *mut u64) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let out = unsafe { Out::new(n, "n") }?;
        out.set(handle::with(context, |session| Ok(session.total_tokens()))?);
        Ok(())
    })
}

/// The time of one step of one token after a prompt of four, or of one row of zeros of a network on rows of numbers: the mean
/// over `iterations` steps, after `warmup` that do not count. `mode` is that of the model. `rin bench` says more, with
/// intervals.
///
/// # Safety
/// `ms_per_token` and `tokens_per_second` are NULL or point at a double each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_profile(
    context: *mut RinContext,
    mode: i32,
    warmup: u32,
    iterations: u32,
    ms_per_token: *mut f64,
    tokens_per_second: *mut f64,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let ms = unsafe { Out::new(ms_per_token, "ms_per_token") }?;
        // SAFETY: by contract.
        let rate = unsafe { Out::new(tokens_per_second, "tokens_per_second") }?;
        let mode = requests::mode_of(mode)?;
        let spent = handle::with(context, |session| {
            session.check_mode(mode)?;
            session.profile(warmup, iterations)
        })?;
        let seconds = spent.as_secs_f64();
        ms.set(seconds * 1e3);
        rate.set(1.0 / seconds);
        Ok(())
    })
}
