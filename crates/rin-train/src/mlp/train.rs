//! The epochs, and what comes of them.

use super::config::MlpConfig;
use super::network::Shape;
use crate::Error;
use crate::classifier::{Paired, batch, class};
use crate::config::LoopConfig;
use crate::optimizer::AdamW;
use crate::parameters::Parameters;
use crate::random::{index, stream};
use crate::spiking::data::{Samples, drop_out, shuffled};
use crate::spiking::network::rounded;
use rayon::prelude::*;
use rin_engine::{LoadOptions, NetworkEngine};
use rin_import::integer::{self, DenseLayer, DenseNetwork};
use rin_model::array::Array;
use rin_model::{Function, ModelFile, Output, OutputKind, Port};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows that the steps of activations are found with during the training.
const CALIBRATION: usize = 512;

/// What an epoch was like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Epoch {
    /// Epoch, from 1.
    pub epoch: usize,
    /// Their number.
    pub epochs: usize,
    /// Mean loss of the training rows.
    pub loss: f64,
    /// Whether the forward pass rounds to 8 bits.
    pub rounded: bool,
}

/// What a training gave.
#[derive(Clone, Debug, Serialize)]
pub struct MlpSummary {
    /// The network.
    pub model: PathBuf,
    /// Its comparison with the real numbers on the test rows.
    pub test: Paired,
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
    config: &MlpConfig,
    shape: &Shape,
    samples: &Samples,
    hear: &mut dyn FnMut(Epoch) -> bool,
) -> Result<Parameters, Error> {
    let settings = &config.train;
    let batches = samples.len().div_ceil(settings.batch);
    let mut parameters = shape.parameters(settings.seed);
    let loop_config = LoopConfig {
        weight_decay: settings.weight_decay,
        betas: [0.9, 0.999],
        ..LoopConfig::plain(settings.epochs * batches, settings.lr, settings.lr / 100.0)
    };
    let mut optimizer = AdamW::new(&parameters, false);
    for epoch in 1..=settings.epochs {
        let quantised = epoch as f64 > settings.quant_from * settings.epochs as f64;
        let order = shuffled(samples.len(), stream(settings.seed, &[2, epoch as u64]));
        let seen = order.iter().take(CALIBRATION).map(|&at| samples.row(at));
        let ranges = quantised.then(|| shape.ranges(&parameters.0, seen));
        let state = stream(settings.seed, &[3, epoch as u64]);
        let mut loss = 0.0;
        for rows in order.chunks(settings.batch) {
            let seen = if quantised { rounded(&parameters) } else { parameters.clone() };
            let inputs = |at: usize| {
                let mut inputs = moved(samples.row(at), settings.shift, stream(state, &[4, at as u64]));
                drop_out(&mut inputs, settings.input_dropout, stream(state, &[at as u64]));
                inputs
            };
            let (gradients, sum, _) = batch(&seen, rows, 16, |at, gradients| {
                (shape.backward(&seen.0, &inputs(at), samples.labels[at], ranges.as_deref(), gradients).loss, 0)
            });
            optimizer.update(&mut parameters, &gradients, 1.0 / rows.len() as f64, &loop_config);
            loss += sum;
        }
        if !loss.is_finite() || !parameters.is_finite() {
            return Err(Error::Diverged { what: "the loss", step: epoch * batches, checkpoint: None });
        }
        let loss = loss / samples.len() as f64;
        if !hear(Epoch { epoch, epochs: settings.epochs, loss, rounded: quantised }) {
            break;
        }
    }
    Ok(parameters)
}

/// A picture moved by some places up or down and to a side; zeros come in.
fn moved(row: &[f32], shift: Option<[usize; 3]>, state: u64) -> Vec<f32> {
    let Some([height, width, most]) = shift.filter(|[height, width, _]| height * width == row.len()) else {
        return row.to_vec();
    };
    let [down, right] = [0, 1].map(|i| index(state, i, 2 * most + 1));
    let from = |at: usize, by: usize, size: usize| (at + most).checked_sub(by).filter(|&at| at < size);
    let place = |at: usize| Some(from(at / width, down, height)? * width + from(at % width, right, width)?);
    (0..row.len()).map(|at| place(at).map_or(0.0, |at| row[at])).collect()
}

/// The trained network as one of dense layers.
pub fn dense(shape: &Shape, parameters: &Parameters, name: &str) -> DenseNetwork {
    let layer = |layer: usize| {
        let (inputs, outputs) = (shape.widths[layer], shape.widths[layer + 1]);
        let weight = &parameters.0[2 * layer].values;
        // The first layer takes rows as they are.
        let scale = if layer == 0 { shape.scale } else { 1.0 };
        let row = |r: usize| (0..inputs).map(move |c| weight[c * outputs + r] * scale);
        DenseLayer {
            weight: (0..outputs).flat_map(row).collect(),
            bias: parameters.0[2 * layer + 1].values.clone(),
            function: if layer + 1 < shape.layers() { Function::Relu } else { Function::Identity },
        }
    };
    DenseNetwork {
        name: Some(name.to_owned()),
        input: Port::row("input", vec![shape.widths[0]]),
        output: Output { name: "output".to_owned(), kind: OutputKind::Logits, labels: Vec::new() },
        layers: (0..shape.layers()).map(layer).collect(),
    }
}

/// Runs a file of the mode `rin` and the real numbers on rows that neither was trained on.
///
/// # Errors
/// When the file cannot be loaded.
pub fn compare(shape: &Shape, parameters: &Parameters, file: &Path, samples: &Samples) -> Result<Paired, Error> {
    let rows = samples.len();
    let float: Vec<usize> =
        (0..rows).into_par_iter().map(|at| class(&shape.logits(&parameters.0, samples.row(at)))).collect();
    let options = LoadOptions { n_batch: 64, ..LoadOptions::default() };
    let file = ModelFile::open(file).map_err(rin_engine::Error::from)?;
    let mut engine = NetworkEngine::load(file, &options, |_| ())?;
    let mut found = Vec::with_capacity(rows);
    for inputs in samples.inputs.chunks(64 * samples.width) {
        engine.run(&[inputs], inputs.len() / samples.width)?;
        found.extend(engine.output(0).chunks_exact(engine.output_width(0)).map(class));
    }
    Ok(Paired::of(&found, &float, &samples.labels))
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
) -> Result<Option<MlpSummary>, Error> {
    let config = MlpConfig::read(path)?;
    let model = config.output.dir.join(format!("{}.rin", config.output.name));
    if model.exists() && !overwrite {
        return Err(Error::Exists(model));
    }
    let samples = Samples::read(&config.data)?;
    let (training, test) = samples.split(config.data.test, config.train.seed);
    let widths = [&[samples.width], &config.model.hidden[..], &[samples.classes()]].concat();
    let shape = Shape { widths, scale: config.data.scale };
    let mut last = None;
    let parameters = train(&config, &shape, &training, &mut |epoch| {
        last = Some(epoch);
        hear(epoch);
        !cancel.load(Ordering::Relaxed)
    })?;
    let Some(last) = last.filter(|_| !cancel.load(Ordering::Relaxed)) else { return Ok(None) };
    std::fs::create_dir_all(&config.output.dir).map_err(|e| Error::writing(&config.output.dir, e))?;
    let rows = Array { shape: vec![training.len(), training.width], values: training.inputs.clone(), lengths: None };
    let network = dense(&shape, &parameters, &config.output.name).quantize(&rows).map_err(rin_import::Error::from)?;
    integer::write(&model, &network, &config.output.name, "rin-train", overwrite)?;
    let comparison = compare(&shape, &parameters, &model, &test)?;
    let (parameters, train_rows) = (parameters.count(), training.len());
    Ok(Some(MlpSummary { model, test: comparison, parameters, train_rows, last }))
}
