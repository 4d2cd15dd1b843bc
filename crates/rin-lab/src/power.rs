//! Power caps on simulated machines: the tuner of `rin run --power-budget` beside simpler controllers.
//!
//! A machine takes its idle power, and in the share of time in which work runs its busy power; what it takes follows with a
//! lag of first order, and is seen through a counter with a grain and with noise. Watts here are numbers of a simulation.

use rin_energy::tuner::{PERIOD, PowerTuner};

use crate::random::Random;

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plant {
    /// W at rest.
    pub idle: f64,
    /// W at work.
    pub busy: f64,
    /// Seconds of the lag.
    pub lag: f64,
    /// Relative standard deviation of what the sensor shows.
    pub noise: f64,
    /// The cap, in W.
    pub budget: f64,
    /// Factor on the power above idle from half of the time on.
    pub change: f64,
    /// What the profile of an open-loop controller has for the busy power, as a factor.
    pub profile: f64,
}

impl Plant {
    /// A random machine with a lag from a range.
    pub fn random(seed: u32, lag: (f64, f64)) -> Self {
        let mut random = Random::new(seed, 400);
        let idle = random.within(5.0, 40.0);
        let busy = idle * random.within(2.0, 6.0);
        Self {
            idle,
            busy,
            lag: libm::exp(random.within(libm::log(lag.0), libm::log(lag.1))),
            noise: random.within(0.02, 0.05),
            budget: idle + random.within(0.3, 0.9) * (busy - idle),
            change: random.within(0.85, 1.15),
            profile: random.within(0.9, 1.1),
        }
    }

    /// Whether work all the time, from rest on, brings the mean over half a second within 5 % of the cap in time to
    /// count as settled in 2 s: no controller is quicker.
    pub fn can_settle(&self) -> bool {
        // The middle of the last half second that is early enough.
        let seconds = 1.65;
        self.idle + (self.busy - self.idle) * (1.0 - libm::exp(-seconds / self.lag)) > 0.95 * self.budget
    }
}

/// What decides how much of the time work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// [`PowerTuner`].
    Tuner,
    /// [`Pi`] with gains from the true slope and lag.
    Pi,
    /// All below the cap, nothing above.
    BangBang,
    /// From a profile, once.
    OpenLoop,
}

impl Control {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tuner, Self::Pi, Self::BangBang, Self::OpenLoop];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tuner => "tuner",
            Self::Pi => "PI",
            Self::BangBang => "bang-bang",
            Self::OpenLoop => "open loop",
        }
    }
}

/// A proportional-integral controller whose sum is held within the limits of its output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pi {
    /// On the error.
    pub kp: f64,
    /// On its integral, per second.
    pub ki: f64,
    /// What shall be reached.
    pub setpoint: f64,
    /// Limits of the output.
    pub limits: [f64; 2],
    /// The integral so far.
    pub integral: f64,
}

impl Pi {
    /// The output after an input that counted for so many seconds.
    pub fn step(&mut self, input: f64, seconds: f64) -> f64 {
        let [low, high] = self.limits;
        let error = self.setpoint - input;
        self.integral = (self.integral + self.ki * error * seconds).clamp(low, high);
        (self.kp * error + self.integral).clamp(low, high)
    }
}

/// What a controller did with a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The most by which the mean over a tenth of a second was over the cap, relatively.
    pub overshoot: f64,
    /// Seconds after which the mean over half a second stays within 5 % of the cap, before the load changes.
    pub settled: f64,
    /// The mean's relative distance from the cap over the last third of either half, the larger.
    pub error: f64,
    /// The longest time in a row in which the mean over half a second was more than 3 % over the cap.
    pub longest_over: f64,
}

/// Seconds of a simulation.
const SECONDS: f64 = 40.0;
/// Seconds of a step.
const STEP: f64 = 1e-3;
/// J of the counter's grain.
const GRAIN: f64 = 6.1e-5;

/// Lets a controller hold a machine at its cap.
///
/// The duty cycle acts as a mean within a step: its cycles are shorter than the lag.
pub fn simulate(control: Control, plant: &Plant, seed: u32) -> Outcome {
    let mut random = Random::new(seed, 401);
    let slope = plant.busy - plant.idle;
    let mut tuner = PowerTuner::new(plant.budget, plant.idle).ok();
    // Pole cancellation: kp / ki is the lag, and the loop closes in half a second.
    let kp = plant.lag / (0.5 * slope);
    let mut pi = Pi { kp, ki: kp / plant.lag, setpoint: plant.budget, limits: [0.02, 1.0], integral: 0.02 };
    let mut duty = match control {
        Control::Tuner => tuner.as_ref().map_or(0.02, |tuner| tuner.pace().duty),
        Control::Pi => 0.02,
        Control::BangBang => 1.0,
        Control::OpenLoop => ((plant.budget - plant.idle) / (slope * plant.profile)).clamp(0.02, 1.0),
    };
    let period = PERIOD.as_secs_f64();
    let (mut power, mut joules, mut counted) = (plant.idle, 0.0, 0.0);
    let mut spans = Vec::new();
    for decision in 0..(SECONDS / period) as usize {
        let began = joules;
        let load = if decision as f64 * period > SECONDS / 2.0 { plant.change } else { 1.0 };
        for _ in 0..(period / STEP) as usize {
            power += (plant.idle + slope * load * duty - power) * (1.0 - libm::exp(-STEP / plant.lag));
            joules += power * STEP;
        }
        let mean = (joules - began) / period;
        spans.push(mean);
        let count = (joules / GRAIN).floor() * GRAIN;
        let seen = (count - counted) / period * (1.0 + plant.noise * random.normal());
        counted = count;
        duty = match control {
            Control::Tuner => tuner.as_mut().map_or(duty, |tuner| tuner.observe(seen.max(0.0), PERIOD).duty),
            Control::Pi => pi.step(seen, period),
            Control::BangBang => {
                if seen < plant.budget {
                    1.0
                } else {
                    0.02
                }
            }
            Control::OpenLoop => duty,
        };
    }
    outcome(&spans, plant.budget, period)
}

fn outcome(spans: &[f64], budget: f64, period: f64) -> Outcome {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let window = (0.5 / period).round().max(1.0) as usize;
    let smooth: Vec<f64> = spans.windows(window).map(|w| mean(w) / budget - 1.0).collect();
    let half = spans.len() / 2;
    let settled =
        smooth[..half - window].iter().rposition(|x| x.abs() > 0.05).map_or(0.0, |at| (at + window) as f64 * period);
    let (mut over, mut longest) = (0, 0);
    for x in &smooth {
        over = if *x > 0.03 { over + 1 } else { 0 };
        longest = longest.max(over);
    }
    let third = half / 3;
    let off = |range: &[f64]| (mean(range) / budget - 1.0).abs();
    Outcome {
        overshoot: spans.iter().map(|x| x / budget - 1.0).fold(0.0, f64::max),
        settled,
        error: off(&spans[half - third..half]).max(off(&spans[spans.len() - third..])),
        longest_over: f64::from(longest) * period,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_testkit::data::conformance;

    #[test]
    fn the_controller_is_simple_pids_step_for_step() {
        let goldens = std::fs::read_to_string(conformance("lab/signals.json")).unwrap();
        let golden = &serde_json::from_str::<serde_json::Value>(&goldens).unwrap()["pi"];
        let number = |key: &str| golden[key].as_f64().unwrap();
        let limits = [0.0, 1.0];
        let mut pi = Pi { kp: number("kp"), ki: number("ki"), setpoint: number("setpoint"), limits, integral: 0.0 };
        for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
            let found = pi.step(step[0].as_f64().unwrap(), number("dt"));
            assert!((found - step[1].as_f64().unwrap()).abs() < 1e-9, "step {i}: {found}");
        }
    }

    /// Where the controller's gains cancel the machine's lag, what is left is a lag of half a second: 1 − exp(−t / 0.5 s).
    #[test]
    fn the_controller_on_a_machine_of_first_order_is_the_closed_form() {
        let (lag, slope, setpoint, dt) = (0.7, 30.0, 20.0, 1e-4);
        let kp = lag / (0.5 * slope);
        let mut pi = Pi { kp, ki: kp / lag, setpoint, limits: [-10.0, 10.0], integral: 0.0 };
        let mut power = 0.0;
        for i in 1..=20_000 {
            let duty = pi.step(power, dt);
            power += (slope * duty - power) * (1.0 - libm::exp(-dt / lag));
            let expected = setpoint * (1.0 - libm::exp(-f64::from(i) * dt / 0.5));
            assert!((power - expected).abs() < 1e-3 * setpoint, "after {i} steps: {power} for {expected}");
        }
    }

    #[test]
    fn an_ideal_machine_is_held_and_an_outcome_sees_what_is_wrong() {
        let plant = Plant { idle: 10.0, busy: 50.0, lag: 0.02, noise: 0.0, budget: 30.0, change: 1.0, profile: 1.0 };
        for control in [Control::Tuner, Control::Pi, Control::OpenLoop] {
            let found = simulate(control, &plant, 1);
            assert!(found.error < 0.01 && found.settled < 4.0 && found.longest_over < 1.0, "{control:?}: {found:?}");
        }
        let wrong = simulate(Control::OpenLoop, &Plant { profile: 0.7, ..plant }, 1);
        assert!(wrong.error > 0.2 && wrong.longest_over > 30.0 && wrong.settled > 19.0, "{wrong:?}");
        let found = simulate(Control::BangBang, &plant, 1);
        assert!(found.overshoot > 0.3, "{found:?}");
    }
}
