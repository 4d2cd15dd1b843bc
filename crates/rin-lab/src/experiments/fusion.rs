//! What it saves to finish the sums of an integer product where they are made.

use std::hint::black_box;
use std::time::Instant;

use rin_bench::stats::{bootstrap, median};
use rin_kernels::ops::integer::{DenseNarrow, DenseWide, IntegerLayer, integer_bytes, pack_integer};
use rin_kernels::{Cpu, MatMut, Tier};
use serde_json::{Value, json};

use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, interval};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

const SIZES: [usize; 4] = [256, 512, 1024, 4096];
/// What fusing is to save: the time of both passes over that of one.
const GOAL: f64 = 1.1;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "fusion",
    title: "Bias, activation and rounding fused into a product",
    claim: "Fused kernels are faster. The seed lists them without a measurement of what fusing alone gives.",
    definition: "A layer of 8-bit weights and inputs: sums in 32 bits, a bias, a factor and a rounded shift, ReLU by a clamp at 0, outputs of \
                 8 bits (`rin_kernels::ops::integer`). Fused: as the engine runs it (`DenseNarrow`). Apart: the same kernel leaves sums of 32 bits \
                 (`DenseWide` with a factor that changes none), and a second pass adds the bias, scales, rounds and clamps.",
    reference: "Both ways give the same bytes; the kernel's own tests hold it against the scalar definition and onnxruntime's.",
    method: "One row of inputs, square layers, one thread, every instruction tier; the two ways in turn, 50 samples, the median of the ratios with its \
             bootstrap interval. The kernel that leaves sums multiplies them by its factor of one all the same, so the way apart does that twice: \
             what is found is at most what fusing saves, not less. Validated where no byte differs and both passes take at least 1.1 times as long at every size on the best tier; with limits, \
             where they do at some.",
    expected: "At least 1.1 times at one row.",
    reopens: "Longer chains: norms and rounding of inputs, gates. Those are fused in the engine's float layers and were not taken apart.",
    revision: 1,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let samples = scale.pick(3, 50);
    let case = |size: usize| Case::new(format!("{size} x {size}"), move |context| time(size, samples, context));
    SIZES.map(case).into()
}

/// The second pass.
fn finish(sums: &[i32], layer: &IntegerLayer<'_>, out: &mut [i8]) {
    let numbers = layer.bias.iter().zip(layer.multiplier).zip(layer.shift);
    for ((out, sum), ((bias, multiplier), shift)) in out.iter_mut().zip(sums).zip(numbers) {
        let scaled = (i64::from(sum + bias) * i64::from(*multiplier) + (1 << (shift - 1))) >> shift;
        *out = (scaled as i32).clamp(layer.low, layer.high) as i8;
    }
}

/// Seconds of a layer's row on each tier, fused and apart.
fn time(size: usize, samples: usize, context: &Context<'_>) -> Result<Value, Error> {
    let mut random = Random::new(size as u32, 900);
    let mut byte = || ((random.word() >> 24) as u8).cast_signed().max(-127);
    let weights: Vec<i8> = (0..size * size).map(|_| byte()).collect();
    let x: Vec<i8> = (0..size).map(|_| byte()).collect();
    let bias: Vec<i32> = (0..size).map(|_| i32::from(byte()) * 4000).collect();
    let mut lines = vec![0; integer_bytes(size, size).ok_or_else(|| Error::input("layer", size.to_string()))?];
    pack_integer(&weights, size, &mut lines);
    let (multiplier, shift) = (vec![1 << 30; size], vec![43; size]);
    let fused = IntegerLayer { w: &lines, bias: &bias, multiplier: &multiplier, shift: &shift, low: 0, high: 127 };
    // 2^31 − 1 over 2^31 leaves every sum below 2^30 as it is.
    let (none, one, unit) = (vec![0; size], vec![i32::MAX; size], vec![31; size]);
    let sums_alone =
        IntegerLayer { w: &lines, bias: &none, multiplier: &one, shift: &unit, low: -i32::MAX, high: i32::MAX };
    let repeats = (20_000_000 / (size * size)).max(1);
    let mut found = Vec::new();
    for tier in Cpu::detect().tiers().filter(|tier| *tier != Tier::Scalar) {
        let cpu = Cpu::detect().up_to(tier);
        let (narrow, wide) = (DenseNarrow::select(&cpu), DenseWide::select(&cpu));
        if narrow.tier() != tier {
            continue;
        }
        let (mut y, mut apart, mut sums) = (vec![0_i8; size], vec![0_i8; size], vec![0_i32; size]);
        let mut seconds = [Vec::new(), Vec::new()];
        for sample in 0..=samples {
            context.check()?;
            let began = Instant::now();
            for _ in 0..repeats {
                narrow.run(&mut MatMut::new(&mut y, 1, size), black_box(&x), fused);
                black_box(&y);
            }
            let one = began.elapsed().as_secs_f64();
            let began = Instant::now();
            for _ in 0..repeats {
                wide.run(&mut MatMut::new(&mut sums, 1, size), black_box(&x), sums_alone);
                finish(black_box(&sums), &fused, &mut apart);
                black_box(&apart);
            }
            // The first round warms up.
            if sample > 0 {
                seconds[0].push(one / repeats as f64);
                seconds[1].push(began.elapsed().as_secs_f64() / repeats as f64);
            }
        }
        let differ = y.iter().zip(&apart).filter(|(a, b)| a != b).count();
        let inside = y.iter().filter(|y| **y > 0 && **y < 127).count();
        let [one, two] = seconds;
        found.push(json!({
            "tier": tier.name(), "differ": differ, "inside": inside, "fused": one, "apart": two,
        }));
    }
    Ok(json!({ "tiers": found }))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut table = Table::new(
        "One row of inputs, microseconds of a layer, medians:",
        &["inputs and outputs", "tier", "fused", "apart", "apart over fused", "95 % interval", "bytes that differ"],
    );
    let (mut differ, mut reached, mut ratios) = (0.0, Vec::new(), Vec::new());
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for size in SIZES {
        let case = format!("{size} x {size}");
        let tiers = results.at(&case, "/tiers")?.as_array().map_or(0, Vec::len);
        for at in 0..tiers {
            let times = |way: &str| results.numbers(&case, &format!("/tiers/{at}/{way}"));
            let (fused, apart) = (times("fused")?, times("apart")?);
            let of_each: Vec<f64> = apart.iter().zip(&fused).map(|(a, b)| a / b).collect();
            let ratio = median(&of_each).unwrap_or(f64::NAN);
            let not_same = results.number(&case, &format!("/tiers/{at}/differ"))?;
            let tier = results.at(&case, &format!("/tiers/{at}/tier"))?.as_str().unwrap_or_default().to_owned();
            differ += not_same;
            if at + 1 == tiers {
                reached.push(ratio >= GOAL);
                ratios.push(ratio);
            }
            match series.iter_mut().find(|(name, _)| *name == tier) {
                Some((_, points)) => points.push((size as f64, ratio)),
                None => series.push((tier.clone(), vec![(size as f64, ratio)])),
            }
            table.row([
                size.to_string(),
                tier,
                digits(1e6 * median(&fused).unwrap_or(f64::NAN)),
                digits(1e6 * median(&apart).unwrap_or(f64::NAN)),
                format!("{ratio:.3}"),
                bootstrap::median_interval(&of_each).map_or_else(|| "-".to_owned(), interval),
                digits(not_same),
            ]);
        }
    }
    let verdict = match (differ == 0.0, reached.iter().all(|x| *x), reached.contains(&true)) {
        (true, true, _) => Verdict::Validated,
        (true, false, true) => Verdict::ValidatedWithLimits,
        _ => Verdict::Negative,
    };
    let told: Vec<String> =
        SIZES.iter().zip(&ratios).map(|(size, ratio)| format!("{ratio:.2} at {size} × {size}")).collect();
    let because = format!(
        "{} bytes differ; on the best tier the two passes take at most {} times as long as one (goal {GOAL}): the bias, the factor and the clamp \
         weigh as much as the layer's sums are few.",
        digits(differ),
        told.join(", "),
    );
    Ok(Findings::judged(results, verdict, because).table(table).picture(Picture {
        title: "Time of product and second pass over that of the fused product".to_owned(),
        x: ("inputs and outputs".to_owned(), Axis::Log),
        y: ("times as long".to_owned(), Axis::Linear),
        series: series.into_iter().map(|(name, points)| Series::line(name, points)).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_the_same_bytes_and_not_only_the_ends_of_the_range() {
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let context = Context { data: std::path::Path::new(""), python: None, cancel: &cancel };
        let found = time(256, 1, &context).unwrap();
        for tier in found["tiers"].as_array().unwrap() {
            assert_eq!(tier["differ"], 0, "{tier}");
            assert!(tier["inside"].as_u64().unwrap() > 30, "{tier}");
        }
    }
}
