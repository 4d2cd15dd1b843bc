//! `rin eval`: how well a model predicts a text, and how far it is from a reference.

use std::fmt::Write;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rin_cluster::Ranks;
use rin_engine::engine::DEFAULT_CTX;
use rin_engine::eval::{EvalText, Evaluation, MIN_BLOCKS, check_vocabularies, evaluate, logit_rows};
use rin_engine::{Engine, LoadOptions};
use rin_model::ModelFile;
use serde::Serialize;

use crate::args::{EvalArgs, ModelArgs};
use crate::output::Size;
use crate::progress::ProgressBar;
use crate::{interrupt, model_path, output, report};

/// `rin eval --json`, as the contract has it, and then some.
#[derive(Debug, Serialize)]
struct EvalJson {
    tokens: usize,
    nll_mean: f64,
    nll_ci95: Option<[f64; 2]>,
    perplexity: f64,
    kl_mean: Option<f64>,
    kl_p99: Option<f64>,
    top1_agreement: Option<f64>,
    nll_more: Option<f64>,
    nll_more_ci95: Option<[f64; 2]>,
    bits_per_weight: f64,
    file_bytes: u64,
    nll_per_byte: Option<f64>,
    nll_per_char: Option<f64>,
    ctx: usize,
}

/// Evaluates a model.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn eval(args: &EvalArgs, ranks: &Ranks) -> Result<()> {
    // There is no half result: the first interrupt ends the program.
    interrupt::install()?;
    let text = read(&args.text)?;
    let model = model_path::open(&args.model)?;
    let reference = match &args.reference {
        Some(path) => Some(model_path::open(&ModelArgs { model: Some(path.clone()) })?),
        None => None,
    };
    let text = encode(args, &text, &model, reference.as_ref())?;
    let (bits_per_weight, file_bytes) = (bits_per_weight(&model), model.file_bytes());
    let (mut model, mut reference) = load(args, ranks, model, reference)?;

    let bar = report::token_progress(text.scored() as u64, "evaluating", args.output.quiet);
    let found = evaluate(&mut model, reference.as_mut(), &text, |scored| {
        bar.set_position(scored as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let result = EvalJson::of(&found?, bits_per_weight, file_bytes);
    if !args.output.quiet {
        for note in model.notes() {
            output::tell(&format!("note: {note}"));
        }
        if result.nll_ci95.is_none() {
            output::tell(&format!("note: the text is too short for an interval, which takes {MIN_BLOCKS} blocks"));
        }
    }
    if args.output.json { output::json(&result) } else { output::text(&result.lines()?) }
}

/// Most bytes of a text.
const MAX_TEXT: u64 = 1 << 30;

/// A file's text.
fn read(path: &Path) -> Result<String> {
    let name = || path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", name()))?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).with_context(|| format!("{} cannot be read", name()))?;
    if bytes.is_empty() {
        bail!("{} is empty: there is nothing to evaluate on", name());
    }
    if bytes.len() as u64 > MAX_TEXT {
        bail!("{} is longer than {MAX_TEXT} bytes", name());
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is no UTF-8 text: the byte at offset {offset} begins no character", name())
    })
}

/// The text in the model's tokens, which the reference has to share.
fn encode(args: &EvalArgs, text: &str, model: &ModelFile, reference: Option<&ModelFile>) -> Result<EvalText> {
    let in_tokens = |file: &ModelFile| -> Result<EvalText> {
        let tokenizer = model_path::tokenizer(file)?;
        let encoded = EvalText::encode(&tokenizer, text, args.max_tokens.map(|n| n.try_into().unwrap_or(usize::MAX)));
        encoded.with_context(|| args.text.display().to_string())
    };
    // What is wrong with the networks is told before what is wrong with the words.
    let n_vocab = model.config()?.vocab;
    if let Some(reference) = reference {
        check_vocabularies(n_vocab, reference.config()?.vocab).map_err(rin_engine::Error::from)?;
    }
    let encoded = in_tokens(model)?;
    if let Some(reference) = reference {
        encoded.check_same(&in_tokens(reference)?).map_err(rin_engine::Error::from)?;
    }
    Ok(encoded)
}

/// 8 × bytes of the tensors in the file ÷ their elements.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn bits_per_weight(file: &ModelFile) -> f64 {
    let (mut bytes, mut elements) = (0.0, 0.0);
    for tensor in file.tensors() {
        bytes += tensor.n_bytes as f64;
        elements += tensor.n_elements() as f64;
    }
    8.0 * bytes / elements
}

/// Loads both models, within one limit. Over several ranks the reference is whole in the first of them.
fn load(
    args: &EvalArgs,
    ranks: &Ranks,
    model: ModelFile,
    reference: Option<ModelFile>,
) -> Result<(Engine, Option<Engine>)> {
    let mut options = args.machine.load_options();
    let contexts = [Some(&model), reference.as_ref()].into_iter().flatten().map(|file| file.config().map(|c| c.ctx));
    let shortest = contexts.collect::<Result<Vec<_>, _>>()?.into_iter().min();
    options.ctx = options.ctx.or(shortest.map(|ctx| ctx.min(DEFAULT_CTX)));
    options.n_logits = logit_rows(model.config()?.vocab, options.n_batch);
    options.stage = ranks.first_stage(&model)?;
    let whole = LoadOptions { stage: None, ..options.clone() };
    let mut plans = vec![options.plan(&model)?];
    if let Some(file) = &reference {
        plans.push(whole.plan(file)?);
    }
    options.admit(&plans.iter().collect::<Vec<_>>())?;
    let weights = plans.iter().map(|plan| plan.weights.bytes() as u64).fold(0, u64::saturating_add);
    let bar = report::byte_progress(weights, "loading", args.output.quiet);
    let reference = match reference {
        Some(file) => Some(one(&Ranks::alone(), file, &whole, 0, &bar)?),
        None => None,
    };
    let beside = reference.as_ref().map_or(0, |reference| reference.weights().mapped_bytes() as u64);
    let model = one(ranks, model, &options, beside, &bar)?;
    bar.finish_and_clear();
    Ok((model, reference))
}

fn one(ranks: &Ranks, file: ModelFile, options: &LoadOptions, beside: u64, bar: &ProgressBar) -> Result<Engine> {
    let name = file.path().display().to_string();
    ranks.load(0, file, options, beside, |bytes| bar.inc(bytes as u64)).with_context(|| name)
}

impl EvalJson {
    fn of(found: &Evaluation, bits_per_weight: f64, file_bytes: u64) -> Self {
        let compared = found.comparison;
        Self {
            tokens: found.nll.len(),
            nll_mean: found.nll_mean,
            nll_ci95: found.nll_ci95,
            perplexity: found.perplexity,
            kl_mean: compared.map(|c| c.kl_mean),
            kl_p99: compared.map(|c| c.kl_p99),
            top1_agreement: compared.map(|c| c.top1_agreement),
            nll_more: compared.map(|c| c.nll_more),
            nll_more_ci95: compared.and_then(|c| c.nll_more_ci95),
            bits_per_weight,
            file_bytes,
            nll_per_byte: found.nll_per_byte,
            nll_per_char: found.nll_per_char,
            ctx: found.ctx,
        }
    }

    fn lines(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(text, "tokens      {}, in windows of {}", self.tokens, self.ctx)?;
        write!(text, "loss        {:.6} nats per token", self.nll_mean)?;
        if let Some([low, high]) = self.nll_ci95 {
            write!(text, ", 95 % interval {low:.6} to {high:.6}")?;
        }
        if let (Some(per_byte), Some(per_char)) = (self.nll_per_byte, self.nll_per_char) {
            write!(text, "; {per_byte:.6} per byte, {per_char:.6} per character")?;
        }
        writeln!(text, "\nperplexity  {:.6}", self.perplexity)?;
        if let (Some(mean), Some(p99), Some(agreement)) = (self.kl_mean, self.kl_p99, self.top1_agreement) {
            writeln!(text, "divergence  {mean:.6} nats per token from the reference, 99th percentile {p99:.6}")?;
            if let Some(more) = self.nll_more {
                write!(text, "against it  {more:+.6} nats per token")?;
                match self.nll_more_ci95 {
                    Some([low, high]) => writeln!(text, ", 95 % interval {low:+.6} to {high:+.6}")?,
                    None => writeln!(text)?,
                }
            }
            writeln!(text, "agreement   {:.3} % of the tokens ranked first", 100.0 * agreement)?;
        }
        writeln!(text, "weights     {:.3} bits each, file {}", self.bits_per_weight, Size(self.file_bytes))?;
        Ok(text)
    }
}
