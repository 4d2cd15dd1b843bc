//! Logits, networks on rows of numbers, and what a model says of itself.

use std::ffi::c_char;

use rin_session::{LogitRows, invalid};

use crate::failure::{count, status};
use crate::pointer::{room, values};
use crate::types::{RinContext, RinInput, RinOutput, RinStatus};
use crate::{handle, pointer};

/// The logits after `n` tokens, rows of as many floats as the vocabulary has tokens: after each of them, or after the last alone
/// where `last` is not 0. Returns the number of floats, or a RinStatus below 0. Nothing is computed where they do not fit
/// `capacity`: call again with room for the number returned. Tokens that the last such call with `last` had too are not
/// computed again. `logits` may be NULL where `capacity` is 0.
///
/// # Safety
/// `ids` is NULL or points at `n` ids. `logits` is NULL or points at room for `capacity` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_logits(
    context: *mut RinContext,
    ids: *const u32,
    n: usize,
    last: i32,
    logits: *mut f32,
    capacity: usize,
) -> i64 {
    count(|| {
        // SAFETY: by contract.
        let ids = unsafe { values(ids, n, "ids") }?;
        // SAFETY: by contract.
        let room = unsafe { room(logits, capacity, "logits") }?;
        handle::with(context, |session| {
            let rows = if last == 0 { LogitRows::All } else { LogitRows::Last };
            let n_rows = if last == 0 { n } else { n.min(1) };
            let needed =
                n_rows.checked_mul(session.n_vocab()?).ok_or_else(|| invalid("more logits than memory has"))?;
            if needed > capacity && n > 0 {
                return Ok(needed);
            }
            let mut places = room.iter_mut();
            session.logits(ids, rows, |row| {
                // In this order, so that no place is taken without a logit.
                for (logit, place) in row.iter().zip(places.by_ref()) {
                    place.write(*logit);
                }
            })?;
            Ok(needed)
        })
    })
}

/// Computes `rows` rows of a network on rows of numbers: each input holds rows times its width values, each output has room for
/// rows times its width. rin_describe() names the inputs and outputs, their shapes and their order. Values that are no
/// finite numbers are RIN_STATUS_INVALID_INPUT.
///
/// # Safety
/// `inputs` is NULL or points at `n_inputs` inputs, `outputs` at `n_outputs` outputs; the values of each are NULL or as many as
/// it says, and no output overlaps anything else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_infer_rows(
    context: *mut RinContext,
    inputs: *const RinInput,
    n_inputs: usize,
    rows: usize,
    outputs: *const RinOutput,
    n_outputs: usize,
) -> RinStatus {
    status(|| {
        // SAFETY: by contract.
        let given = unsafe { values(inputs, n_inputs, "inputs") }?;
        // SAFETY: by contract.
        let wanted = unsafe { values(outputs, n_outputs, "outputs") }?;
        // SAFETY: by contract.
        let inputs = given.iter().map(|input| unsafe { values(input.values, input.n_values, "values of an input") });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        // SAFETY: by contract.
        let places =
            wanted.iter().map(|out| unsafe { pointer::zeroed(out.values, out.n_values, "values of an output") });
        let mut outputs = places.collect::<Result<Vec<_>, _>>()?;
        handle::with(context, |session| session.infer(&inputs, rows, &mut outputs))
    })
}

/// What the loaded model is and takes, as a JSON object: its name, mode and sizes, and for networks on rows of numbers `inputs`
/// and `outputs` with their names, shapes, widths, kinds and labels. Returns its length in bytes without the zero at its end,
/// or a RinStatus below 0. At most `capacity` bytes are written, the last of them a zero. `json` may be NULL where `capacity`
/// is 0.
///
/// # Safety
/// `json` is NULL or points at room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_describe(context: *mut RinContext, json: *mut c_char, capacity: usize) -> i64 {
    count(|| {
        // SAFETY: by contract.
        let room = unsafe { room(json, capacity, "json") }?;
        let found = handle::with(context, |session| session.describe())?;
        Ok(pointer::write_text(room, &found))
    })
}

/// SHA-256 over the bits of the logits of the last generation, or of the outputs of the last rows: "sha256:" and 64 digits.
/// Returns its length, 0 where nothing was computed, or a RinStatus below 0. At most `capacity` bytes are written, the last of
/// them a zero.
///
/// # Safety
/// `digest` is NULL or points at room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rin_get_digest(context: *mut RinContext, digest: *mut c_char, capacity: usize) -> i64 {
    count(|| {
        // SAFETY: by contract.
        let room = unsafe { room(digest, capacity, "digest") }?;
        let found = handle::with(context, |session| Ok(session.digest()))?;
        Ok(pointer::write_text(room, &found.map_or_else(String::new, |digest| digest.to_string())))
    })
}
