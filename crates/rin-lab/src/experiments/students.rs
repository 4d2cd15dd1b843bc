//! Students of the model inside the binary, on tiny Shakespeare: what the experiments on distillation share.

use std::cell::OnceCell;
use std::path::Path;
use std::rc::Rc;

use rin_train::config::{DistillConfig, EMBEDDED, ModelConfig, TokenizerKind};
use rin_train::train::{Course, Kept};

use crate::{Context, Error};

/// Characters of a window.
pub(super) const SEQ: usize = 64;
/// The text, in the data folder.
const TEXT: &str = "text/tinyshakespeare.txt";
/// Seed of the pool's windows.
const SEED: u64 = 1;

/// A course that is begun where a case first asks for it, and kept for the cases after it.
#[derive(Clone)]
pub(super) struct Shared {
    course: Rc<OnceCell<Course>>,
    windows: usize,
    kept: Kept,
}

impl Shared {
    /// With so many windows at least, and so much of the teacher's inside.
    pub(super) fn new(windows: usize, kept: Kept) -> Self {
        Self { course: Rc::new(OnceCell::new()), windows, kept }
    }

    /// The course.
    pub(super) fn get(&self, context: &Context<'_>) -> Result<&Course, Error> {
        if let Some(course) = self.course.get() {
            return Ok(course);
        }
        let text = context.data(TEXT)?;
        let mut course = Course::new(&text, Path::new(EMBEDDED), SEQ, SEED, self.kept.clone())?;
        while course.fill()? < self.windows {
            context.check()?;
        }
        Ok(self.course.get_or_init(|| course))
    }
}

/// A student of this width and so many layers; eight heads of queries and four of keys, as its teacher.
pub(super) fn network(dim: usize, layers: usize) -> ModelConfig {
    ModelConfig {
        dim,
        layers,
        heads: 8,
        kv_heads: Some(4),
        ffn: dim * 8 / 3,
        ctx: SEQ,
        ..ModelConfig::plain(TokenizerKind::Char)
    }
}

/// The teacher's logits, with the weight and temperature that are the default.
pub(super) fn logits() -> DistillConfig {
    DistillConfig::plain(EMBEDDED.into())
}

/// Windows of the validation split from character `from` on, and the token after each of theirs.
pub(super) fn windows(course: &Course, from: usize, n: usize) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let end = from + n * SEQ;
    let all = course.validation();
    match (all.get(from..end), all.get(from + 1..=end)) {
        (Some(ids), Some(targets)) => Ok((ids.to_vec(), targets.to_vec())),
        _ => Err(Error::input("text", format!("its validation split has no {end} characters"))),
    }
}
