//! `rin plan-cluster`: what a network would take over hosts that are not there.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rin_bench::read::read;
use rin_cluster::predict::{Choice, HostKind, LinkFigures, Prediction, Work, predict};
use rin_engine::plan::Cut;
use serde::Deserialize;

use crate::args::PlanClusterArgs;
use crate::exit::Usage;
use crate::output::Size;
use crate::{model_path, output};

/// A file of hosts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosts {
    link: LinkFigures,
    host: Vec<Host>,
}

/// Hosts of one kind, as the user writes them down: with their rates, or a measurement of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    name: String,
    count: Option<usize>,
    memory: String,
    bench: Option<PathBuf>,
    steps_per_s: Option<f64>,
    prompt_tokens_per_s: Option<f64>,
    watts: Option<f64>,
    idle_watts: Option<f64>,
}

/// Predicts.
///
/// # Errors
/// Where the model or the hosts cannot be read, or say what cannot be.
pub(crate) fn plan_cluster(args: &PlanClusterArgs) -> Result<()> {
    let file = model_path::open(&args.model)?;
    args.machine.mode(&file)?;
    let text =
        std::fs::read_to_string(&args.hosts).with_context(|| format!("{} cannot be read", args.hosts.display()))?;
    let hosts: Hosts = toml::from_str(&text)
        .map_err(|error| Usage(format!("{}: {}", args.hosts.display(), error.to_string().trim())))?;
    let folder = args.hosts.parent().unwrap_or(Path::new(""));
    let work = Work { sequences: args.parallel, prompt: args.n_prompt };
    let kinds = hosts.host.into_iter().map(|host| kind(host, folder, work)).collect::<Result<Vec<_>>>()?;
    let found = predict(&file, &args.machine.load_options(), &kinds, hosts.link, work)?;
    if args.output.json { output::json(&found) } else { output::text(&table(&found)?) }
}

/// A kind of hosts with the rates that it needs.
fn kind(host: Host, folder: &Path, work: Work) -> Result<HostKind> {
    let Host { name, count, memory, bench, steps_per_s, prompt_tokens_per_s, watts, idle_watts } = host;
    let memory: crate::values::Bytes = memory.parse().map_err(|error| Usage(format!("{name}: memory: {error}")))?;
    let (mut measured_steps, mut measured_prompt) = (None, None);
    if let Some(path) = bench {
        let path = folder.join(path);
        let rows = read(&path)?;
        let of_steps = |row: &&rin_bench::Row| row.n_gen > 0 && row.n_parallel == work.sequences as u64;
        // A row's rate counts the tokens of all its sequences.
        measured_steps = rows.iter().find(of_steps).map(|row| row.avg_ts / row.n_parallel.max(1) as f64);
        measured_prompt = rows.iter().find(|row| row.n_prompt > 0).map(|row| row.avg_ts);
    }
    let figure = |given: Option<f64>, measured: Option<f64>, what: &str| {
        let lacking = || Usage(format!("{name}: {what} is neither given nor in a measurement (bench = \"FILE.json\")"));
        given.or(measured).ok_or_else(lacking)
    };
    Ok(HostKind {
        count: count.unwrap_or(1),
        memory_bytes: memory.0,
        steps_per_s: figure(steps_per_s, measured_steps, "steps_per_s")?,
        prompt_tokens_per_s: figure(prompt_tokens_per_s, measured_prompt, "prompt_tokens_per_s")?,
        watts,
        idle_watts,
        name,
    })
}

/// Most sizes of groups that are shown.
const MOST_LINES: usize = 40;

fn table(found: &Prediction) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "{:>6} {:>6} {:>7} {:>10} {:>13} {:>10} {:>12} {:>11} {:>12}  fits",
        "hosts", "by", "groups", "memory", "ms per token", "on links", "tokens/s", "prompt ms", "J per token"
    )?;
    for depth in found.depths.iter().take(MOST_LINES) {
        let joules = depth.joules_per_token.map_or_else(|| "not given".to_owned(), |joules| format!("{joules:.3}"));
        let fits = depth.does_not_fit.as_ref().map_or_else(|| "yes".to_owned(), |name| format!("no: {name}"));
        writeln!(
            text,
            "{:>6} {:>6} {:>7} {:>10} {:>13.3} {:>10.3} {:>12.2} {:>11.1} {joules:>12}  {fits}",
            depth.depth,
            name(depth.cut),
            depth.pipelines,
            Size(depth.largest_plan_bytes).to_string(),
            depth.ms_per_token,
            depth.link_ms_per_token,
            depth.tokens_per_s,
            depth.prompt_ms,
        )?;
    }
    if found.depths.len() > MOST_LINES {
        writeln!(text, "{:>6} more: see --json", found.depths.len() - MOST_LINES)?;
    }
    let best = |choice: Option<Choice>| match choice {
        None => "none".to_owned(),
        Some(Choice { depth: 1, .. }) => "1 host".to_owned(),
        Some(Choice { depth, cut }) => format!("{depth} hosts by {}", name(cut)),
    };
    writeln!(text, "soonest token  {}", best(found.least_latency))?;
    writeln!(text, "most tokens/s  {}", best(found.most_tokens_per_s))?;
    writeln!(text, "least energy   {}", best(found.least_joules))?;
    Ok(text)
}

/// What the hosts of a group share.
const fn name(cut: Cut) -> &'static str {
    match cut {
        Cut::Layers => "layers",
        Cut::Rows => "rows",
    }
}
