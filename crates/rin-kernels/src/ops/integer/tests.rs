//! Cases of integer layers, and what the definition promises.

use super::{
    DenseNarrow, DenseWide, IntegerLayer, LANES, MAX_BIAS, MAX_INPUTS, integer_bytes, is_sound, look_up, pack_integer,
    requantize,
};
use crate::ops::cases::Random;
use crate::{Cpu, MatMut};

pub(super) struct Case {
    rows: usize,
    outputs: usize,
    x: Vec<i8>,
    w: Vec<u8>,
    bias: Vec<i32>,
    multiplier: Vec<i32>,
    shift: Vec<i32>,
    low: i32,
}

impl Case {
    fn layer(&self, high: i32) -> IntegerLayer<'_> {
        let Self { w, bias, multiplier, shift, low, .. } = self;
        IntegerLayer { w, bias, multiplier, shift, low: *low, high }
    }
}

/// A handle of either width, so that one list of cases serves both.
pub(super) trait Dense {
    fn of(&self, case: &Case) -> Vec<i32>;
}

impl Dense for DenseNarrow {
    fn of(&self, case: &Case) -> Vec<i32> {
        let mut y = vec![99; case.rows * case.outputs];
        self.run(&mut MatMut::new(&mut y, case.rows, case.outputs), &case.x, case.layer(127));
        y.into_iter().map(i32::from).collect()
    }
}

impl Dense for DenseWide {
    fn of(&self, case: &Case) -> Vec<i32> {
        let mut y = vec![99; case.rows * case.outputs];
        self.run(&mut MatMut::new(&mut y, case.rows, case.outputs), &case.x, case.layer(1 << 24));
        y
    }
}

impl Case {
    pub(super) fn check<D: Dense>(&self, reference: &D, candidate: &D) {
        assert_eq!(reference.of(self), candidate.of(self), "{} rows of {}", self.rows, self.outputs);
    }
}

fn case(random: &mut Random, rows: usize, outputs: usize, inputs: usize, extreme: bool) -> Case {
    let mut byte = || {
        let x = i8::try_from(random.below(255).cast_signed() - 127).unwrap_or(-127);
        if extreme { if x > 60 { 127 } else { -127 } } else { x }
    };
    let x: Vec<i8> = (0..rows * inputs).map(|_| byte()).collect();
    let w: Vec<i8> = (0..outputs * inputs).map(|_| byte()).collect();
    let (padded_outputs, padded_inputs) = (outputs.next_multiple_of(LANES), inputs.next_multiple_of(LANES));
    let mut lines = vec![0; integer_bytes(outputs, inputs).unwrap()];
    pack_integer(&w, inputs, &mut lines);
    let mut wide = vec![0; rows * padded_inputs];
    for (to, from) in wide.chunks_mut(padded_inputs).zip(x.chunks(inputs)) {
        to[..inputs].copy_from_slice(from);
    }
    let mut number = |n: i64| {
        let bits = u64::from(random.bits()) << 16 ^ u64::from(random.bits());
        i32::try_from(i64::try_from(bits % u64::try_from(n).unwrap()).unwrap()).unwrap()
    };
    Case {
        rows,
        outputs: padded_outputs,
        x: wide,
        w: lines,
        bias: (0..padded_outputs).map(|_| if extreme { MAX_BIAS } else { number(20_000) - 10_000 }).collect(),
        multiplier: (0..padded_outputs).map(|_| if extreme { i32::MAX } else { number(1 << 31) }).collect(),
        shift: (0..padded_outputs).map(|i| if extreme { 31 } else { 31 + i32::try_from(i % 32).unwrap() }).collect(),
        low: if outputs.is_multiple_of(2) { 0 } else { -127 },
    }
}

pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
    let mut random = Random::new(41);
    for rows in [0, 1, 2, 3, 4, 5, 9] {
        for (outputs, inputs) in [(1, 1), (16, 4), (17, 33), (50, 64), (127, 70), (131, 200), (256, 256)] {
            for extreme in [false, true] {
                f(case(&mut random, rows, outputs, inputs, extreme));
            }
        }
    }
    // Tiles of eight rows, what is left beside them, and more rows than are at hand at once.
    for (rows, outputs, inputs) in [(8, 50, 64), (13, 17, 33), (29, 131, 40), (269, 33, 24)] {
        f(case(&mut random, rows, outputs, inputs, rows % 2 == 0));
    }
    f(case(&mut random, 1, 16, MAX_INPUTS, true));
}

#[test]
fn a_layer_is_its_formula_in_wide_integers() {
    let mut random = Random::new(42);
    for (outputs, inputs) in [(16, 16), (48, 112), (144, 256)] {
        let case = case(&mut random, 3, outputs, inputs, false);
        assert!(is_sound(&case.layer(127)));
        let found = DenseWide::select(&Cpu::detect()).of(&case);
        for t in 0..3 {
            for r in 0..outputs {
                let weight = |c: usize| {
                    let line = r / 16 * (inputs / 4) + c / 4;
                    i128::from(case.w[line * 64 + r % 16 * 4 + c % 4]) - 128
                };
                let acc: i128 = (0..inputs).map(|c| weight(c) * i128::from(case.x[t * inputs + c])).sum();
                let acc = acc + i128::from(case.bias[r]);
                // Rounded to nearest, halves up: the floor of the quotient and a half.
                let scaled = (2 * acc * i128::from(case.multiplier[r]) + (1_i128 << case.shift[r]))
                    .div_euclid(2 << case.shift[r]);
                assert_eq!(i128::from(found[t * outputs + r]), scaled.clamp(i128::from(case.low), 1 << 24), "{t} {r}");
            }
        }
    }
}

#[test]
fn halves_are_rounded_up() {
    let half = 1 << 30;
    let found: Vec<i32> = [3, 1, -1, -3].iter().map(|&acc| requantize(acc, half, 31)).collect();
    assert_eq!(found, [2, 1, 0, -1]);
}

#[test]
fn unsound_layers_are_told() {
    let (w, ones, zeros) = (vec![129; 64], vec![31; 16], vec![0; 16]);
    let good = IntegerLayer { w: &w, bias: &zeros, multiplier: &ones, shift: &ones, low: -127, high: 127 };
    assert!(is_sound(&good));
    let least = vec![0; 64];
    let (large, negative) = (vec![MAX_BIAS + 1; 16], vec![-1; 16]);
    for bad in [
        IntegerLayer { w: &least, ..good },
        IntegerLayer { bias: &large, ..good },
        IntegerLayer { multiplier: &negative, ..good },
        IntegerLayer { shift: &zeros, ..good },
        IntegerLayer { low: 1, ..good },
        IntegerLayer { high: -1, ..good },
    ] {
        assert!(!is_sound(&bad), "{bad:?}");
    }
}

#[test]
fn tables_are_read_from_the_least_number_on() {
    let mut table = [0; 256];
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = i8::try_from(i / 2).unwrap();
    }
    let mut y = [-128, -127, 0, 127];
    look_up(&mut y, &table);
    assert_eq!(y, [0, 0, 64, 127]);
}

#[test]
#[should_panic(expected = "numbers for 16 outputs")]
fn missing_numbers_are_refused() {
    let (w, n) = (vec![129; 64], vec![31; 15]);
    let layer = IntegerLayer { w: &w, bias: &n, multiplier: &n, shift: &n, low: 0, high: 1 };
    DenseNarrow::select(&Cpu::detect()).run(&mut MatMut::new(&mut [0; 16], 1, 16), &[1; 4], layer);
}
