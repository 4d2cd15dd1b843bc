//! BERT, RoBERTa and DistilBERT: post-norm encoders over token ids.

use super::build::{Builder, Ends, values};
use super::config::EncoderConfig;
use crate::Error;
use crate::foreign::ForeignError;
use rin_model::{Function, Op, Output, OutputKind, Pool, Port};

/// Where a family keeps the parts of a layer.
struct Names {
    layer: &'static str,
    qkv: [&'static str; 3],
    out: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: Names = Names {
    layer: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    layer: "transformer.layer",
    qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

const WORDS: &str = "embeddings.word_embeddings.weight";
const TYPES: &str = "embeddings.token_type_embeddings.weight";

pub(super) fn write(b: &mut Builder<'_>, config: &EncoderConfig) -> Result<Ends, Error> {
    config.check()?;
    b.find_prefix(&["bert.", "roberta.", "distilbert."], WORDS)?;
    let names = if config.model_type == "distilbert" { &DISTILBERT } else { &BERT };
    // RoBERTa counts positions from the one after its padding's id.
    let roberta = config.model_type.ends_with("roberta");
    let skip = if roberta { config.pad_token_id.unwrap_or(1).saturating_add(1) } else { 0 };
    let (eps, heads, activation) = (config.eps(), config.heads()?, config.activation()?);

    let (table, _) = b.table(WORDS, 0, true)?;
    let words = b.node(Op::Embed { table }, &["ids"], "words");
    let (table, positions) = b.table("embeddings.position_embeddings.weight", skip, false)?;
    let mut x = b.node(Op::AddPositions { table }, &[&words], "placed");
    let mut inputs = vec![Port::sequence("ids", positions, false)];
    if b.has(TYPES) {
        let (table, _) = b.table(TYPES, 0, false)?;
        let types = b.node(Op::Embed { table }, &["types"], "typed");
        x = b.add(&x, &types, "embedded");
        inputs.push(Port::sequence("types", positions, true));
    }
    inputs.push(Port::length());
    x = b.norm("embeddings.LayerNorm", eps, &x, "embedding")?;
    for layer in 0..config.layers()? {
        let name = |part: &str| format!("{}.{layer}.{part}", names.layer);
        let of = |part: &str| format!("layer.{layer}.{part}");
        let attention = b.attention(names.qkv.map(name), heads, &x, &format!("layer.{layer}"))?;
        let out = b.dense(&name(names.out), &attention, &of("attention_out"), Function::Identity)?;
        let sum = b.add(&out, &x, &of("attention_sum"));
        let middle = b.norm(&name(names.attention_norm), eps, &sum, &of("attention_norm"))?;
        let up = b.dense(&name(names.up), &middle, &of("up"), activation)?;
        let down = b.dense(&name(names.down), &up, &of("down"), Function::Identity)?;
        let sum = b.add(&down, &middle, &of("sum"));
        x = b.norm(&name(names.norm), eps, &sum, &of("norm"))?;
    }
    Ok(Ends { inputs, outputs: head(b, config, &x)? })
}

/// What stands behind the layers, by the name of the whole.
fn head(b: &mut Builder<'_>, config: &EncoderConfig, x: &str) -> Result<Vec<Output>, Error> {
    let whole = config.architecture();
    let first = |b: &mut Builder<'_>| b.node(Op::Pool { kind: Pool::First }, &[x], "first");
    let logits = |(name, classes): (String, usize)| {
        let kind = if classes > 1 { OutputKind::Logits } else { OutputKind::Values };
        vec![Output { name, kind, labels: config.labels(classes) }]
    };
    if whole.ends_with("ForSequenceClassification") {
        let pooled = first(b);
        let pooled = if b.has("pooler.dense.weight") {
            b.dense("pooler.dense", &pooled, "pooled", Function::Tanh)?
        } else if b.has_head("pre_classifier.weight") {
            b.head("pre_classifier", &pooled, "pooled", Function::Relu)?.0
        } else if b.has_head("classifier.dense.weight") {
            b.head("classifier.dense", &pooled, "pooled", Function::Tanh)?.0
        } else {
            pooled
        };
        let name = if b.has_head("classifier.out_proj.weight") { "classifier.out_proj" } else { "classifier" };
        return Ok(logits(b.head(name, &pooled, "logits", Function::Identity)?));
    }
    if whole.ends_with("ForTokenClassification") {
        return Ok(logits(b.head("classifier", x, "logits", Function::Identity)?));
    }
    if !(whole.is_empty()
        || whole.ends_with("Model")
        || whole.ends_with("ForMaskedLM")
        || whole.ends_with("ForPreTraining"))
    {
        let what = format!(
            "`{whole}` is not among the heads that are imported: none, ForSequenceClassification, ForTokenClassification"
        );
        return Err(ForeignError::unsupported(what).into());
    }
    let mean = b.node(Op::Pool { kind: Pool::Mean }, &[x], "mean");
    let mut outputs = vec![values(x), values(&mean)];
    if b.has("pooler.dense.weight") {
        let pooled = first(b);
        outputs.push(values(&b.dense("pooler.dense", &pooled, "pooled", Function::Tanh)?));
    }
    Ok(outputs)
}
