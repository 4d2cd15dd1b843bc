//! Two flow graphs of the transform of eight values, written once for floats and fixed point.
//!
//! Sources: Y. Arai, T. Agui, M. Nakajima, "A fast DCT-SQ scheme for images", Transactions of the IEICE E71, 1988; C.
//! Loeffler, A. Ligtenberg, G. Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP 1989, in
//! the form with twelve multiplications and no path with two.

use std::ops::{Add, Sub};

/// Which graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graph {
    /// Arai, Agui and Nakajima: five multiplications, scaled results.
    Aan,
    /// Loeffler, Ligtenberg and Moschytz: twelve multiplications.
    Loeffler,
}

impl Graph {
    /// What value `k` of the transform is multiplied by, besides √8; and what the inverse wants it multiplied by.
    pub fn scale(self, k: usize) -> f64 {
        match self {
            Self::Aan => aan_scale(k),
            Self::Loeffler => 1.0,
        }
    }
}

/// `s[0] = 1`, `s[k] = √2 cos(kπ/16)`.
pub fn aan_scale(k: usize) -> f64 {
    if k == 0 { 1.0 } else { std::f64::consts::SQRT_2 * libm::cos(k as f64 * std::f64::consts::PI / 16.0) }
}

/// cos(kπ/16).
fn c(k: i32) -> f64 {
    libm::cos(f64::from(k) * std::f64::consts::PI / 16.0)
}

/// The transform of eight values, with `times` for a product with a constant.
fn forward<T: Copy + Add<Output = T> + Sub<Output = T>>(
    graph: Graph,
    x: [T; 8],
    times: impl Fn(T, f64) -> T,
) -> [T; 8] {
    let sum: [T; 4] = std::array::from_fn(|i| x[i] + x[7 - i]);
    let difference: [T; 4] = std::array::from_fn(|i| x[i] - x[7 - i]);
    let (a, b, d, e) = (sum[0] + sum[3], sum[1] + sum[2], sum[0] - sum[3], sum[1] - sum[2]);
    let [y0, y4] = [a + b, a - b];
    match graph {
        Graph::Aan => {
            let z = times(d + e, c(4));
            let [y2, y6] = [d + z, d - z];
            let [p, q, r] =
                [difference[3] + difference[2], difference[2] + difference[1], difference[1] + difference[0]];
            let z5 = times(p - r, c(6));
            let z2 = times(p, c(2) - c(6)) + z5;
            let z4 = times(r, c(2) + c(6)) + z5;
            let z3 = times(q, c(4));
            let (z11, z13) = (difference[0] + z3, difference[0] - z3);
            [y0, z11 + z4, y2, z13 - z2, y4, z13 + z2, y6, z11 - z4]
        }
        Graph::Loeffler => {
            let root = std::f64::consts::SQRT_2;
            let z = times(d + e, root * c(6));
            let y2 = z + times(d, root * (c(2) - c(6)));
            let y6 = z - times(e, root * (c(2) + c(6)));
            let [y7, y5, y3, y1] = odd_part([difference[3], difference[2], difference[1], difference[0]], times);
            [y0, y1, y2, y3, y4, y5, y6, y7]
        }
    }
}

/// The four odd values: a symmetric matrix, so its own transpose, and the same forwards and backwards.
fn odd_part<T: Copy + Add<Output = T> + Sub<Output = T>>(t: [T; 4], times: impl Fn(T, f64) -> T) -> [T; 4] {
    let root = std::f64::consts::SQRT_2;
    let (z1, z2, z3, z4) = (t[0] + t[3], t[1] + t[2], t[0] + t[2], t[1] + t[3]);
    let z5 = times(z3 + z4, root * c(3));
    let p0 = times(t[0], root * (-c(1) + c(3) + c(5) - c(7)));
    let p1 = times(t[1], root * (c(1) + c(3) - c(5) + c(7)));
    let p2 = times(t[2], root * (c(1) + c(3) + c(5) - c(7)));
    let p3 = times(t[3], root * (c(1) + c(3) - c(5) - c(7)));
    let q1 = times(z1, root * (c(7) - c(3)));
    let q2 = times(z2, root * (-c(1) - c(3)));
    let q3 = times(z3, root * (-c(3) - c(5))) + z5;
    let q4 = times(z4, root * (c(5) - c(3))) + z5;
    [p0 + q1 + q3, p1 + q2 + q4, p2 + q2 + q3, p3 + q1 + q4]
}

/// The inverse, of values scaled by [`Graph::scale`].
fn inverse<T: Copy + Add<Output = T> + Sub<Output = T>>(
    graph: Graph,
    y: [T; 8],
    times: impl Fn(T, f64) -> T,
) -> [T; 8] {
    let root = std::f64::consts::SQRT_2;
    let (a, b) = (y[0] + y[4], y[0] - y[4]);
    let (even, odd) = match graph {
        Graph::Aan => {
            let d = y[2] + y[6];
            let e = times(y[2] - y[6], root) - d;
            let (z13, z10, z11, z12) = (y[5] + y[3], y[5] - y[3], y[1] + y[7], y[1] - y[7]);
            let o0 = z11 + z13;
            let z5 = times(z10 + z12, 2.0 * c(2));
            let o1 = z5 - times(z10, 2.0 * (c(2) + c(6))) - o0;
            let o2 = times(z11 - z13, root) - o1;
            // The last value has the other sign in this graph.
            let o3 = z5 - times(z12, 2.0 * (c(2) - c(6))) - o2;
            ([a + d, b + e, b - e, a - d], [o0, o1, o2, o3])
        }
        Graph::Loeffler => {
            let z = times(y[2] + y[6], root * c(6));
            let e = z - times(y[6], root * (c(2) + c(6)));
            let d = z + times(y[2], root * (c(2) - c(6)));
            let [o3, o2, o1, o0] = odd_part([y[7], y[5], y[3], y[1]], times);
            ([a + d, b + e, b - e, a - d], [o0, o1, o2, o3])
        }
    };
    std::array::from_fn(|i| if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] })
}

/// The graph in double precision: `X[k] · scale(k) · √8`.
pub fn forward_float(graph: Graph, x: [f64; 8]) -> [f64; 8] {
    forward(graph, x, |x, constant| x * constant)
}

/// The inverse graph in double precision: `x · √8`, of values scaled by [`Graph::scale`].
pub fn inverse_float(graph: Graph, y: [f64; 8]) -> [f64; 8] {
    inverse(graph, y, |x, constant| x * constant)
}

/// A graph in fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Which graph.
    pub graph: Graph,
    /// Fractional bits of the constants, at most 20.
    pub constant_bits: u32,
    /// Fractional bits of the values, at most 8.
    pub guard_bits: u32,
    /// Whether products are rounded; else they are cut off.
    pub rounds: bool,
}

impl Fixed {
    fn times(&self, x: i64, constant: f64) -> i64 {
        let constant = libm::round(constant * f64::from(1_u32 << self.constant_bits)) as i64;
        let half = if self.rounds { 1 << (self.constant_bits - 1) } else { 0 };
        (x * constant + half) >> self.constant_bits
    }

    /// The transform of eight values of at most 16 bits, in units of [`Fixed::value`].
    pub fn forward(&self, x: [i32; 8]) -> [i64; 8] {
        forward(self.graph, x.map(|x| i64::from(x) << self.guard_bits), |x, constant| self.times(x, constant))
    }

    /// What a value of [`Fixed::forward`] stands for in the orthonormal transform.
    pub fn value(&self, k: usize, y: i64) -> f64 {
        y as f64 / (f64::from(1_u32 << self.guard_bits) * self.graph.scale(k) * 8.0_f64.sqrt())
    }

    /// The inverse in two dimensions of 8 × 8 coefficients of at most 12 bits, rounded and held within −256 … 255.
    pub fn inverse_2d(&self, block: &[i32; 64]) -> [i32; 64] {
        let mut values = [0_i64; 64];
        for (at, (value, x)) in values.iter_mut().zip(block).enumerate() {
            // The scales of both directions, in one product with the coefficient, as a decoder's table would have it.
            let scale = self.graph.scale(at / 8) * self.graph.scale(at % 8);
            let constant = libm::round(scale * f64::from(1_u32 << self.constant_bits)) as i64;
            let half = 1 << (self.constant_bits - 1);
            *value = ((i64::from(*x) << self.guard_bits) * constant + half) >> self.constant_bits;
        }
        for row in values.as_chunks_mut::<8>().0 {
            *row = inverse(self.graph, *row, |x, constant| self.times(x, constant));
        }
        for column in 0..8 {
            let y = std::array::from_fn(|i| values[8 * i + column]);
            let x = inverse(self.graph, y, |x, constant| self.times(x, constant));
            (0..8).for_each(|i| values[8 * i + column] = x[i]);
        }
        let shift = 3 + self.guard_bits;
        values.map(|x| ((x + (1 << (shift - 1))) >> shift).clamp(-256, 255) as i32)
    }
}
