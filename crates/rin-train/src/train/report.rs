//! The result of a training, and what quantisation costs it.

use super::{BLOCK, Trainer, files};
use crate::Error;
use crate::evaluate::Evaluation;
use crate::export::export;
use crate::parameters::{Parameters, Role};
use crate::weights::Arithmetic;
use rin_kernels::Format;
use serde::Serialize;
use std::path::PathBuf;

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The exported file.
    #[serde(skip)]
    pub model: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its data.
    pub sha256: String,
    /// Numbers of the network.
    pub parameters: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Format of its matrices.
    pub quant: String,
    /// Step whose weights were the best and were exported.
    pub step: usize,
    /// The exported network on the whole validation split.
    pub evaluation: Evaluation,
    /// The same weights in other arithmetic, against f32.
    pub formats: Vec<Comparison>,
}

/// The same weights in one format.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Format of the matrices; with a quantised one, activations have 8 bits.
    pub format: String,
    /// Loss on the whole validation split, in nats per character.
    pub nats_per_char: f64,
    /// How much more that is than in f32.
    pub more_than_f32: f64,
    /// The 95 % interval of that, from the differences token by token.
    pub more_interval: [f64; 2],
    /// Share of the most probable tokens that are those of f32.
    pub same_argmax: f64,
}

/// Exports `parameters`, evaluates them in every format that their shapes allow, and writes the figures down; none
/// when cancelled.
pub(super) fn write(trainer: &Trainer, parameters: &Parameters, step: usize) -> Result<Option<Summary>, Error> {
    let quant = trainer.config.train.quant.format();
    let fits = |p: &crate::parameters::Parameter| {
        !matches!(p.role, Role::Matrix { .. }) || p.shape.last().is_some_and(|n| n % BLOCK == 0)
    };
    // What rounding to three values does without training for it is no option, so it is not measured.
    let ternary = quant.filter(|format| *format == Format::TQ2_0);
    let Some(float) = trainer.evaluation(parameters, Arithmetic::Float)? else { return Ok(None) };
    let mut formats = vec![compare("F32", &float, &float)];
    let mut exported = float.clone();
    for format in [Format::Q8_0, Format::Q4_0].into_iter().chain(ternary) {
        // Learned steps are those of one format.
        let learned = parameters.0.iter().any(|p| p.role == Role::Steps);
        if !parameters.0.iter().filter(|p| p.role.is_exported()).all(fits) || (learned && quant != Some(format)) {
            continue;
        }
        let Some(found) = trainer.evaluation(parameters, Arithmetic::Quant(format))? else { return Ok(None) };
        formats.push(compare(format.name(), &found, &float));
        if quant == Some(format) {
            exported = found;
        }
    }
    let path = &trainer.files.model;
    let report = export(&*trainer.network, parameters, &trainer.vocabulary, quant, path)?;
    let summary = Summary {
        model: path.clone(),
        bytes: report.bytes,
        sha256: report.sha256,
        parameters: parameters.count(),
        vocab: trainer.vocabulary.size(),
        quant: quant.unwrap_or(Format::F32).name().to_owned(),
        step,
        evaluation: exported,
        formats,
    };
    let mut json = serde_json::to_vec_pretty(&summary)?;
    json.push(b'\n');
    files::replace(&trainer.files.evaluation, &json)?;
    Ok(Some(summary))
}

fn compare(format: &str, found: &Evaluation, float: &Evaluation) -> Comparison {
    let same = found.argmax.iter().zip(&float.argmax).filter(|(a, b)| a == b).count();
    let (more_than_f32, more_interval) = found.more_than(float);
    Comparison {
        format: format.to_owned(),
        nats_per_char: found.nats_per_char,
        more_than_f32,
        more_interval,
        same_argmax: same as f64 / found.argmax.len().max(1) as f64,
    }
}
