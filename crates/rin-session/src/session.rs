//! What a host program works with: a model, its settings and its sums.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use rin_energy::tuner::PowerTuner;
use rin_energy::{Error as EnergyError, Meter, Pacer, Reading, Sensors};
use rin_engine::digest::DigestHex;
use rin_engine::generate::Request;
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::EncodeOptions;
use rin_engine::topology::Policy;
use rin_engine::{Engine, LoadOptions};
use rin_kernels::FloatEnv;
use rin_model::{Mode, ModelFile};

use crate::describe::{self, Info, PlanBytes};
use crate::rows::{Ports, RowModel};
use crate::text::{Generated, Heard, LogitRows, TextModel};
use crate::totals::Totals;
use crate::{Failure, RinStatus, invalid};

/// Who hears a generation.
pub trait Hear {
    /// Text that is certain to be part of the result, never empty. Breaking ends the generation.
    fn text(&mut self, text: &str) -> ControlFlow<()>;
    /// Asked before each step, and within a long prompt, whether to end.
    fn cancelled(&mut self) -> bool {
        false
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Hear for Silent {
    fn text(&mut self, _: &str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

#[derive(Debug)]
enum Model {
    Text(Box<TextModel>),
    Rows(Box<RowModel>),
}

/// At most one model, its settings and its sums.
#[derive(Debug)]
pub struct Session {
    model: Option<Model>,
    /// Temperature, top-k and top-p; the rest comes with each generation.
    sampling: SamplingParams,
    sensors: Sensors,
    meter: Result<Meter, EnergyError>,
    /// What the meter said when the session began.
    began: Option<Reading>,
    pacer: Option<Pacer>,
    totals: Totals,
    digest: Option<DigestHex>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

/// Options for a host program: its thread is its own.
pub fn default_load_options() -> LoadOptions {
    LoadOptions { affinity: Policy::None, text: Some(SamplingParams::default()), ..LoadOptions::default() }
}

impl Session {
    /// Looks for sensors; loads nothing. The variable `RIN_SYS_ROOT` says where `/sys` and `/proc` are.
    pub fn new() -> Self {
        let root = std::env::var_os("RIN_SYS_ROOT").filter(|root| !root.is_empty());
        let sensors = Sensors::discover(root.as_ref().map_or(Path::new("/"), Path::new));
        let meter = sensors.meter().and_then(|mut meter| meter.watch().map(|()| meter));
        let began = meter.as_ref().ok().map(Meter::read);
        let (sampling, totals) = (SamplingParams::default(), Totals::default());
        Self { model: None, sampling, sensors, meter, began, pacer: None, totals, digest: None }
    }

    /// Loads a model in the place of that which is loaded. Where it fails, none is loaded.
    ///
    /// # Errors
    ///
    /// When the model is missing, damaged or unsupported, an option is out of range, or the plan does not fit.
    pub fn load(&mut self, path: &Path, options: &LoadOptions) -> Result<(), Failure> {
        self.load_from(|| Ok(ModelFile::open(path)?), options)
    }

    /// As [`load`](Self::load), the model that this was built with.
    ///
    /// # Errors
    ///
    /// [`RinStatus::Unsupported`] where it was built without one.
    pub fn load_embedded(&mut self, options: &LoadOptions) -> Result<(), Failure> {
        self.load_from(embedded, options)
    }

    fn load_from(
        &mut self,
        open: impl FnOnce() -> Result<ModelFile, Failure>,
        options: &LoadOptions,
    ) -> Result<(), Failure> {
        // First, so that two models never have to fit.
        self.unload();
        let _float = FloatEnv::scope();
        let file = open()?;
        let model = if file.network().is_some() {
            Model::Rows(Box::new(RowModel::load(file, options)?))
        } else {
            Model::Text(Box::new(TextModel::load(file, options)?))
        };
        if let Model::Text(model) = &model {
            self.pacer = self.pacer.take().map(|pacer| paced(pacer.tuner().clone(), &model.engine));
        }
        self.model = Some(model);
        Ok(())
    }

    /// Lets the model go, where one is loaded.
    pub fn unload(&mut self) {
        self.model = None;
        self.digest = None;
    }

    fn model(&self) -> Result<&Model, Failure> {
        self.model.as_ref().ok_or_else(not_loaded)
    }

    /// A model that continues text.
    fn text(&self) -> Result<&TextModel, Failure> {
        match self.model()? {
            Model::Text(model) => Ok(model),
            Model::Rows(_) => Err(takes_rows()),
        }
    }

    fn text_mut(&mut self) -> Result<&mut TextModel, Failure> {
        match self.model.as_mut().ok_or_else(not_loaded)? {
            Model::Text(model) => Ok(model),
            Model::Rows(_) => Err(takes_rows()),
        }
    }

    fn rows(&self) -> Result<&RowModel, Failure> {
        match self.model()? {
            Model::Rows(model) => Ok(model),
            Model::Text(_) => Err(takes_text()),
        }
    }

    fn file(&self) -> Result<&ModelFile, Failure> {
        Ok(match self.model()? {
            Model::Text(model) => model.engine.file(),
            Model::Rows(model) => model.file(),
        })
    }

    /// What the loaded model computes.
    ///
    /// # Errors
    ///
    /// Where none is loaded.
    pub fn mode(&self) -> Result<Mode, Failure> {
        Ok(self.file()?.mode().unwrap_or(Mode::Transformer))
    }

    /// Checks that a mode is that of the loaded model.
    ///
    /// # Errors
    ///
    /// [`RinStatus::Unsupported`] where it is another; where none is loaded.
    pub fn check_mode(&self, mode: Mode) -> Result<(), Failure> {
        let found = self.mode()?;
        if found == mode {
            return Ok(());
        }
        let message = format!("the model computes in the mode `{found}` and not `{mode}`: a file has one mode");
        Err(Failure::new(RinStatus::Unsupported, "OtherMode", message).at("mode"))
    }

    /// What the loaded model is, in numbers.
    ///
    /// # Errors
    ///
    /// Where none is loaded.
    pub fn info(&self) -> Result<Info, Failure> {
        Ok(match self.model()? {
            Model::Text(model) => Info::of_text(&model.engine),
            Model::Rows(model) => Info::of_rows(model),
        })
    }

    /// What the loaded model is, as JSON.
    ///
    /// # Errors
    ///
    /// Where none is loaded.
    pub fn describe(&self) -> Result<String, Failure> {
        describe::json(&match self.model()? {
            Model::Text(model) => describe::Described::of_text(model),
            Model::Rows(model) => describe::Described::of_rows(model),
        })
    }

    /// What the loaded network takes and gives.
    ///
    /// # Errors
    ///
    /// Where none is loaded, or one that continues text.
    pub fn ports(&self) -> Result<&Ports, Failure> {
        Ok(self.rows()?.ports())
    }

    /// The memory that the loaded model takes.
    ///
    /// # Errors
    ///
    /// Where none is loaded.
    pub fn plan(&self) -> Result<PlanBytes, Failure> {
        Ok(match self.model()? {
            Model::Text(model) => PlanBytes::of_text(model.plan(), &model.options),
            Model::Rows(model) => PlanBytes::of_rows(model.bytes(), &model.options),
        })
    }

    /// Size of the vocabulary: the width of a row of logits.
    ///
    /// # Errors
    ///
    /// Where no model that continues text is loaded.
    pub fn n_vocab(&self) -> Result<usize, Failure> {
        Ok(self.text()?.plan().config.vocab)
    }

    /// Changes the settings, where they are within their ranges.
    ///
    /// # Errors
    ///
    /// The first setting out of range; nothing changes then.
    pub fn set(&mut self, change: impl FnOnce(&mut SamplingParams)) -> Result<(), Failure> {
        let mut sampling = self.sampling.clone();
        change(&mut sampling);
        sampling.validate(1)?;
        self.sampling = sampling;
        Ok(())
    }

    /// The settings.
    pub fn sampling(&self) -> &SamplingParams {
        &self.sampling
    }

    /// Holds the mean power of generations at a budget in W; 0 lifts it.
    ///
    /// # Errors
    ///
    /// [`RinStatus::Unmeasured`] where no sensor allows it; a budget that cannot be.
    pub fn set_power_budget(&mut self, watts: f64) -> Result<(), Failure> {
        if watts == 0.0 {
            self.pacer = None;
            if let Some(Model::Text(model)) = &mut self.model {
                model.engine.set_active_threads(usize::MAX);
            }
            return Ok(());
        }
        let tuner = PowerTuner::for_machine(watts, &self.sensors)?;
        self.pacer = Some(match &self.model {
            Some(Model::Text(model)) => paced(tuner, &model.engine),
            _ => Pacer::new(tuner),
        });
        Ok(())
    }

    /// The ids of a text.
    ///
    /// # Errors
    ///
    /// Where the model has no tokenizer, or the text is too long.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, Failure> {
        self.text()?.encode(text, options)
    }

    /// The text of ids.
    ///
    /// # Errors
    ///
    /// Where the model has no tokenizer, or an id is unknown.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        self.text()?.decode(ids)
    }

    /// Runs a request.
    ///
    /// # Errors
    ///
    /// When the prompt does not fit, an id is unknown, or a setting is out of range.
    pub fn generate(&mut self, request: &Request, hear: &mut dyn Hear) -> Result<Generated, Failure> {
        self.text()?;
        let float = FloatEnv::scope();
        let meter = self.meter.as_ref();
        let read = || meter.ok().map(Meter::read);
        if let Some(pacer) = &mut self.pacer {
            pacer.pause();
        }
        let pacing = self.pacer.as_mut().zip(meter.ok());
        let Some(Model::Text(model)) = &mut self.model else { return Err(not_loaded()) };
        let mut listener = Heard { hear, pacing, float: &float };
        let (clock, began) = (Instant::now(), read());
        let outcome = model.generate(request, &mut listener)?;
        let (latency, ended) = (clock.elapsed(), read());
        let n_tokens = outcome.tokens.len() as u64;
        let energy = self.totals.add(meter, &[began, ended], n_tokens);
        self.digest = Some(outcome.digest);
        Ok(Generated { outcome, prompt_tokens: request.prompt.len(), latency, energy })
    }

    /// The logits after `ids`; `each` gets every row that is wanted, `(vocab)`.
    ///
    /// # Errors
    ///
    /// When there is no id, one is unknown, or they do not fit the context.
    pub fn logits(&mut self, ids: &[u32], rows: LogitRows, each: impl FnMut(&[f32])) -> Result<(), Failure> {
        let _float = FloatEnv::scope();
        self.text_mut()?.logits(ids, rows, each)
    }

    /// Computes `rows` rows. `inputs` and `outputs` have the values of all of them in the order of [`ports`](Self::ports),
    /// `(rows, width)` each.
    ///
    /// # Errors
    ///
    /// Where no such network is loaded; for values that are not those that it takes, or no numbers.
    pub fn infer(&mut self, inputs: &[&[f32]], rows: usize, outputs: &mut [&mut [f32]]) -> Result<(), Failure> {
        let Some(Model::Rows(model)) = &mut self.model else { return self.rows().map(drop) };
        let _float = FloatEnv::scope();
        model.infer(inputs, rows, outputs)?;
        self.totals.inferences += 1;
        Ok(())
    }

    /// SHA-256 over the bits of the logits of the last generation, or of the outputs of the last rows.
    pub fn digest(&self) -> Option<DigestHex> {
        match &self.model {
            Some(Model::Rows(model)) if self.totals.inferences > 0 => model.digest(),
            _ => self.digest,
        }
    }

    /// Energy of all generations, in J.
    ///
    /// # Errors
    ///
    /// [`RinStatus::Unmeasured`] where it is not known.
    pub fn joules(&self) -> Result<f64, Failure> {
        self.totals.joules(self.meter.as_ref().map_err(Clone::clone)?)
    }

    /// Energy of the machine since the session began, whatever it did, in J: what the sensor has counted, however little.
    ///
    /// # Errors
    ///
    /// [`RinStatus::Unmeasured`] where it is not known.
    pub fn machine_joules(&self) -> Result<f64, Failure> {
        let meter = self.meter.as_ref().map_err(Clone::clone)?;
        let began = self.began.as_ref().ok_or(EnergyError::NotStarted)?;
        Ok(meter.span(began, &meter.edge())?.joules)
    }

    /// Generations and calls of [`infer`](Self::infer) that have ended.
    pub fn inference_count(&self) -> u64 {
        self.totals.inferences
    }

    /// Tokens that all generations gave.
    pub fn total_tokens(&self) -> u64 {
        self.totals.tokens
    }

    /// Time of a step of one token after four others, or of one row of zeros: the mean over `iterations`, after as many as
    /// `warmup` that do not count.
    ///
    /// # Errors
    ///
    /// Where no model is loaded, or `iterations` is 0.
    pub fn profile(&mut self, warmup: u32, iterations: u32) -> Result<Duration, Failure> {
        if iterations == 0 {
            return Err(invalid("iterations is 0: at least one has to be timed").at("iterations"));
        }
        let _float = FloatEnv::scope();
        match self.model.as_mut().ok_or_else(not_loaded)? {
            Model::Text(model) => model.profile(warmup, iterations),
            Model::Rows(model) => model.profile(warmup, iterations),
        }
    }
}

#[cfg(feature = "embedded")]
fn embedded() -> Result<ModelFile, Failure> {
    Ok(rin_embedded::model()?)
}

#[cfg(not(feature = "embedded"))]
fn embedded() -> Result<ModelFile, Failure> {
    let message = "no model is embedded in this build; give a path";
    Err(Failure::new(RinStatus::Unsupported, "NotBuilt", message))
}

/// A pacer that may choose among the threads of an engine.
fn paced(tuner: PowerTuner, engine: &Engine) -> Pacer {
    Pacer::new(tuner.with_threads(engine.threads()))
}

fn not_loaded() -> Failure {
    Failure::new(RinStatus::NotInitialized, "NotLoaded", "no model is loaded; load one first")
}

fn takes_rows() -> Failure {
    let message = "the model takes rows of numbers and continues no text";
    Failure::new(RinStatus::Unsupported, "NoText", message)
}

fn takes_text() -> Failure {
    Failure::new(RinStatus::Unsupported, "TakesText", "the model continues text and takes no rows of numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_testkit::data::conformance;

    fn loaded() -> Session {
        let mut session = Session::new();
        let options = LoadOptions { threads: Some(1), n_logits: 3, ..default_load_options() };
        session.load(&conformance("models/tiny-llama"), &options).unwrap();
        session
    }

    #[test]
    fn logits_of_a_text_that_grows_are_those_of_the_whole() {
        let mut session = loaded();
        let ids: Vec<u32> = (0..90).map(|i| (i * 7 + 3) % 50).collect();
        let mut all: Vec<Vec<f32>> = Vec::new();
        session.logits(&ids, LogitRows::All, |row| all.push(row.to_vec())).unwrap();
        assert_eq!(all.len(), ids.len());
        let mut last = |ids: &[u32]| {
            let mut found = Vec::new();
            session.logits(ids, LogitRows::Last, |row| found = row.to_vec()).unwrap();
            found
        };
        let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for n in [1, 2, 3, 40, 41, 90, 5, 4, 64, 65] {
            assert_eq!(bits(&last(&ids[..n])), bits(&all[n - 1]), "{n}");
        }
        // Another text from the same start.
        let mut other = ids[..20].to_vec();
        other.push(49);
        let found = last(&other);
        session.unload();
        let mut fresh = loaded();
        let mut expected = Vec::new();
        fresh.logits(&other, LogitRows::Last, |row| expected = row.to_vec()).unwrap();
        assert_eq!(bits(&found), bits(&expected));
        // A generation in between takes the place of the text.
        let request = Request { prompt: ids[..3].to_vec(), max_tokens: Some(2), ..Request::default() };
        fresh.generate(&request, &mut Silent).unwrap();
        let mut after = Vec::new();
        fresh.logits(&other, LogitRows::Last, |row| after = row.to_vec()).unwrap();
        assert_eq!(bits(&after), bits(&expected));
    }

    #[test]
    fn what_a_model_cannot_do_is_said() {
        let mut session = Session::new();
        let status = |found: Result<(), Failure>| found.unwrap_err().status;
        assert_eq!(status(session.info().map(drop)), RinStatus::NotInitialized);
        assert_eq!(status(session.infer(&[], 0, &mut [])), RinStatus::NotInitialized);
        session = loaded();
        assert_eq!(status(session.infer(&[&[0.0]], 1, &mut [&mut [0.0]])), RinStatus::Unsupported);
        assert_eq!(status(session.check_mode(Mode::Mlp)), RinStatus::Unsupported);
        session.check_mode(Mode::Transformer).unwrap();
        assert_eq!(status(session.logits(&[], LogitRows::Last, |_| ())), RinStatus::InvalidInput);
        assert_eq!(status(session.logits(&[60000], LogitRows::All, |_| ())), RinStatus::InvalidInput);
        assert_eq!(status(session.profile(0, 0).map(drop)), RinStatus::InvalidInput);
        session.profile(0, 1).unwrap();
    }
}
