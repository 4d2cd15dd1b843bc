//! A text with a teacher whose answers are kept, so that many students can learn from it for the price of one.

use super::hints::matched;
use super::teacher::{Answers, Teacher};
use crate::Error;
use crate::clock::processor_time;
use crate::config::{DataConfig, HintLayers, TokenizerKind};
use crate::data::{Batches, Text};
use crate::heap::KeepHeap;
use crate::kernels::Kernels;
use crate::network::{Batch, Inside, Network, Pass};
use crate::ops::host;
use crate::vocabulary::Vocabulary;
use crate::weights::Weights;
use candle_core::{Device, Tensor};
use rin_kernels::Cpu;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Share of the text, from its beginning, that is trained on.
const SPLIT: f64 = 0.9;
/// Windows that a network sees at a time where nothing is learned.
const GROUP: usize = 32;

/// What is kept of a teacher's inside.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Layers of the students that hints will be given to; none: no hints.
    pub depths: Vec<usize>,
    /// Whether hints of attention will be given.
    pub attention: bool,
}

/// A text by characters, a teacher, and a pool of windows of the text with the teacher's answers to them.
///
/// Bytes of a window: for each of its tokens four times the vocabulary, and of each layer that a student looks at four times
/// the teacher's width and, with attention, of its queries, keys and values.
#[derive(Debug)]
pub struct Course {
    pub(super) vocabulary: Vocabulary,
    pub(super) kernels: Kernels,
    pub(super) seq: usize,
    pub(super) validation: Vec<u32>,
    pub(super) teacher: Teacher,
    batches: Batches,
    kept: Kept,
    pub(super) pool: Vec<Window>,
    /// Processor time of the pool's answers.
    answered_in: Duration,
    _heap: KeepHeap,
}

/// A window of the text.
#[derive(Debug)]
pub(super) struct Window {
    ids: Vec<u32>,
    targets: Vec<u32>,
    answers: Answers,
}

/// What a network makes of tokens.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `(tokens, vocab)`.
    pub logits: Vec<f32>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// The residual stream after the last layer, `(tokens, dim)`.
    pub hidden: Vec<f32>,
    /// Width.
    pub dim: usize,
}

impl Course {
    /// Of the text `file` in windows of `seq` characters, which `seed` draws, by `teacher` (as in
    /// [`DistillConfig`](crate::config::DistillConfig)). The pool is empty.
    ///
    /// # Errors
    /// When the text or the teacher cannot be used.
    pub fn new(file: &Path, teacher: &Path, seq: usize, seed: u64, kept: Kept) -> Result<Self, Error> {
        let heap = KeepHeap::new();
        let data = DataConfig { files: vec![PathBuf::from(file)], split: SPLIT };
        let text = Text::read(&data, TokenizerKind::Char)?;
        let vocabulary = Vocabulary::learn(TokenizerKind::Char, &text.train, 0)?;
        let kernels = Kernels::select(&Cpu::detect());
        let teacher = Teacher::load(teacher, &vocabulary, seq, kernels)?;
        let batches = Batches::new(vocabulary.encode(&text.train)?, seq, GROUP, seed)?;
        let validation = vocabulary.encode(&text.validation)?;
        let (pool, answered_in) = (Vec::new(), Duration::ZERO);
        Ok(Self { vocabulary, kernels, seq, validation, teacher, batches, kept, pool, answered_in, _heap: heap })
    }

    /// Adds windows to the pool and has the teacher answer them; the windows that the pool has then.
    ///
    /// # Errors
    /// When the tensor library refuses.
    pub fn fill(&mut self) -> Result<usize, Error> {
        let begun = processor_time();
        let (ids, targets) = self.batches.get(self.pool.len() / GROUP, 0);
        let with_inside = !self.kept.depths.is_empty();
        let mut answers = self.teacher.answers(Batch { ids: &ids, seq: self.seq }, with_inside)?;
        if let Some(inside) = &mut answers.inside {
            self.forget(inside)?;
        }
        for (i, (ids, targets)) in ids.chunks(self.seq).zip(targets.chunks(self.seq)).enumerate() {
            let part =
                |t: &Tensor| if t.elem_count() == 0 { Ok(t.clone()) } else { t.narrow(0, i * self.seq, self.seq) };
            let parts = |all: &[Tensor]| all.iter().map(part).collect::<Result<Vec<_>, _>>();
            let inside = match &answers.inside {
                Some(inside) => {
                    Some(Inside { hidden: parts(&inside.hidden)?, qkv: parts(&inside.qkv)?, neurons: Vec::new() })
                }
                None => None,
            };
            let answers = Answers { logits: part(&answers.logits)?, inside };
            self.pool.push(Window { ids: ids.to_vec(), targets: targets.to_vec(), answers });
        }
        self.answered_in += processor_time().saturating_sub(begun);
        Ok(self.pool.len())
    }

    /// Leaves nothing of layers that no student looks at.
    fn forget(&self, inside: &mut Inside) -> Result<(), Error> {
        let n = self.teacher.network.config().n_layers;
        let depths = self.kept.depths.iter().filter(|depth| **depth <= n);
        let looked_at: Vec<usize> = depths.flat_map(|depth| matched(*depth, n, HintLayers::Uniform)).collect();
        let nothing = Tensor::zeros(0, candle_core::DType::F32, &Device::Cpu)?;
        for (i, hidden) in inside.hidden.iter_mut().enumerate() {
            // The stream begins with the embedding.
            if i.checked_sub(1).is_none_or(|layer| !looked_at.contains(&layer)) {
                *hidden = nothing.clone();
            }
        }
        for (layer, qkv) in inside.qkv.iter_mut().enumerate() {
            if !(self.kept.attention && looked_at.contains(&layer)) {
                *qkv = nothing.clone();
            }
        }
        Ok(())
    }

    /// Processor time of the teacher's answers to one window.
    pub fn time_of_answer(&self) -> Duration {
        self.answered_in / u32::try_from(self.pool.len().max(1)).unwrap_or(u32::MAX)
    }

    /// Tokens that are not trained on.
    pub fn validation(&self) -> &[u32] {
        &self.validation
    }

    /// Tokens of a window.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// What the teacher makes of windows, `(windows, seq)`.
    ///
    /// # Errors
    /// When the tensor library refuses.
    pub fn seen(&self, ids: &[u32]) -> Result<Seen, Error> {
        seen(&*self.teacher.network, &self.teacher.weights, ids, self.seq)
    }

    /// Inputs and targets of windows of the pool.
    pub(super) fn texts(&self, windows: &[usize]) -> (Vec<u32>, Vec<u32>) {
        let of = |part: fn(&Window) -> &[u32]| windows.iter().flat_map(|i| part(&self.pool[*i])).copied().collect();
        (of(|window| &window.ids), of(|window| &window.targets))
    }

    /// The teacher's answers to windows of the pool.
    pub(super) fn answers(&self, windows: &[usize]) -> Result<Answers, Error> {
        let of = || windows.iter().map(|i| &self.pool[*i].answers);
        let stacked = |all: Vec<&Tensor>| match all.first() {
            Some(first) if first.elem_count() == 0 => Ok((*first).clone()),
            _ => Tensor::cat(&all, 0),
        };
        let inside = |part: fn(&Inside) -> &[Tensor]| {
            let layers = of().next().and_then(|a| a.inside.as_ref()).map_or(0, |inside| part(inside).len());
            let layer = |at: usize| stacked(of().filter_map(|a| part(a.inside.as_ref()?).get(at)).collect());
            (0..layers).map(layer).collect::<Result<Vec<_>, _>>()
        };
        let logits = stacked(of().map(|a| &a.logits).collect())?;
        let inside = if self.kept.depths.is_empty() {
            None
        } else {
            Some(Inside { hidden: inside(|i| &i.hidden)?, qkv: inside(|i| &i.qkv)?, neurons: Vec::new() })
        };
        Ok(Answers { logits, inside })
    }
}

/// What a network makes of windows, `(windows, seq)`.
pub(super) fn seen(network: &dyn Network, weights: &Weights, ids: &[u32], seq: usize) -> Result<Seen, Error> {
    let config = network.config();
    let mut all = Seen { logits: Vec::new(), vocab: config.vocab, hidden: Vec::new(), dim: config.dim };
    for ids in ids.chunks(GROUP * seq) {
        let mut inside = Inside::default();
        let logits = network.forward_seen(weights, Batch { ids, seq }, Pass::Evaluate, Some(&mut inside))?;
        all.logits.extend_from_slice(&host(&logits)?);
        if let Some(last) = inside.hidden.last() {
            all.hidden.extend_from_slice(&host(last)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{Course, GROUP, Kept};
    use crate::config::EMBEDDED;
    use crate::network::Batch;
    use crate::ops::host;
    use candle_core::Tensor;
    use rin_engine::tokenizer::Tokenizer;
    use std::path::Path;

    #[test]
    fn kept_answers_are_those_that_the_teacher_would_give() {
        let tokenizer = Tokenizer::of_model(&rin_embedded::model().unwrap()).unwrap();
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap();
        let characters: Vec<u8> = ids.flat_map(|id| tokenizer.piece(id).unwrap().to_vec()).collect();
        let file = std::env::temp_dir().join(format!("rin-train-course-{}.txt", std::process::id()));
        std::fs::write(&file, characters.repeat(20)).unwrap();
        let kept = Kept { depths: vec![2], attention: true };
        let mut course = Course::new(&file, Path::new(EMBEDDED), 8, 3, kept).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!((course.fill().unwrap(), course.fill().unwrap()), (GROUP, 2 * GROUP));
        let windows = [3, GROUP + 1, 3];
        let (ids, targets) = course.texts(&windows);
        assert_eq!((ids.len(), &ids[..8], &ids[1..8]), (24, &ids[16..], &targets[..7]));
        assert_ne!(ids[..8], ids[8..16]);
        let kept = course.answers(&windows).unwrap();
        let live = course.teacher.answers(Batch { ids: &ids, seq: 8 }, true).unwrap();
        let same = |a: &Tensor, b: &Tensor| {
            let (a, b) = (host(a).unwrap().to_vec(), host(b).unwrap().to_vec());
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3)
        };
        assert!(same(&kept.logits, &live.logits));
        let (kept, live) = (kept.inside.unwrap(), live.inside.unwrap());
        // Two layers of a student look at the teacher's third and sixth.
        for layer in 0..6 {
            let looked_at = layer == 2 || layer == 5;
            assert_eq!(same(&kept.hidden[layer + 1], &live.hidden[layer + 1]), looked_at, "{layer}");
            assert_eq!(same(&kept.qkv[layer], &live.qkv[layer]), looked_at, "{layer}");
            assert_eq!(kept.qkv[layer].elem_count() == 0, !looked_at, "{layer}");
        }
        assert!(course.time_of_answer() > std::time::Duration::ZERO);
    }
}
