//! Memories of a fixed size on one core: a prompt in one piece against its tokens one by one, and against the products of
//! the chunked form.
//!
//! ```text
//! cargo bench -p rin-kernels --bench memory -- [TIER …]
//! ```
//!
//! For each tier, kind and size of a head: nanoseconds per token and head of the recurrence over 512 tokens in one call
//! and in 512 calls (the same bits), and billions of multiply-adds per second. The chunked form is not run: beside it
//! stands how many multiply-adds it would need in chunks of 64, against those of the recurrence. Each time is the best of
//! several samples.
#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may end")]

use std::time::{Duration, Instant};

use rin_kernels::ops::memory::{Correction, Decay, Read, Recur, Rows, Tokens};
use rin_kernels::{Cpu, MatMut, Tier};

const TOKENS: usize = 512;
const CHUNK: usize = 64;
const SAMPLES: usize = 15;
const SAMPLE: Duration = Duration::from_millis(20);
const SIZES: [(usize, usize); 3] = [(32, 32), (64, 64), (128, 128)];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    Gla,
    GatedDelta,
    Rwkv7,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Linear, Self::Gla, Self::GatedDelta, Self::Rwkv7];

    const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Gla => "gla",
            Self::GatedDelta => "gated-delta",
            Self::Rwkv7 => "rwkv7",
        }
    }

    /// Multiply-adds per number of the memory and token.
    const fn per_number(self) -> usize {
        match self {
            Self::Linear => 2,
            Self::Gla => 3,
            Self::GatedDelta | Self::Rwkv7 => 5,
        }
    }
}

struct Head {
    rows: usize,
    cols: usize,
    x: Vec<f32>,
}

impl Head {
    fn tokens(&self, kind: Kind, first: usize) -> Tokens<'_> {
        let stride = self.rows.max(self.cols);
        let part = |i: usize| Rows { data: &self.x[(i * TOKENS + first) * stride..(i + 1) * TOKENS * stride], stride };
        let (decay, correction) = match kind {
            Kind::Linear => (Decay::None, Correction::None),
            Kind::Gla => (Decay::ByRow(part(3)), Correction::None),
            Kind::GatedDelta => (Decay::Token(part(3)), Correction::Delta { beta: part(4) }),
            Kind::Rwkv7 => (Decay::ByRow(part(3)), Correction::RankOne { a: part(4), b: part(5) }),
        };
        Tokens { q: part(0), k: part(1), v: part(2), decay, correction, read: Read::After }
    }
}

/// Seconds of one call of `f`, the best of several samples.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    f();
    let once = start.elapsed().max(Duration::from_nanos(100));
    let times = (SAMPLE.as_nanos() / once.as_nanos()).max(1);
    let sample = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..times).for_each(|_| f());
        start.elapsed().as_secs_f64() / f64::from(u32::try_from(times).unwrap())
    };
    (0..SAMPLES).map(|_| sample(&mut f)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let wanted: Vec<Tier> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    let cpu = Cpu::detect();
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x3f80_0000 | state >> 9) - 1.5
    };
    println!("tier | kind | head | one call, ns | call per token, ns | G multiply-adds/s | chunked form needs");
    for tier in cpu.tiers().filter(|tier| wanted.is_empty() || wanted.contains(tier)) {
        let op = Recur::select(&Cpu::detect().up_to(tier));
        if op.tier() != tier {
            continue;
        }
        for kind in Kind::ALL {
            for (rows, cols) in SIZES {
                let x = (0..6 * TOKENS * rows.max(cols)).map(|_| 0.2 * next() + 0.1).collect();
                let head = Head { rows, cols, x };
                let (mut memory, mut out) = (vec![0.0; rows * cols], vec![0.0; TOKENS * cols]);
                let whole = best(|| {
                    memory.fill(0.0);
                    op.run(&mut memory, &mut MatMut::new(&mut out, TOKENS, cols), head.tokens(kind, 0));
                });
                let each = best(|| {
                    memory.fill(0.0);
                    for (t, out) in out.chunks_exact_mut(cols).enumerate() {
                        op.run(&mut memory, &mut MatMut::new(out, 1, cols), head.tokens(kind, t));
                    }
                });
                let recurrence = kind.per_number() * rows * cols;
                // What a chunk reads of the memory and writes to it, and its tokens with each other: scores and values, and
                // for delta rules the triangular inverse applied to keys and values.
                let within = if matches!(kind, Kind::Linear | Kind::Gla) { 1 } else { 2 };
                let chunked = 2 * rows * cols + within * CHUNK * (rows + cols);
                let tokens = f64::from(u32::try_from(TOKENS).unwrap());
                let per_second = tokens * f64::from(u32::try_from(recurrence).unwrap()) / whole / 1e9;
                let ratio = f64::from(u32::try_from(chunked).unwrap()) / f64::from(u32::try_from(recurrence).unwrap());
                println!(
                    "{tier} | {} | {rows} x {cols} | {:.0} | {:.0} | {per_second:.1} | {ratio:.2} x as many",
                    kind.name(),
                    whole / tokens * 1e9,
                    each / tokens * 1e9,
                );
            }
        }
    }
}
