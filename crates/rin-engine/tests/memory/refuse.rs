//! Memories that cannot work are named at load.

use super::kind;
use rin_engine::{Error, LoadOptions, Plan};
use rin_model::{ModelFile, rin_format::KEY_CONFIG};
use serde_json::{Value, json};

/// The plan of a network whose description is changed.
fn plan(name: &str, ctx: usize, change: impl Fn(&mut Value)) -> Result<Plan, Error> {
    let bytes = std::fs::read(kind(name)).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut config: Value = serde_json::from_str(header["__metadata__"][KEY_CONFIG].as_str().unwrap()).unwrap();
    change(&mut config["memory"][0]);
    header["__metadata__"][KEY_CONFIG] = json!(config.to_string());
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize((text.len() + 8).next_multiple_of(64) - 8, b' ');
    let file = [&(text.len() as u64).to_le_bytes()[..], &text, &bytes[8 + length..]].concat();
    let file = ModelFile::from_bytes("changed.rin", file).map_err(Error::from)?;
    LoadOptions { ctx: Some(ctx), ..LoadOptions::default() }.plan(&file)
}

fn refusal(name: &str, change: impl Fn(&mut Value)) -> String {
    plan(name, 64, change).unwrap_err().to_string()
}

#[test]
fn sizes_that_cannot_work_are_named() {
    plan("bhrr", 64, |_| {}).unwrap();
    for (name, field, value, words) in [
        ("bhrr", "slots", json!(0), "memory.slots"),
        ("bhrr", "slots", json!(100_000), "memory.slots"),
        ("gsa", "slots", json!(20), "memory.slots"),
        ("linear", "slots", json!(4), "memory.slots"),
        ("linear", "v_dim", json!(24), "memory.v_dim"),
        ("linear", "k_dim", json!(0), "memory.k_dim"),
        ("linear", "conv", json!(9), "memory.conv"),
        ("linear", "conv", json!(1), "memory.conv"),
        ("delta", "k_heads", json!(3), "memory.k_heads"),
        ("gla", "k_heads", json!(1), "memory.k_heads"),
        ("bhrr", "k_dim", json!(8), "memory.k_dim"),
        ("bhrr", "bhrr", json!(null), "memory.bhrr"),
        ("bhrr", "output_gate", json!(true), "memory.output_gate"),
        // The tensors are not those of such a memory.
        ("linear", "v_heads", json!(4), "mem_in.weight"),
        ("bhrr-router-top", "slots", json!(16), "mem_codebook"),
    ] {
        let error = refusal(name, |memory| memory[field] = value.clone());
        assert!(error.contains(words), "{name} with {field} {value}: {error}");
    }
    let error = refusal("bhrr-router-top", |memory| memory["bhrr"]["top"] = json!(9));
    assert!(error.contains("memory.bhrr.top"), "{error}");
    let error = refusal("bhrr-router-top", |memory| memory["bhrr"]["state"] = json!("i32"));
    assert!(error.contains("memory.bhrr.state"), "{error}");
    let error = refusal("bhrr", |memory| memory["bhrr"]["top"] = json!(2));
    assert!(error.contains("memory.bhrr.top"), "{error}");
    let error = refusal("linear", |memory| memory["kind"] = json!("hopfield"));
    assert!(error.contains("hopfield") && error.contains("gated-delta"), "{error}");
}

#[test]
fn a_text_longer_than_whole_numbers_can_sum_is_refused() {
    // Signs in 16 bits: 32,767 of them at most.
    plan("bhrr-query-norm", 32_767, |_| {}).unwrap();
    let error = plan("bhrr-query-norm", 32_768, |_| {}).unwrap_err().to_string();
    assert!(error.contains("ctx") && error.contains("32767"), "{error}");
    // In 32 bits, values of 4 bits: 2^31 over 7.
    plan("bhrr-lsh", 306_783_378, |_| {}).unwrap();
    assert!(plan("bhrr-lsh", 306_783_379, |_| {}).is_err());
}
