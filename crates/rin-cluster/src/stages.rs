//! All stages of a network, or all shares of its rows, in this process, each on a thread of its own: to hold them against the whole.

use std::thread::{Builder, JoinHandle};

use rin_engine::chain::in_process;
use rin_engine::plan::{Cut, LayerBytes, Stage};
use rin_engine::{Engine, Error, LoadOptions};
use rin_model::ModelFile;

/// What each of several processes has of a network: layers, by bytes and these speeds, or as many rows as all others.
///
/// # Errors
///
/// As for [`LayerBytes::share_out`].
pub fn stages(file: &ModelFile, cut: Cut, speeds: &[f64]) -> Result<Vec<Stage>, Error> {
    match cut {
        Cut::Layers => LayerBytes::of(file)?.share_out(speeds),
        Cut::Rows => Ok(Stage::by_rows(speeds.len(), file.config()?.n_layers)),
    }
}

/// A network in stages. What is done with the [`engine`](Self::engine) of the first is done by all.
#[derive(Debug)]
pub struct Stages {
    engine: Engine,
    others: Vec<JoinHandle<Result<(), Error>>>,
}

impl Stages {
    /// Loads a network in `n` stages of equal speed, or `n` shares of its rows, from a file that is opened for each; `change`
    /// may give each options of its own.
    ///
    /// # Errors
    ///
    /// As for [`Engine::load`]; [`Error::BadOption`] for more stages than the network can have.
    pub fn load<E: From<Error>>(
        n: usize,
        cut: Cut,
        options: &LoadOptions,
        change: impl Fn(usize, LoadOptions) -> LoadOptions,
        open: impl Fn() -> Result<ModelFile, E>,
    ) -> Result<Self, E> {
        let stages = stages(&open()?, cut, &vec![1.0; n])?;
        let mut engines = Vec::new();
        for (stage, link) in stages.into_iter().zip(in_process(n)) {
            let stage = Some(stage).filter(|_| n > 1);
            let options = change(engines.len(), LoadOptions { stage, ..options.clone() });
            let mut engine = Engine::load(open()?, &options, |_| {})?;
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
