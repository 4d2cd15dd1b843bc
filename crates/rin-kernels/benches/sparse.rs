//! Sparse products on one core against the dense 8-bit product of the same shape: from which density on each form loses.
//!
//! ```text
//! cargo bench -p rin-kernels --bench sparse -- [TIER …]
//! ```
//!
//! One line of JSON for each tier, shape and form: microseconds of a matrix–vector product, the median of samples with
//! the interval of a bootstrap over them. The forms take turns sample by sample. The dense product has its scale and
//! rounding with it, which are counted.
#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may end")]

use std::time::Instant;

use rin_kernels::ops::integer::{DenseWide, IntegerLayer, integer_bytes, pack_integer};
use rin_kernels::ops::sparse::{
    Blocks1x16, Blocks1x16Product, Blocks4x4, Blocks4x4Product, TwoOfFour, TwoOfFourProduct,
};
use rin_kernels::{Cpu, MatMut, Tier};

const SAMPLES: usize = 30;
/// Weights, zeros counted, that a sample goes through.
const SAMPLE: usize = 32 << 20;
/// Outputs, inputs, and how many matrices take turns: within L1 (48 KiB), L2 (2 MiB), the last cache, and from memory: all
/// forms together go through 700 MiB before a matrix comes again.
const SHAPES: [(usize, usize, usize); 4] = [(128, 256, 1), (1024, 1024, 1), (2048, 4096, 1), (4096, 4096, 5)];
/// Kept blocks of a hundred.
const DENSITIES: [u32; 7] = [5, 10, 20, 30, 50, 70, 100];

struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    fn byte(&mut self) -> i8 {
        i8::try_from(self.next() % 127).unwrap() + 1
    }
}

/// A product of the matrix with this number.
type Run = Box<dyn Fn(usize, &mut [i32], &[i8])>;

/// A product, and what is measured of it.
struct Contender {
    name: String,
    bytes: usize,
    run: Run,
    times: Vec<f64>,
}

/// Weights in blocks of `rows × cols`, of which `percent` are kept.
fn in_blocks(shape: (usize, usize), (rows, cols): (usize, usize), percent: u32, random: &mut Random) -> Vec<i8> {
    let across = shape.1 / cols;
    let kept: Vec<bool> = (0..shape.0 / rows * across).map(|_| random.next() % 100 < percent).collect();
    (0..shape.0 * shape.1)
        .map(|i| if kept[i / shape.1 / rows * across + i % shape.1 / cols] { random.byte() } else { 0 })
        .collect()
}

fn contenders(cpu: Cpu, shape: (usize, usize), copies: usize, random: &mut Random) -> Vec<Contender> {
    let mut all = Vec::new();
    let (outputs, inputs) = shape;
    let mut panels = vec![0; integer_bytes(outputs, inputs).unwrap()];
    pack_integer(&in_blocks(shape, (1, 1), 100, random), inputs, &mut panels);
    let bytes = panels.len();
    let panels: Vec<Vec<u8>> = (0..copies).map(|_| panels.clone()).collect();
    let (bias, multiplier, shift) = (vec![0; outputs], vec![1 << 30; outputs], vec![31; outputs]);
    let dense = DenseWide::select(&cpu);
    all.push(Contender {
        name: "dense".to_owned(),
        bytes,
        run: Box::new(move |copy, y, x| {
            let (w, bias, multiplier, shift) = (&panels[copy], &bias, &multiplier, &shift);
            let layer = IntegerLayer { w, bias, multiplier, shift, low: -(1 << 24), high: 1 << 24 };
            dense.run(&mut MatMut::new(y, 1, outputs), x, layer);
        }),
        times: Vec::new(),
    });
    let weights: Vec<i8> =
        (0..outputs * inputs).map(|i| if (i + i / 4 * 3) % 4 % 3 == 0 { random.byte() } else { 0 }).collect();
    let matrix = TwoOfFour::pack(&weights, inputs).unwrap();
    let bytes = matrix.bytes();
    let matrices = vec![matrix; copies];
    let product = TwoOfFourProduct::select(&cpu);
    all.push(Contender {
        name: "2:4".to_owned(),
        bytes,
        run: Box::new(move |copy, y, x| product.run(y, &matrices[copy], x)),
        times: Vec::new(),
    });
    for percent in DENSITIES {
        let matrix = Blocks4x4::pack(&in_blocks(shape, (4, 4), percent, random), inputs).unwrap();
        let bytes = matrix.bytes();
        let matrices = vec![matrix; copies];
        let product = Blocks4x4Product::select(&cpu);
        all.push(Contender {
            name: format!("4x4 {percent} %"),
            bytes,
            run: Box::new(move |copy, y, x| product.run(y, &matrices[copy], x)),
            times: Vec::new(),
        });
        let matrix = Blocks1x16::pack(&in_blocks(shape, (1, 16), percent, random), inputs).unwrap();
        let bytes = matrix.bytes();
        let matrices = vec![matrix; copies];
        let product = Blocks1x16Product::select(&cpu);
        all.push(Contender {
            name: format!("1x16 {percent} %"),
            bytes,
            run: Box::new(move |copy, y, x| product.run(y, &matrices[copy], x)),
            times: Vec::new(),
        });
    }
    all
}

fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// The median of samples, and the middle 95 % of medians of a thousand drawings from them.
fn interval(times: &[f64], random: &mut Random) -> [f64; 3] {
    let mut medians: Vec<f64> = (0..1000)
        .map(|_| median(&mut (0..times.len()).map(|_| times[random.next() as usize % times.len()]).collect::<Vec<_>>()))
        .collect();
    medians.sort_by(f64::total_cmp);
    [median(&mut times.to_vec()), medians[25], medians[974]]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let cpu = Cpu::detect();
    let chosen = |tier: &Tier| match words.len() {
        0 => !matches!(tier, Tier::Scalar | Tier::AmxInt8),
        _ => words.iter().any(|word| word == tier.name()),
    };
    let mut random = Random(1);
    for tier in cpu.tiers().filter(chosen) {
        for (outputs, inputs, copies) in SHAPES {
            let shape = (outputs, inputs);
            let x: Vec<i8> = (0..inputs).map(|_| random.byte() - 64).collect();
            let mut y = vec![0; outputs];
            let mut all = contenders(cpu.up_to(tier), shape, copies, &mut random);
            let repeats = (SAMPLE / (outputs * inputs)).max(1);
            let mut turn = 0;
            for sample in 0..=SAMPLES {
                for contender in &mut all {
                    let start = Instant::now();
                    for _ in 0..repeats {
                        turn = (turn + 1) % copies;
                        (contender.run)(turn, &mut y, &x);
                        std::hint::black_box(&y);
                    }
                    // The first one warms up.
                    if sample > 0 {
                        contender.times.push(start.elapsed().as_secs_f64() * 1e6 / repeats as f64);
                    }
                }
            }
            for contender in &all {
                let [middle, low, high] = interval(&contender.times, &mut random);
                println!(
                    r#"{{"tier":"{tier}","outputs":{outputs},"inputs":{inputs},"copies":{copies},"form":"{}","bytes":{},"us":{middle:.3},"ci95":[{low:.3},{high:.3}]}}"#,
                    contender.name, contender.bytes
                );
            }
        }
    }
}
