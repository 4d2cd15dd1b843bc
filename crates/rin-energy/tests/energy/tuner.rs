//! The power cap on simulated machines.

use std::time::Duration;

use rin_energy::tuner::{PERIOD, PowerTuner, TunerError};

use crate::fake::{Fake, MAX_14, watts};

/// Numbers that look random (splitmix64; Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.next()
    }

    fn one_of(&mut self, values: &[f64]) -> f64 {
        values[(self.next() * values.len() as f64) as usize]
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// A machine: power follows work with a lag, not quite in proportion, seen through a counter with noise.
struct Plant {
    idle: f64,
    busy: f64,
    /// Power above idle goes with the duty cycle to this power.
    exponent: f64,
    lag: f64,
    token: f64,
    noise: f64,
    /// Factor on the power above idle from half of the time on.
    load: f64,
    budget: f64,
    random: Random,
}

impl Plant {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let idle = random.one_of(&[2.0, 5.0, 10.0, 20.0, 40.0, 60.0]);
        let busy = idle * random.within(2.0, 8.0);
        let budget = idle + random.within(0.25, 0.9) * (busy - idle);
        Self {
            idle,
            busy,
            exponent: random.within(0.85, 1.15),
            lag: random.one_of(&[0.0, 0.01, 0.03, 0.06, 0.1]),
            token: random.one_of(&[0.002, 0.005, 0.01, 0.03, 0.08]),
            noise: random.one_of(&[0.0, 0.005, 0.01, 0.02]),
            load: random.within(0.85, 1.15),
            budget,
            random,
        }
    }

    /// A machine whose power follows slowly and is seen through much noise.
    fn slow(seed: u64) -> Self {
        let mut plant = Self::new(seed);
        plant.lag = 0.2 * libm::pow(10.0, plant.random.next());
        plant.noise = plant.random.within(0.02, 0.05);
        plant
    }

    /// Whether work all the time, from idle on, would bring the power within 5 % of the budget in so many seconds.
    fn can_settle_within(&self, seconds: f64) -> bool {
        let most = self.idle + (self.busy - self.idle) * (1.0 - libm::exp(-seconds / self.lag));
        most > 0.95 * self.budget
    }

    /// Mean powers over the spans between decisions, with the ends of these.
    fn run(&mut self, seconds: f64) -> Vec<(f64, f64)> {
        const STEP: f64 = 5e-4;
        const COUNT: f64 = 6.1e-5;
        let mut tuner = PowerTuner::new(self.budget, self.idle).unwrap();
        let (mut time, mut power, mut joules) = (0.0, self.idle, 0.0);
        let (mut last, mut spans) = ((0.0, 0.0), Vec::new());
        while time < seconds {
            let pace = tuner.pace();
            let rest = pace.rest(Duration::from_secs_f64(self.token)).as_secs_f64();
            for (working, length) in [(1.0, self.token), (0.0, rest)] {
                let steps = (length / STEP).round();
                let step = length / steps.max(1.0);
                for _ in 0..steps as u32 {
                    let load = if time > seconds / 2.0 { self.load } else { 1.0 };
                    let above = (self.busy - self.idle) * load * libm::pow(pace.duty, self.exponent - 1.0);
                    let follow = if self.lag > 0.0 { 1.0 - libm::exp(-step / self.lag) } else { 1.0 };
                    power += (self.idle + working * above - power) * follow;
                    joules += power * step;
                    time += step;
                }
            }
            if time - last.0 >= PERIOD.as_secs_f64() {
                let counts = (joules / COUNT).floor() - (last.1 / COUNT).floor();
                let noise = 1.0 + self.noise * self.random.normal();
                let span = time - last.0;
                tuner.observe(counts * COUNT / span * noise, Duration::from_secs_f64(span));
                spans.push((time, (joules - last.1) / (time - last.0)));
                last = (time, joules);
            }
        }
        spans
    }
}

/// The time after which the mean over half a second stays within 5 % of the budget.
fn settled(spans: &[(f64, f64)], budget: f64) -> f64 {
    let mut settled = 0.0;
    for (i, (end, _)) in spans.iter().enumerate() {
        let (mut joules, mut seconds) = (0.0, 0.0);
        for j in (0..=i).rev() {
            let begin = if j == 0 { 0.0 } else { spans[j - 1].0 };
            if end - begin > 0.5 && j < i {
                break;
            }
            joules += spans[j].1 * (spans[j].0 - begin);
            seconds += spans[j].0 - begin;
        }
        if (joules / seconds / budget - 1.0).abs() > 0.05 {
            settled = *end;
        }
    }
    settled
}

fn mean(spans: &[(f64, f64)]) -> f64 {
    spans.iter().map(|span| span.1).sum::<f64>() / spans.len() as f64
}

/// What a machine's power did, held at its cap for 20 s: the most over it, relatively; seconds until it settled; the mean's
/// relative distance before and after the load changes, each without its first seconds, the larger.
fn held(plant: &mut Plant) -> [f64; 3] {
    let spans = plant.run(20.0);
    let budget = plant.budget;
    let (first, second): (Vec<_>, Vec<_>) = spans.iter().copied().partition(|span| span.0 < 10.0);
    let over = first.iter().map(|span| span.1 / budget - 1.0).fold(0.0, f64::max);
    let steady = |spans: &[(f64, f64)], from: f64| {
        let late: Vec<_> = spans.iter().copied().filter(|span| span.0 > from).collect();
        (mean(&late) / budget - 1.0).abs()
    };
    [over, settled(&first, budget), steady(&first, 4.0).max(steady(&second, 12.0))]
}

#[test]
fn thirty_machines_meet_their_caps() {
    let mut most = [0.0_f64; 3];
    for seed in 0..30 {
        let [over, settled, error] = held(&mut Plant::new(77_000 + seed));
        assert!(over < 0.10, "machine {seed} goes {:.1} % over its cap", 100.0 * over);
        assert!(settled < 2.0, "machine {seed} settles after {settled:.2} s");
        assert!(error < 0.03, "machine {seed} is {:.1} % off", 100.0 * error);
        most = [most[0].max(over), most[1].max(settled), most[2].max(error)];
    }
    println!("overshoot {:.3}, settled {:.2} s, error {:.4} at most", most[0], most[1], most[2]);
}

#[test]
fn machines_that_follow_slowly_through_noise_meet_their_caps() {
    let (mut most, mut can, mut late) = ([0.0_f64; 2], 0, Vec::new());
    for seed in 0..30 {
        let mut plant = Plant::slow(77_000 + seed);
        let possible = plant.can_settle_within(1.5);
        let [over, settled, error] = held(&mut plant);
        assert!(over < 0.10, "machine {seed} goes {:.1} % over its cap", 100.0 * over);
        assert!(error < 0.03, "machine {seed} is {:.1} % off", 100.0 * error);
        most = [most[0].max(over), most[1].max(error)];
        if possible {
            can += 1;
            late.extend((settled >= 2.0).then_some((seed, settled)));
        }
    }
    println!("overshoot {:.3}, error {:.4} at most; of {can} that can, late: {late:?}", most[0], most[1]);
    assert!(can >= 20 && late.is_empty(), "of {can} that can, late: {late:?}");
}

#[test]
fn a_cap_beyond_reach_does_not_wind_up() {
    // 50 W at most; the cap of 80 W is never reached, and then the work doubles.
    let mut tuner = PowerTuner::new(80.0, 10.0).unwrap();
    for _ in 0..1000 {
        let duty = tuner.pace().duty;
        tuner.observe(10.0 + 40.0 * duty, PERIOD);
    }
    assert!((tuner.pace().duty - 1.0).abs() < 1e-9 && tuner.pace().rest(Duration::from_secs(1)).is_zero());
    let mut decisions = 0;
    loop {
        let duty = tuner.pace().duty;
        let watts = 10.0 + 160.0 * duty;
        if watts < 1.05 * 80.0 {
            break;
        }
        tuner.observe(watts, PERIOD);
        decisions += 1;
        assert!(decisions <= 5, "still {watts} W");
    }
}

#[test]
fn fewer_threads_come_before_long_rests_and_more_before_a_cap_unused() {
    let watts = |duty: f64, threads: usize| 10.0 + 20.0 * threads as f64 * duty;
    // Eight threads would take 170 W.
    let mut tuner = PowerTuner::new(40.0, 10.0).unwrap().with_threads(8);
    for _ in 0..200 {
        let pace = tuner.pace();
        tuner.observe(watts(pace.duty, pace.threads), PERIOD);
    }
    let pace = tuner.pace();
    assert!(pace.threads < 5 && pace.duty >= 0.35, "{pace:?}");
    assert!((watts(pace.duty, pace.threads) / 40.0 - 1.0).abs() < 0.03, "{pace:?}");
    // The work gets lighter: the cap permits more threads again.
    for _ in 0..200 {
        let pace = tuner.pace();
        tuner.observe(10.0 + 4.0 * pace.threads as f64 * pace.duty, PERIOD);
    }
    assert!(tuner.pace().threads > pace.threads, "{:?}", tuner.pace());
    // Without the permission it only paces.
    let mut tuner = PowerTuner::new(40.0, 10.0).unwrap();
    for _ in 0..200 {
        tuner.observe(10.0 + 160.0 * tuner.pace().duty, PERIOD);
    }
    assert_eq!(tuner.pace().threads, 1);
}

#[test]
fn what_cannot_be_held_is_refused() {
    let sensors = Fake::new().sensors();
    assert!(matches!(PowerTuner::for_machine(30.0, &sensors), Err(TunerError::NoSensor(_))));
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(25.0, MAX_14));
    assert!(PowerTuner::for_machine(30.0, &fake.sensors()).is_ok());
    let Err(TunerError::BelowIdle { budget: 20.0, idle }) = PowerTuner::for_machine(20.0, &fake.sensors()) else {
        panic!()
    };
    assert!((idle - 25.0).abs() < 0.1);
    let fake = Fake::new();
    fake.file("sys/class/power_supply/BAT0/type", "Battery")
        .file("sys/class/power_supply/BAT0/status", "Discharging")
        .file("sys/class/power_supply/BAT0/power_now", "9500000");
    assert!(matches!(PowerTuner::for_machine(30.0, &fake.sensors()), Err(TunerError::TooSlow { .. })));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(PowerTuner::new(bad, 1.0), Err(TunerError::BadBudget { .. })));
        assert!(matches!(PowerTuner::for_machine(bad, &sensors), Err(TunerError::BadBudget { .. })));
    }
}
