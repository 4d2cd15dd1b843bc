//! Hints: what a student learns of its teacher's inside.

use crate::Error;
use crate::config::{DistillConfig, HintLayers, Hints};
use crate::kernels::Kernels;
use crate::network::Inside;
use crate::ops::{AttentionShape, Product, Source, Tail, attention_hint, linear};
use crate::parameters::{Parameter, Role};
use crate::weights::Weights;
use candle_core::Tensor;
use rin_model::Config;

/// Which layers look at which, and how.
#[derive(Debug)]
pub(super) struct HintPlan {
    kind: Kind,
    /// The teacher's layer of each of the student's, both from 0.
    layers: Vec<usize>,
    kernels: Kernels,
}

#[derive(Debug)]
enum Kind {
    /// The widths of student and teacher.
    Hidden {
        dim: usize,
        of_teacher: usize,
    },
    Attention(Box<[AttentionShape; 2]>),
}

/// Name of the map from a layer of the student, from 0, to its teacher.
fn map_of(layer: usize) -> String {
    format!("hint.{layer}.weight")
}

/// The teacher's layer of each of the student's, both from 0; see [`HintLayers`].
fn matched(student: usize, teacher: usize, how: HintLayers) -> Vec<usize> {
    let mut layers: Vec<usize> = (1..=student).map(|s| (s * teacher / student).saturating_sub(1)).collect();
    if how == HintLayers::Reversed {
        layers.reverse();
    }
    layers
}

impl HintPlan {
    /// The plan that a configuration asks for, if any.
    ///
    /// # Errors
    /// When the student has more layers than the teacher, or, for attention, other heads, another window, or memories.
    pub(super) fn new(
        config: &DistillConfig,
        student: &Config,
        teacher: &Config,
        seq: usize,
        kernels: Kernels,
    ) -> Result<Option<Self>, Error> {
        if config.hints == Hints::None {
            return Ok(None);
        }
        if student.n_layers > teacher.n_layers {
            let expected = format!("at most {}, the teacher's, with distill.hints", teacher.n_layers);
            return Err(Error::value("model.layers", student.n_layers, expected));
        }
        let kind = if config.hints == Hints::Hidden {
            Kind::Hidden { dim: student.dim, of_teacher: teacher.dim }
        } else {
            if [student, teacher].iter().any(|c| c.memory.iter().any(Option::is_some)) {
                let expected = "\"none\" or \"hidden\" where a layer has a memory in the place of attention";
                return Err(Error::value("distill.hints", "\"attention\"", expected));
            }
            if student.n_heads != teacher.n_heads {
                let expected = format!("{}, the teacher's, with distill.hints = \"attention\"", teacher.n_heads);
                return Err(Error::value("model.heads", student.n_heads, expected));
            }
            let seen = |c: &Config| c.window.unwrap_or(usize::MAX).min(seq);
            if seen(student) != seen(teacher) {
                let expected = format!("{}, the teacher's, with distill.hints = \"attention\"", seen(teacher));
                return Err(Error::value("model.window", seen(student), expected));
            }
            let shape = |c: &Config| AttentionShape::new(c, seq, &kernels);
            Kind::Attention(Box::new([shape(student), shape(teacher)]))
        };
        let layers = matched(student.n_layers, teacher.n_layers, config.hint_layers);
        Ok(Some(Self { kind, layers, kernels }))
    }

    /// The maps that are learned beside the student.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        let Kind::Hidden { dim, of_teacher } = self.kind else { return Vec::new() };
        let role = Role::Hint { std: 1.0 / (dim as f64).sqrt() };
        (0..self.layers.len()).map(|layer| Parameter::new(map_of(layer), &[of_teacher, dim], role)).collect()
    }

    /// How far the student's inside is from the teacher's, a scalar: the mean over its layers of the mean squared
    /// difference after the map, or of [`attention_hint`].
    ///
    /// # Errors
    /// When the two are not those of the plan's networks.
    pub(super) fn distance(&self, student: &Inside, teacher: &Inside, weights: &Weights) -> Result<Tensor, Error> {
        let missing = || candle_core::Error::Msg("a hint of a layer that there is not".to_owned());
        let mut sum: Option<Tensor> = None;
        for (layer, &of_teacher) in self.layers.iter().enumerate() {
            let distance = match &self.kind {
                Kind::Hidden { .. } => {
                    // The stream begins with the embedding.
                    let (x, y) = (student.hidden.get(layer + 1), teacher.hidden.get(of_teacher + 1));
                    let (x, y) = x.zip(y).ok_or_else(missing)?;
                    let map = weights.tensor(&map_of(layer))?;
                    let mapped = linear(Source::Plain(x), map, &Product::Float, Tail::default(), self.kernels)?;
                    (mapped - y)?.sqr()?.mean_all()?
                }
                Kind::Attention(shapes) => {
                    let (x, y) = (student.qkv.get(layer), teacher.qkv.get(of_teacher));
                    let (x, y) = x.zip(y).ok_or_else(missing)?;
                    let [shape, of_teacher] = &**shapes;
                    attention_hint(x, y, [shape, of_teacher], self.kernels)?
                }
            };
            sum = Some(match sum {
                Some(sum) => (sum + distance)?,
                None => distance,
            });
        }
        let sum = sum.ok_or_else(missing)?;
        Ok((sum / self.layers.len() as f64)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{HintPlan, Inside, matched};
    use crate::config::{DistillConfig, HintLayers, Hints, TrainConfig};
    use crate::kernels::Kernels;
    use crate::network::{self, Batch, Network, Pass};
    use crate::parameters::{Parameters, Role};
    use crate::weights::{Arithmetic, Weights};
    use rin_kernels::Cpu;
    use std::path::Path;

    #[test]
    fn layers_are_matched_as_said() {
        assert_eq!(matched(2, 6, HintLayers::Uniform), [2, 5]);
        assert_eq!(matched(2, 6, HintLayers::Reversed), [5, 2]);
        assert_eq!(matched(3, 4, HintLayers::Uniform), [0, 1, 3]);
        assert_eq!(matched(1, 1, HintLayers::Reversed), [0]);
    }

    fn build(dim: usize, layers: usize, kv_heads: usize) -> Box<dyn Network> {
        let text = format!(
            "[model]\ndim = {dim}\nlayers = {layers}\nheads = 2\nkv_heads = {kv_heads}\nffn = 24\nctx = 8\ntokenizer = 'byte'\n\
             [data]\nfiles = ['a']\n[train]\nsteps = 1\n[output]\nname = 'a'\n"
        );
        let config = TrainConfig::parse(&text, Path::new("c.toml")).unwrap();
        network::build(&config.model, 16, "tiny").unwrap()
    }

    /// First values that are far enough from 0 for differences to be seen.
    fn initialized(parameters: Vec<crate::parameters::Parameter>, seed: u64) -> Parameters {
        let mut all = Parameters::initialized(parameters, seed);
        for p in all.0.iter_mut().filter(|p| matches!(p.role, Role::Matrix { .. })) {
            p.values.iter_mut().for_each(|x| *x *= 15.0);
        }
        all
    }

    /// Along each parameter's own gradient the distance changes by the gradient's square.
    #[test]
    fn gradients_are_those_of_differences() {
        let kernels = Kernels::select(&Cpu::detect());
        let (student, teacher) = (build(8, 2, 1), build(12, 4, 2));
        let ids: Vec<u32> = (0..16).map(|i| (i * 7 + i / 5) % 16).collect();
        let batch = Batch { ids: &ids, seq: 8 };
        let mut seen = Inside::default();
        let of_teacher = initialized(teacher.parameters(), 5);
        let weights = Weights::constant(&of_teacher, Arithmetic::Float, kernels).unwrap();
        teacher.forward_seen(&weights, batch, Pass::Evaluate, Some(&mut seen)).unwrap();
        for hints in [Hints::Hidden, Hints::Attention] {
            for hint_layers in [HintLayers::Uniform, HintLayers::Reversed] {
                let config = DistillConfig { hints, hint_layers, ..DistillConfig::plain("t".into()) };
                let plan = HintPlan::new(&config, student.config(), teacher.config(), 8, kernels).unwrap().unwrap();
                let mut all = student.parameters();
                all.extend(plan.parameters());
                let parameters = initialized(all, 3);
                let distance = |parameters: &Parameters| {
                    let (weights, vars) = Weights::variable(parameters, Arithmetic::Float, kernels).unwrap();
                    let mut inside = Inside::default();
                    student.forward_seen(&weights, batch, Pass::Evaluate, Some(&mut inside)).unwrap();
                    (plan.distance(&inside, &seen, &weights).unwrap(), vars)
                };
                let (at, vars) = distance(&parameters);
                let store = at.backward().unwrap();
                let mut checked = 0;
                for (i, var) in vars.iter().enumerate() {
                    let name = &parameters.0[i].name;
                    let Some(gradient) = store.get(var.as_tensor()) else { continue };
                    let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    let square: f64 = gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum();
                    if square < 1e-10 {
                        continue;
                    }
                    #[expect(clippy::cast_possible_truncation, reason = "a step of a difference")]
                    let moved = |length: f64| {
                        let mut moved = parameters.clone();
                        let step = (length / square.sqrt()) as f32;
                        moved.0[i].values.iter_mut().zip(&gradient).for_each(|(x, g)| *x += step * g);
                        f64::from(distance(&moved).0.to_scalar::<f32>().unwrap())
                    };
                    let found = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                    let want = square.sqrt();
                    assert!((found - want).abs() < 0.02 * want + 1e-4, "{hints:?}, {name}: {found}, not {want}");
                    checked += 1;
                }
                let hidden = hints == Hints::Hidden;
                // All but the last norm, or, for attention, but what comes after the last layer's keys; values too.
                assert_eq!(checked, if hidden { parameters.0.len() - 1 } else { 13 }, "{hints:?}");
            }
        }
    }
}
