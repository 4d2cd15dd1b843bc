//! Training: a configuration becomes a network.

/// How a training is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainRequest {
    /// Goes on from the last checkpoint.
    pub resume: bool,
    /// Whether results of an earlier training of this name may be replaced.
    pub overwrite: bool,
}

/// Trains what the TOML file `config` says; gives the summary as JSON. `go_on` hears what happens, as JSON, and ends it with
/// false.
///
/// # Errors
///
/// [`RinStatus::Cancelled`](crate::RinStatus::Cancelled) where it was ended;
/// [`RinStatus::Unsupported`](crate::RinStatus::Unsupported) in a build without the trainer; when the configuration or its
/// data cannot be, or the training fails.
#[cfg(not(feature = "train"))]
pub fn train(_: &std::path::Path, _: TrainRequest, _: &mut dyn FnMut(&str) -> bool) -> Result<String, crate::Failure> {
    let message = "this build has no trainer; build one with the feature `train`";
    Err(crate::Failure::new(crate::RinStatus::Unsupported, "NotBuilt", message))
}

#[cfg(feature = "train")]
pub use with_trainer::train;

#[cfg(feature = "train")]
mod with_trainer {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rin_train::mlp::{self, MlpConfig};
    use rin_train::spiking::{self, SpikingConfig};
    use rin_train::{Event, Outcome, RunOptions};
    use serde_json::{Value, json};

    use super::TrainRequest;
    use crate::{Failure, RinStatus, invalid};

    /// Trains what the TOML file `config` says; gives the summary as JSON. `go_on` hears what happens, as JSON, and ends it
    /// with false.
    ///
    /// # Errors
    ///
    /// [`RinStatus::Cancelled`] where it was ended; when the configuration or its data cannot be, or the training fails.
    pub fn train(config: &Path, request: TrainRequest, go_on: &mut dyn FnMut(&str) -> bool) -> Result<String, Failure> {
        let cancel = Arc::new(AtomicBool::new(false));
        let mut tell = |event: Value| {
            if !go_on(&event.to_string()) {
                cancel.store(true, Ordering::Relaxed);
            }
        };
        let TrainRequest { resume, overwrite } = request;
        // What is wrong with the file is told by whoever reads it in earnest.
        let text = std::fs::read_to_string(config).unwrap_or_default();
        let (is_spiking, is_dense) = (SpikingConfig::is_meant(&text), MlpConfig::is_meant(&text));
        if (is_spiking || is_dense) && resume {
            return Err(invalid("this kind of network trains in one go and cannot be resumed").at("resume"));
        }
        let nothing = || cancelled("nothing was written");
        if is_spiking {
            let summary = spiking::run(config, overwrite, &mut |epoch| tell(of_epoch(&epoch)), &cancel)?;
            return crate::describe::json(&summary.ok_or_else(nothing)?);
        }
        if is_dense {
            let summary = mlp::run(config, overwrite, &mut |epoch| tell(of_epoch(&epoch)), &cancel)?;
            return crate::describe::json(&summary.ok_or_else(nothing)?);
        }
        let options = RunOptions { resume, plot: false, overwrite };
        let mut hear = |event: &Event<'_>| {
            if let Some(event) = of_event(event) {
                tell(event);
            }
        };
        match rin_train::run(config, options, &mut hear, Arc::clone(&cancel))? {
            Outcome::Cancelled { step, checkpoint } => Err(cancelled(&format!(
                "{} holds all of step {step}; train with resume to go on",
                checkpoint.display()
            ))),
            Outcome::Finished(summary) => {
                let mut told = serde_json::to_value(&*summary)
                    .map_err(|error| Failure::new(RinStatus::Inference, "Failed", error.to_string()))?;
                if let Value::Object(fields) = &mut told {
                    fields.insert("model".to_owned(), json!(summary.model.display().to_string()));
                }
                Ok(told.to_string())
            }
        }
    }

    fn cancelled(kept: &str) -> Failure {
        Failure::new(RinStatus::Cancelled, "Cancelled", format!("the training was ended; {kept}"))
    }

    fn of_epoch(epoch: &impl serde::Serialize) -> Value {
        let mut value = serde_json::to_value(epoch).unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            fields.insert("event".to_owned(), json!("epoch"));
        }
        value
    }

    fn of_event(event: &Event<'_>) -> Option<Value> {
        Some(match event {
            Event::Started { parameters, vocab, train_tokens, validation_tokens, resumed_at } => json!({
                "event": "started", "parameters": parameters, "vocab": vocab, "train_tokens": train_tokens,
                "validation_tokens": validation_tokens, "resumed_at": resumed_at,
            }),
            Event::Step { step, steps, loss, lr, tokens_per_second, seconds_left } => json!({
                "event": "step", "step": step, "steps": steps, "loss": loss, "lr": lr,
                "tokens_per_second": tokens_per_second, "seconds_left": seconds_left,
            }),
            Event::Evaluated { step, evaluation, best } => json!({
                "event": "evaluated", "step": step, "nats_per_char": evaluation.nats_per_char,
                "interval": evaluation.interval, "best": best,
            }),
            Event::Saved { path } => json!({ "event": "saved", "path": path.display().to_string() }),
            Event::Note(note) => json!({ "event": "note", "note": note }),
            _ => return None,
        })
    }
}
