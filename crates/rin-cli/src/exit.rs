//! From failures to exit codes, messages and JSON.

use std::io;

use anyhow::Error;
use rin_bench::Error as BenchError;
use rin_energy::Error as EnergyError;
use rin_energy::tuner::TunerError;
use rin_engine::Error as EngineError;
use rin_engine::arena::ArenaError;
use rin_engine::chain::ChainError;
use rin_engine::eval::EvalError;
use rin_engine::sampler::SamplingError;
use rin_engine::state::StateError;
use rin_engine::tokenizer::TokenizerError;
use rin_import::{Error as ImportError, ForeignError};
use rin_model::Error as ModelError;
use serde::Serialize;

use crate::{args, output};

/// Wrong usage: what is wrong and what to do.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

/// Logits differ where the contract says that they do not.
#[derive(Debug)]
pub(crate) struct Mismatch(pub(crate) String);

/// Energy was required and cannot be measured.
#[derive(Debug)]
pub(crate) struct NoEnergy(pub(crate) EnergyError);

/// The user ended it: what is kept, and how to go on.
#[cfg(feature = "train")]
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) String);

/// Standard output was closed by its reader: no failure, and nothing more to say.
#[derive(Debug)]
pub(crate) struct ReaderGone;

macro_rules! plain_error {
    ($type:ty, $self:ident => $($message:tt)+) => {
        impl std::fmt::Display for $type {
            fn fmt(&$self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, $($message)+)
            }
        }
        impl std::error::Error for $type {}
    };
}

plain_error!(Usage, self => "{}", self.0);
plain_error!(Mismatch, self => "{}", self.0);
#[cfg(feature = "train")]
plain_error!(Interrupted, self => "{}", self.0);
plain_error!(NoEnergy, self => "energy is required and cannot be measured: {}; run without --require-energy", self.0);
plain_error!(ReaderGone, self => "the reader of standard output is gone");

/// Codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Failed = 1,
    Usage = 2,
    Model = 3,
    Memory = 4,
    Energy = 5,
    Interrupted = 130,
}

impl Code {
    /// The code of a number.
    fn of(number: u8) -> Self {
        let all = [Self::Usage, Self::Model, Self::Memory, Self::Energy, Self::Interrupted];
        all.into_iter().find(|code| *code as u8 == number).unwrap_or(Self::Failed)
    }
}

/// A class of failures: its code, and its name in JSON.
type Class = (Code, &'static str);

fn class_of_model(error: &ModelError) -> Class {
    match error {
        ModelError::Io { .. } => (Code::Failed, error.kind()),
        _ => (Code::Model, error.kind()),
    }
}

fn class_of_tokenizer(error: &TokenizerError) -> Class {
    let code = match error {
        TokenizerError::TextTooLong { .. }
        | TokenizerError::TooManyTokens { .. }
        | TokenizerError::Pattern(_)
        | TokenizerError::Match(_) => Code::Failed,
        _ => Code::Model,
    };
    (code, error.kind())
}

/// The text is data, so what is wrong with it is a failure; a reference that does not fit is a wrong choice of one.
fn class_of_eval(error: &EvalError) -> Class {
    let code = match error {
        EvalError::ContextTooSmall { .. }
        | EvalError::OtherVocabulary { .. }
        | EvalError::OtherBeginning { .. }
        | EvalError::OtherTokens { .. } => Code::Usage,
        EvalError::NonFiniteLogits { .. } => Code::Model,
        EvalError::Cancelled => Code::Interrupted,
        _ => Code::Failed,
    };
    (code, error.kind())
}

fn class_of_engine(error: &EngineError) -> Class {
    let code = match error {
        EngineError::Model(error) => return class_of_model(error),
        EngineError::Tokenizer(error) => return class_of_tokenizer(error),
        EngineError::Eval(error) => return class_of_eval(error),
        EngineError::Chain(ChainError::Failed(failure)) => return (Code::of(failure.code), "OtherRank"),
        EngineError::UnsupportedType { .. }
        | EngineError::NoPlan(_)
        | EngineError::BadShape { .. }
        | EngineError::NonFiniteWeight { .. }
        | EngineError::PackedSize { .. } => Code::Model,
        EngineError::BadOption { .. }
        | EngineError::Chain(ChainError::OneAtATime)
        | EngineError::Sampling(SamplingError::Parameter { .. })
        | EngineError::UnknownToken { .. }
        | EngineError::PromptTooLong { .. }
        | EngineError::EmptyPrompt
        | EngineError::OtherVocabulary { .. }
        | EngineError::Network(_)
        | EngineError::State(StateError::Other { .. }) => Code::Usage,
        EngineError::DoesNotFit(_)
        | EngineError::Arena(ArenaError::AddressSpace { .. } | ArenaError::Map { .. })
        | EngineError::PlanOverflow { .. }
        | EngineError::CacheFull { .. } => Code::Memory,
        _ => Code::Failed,
    };
    (code, error.kind())
}

fn class_of_import(error: &ImportError) -> Class {
    match error {
        ImportError::Model(error) => class_of_model(error),
        ImportError::Engine(error) => class_of_engine(error),
        ImportError::Foreign(ForeignError::Damaged { .. }) => (Code::Model, "Damaged"),
        ImportError::Foreign(ForeignError::UnsupportedObject { .. }) => (Code::Model, "UnsupportedObject"),
        ImportError::Foreign(ForeignError::Description { .. }) => (Code::Usage, "Description"),
        ImportError::Foreign(ForeignError::Operators { .. }) => (Code::Model, "UnsupportedOperators"),
        ImportError::Foreign(ForeignError::Sizes { .. }) => (Code::Usage, "OpenSizes"),
        ImportError::Foreign(_) => (Code::Model, "Unsupported"),
        ImportError::AlreadyRin(_) => (Code::Usage, "AlreadyRin"),
        ImportError::QuantTarget { .. } => (Code::Usage, "QuantTarget"),
        ImportError::Exists(_) => (Code::Usage, "Exists"),
        ImportError::DestinationIsNoFile(_) => (Code::Usage, "DestinationIsNoFile"),
        ImportError::DestinationIsSource(_) => (Code::Usage, "DestinationIsSource"),
        ImportError::NoFolder(_) => (Code::Failed, "NoFolder"),
        ImportError::DiskFull { .. } => (Code::Failed, "DiskFull"),
        ImportError::PermissionDenied { .. } => (Code::Failed, "PermissionDenied"),
        ImportError::Io { .. } => (Code::Failed, "Io"),
        ImportError::OutOfRange { .. } => (Code::Failed, "OutOfRange"),
        ImportError::DestinationKind(_) => (Code::Usage, "DestinationKind"),
        ImportError::DestinationIsNoFolder(_) => (Code::Usage, "DestinationIsNoFolder"),
        ImportError::FolderHoldsMore { .. } => (Code::Usage, "FolderHoldsMore"),
        ImportError::DtypeForGguf => (Code::Usage, "DtypeForGguf"),
        ImportError::ExportType { .. } => (Code::Usage, "ExportType"),
        ImportError::Inexpressible { .. } => (Code::Model, "Inexpressible"),
        ImportError::Tokenizer { .. } => (Code::Model, "Tokenizer"),
        ImportError::HeaderTooLong(_) => (Code::Model, "HeaderTooLong"),
        ImportError::NameTaken { .. } => (Code::Model, "NameTaken"),
        ImportError::Cancelled => (Code::Interrupted, "Cancelled"),
        _ => (Code::Failed, "Failed"),
    }
}

fn class_of_bench(error: &BenchError) -> Class {
    match error {
        BenchError::NothingToMeasure => (Code::Usage, "NothingToMeasure"),
        BenchError::BadOption { .. } => (Code::Usage, "BadOption"),
        BenchError::NoSuchTier { .. } => (Code::Usage, "NoSuchTier"),
        BenchError::ContextTooShort { .. } => (Code::Usage, "ContextTooShort"),
        BenchError::Unrepeatable { .. } => (Code::Failed, "Unrepeatable"),
        BenchError::Engine(error) => class_of_engine(error),
        BenchError::Model(error) => class_of_model(error),
        _ => (Code::Failed, "Failed"),
    }
}

fn class_of_tuner(error: &TunerError) -> Class {
    match error {
        TunerError::NoSensor(error) => (Code::Energy, error.kind()),
        TunerError::BadBudget { .. } => (Code::Usage, "BadBudget"),
        TunerError::BelowIdle { .. } => (Code::Usage, "BelowIdle"),
        TunerError::TooSlow { .. } => (Code::Energy, "TooSlow"),
        _ => (Code::Failed, "Failed"),
    }
}

#[cfg(feature = "train")]
fn class_of_train(error: &rin_train::Error) -> Class {
    use rin_train::Error as TrainError;
    match error {
        TrainError::ConfigSyntax { .. } => (Code::Usage, "ConfigSyntax"),
        TrainError::ConfigValue { .. } => (Code::Usage, "ConfigValue"),
        TrainError::DataTooShort { .. } => (Code::Usage, "DataTooShort"),
        TrainError::Exists(_) => (Code::Usage, "Exists"),
        TrainError::NoCheckpoint(_) => (Code::Usage, "NoCheckpoint"),
        TrainError::OtherTraining { .. } => (Code::Usage, "OtherTraining"),
        TrainError::NotText { .. } => (Code::Failed, "NotText"),
        TrainError::BrokenCheckpoint { .. } => (Code::Failed, "BrokenCheckpoint"),
        TrainError::Diverged { .. } => (Code::Failed, "Diverged"),
        TrainError::Read { .. } | TrainError::Write { .. } => (Code::Failed, "Io"),
        TrainError::Export(error) => class_of_import(error),
        TrainError::Tokenizer(error) => class_of_tokenizer(error),
        _ => (Code::Failed, "Failed"),
    }
}

#[cfg(feature = "lab")]
fn class_of_lab(cause: &(dyn std::error::Error + 'static)) -> Option<Class> {
    use rin_lab::Error as LabError;
    Some(match cause.downcast_ref::<LabError>()? {
        LabError::UnknownExperiment { .. } => (Code::Usage, "UnknownExperiment"),
        LabError::OtherResults { .. } => (Code::Usage, "OtherResults"),
        LabError::NoData(_) => (Code::Failed, "NoData"),
        LabError::Damaged { .. } => (Code::Failed, "Damaged"),
        LabError::Missing { .. } => (Code::Failed, "Missing"),
        LabError::Cancelled => (Code::Interrupted, "Cancelled"),
        LabError::Engine(error) => class_of_engine(error),
        LabError::Model(error) => class_of_model(error),
        LabError::Io { .. } => (Code::Failed, "Io"),
        _ => (Code::Failed, "Failed"),
    })
}

#[cfg(not(feature = "lab"))]
fn class_of_lab(_: &(dyn std::error::Error + 'static)) -> Option<Class> {
    None
}

#[cfg(feature = "train")]
fn class_of_training(cause: &(dyn std::error::Error + 'static)) -> Option<Class> {
    let interrupted = || cause.downcast_ref::<Interrupted>().map(|_| (Code::Interrupted, "Cancelled"));
    cause.downcast_ref().map(class_of_train).or_else(interrupted)
}

#[cfg(not(feature = "train"))]
fn class_of_training(_: &(dyn std::error::Error + 'static)) -> Option<Class> {
    None
}

/// The first error of the chain that has a class.
fn classify(error: &Error) -> Class {
    // Context added with a value is found by `downcast_ref` on the whole, errors below it in the chain.
    if error.downcast_ref::<Usage>().is_some() {
        return (Code::Usage, "Usage");
    }
    let class = error.chain().find_map(|cause| {
        let engine = cause.downcast_ref().map(class_of_engine);
        let bench = || cause.downcast_ref().map(class_of_bench);
        let mismatch = || cause.downcast_ref::<Mismatch>().map(|_| (Code::Failed, "Mismatch"));
        let import = || cause.downcast_ref().map(class_of_import);
        let model = || cause.downcast_ref().map(class_of_model);
        let tokenizer = || cause.downcast_ref().map(class_of_tokenizer);
        let energy = || cause.downcast_ref::<NoEnergy>().map(|error| (Code::Energy, error.0.kind()));
        let tuner = || cause.downcast_ref().map(class_of_tuner);
        let io = || cause.downcast_ref::<io::Error>().map(|_| (Code::Failed, "Io"));
        engine
            .or_else(bench)
            .or_else(mismatch)
            .or_else(|| class_of_training(cause))
            .or_else(|| class_of_lab(cause))
            .or_else(import)
            .or_else(model)
            .or_else(tokenizer)
            .or_else(energy)
            .or_else(tuner)
            .or_else(io)
    });
    class.unwrap_or((Code::Failed, "Failed"))
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    kind: &'a str,
    message: &'a str,
    exit_code: u8,
}

/// Tells what went wrong: on standard error, and with `--json` also as an object on standard output.
pub(crate) fn report(error: &Error, wants_json: bool) -> u8 {
    if error.is::<ReaderGone>() {
        return 0;
    }
    let (code, kind) = classify(error);
    let causes = causes(error);
    output::tell(&format!("error: {}", causes.join("\n  because: ")));
    finish(code, kind, &causes.join(": "), wants_json)
}

/// What a process that is one of several tells the first of them.
#[cfg(feature = "mpi")]
pub(crate) fn failure(error: &Error, rank: usize, host: String) -> rin_cluster::Failure {
    let (code, kind) = classify(error);
    rin_cluster::Failure { rank, host, code: code as u8, kind: kind.to_owned(), message: causes(error).join(": ") }
}

/// As [`failure`], of a command line that cannot be done; none where it asks for help.
#[cfg(feature = "mpi")]
pub(crate) fn parse_failure(error: &args::ParseError, rank: usize, host: String) -> Option<rin_cluster::Failure> {
    match error {
        args::ParseError::Config(error) => Some(failure(error, rank, host)),
        args::ParseError::Usage(error) if !error.use_stderr() => None,
        args::ParseError::Usage(error) => Some(failure(&Usage(usage_message(error)).into(), rank, host)),
    }
}

/// The chain of an error, without causes that the message above them has quoted.
fn causes(error: &Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().map(told) {
        if causes.last().is_none_or(|above| !above.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes
}

/// The message of one error; an option that is out of its range goes by the name of its flag.
fn told(cause: &(dyn std::error::Error + 'static)) -> String {
    let text = cause.to_string();
    let option = option_of(cause).and_then(|field| Some((args::flag_of(field)?, text.strip_prefix(field)?)));
    option.map(|(flag, rest)| format!("--{flag}{rest}")).unwrap_or(text)
}

/// The option that an error is about, as the libraries call it.
fn option_of(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let of_sampling = |error: &SamplingError| match error {
        SamplingError::Parameter { field, .. } => Some(*field),
        _ => None,
    };
    let of_engine = |error: &EngineError| match error {
        EngineError::BadOption { field, .. } => Some(*field),
        EngineError::Sampling(error) => of_sampling(error),
        _ => None,
    };
    let of_bench = |error: &BenchError| match error {
        BenchError::BadOption { field, .. } => Some(*field),
        BenchError::Engine(error) => of_engine(error),
        _ => None,
    };
    let sampling = || cause.downcast_ref().and_then(of_sampling);
    let engine = || cause.downcast_ref().and_then(of_engine);
    sampling().or_else(engine).or_else(|| cause.downcast_ref().and_then(of_bench))
}

fn finish(code: Code, kind: &str, message: &str, wants_json: bool) -> u8 {
    let exit_code = code as u8;
    if wants_json {
        // Nobody is left to be told that this could not be written either.
        drop(output::json(&ErrorJson { error: ErrorFields { kind, message, exit_code } }));
    }
    exit_code
}

/// Prints help, version, or what is wrong with the command line.
pub(crate) fn report_parse(error: &args::ParseError, wants_json: bool) -> u8 {
    let error = match error {
        args::ParseError::Config(error) => return report(error, wants_json),
        args::ParseError::Usage(error) => error,
    };
    let printed = error.print();
    if !error.use_stderr() {
        let closed = printed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        return if printed.is_ok() || closed { 0 } else { Code::Failed as u8 };
    }
    let message = usage_message(error);
    if let Some(note) = source_of(error) {
        output::tell(&note);
    }
    finish(Code::Usage, "Usage", &message, wants_json)
}

/// The first line of what is wrong with a command line.
fn usage_message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Says that a bad value comes from a variable, where it does.
fn source_of(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};

    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?;
    let value = text(ContextKind::InvalidValue)?;
    let long = flag.split_whitespace().next()?.strip_prefix("--")?;
    let variable = args::variable(long);
    (std::env::var(&variable).ok()? == value).then(|| format!("note: the variable {variable} holds this value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use rin_engine::limits::LimitError;

    fn class(error: impl Into<EngineError>) -> Class {
        let error: EngineError = error.into();
        classify(&Error::new(error).context("while doing something"))
    }

    #[test]
    fn classes_are_found_below_context() {
        let unknown = ModelError::UnknownArchitecture { found: "x".to_owned(), known: vec![] };
        assert_eq!(class(unknown), (Code::Model, "UnknownArchitecture"));
        let small = LimitError::DoesNotFit { needed: 2, available: 1, source_of_limit: String::new() };
        assert_eq!(class(small), (Code::Memory, "DoesNotFit"));
        assert_eq!(class(TokenizerError::NoToken { text: String::new() }), (Code::Model, "NoToken"));
        assert_eq!(class(EngineError::EmptyPrompt), (Code::Usage, "EmptyPrompt"));
        let none = || EnergyError::NoSensor { looked_for: Vec::new() };
        assert_eq!(classify(&Error::new(NoEnergy(none()))), (Code::Energy, "NoSensor"));
        assert_eq!(classify(&Error::new(TunerError::NoSensor(none()))), (Code::Energy, "NoSensor"));
        assert_eq!(classify(&Error::new(TunerError::BadBudget { watts: 0.0 })), (Code::Usage, "BadBudget"));
        let usage = Err::<(), _>(io::Error::other("x")).context(Usage("file".to_owned())).unwrap_err();
        assert_eq!(classify(&usage), (Code::Usage, "Usage"));
        assert_eq!(classify(&Error::new(io::Error::other("x"))), (Code::Failed, "Io"));
        assert_eq!(classify(&Error::msg("x")), (Code::Failed, "Failed"));
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Error::msg("no space").context("file: no space").context("writing");
        assert_eq!(causes(&error), ["writing", "file: no space"]);
    }

    #[test]
    fn an_option_out_of_range_goes_by_the_name_of_its_flag() {
        let (expected, found) = ("1".to_owned(), "2".to_owned());
        let bad = |field| EngineError::BadOption { field, expected: expected.clone(), found: found.clone() };
        let parameter = |field| SamplingError::Parameter { field, expected: expected.clone(), found: found.clone() };
        for (error, message) in [
            (Error::new(bad("ctx")), "--ctx is 2, but must be 1"),
            (Error::new(bad("threads")), "--threads is 2, but must be 1"),
            (Error::new(bad("sequences")), "--parallel is 2, but must be 1"),
            (Error::new(bad("rows of logits")), "rows of logits is 2, but must be 1"),
            (Error::new(EngineError::from(parameter("top_p"))), "--top-p: expected 1, found 2"),
            (Error::new(parameter("logit_bias")), "--logit-bias: expected 1, found 2"),
            (Error::new(BenchError::from(bad("batch"))), "--batch is 2, but must be 1"),
        ] {
            assert_eq!(causes(&error), [message]);
        }
        // Every field that sampling checks is a flag.
        for field in ["temp", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"]
        {
            assert_eq!(args::flag_of(field), Some(field.replace('_', "-")));
        }
    }
}
