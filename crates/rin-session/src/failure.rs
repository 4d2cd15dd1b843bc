//! Failures: a status for the program; a name, a place and a message for its user.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rin_energy::Error as EnergyError;
use rin_energy::tuner::TunerError;
use rin_engine::Error as EngineError;
use rin_engine::arena::ArenaError;
use rin_engine::network::NetworkError;
use rin_engine::sampler::SamplingError;
use rin_engine::tokenizer::TokenizerError;
use rin_import::Error as ImportError;
use rin_model::Error as ModelError;

use crate::RinStatus;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the program is told.
    pub status: RinStatus,
    /// The name of the error, as in `rin --json`.
    pub kind: &'static str,
    /// Where it lies: a section and a byte of a file, a tensor, an input, an option. Empty where it lies nowhere.
    pub place: String,
    /// What is wrong and what helps.
    pub message: String,
}

impl Failure {
    /// A failure without a place.
    pub fn new(status: RinStatus, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, place: String::new(), message: message.into() }
    }

    /// The same failure at a place.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// Runs `body`; a panic within it is a failure.
    ///
    /// # Errors
    ///
    /// What `body` fails with; [`RinStatus::Panic`] where it panics.
    pub fn guard<T>(body: impl FnOnce() -> Result<T, Self>) -> Result<T, Self> {
        // What panicked is not used again: `Shared` lets its model go, and everything else is whole.
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Self::new(RinStatus::Panic, "Panic", format!("a fault in RIN, please report it: {text}")))
        })
    }
}

/// An argument that cannot be.
pub fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(RinStatus::InvalidInput, "InvalidInput", message)
}

/// Where a fault in a model file lies.
fn place_of_model(error: &ModelError) -> String {
    if let ModelError::Io { path, .. } = error {
        return path.display().to_string();
    }
    let Some(fault) = error.fault() else { return String::new() };
    let name = if fault.name.is_empty() { String::new() } else { format!(" `{}`", fault.name.escape_debug()) };
    let offset = fault.offset.map_or_else(String::new, |offset| format!(" at byte {offset}"));
    format!("{}{name}{offset}", fault.section)
}

/// Where a failure of the engine lies.
fn place_of_engine(error: &EngineError) -> String {
    let tensor = |name: &str| format!("tensor `{}`", name.escape_debug());
    match error {
        EngineError::Model(error) => place_of_model(error),
        EngineError::UnsupportedType { tensor: name, .. }
        | EngineError::BadShape { tensor: name, .. }
        | EngineError::PackedSize { tensor: name, .. } => tensor(name),
        EngineError::NonFiniteWeight { tensor: name, row, col } => format!("{} row {row} column {col}", tensor(name)),
        EngineError::BadOption { field, .. } | EngineError::Sampling(SamplingError::Parameter { field, .. }) => {
            (*field).to_owned()
        }
        EngineError::Network(NetworkError::InputSize { name, .. } | NetworkError::SequenceSize { name, .. }) => {
            format!("input `{}`", name.escape_debug())
        }
        EngineError::Network(NetworkError::Id { name, row, .. }) => {
            format!("input `{}` row {row}", name.escape_debug())
        }
        EngineError::Network(NetworkError::Length { row, .. }) => format!("row {row}"),
        EngineError::Network(NetworkError::Spiking(error)) => error.place.clone(),
        _ => String::new(),
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::Model(ModelError::UnknownArchitecture { .. } | ModelError::NoText(_))
            | EngineError::UnsupportedType { .. }
            | EngineError::NoPlan(_)
            | EngineError::Network(NetworkError::TakesText) => RinStatus::Unsupported,
            EngineError::Tokenizer(TokenizerError::TextTooLong { .. } | TokenizerError::TooManyTokens { .. })
            | EngineError::BadOption { .. }
            | EngineError::UnknownToken { .. }
            | EngineError::PromptTooLong { .. }
            | EngineError::EmptyPrompt
            | EngineError::StepTooLarge { .. }
            | EngineError::Network(
                NetworkError::InputCount { .. }
                | NetworkError::InputSize { .. }
                | NetworkError::SequenceSize { .. }
                | NetworkError::Length { .. }
                | NetworkError::Id { .. },
            )
            | EngineError::Sampling(SamplingError::Parameter { .. }) => RinStatus::InvalidInput,
            EngineError::Model(_)
            | EngineError::Tokenizer(_)
            | EngineError::BadShape { .. }
            | EngineError::NonFiniteWeight { .. }
            | EngineError::Network(NetworkError::Spiking(_) | NetworkError::UnsoundLayer { .. })
            | EngineError::PackedSize { .. } => RinStatus::Weights,
            EngineError::DoesNotFit(_)
            | EngineError::PlanOverflow { .. }
            | EngineError::CacheFull { .. }
            | EngineError::Arena(ArenaError::AddressSpace { .. } | ArenaError::Map { .. }) => RinStatus::Memory,
            EngineError::Pool(_) => RinStatus::Init,
            _ => RinStatus::Inference,
        };
        Self::new(status, error.kind(), error.to_string()).at(place_of_engine(&error))
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
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

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let message = error.to_string();
        let (status, kind) = match error {
            ImportError::Model(error) => return error.into(),
            ImportError::Engine(error) => return error.into(),
            ImportError::Foreign(_) => (RinStatus::Weights, "Foreign"),
            ImportError::AlreadyRin(_) => (RinStatus::InvalidInput, "AlreadyRin"),
            ImportError::QuantTarget { .. } => (RinStatus::InvalidInput, "QuantTarget"),
            ImportError::Exists(_) => (RinStatus::InvalidInput, "Exists"),
            ImportError::DestinationIsNoFile(_)
            | ImportError::DestinationIsSource(_)
            | ImportError::NoFolder(_)
            | ImportError::DestinationKind(_) => (RinStatus::InvalidInput, "Destination"),
            ImportError::Cancelled => (RinStatus::Cancelled, "Cancelled"),
            ImportError::DiskFull { .. } | ImportError::PermissionDenied { .. } | ImportError::Io { .. } => {
                (RinStatus::Inference, "Io")
            }
            _ => (RinStatus::Inference, "Failed"),
        };
        Self::new(status, kind, message)
    }
}

#[cfg(feature = "train")]
impl From<rin_train::Error> for Failure {
    fn from(error: rin_train::Error) -> Self {
        use rin_train::Error as TrainError;
        let message = error.to_string();
        let (status, kind, place) = match error {
            TrainError::Data(error) => return error.into(),
            TrainError::Engine(error) => return error.into(),
            TrainError::Export(error) => return error.into(),
            TrainError::ConfigSyntax { path, .. } => {
                (RinStatus::InvalidInput, "ConfigSyntax", path.display().to_string())
            }
            TrainError::ConfigValue { key, .. } => (RinStatus::InvalidInput, "ConfigValue", key.to_owned()),
            TrainError::DataTooShort { .. } => (RinStatus::InvalidInput, "DataTooShort", String::new()),
            TrainError::Exists(path) => (RinStatus::InvalidInput, "Exists", path.display().to_string()),
            TrainError::NoCheckpoint(path) => (RinStatus::InvalidInput, "NoCheckpoint", path.display().to_string()),
            TrainError::OtherTraining { .. } => (RinStatus::InvalidInput, "OtherTraining", String::new()),
            TrainError::NotText { path, .. } => (RinStatus::InvalidInput, "NotText", path.display().to_string()),
            TrainError::BrokenCheckpoint { .. } => (RinStatus::Weights, "BrokenCheckpoint", String::new()),
            TrainError::Diverged { .. } => (RinStatus::Inference, "Diverged", String::new()),
            TrainError::Read { path, .. } => (RinStatus::InvalidInput, "Io", path.display().to_string()),
            TrainError::Write { path, .. } => (RinStatus::Inference, "Io", path.display().to_string()),
            _ => (RinStatus::Inference, "Failed", String::new()),
        };
        Self::new(status, kind, message).at(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_failure() {
        let fault = Failure::guard(|| -> Result<(), Failure> { panic!("a fault in {}", 7) }).unwrap_err();
        assert_eq!((fault.status, fault.kind), (RinStatus::Panic, "Panic"));
        assert_eq!(fault.message, "a fault in RIN, please report it: a fault in 7");
    }

    #[test]
    fn failures_say_where_they_lie() {
        let bad = EngineError::BadOption { field: "threads", expected: "1".to_owned(), found: "0".to_owned() };
        assert_eq!(Failure::from(bad).place, "threads");
        let (tensor, row, col) = ("a\nb".to_owned(), 3, 4);
        let weight = Failure::from(EngineError::NonFiniteWeight { tensor, row, col });
        assert_eq!((weight.status, weight.place.as_str()), (RinStatus::Weights, "tensor `a\\nb` row 3 column 4"));
        let missing = rin_model::ModelFile::open(std::path::Path::new("/no such file")).unwrap_err();
        let missing = Failure::from(missing);
        assert_eq!((missing.status, missing.kind, missing.place.as_str()), (RinStatus::Weights, "Io", "/no such file"));
    }
}
