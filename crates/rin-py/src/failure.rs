//! Failures become the exceptions of `rin.errors`; callbacks and interrupts end what runs.

use std::ops::ControlFlow;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rin_session::{Failure, Hear, RinStatus};

/// The exception of a failure.
pub(crate) fn raised(py: Python<'_>, failure: &Failure) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || {
        let make = MAKE.import(py, "rin.errors", "from_failure")?;
        make.call1((failure.status as i32, failure.kind, failure.place.as_str(), failure.message.as_str()))
    };
    make().map_or_else(|error| error, PyErr::from_value)
}

/// A Python function that hears of what runs and may end it; without one, interrupts still do.
pub(crate) struct Heard {
    callback: Option<Py<PyAny>>,
    /// What the callback raised, or an interrupt.
    error: Option<PyErr>,
}

impl Heard {
    pub(crate) fn new(callback: Option<Py<PyAny>>) -> Self {
        Self { callback, error: None }
    }

    /// Calls it; whether to go on. It ends what runs by returning `False` or by raising.
    pub(crate) fn go_on(&mut self, text: &str) -> bool {
        Python::attach(|py| {
            let answer = py.check_signals().and_then(|()| match &self.callback {
                None => Ok(true),
                Some(callback) => {
                    callback.bind(py).call1((text,)).map(|answer| !answer.is(pyo3::types::PyBool::new(py, false)))
                }
            });
            answer.unwrap_or_else(|error| {
                self.error.get_or_insert(error);
                false
            })
        })
    }

    /// What came of it; where it was ended, why.
    pub(crate) fn end<T>(self, py: Python<'_>, found: Result<T, Failure>) -> PyResult<T> {
        if let Some(error) = self.error
            && !matches!(&found, Err(failure) if failure.status != RinStatus::Cancelled)
        {
            return Err(error);
        }
        found.map_err(|failure| raised(py, &failure))
    }
}

impl Hear for Heard {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        if self.go_on(text) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn cancelled(&mut self) -> bool {
        !self.go_on("")
    }
}
