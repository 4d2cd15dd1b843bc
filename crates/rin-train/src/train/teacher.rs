//! The teacher of a distillation: the best weights of another training, or a model.

use super::all_parameters;
use super::hints::HintPlan;
use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::config::{DistillConfig, EMBEDDED, TrainConfig};
use crate::kernels::Kernels;
use crate::network::{self, Batch, Decoder, Inside, Network, Pass};
use crate::ops::distillation;
use crate::parameters::{Parameter, Parameters, Role};
use crate::vocabulary::Vocabulary;
use crate::weights::{Arithmetic, Weights};
use candle_core::Tensor;
use rin_engine::tokenizer::Tokenizer;
use rin_engine::weights::{matrix_values, vector_values};
use rin_model::ModelFile;
use std::path::Path;

/// A network that is not trained any more.
#[derive(Debug)]
pub(super) struct Teacher {
    pub(super) network: Box<dyn Network>,
    pub(super) weights: Weights,
}

/// What a teacher makes of a batch.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// `(tokens, vocab)`.
    pub(super) logits: Tensor,
    /// Where a hint asks for it.
    pub(super) inside: Option<Inside>,
}

/// What a teacher's word counts for one student.
#[derive(Debug)]
pub(super) struct Teaching {
    config: DistillConfig,
    hints: Option<HintPlan>,
    kernels: Kernels,
}

/// What a student made of a batch.
#[derive(Clone, Copy)]
pub(super) struct Student<'a> {
    /// Its loss against the text.
    pub(super) nats: &'a Tensor,
    pub(super) logits: &'a Tensor,
    /// With hints.
    pub(super) inside: Option<&'a Inside>,
    pub(super) weights: &'a Weights,
}

impl Teacher {
    /// Reads a teacher of this `vocabulary` and of sequences of `seq` tokens.
    ///
    /// # Errors
    /// When it is not there, is of another vocabulary, or its context is shorter than a training sequence.
    pub(super) fn load(path: &Path, vocabulary: &Vocabulary, seq: usize, kernels: Kernels) -> Result<Self, Error> {
        let (network, weights) = if path == Path::new(EMBEDDED) {
            of_model(&rin_embedded::model()?, path, vocabulary, kernels)?
        } else if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("rin")) {
            of_model(&ModelFile::open(path)?, path, vocabulary, kernels)?
        } else {
            of_training(path, vocabulary, kernels)?
        };
        if network.config().ctx < seq {
            return Err(not(path, format!("a network with a context of at least {seq} tokens")));
        }
        Ok(Self { network, weights })
    }

    /// What it makes of a batch, with its inside where that is asked for.
    pub(super) fn answers(&self, batch: Batch<'_>, with_inside: bool) -> Result<Answers, Error> {
        let mut inside = with_inside.then(Inside::default);
        let logits = self.network.forward_seen(&self.weights, batch, Pass::Evaluate, inside.as_mut())?;
        Ok(Answers { logits, inside })
    }
}

impl Teaching {
    /// For a `student` of `teacher`.
    ///
    /// # Errors
    /// When the student has no place for the hints.
    pub(super) fn new(
        config: &DistillConfig,
        student: &dyn Network,
        teacher: &Teacher,
        seq: usize,
        kernels: Kernels,
    ) -> Result<Self, Error> {
        let hints = HintPlan::new(config, student.config(), teacher.network.config(), seq, kernels)?;
        Ok(Self { config: config.clone(), hints, kernels })
    }

    /// Whether a student's inside is asked for.
    pub(super) fn hints(&self) -> bool {
        self.hints.is_some()
    }

    /// What a student learns beside itself.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        self.hints.as_ref().map(HintPlan::parameters).unwrap_or_default()
    }

    /// The loss of a student; `first` becomes the hints' distances where there are none yet.
    pub(super) fn loss(&self, student: Student<'_>, answers: &Answers, first: &mut Vec<f64>) -> Result<Tensor, Error> {
        let distance = distillation(student.logits, &answers.logits, self.config.temperature, self.kernels)?;
        let share = self.config.weight;
        let mut loss = ((student.nats * (1.0 - share))? + (distance * share)?)?;
        let (Some(hints), Some(of_student), Some(of_teacher)) = (&self.hints, student.inside, &answers.inside) else {
            return Ok(loss);
        };
        let distances = hints.distances(of_student, of_teacher, student.weights)?;
        if first.is_empty() {
            for distance in &distances {
                first.push(distance.to_scalar::<f32>()?.into());
            }
        }
        for (distance, first) in distances.iter().zip(&*first) {
            loss = (loss + (distance * (self.config.hint_weight / unit(*first)))?)?;
        }
        Ok(loss)
    }
}

/// What a hint's distance is divided by. One that begins at nothing (a student that begins as its teacher) counts as it is.
fn unit(first: f64) -> f64 {
    if first > 0.0 { first } else { 1.0 }
}

fn not(path: &Path, expected: String) -> Error {
    Error::value("distill.teacher", path.display(), expected)
}

/// The network of a model and its numbers, which products take in f32.
fn of_model(
    file: &ModelFile,
    path: &Path,
    vocabulary: &Vocabulary,
    kernels: Kernels,
) -> Result<(Box<dyn Network>, Weights), Error> {
    let (ours, its) = (vocabulary.tokenizer(), Tokenizer::of_model(file)?);
    if its.vocab_size() != ours.vocab_size() {
        let (its, ours) = (its.vocab_size(), ours.vocab_size());
        return Err(not(path, format!("a model of the same vocabulary: it has {its} tokens, the student {ours}")));
    }
    let differs = |&id: &u32| its.piece(id) != ours.piece(id);
    if let Some(id) = (0..u32::try_from(ours.vocab_size()).unwrap_or(u32::MAX)).find(differs) {
        return Err(not(path, format!("a model of the same vocabulary: token {id} is another than the student's")));
    }
    let network = Decoder::of(file.config()?, path)?;
    let mut all = network.parameters();
    for p in &mut all {
        let t = file.tensor(&p.name).ok_or_else(|| not(path, format!("a model with the tensor '{}'", p.name)))?;
        if !t.shape.iter().copied().eq(p.shape.iter().map(|&n| n as u64)) {
            return Err(not(path, format!("a model whose '{}' is {:?}, not {:?}", p.name, p.shape, t.shape)));
        }
        p.values = match p.role {
            Role::Matrix { .. } => matrix_values(t, file.bytes(t))?,
            _ => vector_values(t, file.bytes(t))?,
        };
    }
    let weights = Weights::constant(&Parameters(all), Arithmetic::Float, kernels)?;
    Ok((Box::new(network), weights))
}

/// The network of a training and the weights of its best evaluation.
fn of_training(path: &Path, vocabulary: &Vocabulary, kernels: Kernels) -> Result<(Box<dyn Network>, Weights), Error> {
    let of = TrainConfig::read(path)?;
    let network = network::build(&of.model, vocabulary.size(), &of.output.name)?;
    let like = Parameters::initialized(all_parameters(&*network, &of), 0);
    let best = of.output.dir.join(format!("{}.best", of.output.name));
    if !best.exists() {
        return Err(not(path, format!("a training that was run: {} is missing", best.display())));
    }
    let best = Checkpoint::load(&best, &like, None)?;
    if best.state.fingerprint.vocabulary != vocabulary.hash() {
        return Err(not(path, "a network of the same vocabulary".to_owned()));
    }
    let arithmetic = of.train.quant.format().map_or(Arithmetic::Float, Arithmetic::Quant);
    let weights = Weights::constant(&best.parameters, arithmetic, kernels)?;
    Ok((network, weights))
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn a_distance_that_begins_at_nothing_is_not_divided() {
        assert_eq!([0.0, f64::NAN, 0.25].map(unit).map(f64::to_bits), [1.0, 1.0, 0.25_f64].map(f64::to_bits));
    }
}
