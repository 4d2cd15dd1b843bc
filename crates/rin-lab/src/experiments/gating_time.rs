//! The time of products that leave most neurons of a token out.

use std::hint::black_box;
use std::time::Instant;

use rin_bench::stats::{bootstrap, median};
use rin_kernels::ops::linear::Linear;
use rin_kernels::ops::memory::AddScaled;
use rin_kernels::{Cpu, Format};
use serde_json::{Value, json};

use crate::decoder::{Matrix, cut_off};
use crate::random::Random;
use crate::report::{Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Scale};

/// The case of the time.
const TIME: &str = "time";
/// Shares of neurons that count.
const ACTIVE: [f64; 5] = [1.0, 0.5, 0.2, 0.1, 0.05];
/// Which of them the verdict is about: what the cut that it is about leaves.
const VERDICT_ACTIVE: usize = 3;

pub(super) fn case(scale: Scale) -> Case {
    let (size, samples) = scale.pick((Size { dim: 128, ffn: 1024, layers: 1 }, 3), (Size::WIDE, 20));
    Case::new(TIME, move |context| time(size, samples, context))
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
    let mut gates: Vec<f32> = layers[0].gate.times(&kernels.linear, &x);
    gates.sort_unstable_by(f32::total_cmp);
    let threshold = |active: f64| if active < 1.0 { cut_off(&gates, 1.0 - active) } else { f32::NEG_INFINITY };
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

/// The table, and how many times as fast a token's products are at a tenth of the neurons.
pub(super) fn table(results: &Results) -> Result<(Table, f64), Error> {
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
    }
}
