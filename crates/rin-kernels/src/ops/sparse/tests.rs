use super::{Blocks1x16, Blocks1x16Product, Blocks4x4, Blocks4x4Product, TwoOfFour, TwoOfFourProduct};
use crate::ops::cases::Random;
use crate::ops::integer_product::{IntegerProduct, PAIR, panel_len};
use crate::pack::LANES;
use crate::{Cpu, MatMut};

/// Dense weights, most of them zero in whole blocks, and inputs.
pub(super) struct Case {
    rows: usize,
    cols: usize,
    w: Vec<i8>,
    x: Vec<i8>,
}

/// A product of one form, so that one list of cases serves all.
pub(super) trait Form {
    /// Keeps of the weights what the form can store.
    fn mask(case: &Case) -> Vec<i8>;
    fn of(&self, w: &[i8], case: &Case) -> Vec<i32>;
}

macro_rules! form {
    ($Product:ident, $Matrix:ident, $mask:expr) => {
        impl Form for $Product {
            fn mask(case: &Case) -> Vec<i8> {
                $mask(case)
            }
            fn of(&self, w: &[i8], case: &Case) -> Vec<i32> {
                let mut y = vec![77; case.rows];
                self.run(&mut y, &$Matrix::pack(w, case.cols).unwrap(), &case.x);
                y
            }
        }
    };
}

form!(Blocks4x4Product, Blocks4x4, |case: &Case| case.w.clone());
form!(Blocks1x16Product, Blocks1x16, |case: &Case| case.w.clone());
form!(TwoOfFourProduct, TwoOfFour, two_of_four);

/// Two of each four, other ones from four to four.
fn two_of_four(case: &Case) -> Vec<i8> {
    let keep = |(i, &w): (usize, &i8)| {
        let (first, second) = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)][i / 4 * 7 % 6];
        if i % 4 == first || i % 4 == second { w } else { 0 }
    };
    case.w.iter().enumerate().map(keep).collect()
}

/// The dense product of the expanded matrix, by the kernel of 16 bits.
fn dense(w: &[i8], case: &Case) -> Vec<i32> {
    let mut panels = vec![0; panel_len(case.rows, case.cols).unwrap()];
    for (i, &w) in w.iter().enumerate() {
        let (r, k) = (i / case.cols, i % case.cols);
        panels[r / LANES * case.cols * LANES + k / 2 * PAIR + r % LANES * 2 + k % 2] = i16::from(w);
    }
    let x: Vec<i16> = case.x.iter().map(|&x| i16::from(x)).collect();
    let mut y = vec![0; case.rows];
    IntegerProduct::select(&Cpu::detect()).run(&mut MatMut::new(&mut y, 1, case.rows), &panels, &x, case.cols);
    y
}

impl Case {
    /// `density` of a thousand blocks of 4 × 16 hold weights.
    fn new(rows: usize, cols: usize, density: usize, extreme: bool, random: &mut Random) -> Self {
        let byte = |random: &mut Random| match random.below(3) {
            _ if extreme => [-128, 127][random.below(2)],
            0 => [-128, -127, -1, 127][random.below(4)],
            _ => i8::from_le_bytes([random.bits().to_be_bytes()[0]]),
        };
        let blocks: Vec<bool> =
            (0..rows.div_ceil(4) * cols.div_ceil(4)).map(|_| random.below(1000) < density).collect();
        let kept = |i: usize| blocks[i / cols / 4 * cols.div_ceil(4) + i % cols / 4];
        let w = (0..rows * cols).map(|i| if kept(i) { byte(random) } else { 0 }).collect();
        Self { rows, cols, w, x: (0..cols).map(|_| byte(random)).collect() }
    }

    pub(super) fn check<F: Form>(&self, reference: &F, candidate: &F) {
        let w = F::mask(self);
        let (want, got) = (reference.of(&w, self), candidate.of(&w, self));
        assert_eq!(want, got, "{} x {}", self.rows, self.cols);
        assert_eq!(dense(&w, self), got, "the dense product, {} x {}", self.rows, self.cols);
    }
}

pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
    let mut random = Random::new(91);
    for (rows, cols) in [(16, 16), (16, 48), (32, 64), (48, 80), (80, 16), (96, 272), (16, 1024)] {
        for density in [0, 30, 100, 300, 600, 1000] {
            f(Case::new(rows, cols, density, false, &mut random));
        }
        f(Case::new(rows, cols, 1000, true, &mut random));
    }
    // Rows without a weight between full ones.
    let mut case = Case::new(32, 64, 1000, false, &mut random);
    case.w[4 * 64..12 * 64].fill(0);
    f(case);
    // Shapes at random.
    for _ in 0..40 {
        let (rows, cols) = (16 * (1 + random.below(6)), 16 * (1 + random.below(12)));
        let density = random.below(1001);
        f(Case::new(rows, cols, density, false, &mut random));
    }
    f(Case { rows: 0, cols: 16, w: Vec::new(), x: vec![1; 16] });
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(Blocks4x4::pack(&[1; 5 * 16], 16).is_none(), "5 rows");
    assert!(Blocks4x4::pack(&[1; 4 * 6], 6).is_none(), "6 columns");
    assert!(Blocks1x16::pack(&[1; 24], 24).is_none(), "24 columns");
    assert!(Blocks1x16::pack(&[], 0).is_none(), "no columns");
    assert!(TwoOfFour::pack(&[0; 15 * 4], 4).is_none(), "15 rows");
    let mut three = [0; 16 * 4];
    three[60..63].fill(1);
    assert!(TwoOfFour::pack(&three, 4).is_none(), "three of four");
    three[61] = 0;
    assert!(TwoOfFour::pack(&three, 4).is_some());
}

/// What is stored grows with what is kept: zero blocks are not.
#[test]
fn zeros_take_no_room() {
    let mut w = vec![0; 64 * 64];
    let empty = Blocks4x4::pack(&w, 64).unwrap().bytes();
    w[7 * 64 + 9] = 3;
    assert_eq!(Blocks4x4::pack(&w, 64).unwrap().bytes(), empty + 20);
    // 40 bytes for 64 weights, and 4 for an output.
    assert_eq!(TwoOfFour::pack(&w, 64).unwrap().bytes(), 64 * 64 / 64 * 40 + 64 * 4);
}
