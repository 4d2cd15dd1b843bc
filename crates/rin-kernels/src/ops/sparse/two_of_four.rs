//! Two of four.

#[cfg(test)]
use super::tests;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{fits, offsets};
use crate::pack::LANES;

/// Two weights of four columns for 16 outputs, and which they are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Line {
    /// Bit `4 * output + column`: two of the four bits of an output.
    pub(super) mask: u64,
    /// The weights of the set bits, in their order.
    pub(super) weights: [i8; 2 * LANES],
}

/// A matrix of which every four neighbours in a row hold two weights at most: 5 bits a weight.
#[derive(Clone, Debug)]
pub struct TwoOfFour {
    cols: usize,
    lines: Vec<Line>,
    offsets: Vec<i32>,
}

impl TwoOfFour {
    /// From row-major weights; none where they are not whole rows of `cols`, outputs are no multiple of 16, `cols` none of
    /// 4, or four neighbours hold three weights that are not zero.
    #[must_use]
    pub fn pack(w: &[i8], cols: usize) -> Option<Self> {
        if !fits(w, cols, LANES, 4) {
            return None;
        }
        let mut lines = Vec::new();
        for panel in w.chunks_exact(LANES * cols) {
            for column in (0..cols).step_by(4) {
                let mut line = Line { mask: 0, weights: [0; 2 * LANES] };
                for (output, row) in panel.chunks_exact(cols).enumerate() {
                    let four = &row[column..][..4];
                    let mut kept: Vec<usize> = (0..4).filter(|&i| four[i] != 0).collect();
                    // Zeros fill up what is not full.
                    let zeros = (0..4).filter(|&i| four[i] == 0);
                    kept.extend(zeros.take(2_usize.saturating_sub(kept.len())));
                    kept.sort_unstable();
                    let [first, second] = kept[..] else { return None };
                    line.mask |= (1 << first | 1 << second) << (4 * output);
                    line.weights[2 * output] = four[first];
                    line.weights[2 * output + 1] = four[second];
                }
                lines.push(line);
            }
        }
        Some(Self { cols, lines, offsets: offsets(w, cols) })
    }

    /// Bytes that the product reads of the matrix.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.offsets)
    }

    /// The lines of a panel of 16 outputs, one for each four inputs.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize) -> &[Line] {
        let quads = self.cols / 4;
        &self.lines[panel * quads..][..quads]
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the scalar tier has no offset"))]
    pub(super) fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    fn check(&self, y: &[i32], x: &[i8]) {
        assert_eq!((y.len(), x.len()), (self.offsets.len(), self.cols), "outputs and inputs of the matrix");
    }
}

kernel! {
    /// `y (outputs)` from `w` and `x (inputs)`.
    pub struct TwoOfFourProduct(y: &mut [i32], w: &TwoOfFour, x: &[i8]);
    check: |y: &&mut [i32], w: &&TwoOfFour, x: &&[i8]| w.check(y, x);
    cases: tests::for_each_case;
    conformance: two_of_four;
    variants {
        Scalar => product,
        Avx2 if target_arch = "x86_64" => x86::two_of_four::avx2,
        Avx512Vnni if target_arch = "x86_64" => x86::two_of_four::avx512,
    }
}

/// The definition.
fn product(y: &mut [i32], w: &TwoOfFour, x: &[i8]) {
    for (panel, y) in y.chunks_exact_mut(LANES).enumerate() {
        y.fill(0);
        for (line, x) in w.panel(panel).iter().zip(x.as_chunks::<4>().0) {
            let mut mask = line.mask;
            for &w in &line.weights {
                let at = mask.trailing_zeros() as usize;
                mask &= mask.wrapping_sub(1);
                let y = &mut y[at / 4 % LANES];
                *y = y.wrapping_add(i32::from(w) * i32::from(x[at % 4]));
            }
        }
    }
}
