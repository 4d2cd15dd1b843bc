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
    terms: Vec<Term>,
    kernels: Kernels,
}

/// One distance.
#[derive(Debug)]
struct Term {
    kind: Kind,
    /// A layer of the student and the teacher's that it looks at, both from 0.
    layers: Vec<(usize, usize)>,
}

#[derive(Debug)]
enum Kind {
    /// The widths of student and teacher.
    Hidden {
        dim: usize,
        of_teacher: usize,
    },
    Attention(Box<[AttentionShape; 2]>),
    /// The attention of values to values; their shapes.
    Values(Box<[AttentionShape; 2]>),
}

/// Name of the map from a layer of the student, from 0, to its teacher.
fn map_of(layer: usize) -> String {
    format!("hint.{layer}.weight")
}

/// The teacher's layer of each of the student's, both from 0; see [`HintLayers`].
pub(super) fn matched(student: usize, teacher: usize, how: HintLayers) -> Vec<usize> {
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
        let all: Vec<_> =
            matched(student.n_layers, teacher.n_layers, config.hint_layers).into_iter().enumerate().collect();
        let mut terms = Vec::new();
        if matches!(config.hints, Hints::Hidden | Hints::Both) {
            let kind = Kind::Hidden { dim: student.dim, of_teacher: teacher.dim };
            terms.push(Term { kind, layers: all.clone() });
        }
        if config.hints != Hints::Hidden {
            let shapes = attention_shapes(config.hints, student, teacher, seq, &kernels)?;
            if config.hints == Hints::Relations {
                let last = vec![(student.n_layers - 1, teacher.n_layers - 1)];
                let values = Box::new([shapes[0].of_values(), shapes[1].of_values()]);
                terms.push(Term { kind: Kind::Attention(Box::new(shapes)), layers: last.clone() });
                terms.push(Term { kind: Kind::Values(values), layers: last });
            } else {
                terms.push(Term { kind: Kind::Attention(Box::new(shapes)), layers: all });
            }
        }
        Ok(Some(Self { terms, kernels }))
    }

    /// The maps that are learned beside the student.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        let maps = |term: &Term| {
            let Kind::Hidden { dim, of_teacher } = term.kind else { return Vec::new() };
            let role = Role::Hint { std: 1.0 / (dim as f64).sqrt() };
            let map = |&(layer, _): &(usize, usize)| Parameter::new(map_of(layer), &[of_teacher, dim], role);
            term.layers.iter().map(map).collect()
        };
        self.terms.iter().flat_map(maps).collect()
    }

    /// How far the student's inside is from the teacher's, a scalar of each distance: the mean over its layers of the mean
    /// squared difference after the map, or of [`attention_hint`].
    ///
    /// # Errors
    /// When the two are not those of the plan's networks.
    pub(super) fn distances(
        &self,
        student: &Inside,
        teacher: &Inside,
        weights: &Weights,
    ) -> Result<Vec<Tensor>, Error> {
        self.terms.iter().map(|term| term.distance(student, teacher, weights, self.kernels)).collect()
    }
}

/// The shapes of the student's attention and the teacher's.
fn attention_shapes(
    hints: Hints,
    student: &Config,
    teacher: &Config,
    seq: usize,
    kernels: &Kernels,
) -> Result<[AttentionShape; 2], Error> {
    if [student, teacher].iter().any(|c| c.memory.iter().any(Option::is_some)) {
        let expected = "\"none\" or \"hidden\" where a layer has a memory in the place of attention";
        return Err(Error::value("distill.hints", format!("\"{}\"", format!("{hints:?}").to_lowercase()), expected));
    }
    let expected = |n: usize| format!("{n}, the teacher's, with hints of attention (distill.hints)");
    if student.n_heads != teacher.n_heads {
        return Err(Error::value("model.heads", student.n_heads, expected(teacher.n_heads)));
    }
    if hints == Hints::Relations && student.n_kv_heads != teacher.n_kv_heads {
        return Err(Error::value("model.kv_heads", student.n_kv_heads, expected(teacher.n_kv_heads)));
    }
    let seen = |c: &Config| c.window.unwrap_or(usize::MAX).min(seq);
    if seen(student) != seen(teacher) {
        return Err(Error::value("model.window", seen(student), expected(seen(teacher))));
    }
    Ok([student, teacher].map(|c| AttentionShape::new(c, seq, kernels)))
}

impl Term {
    fn distance(
        &self,
        student: &Inside,
        teacher: &Inside,
        weights: &Weights,
        kernels: Kernels,
    ) -> Result<Tensor, Error> {
        let missing = || candle_core::Error::Msg("a hint of a layer that there is not".to_owned());
        let mut sum: Option<Tensor> = None;
        for &(layer, of_teacher) in &self.layers {
            let qkv = || student.qkv.get(layer).zip(teacher.qkv.get(of_teacher)).ok_or_else(missing);
            let distance = match &self.kind {
                Kind::Hidden { .. } => {
                    // The stream begins with the embedding.
                    let (x, y) = (student.hidden.get(layer + 1), teacher.hidden.get(of_teacher + 1));
                    let (x, y) = x.zip(y).ok_or_else(missing)?;
                    let map = weights.tensor(&map_of(layer))?;
                    let mapped = linear(Source::Plain(x), map, &Product::Float, Tail::default(), kernels)?;
                    (mapped - y)?.sqr()?.mean_all()?
                }
                Kind::Attention(shapes) => {
                    let ((x, y), [shape, of_teacher]) = (qkv()?, &**shapes);
                    attention_hint(x, y, [shape, of_teacher], kernels)?
                }
                Kind::Values(shapes) => {
                    let ((x, y), [shape, of_teacher]) = (qkv()?, &**shapes);
                    let (x, y) = (values_thrice(x, shape)?, values_thrice(y, of_teacher)?);
                    attention_hint(&x, &y, [shape, of_teacher], kernels)?
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

/// The values of `qkv` in the place of queries, keys and values of `shape`.
fn values_thrice(qkv: &Tensor, shape: &AttentionShape) -> Result<Tensor, Error> {
    let width = shape.q_width();
    let first = qkv.dim(1)?.saturating_sub(width);
    let values = qkv.narrow(1, first, width)?.contiguous()?;
    Ok(Tensor::cat(&[&values, &values, &values], 1)?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::{AttentionShape, HintPlan, Inside, Kind, Tensor, Term, matched};
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
        let teacher = build(12, 4, 2);
        let ids: Vec<u32> = (0..16).map(|i| (i * 7 + i / 5) % 16).collect();
        let batch = Batch { ids: &ids, seq: 8 };
        let mut seen = Inside::default();
        let of_teacher = initialized(teacher.parameters(), 5);
        let weights = Weights::constant(&of_teacher, Arithmetic::Float, kernels).unwrap();
        teacher.forward_seen(&weights, batch, Pass::Evaluate, Some(&mut seen)).unwrap();
        for hints in [Hints::Hidden, Hints::Attention, Hints::Both, Hints::Relations] {
            // Relations of values are compared head by head.
            let student = build(8, 2, if hints == Hints::Relations { 2 } else { 1 });
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
                    let all = plan.distances(&inside, &seen, &weights).unwrap();
                    assert_eq!(all.len(), if matches!(hints, Hints::Hidden | Hints::Attention) { 1 } else { 2 });
                    (all.into_iter().reduce(|a, b| (a + b).unwrap()).unwrap(), vars)
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
                let want = match hints {
                    // All but what comes after the last layer's keys; its values too.
                    Hints::Attention => 13,
                    Hints::Relations => 14,
                    // All but the last norm.
                    _ => parameters.0.len() - 1,
                };
                assert_eq!(checked, want, "{hints:?}");
            }
        }
    }

    /// Of values alone, without rotation: `KL` of the rows of softmax(V Vᵀ / √4), each token seeing itself and those before.
    #[test]
    fn relations_of_values_are_those_of_the_definition() {
        const SEQ: usize = 5;
        let kernels = Kernels::select(&Cpu::detect());
        // Two heads each, of 4 and of 8.
        let (student, teacher) = (build(8, 2, 2), build(16, 2, 2));
        let shapes = [student.config(), teacher.config()].map(|c| AttentionShape::new(c, SEQ, &kernels).of_values());
        let numbers = |width: usize, a: f64| -> Vec<f64> {
            (0..SEQ * width).map(|i| ((i as f64 * a).sin() * 64.0).round() / 64.0).collect()
        };
        let (x, y) = (numbers(24, 1.7), numbers(48, 2.3));
        // Values stand last in a row.
        let rows = |all: &[f64], hd: usize, head: usize| -> Vec<Vec<f64>> {
            let value = |t: usize| &all[6 * hd * t + (4 + head) * hd..][..hd];
            let row = |t: usize| {
                let dot = |j: usize| value(t).iter().zip(value(j)).map(|(a, b)| a * b).sum::<f64>();
                let score = |j: usize| libm::exp(dot(j) / (hd as f64).sqrt());
                let sum: f64 = (0..=t).map(score).sum();
                (0..=t).map(|j| score(j) / sum).collect()
            };
            (0..SEQ).map(row).collect()
        };
        let mut want = 0.0;
        for head in 0..2 {
            for (p, q) in rows(&y, 8, head).iter().zip(rows(&x, 4, head)) {
                want += p.iter().zip(q).map(|(p, q)| p * libm::log(p / q)).sum::<f64>() / (2 * SEQ) as f64;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "the numbers are exact")]
        let of = |all: &[f64], width: usize| {
            let all: Vec<f32> = all.iter().map(|x| *x as f32).collect();
            Tensor::from_vec(all, (SEQ, width), &candle_core::Device::Cpu).unwrap()
        };
        let term = Term { kind: Kind::Values(Box::new(shapes)), layers: vec![(0, 0)] };
        let inside = |qkv: Tensor| Inside { hidden: Vec::new(), qkv: vec![qkv], neurons: Vec::new() };
        let weights = Weights::constant(&Parameters(Vec::new()), Arithmetic::Float, kernels).unwrap();
        let found = term.distance(&inside(of(&x, 24)), &inside(of(&y, 48)), &weights, kernels).unwrap();
        let found = f64::from(found.to_scalar::<f32>().unwrap());
        assert!(want > 0.04 && (found - want).abs() < 1e-5 * want, "{found}, not {want}");
    }
}
