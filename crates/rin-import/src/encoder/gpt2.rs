//! GPT-2: a pre-norm stack with learned positions, in which every position attends to those up to its own (Radford et al.,
//! 2019). As a network on rows it gives the logits of given ids; it does not continue text.

use super::build::{Builder, Ends};
use super::config::EncoderConfig;
use crate::Error;
use rin_model::{Extent, Function, Op, Output, OutputKind, Port};

const WORDS: &str = "wte.weight";

pub(super) fn write(b: &mut Builder<'_>, config: &EncoderConfig) -> Result<Ends, Error> {
    config.check()?;
    b.find_prefix(&["transformer."], WORDS)?;
    let (eps, heads, activation) = (config.eps(), config.heads()?, config.activation()?);
    let (table, vocab) = b.table(WORDS, 0, true)?;
    let words = b.node(Op::Embed { table }, &["ids"], "words");
    let (table, positions) = b.table("wpe.weight", 0, false)?;
    let mut x = b.node(Op::AddPositions { table }, &[&words], "embedding");
    for layer in 0..config.layers()? {
        let name = |part: &str| format!("h.{layer}.{part}");
        let of = |part: &str| format!("layer.{layer}.{part}");
        // Masks that checkpoints of the first versions hold.
        b.leave_out(&[name("attn.bias"), name("attn.masked_bias")]);
        let normed = b.norm(&name("ln_1"), eps, &x, &of("attention_norm"))?;
        let qkv = b.transposed(&name("attn.c_attn"), &normed, &of("qkv"), Function::Identity)?;
        let attention = b.node(Op::Attention { heads, causal: true }, &[&qkv], &of("attention"));
        let out = b.transposed(&name("attn.c_proj"), &attention, &of("attention_out"), Function::Identity)?;
        let sum = b.add(&out, &x, &of("attention_sum"));
        let normed = b.norm(&name("ln_2"), eps, &sum, &of("norm"))?;
        let up = b.transposed(&name("mlp.c_fc"), &normed, &of("up"), activation)?;
        let down = b.transposed(&name("mlp.c_proj"), &up, &of("down"), Function::Identity)?;
        x = b.add(&down, &sum, &of("sum"));
    }
    let normed = b.norm("ln_f", eps, &x, "last_norm")?;
    let logits = if b.has_head("lm_head.weight") {
        b.head("lm_head", &normed, "logits", Function::Identity)?.0
    } else {
        b.dense("wte", &normed, "logits", Function::Identity)?
    };
    // A row has a bound, which its logits reach first.
    let positions = positions.min(Extent::MOST.checked_div(vocab).unwrap_or(0)).max(1);
    Ok(Ends {
        inputs: vec![Port::sequence("ids", positions, false), Port::length()],
        outputs: vec![Output { name: logits, kind: OutputKind::Logits, labels: Vec::new() }],
    })
}
