//! The memories as language models of equal size, trained until they use more context than counting does.

use rin_kernels::Format;
use rin_train::arms::arm;
use rin_train::config::{MemoryConfig, ModelConfig, TokenizerKind};
use rin_train::weights::Arithmetic;
use serde_json::{Value, json};

use super::networks::{self, Arm, Course, plain, rates_case, seed_case};
use crate::report::{Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Scale};

/// Counting four characters gives this, by Witten and Bell's interpolation.
pub(super) const BY_COUNTING: f64 = 1.669;
/// Below this a language model is said to use more context than that.
pub(super) const USES_CONTEXT: f64 = 1.66;
/// What the others are compared with.
pub(super) const SOFTMAX: &str = "softmax";
/// Arms with the inner width of the feed-forward network, in multiples of 32, that brings them within 2 % of the same parameters.
const ARMS: [(&str, usize); 8] = [
    (SOFTMAX, 416),
    ("window", 416),
    ("gated-delta", 384),
    ("gla", 352),
    ("mamba2", 384),
    ("rwkv7", 320),
    ("a6", 352),
    ("a10", 416),
];
const DIM: usize = 96;
const HEADS: usize = 3;
/// Characters of a window.
const SEQ: usize = 256;
/// Tokens whose keys and values have the bytes of a memory of three heads of 32 × 32.
const WINDOW: usize = 16;
const RATES: [f64; 3] = [1e-3, 2e-3, 4e-3];

fn memory(name: &str) -> Option<MemoryConfig> {
    match name {
        // With 32 slots the decays of slots and the codebook would take 3 % more parameters than softmax has.
        "a6" => arm(name, 28),
        "a10" => arm(name, 2).map(|m| MemoryConfig { k_dim: Some(16), ..m }),
        _ => arm(name, 16),
    }
}

fn arms() -> impl Iterator<Item = Arm> {
    ARMS.into_iter().map(|(name, ffn)| {
        let model = ModelConfig {
            dim: DIM,
            layers: 5,
            heads: HEADS,
            ffn,
            ctx: SEQ,
            window: (name == "window").then_some(WINDOW),
            memory: memory(name),
            ..ModelConfig::plain(TokenizerKind::Char)
        };
        Arm { name, model, arithmetic: Arithmetic::Float, make: plain }
    })
}

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let course = scale.pick(
        Course { steps: 3, float_steps: 0, rates: RATES, rate_steps: 1, batch: 1, chars: 1000 },
        Course { steps: 2000, float_steps: 0, rates: RATES, rate_steps: 200, batch: 8, chars: usize::MAX },
    );
    networks::cases(course, arms(), 1, run)
}

/// Trains and evaluates an arm, and evaluates it with weights and activations of 8 bits.
fn run(course: Course, arm: &Arm, seed: u64, context: &Context<'_>) -> Result<Value, Error> {
    let trained = course.network(arm, seed, context)?;
    let [whole, rounded] =
        [Arithmetic::Float, Arithmetic::Quant(Format::Q8_0)].map(|how| course.evaluated(&trained, how, context));
    let (whole, rounded) = (whole?, rounded?);
    let mut value = networks::told(arm, &trained, &whole);
    let same = whole.argmax.iter().zip(&rounded.argmax).filter(|(a, b)| a == b).count();
    value["q8_0"] = json!({
        "nats": rounded.nats_per_char,
        "more": rounded.more_than(&whole),
        "same": same as f64 / whole.argmax.len().max(1) as f64,
    });
    Ok(value)
}

/// What an arm loses, in nats, and the share of the most probable characters that 8 bits keep.
#[derive(Clone, Copy)]
pub(super) struct Loss {
    pub(super) name: &'static str,
    pub(super) nats: f64,
    pub(super) same: f64,
}

/// The table, and each arm's loss.
pub(super) fn judge(results: &Results) -> Result<(Table, Vec<Loss>), Error> {
    let softmax = results.number(&seed_case(SOFTMAX, 0), "/nats")?;
    let mut table = Table::new(
        "Language models of tiny Shakespeare of equal size, nats per character on the whole validation split, and what 8-bit weights and activations (Q8_0) change:",
        &[
            "arm",
            "parameters",
            "rate",
            "nats",
            "95 % interval",
            "more than softmax",
            "same character in 8 bits",
            "more nats in 8 bits",
        ],
    );
    let mut losses = Vec::new();
    for (name, _) in ARMS {
        let case = seed_case(name, 0);
        let number = |pointer: &str| results.number(&case, pointer);
        let nats = number("/nats")?;
        let same = number("/q8_0/same")?;
        table.row([
            name.to_owned(),
            digits(number("/parameters")?),
            digits(results.number(&rates_case(name), "/best")?),
            format!("{nats:.4}"),
            interval([number("/interval/0")?, number("/interval/1")?]),
            format!("{:+.4}", nats - softmax),
            percent(same),
            format!("{:+.4}", number("/q8_0/more/0")?),
        ]);
        losses.push(Loss { name, nats, same });
    }
    Ok((table, losses))
}
