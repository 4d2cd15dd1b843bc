//! Pieces of work that are repeated for as long as a measurement of energy takes, with what they compute.

use rin_engine::network::Domain;
use rin_engine::{Engine, LoadOptions, NetworkEngine, Sequence};
use rin_kernels::alloc::allocations;
use rin_model::{ModelFile, Port, PortKind};

use crate::Error;
use crate::cost::{StepCost, Work};
use crate::plan::token;

/// Something that an engine does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A prompt of so many tokens.
    Prefill(usize),
    /// Steps of one token after so many tokens. Those are computed once, when the piece runs first.
    Decode {
        /// Tokens before.
        depth: usize,
        /// Steps.
        steps: usize,
    },
}

impl Piece {
    /// Tokens that it computes.
    pub fn tokens(self) -> usize {
        match self {
            Self::Prefill(n) => n,
            Self::Decode { steps, .. } => steps,
        }
    }

    /// Positions that it needs.
    pub fn positions(self) -> usize {
        match self {
            Self::Prefill(n) => n,
            Self::Decode { depth, steps } => depth.saturating_add(steps),
        }
    }

    /// Its forward passes, in steps of at most `n_batch` tokens.
    fn passes(self, n_batch: usize) -> Vec<Work> {
        match self {
            Self::Prefill(n) => {
                let batch = n_batch.max(1);
                let pass = |position: usize| {
                    let tokens = batch.min(n - position);
                    Work { position, tokens, rows: usize::from(position + tokens == n) }
                };
                (0..n).step_by(batch).map(pass).collect()
            }
            Self::Decode { depth, steps } => {
                (0..steps).map(|i| Work { position: depth + i, tokens: 1, rows: 1 }).collect()
            }
        }
    }
}

/// What the pieces are made of, as [`EngineWork::amounts`] counts it.
pub const KINDS: [&str; 3] = ["products", "weights", "attention"];
/// The units of these.
pub const UNITS: [&str; 3] = ["operation", "byte", "operation"];

/// An engine with a sequence for each piece. It has to have room for so many.
#[derive(Debug)]
pub struct EngineWork {
    engine: Engine,
    pieces: Vec<(Piece, Option<Sequence>)>,
}

impl EngineWork {
    /// For some pieces.
    pub fn new(engine: Engine, pieces: &[Piece]) -> Self {
        Self { engine, pieces: pieces.iter().map(|piece| (*piece, None)).collect() }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs the piece with this number once; the tokens that it computed.
    ///
    /// # Errors
    ///
    /// When there is no such piece, or the engine cannot run it.
    pub fn run(&mut self, piece: usize) -> Result<u64, Error> {
        let n_pieces = self.pieces.len();
        let (piece, slot) = self.pieces.get_mut(piece).ok_or(Error::NotSupported(n_pieces))?;
        let vocab = self.engine.plan().config.vocab;
        let ids = |range: std::ops::Range<usize>| -> Vec<u32> { range.map(|i| token(i, 0, vocab)).collect() };
        match *piece {
            Piece::Prefill(n) => {
                // A prompt whose begin is known would not be computed.
                if let Some(sequence) = slot.take() {
                    self.engine.release(sequence);
                }
                self.engine.forget_prefixes();
                let sequence = slot.insert(self.engine.sequence()?);
                self.engine.feed(sequence, &ids(0..n))?;
            }
            Piece::Decode { depth, steps } => {
                let sequence = if let Some(sequence) = slot {
                    sequence
                } else {
                    let sequence = slot.insert(self.engine.sequence()?);
                    self.engine.feed(sequence, &ids(0..depth))?;
                    sequence
                };
                let mark = self.engine.mark(sequence);
                for id in ids(depth..depth + steps) {
                    self.engine.feed(sequence, &[id])?;
                }
                self.engine.rewind(sequence, &mark)?;
            }
        }
        Ok(piece.tokens() as u64)
    }

    /// What one run of a piece computes, by [`KINDS`]: operations of the products with weights, bytes of weights that are
    /// read, operations of attention.
    pub fn amounts(&self, piece: Piece) -> [f64; 3] {
        let plan = self.engine.plan();
        let steps: Vec<StepCost> = (0..plan.steps.len()).map(|i| StepCost::of(plan, i)).collect();
        let (mut products, mut weights, mut attention) = (0, 0, 0);
        for work in piece.passes(plan.options.n_batch) {
            for step in &steps {
                if step.position_products > 0 {
                    attention += step.ops(&work);
                } else if step.products > 0 {
                    products += step.ops(&work);
                    weights += step.model_bytes(&work);
                }
            }
        }
        [products as f64, weights as f64, attention as f64]
    }
}

/// A network on rows of numbers, with rows of its own making.
#[derive(Debug)]
pub struct NetworkWork {
    engine: NetworkEngine,
    inputs: Vec<Vec<f32>>,
    rows: usize,
}

impl NetworkWork {
    /// Loads a network for so many rows at once.
    ///
    /// # Errors
    ///
    /// When it cannot be loaded.
    pub fn load(file: ModelFile, options: &LoadOptions, rows: usize) -> Result<Self, Error> {
        let options = LoadOptions { n_batch: rows, ..options.clone() };
        let engine = NetworkEngine::load(file, &options, |_| ())?;
        let input = |(i, port): (usize, &Port)| {
            let unit = |at: usize| token(at, i, 1 << 16) as f32 / 32_768.0 - 1.0;
            let fit = |x: f32| match (engine.domain(i), port.kind) {
                (Domain::Numbers, _) => x,
                // Whole rows: what is measured is the work of the shape.
                (_, PortKind::Length) => 0.0,
                (domain, _) => domain.fit(2.0 * x),
            };
            (0..rows * port.width()).map(unit).map(fit).collect()
        };
        let inputs = engine.inputs().iter().enumerate().map(input).collect();
        Ok(Self { engine, inputs, rows })
    }

    /// The engine.
    pub fn engine(&self) -> &NetworkEngine {
        &self.engine
    }

    /// Rows of a run.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Runs for as long as `go_on`, which is asked before each run, says so; the allocations that were made meanwhile.
    ///
    /// # Errors
    ///
    /// When the engine cannot run.
    pub fn repeat(&mut self, mut go_on: impl FnMut() -> bool) -> Result<u64, Error> {
        let slices: Vec<&[f32]> = self.inputs.iter().map(Vec::as_slice).collect();
        let before = allocations();
        while go_on() {
            self.engine.run(&slices, self.rows)?;
        }
        Ok(allocations() - before)
    }

    /// Runs so often; the allocations that were made meanwhile.
    ///
    /// # Errors
    ///
    /// When the engine cannot run.
    pub fn run(&mut self, times: usize) -> Result<u64, Error> {
        let mut left = times;
        self.repeat(|| {
            let go_on = left > 0;
            left = left.saturating_sub(1);
            go_on
        })
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "whole numbers, or made by the same division")]
mod tests {
    use super::*;
    use rin_engine::LoadOptions;
    use rin_model::ModelFile;
    use rin_testkit::data::conformance;

    const PIECES: [Piece; 3] =
        [Piece::Prefill(20), Piece::Decode { depth: 1, steps: 4 }, Piece::Decode { depth: 16, steps: 4 }];

    fn work() -> EngineWork {
        let file = ModelFile::open(&conformance("models/tiny-llama")).unwrap();
        let options =
            LoadOptions { ctx: Some(32), n_batch: 8, n_sequences: 3, threads: Some(1), ..LoadOptions::default() };
        EngineWork::new(Engine::load(file, &options, |_| {}).unwrap(), &PIECES)
    }

    #[test]
    fn pieces_repeat_themselves() {
        let mut work = work();
        for _ in 0..3 {
            assert_eq!([0, 1, 2].map(|piece| work.run(piece).unwrap()), [20, 4, 4]);
        }
        let positions: Vec<_> =
            work.pieces.iter().map(|(_, sequence)| work.engine.position(sequence.as_ref().unwrap())).collect();
        assert_eq!(positions, [20, 1, 16], "a generation begins where it began before");
        assert!(work.run(3).is_err());
    }

    #[test]
    fn amounts_are_those_of_the_passes() {
        let work = work();
        let cost = crate::cost::Cost::of(work.engine.plan());
        let [prompt, first, deep] = PIECES.map(|piece| work.amounts(piece));
        assert_eq!(prompt[0], cost.prompt_ops(20), "20 tokens through the body, one through the head");
        assert_eq!(first[0], 4.0 * cost.prompt_ops(1));
        // Three passes of 8, 8 and 4 tokens, of which the last alone reads the head; four steps read all.
        assert!(prompt[1] < 3.0 * first[1] / 4.0 && prompt[1] > 2.0 * first[1] / 4.0);
        assert_eq!((first[0], first[1]), (deep[0], deep[1]));
        // Positions 1 to 4 see 2 + 3 + 4 + 5, positions 16 to 19 see 17 + 18 + 19 + 20.
        assert_eq!(deep[2] / first[2], 74.0 / 14.0);
    }
}
