//! Ternary weights: sums that are looked up against bytes that are multiplied.

use std::hint::black_box;
use std::time::Instant;

use rin_bench::stats::{bootstrap, median};
use rin_kernels::ops::linear::{Epilogue, Input, Linear, QuantRows};
use rin_kernels::ops::quantize::QuantizeRow;
use rin_kernels::ops::ternary::{self, TernaryLookup};
use rin_kernels::pack::{LANES, pack_panel};
use rin_kernels::{Cpu, Format, MatMut, Tier};
use serde_json::{Value, json};

use super::ternary_quality;
use crate::random::Random;
use crate::report::{Table, digits, interval};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

const COLS: usize = 4096;
/// What looking up may take longer than multiplying.
const MARGIN: f64 = 1.1;
const PRODUCT: &str = "TQ2_0 multiplied";
const LOOKUP: &str = "TQ2_0 looked up";
const READ: &str = "read alone";
const PEER: &str = "llama.cpp";
const SIZES: [(&str, usize); 2] = [("from memory", 65_536), ("from the caches", 1024)];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "ternary",
    title: "Ternary weights (1.58 bits)",
    claim: "Inference without multiplications. The seed says so of its spiking neurons and has no ternary weights, which are the way that is known \
            to work (BitNet b1.58).",
    definition: "Weights of −1, 0 and 1 with a 16-bit scale per 256, activations of 8 bits with a scale per 256. TQ1_0 and TQ2_0 files run in the engine \
                 from panels of two-bit codes (2.06 bits a weight), multiplied as bytes (`rin_kernels::ops::linear`; VNNI or `vpmaddubsw`). Beside \
                 them sums of two activations that are looked up by four bits (`rin_kernels::ops::ternary`; `vpermw` or `vpshufb`): no weight \
                 is multiplied with an activation, and the sums are exact. Networks are trained with such weights from the first step (`quant = \"tq2_0\"`: \
                 clip(round(W / mean |W|)), the mean over 256, gradients straight through, activations of 8 bits), the embedding with 8 bits; the file that is \
                 exported has the training's logits to the bit.",
    reference: "The gguf package 0.19.0 for the formats, bit for bit (`crates/rin-kernels/tests/quant_vectors.rs`); the scalar definition for both \
                kernels, bit for bit; llama.cpp (ggml of llama-cpp-python 0.3.36, built on this machine) for the speed. \
                For the training: BitNet b1.58 (Ma et al. 2024), which takes one mean for a matrix, norms before each product and a rate in two stages; \
                none of these here.",
    method: "Random matrices: the bits of both kernels on every tier. One row of activations, one thread, 4,096 columns: a matrix of 65,536 rows, \
             which is larger than the last cache in every format (69 MB and more), and one of 1,024. All arms in turn, 30 rounds; medians, and bootstrap \
             intervals of the ratio to the multiplied TQ2_0 of the same round. llama.cpp right after, by itself. Looking up is as good where it takes \
             at most 1.1 times as long. Prediction: language models of characters on tiny Shakespeare, the same steps, windows and seeds for all arms, F32, Q8_0, Q4_0 and ternary of \
             the same parameters, and ternary with four times the weights, which have the bytes of the smaller network's Q8_0 within 2 %; three seeds, the rate of each arm the best of three \
             in trainings of a quarter of the steps with another seed (0.5, 1 and 2e-3; 2, 4 and 8e-3 were tried first, left F32 and Q8_0 at their lower end before any ternary network was seen, and all were trained anew); \
             loss on the whole validation split, paired t tests over seeds with Holm's adjustment, two one-sided t tests within 0.02 \
             nats. Ternary weights are validated where they predict better than Q8_0 at equal bytes and looking up is as good as multiplying; with limits, where one of the two holds. \
             The kernels and formats are judged by themselves, in the same sentence.",
    expected: "Looking up and multiplying are equally fast with VNNI, within 10 % of the speed of memory; looking up is faster without VNNI; both at least \
               as fast as llama.cpp. At equal parameters ternary costs 0.03 to 0.08 nats; at equal bytes it is the better one.",
    reopens: "The whole decoder against llama.cpp's at TQ2_0, norms before each product and one median scale for a matrix, as small BitNets have them, I2_S files, products on AMX: none was run. Trainings to the end: networks of this size are still learning when these end, and four times the parameters learn faster by the step. Six seeds, equal bytes against F16 and \
              Q4_0, networks of millions of parameters. Two threads, other processors, and joules.",
    revision: 1,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let samples = scale.pick(5, 30);
    let mut cases = vec![Case::new("exact", |_| exact())];
    for (name, rows) in SIZES {
        cases.push(Case::new(name, move |context| time(rows, samples, context)));
        cases.push(Case::new(format!("{PEER}, {name}"), move |context| peer(rows, samples, context)));
    }
    cases.extend(ternary_quality::cases(scale));
    cases
}

fn misfit(rows: usize) -> impl Fn() -> Error {
    move || Error::input("matrix", format!("{rows} x {COLS}"))
}

/// Rows of random blocks as a file has them, with scales of one size.
fn file_rows(format: Format, rows: usize, random: &mut Random) -> Result<Vec<Vec<u8>>, Error> {
    let bytes = format.row_bytes(COLS).ok_or_else(misfit(rows))?;
    let scale_at = if format == Format::TQ2_0 { 64 } else { 0 };
    let row = |random: &mut Random| {
        let mut row: Vec<u8> = (0..bytes).map(|_| (random.word() >> 24) as u8).collect();
        for block in row.chunks_exact_mut(format.block_bytes()) {
            block[scale_at..scale_at + 2].copy_from_slice(&0x2000_u16.to_le_bytes());
        }
        row
    };
    Ok((0..rows).map(|_| row(random)).collect())
}

/// A row of activations.
struct Activations {
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
    block: usize,
}

impl Activations {
    fn new(block: usize, random: &mut Random) -> Self {
        let x: Vec<f32> = (0..COLS).map(|_| random.normal() as f32).collect();
        let (mut q, mut d, mut sums) = (vec![0; COLS], vec![0.0; COLS / block], vec![0; COLS / 16]);
        QuantizeRow::select(&Cpu::detect()).run(&mut q, &mut d, &mut sums, &x, block);
        Self { q, d, sums, block }
    }

    fn rows(&self) -> QuantRows<'_> {
        QuantRows { q: &self.q, d: &self.d, sums: &self.sums, cols: COLS, block: self.block }
    }
}

/// Panels of a matrix that repeats its first 64 rows.
fn panels(format: Format, rows: usize, file: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let panel_bytes = format.panel_bytes(COLS).ok_or_else(misfit(rows))?;
    let mut packed = vec![0; rows / LANES * panel_bytes];
    let (first, rest) = packed.split_at_mut(ternary::ROWS / LANES * panel_bytes);
    for (p, panel) in first.chunks_exact_mut(panel_bytes).enumerate() {
        let row = |lane: usize| file.get(p * LANES + lane).map(Vec::as_slice);
        pack_panel(format, COLS, row, panel).map_err(|_| misfit(rows)())?;
    }
    rest.chunks_exact_mut(first.len()).for_each(|panels| panels.copy_from_slice(first));
    Ok(packed)
}

/// The same for sums that are looked up.
fn lookup_panels(rows: usize, file: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut packed = vec![0; ternary::packed_bytes(rows, COLS).ok_or_else(misfit(rows))?];
    let bytes = ternary::packed_bytes(ternary::ROWS, COLS).ok_or_else(misfit(rows))?;
    let (first, rest) = packed.split_at_mut(bytes);
    ternary::pack(Format::TQ2_0, ternary::ROWS, COLS, |r| file[r].as_slice(), first);
    rest.chunks_exact_mut(bytes).for_each(|panel| panel.copy_from_slice(first));
    Ok(packed)
}

/// Bits of both kernels on every tier against those of the scalar product.
fn exact() -> Result<Value, Error> {
    const MATRICES: usize = 16;
    let cpu = Cpu::detect();
    let mut random = Random::new(1, 1400);
    let (mut outputs, mut differ, mut tiers) = (0, 0, Vec::new());
    for _ in 0..MATRICES {
        let file = file_rows(Format::TQ2_0, ternary::ROWS, &mut random)?;
        let (multiplied, looked_up) =
            (panels(Format::TQ2_0, ternary::ROWS, &file)?, lookup_panels(ternary::ROWS, &file)?);
        let x = Activations::new(ternary::BLOCK, &mut random);
        let mut want = Vec::new();
        tiers.clear();
        for tier in cpu.tiers() {
            tiers.push(tier.name());
            let cpu = cpu.up_to(tier);
            let (mut y, mut z) = (vec![0.0; ternary::ROWS], vec![0.0; ternary::ROWS]);
            let mut out = MatMut::new(&mut y, 1, ternary::ROWS);
            Linear::select(Format::TQ2_0, &cpu).run(&mut out, &multiplied, Input::Quant(x.rows()), Epilogue::default());
            let mut tables = vec![0; ternary::table_bytes(COLS)];
            TernaryLookup::select(&cpu).run(&mut z, &looked_up, &x.q, &x.d, &mut tables);
            if tier == Tier::Scalar {
                want.clone_from(&y);
            }
            for found in [&y, &z] {
                outputs += found.len();
                differ += found.iter().zip(&want).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            }
        }
    }
    Ok(json!({ "tiers": tiers, "outputs": outputs, "differ": differ }))
}

/// A way to a product, or what it is held against.
struct Arm {
    name: String,
    bytes: usize,
    run: Box<dyn FnMut()>,
}

fn product(format: Format, tier: Tier, rows: usize, random: &mut Random) -> Result<Arm, Error> {
    let packed = panels(format, rows, &file_rows(format, ternary::ROWS, random)?)?;
    let x = Activations::new(format.activation().block_len(), random);
    let (op, mut y) = (Linear::select(format, &Cpu::detect().up_to(tier)), vec![0.0; rows]);
    let name = if format == Format::TQ2_0 { PRODUCT } else { format.name() };
    Ok(Arm {
        name: format!("{name}, {}", op.tier().name()),
        bytes: packed.len(),
        run: Box::new(move || {
            op.run(&mut MatMut::new(&mut y, 1, rows), &packed, Input::Quant(x.rows()), Epilogue::default());
            black_box(&y);
        }),
    })
}

fn lookup(tier: Tier, rows: usize, random: &mut Random) -> Result<Arm, Error> {
    let packed = lookup_panels(rows, &file_rows(Format::TQ2_0, ternary::ROWS, random)?)?;
    let x = Activations::new(ternary::BLOCK, random);
    let (mut y, mut tables) = (vec![0.0; rows], vec![0; ternary::table_bytes(COLS)]);
    let op = TernaryLookup::select(&Cpu::detect().up_to(tier));
    Ok(Arm {
        name: format!("{LOOKUP}, {}", op.tier().name()),
        bytes: packed.len(),
        run: Box::new(move || {
            op.run(&mut y, &packed, &x.q, &x.d, &mut tables);
            black_box(&y);
        }),
    })
}

/// All bytes of a matrix of TQ2_0 read and added up, as fast as plain code does it.
fn read(rows: usize) -> Result<Arm, Error> {
    let bytes = ternary::packed_bytes(rows, COLS).ok_or_else(misfit(rows))?;
    let words: Vec<u64> = (0..bytes as u64 / 8).collect();
    Ok(Arm {
        name: READ.to_owned(),
        bytes,
        run: Box::new(move || {
            let mut sums = [0_u64; 32];
            for words in words.as_chunks::<32>().0 {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
            }
            black_box(sums);
        }),
    })
}

/// Seconds of all arms, which take turns.
fn time(rows: usize, samples: usize, context: &Context<'_>) -> Result<Value, Error> {
    let mut random = Random::new(rows as u32, 1401);
    let best = Cpu::detect().up_to(Tier::Avx512Vnni).tiers().last().unwrap_or(Tier::Scalar);
    let mut arms = vec![read(rows)?];
    for format in [Format::Q8_0, Format::Q4_0, Format::TQ2_0] {
        arms.push(product(format, best, rows, &mut random)?);
    }
    arms.push(lookup(best, rows, &mut random)?);
    if best > Tier::Avx2 && Cpu::detect().has(Tier::Avx2) {
        arms.push(product(Format::TQ2_0, Tier::Avx2, rows, &mut random)?);
        arms.push(lookup(Tier::Avx2, rows, &mut random)?);
    }
    // Long enough for the clock.
    let repeats = (1 << 26) / (rows * COLS) + 1;
    let mut seconds = vec![Vec::new(); arms.len()];
    for sample in 0..=samples {
        context.check()?;
        for (arm, seconds) in arms.iter_mut().zip(&mut seconds) {
            let began = Instant::now();
            for _ in 0..repeats {
                (arm.run)();
            }
            // The first round warms up.
            if sample > 0 {
                seconds.push(began.elapsed().as_secs_f64() / repeats as f64);
            }
        }
    }
    let found = arms.iter().zip(&seconds).map(|(arm, s)| json!({ "arm": arm.name, "bytes": arm.bytes, "seconds": s }));
    Ok(json!({ "arms": found.collect::<Vec<_>>() }))
}

/// Seconds of llama.cpp's products; an empty object where it is not there.
fn peer(rows: usize, samples: usize, context: &Context<'_>) -> Result<Value, Error> {
    let question =
        json!({ "rows": rows, "cols": COLS, "samples": samples, "types": ["Q8_0", "Q4_0", "TQ1_0", "TQ2_0"] });
    Ok(context.ask_python(include_str!("ternary_peer.py"), &question)?.unwrap_or_else(|| json!({})))
}

/// What a size found: the table, how much longer looking up takes than multiplying, with the best tier and with AVX2, and
/// llama.cpp's TQ2_0 than RIN's.
struct Sized {
    table: Table,
    lookup: f64,
    on_avx2: Option<f64>,
    peer: Option<f64>,
    share_of_read: f64,
}

fn sized(results: &Results, name: &str, rows: usize) -> Result<Sized, Error> {
    let mut table = Table::new(
        format!("One row of activations, {rows} × {COLS} weights {name}, one thread:"),
        &["weights", "MB", "ms", "GB/s", "10⁹ weights/s", "time over TQ2_0 multiplied", "95 % interval"],
    );
    let arms = results.at(name, "/arms")?.as_array().cloned().unwrap_or_default();
    let seconds =
        |arm: &Value| arm["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
    let named = |start: &str| arms.iter().find(|arm| arm["arm"].as_str().is_some_and(|name| name.starts_with(start)));
    let base = named(PRODUCT).map(seconds).unwrap_or_default();
    let base_median = median(&base).unwrap_or(f64::NAN);
    let weights = (rows * COLS) as f64;
    let mut row = |arm: &str, bytes: f64, times: &[f64], paired: bool| {
        let time = median(times).unwrap_or(f64::NAN);
        let ratios: Vec<f64> = times.iter().zip(&base).map(|(a, b)| a / b).collect();
        let ratio = if paired { median(&ratios).unwrap_or(f64::NAN) } else { time / base_median };
        let ci = bootstrap::median_interval(&ratios).filter(|_| paired).map_or_else(|| "-".to_owned(), interval);
        let per_second = if arm == READ { "-".to_owned() } else { digits(weights / time / 1e9) };
        table.row([
            arm.to_owned(),
            digits(bytes / 1e6),
            digits(1e3 * time),
            digits(bytes / time / 1e9),
            per_second,
            digits(ratio),
            ci,
        ]);
        ratio
    };
    let (mut lookup, mut read) = (f64::NAN, f64::NAN);
    let avx2 =
        |start: &str| Some(median(&seconds(named(&format!("{start}, {}", Tier::Avx2.name()))?)).unwrap_or(f64::NAN));
    let on_avx2 = avx2(LOOKUP).zip(avx2(PRODUCT)).map(|(lookup, product)| lookup / product);
    for arm in &arms {
        let arm_name = arm["arm"].as_str().unwrap_or_default();
        let ratio = row(arm_name, arm["bytes"].as_f64().unwrap_or(f64::NAN), &seconds(arm), true);
        if arm_name.starts_with(LOOKUP) && lookup.is_nan() {
            lookup = ratio;
        }
        if arm_name == READ {
            read = ratio;
        }
    }
    let mut peer = None;
    if let Some(found) = results.case(&format!("{PEER}, {name}")).and_then(|value| value["seconds"].as_object()) {
        for format in [Format::Q8_0, Format::Q4_0, Format::TQ1_0, Format::TQ2_0] {
            let Some(times) = found.get(format.name()) else { continue };
            let times: Vec<f64> = times.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            let bytes = format.row_bytes(COLS).unwrap_or(0) * rows;
            let ratio = row(&format!("{PEER}, {}", format.name()), bytes as f64, &times, false);
            if format == Format::TQ2_0 {
                peer = Some(ratio);
            }
        }
    }
    Ok(Sized { table, lookup, on_avx2, peer, share_of_read: read })
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let (outputs, differ) = (results.number("exact", "/outputs")?, results.number("exact", "/differ")?);
    let [memory, caches] = SIZES.map(|(name, rows)| sized(results, name, rows));
    let (memory, caches) = (memory?, caches?);
    let peers = match (memory.peer, caches.peer) {
        (Some(memory), Some(caches)) => {
            format!("llama.cpp's TQ2_0 takes {} and {} times as long", digits(memory), digits(caches))
        }
        _ => "llama.cpp was not timed".to_owned(),
    };
    let quality = ternary_quality::judge(results)?;
    let because = format!(
        "{} The kernels hold: {differ} of {} results differ from the definition; {peers}. Without multiplications it is slower: looking sums up takes {} times as long as multiplying from memory and {} times from the \
         caches.",
        quality.because,
        digits(outputs),
        digits(memory.lookup),
        digits(caches.lookup),
    );
    let verdict = match (quality.better_at_equal_bytes, differ == 0.0 && memory.lookup <= MARGIN) {
        (true, true) => Verdict::Validated,
        (false, false) => Verdict::Negative,
        _ => Verdict::ValidatedWithLimits,
    };
    let note = format!(
        "From memory the multiplied TQ2_0 takes 1 / {} of the time of the arm that only reads; where that is above 1 the arm does not show the memory's own speed (docs/performance.md has it), and \
         \"within 10 % of the speed of memory\" is not judged. Expected otherwise: looking up was to be faster without VNNI; with AVX2 alone it takes {} times as long from memory and {} from the caches. \
         TQ1_0 files take the same panels and the same time. llama.cpp ran right after, not in turns.",
        digits(memory.share_of_read),
        memory.on_avx2.map_or_else(|| "-".to_owned(), digits),
        caches.on_avx2.map_or_else(|| "-".to_owned(), digits),
    );
    Ok(Findings::judged(results, verdict, because)
        .tables(quality.tables)
        .table(memory.table)
        .table(caches.table)
        .picture(quality.picture)
        .note(quality.note)
        .note(note))
}
