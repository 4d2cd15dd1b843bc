//! Deterministic inputs and bit comparison for the conformance tests of the operations.

/// A generator of test values (a 64-bit linear congruential one, high bits used).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 32).unwrap()
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Roughly normal, standard deviation 1.
    pub(crate) fn normal(&mut self) -> f32 {
        let uniform = |bits: u32| f32::from_bits(0x3f80_0000 | bits >> 9) - 1.5;
        (uniform(self.bits()) + uniform(self.bits()) + uniform(self.bits())) * 2.0
    }

    pub(crate) fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// Any bit pattern: NaN, infinities, subnormals, huge and tiny numbers.
    pub(crate) fn anything(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| f32::from_bits(self.bits())).collect()
    }
}

/// Bit patterns, for comparisons that tell 0 from -0 and see NaN.
pub(crate) fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}
