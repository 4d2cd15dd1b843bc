//! ViT: pre-norm encoders over the squares of a picture.

use super::build::{Builder, Ends, values};
use super::config::{EncoderConfig, Picture};
use crate::Error;
use crate::foreign::ForeignError;
use rin_model::{Function, Op, Output, OutputKind, Pool, Port};

const PATCHES: &str = "embeddings.patch_embeddings.projection";

pub(super) fn write(b: &mut Builder<'_>, config: &EncoderConfig) -> Result<Ends, Error> {
    config.check()?;
    b.find_prefix(&["vit."], "embeddings.cls_token")?;
    let (eps, heads, activation) = (config.eps(), config.heads()?, config.activation()?);
    let Picture { channels, height, width, patch } = config.picture()?;

    let patches = b.node(Op::Patches { channels, height, width, size: patch }, &["pixels"], "patches");
    let patches = b.dense(PATCHES, &patches, "patch_embedding", Function::Identity)?;
    let vector = b.vector("embeddings.cls_token")?;
    let all = b.node(Op::Prepend { vector }, &[&patches], "with_class");
    let (table, _) = b.table("embeddings.position_embeddings", 0, false)?;
    let mut x = b.node(Op::AddPositions { table }, &[&all], "embedding");
    for layer in 0..config.layers()? {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let of = |part: &str| format!("layer.{layer}.{part}");
        let norm = b.norm(&name("layernorm_before"), eps, &x, &of("attention_norm"))?;
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.attention.{part}")));
        let attention = b.attention(qkv, heads, &norm, &format!("layer.{layer}"))?;
        let out = b.dense(&name("attention.output.dense"), &attention, &of("attention_out"), Function::Identity)?;
        let middle = b.add(&out, &x, &of("attention_sum"));
        let norm = b.norm(&name("layernorm_after"), eps, &middle, &of("norm"))?;
        let up = b.dense(&name("intermediate.dense"), &norm, &of("up"), activation)?;
        let down = b.dense(&name("output.dense"), &up, &of("down"), Function::Identity)?;
        x = b.add(&down, &middle, &of("sum"));
    }
    x = b.norm("layernorm", eps, &x, "hidden")?;
    let first = b.node(Op::Pool { kind: Pool::First }, &[&x], "first");
    let inputs = vec![Port::row("pixels", vec![channels, height, width])];
    let whole = config.architecture();
    if whole.ends_with("ForImageClassification") {
        let (name, classes) = b.head("classifier", &first, "logits", Function::Identity)?;
        let kind = if classes > 1 { OutputKind::Logits } else { OutputKind::Values };
        return Ok(Ends { inputs, outputs: vec![Output { name, kind, labels: config.labels(classes) }] });
    }
    if !(whole.is_empty() || whole.ends_with("Model")) {
        let what = format!("`{whole}` is not among the heads that are imported: none, ForImageClassification");
        return Err(ForeignError::unsupported(what).into());
    }
    let mut outputs = vec![values(&x)];
    if b.has("pooler.dense.weight") {
        outputs.push(values(&b.dense("pooler.dense", &first, "pooled", config.pooler_activation()?)?));
    } else {
        outputs.push(values(&first));
    }
    Ok(Ends { inputs, outputs })
}
