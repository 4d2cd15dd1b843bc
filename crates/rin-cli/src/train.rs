//! `rin train`: a configuration and texts become a network.

use anyhow::Result;

use crate::args::TrainArgs;

/// Without the trainer there is only the word that it is missing.
///
/// # Errors
/// Always [`crate::exit::Usage`].
#[cfg(not(feature = "train"))]
pub(crate) fn train(_: &TrainArgs) -> Result<()> {
    let missing = "this build of rin has no trainer; build one that has: cargo build --release --features train";
    Err(crate::exit::Usage(missing.to_owned()).into())
}

#[cfg(feature = "train")]
pub(crate) use with_trainer::train;

#[cfg(feature = "train")]
mod with_trainer {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use rin_train::mlp::{self, MlpConfig, MlpSummary};
    use rin_train::spiking::{self, SpikingConfig, SpikingSummary};
    use rin_train::{Event, Outcome, RunOptions};
    use serde::Serialize;

    use super::{Result, TrainArgs};
    use crate::exit::{Interrupted, Usage};
    use crate::output::Size;
    use crate::progress::ProgressBar;
    use crate::{interrupt, output, report};

    #[derive(Debug, Serialize)]
    struct TrainJson<'a> {
        model: String,
        log: String,
        plot: Option<String>,
        #[serde(flatten)]
        summary: &'a rin_train::Summary,
        version: &'static str,
    }

    /// Trains.
    ///
    /// # Errors
    /// Whatever goes wrong on the way; [`Interrupted`] where the user ended it.
    pub(crate) fn train(args: &TrainArgs) -> Result<()> {
        let cancel = Arc::new(AtomicBool::new(false));
        interrupt::install()?;
        interrupt::begin_with(Arc::clone(&cancel));
        // What is wrong with the file is told by whoever reads it in earnest.
        let text = std::fs::read_to_string(&args.config).unwrap_or_default();
        if SpikingConfig::is_meant(&text) {
            return train_spiking(args, &cancel);
        }
        if MlpConfig::is_meant(&text) {
            return train_mlp(args, &cancel);
        }
        let options = RunOptions { resume: args.resume, plot: args.plot, overwrite: args.overwrite };
        let mut watcher = Watcher { bar: report::step_progress(args.output.quiet), quiet: args.output.quiet };
        let outcome = rin_train::run(&args.config, options, &mut |event: &Event<'_>| watcher.hear(event), cancel);
        watcher.bar.finish_and_clear();
        match outcome? {
            Outcome::Cancelled { step, checkpoint } => Err(Interrupted(format!(
                "stopped after step {step}; {} holds all of it; go on with: rin train {} --resume",
                checkpoint.display(),
                args.config.display()
            ))
            .into()),
            Outcome::Finished(summary) => tell(args, &summary),
        }
    }

    /// What a classifier's training gave.
    #[derive(Debug, Serialize)]
    struct ClassifierJson<'a, S> {
        #[serde(flatten)]
        summary: &'a S,
        version: &'static str,
    }

    /// Trains a classifier of some `kind` by `run`, which tells how far it is; `describe` says what became of it.
    fn train_classifier<S: Serialize>(
        args: &TrainArgs,
        kind: &str,
        run: impl FnOnce(&ProgressBar) -> Result<Option<S>, rin_train::Error>,
        describe: impl Fn(&S) -> String,
    ) -> Result<()> {
        if args.resume || args.plot {
            let what = format!("{kind} trains in one go: --resume and --plot are for language models");
            return Err(Usage(what).into());
        }
        let bar = report::step_progress(args.output.quiet);
        let summary = run(&bar);
        bar.finish_and_clear();
        let Some(summary) = summary? else {
            return Err(Interrupted("stopped; nothing was written".to_owned()).into());
        };
        if !args.output.quiet {
            output::tell(&describe(&summary));
        }
        if !args.output.json {
            return Ok(());
        }
        output::json(&ClassifierJson { summary: &summary, version: env!("CARGO_PKG_VERSION") })
    }

    /// How often the integers of a file and the real numbers are right.
    fn accuracy(model: &Path, test: &mlp::Comparison) -> String {
        format!(
            "{}: {:.2} % of {} test rows in integers, {:.2} % in real numbers (McNemar's p {:.3})",
            model.display(),
            100.0 * test.integer_accuracy,
            test.rows,
            100.0 * test.float_accuracy,
            test.mcnemar_p,
        )
    }

    /// Shows an epoch.
    fn show(bar: &ProgressBar, epoch: usize, epochs: usize, message: String) {
        bar.set_length(epochs as u64);
        bar.set_position(epoch as u64);
        bar.set_message(message);
    }

    /// Trains a spiking network.
    fn train_spiking(args: &TrainArgs, cancel: &AtomicBool) -> Result<()> {
        let run = |bar: &ProgressBar| {
            let hear = &mut |epoch: spiking::Epoch| {
                let rounded = if epoch.rounded { ", 8-bit weights" } else { "" };
                let message = format!("loss {:.4}, {:.2} % spikes{rounded}", epoch.loss, 100.0 * epoch.rate);
                show(bar, epoch.epoch, epoch.epochs, message);
            };
            spiking::run(&args.config, args.overwrite, hear, cancel)
        };
        train_classifier(args, "a spiking network", run, |SpikingSummary { model, test, .. }| {
            let accuracy = accuracy(model, &test.paired);
            let (spikes, weights) = (test.spikes_per_row, test.synaptic_operations_per_row);
            format!("{accuracy}, {spikes:.1} spikes and {weights:.0} weights added per row")
        })
    }

    /// Trains a dense classifier.
    fn train_mlp(args: &TrainArgs, cancel: &AtomicBool) -> Result<()> {
        let run = |bar: &ProgressBar| {
            let hear = &mut |epoch: mlp::Epoch| {
                let rounded = if epoch.rounded { ", 8 bits" } else { "" };
                show(bar, epoch.epoch, epoch.epochs, format!("loss {:.4}{rounded}", epoch.loss));
            };
            mlp::run(&args.config, args.overwrite, hear, cancel)
        };
        train_classifier(args, "a dense classifier", run, |MlpSummary { model, test, .. }| accuracy(model, test))
    }

    /// The bar on a terminal, and what is worth a line anywhere.
    struct Watcher {
        bar: ProgressBar,
        quiet: bool,
    }

    impl Watcher {
        fn hear(&mut self, event: &Event<'_>) {
            match event {
                Event::Started { parameters, vocab, train_tokens, validation_tokens, resumed_at } => {
                    let from =
                        if *resumed_at > 0 { format!("; going on after step {resumed_at}") } else { String::new() };
                    self.line(&format!(
                        "{parameters} parameters, {vocab} tokens in the vocabulary, {train_tokens} to train on, \
                         {validation_tokens} to validate on{from}"
                    ));
                }
                Event::Step { step, steps, loss, tokens_per_second, seconds_left, .. } => {
                    self.bar.set_length(*steps as u64);
                    self.bar.set_position(*step as u64);
                    let left = duration(*seconds_left);
                    self.bar.set_message(format!("loss {loss:.4}, {tokens_per_second:.0} tokens/s, {left} left"));
                }
                Event::Evaluated { step, evaluation, best } => {
                    let [low, high] = evaluation.interval;
                    let best = if *best { ", the best so far" } else { "" };
                    self.line(&format!(
                        "step {step}: validation {:.4} nats per character ({low:.4} to {high:.4}){best}",
                        evaluation.nats_per_char
                    ));
                }
                Event::Note(note) => self.line(&format!("note: {note}")),
                _ => {}
            }
        }

        /// A line above the bar; on standard error even where there is no bar.
        fn line(&self, text: &str) {
            if !self.quiet {
                self.bar.suspend(|| output::tell(text));
            }
        }
    }

    /// Hours, minutes and seconds.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float's cast saturates")]
    fn duration(seconds: f64) -> String {
        let seconds = seconds.round() as u64;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 { format!("{hours} h {minutes:02} min") } else { format!("{minutes}:{:02}", seconds % 60) }
    }

    fn tell(args: &TrainArgs, summary: &rin_train::Summary) -> Result<()> {
        let beside = |end: &str| summary.model.with_extension(end).display().to_string();
        let model = summary.model.display().to_string();
        if !args.output.quiet {
            let [low, high] = summary.evaluation.interval;
            output::tell(&format!(
                "{model}: {}, {}, the weights of step {}: {:.4} nats per character ({low:.4} to {high:.4}) on the validation split",
                Size(summary.bytes),
                summary.quant,
                summary.step,
                summary.evaluation.nats_per_char
            ));
            for found in &summary.formats {
                output::tell(&format!(
                    "  as {:5} {:+.5} nats per character ({:+.5} to {:+.5}) against F32, {:.2} % the same most probable token",
                    found.format,
                    found.more_than_f32,
                    found.more_interval[0],
                    found.more_interval[1],
                    100.0 * found.same_argmax
                ));
            }
            output::tell(&format!("try it: rin run {} -p ''", quoted(&summary.model)));
        }
        if !args.output.json {
            return Ok(());
        }
        let plot = args.plot.then(|| beside("svg"));
        output::json(&TrainJson { model, log: beside("jsonl"), plot, summary, version: env!("CARGO_PKG_VERSION") })
    }

    /// A path as a shell takes it.
    fn quoted(path: &Path) -> String {
        let text = path.display().to_string();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn times_and_paths_are_written_for_people() {
            assert_eq!(duration(0.4), "0:00");
            assert_eq!(duration(3599.6), "1 h 00 min");
            assert_eq!(duration(754.0), "12:34");
            assert_eq!(duration(f64::INFINITY), duration(u64::MAX as f64));
            assert_eq!(quoted(Path::new("out/a.rin")), "out/a.rin");
            assert_eq!(quoted(Path::new("it's.rin")), "'it'\\''s.rin'");
        }
    }
}
