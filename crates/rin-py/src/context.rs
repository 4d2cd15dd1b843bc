//! A session as a Python object.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use numpy::{PyArray2, PyArrayDyn, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rin_engine::tokenizer::EncodeOptions;
use rin_session::{Failure, LogitRows, Ports, Session, Shared};

use crate::arrays;
use crate::failure::{Heard, raised};
use crate::options::{GenerateArgs, LoadArgs, load_options, request};

/// At most one model, its settings and its sums: what `rin._backend.Context` promises.
#[pyclass(module = "rin._native", frozen)]
pub(crate) struct Context {
    shared: Shared,
    /// What the loaded network takes and gives; nothing for models that continue text.
    ports: RwLock<Arc<Ports>>,
}

/// A prompt: text, or ids.
#[derive(FromPyObject)]
pub(crate) enum Prompt<'py> {
    Text(String),
    Ids(PyReadonlyArray1<'py, u32>),
}

impl Context {
    /// Runs `body` on the session, while the interpreter is free.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut Session) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        py.detach(|| self.shared.with(body)).map_err(|failure| raised(py, &failure))
    }

    fn ports(&self) -> Arc<Ports> {
        Arc::clone(&self.ports.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl Context {
    #[new]
    fn new(py: Python<'_>) -> Self {
        let shared = py.detach(|| Shared::new(Session::new()));
        Self { shared, ports: RwLock::default() }
    }

    /// Loads the model at a path, or the one that the package carries.
    fn load(&self, py: Python<'_>, path: Option<PathBuf>, options: LoadArgs) -> PyResult<()> {
        let ports = self.with(py, |session| {
            let options = load_options(&options)?;
            match &path {
                Some(path) => session.load(path, &options)?,
                None => session.load_embedded(&options)?,
            }
            Ok(session.ports().cloned().unwrap_or_default())
        })?;
        *self.ports.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ports);
        Ok(())
    }

    /// Lets the model go, when the call that is under way has ended.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.shared.close(true));
    }

    #[getter]
    fn closed(&self) -> bool {
        self.shared.is_closed()
    }

    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |session| session.describe())
    }

    fn plan<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let plan = self.with(py, |session| session.plan())?;
        crate::plan_tuple(py, plan)
    }

    #[pyo3(signature = (*, temperature=None, top_k=None, top_p=None))]
    fn set_sampling(
        &self,
        py: Python<'_>,
        temperature: Option<f32>,
        top_k: Option<usize>,
        top_p: Option<f32>,
    ) -> PyResult<()> {
        self.with(py, |session| {
            session.set(|sampling| {
                sampling.temp = temperature.unwrap_or(sampling.temp);
                sampling.top_k = top_k.unwrap_or(sampling.top_k);
                sampling.top_p = top_p.unwrap_or(sampling.top_p);
            })
        })
    }

    fn set_power_budget(&self, py: Python<'_>, watts: f64) -> PyResult<()> {
        self.with(py, |session| session.set_power_budget(watts))
    }

    #[pyo3(signature = (text, add_special, parse_special))]
    fn encode(&self, py: Python<'_>, text: &str, add_special: bool, parse_special: bool) -> PyResult<Vec<u32>> {
        self.with(py, |session| session.encode(text, EncodeOptions { add_special, parse_special }))
    }

    fn decode(&self, py: Python<'_>, ids: PyReadonlyArray1<'_, u32>) -> PyResult<String> {
        let ids = ids.as_slice()?;
        self.with(py, |session| session.decode(ids))
    }

    /// Generates; `callback` hears the text as it comes, and nothing before each step, and ends it with `False`.
    #[pyo3(signature = (prompt, add_special, parse_special, options, callback))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        prompt: Prompt<'py>,
        add_special: bool,
        parse_special: bool,
        options: GenerateArgs,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut heard = Heard::new(callback);
        let (text, ids) = match prompt {
            Prompt::Text(text) => (Some(text), Vec::new()),
            Prompt::Ids(ids) => (None, ids.as_slice()?.to_vec()),
        };
        let found = py.detach(|| {
            self.shared.with(|session| {
                let prompt = match &text {
                    Some(text) => session.encode(text, EncodeOptions { add_special, parse_special })?,
                    None => ids,
                };
                let request = request(options, session.sampling(), prompt);
                session.generate(&request, &mut heard)
            })
        });
        let found = heard.end(py, found)?;
        let outcome = found.outcome;
        let (later, seconds) = (outcome.tokens.len().saturating_sub(1), outcome.decode.as_secs_f64());
        let result = PyDict::new(py);
        result.set_item("text", outcome.text)?;
        result.set_item("tokens", outcome.tokens)?;
        result.set_item("prompt_tokens", found.prompt_tokens)?;
        result.set_item("finish_reason", outcome.finish.name())?;
        result.set_item("energy_joules", found.energy.joules)?;
        result.set_item("energy_uncertainty_joules", found.energy.uncertainty_joules)?;
        result.set_item("tokens_per_second", (later > 0).then(|| later as f64 / seconds))?;
        result.set_item("latency_s", found.latency.as_secs_f64())?;
        result.set_item("first_token_s", outcome.first_token.as_secs_f64())?;
        result.set_item("digest", outcome.digest.to_string())?;
        Ok(result)
    }

    /// The logits after ids: after each, `(n, vocab)`, or after the last, `(1, vocab)`.
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'py, u32>,
        last: bool,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let ids = ids.as_slice()?;
        let n_vocab = self.with(py, |session| session.n_vocab())?;
        let (rows, n_rows) = if last { (LogitRows::Last, ids.len().min(1)) } else { (LogitRows::All, ids.len()) };
        let array = PyArray2::<f32>::zeros(py, [n_rows, n_vocab], false);
        let mut writable = array.readwrite();
        let mut places = writable.as_slice_mut()?.chunks_exact_mut(n_vocab.max(1));
        self.with(py, |session| {
            session.logits(ids, rows, |row| {
                if let Some(place) = places.next().filter(|place| place.len() == row.len()) {
                    place.copy_from_slice(row);
                }
            })
        })?;
        drop(writable);
        Ok(array)
    }

    /// The rows of one contiguous array of float32; None where it is something else.
    fn infer_one<'py>(&self, py: Python<'py>, input: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        arrays::infer_one(py, &self.shared, &self.ports(), input)
    }

    /// The rows of contiguous arrays of float32, one per input; an array `(rows, width)` per output.
    fn infer<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Bound<'py, PyArrayDyn<f32>>>,
        rows: usize,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        arrays::infer(py, &self.shared, &self.ports(), &inputs, rows)
    }

    /// Mean seconds of a step.
    fn profile(&self, py: Python<'_>, warmup: u32, iterations: u32) -> PyResult<f64> {
        Ok(self.with(py, |session| session.profile(warmup, iterations))?.as_secs_f64())
    }

    fn energy_joules(&self, py: Python<'_>) -> PyResult<f64> {
        self.with(py, |session| session.joules())
    }

    fn machine_joules(&self, py: Python<'_>) -> PyResult<f64> {
        self.with(py, |session| session.machine_joules())
    }

    fn inference_count(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |session| Ok(session.inference_count()))
    }

    fn total_tokens(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |session| Ok(session.total_tokens()))
    }

    fn digest(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.with(py, |session| Ok(session.digest().map(|digest| digest.to_string())))
    }
}
