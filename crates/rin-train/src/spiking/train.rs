//! The epochs.

use super::config::SpikingConfig;
use super::data::{Samples, drop_out, shuffled};
use super::evaluate::{Comparison, compare};
use super::export;
use super::network::{Shape, rounded};
use crate::Error;
use crate::classifier::batch;
use crate::config::LoopConfig;
use crate::optimizer::AdamW;
use crate::parameters::Parameters;
use crate::random::stream;
use rin_engine::snn::Network;
use rin_import::snn_file;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What an epoch was like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Epoch {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Their number.
    pub epochs: usize,
    /// Mean loss of the training rows.
    pub loss: f64,
    /// Mean spikes of a hidden neuron per step.
    pub rate: f64,
    /// Whether weights are rounded in the forward pass.
    pub rounded: bool,
}

/// What a training gave.
#[derive(Clone, Debug, Serialize)]
pub struct SpikingSummary {
    /// The network.
    pub model: PathBuf,
    /// Its comparison with the real numbers on the test rows.
    pub test: Comparison,
    /// Weights and biases.
    pub parameters: usize,
    /// Rows to train on.
    pub train_rows: usize,
    /// The last epoch.
    pub last: Epoch,
}

/// Trains on `samples`; `hear` is told of each epoch, and `false` from it ends the training.
///
/// # Errors
/// [`Error::Diverged`] where the loss is no number any more.
pub fn train(
    config: &SpikingConfig,
    shape: &Shape,
    samples: &Samples,
    hear: &mut dyn FnMut(Epoch) -> bool,
) -> Result<(Parameters, Network), Error> {
    let settings = &config.train;
    let batches = samples.len().div_ceil(settings.batch);
    let mut parameters = shape.parameters(settings.seed);
    let loop_config = LoopConfig {
        weight_decay: settings.weight_decay,
        betas: [0.9, 0.999],
        ..LoopConfig::plain(settings.epochs * batches, settings.lr, settings.lr / 100.0)
    };
    let mut optimizer = AdamW::new(&parameters, false);
    let hidden: usize = shape.widths[1..shape.layers()].iter().sum();
    for epoch in 1..=settings.epochs {
        let quantised = epoch as f64 > settings.quant_from * settings.epochs as f64;
        let order = shuffled(samples.len(), stream(settings.seed, &[2, epoch as u64]));
        let (mut loss, mut spikes) = (0.0, 0);
        for rows in order.chunks(settings.batch) {
            // Gradients of the rounded weights are taken for those of the weights (Bengio et al., 2013).
            let seen = if quantised { rounded(&parameters) } else { parameters.clone() };
            let state = stream(settings.seed, &[3, epoch as u64]);
            let inputs = |at: usize| {
                let mut inputs = shape.encoded(samples.row(at));
                drop_out(&mut inputs, settings.input_dropout, stream(state, &[at as u64]));
                inputs
            };
            let (gradients, sum, count) = batch(&seen, rows, 8, |at, gradients| {
                let outcome = shape.backward(&seen.0, &inputs(at), samples.labels[at], gradients);
                (outcome.loss, outcome.spikes)
            });
            optimizer.update(&mut parameters, &gradients, 1.0 / rows.len() as f64, &loop_config);
            (loss, spikes) = (loss + sum, spikes + count);
        }
        if !loss.is_finite() || !parameters.is_finite() {
            return Err(Error::Diverged { what: "the loss", step: epoch * batches, checkpoint: None });
        }
        let (loss, places) = (loss / samples.len() as f64, samples.len() * hidden * shape.steps);
        let rate = spikes as f64 / places.max(1) as f64;
        if !hear(Epoch { epoch, epochs: settings.epochs, loss, rate, rounded: quantised }) {
            break;
        }
    }
    let network = export::network(shape, &parameters);
    Ok((parameters, network))
}

/// Trains as a configuration file says and writes the network; none where `cancel` was set.
///
/// # Errors
/// Whatever goes wrong on the way.
pub fn run(
    path: &Path,
    overwrite: bool,
    hear: &mut dyn FnMut(Epoch),
    cancel: &AtomicBool,
) -> Result<Option<SpikingSummary>, Error> {
    let config = SpikingConfig::read(path)?;
    let model = config.output.dir.join(format!("{}.rin", config.output.name));
    if model.exists() && !overwrite {
        return Err(Error::Exists(model));
    }
    let samples = Samples::read(&config.data)?;
    let (training, test) = samples.split(config.data.test, config.train.seed);
    let shape = Shape::new(&config, samples.width, samples.classes());
    let mut last = None;
    let (parameters, network) = train(&config, &shape, &training, &mut |epoch| {
        last = Some(epoch);
        hear(epoch);
        !cancel.load(Ordering::Relaxed)
    })?;
    let Some(last) = last.filter(|_| !cancel.load(Ordering::Relaxed)) else { return Ok(None) };
    let comparison = compare(&shape, &parameters, &network, &test)?;
    std::fs::create_dir_all(&config.output.dir).map_err(|e| Error::writing(&config.output.dir, e))?;
    snn_file::write(&model, &network, &config.output.name, "rin-train", overwrite)?;
    let (parameters, train_rows) = (parameters.count(), training.len());
    Ok(Some(SpikingSummary { model, test: comparison, parameters, train_rows, last }))
}
