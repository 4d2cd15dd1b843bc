//! Networks from rows of numbers to rows of numbers, spiking ones among them.

use std::time::{Duration, Instant};

use rin_engine::digest::{DigestHex, LogitDigest};
use rin_engine::network::rows_at_once;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_kernels::Tier;
use rin_model::{ModelFile, Port};

use crate::{Failure, RinStatus, invalid};

/// What a network takes and gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ports {
    /// The inputs, in order.
    pub inputs: Vec<Port>,
    /// The outputs, in order.
    pub outputs: Vec<Output>,
}

/// An output of a network on rows of numbers.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Values in a row.
    pub width: usize,
    /// What the values mean.
    pub kind: rin_model::OutputKind,
    /// Names of the classes; empty where they have none.
    pub labels: Vec<String>,
}

/// A loaded network.
#[derive(Debug)]
pub(crate) struct RowModel {
    engine: Box<NetworkEngine>,
    pub(crate) options: LoadOptions,
    ports: Ports,
    /// Of the last call, where it took several runs.
    digest: Option<DigestHex>,
}

impl RowModel {
    pub(crate) fn load(file: ModelFile, options: &LoadOptions) -> Result<Self, Failure> {
        let described = file.network().cloned();
        // Sequences are given with all of their positions.
        let n_batch = described.as_ref().map_or(1, |network| rows_at_once(network, options.n_batch, None));
        let engine_options = LoadOptions { n_batch: n_batch.max(1), ctx: None, ..options.clone() };
        let engine = Box::new(NetworkEngine::load(file, &engine_options, |_| {})?);
        let widths: Vec<usize> = (0..engine.outputs().len()).map(|i| engine.output_width(i)).collect();
        let ports = described.map_or_else(Ports::default, |described| Ports {
            inputs: described.inputs,
            outputs: described
                .outputs
                .into_iter()
                .zip(widths)
                .map(|(rin_model::Output { name, kind, labels }, width)| Output { name, width, kind, labels })
                .collect(),
        });
        Ok(Self { engine, options: options.clone(), ports, digest: None })
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    pub(crate) fn file(&self) -> &ModelFile {
        self.engine.file()
    }

    /// The highest instruction tier in use.
    pub(crate) fn tier(&self) -> Tier {
        self.engine.tier()
    }

    pub(crate) fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// Weights, state and scratch, in bytes.
    pub(crate) fn bytes(&self) -> [usize; 3] {
        let plan = self.engine.plan();
        [plan.weights.bytes(), plan.state_bytes, plan.scratch_bytes]
    }

    /// Computes `rows` rows. `inputs` and `outputs` have the values of all of them, `(rows, width)`.
    pub(crate) fn infer(&mut self, inputs: &[&[f32]], rows: usize, outputs: &mut [&mut [f32]]) -> Result<(), Failure> {
        self.check(inputs, rows, outputs)?;
        self.digest = None;
        let engine = &mut self.engine;
        let most = engine.max_rows();
        if rows <= most {
            engine.run(inputs, rows)?;
            for (i, output) in outputs.iter_mut().enumerate() {
                output.copy_from_slice(engine.output(i));
            }
            return Ok(());
        }
        let mut digest = LogitDigest::new();
        let mut parts: Vec<&[f32]> = Vec::with_capacity(inputs.len());
        for first in (0..rows).step_by(most) {
            let n = most.min(rows - first);
            parts.clear();
            for (input, port) in inputs.iter().zip(&self.ports.inputs) {
                let width = port.width();
                parts.push(input.get(first * width..(first + n) * width).unwrap_or_default());
            }
            engine.run_from(first, &parts, n)?;
            for (i, output) in outputs.iter_mut().enumerate() {
                let found = engine.output(i);
                let width = found.len() / n.max(1);
                if let Some(place) = output.get_mut(first * width..(first + n) * width) {
                    place.copy_from_slice(found);
                }
            }
            engine.digest(&mut digest);
        }
        self.digest = Some(digest.finish());
        Ok(())
    }

    /// Everything has the size that it has to have, and every value is a number.
    fn check(&self, inputs: &[&[f32]], rows: usize, outputs: &[&mut [f32]]) -> Result<(), Failure> {
        let ports = &self.ports;
        if inputs.len() != ports.inputs.len() || outputs.len() != ports.outputs.len() {
            return Err(invalid(format!(
                "the network has {} inputs and {} outputs, not {} and {}",
                ports.inputs.len(),
                ports.outputs.len(),
                inputs.len(),
                outputs.len()
            )));
        }
        for (values, port) in inputs.iter().zip(&ports.inputs) {
            let (found, width) = (values.len(), port.width());
            if port.optional && found == 0 {
                continue;
            }
            if rows.checked_mul(width) != Some(found) {
                let message = format!(
                    "input `{}` takes rows of {width} values, of shape {:?}: {found} values are not {rows} rows",
                    port.name.escape_debug(),
                    port.shape
                );
                return Err(Failure::new(RinStatus::InvalidInput, "BadInput", message)
                    .at(format!("input `{}`", port.name.escape_debug())));
            }
            if !all_finite(values) {
                return Err(not_finite(values, port));
            }
        }
        for (values, output) in outputs.iter().zip(&ports.outputs) {
            if rows.checked_mul(output.width) != Some(values.len()) {
                let (name, width, found) = (output.name.escape_debug(), output.width, values.len());
                return Err(invalid(format!("output `{name}` has {rows} rows of {width} values, not {found} values")));
            }
        }
        Ok(())
    }

    /// Digest of the values of the last call.
    pub(crate) fn digest(&self) -> Option<DigestHex> {
        self.digest.or_else(|| {
            let mut digest = LogitDigest::new();
            self.engine.digest(&mut digest);
            Some(digest.finish())
        })
    }

    /// Mean time of a row of zeros.
    pub(crate) fn profile(&mut self, warmup: u32, iterations: u32) -> Result<Duration, Failure> {
        let inputs: Vec<Vec<f32>> = self.ports.inputs.iter().map(|port| vec![0.0; port.width()]).collect();
        let mut outputs: Vec<Vec<f32>> = self.ports.outputs.iter().map(|output| vec![0.0; output.width]).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut spent = Duration::ZERO;
        for n in 0..u64::from(warmup) + u64::from(iterations) {
            let mut outputs: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
            let start = Instant::now();
            self.infer(&inputs, 1, &mut outputs)?;
            if n >= u64::from(warmup) {
                spent += start.elapsed();
            }
        }
        Ok(spent / iterations)
    }
}

/// Whether no value is infinite or not a number. No early end, so that it takes no time to speak of.
fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(0, |most, value| (value.to_bits() & 0x7fff_ffff).max(most)) < f32::INFINITY.to_bits()
}

fn not_finite(values: &[f32], port: &Port) -> Failure {
    let at = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
    let value = values.get(at).copied().unwrap_or(f32::NAN);
    let (row, element) = (at / port.width().max(1), at % port.width().max(1));
    let name = port.name.escape_debug();
    let message = format!("input `{name}` holds {value} in row {row}, place {element}: a network takes finite numbers");
    Failure::new(RinStatus::InvalidInput, "NotFinite", message).at(format!("input `{name}` row {row} place {element}"))
}

#[cfg(test)]
mod tests {
    use super::all_finite;

    #[test]
    fn infinities_and_nans_are_found_wherever_they_are() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 32] {
                let mut values = vec![f32::MAX; 33];
                assert!(all_finite(&values));
                values[at] = bad;
                assert!(!all_finite(&values), "{bad} at {at}");
            }
        }
        assert!(all_finite(&[]) && all_finite(&[f32::MIN, -0.0]));
    }
}
