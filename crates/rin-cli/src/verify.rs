//! `rin verify`: the numerics contract, tried out on this machine.

use std::fmt::Write;
use std::ops::ControlFlow;

use anyhow::{Result, bail};
use rin_cluster::{Ranks, Stages};
use rin_engine::LoadOptions;
use rin_engine::plan::Cut;
use rin_engine::verify::{Axes, Case, Mismatch, Report, StepDigest, VerifyOptions, default_prompt, load_options};
use rin_kernels::{Cpu, Tier};
use rin_model::ModelFile;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::ranks::refuse_ranks;
use crate::{exit, interrupt, model_path, output, report, run};

/// `rin verify --json`, as the contract has it, and then some.
#[derive(Debug, Serialize)]
struct VerifyJson<'a> {
    cases: usize,
    equal: usize,
    digest: String,
    axes: AxesJson,
    mismatches: Vec<MismatchJson>,
    model: &'a str,
    prompt_tokens: usize,
    tokens: &'a [u32],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranks: Vec<RanksJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Vec<StepJson>>,
    version: &'static str,
}

/// The same in stages, or in shares of the rows.
#[derive(Debug, Serialize)]
struct RanksJson {
    ranks: usize,
    cut: Cut,
    cases: usize,
    equal: usize,
    digest: String,
}

#[derive(Debug, Serialize)]
struct AxesJson {
    tiers: Vec<&'static str>,
    threads: Vec<usize>,
    batch: Vec<usize>,
    chunk: Vec<usize>,
    cache: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct MismatchJson {
    tier: &'static str,
    threads: usize,
    batch: usize,
    chunk: usize,
    cache: &'static str,
    /// Position of the token whose logits differ.
    step: usize,
    element: usize,
    expected: f32,
    found: f32,
    /// The first value within the network that differs.
    place: Option<PlaceJson>,
}

#[derive(Debug, Serialize)]
struct PlaceJson {
    step: usize,
    layer: Option<usize>,
    operation: &'static str,
    output: usize,
    element: usize,
    expected: f32,
    found: f32,
}

#[derive(Debug, Serialize)]
struct StepJson {
    layer: Option<usize>,
    operation: &'static str,
    digest: String,
}

const fn cache_name(hit: bool) -> &'static str {
    if hit { "hit" } else { "miss" }
}

/// Verifies a model.
///
/// # Errors
/// [`exit::Mismatch`] where bits differ; whatever goes wrong on the way.
pub(crate) fn verify(args: &VerifyArgs, ranks: &Ranks) -> Result<()> {
    interrupt::install()?;
    let file = model_path::open(&args.model)?;
    args.machine.mode(&file)?;
    if file.network().is_some() {
        refuse_ranks(ranks)?;
        return crate::network::verify(file, &args.machine, args.output);
    }
    if args.trace && ranks.several() {
        let text = "--trace shows the steps of all layers, and each of several ranks has some: leave it out, or start rin \
                    verify --trace by itself on each machine, with the whole model, and compare";
        return Err(exit::Usage(text.to_owned()).into());
    }
    if !args.ranks.is_empty() && ranks.several() {
        let text =
            "--ranks cuts the model within one process, and these are several: leave it out, or start one process";
        return Err(exit::Usage(text.to_owned()).into());
    }
    if args.tp.len() > 1 && ranks.several() {
        let text = "over several processes --tp is one number, that of the processes";
        return Err(exit::Usage(text.to_owned()).into());
    }
    let options = options(args, &file)?;
    let name = file.path().display().to_string();
    let load = load_options(&args.machine.load_options(), &options);
    let load = LoadOptions { stage: ranks.first_stage(&file)?, ..load };
    let bytes = load.plan(&file)?.weights.bytes();
    let bar = report::byte_progress(bytes as u64, "loading", args.output.quiet);
    let mut engine = ranks.load(0, file, &load, 0, |bytes| bar.inc(bytes as u64))?;
    bar.finish_and_clear();
    let bar = report::case_progress(0, "verifying", args.output.quiet);
    let found = rin_engine::verify::verify(&mut engine, &options, |i, n, _| {
        bar.set_length(n as u64);
        bar.set_position(i as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let found = found?;
    let by_layers = args.ranks.iter().map(|&n| (n, Cut::Layers));
    let by_rows = args.tp.iter().map(|n| (n.get(), Cut::Rows)).filter(|_| !ranks.several());
    let in_ranks = by_layers.chain(by_rows).map(|(n, cut)| in_ranks(args, n, cut, &load, &options));
    let in_ranks = in_ranks.collect::<Result<Vec<_>>>()?;
    let trace = if args.trace { Some(rin_engine::verify::step_digests(&mut engine, &options)?) } else { None };
    let digest = found.digest.to_string();
    let unlike = in_ranks.iter().filter(|found| found.cases != found.equal || found.digest != digest);
    let unlike_ranks: Vec<String> = unlike.map(RanksJson::name).collect();
    if args.output.json {
        output::json(&VerifyJson { ranks: in_ranks, ..VerifyJson::of(&found, &options, &name, trace) })?;
    } else {
        output::text(&lines(&found, &options, &in_ranks, trace.as_deref())?)?;
    }
    if found.mismatches.is_empty() && unlike_ranks.is_empty() {
        return Ok(());
    }
    let differ = found.cases - found.equal;
    let ranks = if unlike_ranks.is_empty() { String::new() } else { format!(", and {}", unlike_ranks.join(", ")) };
    Err(exit::Mismatch(format!(
        "{differ} of {} cases{ranks} have other bits than the definition; this is a fault of rin or of the machine, please report it",
        found.cases
    ))
    .into())
}

/// The same in `n` parts on threads of this process, each with another highest tier: their own baseline and all cases.
fn in_ranks(args: &VerifyArgs, n: usize, cut: Cut, load: &LoadOptions, options: &VerifyOptions) -> Result<RanksJson> {
    let tiers = &options.axes.tiers;
    let mixed = |i: usize, own: LoadOptions| {
        let tier = tiers.get(tiers.len().saturating_sub(1 + i % tiers.len().max(1))).copied();
        LoadOptions { tier, ..own }
    };
    let mut stages = Stages::load(n, cut, load, mixed, || model_path::open(&args.model))?;
    let found = rin_engine::verify::verify(stages.engine(), options, |_, _, _| ControlFlow::Continue(()))?;
    stages.end()?;
    let Report { cases, equal, digest, .. } = found;
    Ok(RanksJson { ranks: n, cut, cases, equal, digest: digest.to_string() })
}

/// What to verify: the axes of the contract, within what the machine flags say.
fn options(args: &VerifyArgs, file: &ModelFile) -> Result<VerifyOptions> {
    let machine = args.machine.load_options();
    let cpu = machine.tier.map_or_else(Cpu::detect, |tier| Cpu::detect().up_to(tier));
    if let Some(missing) = args.require_tiers.iter().find(|&&tier| !cpu.has(tier)) {
        bail!("the tier {missing} is required and cannot run on this processor");
    }
    let mut axes = Axes::contract(cpu.tiers().collect());
    if let Some(threads) = machine.threads {
        axes.threads = vec![threads];
    }
    let n_vocab = file.config()?.vocab;
    let prompt = match (&args.tokens, &args.prompt) {
        (Some(ids), _) => ids.0.clone(),
        (None, Some(text)) => run::encode(&model_path::tokenizer(file)?, text, false)?,
        (None, None) => default_prompt(n_vocab, 100),
    };
    if prompt.is_empty() {
        return Err(rin_engine::Error::EmptyPrompt.into());
    }
    let (n_generate, full, affinity) = (args.max_tokens, args.full, machine.affinity);
    Ok(VerifyOptions { axes, prompt, n_generate, full, affinity })
}

impl RanksJson {
    /// What they are, in words.
    fn name(&self) -> String {
        match self.cut {
            Cut::Layers => format!("{} stages", self.ranks),
            Cut::Rows => format!("{} shares", self.ranks),
        }
    }
}

impl<'a> VerifyJson<'a> {
    fn of(found: &'a Report, options: &'a VerifyOptions, model: &'a str, trace: Option<Vec<StepDigest>>) -> Self {
        let axes = &options.axes;
        let step = |s: StepDigest| StepJson { layer: s.layer, operation: s.operation, digest: s.digest.to_string() };
        Self {
            cases: found.cases,
            equal: found.equal,
            digest: found.digest.to_string(),
            axes: AxesJson {
                tiers: axes.tiers.iter().copied().map(Tier::name).collect(),
                threads: axes.threads.clone(),
                batch: axes.batch.clone(),
                chunk: axes.chunk.clone(),
                cache: axes.cache_hit.iter().copied().map(cache_name).collect(),
            },
            mismatches: found.mismatches.iter().map(MismatchJson::of).collect(),
            model,
            prompt_tokens: options.prompt.len(),
            tokens: &found.tokens,
            ranks: Vec::new(),
            trace: trace.map(|steps| steps.into_iter().map(step).collect()),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl MismatchJson {
    fn of(mismatch: &Mismatch) -> Self {
        let Mismatch { case, position, element, expected, found, place } = mismatch;
        Self {
            tier: case.tier.name(),
            threads: case.threads,
            batch: case.batch,
            chunk: case.chunk,
            cache: cache_name(case.cache_hit),
            step: *position,
            element: *element,
            expected: *expected,
            found: *found,
            place: place.as_ref().map(|place| PlaceJson {
                step: place.position,
                layer: place.layer,
                operation: place.operation,
                output: place.part,
                element: place.element,
                expected: place.expected,
                found: place.found,
            }),
        }
    }
}

fn lines(
    found: &Report,
    options: &VerifyOptions,
    ranks: &[RanksJson],
    trace: Option<&[StepDigest]>,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let axes = &options.axes;
    let list = |values: &[usize]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let tiers: Vec<_> = axes.tiers.iter().copied().map(Tier::name).collect();
    for tier in Tier::ALL.into_iter().filter(|tier| !axes.tiers.contains(tier)) {
        writeln!(text, "not here    tier {tier}")?;
    }
    writeln!(text, "tiers       {}", tiers.join(", "))?;
    writeln!(text, "threads     {}", list(&axes.threads))?;
    writeln!(text, "sequences   {}", list(&axes.batch))?;
    writeln!(text, "chunks      {}", list(&axes.chunk))?;
    writeln!(text, "cache       miss, hit")?;
    for mismatch in &found.mismatches {
        write_mismatch(&mut text, mismatch)?;
    }
    for step in trace.unwrap_or_default() {
        let layer = step.layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
        writeln!(text, "layer {layer:>3}   {:18} {}", step.operation, step.digest)?;
    }
    writeln!(text, "equal       {} of {} cases, each over {} steps", found.equal, found.cases, found.tokens.len() + 1)?;
    for found @ RanksJson { cases, equal, digest, .. } in ranks {
        writeln!(text, "{:<11} {equal} of {cases} cases equal, {digest}", found.name())?;
    }
    writeln!(text, "digest      {}", found.digest)?;
    Ok(text)
}

fn write_mismatch(text: &mut String, mismatch: &Mismatch) -> std::fmt::Result {
    let Case { tier, threads, batch, chunk, cache_hit } = mismatch.case;
    writeln!(
        text,
        "DIFFERS     tier {tier}, {threads} threads, {batch} sequences, chunks of {chunk}, cache {}: position {}, logit {}: {:e} instead of {:e}",
        cache_name(cache_hit),
        mismatch.position,
        mismatch.element,
        mismatch.found,
        mismatch.expected,
    )?;
    match &mismatch.place {
        Some(place) => writeln!(
            text,
            "            first at position {}, {}, {} (output {}), element {}: {:e} instead of {:e}",
            place.position,
            place.layer.map_or_else(|| "outside the layers".to_owned(), |layer| format!("layer {layer}")),
            place.operation,
            place.part,
            place.element,
            place.found,
            place.expected,
        ),
        None => writeln!(text, "            a second run with a trace did not differ: the machine may be faulty"),
    }
}
