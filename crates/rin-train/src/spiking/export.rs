//! From real numbers to the integer network.

use super::network::{Shape, units};
use crate::parameters::Parameters;
use rin_engine::snn::{Coding, Layer, Network, Projection, Readout, Source};
use rin_kernels::ops::lif::{KEEP_ALL, Reset};

/// Largest threshold and current in units of the membrane.
const LARGEST: f64 = 4_194_304.0;
/// Most fractional bits.
const MAX_SHIFT: u32 = 10;

/// The network that computes in integers what `parameters` say in real numbers.
pub(super) fn network(shape: &Shape, parameters: &Parameters) -> Network {
    let mut layers = Vec::new();
    for layer in 0..shape.layers() {
        let n = shape.widths[layer + 1];
        let (weights, bias) = (&parameters.0[2 * layer].values, &parameters.0[2 * layer + 1].values);
        let units = units(weights, n);
        let most = units.iter().zip(bias).map(|(u, b)| f64::from(1.0_f32.max(b.abs()) / u)).fold(0.0, f64::max);
        let shift = (0..=MAX_SHIFT).rev().find(|&s| most * f64::from(1_u32 << s) <= LARGEST).unwrap_or(0);
        let scale = f64::from(1_u32 << shift);
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
        let fixed = |value: f32, unit: f32| (f64::from(value) / f64::from(unit) * scale).round_ties_even() as i32;
        let last = layer + 1 == shape.layers();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 4096")]
        let keep = (f64::from(shape.beta) * f64::from(KEEP_ALL)).round() as u16;
        let mut next = Layer::new(n, keep, i32::MAX, shift, Reset::from(shape.reset));
        if !last {
            next.threshold = units.iter().map(|&unit| fixed(1.0, unit)).collect();
        }
        next.current = bias.iter().zip(&units).map(|(&bias, &unit)| fixed(bias, unit)).collect();
        #[expect(clippy::cast_possible_truncation, reason = "a unit is f32")]
        let unit = units.iter().map(|&unit| (f64::from(unit) / scale) as f32).collect();
        next.unit = unit;
        #[expect(clippy::cast_possible_truncation, reason = "at most 127 in magnitude")]
        let weights = weights
            .chunks_exact(n)
            .flat_map(|row| {
                row.iter().zip(&units).map(|(w, unit)| (w / unit).round_ties_even().clamp(-127.0, 127.0) as i8)
            })
            .collect();
        let from = layer.checked_sub(1).map_or(Source::Input, Source::Layer);
        next.projections.push(Projection { from, weights });
        layers.push(next);
    }
    Network {
        inputs: shape.widths[0],
        steps: shape.steps,
        coding: Coding::Direct { scale: shape.scale },
        layers,
        readout: Readout::Membrane,
    }
}
