//! `rin run`: text from a model.

use std::io::{self, IsTerminal, Read, StdoutLock, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rin_cluster::{Ranks, energy};
use rin_engine::generate::{Drafter, Listener, Outcome, Request, Shift, continue_with};
use rin_engine::state::Restored;
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_engine::{Engine, LoadOptions, Plan, Sequence};
use rin_model::ModelFile;

use crate::args::{ModelArgs, RunArgs};
use crate::energy::{Gauge, Pacing, Power};
use crate::exit::{ReaderGone, Usage};
use crate::npy::NpyWriter;
use crate::ranks::refuse_ranks;
use crate::{interrupt, json, model_path, output, report, snn};

/// What continues text takes no rows of numbers.
fn refuse_rows(args: &RunArgs) -> Result<(), Usage> {
    if args.network.input.is_empty() && args.network.to.is_empty() {
        return Ok(());
    }
    Err(Usage("the model continues text and takes no --input and no --output; give -p TEXT".to_owned()))
}

/// Runs a model on a prompt.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn run(args: &RunArgs, ranks: &Ranks) -> Result<()> {
    interrupt::install()?;
    if snn::is_asked_for(args)? {
        refuse_ranks(ranks)?;
        return snn::run(args);
    }
    if ranks.several() && (args.energy.estimate_power.is_some() || args.power_budget.is_some()) {
        let text = "--power-budget and --estimate-power know the power of one machine, and these are several ranks: leave \
                    them out; to take less power give each rank fewer --threads, or cap its machine by the system's means";
        return Err(Usage(text.to_owned()).into());
    }
    let gauge = Gauge::open(&args.energy)?;
    let pacing = args.power_budget.map(|budget| Pacing::new(budget, &gauge)).transpose()?;
    let start = Instant::now();
    let file = model_path::open(&args.model)?;
    let mode = args.machine.mode(&file)?;
    if let Some(network) = file.network().cloned() {
        refuse_ranks(ranks)?;
        return crate::network::run(args, file, &network, &gauge, pacing);
    }
    refuse_rows(args)?;
    let description = json::Model::of(&file, mode);
    // What is wrong with the network is told before what is wrong with the words.
    file.config()?;
    // Ids in place of a prompt run without a tokenizer too.
    let tokenizer = match (model_path::tokenizer(&file), &args.tokens) {
        (Err(error), Some(_)) if file.tokenizer().is_err() => {
            output::tell(&format!("note: there is no text without a tokenizer: {error:#}\n"));
            None
        }
        (tokenizer, _) => Some(tokenizer?),
    };
    let opened = start.elapsed();
    let mut options = LoadOptions { text: Some(args.sampling.params()), ..args.machine.load_options() };
    if args.guess.lookup || args.guess.draft.is_some() {
        options.n_logits = args.guess.draft_max.saturating_add(1).min(MAX_DRAFT);
    }
    options.stage = ranks.first_stage(&file)?;
    let plan = options.plan(&file)?;
    if let Some(logits) = &args.logits {
        refuse_the_model(logits, &file)?;
    }
    if let Some(path) = &args.context.save_state {
        check_folder(path)?;
    }
    let mut request = request(args, tokenizer.as_ref(), plan.options.ctx)?;
    let trained = plan.config.ctx;
    if plan.options.ctx > trained && !args.output.quiet {
        output::tell(&format!(
            "note: the model was trained for {trained} positions; beyond them its text may be poor\n"
        ));
    }
    let start = Instant::now();
    let mut draft = load_draft(args, &plan, &options)?;
    let mut engine = load(ranks, file, &options, draft.as_ref(), plan.weights.bytes(), args.output.quiet)?;
    let mut sequence = begin(&mut engine, args, &mut request)?;
    let mut drafter = match &mut draft {
        Some(draft) => Some(Drafter::model(draft, &engine)?),
        None => args.guess.lookup.then_some(Drafter::Lookup),
    };
    let load = opened + start.elapsed();

    let pacing = pacing.map(|pacing| pacing.with_threads(engine.threads()));
    let mut listener = Stream::new(args, engine.plan().config.vocab, pacing)?;
    interrupt::begin();
    let (clock, began) = (Instant::now(), gauge.edge());
    engine.note(energy::BEGIN)?;
    let outcome =
        continue_with(&mut engine, &mut sequence, tokenizer.as_ref(), &request, drafter.as_mut(), &mut listener);
    let (seconds, ended) = (clock.elapsed().as_secs_f64(), gauge.edge());
    interrupt::end();
    let outcome = outcome?;
    engine.note(energy::END)?;
    let (energy, energy_by_host) =
        gauge.record_of_all(ranks, began.as_ref(), ended.as_ref(), outcome.tokens.len(), seconds)?;
    let power = listener.pacing.as_ref().map(|pacing| pacing.result(began.as_ref(), ended.as_ref()));
    if let Some(path) = &args.context.save_state {
        engine.save(&sequence, &outcome.context, path)?;
    }
    let Heard { steps, failure } = listener.finish()?;
    let reader_gone = failure.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    let spent = Spent { energy, energy_by_host, power };
    tell(args, description, &engine, request.prompt.len(), steps, load, outcome, spent)?;
    if reader_gone { Err(ReaderGone.into()) } else { Ok(()) }
}

/// A sequence, new or as it was saved; then its tokens come before the prompt.
fn begin(engine: &mut Engine, args: &RunArgs, request: &mut Request) -> Result<Sequence> {
    let Some(path) = &args.context.load_state else { return Ok(engine.sequence()?) };
    let Restored { sequence, mut tokens } = engine.restore(path)?;
    tokens.append(&mut request.prompt);
    request.prompt = tokens;
    Ok(sequence)
}

/// Says before anything is computed that its result could not be kept.
fn check_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() || !folder.is_dir() {
        return Err(
            Usage(format!("--save-state {}: there is no such folder, or it is one itself", path.display())).into()
        );
    }
    Ok(())
}

/// Loads the model that guesses, if there is one, where both fit.
fn load_draft(args: &RunArgs, target: &Plan, options: &LoadOptions) -> Result<Option<Engine>> {
    let Some(path) = &args.guess.draft else { return Ok(None) };
    let file = model_path::open(&ModelArgs { model: Some(path.clone()) })?;
    let options =
        LoadOptions { ctx: Some(target.options.ctx), n_logits: 1, text: None, stage: None, ..options.clone() };
    let plan = options.plan(&file)?;
    options.admit(&[target, &plan])?;
    load(&Ranks::alone(), file, &options, None, plan.weights.bytes(), args.output.quiet).map(Some)
}

/// Most tokens of a step with guesses.
const MAX_DRAFT: usize = 256;

/// What a run took, and what became of its power cap.
struct Spent {
    energy: rin_energy::Record,
    energy_by_host: Option<energy::Sum>,
    power: Option<Power>,
}

/// The result as JSON, or what is left to say about it.
fn tell(
    args: &RunArgs,
    model: json::Model,
    engine: &Engine,
    prompt_tokens: usize,
    steps: u32,
    load: Duration,
    outcome: Outcome,
    spent: Spent,
) -> Result<()> {
    // What computed has run; what tells of it is not to come on top.
    rin_model::release_code();
    let timings = json::Timings::of(load, prompt_tokens, steps, &outcome);
    let memory = json::Memory::of(engine.plan());
    if !args.output.quiet {
        output::tell(&report::summary(engine, &outcome, prompt_tokens, timings, memory, &spent.energy)?);
        if let Some(power) = &spent.power {
            output::tell(&power.line());
        }
    }
    if !args.output.json {
        return Ok(());
    }
    output::json(&json::Run {
        model,
        prompt_tokens,
        generated_tokens: outcome.tokens.len(),
        tokens: outcome.tokens,
        text: outcome.text,
        finish_reason: outcome.finish.name(),
        timings,
        memory,
        drafted_tokens: outcome.drafted,
        accepted_tokens: outcome.accepted,
        allocations_during_inference: outcome.allocations,
        energy: spent.energy,
        energy_by_host: spent.energy_by_host,
        power: spent.power,
        digest: outcome.digest.to_string(),
        tier: engine.tier().name(),
        threads: engine.threads(),
        seed: args.sampling.seed,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// The results of a run must not take the place of what it ran.
fn refuse_the_model(logits: &Path, file: &ModelFile) -> Result<()> {
    let (Ok(logits), Ok(model)) = (logits.canonicalize(), file.path().canonicalize()) else { return Ok(()) };
    if logits == model || (model.is_dir() && logits.starts_with(&model) && logits.is_file()) {
        return Err(Usage(format!("--logits {} would overwrite the model; name another file", logits.display())).into());
    }
    Ok(())
}

fn request(args: &RunArgs, tokenizer: Option<&Tokenizer>, ctx: usize) -> Result<Request> {
    let prompt = match (&args.tokens, tokenizer) {
        (Some(ids), _) => ids.0.clone(),
        // A saved text can go on by itself.
        (None, _) if args.context.load_state.is_some() && args.prompt.is_none() => Vec::new(),
        (None, Some(tokenizer)) => {
            let text = prompt_text(args.prompt.as_deref(), "--tokens IDS")?;
            refuse_hopeless(&text, tokenizer, ctx)?;
            encode(tokenizer, &text, args.no_special || args.context.load_state.is_some())?
        }
        (None, None) => Vec::new(),
    };
    Ok(Request {
        prompt,
        max_tokens: args.sampling.max_tokens,
        sampling: args.sampling.params(),
        stop: args.sampling.stop.clone(),
        ignore_eos: args.sampling.ignore_eos,
        shift: args.context.context_shift.then_some(Shift { keep: args.context.keep }),
        max_draft: args.guess.draft_max.min(MAX_DRAFT),
    })
}

/// Refuses a text that cannot fit however it is cut, before the tokenizer takes many times its size in memory.
fn refuse_hopeless(text: &str, tokenizer: &Tokenizer, ctx: usize) -> Result<()> {
    // Composing characters (NFC) makes a text shorter by a factor of three at most.
    let least = text.len() / (3 * tokenizer.longest_piece()).max(1);
    if least > ctx {
        return Err(rin_engine::Error::PromptTooLong { tokens: least, ctx }.into());
    }
    Ok(())
}

/// The ids of a text that the user wrote: control tokens that it spells out count as such.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str, no_special: bool) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(text, EncodeOptions { add_special: !no_special, parse_special: true })?)
}

/// Most bytes of text on standard input.
const MAX_STDIN: u64 = 1 << 30;

/// The prompt on the command line, else standard input less its last line end.
///
/// # Errors
/// [`Usage`] where there is neither; `other` is the flag that stands in for a prompt.
pub(crate) fn prompt_text(prompt: Option<&str>, other: &str) -> Result<String> {
    if let Some(text) = prompt {
        return Ok(text.to_owned());
    }
    let mut stdin = io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Usage(format!("no prompt: give -p TEXT or {other}, or put text on standard input")).into());
    }
    let mut bytes = Vec::new();
    stdin.by_ref().take(MAX_STDIN + 1).read_to_end(&mut bytes).context("standard input cannot be read")?;
    if bytes.is_empty() {
        let hint = "give -p TEXT; -p '' begins a text from nothing";
        return Err(Usage(format!("no prompt: standard input is empty; {hint}")).into());
    }
    if bytes.len() as u64 > MAX_STDIN {
        return Err(Usage(format!("standard input is longer than {MAX_STDIN} bytes")).into());
    }
    let mut text = String::from_utf8(bytes).context("standard input is no UTF-8 text")?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn load(
    ranks: &Ranks,
    file: ModelFile,
    options: &LoadOptions,
    beside: Option<&Engine>,
    weights_bytes: usize,
    quiet: bool,
) -> Result<Engine> {
    let bar = report::byte_progress(weights_bytes as u64, "loading", quiet);
    let beside = beside.map_or(0, |engine| engine.weights().mapped_bytes() as u64);
    let engine = ranks.load(0, file, options, beside, |bytes| bar.inc(bytes as u64));
    bar.finish_and_clear();
    if !quiet {
        ranks.notes().iter().for_each(|note| output::tell(&format!("note: {note}")));
    }
    Ok(engine?)
}

/// What came of listening.
struct Heard {
    /// Forward passes.
    steps: u32,
    /// The first failure of standard output.
    failure: Option<io::Error>,
}

/// Writes text and logits as they come. Allocates nothing after [`Stream::new`].
struct Stream<'a> {
    /// Rests between the steps; none without a power cap.
    pacing: Option<Pacing<'a>>,
    /// None where the text goes elsewhere.
    out: Option<StdoutLock<'static>>,
    logits: Option<(NpyWriter, &'a Path)>,
    steps: u32,
    out_failure: Option<io::Error>,
    logits_failure: Option<io::Error>,
}

impl<'a> Stream<'a> {
    fn new(args: &'a RunArgs, n_vocab: usize, pacing: Option<Pacing<'a>>) -> Result<Self> {
        let logits = match args.logits.as_deref() {
            Some(path) => {
                let writer = NpyWriter::create(path, n_vocab).with_context(|| cannot_write(path))?;
                Some((writer, path))
            }
            None => None,
        };
        // The first use of the stream allocates its buffer.
        let mut out = io::stdout().lock();
        out.flush().or_else(closed_is_fine).context("standard output cannot be written")?;
        let out = Some(out).filter(|_| !args.output.json);
        Ok(Self { pacing, out, logits, steps: 0, out_failure: None, logits_failure: None })
    }

    fn finish(self) -> Result<Heard> {
        if let Some(out) = self.out {
            drop(out);
            if self.out_failure.is_none() {
                output::end_of_exact()?;
            }
        }
        if let Some((writer, path)) = self.logits {
            let written = self.logits_failure.map_or_else(|| writer.finish(), Err);
            written.with_context(|| cannot_write(path))?;
        }
        match self.out_failure {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("standard output cannot be written")
            }
            failure => Ok(Heard { steps: self.steps, failure }),
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("the logits cannot be written to {}", path.display())
}

fn closed_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

impl Listener for Stream<'_> {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        if let Some(out) = &mut self.out
            && self.out_failure.is_none()
            && !text.is_empty()
        {
            self.out_failure = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
        }
        let failed = self.out_failure.is_some() || self.logits_failure.is_some();
        if failed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn logits(&mut self, logits: &[f32]) {
        if let Some((writer, _)) = &mut self.logits
            && self.logits_failure.is_none()
        {
            self.logits_failure = writer.row(logits).err();
        }
    }

    fn cancelled(&mut self) -> bool {
        if let Some(pacing) = &mut self.pacing {
            pacing.step();
        }
        let asked = interrupt::asked();
        self.steps += u32::from(!asked);
        asked
    }

    fn interrupted(&mut self) -> bool {
        interrupt::asked()
    }

    fn threads(&mut self) -> Option<usize> {
        self.pacing.as_ref().map(Pacing::threads)
    }
}
