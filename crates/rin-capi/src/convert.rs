//! Foreign models become `.rin` files, and so do trained networks.

use std::ffi::{c_char, c_void};
use std::path::Path;

use rin_session::{DecoderRequest, ImportRequest};

use crate::callback::Callback;
use crate::failure::status;
use crate::pointer::{text, values};
use crate::requests;
use crate::types::{RinCallback, RinImportOptions, RinStatus, RinTensor, RinTrainOptions};

/// Makes a .rin file of a GGUF file, a Hugging Face folder, a PyTorch or safetensors file of weights, or a file of the first RIN.
/// `options` may be NULL for what is usual, `callback` where nobody wants to hear how far it is. The last object that it hears
/// has the event "finished" and says what was written.
///
/// # Safety
/// `source` and `to` are NULL or zero-terminated. `options` is NULL or points at a RinImportOptions whose `struct_size` is set and
/// whose strings are NULL or zero-terminated. `callback` is NULL or keeps to the rules of RinCallback with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_import_model(
    source: *const c_char,
    to: *const c_char,
    options: *const RinImportOptions,
    callback: RinCallback,
    user: *mut c_void,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let source = unsafe { text(source, "source") }?;
        // SAFETY: by contract.
        let to = unsafe { text(to, "to") }?;
        // SAFETY: by contract.
        let request = unsafe { requests::import_options(options) }?;
        // SAFETY: by contract.
        let mut callback = unsafe { Callback::new(callback, user, false) };
        let report =
            rin_session::import_model(Path::new(source), Path::new(to), &request, &mut |event| callback.call(event))?;
        callback.call(&finished(&report));
        Ok(())
    })
}

/// Trains what a TOML file says. `options` may be NULL for what is usual, `callback` where nobody wants to hear of it. The last
/// object that it hears has the event "finished" and is the summary. RIN_STATUS_UNSUPPORTED in a library that was built without
/// the trainer, as usual: cargo build --release -p rin-capi --features train.
///
/// # Safety
/// `config` is NULL or zero-terminated. `options` is NULL or points at a RinTrainOptions whose `struct_size` is set. `callback` is
/// NULL or keeps to the rules of RinCallback with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_train(
    config: *const c_char,
    options: *const RinTrainOptions,
    callback: RinCallback,
    user: *mut c_void,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let config = unsafe { text(config, "config") }?;
        // SAFETY: by contract.
        let request = unsafe { requests::train_options(options) }?;
        // SAFETY: by contract.
        let mut callback = unsafe { Callback::new(callback, user, false) };
        let summary = rin_session::train(Path::new(config), request, &mut |event| callback.call(event))?;
        callback.call(&finished(&summary));
        Ok(())
    })
}

/// Writes a network that a program has in memory as a .rin file. `description` is the JSON object `rin.network` of such a file:
/// its mode, inputs, outputs and body. Of `options`, `quant` (for matrices of dense layers) and `overwrite` are looked at; they may
/// be NULL for what is usual. `callback` hears one object with the event "finished", which says what was written.
///
/// # Safety
/// `to` and `description` are NULL or zero-terminated. `tensors` is NULL or points at `n` tensors, whose strings are NULL or
/// zero-terminated and whose shape and data are NULL or as long as they say. `options` is NULL or points at a RinImportOptions
/// whose `struct_size` is set and whose strings are NULL or zero-terminated. `callback` is NULL or keeps to the rules of
/// RinCallback with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_write_network(
    to: *const c_char,
    description: *const c_char,
    tensors: *const RinTensor,
    n: usize,
    options: *const RinImportOptions,
    callback: RinCallback,
    user: *mut c_void,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let to = unsafe { text(to, "to") }?;
        // SAFETY: by contract.
        let description = unsafe { text(description, "description") }?;
        // SAFETY: by contract.
        let tensors = unsafe { requests::tensors(tensors, n) }?;
        // SAFETY: by contract.
        let request = unsafe { requests::import_options(options) }?;
        // SAFETY: by contract.
        let mut callback = unsafe { Callback::new(callback, user, false) };
        let report =
            rin_session::write_network(Path::new(to), description, &tensors, request.quant, request.overwrite)?;
        callback.call(&finished(&report));
        Ok(())
    })
}

/// Writes a decoder that a program has in memory as a .rin file. `config` is the JSON object `rin.config` of such a file,
/// `tokenizer` a tokenizer.json of `tokenizer_bytes` bytes; tensors have the names of GGUF files. Of `options`, `quant` (for
/// matrices) and `overwrite` are looked at; they may be NULL for what is usual. `callback` hears one object with the event
/// "finished", which says what was written.
///
/// # Safety
/// `to` and `config` are NULL or zero-terminated. `tokenizer` is NULL or points at as many bytes as it says. `tensors` is NULL
/// or points at `n` tensors, whose strings are NULL or zero-terminated and whose shape and data are NULL or as long as they say.
/// `options` is NULL or points at a RinImportOptions whose `struct_size` is set and whose strings are NULL or zero-terminated.
/// `callback` is NULL or keeps to the rules of RinCallback with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_write_decoder(
    to: *const c_char,
    config: *const c_char,
    tokenizer: *const c_char,
    tokenizer_bytes: usize,
    tensors: *const RinTensor,
    n: usize,
    options: *const RinImportOptions,
    callback: RinCallback,
    user: *mut c_void,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let to = unsafe { text(to, "to") }?;
        // SAFETY: by contract.
        let config = unsafe { text(config, "config") }?;
        // SAFETY: by contract.
        let tokenizer = unsafe { values(tokenizer.cast::<u8>(), tokenizer_bytes, "tokenizer") }?;
        // SAFETY: by contract.
        let tensors = unsafe { requests::tensors(tensors, n) }?;
        // SAFETY: by contract.
        let ImportRequest { quant, overwrite, .. } = unsafe { requests::import_options(options) }?;
        // SAFETY: by contract.
        let mut callback = unsafe { Callback::new(callback, user, false) };
        let request = DecoderRequest { config, tokenizer, quant, overwrite };
        callback.call(&finished(&rin_session::write_decoder(Path::new(to), &request, &tensors)?));
        Ok(())
    })
}

/// A JSON object as the last event.
fn finished(object: &str) -> String {
    let rest = object.strip_prefix('{').unwrap_or(object);
    format!("{{\"event\":\"finished\"{}{rest}", if rest.starts_with('}') { "" } else { "," })
}
