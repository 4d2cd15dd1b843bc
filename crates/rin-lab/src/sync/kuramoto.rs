//! Kuramoto's coupled oscillators: `dθ_i/dt = ω_i + (K/N) Σ_j sin(θ_j − θ_i)`.
//!
//! With frequencies from a Lorentz distribution of half width γ, infinitely many of them lock above K = 2γ, and the length of
//! their mean vector is then r = √(1 − 2γ/K) (Y. Kuramoto, 1984; S. H. Strogatz, Physica D 143, 2000).

/// Oscillators.
#[derive(Clone, Debug, PartialEq)]
pub struct Oscillators {
    /// Phases, in radians.
    pub phases: Vec<f64>,
    /// Frequencies, in radians per second.
    pub frequencies: Vec<f64>,
    /// K.
    pub coupling: f64,
}

impl Oscillators {
    /// The mean vector: its length, from 0 for none to 1 for full agreement, and its angle.
    pub fn order(&self) -> (f64, f64) {
        order(&self.phases)
    }

    fn rates(&self, phases: &[f64]) -> Vec<f64> {
        // Σ sin(θ_j − θ_i) = N r sin(ψ − θ_i): linear in N.
        let (r, angle) = order(phases);
        let rate = |(phase, frequency): (&f64, &f64)| frequency + self.coupling * r * libm::sin(angle - phase);
        phases.iter().zip(&self.frequencies).map(rate).collect()
    }

    /// One step of the classical Runge–Kutta method.
    pub fn step(&mut self, seconds: f64) {
        let moved = |by: &[f64], factor: f64| -> Vec<f64> {
            self.phases.iter().zip(by).map(|(phase, rate)| phase + factor * seconds * rate).collect()
        };
        let a = self.rates(&self.phases);
        let b = self.rates(&moved(&a, 0.5));
        let c = self.rates(&moved(&b, 0.5));
        let d = self.rates(&moved(&c, 1.0));
        for (i, phase) in self.phases.iter_mut().enumerate() {
            *phase += seconds / 6.0 * (a[i] + 2.0 * b[i] + 2.0 * c[i] + d[i]);
        }
    }
}

fn order(phases: &[f64]) -> (f64, f64) {
    let n = phases.len().max(1) as f64;
    let (x, y) = phases.iter().fold((0.0, 0.0), |(x, y), p| (x + libm::cos(*p), y + libm::sin(*p)));
    (libm::hypot(x, y) / n, libm::atan2(y, x))
}

/// Frequencies at the quantiles of a Lorentz distribution of half width `width`.
pub fn lorentz(n: usize, width: f64) -> Vec<f64> {
    let quantile = |i: usize| (i as f64 + 0.5) / n as f64 - 0.5;
    (0..n).map(|i| width * libm::tan(std::f64::consts::PI * quantile(i))).collect()
}

/// The length of the mean vector that theory expects.
pub fn expected_order(coupling: f64, width: f64) -> f64 {
    (1.0 - 2.0 * width / coupling).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_testkit::data::conformance;

    #[test]
    fn the_motion_is_scipys() {
        let goldens = std::fs::read_to_string(conformance("lab/signals.json")).unwrap();
        let golden = &serde_json::from_str::<serde_json::Value>(&goldens).unwrap()["kuramoto"];
        let numbers =
            |key: &str| golden[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        let coupling = golden["coupling"].as_f64().unwrap();
        let mut found = Oscillators { phases: numbers("theta"), frequencies: numbers("omega"), coupling };
        for _ in 0..1000 {
            found.step(golden["seconds"].as_f64().unwrap() / 1000.0);
        }
        for (found, expected) in found.phases.iter().zip(numbers("end")) {
            assert!((found - expected).abs() < 1e-8, "{found} {expected}");
        }
    }

    #[test]
    fn locking_begins_where_theory_says() {
        for (coupling, least, most) in [(0.5, 0.0, 0.15), (2.0, 0.6, 0.8), (4.0, 0.8, 0.92)] {
            let n = 800;
            let phases = (0..n).map(|i| 2.4 * i as f64).collect();
            let mut found = Oscillators { phases, frequencies: lorentz(n, 0.5), coupling };
            (0..4000).for_each(|_| found.step(0.02));
            let r = found.order().0;
            assert!((least..most).contains(&r), "K = {coupling}: {r} for {}", expected_order(coupling, 0.5));
        }
        assert!((expected_order(2.0, 0.5) - 0.5_f64.sqrt()).abs() < 1e-15);
    }
}
