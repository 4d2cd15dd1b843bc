//! Networks that are trained so that most neurons of a token can be left out, and the time of products that leave them out.

use std::hint::black_box;
use std::time::Instant;

use rin_bench::stats::{bootstrap, mean, median};
use rin_kernels::ops::linear::Linear;
use rin_kernels::ops::memory::AddScaled;
use rin_kernels::{Cpu, Format};
use rin_train::config::{ModelConfig, Quant};
use rin_train::network::{Activated, Decoder, FeedForward, Network};
use rin_train::train::Part;
use serde_json::{Value, json};

use super::networks::{self, Arm, Course, RATES, column, corpus, plain, rates_case, seed_case};
use super::pairs::{Comparison, compare, comparisons_table};
use crate::decoder::Matrix;
use crate::random::Random;
use crate::report::{Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Scale};

const MARGIN: f64 = 0.02;
const SEEDS: u64 = 3;
const DENSE: &str = "SwiGLU";
const RELU: &str = "ReLU²";
/// Shares that thresholds leave out after training, the one that the verdict is about first.
const CUTS: [f64; 2] = [0.9, 0.95];
/// Windows of training text that thresholds are taken from, and of validation text that what they leave out is counted in.
const CALIBRATION: usize = 64;
/// The case of the time.
const TIME: &str = "time";
/// Shares of neurons that count, in the case of the time.
const ACTIVE: [f64; 5] = [1.0, 0.5, 0.2, 0.1, 0.05];
/// Which of them the verdict is about: what the first cut leaves.
const VERDICT_ACTIVE: usize = 3;

fn with(model: &ModelConfig, vocab: usize, way: FeedForward) -> Result<Box<dyn Network>, rin_train::Error> {
    Ok(Box::new(Decoder::new(model, vocab, "arm")?.with_feed_forward(way)))
}

fn relu(model: &ModelConfig, vocab: usize) -> Result<Box<dyn Network>, rin_train::Error> {
    with(model, vocab, FeedForward { activated: Activated::ReluSquared, thresholds: Vec::new() })
}

fn arms(scale: Scale) -> [Arm; 2] {
    let (dim, ffn) = scale.pick((64, 160), (128, 800));
    let arm = |name, make| Arm { name, model: networks::model(dim, 2, ffn), quant: Quant::None, make };
    [arm(DENSE, plain), arm(RELU, relu)]
}

fn seeds(scale: Scale) -> u64 {
    scale.pick(2, SEEDS)
}

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let course = scale.pick(
        Course { steps: 6, float_steps: 0, rates: RATES, rate_steps: 2, batch: 2, chars: 2000 },
        Course { steps: 600, float_steps: 0, rates: RATES, rate_steps: 150, batch: 4, chars: usize::MAX },
    );
    let mut cases = networks::cases(course, arms(scale), seeds(scale), trained);
    let (size, samples) = scale.pick((Size { dim: 128, ffn: 1024, layers: 1 }, 3), (Size::WIDE, 20));
    cases.push(Case::new(TIME, move |context| time(size, samples, context)));
    cases
}

/// Trains and evaluates an arm, and evaluates it with more and more neurons left out.
fn trained(course: Course, arm: &Arm, seed: u64, context: &Context<'_>) -> Result<Value, Error> {
    let mut value = course.run(arm, seed, context)?;
    let activated = if arm.name == RELU { Activated::ReluSquared } else { Activated::Silu };
    let (corpus, trained) = (corpus(context)?, course.network(arm, seed, context)?);
    let network = |thresholds: Vec<f32>| -> Result<_, Error> {
        let way = FeedForward { activated, thresholds };
        Ok(trained.within(with(&arm.model, corpus.vocab(), way)?))
    };
    let whole = network(Vec::new())?;
    let sizes = corpus.gates(&whole, CALIBRATION, Part::Training)?;
    let left_out = |network: &_| -> Result<f64, Error> {
        let gates = corpus.gates(network, CALIBRATION, Part::Validation)?.concat();
        Ok(gates.iter().filter(|x| **x == 0.0).count() as f64 / gates.len().max(1) as f64)
    };
    value["zero"] = json!(left_out(&whole)?);
    let mut cuts = Vec::new();
    for share in CUTS {
        context.check()?;
        let thresholds: Vec<f32> = sizes.iter().map(|sizes| quantile(sizes, share)).collect();
        let cut = network(thresholds)?;
        let found = course.evaluated(&cut, Quant::None, context)?;
        cuts.push(json!({ "asked": share, "left_out": left_out(&cut)?, "nats": found.nats_per_char }));
    }
    value["cuts"] = json!(cuts);
    Ok(value)
}

fn quantile(sizes: &[f32], share: f64) -> f32 {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable_by(f32::total_cmp);
    sizes.get((sizes.len() as f64 * share) as usize).copied().unwrap_or(f32::INFINITY)
}

/// The size of the network whose products are timed.
#[derive(Clone, Copy)]
struct Size {
    dim: usize,
    ffn: usize,
    layers: usize,
}

impl Size {
    /// 453 MB of weights: more than any cache.
    const WIDE: Self = Self { dim: 1024, ffn: 8192, layers: 4 };
}

/// A layer's matrices. Of the down matrix the columns too, one after the other.
struct Layer {
    qkv: Matrix,
    o: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    columns: Vec<f32>,
}

fn layer(size: Size, random: &mut Random) -> Result<Layer, Error> {
    let Size { dim, ffn, .. } = size;
    let mut matrix = |name: &str, rows: usize, cols: usize| {
        let scale = 1.0 / (cols as f64).sqrt();
        Matrix::of(name, rows, cols, (0..rows * cols).map(|_| (random.normal() * scale) as f32).collect())
    };
    let down = matrix("down", dim, ffn)?;
    let columns = (0..ffn).flat_map(|n| down.values().iter().skip(n).step_by(ffn).copied()).collect();
    Ok(Layer {
        qkv: matrix("qkv", 2 * dim, dim)?,
        o: matrix("o", dim, dim)?,
        gate: matrix("gate", ffn, dim)?,
        up: matrix("up", ffn, dim)?,
        down,
        columns,
    })
}

/// The kernels of both ways.
struct Kernels {
    linear: Linear,
    add: AddScaled,
}

/// All neurons with the engine's products, those whose gate is not above `threshold` set to 0.
fn dense(layer: &Layer, k: &Kernels, x: &[f32], threshold: f32) -> Vec<f32> {
    let (mut gate, up) = (layer.gate.times(&k.linear, x), layer.up.times(&k.linear, x));
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = if *gate > threshold { *gate * *gate * up } else { 0.0 };
    }
    layer.down.times(&k.linear, &gate)
}

/// The same without reading what belongs to the others.
fn skipping(layer: &Layer, k: &Kernels, x: &[f32], threshold: f32) -> Vec<f32> {
    let dim = x.len();
    let gate = layer.gate.times(&k.linear, x);
    let mut y = vec![0.0; dim];
    let rows = layer.up.values().chunks_exact(dim).zip(layer.columns.chunks_exact(dim));
    for (gate, (up, column)) in gate.iter().zip(rows).filter(|(gate, _)| **gate > threshold) {
        k.add.run(&mut y, column, gate * gate * dot(up, x));
    }
    y
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 32];
    for (a, b) in a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum()
}

/// Seconds of one token's products with all matrices of the layers, in turns.
fn time(size: Size, samples: usize, context: &Context<'_>) -> Result<Value, Error> {
    let mut random = Random::new(1, 400);
    let layers = (0..size.layers).map(|_| layer(size, &mut random)).collect::<Result<Vec<_>, _>>()?;
    let cpu = Cpu::detect();
    let kernels = Kernels { linear: Linear::select(Format::F32, &cpu), add: AddScaled::select(&cpu) };
    let x: Vec<f32> = (0..size.dim).map(|_| random.normal() as f32).collect();
    // The gate of the first layer stands for all: the rows are drawn from one distribution.
    let gates: Vec<f32> = layers[0].gate.times(&kernels.linear, &x);
    let threshold = |active: f64| if active < 1.0 { quantile(&gates, 1.0 - active) } else { f32::NEG_INFINITY };
    let rest = |layer: &Layer| {
        black_box((layer.qkv.times(&kernels.linear, &x), layer.o.times(&kernels.linear, &x)));
    };
    let mut found = Vec::new();
    for active in ACTIVE {
        let threshold = threshold(active);
        let (mut far, mut reached, mut all) = (0.0_f64, 0, 0);
        for layer in &layers {
            let (a, b) = (dense(layer, &kernels, &x, threshold), skipping(layer, &kernels, &x, threshold));
            let most = a.iter().fold(1e-9_f32, |most, x| most.max(x.abs()));
            far = a.iter().zip(&b).fold(far, |far, (a, b)| far.max(f64::from((a - b).abs() / most)));
            let gates = layer.gate.times(&kernels.linear, &x);
            reached += gates.iter().filter(|gate| **gate > threshold).count();
            all += gates.len();
        }
        let mut seconds = [Vec::new(), Vec::new()];
        for sample in 0..=samples {
            context.check()?;
            for (way, seconds) in [dense, skipping].into_iter().zip(&mut seconds) {
                let began = Instant::now();
                for layer in &layers {
                    rest(layer);
                    black_box(way(layer, &kernels, &x, threshold));
                }
                // The first round warms up.
                if sample > 0 {
                    seconds.push(began.elapsed().as_secs_f64());
                }
            }
        }
        let [dense, skipping] = seconds;
        found.push(json!({
            "active": reached as f64 / all as f64, "far": far, "dense": dense, "skipping": skipping,
        }));
    }
    let weights = size.layers * (3 * size.dim * size.dim + 3 * size.dim * size.ffn);
    Ok(json!({ "dim": size.dim, "ffn": size.ffn, "layers": size.layers, "weights": weights, "shares": found }))
}

/// What the trained networks say.
pub(super) struct Findings {
    pub(super) tables: Vec<Table>,
    pub(super) because: String,
    pub(super) note: String,
    /// The largest share that ReLU² can leave out and be at most the margin worse than the whole SwiGLU network.
    pub(super) share: f64,
    /// The speed of a token's products at a tenth of the neurons.
    pub(super) speed: f64,
}

fn cut_column(results: &Results, arm: &str, n: u64, at: usize) -> Result<Vec<f64>, Error> {
    column(results, arm, n, &format!("/cuts/{at}/nats"))
}

pub(super) fn judge(results: &Results) -> Result<Findings, Error> {
    let scale = results.header.scale;
    let n = seeds(scale);
    let mut networks = Table::new(
        format!(
            "Networks trained for it, means over {n} seeds, {} characters of the validation split:",
            results.number(&seed_case(DENSE, 0), "/chars")?
        ),
        &["feed-forward part", "parameters", "rate", "gates at 0", "nats"],
    );
    for arm in arms(scale) {
        let zero = mean(&column(results, arm.name, n, "/zero")?);
        networks.row([
            arm.name.to_owned(),
            digits(results.number(&seed_case(arm.name, 0), "/parameters")?),
            digits(results.number(&rates_case(arm.name), "/best")?),
            zero.map_or_else(|| "-".to_owned(), percent),
            format!("{:.4}", mean(&column(results, arm.name, n, "/nats")?).unwrap_or(f64::NAN)),
        ]);
    }
    let all = compare(results, &[[RELU, DENSE]], |name| column(results, name, n, "/nats"), MARGIN)?;
    let (cuts, share) = cuts(results, n)?;
    let (time, speed) = time_table(results)?;
    let told = all.first().map_or_else(String::new, Comparison::told);
    let relu = if share > 0.0 {
        format!("can leave out {} of the neurons and be at most {MARGIN} nats worse than whole SwiGLU", percent(share))
    } else {
        format!("over {n} seeds is not shown to be at most {MARGIN} nats worse than whole SwiGLU")
    };
    let (whole, cut) = (column(results, RELU, n, "/nats")?, cut_column(results, RELU, n, 0)?);
    let cost = mean(&cut.iter().zip(&whole).map(|(a, b)| a - b).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    let because = format!(
        "Trained with ReLU² a network is {told} from SwiGLU as a whole. With {} of its neurons left out it is {cost:+.4} nats \
         from itself, and {relu}. Products that read a tenth of the neurons are {} times as fast.",
        percent(CUTS[0]),
        digits(speed),
    );
    let note = format!(
        "The products that are timed are those of layers whose weights are random, with the shares of active neurons that the table says, in F32 on one thread: all but attention itself, norms and \
         the output matrix. The gate matrix is read whole, so {} of the layers' bytes are read whatever is left out. The engine has no ReLU² in its decoder and no product that skips \
         columns; what is timed are rows and columns of plain arrays and the engine's `AddScaled`. Learned phases and their controls were to be trained, too; for want of machine time these arms were left \
         out before any result was seen. The rates that were tried are {}.",
        percent(11.0 / 27.0),
        RATES.map(digits).join(", "),
    );
    Ok(Findings { tables: vec![networks, comparisons_table(&all, MARGIN), cuts, time], because, note, share, speed })
}

/// The table of cuts after training, and the largest share at which ReLU² is not worse than whole SwiGLU by the margin.
fn cuts(results: &Results, n: u64) -> Result<(Table, f64), Error> {
    let mut table = Table::new(
        format!(
            "Neurons whose gate is below a threshold left out after training, paired by seed; p of \"at most {MARGIN} nats worse\":"
        ),
        &["feed-forward part", "left out", "nats", "more than itself", "p", "more than whole SwiGLU", "p"],
    );
    let whole = column(results, DENSE, n, "/nats")?;
    let mut best = 0.0_f64;
    for arm in [DENSE, RELU] {
        let itself = column(results, arm, n, "/nats")?;
        // In a fixed order, so that no test after one that fails counts.
        let mut holds = true;
        for at in 0..CUTS.len() {
            let nats = cut_column(results, arm, n, at)?;
            let left_out = mean(&column(results, arm, n, &format!("/cuts/{at}/left_out"))?).unwrap_or(f64::NAN);
            let against = |base: &[f64]| {
                let d: Vec<f64> = nats.iter().zip(base).map(|(a, b)| a - b).collect();
                (mean(&d).unwrap_or(f64::NAN), not_worse(&d))
            };
            let ((of_itself, p_itself), (of_whole, p_whole)) = (against(&itself), against(&whole));
            holds = holds && p_whole < 0.05;
            if arm == RELU && holds {
                best = best.max(left_out);
            }
            table.row([
                arm.to_owned(),
                percent(left_out),
                format!("{:.4}", mean(&nats).unwrap_or(f64::NAN)),
                format!("{of_itself:+.4}"),
                digits(p_itself),
                format!("{of_whole:+.4}"),
                digits(p_whole),
            ]);
        }
    }
    Ok((table, best))
}

/// The one-sided probability of a mean as low where the truth is the margin.
fn not_worse(differences: &[f64]) -> f64 {
    let shifted: Vec<f64> = differences.iter().map(|d| d - MARGIN).collect();
    let Some(test) = rin_bench::stats::student::paired(&shifted) else { return 1.0 };
    if test.mean < 0.0 { test.p / 2.0 } else { 1.0 - test.p / 2.0 }
}

fn time_table(results: &Results) -> Result<(Table, f64), Error> {
    let of = |what: &str| results.number(TIME, &format!("/{what}"));
    let mut table = Table::new(
        format!(
            "A token's products with {} layers of width {} and {} neurons, F32, one thread:",
            of("layers")?,
            of("dim")?,
            of("ffn")?
        ),
        &["neurons that count", "dense, ms", "skipping, ms", "times as fast", "95 % interval", "largest difference"],
    );
    let mut speed = f64::NAN;
    for at in 0..ACTIVE.len() {
        let times = |what: &str| results.numbers(TIME, &format!("/shares/{at}/{what}"));
        let (dense, skipping) = (times("dense")?, times("skipping")?);
        let ratios: Vec<f64> = dense.iter().zip(&skipping).map(|(a, b)| a / b).collect();
        let times_as_fast = median(&ratios).unwrap_or(f64::NAN);
        if at == VERDICT_ACTIVE {
            speed = times_as_fast;
        }
        table.row([
            percent(of(&format!("shares/{at}/active"))?),
            digits(1e3 * median(&dense).unwrap_or(f64::NAN)),
            digits(1e3 * median(&skipping).unwrap_or(f64::NAN)),
            digits(times_as_fast),
            bootstrap::median_interval(&ratios).map_or_else(|| "-".to_owned(), interval),
            digits(of(&format!("shares/{at}/far"))?),
        ]);
    }
    Ok((table, speed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipping_gives_what_the_masked_product_gives() {
        let found = time(
            Size { dim: 64, ffn: 256, layers: 2 },
            1,
            &Context {
                data: std::path::Path::new(""),
                python: None,
                cancel: &std::sync::atomic::AtomicBool::new(false),
            },
        )
        .unwrap();
        for (at, active) in ACTIVE.iter().enumerate() {
            let of = |what: &str| found["shares"][at][what].as_f64().unwrap();
            assert!(of("far") < 1e-5, "{active}: {}", of("far"));
            assert!((of("active") - active).abs() < 0.06, "{active}: {}", of("active"));
        }
        assert!(not_worse(&[0.001, -0.001, 0.002]) < 0.01 && not_worse(&[0.02, 0.021, 0.019]) > 0.4);
    }
}
