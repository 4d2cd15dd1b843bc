//! Cases for the generated comparison of tiers, and the products against a float64 reference.

use super::{Epilogue, Input, Linear, QuantRows};
use crate::format::{Activation, dequantize};
use crate::pack::tests::{Noise, random_row};
use crate::pack::{LANES, pack_panel};
use crate::{Cpu, Format, MatMut};

/// A product with its data.
#[derive(Debug)]
pub(super) struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    tokens: usize,
    file: Vec<Vec<u8>>,
    packed: Vec<u8>,
    x: Vec<f32>,
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
    bias: Vec<f32>,
    /// What `y` holds before.
    residual: f32,
}

impl Case {
    fn new(format: Format, rows: usize, cols: usize, tokens: usize, noise: &mut Noise) -> Self {
        let file: Vec<_> = (0..rows).map(|_| random_row(format, cols, noise)).collect();
        Self::of_rows(format, cols, tokens, file, noise)
    }

    fn of_rows(format: Format, cols: usize, tokens: usize, file: Vec<Vec<u8>>, noise: &mut Noise) -> Self {
        let rows = file.len();
        let mut packed = vec![0; format.packed_bytes(rows, cols).unwrap()];
        for (p, panel) in packed.chunks_exact_mut(format.panel_bytes(cols).unwrap()).enumerate() {
            pack_panel(format, cols, |lane| file.get(p * LANES + lane).map(Vec::as_slice), panel).unwrap();
        }
        let block = format.activation().block_len();
        let q: Vec<i8> = (0..tokens * cols).map(|_| noise.next().to_le_bytes()[0].cast_signed().max(-127)).collect();
        let d: Vec<f32> = (0..tokens * cols / block).map(|_| noise.unit() * 0.1).collect();
        let sums = q.chunks(16).map(|c| c.iter().map(|&v| i16::from(v)).sum()).collect();
        let x = match format.activation() {
            Activation::F32 => (0..tokens * cols).map(|_| noise.unit()).collect(),
            _ => q.iter().enumerate().map(|(i, &v)| f32::from(v) * d[i / block]).collect(),
        };
        let bias = (0..rows).map(|_| noise.unit()).collect();
        Self { format, rows, cols, tokens, file, packed, x, q, d, sums, bias, residual: 0.5 }
    }

    fn input(&self) -> Input<'_> {
        match self.format.activation() {
            Activation::F32 => Input::Float { x: &self.x, cols: self.cols },
            _ => Input::Quant(self.quant()),
        }
    }

    fn quant(&self) -> QuantRows<'_> {
        QuantRows {
            q: &self.q,
            d: &self.d,
            sums: &self.sums,
            cols: self.cols,
            block: self.format.activation().block_len(),
        }
    }

    fn run(&self, op: impl Fn(&mut MatMut<'_, f32>, Epilogue<'_>)) -> Vec<u32> {
        let mut bits = Vec::new();
        for (bias, add) in [(None, false), (Some(&self.bias[..]), false), (Some(&self.bias[..]), true)] {
            let mut y = vec![self.residual; self.tokens * self.rows];
            op(&mut MatMut::new(&mut y, self.tokens, self.rows), Epilogue { bias, add });
            bits.extend(y.iter().map(|y| y.to_bits()));
        }
        bits
    }

    fn compare(&self, tier: crate::Tier, want: &[u32], got: &[u32]) {
        assert!(want == got, "{tier} {}: {} x {}, {} tokens", self.format, self.rows, self.cols, self.tokens);
    }

    /// Largest distance to the float64 product of the dequantised weights, relative to the sum of magnitudes.
    fn error_against_f64(&self, y: &[f32]) -> f64 {
        let mut worst = 0.0_f64;
        let mut row = vec![0.0; self.cols];
        for (r, file) in self.file.iter().enumerate() {
            dequantize(self.format, file, &mut row);
            for t in 0..self.tokens {
                let products = row.iter().zip(&self.x[t * self.cols..]).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let (sum, size) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
                worst = worst.max((f64::from(y[t * self.rows + r]) - sum).abs() / size.max(1e-30));
            }
        }
        worst
    }
}

/// NaNs of any sign and payload from every side, and such as the processor makes of infinities.
fn nan_cases(format: Format, noise: &mut Noise) -> [Case; 5] {
    let odd = [0xffc1_2345, 0x7fc0_0007, 0xff80_0001, 0x7fa0_0000].map(f32::from_bits);
    let cols = 4 * format.block_len();
    let mut random = || Case::new(format, 33, cols, 5, noise);
    let [mut weights, mut activations, mut infinities, mut bias, mut residual] = std::array::from_fn(|_| random());
    // All ones are a NaN as a number of each type, and as a scale.
    weights.packed[..format.panel_bytes(cols).unwrap()].fill(0xff);
    for i in 0..4 {
        activations.x[i * 3] = odd[i];
        activations.d[i * 3] = odd[i];
        bias.bias[i * 10] = odd[i];
    }
    infinities.x.fill(f32::INFINITY);
    infinities.d.fill(f32::INFINITY);
    residual.residual = odd[0];
    [weights, activations, infinities, bias, residual]
}

fn for_each_case(format: Format, mut f: impl FnMut(Case)) {
    let mut noise = Noise(0x9e37_79b9 ^ format as u32);
    let unit = if format.block_len() == 1 { 1 } else { format.block_len() };
    for blocks in [1, 2, 3, 5] {
        // 74: four panels, which few tokens take at once, and one that is not full.
        for rows in [1, 15, 16, 17, 74] {
            for tokens in [1, 2, 3, 4, 7, 8, 9, 16, 21, 33] {
                f(Case::new(format, rows, unit * blocks, tokens, &mut noise));
            }
        }
    }
    // Every code at its extreme against activations at theirs: where a sum would saturate, it does so here.
    let cols = unit * 4;
    for byte in [0x00_u8, 0xff, 0x80, 0x7f] {
        let mut row = random_row(format, cols, &mut noise);
        for block in row.chunks_exact_mut(format.block_bytes()) {
            let scales = match format {
                Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => 0..2,
                Format::Q4_K | Format::Q5_K => 0..4,
                Format::Q6_K => 208..210,
                Format::TQ1_0 => 52..54,
                Format::TQ2_0 => 64..66,
                _ => 0..format.block_bytes(),
            };
            for (i, b) in block.iter_mut().enumerate() {
                if !scales.contains(&i) {
                    *b = byte;
                }
            }
        }
        for x in [-127, 127] {
            let mut case = Case::of_rows(format, cols, 17, vec![row.clone(); 16], &mut noise);
            case.q.fill(x);
            case.sums.fill(i16::from(x) * 16);
            f(case);
        }
    }
    nan_cases(format, &mut noise).into_iter().for_each(&mut f);
    if format.block_len() == 1 {
        for cols in [2, 3, 4, 7, 64, 65] {
            f(Case::new(format, 17, cols, 5, &mut noise));
            f(Case::new(format, 74, cols, 1, &mut noise));
        }
        // Many tokens take blocks of 256 columns: two of them, a part of one, and columns that are no whole four.
        for tokens in [2, 3, 6, 12, 29] {
            f(Case::new(format, 49, 523, tokens, &mut noise));
        }
    }
}

macro_rules! cases {
    (quant { $($name:ident $Op:ident $Format:ident;)* } float { $($fname:ident $FOp:ident $FFormat:ident;)* }) => {
        $(
            pub(super) fn $name(mut f: impl FnMut(OpCase<super::$Op>)) {
                for_each_case(Format::$Format, |case| f(OpCase(case, std::marker::PhantomData)));
            }
            impl OpCase<super::$Op> {
                pub(super) fn check(&self, reference: &super::$Op, candidate: &super::$Op) {
                    let want = self.0.run(|y, e| reference.run(y, &self.0.packed, self.0.quant(), e));
                    let got = self.0.run(|y, e| candidate.run(y, &self.0.packed, self.0.quant(), e));
                    self.0.compare(candidate.tier(), &want, &got);
                }
            }
        )*
        $(
            pub(super) fn $fname(mut f: impl FnMut(OpCase<super::$FOp>)) {
                for_each_case(Format::$FFormat, |case| f(OpCase(case, std::marker::PhantomData)));
            }
            impl OpCase<super::$FOp> {
                pub(super) fn check(&self, reference: &super::$FOp, candidate: &super::$FOp) {
                    let want = self.0.run(|y, e| reference.run(y, &self.0.packed, &self.0.x, self.0.cols, e));
                    let got = self.0.run(|y, e| candidate.run(y, &self.0.packed, &self.0.x, self.0.cols, e));
                    self.0.compare(candidate.tier(), &want, &got);
                }
            }
        )*
    };
}

/// A case for one operation.
#[derive(Debug)]
pub(super) struct OpCase<Op>(Case, std::marker::PhantomData<Op>);

cases! {
    quant {
        q8_0 LinearQ8_0 Q8_0; q4_0 LinearQ4_0 Q4_0; q5_0 LinearQ5_0 Q5_0;
        q4_k LinearQ4K Q4_K; q5_k LinearQ5K Q5_K; q6_k LinearQ6K Q6_K;
        tq1_0 LinearTQ1 TQ1_0; tq2_0 LinearTQ2 TQ2_0;
    }
    float { f32 LinearF32 F32; f16 LinearF16 F16; bf16 LinearBF16 BF16; }
}

/// The bound: one rounding per block (and its scale product) of a sum whose terms do not exceed the magnitudes.
#[test]
fn products_agree_with_float64() {
    let mut noise = Noise(11);
    for format in Format::ALL {
        let cols = if format.block_len() == 1 { 300 } else { format.block_len() * 6 };
        let case = Case::new(format, 33, cols, 5, &mut noise);
        for tier in Cpu::detect().tiers() {
            let op = Linear::select(format, &Cpu::detect().up_to(tier));
            let mut y = vec![0.0; case.tokens * case.rows];
            op.run(&mut MatMut::new(&mut y, case.tokens, case.rows), &case.packed, case.input(), Epilogue::default());
            let error = case.error_against_f64(&y);
            assert!(error < 4e-7 * (cols as f64).sqrt(), "{format} on {tier}: relative error {error:e}");
        }
    }
}

#[test]
fn a_nan_is_stored_as_the_canonical_one() {
    let cpu = Cpu::detect();
    for format in Format::ALL {
        for (i, case) in nan_cases(format, &mut Noise(12)).iter().enumerate() {
            for tier in cpu.tiers() {
                let op = Linear::select(format, &cpu.up_to(tier));
                let bits = case.run(|y, e| op.run(y, &case.packed, case.input(), e));
                let mut nans = bits.into_iter().filter(|&bits| f32::from_bits(bits).is_nan()).peekable();
                assert!(nans.peek().is_some(), "{format} on {tier}: no NaN in case {i}");
                assert!(nans.all(|bits| bits == 0x7fc0_0000), "{format} on {tier}: case {i}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "take Block32 activations")]
fn the_wrong_kind_of_activation_is_refused() {
    let case = Case::new(Format::Q8_0, 16, 32, 1, &mut Noise(1));
    let mut y = vec![0.0; 16];
    let op = Linear::select(Format::Q8_0, &Cpu::detect());
    op.run(&mut MatMut::new(&mut y, 1, 16), &case.packed, Input::Float { x: &case.x, cols: 32 }, Epilogue::default());
}

#[test]
#[should_panic(expected = "panels for")]
fn a_matrix_of_another_size_is_refused() {
    let case = Case::new(Format::Q8_0, 16, 32, 1, &mut Noise(1));
    let mut y = vec![0.0; 17];
    let op = Linear::select(Format::Q8_0, &Cpu::detect());
    op.run(&mut MatMut::new(&mut y, 1, 17), &case.packed, case.input(), Epilogue::default());
}

#[test]
#[should_panic(expected = "one scale a block")]
fn missing_scales_are_refused() {
    let mut case = Case::new(Format::Q8_0, 16, 64, 1, &mut Noise(1));
    case.d.pop();
    let mut y = vec![0.0; 16];
    let op = Linear::select(Format::Q8_0, &Cpu::detect());
    op.run(&mut MatMut::new(&mut y, 1, 16), &case.packed, case.input(), Epilogue::default());
}

/// The AMX variant with tiles in plain Rust: all of it but the instructions themselves, on any AVX-512 machine.
#[cfg(target_arch = "x86_64")]
mod emulated_tiles {
    use super::super::amx_int8::{Products, Tiles, with_tiles};
    use super::super::id;
    use super::{Case, for_each_case};
    use crate::ops::linear::Linear;
    use crate::pack::{LANES, LINE};
    use crate::{Cpu, Format, Tier};

    struct PlainRust;

    impl Tiles for PlainRust {
        fn configure(lines: usize) {
            assert!(lines == 8 || lines == 4);
        }

        fn product(c: &mut Products, x: &[i8], stride: usize, w: &[[u8; LINE]]) {
            for (t, c) in c.0.iter_mut().enumerate() {
                for r in 0..LANES {
                    let at = |k: usize| i32::from(x[t * stride + k]) * i32::from(w[k / 4][4 * r + k % 4]);
                    c[r] = (0..4 * w.len()).map(at).sum();
                }
            }
        }

        fn release() {}
    }

    fn check<const F: usize>() {
        let reference = Linear::select(Format::ALL[F], &Cpu::detect().up_to(Tier::Scalar));
        for_each_case(Format::ALL[F], |case: Case| {
            let want = case.run(|y, e| reference.run(y, &case.packed, case.input(), e));
            // SAFETY: the caller saw AVX-512 on this processor, and `reference` has checked the lengths.
            let got = case.run(|y, e| unsafe { with_tiles::<F, PlainRust>(y, &case.packed, case.quant(), e) });
            case.compare(Tier::AmxInt8, &want, &got);
        });
    }

    #[test]
    fn equal_the_scalar_definition() {
        if !Cpu::detect().has(Tier::Avx512Vnni) {
            eprintln!("SKIPPED: no AVX-512 VNNI on this processor, which the AMX variant's epilogue needs");
            return;
        }
        check::<{ id(Format::Q8_0) }>();
        check::<{ id(Format::Q4_0) }>();
        check::<{ id(Format::Q5_0) }>();
        check::<{ id(Format::Q4_K) }>();
        check::<{ id(Format::Q5_K) }>();
        check::<{ id(Format::Q6_K) }>();
        check::<{ id(Format::TQ1_0) }>();
        check::<{ id(Format::TQ2_0) }>();
    }
}
