//! Failures: a status for the program, a message for its user, and no panic across the boundary.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rin_energy::Error as EnergyError;
use rin_energy::tuner::TunerError;
use rin_engine::Error as EngineError;
use rin_engine::arena::ArenaError;
use rin_engine::sampler::SamplingError;
use rin_engine::tokenizer::TokenizerError;

use crate::types::RinStatus;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: RinStatus,
    kind: &'static str,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: RinStatus, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }
}

/// An argument that cannot be.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(RinStatus::InvalidInput, "InvalidInput", message)
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::Model(rin_model::Error::UnknownArchitecture { .. })
            | EngineError::UnsupportedType { .. }
            | EngineError::NoPlan(_) => RinStatus::Unsupported,
            EngineError::Tokenizer(TokenizerError::TextTooLong { .. } | TokenizerError::TooManyTokens { .. })
            | EngineError::BadOption { .. }
            | EngineError::UnknownToken { .. }
            | EngineError::PromptTooLong { .. }
            | EngineError::EmptyPrompt
            | EngineError::Sampling(SamplingError::Parameter { .. }) => RinStatus::InvalidInput,
            EngineError::Model(_)
            | EngineError::Tokenizer(_)
            | EngineError::BadShape { .. }
            | EngineError::NonFiniteWeight { .. }
            | EngineError::PackedSize { .. } => RinStatus::Weights,
            EngineError::DoesNotFit(_)
            | EngineError::PlanOverflow { .. }
            | EngineError::CacheFull { .. }
            | EngineError::Arena(ArenaError::AddressSpace { .. } | ArenaError::Map { .. }) => RinStatus::Memory,
            EngineError::Pool(_) => RinStatus::Init,
            _ => RinStatus::Inference,
        };
        Self::new(status, error.kind(), error.to_string())
    }
}

impl From<rin_model::Error> for Failure {
    fn from(error: rin_model::Error) -> Self {
        EngineError::from(error).into()
    }
}

impl From<SamplingError> for Failure {
    fn from(error: SamplingError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<EnergyError> for Failure {
    fn from(error: EnergyError) -> Self {
        Self::new(RinStatus::Unmeasured, error.kind(), error.to_string())
    }
}

impl From<TunerError> for Failure {
    fn from(error: TunerError) -> Self {
        match error {
            TunerError::NoSensor(_) | TunerError::TooSlow { .. } => {
                Self::new(RinStatus::Unmeasured, "NoSensor", error.to_string())
            }
            error => invalid(error.to_string()),
        }
    }
}

thread_local! {
    /// Message and kind of the last failure of this thread.
    static LAST: RefCell<Option<[CString; 2]>> = const { RefCell::new(None) };
}

/// The message and the kind of the last call on this thread; empty where that succeeded.
pub(crate) fn last(part: Part) -> *const c_char {
    let of = |last: &RefCell<Option<[CString; 2]>>| {
        let last = last.borrow();
        last.as_ref().map_or(c"".as_ptr(), |[message, kind]| match part {
            Part::Message => message.as_ptr(),
            Part::Kind => kind.as_ptr(),
        })
    };
    // A thread that is ending has no last call any more.
    LAST.try_with(of).unwrap_or(c"".as_ptr())
}

/// What is asked of the last failure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Message,
    Kind,
}

fn remember(failure: Option<&Failure>) {
    let line = |text: &str| CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    let last = failure.map(|failure| [line(&failure.message), line(failure.kind)]);
    // As above: then nobody can ask.
    let _: Result<(), _> = LAST.try_with(|place| *place.borrow_mut() = last);
}

/// Runs the body of a function of the C surface: its failure is remembered, and a panic is one.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, RinStatus> {
    // A context whose work panicked has lost its model, and everything else is still whole.
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Failure::new(RinStatus::Panic, "Panic", format!("a fault in RIN, please report it: {text}")))
    });
    remember(outcome.as_ref().err());
    outcome.map_err(|failure| failure.status)
}

/// As [`guarded`], for functions that return a status.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Failure>) -> RinStatus {
    guarded(body).err().unwrap_or(RinStatus::Ok)
}

/// As [`guarded`], for functions that return a number or a status below 0.
pub(crate) fn count(body: impl FnOnce() -> Result<usize, Failure>) -> i64 {
    let n = guarded(|| {
        i64::try_from(body()?).map_err(|_| Failure::new(RinStatus::Inference, "Failed", "the number is out of range"))
    });
    n.unwrap_or_else(|status| i64::from(status as i32))
}
