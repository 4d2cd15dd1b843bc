//! What the recorded times say: by step of the plan, and by kind of operation.

use rin_engine::Plan;
use serde::{Serialize, Serializer};

use super::record::Recorder;
use crate::cost::StepCost;
use crate::peak::Peaks;
use crate::plan::Test;
use crate::stats::median;

/// The name of the time that belongs to no step of the plan.
pub(super) const BETWEEN: &str = "between steps";

/// Passes of one kind: of a prompt, or of a generation's steps.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// `pp512`: a pass is the whole prompt. `tg128`: a pass is one step.
    #[serde(serialize_with = "as_text")]
    pub test: Test,
    /// Passes that were measured.
    pub n_passes: u64,
    /// All of them as a whole.
    pub total: Measured,
    /// By kind of operation, the longest first; what no step took is called `between steps`. Their shares add up to 1.
    pub operations: Vec<Operation>,
    /// By step of the plan, in its order.
    pub steps: Vec<PlanStep>,
    /// One pass as it was.
    #[serde(skip)]
    pub example: Example,
}

/// Steps of the plan that do the same, in all layers.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// What they do; of products the names of their matrices.
    pub name: String,
    /// Times and rates.
    #[serde(flatten)]
    pub measured: Measured,
}

/// One step of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanStep {
    /// Its place in the plan, from 0.
    pub step: usize,
    /// Its layer; none before and after the layers.
    pub layer: Option<usize>,
    /// Its kind of operation.
    pub name: String,
    /// Times and rates.
    #[serde(flatten)]
    pub measured: Measured,
}

/// Times and rates over all passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// How often it ran.
    pub calls: u64,
    /// Sum of its times, in ns.
    pub total_ns: u64,
    /// Median over the passes of its time in a pass, in ns.
    pub median_ns: f64,
    /// Share of the time of all passes.
    pub share: f64,
    /// Bytes that it had to move at the least.
    pub bytes: u64,
    /// Operations of its products, two per product.
    pub ops: u64,
    /// Bytes in 10⁹ per second; none where nothing is moved or no time was seen.
    pub gb_per_s: Option<f64>,
    /// Operations in 10¹² per second; none where nothing is multiplied or no time was seen.
    pub tops: Option<f64>,
    /// Share of the roofline: the least time that the machine's peaks allow, over the time that was taken. None where the
    /// peaks are not known.
    pub roofline: Option<f64>,
}

/// One pass as it was: the one in the middle when they are sorted by time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// Time of the whole, in ns.
    pub whole_ns: u64,
    /// Its steps in order.
    pub calls: Vec<Call>,
}

/// One step of the plan in one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its place in the plan.
    pub step: usize,
    /// Its time, in ns.
    pub ns: u64,
    /// Bytes that it had to move at the least.
    pub bytes: u64,
    /// Operations of its products.
    pub ops: u64,
}

fn as_text<S: Serializer>(test: &Test, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(test)
}

impl Measured {
    fn new(calls: u64, total_ns: u64, median_ns: f64, whole_ns: u64, (bytes, ops): (u64, u64)) -> Self {
        let rate = |amount: u64| (amount > 0 && total_ns > 0).then(|| amount as f64 / total_ns as f64);
        let share = if whole_ns == 0 { 0.0 } else { total_ns as f64 / whole_ns as f64 };
        // Per ns is 10⁹ per second.
        let (gb_per_s, tops) = (rate(bytes), rate(ops).map(|ops| ops / 1e3));
        Self { calls, total_ns, median_ns, share, bytes, ops, gb_per_s, tops, roofline: None }
    }

    /// The least time that the peaks allow, in ns.
    fn least_ns(&self, peaks: &Peaks) -> Option<f64> {
        let time = |amount: u64, per_ns: f64| (per_ns > 0.0).then(|| amount as f64 / per_ns);
        let moved = peaks.gb_per_s.as_ref().and_then(|peak| time(self.bytes, peak.best));
        let multiplied = peaks.tops.as_ref().and_then(|peak| time(self.ops, 1e3 * peak.best));
        moved.into_iter().chain(multiplied).reduce(f64::max)
    }

    fn set_roofline(&mut self, least_ns: Option<f64>) {
        let total = self.total_ns as f64;
        self.roofline = least_ns.filter(|least| self.total_ns > 0 && *least > 0.0).map(|least| least / total);
    }
}

impl Phase {
    /// What a pass is, in words.
    pub(super) fn pass(&self) -> &'static str {
        match self.test {
            Test::Prompt(_) => "a pass is the whole prompt",
            Test::Generate(_) => "a pass is a step of one token",
        }
    }

    /// Of what was recorded in so many repetitions.
    pub(super) fn of(plan: &Plan, recorder: &Recorder, repetitions: usize) -> Self {
        let costs: Vec<StepCost> = (0..plan.steps.len()).map(|i| StepCost::of(plan, i)).collect();
        let steps = plan_steps(plan, recorder, &costs, repetitions);
        let mut kinds: Vec<&str> = Vec::new();
        for step in &steps {
            if !kinds.contains(&step.name.as_str()) {
                kinds.push(&step.name);
            }
        }
        let amounts = steps.iter().fold((0, 0), |sum, step| add(sum, &step.measured));
        let mut operations: Vec<Operation> = kinds.iter().map(|kind| operation(kind, &steps, recorder)).collect();
        operations.push(between(&steps, recorder));
        operations.sort_by_key(|operation| std::cmp::Reverse(operation.measured.total_ns));
        let whole = median(&recorder.kept().map(|(_, whole)| whole as f64).collect::<Vec<_>>()).unwrap_or(0.0);
        let total = Measured::new(recorder.n_passes, recorder.whole, whole, recorder.whole, amounts);
        let example = Example::of(recorder, &costs);
        Self { test: recorder.test, n_passes: recorder.n_passes, total, operations, steps, example }
    }

    /// Compares with what the machine can do. Of several steps together the least times are added up.
    pub(super) fn set_peaks(&mut self, peaks: &Peaks) {
        let least = |step: &PlanStep| step.measured.least_ns(peaks);
        for operation in &mut self.operations {
            let own = self.steps.iter().filter(|step| step.name == operation.name);
            operation.measured.set_roofline(own.filter_map(least).reduce(|a, b| a + b));
        }
        self.total.set_roofline(self.steps.iter().filter_map(least).reduce(|a, b| a + b));
        for step in &mut self.steps {
            let least = step.measured.least_ns(peaks);
            step.measured.set_roofline(least);
        }
    }
}

fn add((bytes, ops): (u64, u64), measured: &Measured) -> (u64, u64) {
    (bytes.saturating_add(measured.bytes), ops.saturating_add(measured.ops))
}

fn plan_steps(plan: &Plan, recorder: &Recorder, costs: &[StepCost], repetitions: usize) -> Vec<PlanStep> {
    let mut slots_of: Vec<Vec<usize>> = vec![Vec::new(); costs.len()];
    for (i, slot) in recorder.slots.iter().enumerate() {
        if let Some(slots) = slots_of.get_mut(slot.step) {
            slots.push(i);
        }
    }
    let steps = costs.iter().zip(&slots_of).enumerate().map(|(i, (cost, slots))| {
        let calls = (slots.len() as u64).saturating_mul(recorder.n_passes);
        let of =
            |times: &[u64]| slots.iter().filter_map(|slot| times.get(*slot)).fold(0, |a: u64, b| a.saturating_add(*b));
        let times: Vec<f64> = recorder.kept().map(|(times, _)| of(times) as f64).collect();
        let repeated = |amount: u64| amount.saturating_mul(repetitions as u64);
        let (bytes, ops) = recorder.works_of_repetition().fold((0_u64, 0_u64), |(bytes, ops), work| {
            (bytes.saturating_add(cost.bytes(&work)), ops.saturating_add(cost.ops(&work)))
        });
        let amounts = (repeated(bytes), repeated(ops));
        let median = median(&times).unwrap_or(0.0);
        let measured = Measured::new(calls, of(&recorder.totals), median, recorder.whole, amounts);
        PlanStep { step: i, layer: plan.layers.get(i).copied().flatten(), name: name(plan, i), measured }
    });
    steps.collect()
}

/// All steps of one kind.
fn operation(kind: &str, steps: &[PlanStep], recorder: &Recorder) -> Operation {
    let own: Vec<bool> = steps.iter().map(|step| step.name == kind).collect();
    let belongs = |step: usize| own.get(step).copied().unwrap_or(false);
    let of = |times: &[u64]| {
        let own = times.iter().zip(&recorder.slots).filter(|(_, slot)| belongs(slot.step));
        own.fold(0, |sum: u64, (time, _)| sum.saturating_add(*time))
    };
    let times: Vec<f64> = recorder.kept().map(|(times, _)| of(times) as f64).collect();
    let mut amounts = (0, 0);
    let mut calls = 0_u64;
    for step in steps.iter().filter(|step| step.name == kind) {
        amounts = add(amounts, &step.measured);
        calls = calls.saturating_add(step.measured.calls);
    }
    let median = median(&times).unwrap_or(0.0);
    let measured = Measured::new(calls, of(&recorder.totals), median, recorder.whole, amounts);
    Operation { name: kind.to_owned(), measured }
}

/// The time of whole passes less that of their steps.
fn between(steps: &[PlanStep], recorder: &Recorder) -> Operation {
    let sum = |times: &[u64]| times.iter().fold(0, |a: u64, b| a.saturating_add(*b));
    let times: Vec<f64> = recorder.kept().map(|(times, whole)| whole.saturating_sub(sum(times)) as f64).collect();
    let of_steps = steps.iter().fold(0, |sum: u64, step| sum.saturating_add(step.measured.total_ns));
    let total = recorder.whole.saturating_sub(of_steps);
    let median = median(&times).unwrap_or(0.0);
    let measured = Measured::new(recorder.n_passes, total, median, recorder.whole, (0, 0));
    Operation { name: BETWEEN.to_owned(), measured }
}

impl Example {
    fn of(recorder: &Recorder, costs: &[StepCost]) -> Self {
        let mut passes: Vec<(usize, (&[u64], u64))> = recorder.kept().enumerate().collect();
        passes.sort_by_key(|(_, (_, whole))| *whole);
        let Some(&(pass, (times, whole_ns))) = passes.get(passes.len().saturating_sub(1) / 2) else {
            return Self::default();
        };
        let works: Vec<_> = recorder.works(pass).collect();
        let calls = recorder.slots.iter().zip(times).filter_map(|(slot, &ns)| {
            let (work, cost) = (works.get(slot.forward)?, costs.get(slot.step)?);
            Some(Call { step: slot.step, ns, bytes: cost.bytes(work), ops: cost.ops(work) })
        });
        Self { whole_ns, calls: calls.collect() }
    }
}

/// What a step does, as a reader would call it: of products the short names of the matrices.
fn name(plan: &Plan, i: usize) -> String {
    let Some(step) = plan.steps.get(i) else { return String::new() };
    let names: Vec<&str> = step
        .matrices()
        .iter()
        .map(|part| match short(&plan.weights.get(part.matrix).name) {
            // The output shares its weights with the embedding.
            "token_embd" if i >= plan.head => "output",
            short => short,
        })
        .collect();
    if names.is_empty() { step.name().to_owned() } else { names.join("+") }
}

/// `blk.3.attn_q.weight` is `attn_q`.
fn short(tensor: &str) -> &str {
    let tensor = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let in_layer = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    in_layer.map_or(tensor, |(_, short)| short)
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn tensors_have_short_names() {
        let names = ["blk.12.ffn_up.weight", "output.weight", "token_embd.weight", "odd"].map(short);
        assert_eq!(names, ["ffn_up", "output", "token_embd", "odd"]);
    }
}
