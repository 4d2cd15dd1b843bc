//! Inputs to spikes, one step at a time.

use super::network::Coding;
use crate::sampler::philox::philox4x32_10;

/// What a row of input is on its way through the steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// The row's values, or its spike trains.
    pub(super) values: &'a [f32],
    /// Its place among all rows, for the draws of the rate code.
    pub(super) number: usize,
    /// Its steps.
    pub(super) steps: usize,
}

/// The 7-bit magnitudes of the positive values, or of the negative ones. NaN counts as 0.
pub(super) fn magnitudes(values: &[f32], scale: f32, negative: bool, out: &mut [u8]) {
    out.fill(0);
    for (out, &x) in out.iter_mut().zip(values) {
        let x = if negative { -x } else { x };
        // The cast saturates at 0 and takes NaN to 0.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 127, and 0 where negative"
        )]
        let magnitude = (x * scale * 128.0).min(127.0).round_ties_even() as u8;
        *out = magnitude;
    }
}

/// The flags of step `t`: 1 where an input spikes. Not for a direct input.
pub(super) fn flags(coding: Coding, row: Row<'_>, t: usize, out: &mut [u8]) {
    out.fill(0);
    match coding {
        Coding::Direct { .. } => {}
        Coding::Spikes => {
            let n = row.values.len() / row.steps.max(1);
            for (out, &x) in out.iter_mut().zip(&row.values[t * n..][..n]) {
                *out = u8::from(x > 0.0);
            }
        }
        Coding::Rate { scale, seed } => {
            for (i, (out, &x)) in out.iter_mut().zip(row.values).enumerate() {
                *out = u8::from(x * scale > 0.0 && draw(seed, row.number, t, i) < probability(x * scale));
            }
        }
        Coding::Latency { scale } => {
            for (out, &x) in out.iter_mut().zip(row.values) {
                *out = u8::from(x * scale > 0.0 && spike_time(x * scale, row.steps) == t);
            }
        }
    }
}

/// A probability as a bound on 32-bit draws.
fn probability(p: f32) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^32")]
    let bound = (f64::from(p.min(1.0)) * 4_294_967_296.0) as u64;
    bound
}

/// 32 random bits for a place: a pure function, so threads and batches do not change it.
fn draw(seed: u64, row: usize, t: usize, i: usize) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the places wrap at 2^32, and draws repeat only after so many")]
    let counter = [i as u32, t as u32, row as u32, 0x534e_4e00];
    let key = [(seed & 0xffff_ffff) as u32, (seed >> 32) as u32];
    u64::from(philox4x32_10(counter, key)[0])
}

/// The step at which a value in (0, 1] spikes; larger values count as 1.
fn spike_time(x: f32, steps: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of steps")]
    let time = ((1.0 - f64::from(x.min(1.0))) * (steps.saturating_sub(1)) as f64).round_ties_even() as usize;
    time
}
