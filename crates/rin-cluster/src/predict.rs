//! What a network would take over hosts that are not there: memory, time and energy of one to thousands of them.
//!
//! Hosts stand in groups of equal size, side by side; what is left over is idle. A group is a pipeline, or shares rows.
//!
//! In one pipeline
//!
//! - a stage takes its share of the time that its host takes for the whole network, by bytes of the file: a step reads every
//!   weight once;
//! - a step of one token per sequence goes round all stages one after the other, so that its time is the sum of the stages'
//!   and of as many hops, each a latency and the bytes of its rows over the rate of the link;
//! - a prompt goes round in messages of 32 tokens or more, at most four per stage, on which the stages work at the same time:
//!   the slowest sets the pace (Huang et al., GPipe, 2019, section 2.3: m messages over n stages take m + n − 1 turns).
//!
//! In a group of n hosts that share rows
//!
//! - each takes an n-th of the time that it takes for the whole network, and the slowest sets the pace;
//! - rows go to all over n − 1 hops; four times per layer, and once for logits, columns go round: n − 1 hops of the bytes that
//!   one host has of a row.
//!
//! In both a host takes its power under load while it works, and its idle power while it waits. Without both figures there is
//! no energy.
//!
//! Nothing in it is fitted: times of single hosts and of the link come from measurements.

use std::collections::BTreeMap;

use rin_engine::chain::messages_of;
use rin_engine::plan::{Cut, LayerBytes, Stage};
use rin_engine::{Error, LoadOptions};
use rin_model::{Config, ModelFile};
use serde::{Deserialize, Serialize};

/// Hosts of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostKind {
    /// Its name.
    pub name: String,
    /// How many there are.
    #[serde(default = "one")]
    pub count: usize,
    /// Bytes that a plan may take.
    pub memory_bytes: u64,
    /// Steps per second of the whole network on one such host, with one token for each of the sequences.
    pub steps_per_s: f64,
    /// Tokens per second of a prompt on it.
    pub prompt_tokens_per_s: f64,
    /// Power under load, in W.
    #[serde(default)]
    pub watts: Option<f64>,
    /// Power while it waits, in W.
    #[serde(default)]
    pub idle_watts: Option<f64>,
}

fn one() -> usize {
    1
}

/// What carries rows between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFigures {
    /// Time of a small message, in µs.
    pub latency_us: f64,
    /// Rate of a large one, in Gbit/s.
    pub gbit_per_s: f64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Work {
    /// Sequences in a step.
    pub sequences: usize,
    /// Tokens of a prompt.
    pub prompt: usize,
}

/// What groups of one size would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Depth {
    /// Hosts in a group.
    pub depth: usize,
    /// Whether they are a pipeline, or share rows.
    pub cut: Cut,
    /// Groups side by side.
    pub pipelines: usize,
    /// Hosts that are left over.
    pub idle_hosts: usize,
    /// The most bytes that a host's plan takes.
    pub largest_plan_bytes: u64,
    /// The host that cannot hold its plan, if there is one.
    pub does_not_fit: Option<String>,
    /// Time of a token of one sequence, in ms: the mean over the groups.
    pub ms_per_token: f64,
    /// The part of it on links.
    pub link_ms_per_token: f64,
    /// Tokens per second of all sequences in all groups.
    pub tokens_per_s: f64,
    /// Time of a prompt, in ms: the mean over the groups.
    pub prompt_ms: f64,
    /// Energy of a token; none without the hosts' power.
    pub joules_per_token: Option<f64>,
}

/// A size of groups, and how they share a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Hosts in a group.
    pub depth: usize,
    /// Whether they are a pipeline, or share rows.
    pub cut: Cut,
}

/// Every size of groups, and the best of those that fit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// How many hosts there are.
    pub hosts: usize,
    /// What is done.
    pub work: Work,
    /// Pipelines, from one host on; then groups that share rows.
    pub depths: Vec<Depth>,
    /// The one with the soonest token.
    pub least_latency: Option<Choice>,
    /// The one with the most tokens per second.
    pub most_tokens_per_s: Option<Choice>,
    /// The one with the least energy per token.
    pub least_joules: Option<Choice>,
}

/// One group: its figures, and the largest plan with the host that it is too large for.
#[derive(Clone, Debug)]
struct Group {
    step_s: f64,
    link_s: f64,
    prompt_s: f64,
    joules_per_step: Option<f64>,
    largest: u64,
    does_not_fit: Option<String>,
}

/// What all groups have in common.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    file: &'a ModelFile,
    options: &'a LoadOptions,
    config: &'a Config,
    link: LinkFigures,
    work: Work,
}

impl Job<'_> {
    /// Seconds that so many f32 take from one host to the next.
    fn hop(&self, values: usize) -> f64 {
        self.link.latency_us * 1e-6 + values as f64 * 32.0 / (self.link.gbit_per_s * 1e9)
    }

    /// The most bytes that a stage's plan takes, and the first host that it is too large for.
    fn memory(&self, stages: &[Stage], hosts: &[&HostKind]) -> Result<(u64, Option<String>), Error> {
        let (mut largest, mut does_not_fit) = (0_u64, None);
        for (stage, host) in stages.iter().zip(hosts) {
            let stage = Some(*stage).filter(|stage| stage.count > 1);
            let options = LoadOptions { stage, n_sequences: self.work.sequences, ..self.options.clone() };
            let bytes = options.plan(self.file)?.total_bytes() as u64;
            largest = largest.max(bytes);
            if bytes > host.memory_bytes && does_not_fit.is_none() {
                does_not_fit = Some(host.name.clone());
            }
        }
        Ok((largest, does_not_fit))
    }
}

/// Energy of a step that takes `step_s`, of which each host works for so long.
fn joules(hosts: &[&HostKind], busy_s: &[f64], step_s: f64) -> Option<f64> {
    let of = |(host, busy): (&&HostKind, &f64)| Some(host.watts? * busy + host.idle_watts? * (step_s - busy));
    hosts.iter().zip(busy_s).map(of).sum()
}

/// What a network takes over hosts.
///
/// # Errors
///
/// [`Error::BadOption`] for no host or figures that are not above zero; what is wrong with the file.
pub fn predict(
    file: &ModelFile,
    options: &LoadOptions,
    kinds: &[HostKind],
    link: LinkFigures,
    work: Work,
) -> Result<Prediction, Error> {
    check(kinds, link, work)?;
    let bytes = LayerBytes::of(file)?;
    let job = Job { file, options, config: file.config()?, link, work };
    // The host with the number i is of this kind.
    let hosts: Vec<usize> =
        kinds.iter().enumerate().flat_map(|(kind, of)| std::iter::repeat_n(kind, of.count)).collect();
    let mut depths = Vec::new();
    for depth in 1..=hosts.len().min(bytes.layers.len() + 1) {
        depths.push(groups(kinds, &hosts, depth, Cut::Layers, work, |of| pipeline(job, &bytes, of))?);
    }
    for depth in 2..=hosts.len().min(job.config.n_kv_heads) {
        match groups(kinds, &hosts, depth, Cut::Rows, work, |of| shared(job, of)) {
            Ok(found) => depths.push(found),
            // A network that cannot be cut so, or not there.
            Err(Error::BadOption { field: "--tp" | "ranks", .. }) => break,
            Err(error) => return Err(error),
        }
    }
    let best = |figure: fn(&Depth) -> Option<f64>| {
        let fit = depths.iter().filter(|depth| depth.does_not_fit.is_none());
        let figures = fit.filter_map(|of| Some((Choice { depth: of.depth, cut: of.cut }, figure(of)?)));
        figures.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(choice, _)| choice)
    };
    Ok(Prediction {
        hosts: hosts.len(),
        work,
        least_latency: best(|depth| Some(depth.ms_per_token)),
        most_tokens_per_s: best(|depth| Some(-depth.tokens_per_s)),
        least_joules: best(|depth| depth.joules_per_token),
        depths,
    })
}

/// What groups of `depth` hosts do, each as `of_one` says.
fn groups(
    kinds: &[HostKind],
    hosts: &[usize],
    depth: usize,
    cut: Cut,
    work: Work,
    of_one: impl Fn(&[&HostKind]) -> Result<Group, Error>,
) -> Result<Depth, Error> {
    // Groups of the same kinds are alike.
    let mut known: BTreeMap<&[usize], Group> = BTreeMap::new();
    let mut all: Vec<Group> = Vec::new();
    for of in hosts.chunks_exact(depth) {
        if !known.contains_key(of) {
            let of_kinds: Vec<&HostKind> = of.iter().filter_map(|&kind| kinds.get(kind)).collect();
            known.insert(of, of_one(&of_kinds)?);
        }
        all.extend(known.get(of).cloned());
    }
    let n = all.len() as f64;
    let mean = |of: fn(&Group) -> f64| all.iter().map(of).sum::<f64>() / n * 1e3;
    let steps_per_s: f64 = all.iter().map(|p| 1.0 / p.step_s).sum();
    let watts: Option<f64> = all.iter().map(|p| Some(p.joules_per_step? / p.step_s)).sum();
    let tokens_per_s = steps_per_s * work.sequences as f64;
    Ok(Depth {
        depth,
        cut,
        pipelines: all.len(),
        idle_hosts: hosts.len() % depth,
        largest_plan_bytes: all.iter().map(|p| p.largest).max().unwrap_or(0),
        does_not_fit: all.iter().find_map(|p| p.does_not_fit.clone()),
        ms_per_token: mean(|p| p.step_s),
        link_ms_per_token: mean(|p| p.link_s),
        tokens_per_s,
        prompt_ms: mean(|p| p.prompt_s),
        joules_per_token: watts.map(|watts| watts / tokens_per_s),
    })
}

fn check(kinds: &[HostKind], link: LinkFigures, work: Work) -> Result<(), Error> {
    let bad =
        |field: &'static str, found: String| Err(Error::BadOption { field, expected: "above 0".to_owned(), found });
    if kinds.iter().map(|kind| kind.count).sum::<usize>() == 0 {
        return bad("number of hosts", "0".to_owned());
    }
    if work.sequences == 0 || work.prompt == 0 {
        return bad("number of tokens", "0".to_owned());
    }
    let powers = kinds.iter().flat_map(|kind| [("watts", kind.watts), ("idle_watts", kind.idle_watts)]);
    let powers = powers.filter_map(|(field, value)| Some((field, value?)));
    let rates = kinds
        .iter()
        .flat_map(|kind| [("steps_per_s", kind.steps_per_s), ("prompt_tokens_per_s", kind.prompt_tokens_per_s)]);
    let links = [("latency_us", link.latency_us), ("gbit_per_s", link.gbit_per_s)];
    match rates.chain(powers).chain(links).find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
        Some((field, value)) => bad(field, value.to_string()),
        None => Ok(()),
    }
}

fn pipeline(job: Job<'_>, bytes: &LayerBytes, hosts: &[&HostKind]) -> Result<Group, Error> {
    let Job { work, config: Config { dim, .. }, .. } = job;
    let depth = hosts.len();
    let speeds: Vec<f64> = hosts.iter().map(|host| host.steps_per_s).collect();
    let stages = bytes.share_out(&speeds)?;
    let whole = (bytes.layers.iter().sum::<u64>() + bytes.ends) as f64;
    let share = |stage: &Stage| {
        let layers: u64 = bytes.layers.get(stage.first_layer..stage.end_layer).unwrap_or_default().iter().sum();
        (layers + if stage.is_first() { bytes.ends } else { 0 }) as f64 / whole
    };
    let hop = |rows: usize| job.hop(rows * dim);
    let hops = if depth > 1 { depth } else { 0 } as f64;
    let (mut busy_s, mut step_s) = (Vec::new(), hops * hop(work.sequences));
    let link_s = step_s;
    let messages = if depth > 1 { messages_of(work.prompt, depth) } else { 1 };
    let rows = work.prompt.div_ceil(messages);
    let (mut sum, mut slowest) = (0.0_f64, 0.0_f64);
    for (stage, host) in stages.iter().zip(hosts) {
        let busy = share(stage) / host.steps_per_s;
        busy_s.push(busy);
        step_s += busy;
        let turn = share(stage) * rows as f64 / host.prompt_tokens_per_s;
        sum += turn;
        slowest = slowest.max(turn.max(if depth > 1 { hop(rows) } else { 0.0 }));
    }
    let (largest, does_not_fit) = job.memory(&stages, hosts)?;
    let last_row = if depth > 1 { hop(1) } else { 0.0 };
    let prompt_s = sum + (messages - 1) as f64 * slowest + (hops - 1.0).max(0.0) * hop(rows) + last_row;
    let joules_per_step = joules(hosts, &busy_s, step_s);
    Ok(Group { step_s, link_s, prompt_s, joules_per_step, largest, does_not_fit })
}

/// Hosts that share rows.
fn shared(job: Job<'_>, hosts: &[&HostKind]) -> Result<Group, Error> {
    let Job { work, config: c, .. } = job;
    let n = hosts.len();
    let stages = Stage::by_rows(n, c.n_layers);
    let (largest, does_not_fit) = job.memory(&stages, hosts)?;
    // Hops of a step of so many rows, of which the logits of some are wanted.
    let links = |rows: usize, wanted: usize| {
        let round = |width: usize, rows: usize| (n - 1) as f64 * job.hop(width.div_ceil(n) * rows);
        let of_layer = round(c.q_dim(), rows) + round(c.ffn_dim, rows) + 2.0 * round(c.dim, rows);
        let logits = if wanted > 0 { round(c.vocab, wanted) } else { 0.0 };
        (n - 1) as f64 * job.hop(c.dim * rows) + c.n_layers as f64 * of_layer + logits
    };
    let busy_s: Vec<f64> = hosts.iter().map(|host| 1.0 / host.steps_per_s / n as f64).collect();
    let slowest = |seconds: &mut dyn Iterator<Item = f64>| seconds.fold(0.0, f64::max);
    let link_s = links(work.sequences, work.sequences);
    let step_s = slowest(&mut busy_s.iter().copied()) + link_s;
    let steps = work.prompt.div_ceil(job.options.n_batch.max(1));
    let prompt = slowest(&mut hosts.iter().map(|host| work.prompt as f64 / host.prompt_tokens_per_s / n as f64));
    let rows = work.prompt.div_ceil(steps);
    let prompt_s = prompt + (steps - 1) as f64 * links(rows, 0) + links(rows, 1);
    let joules_per_step = joules(hosts, &busy_s, step_s);
    Ok(Group { step_s, link_s, prompt_s, joules_per_step, largest, does_not_fit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_testkit::data::conformance;

    fn file() -> ModelFile {
        ModelFile::open(&conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf")).unwrap()
    }

    fn host(name: &str, count: usize, steps_per_s: f64) -> HostKind {
        HostKind {
            name: name.to_owned(),
            count,
            memory_bytes: 1 << 40,
            steps_per_s,
            prompt_tokens_per_s: 10.0 * steps_per_s,
            watts: Some(200.0),
            idle_watts: Some(50.0),
        }
    }

    const LINK: LinkFigures = LinkFigures { latency_us: 1000.0, gbit_per_s: 1e9 };
    const WORK: Work = Work { sequences: 1, prompt: 16 };

    fn over(kinds: &[HostKind]) -> Prediction {
        predict(&file(), &LoadOptions::default(), kinds, LINK, WORK).unwrap()
    }

    #[test]
    fn a_step_is_the_sum_of_its_stages_and_hops() {
        let found = over(&[host("a", 3, 10.0)]);
        assert_eq!(found.depths.len(), 4, "two layers and what is beside them; two key heads");
        for depth in &found.depths[..3] {
            let hops = if depth.depth > 1 { depth.depth as f64 } else { 0.0 };
            assert!((depth.ms_per_token - 100.0 - hops).abs() < 1e-3, "{depth:?}");
            assert!((depth.link_ms_per_token - hops).abs() < 1e-3);
            // All bytes are read once, by whoever; the rest of the time everybody idles.
            let busy = 200.0 * 0.1 + 50.0 * (depth.ms_per_token / 1e3 * depth.depth as f64 - 0.1);
            assert!((depth.joules_per_token.unwrap() - busy).abs() < 1e-3, "{depth:?}");
        }
        assert_eq!((found.depths[0].pipelines, found.depths[1].pipelines, found.depths[1].idle_hosts), (3, 1, 1));
        assert!((found.depths[0].tokens_per_s - 30.0).abs() < 1e-9);
        // Ten hops: of the rows, four for each of two layers, and of the logits.
        let rows = &found.depths[3];
        assert_eq!((rows.depth, rows.cut, rows.pipelines), (2, Cut::Rows, 1));
        assert!((rows.ms_per_token - 50.0 - 10.0).abs() < 1e-3, "{rows:?}");
        let busy = 2.0 * 200.0 * 0.05 + 2.0 * 50.0 * 0.01;
        assert!((rows.joules_per_token.unwrap() - busy).abs() < 1e-3, "{rows:?}");
        let one = Some(Choice { depth: 1, cut: Cut::Layers });
        assert_eq!(found.most_tokens_per_s, one, "what fits one host needs no second one");
        assert_eq!(found.least_latency, Some(Choice { depth: 2, cut: Cut::Rows }), "but for a sooner token");
        assert_eq!(found.least_joules, one);
        // The memory of a stage is less than that of the whole.
        assert!(found.depths[2].largest_plan_bytes < found.depths[0].largest_plan_bytes);
    }

    #[test]
    fn what_does_not_fit_one_host_takes_several() {
        let whole = over(&[host("a", 1, 10.0)]).depths[0].largest_plan_bytes;
        let small = HostKind { memory_bytes: whole - 1, ..host("small", 4000, 10.0) };
        let found = over(&[small]);
        assert_eq!((found.hosts, found.depths.len()), (4000, 4));
        assert_eq!(found.depths[0].does_not_fit.as_deref(), Some("small"));
        // Of a network as small as this one, two stages with their messages take more than the whole.
        let fits: Vec<bool> = found.depths.iter().map(|depth| depth.does_not_fit.is_none()).collect();
        assert_eq!(fits, [false, false, true, true]);
        let rows = Some(Choice { depth: 2, cut: Cut::Rows });
        assert_eq!((found.least_latency, found.most_tokens_per_s), (rows, rows));
        assert_eq!((found.depths[2].pipelines, found.depths[2].idle_hosts), (1333, 1));
    }

    #[test]
    fn messages_of_a_prompt_overlap() {
        let options = LoadOptions::default();
        let work = Work { sequences: 1, prompt: 512 };
        let fast = LinkFigures { latency_us: 1e-3, gbit_per_s: 1e9 };
        let found = predict(&file(), &options, &[host("a", 2, 10.0)], fast, work).unwrap();
        // 512 tokens at 100 per second on one host; two take eight messages, m + 1 turns of the larger half at most.
        assert!((found.depths[0].prompt_ms - 5120.0).abs() < 1e-6);
        assert!(
            found.depths[1].prompt_ms > 5120.0 / 2.0 && found.depths[1].prompt_ms < 5120.0,
            "{:?}",
            found.depths[1]
        );
    }

    #[test]
    fn energy_is_of_given_figures_alone_and_others_are_refused() {
        let without = HostKind { idle_watts: None, ..host("b", 1, 10.0) };
        let found = over(&[host("a", 1, 10.0), without]);
        assert_eq!(found.depths[1].joules_per_token, None);
        assert_eq!(found.least_joules, None);
        for kinds in [vec![], vec![host("a", 0, 1.0)], vec![host("a", 1, 0.0)], vec![host("a", 1, f64::NAN)]] {
            assert!(predict(&file(), &LoadOptions::default(), &kinds, LINK, WORK).is_err());
        }
    }
}
