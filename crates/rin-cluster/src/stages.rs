//! All stages of a network in this process, each on a thread of its own: to hold them against the whole.

use std::thread::{Builder, JoinHandle};

use rin_engine::chain::in_process;
use rin_engine::plan::LayerBytes;
use rin_engine::{Engine, Error, LoadOptions};
use rin_model::ModelFile;

/// A network in stages. What is done with the [`engine`](Self::engine) of the first is done by all.
#[derive(Debug)]
pub struct Stages {
    engine: Engine,
    others: Vec<JoinHandle<Result<(), Error>>>,
}

impl Stages {
    /// Loads a network in `n` stages of equal speed, from a file that is opened for each.
    ///
    /// # Errors
    ///
    /// As for [`Engine::load`]; [`Error::BadOption`] for more stages than the network can have.
    pub fn load<E: From<Error>>(
        n: usize,
        options: &LoadOptions,
        open: impl Fn() -> Result<ModelFile, E>,
    ) -> Result<Self, E> {
        let stages = LayerBytes::of(&open()?)?.share_out(&vec![1.0; n])?;
        let mut engines = Vec::new();
        for (stage, link) in stages.into_iter().zip(in_process(n)) {
            let stage = Some(stage).filter(|_| n > 1);
            let mut engine = Engine::load(open()?, &LoadOptions { stage, ..options.clone() }, |_| {})?;
            if n > 1 {
                engine.join(link)?;
            }
            engines.push(engine);
        }
        let mut engines = engines.into_iter();
        let none = || Error::BadOption { field: "ranks", expected: "1 or more".to_owned(), found: "0".to_owned() };
        let engine = engines.next().ok_or_else(none)?;
        let start = |mut engine: Engine| {
            let thread = Builder::new().name("rin-stage".to_owned());
            thread.spawn(move || engine.follow()).map_err(|error| Error::Chain(lost(error.to_string())))
        };
        Ok(Self { engine, others: engines.map(start).collect::<Result<_, Error>>()? })
    }

    /// The first stage.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Ends all stages.
    ///
    /// # Errors
    ///
    /// What went wrong in one of the others.
    pub fn end(self) -> Result<(), Error> {
        drop(self.engine);
        let joined = |other: JoinHandle<Result<(), Error>>| {
            other.join().unwrap_or_else(|_| Err(Error::Chain(lost("a stage has panicked".to_owned()))))
        };
        // All are waited for, whatever the first of them says.
        let ended: Vec<Result<(), Error>> = self.others.into_iter().map(joined).collect();
        ended.into_iter().collect()
    }
}

fn lost(reason: String) -> rin_engine::chain::ChainError {
    rin_engine::chain::ChainError::Lost { stage: 0, reason }
}
