//! Kernels against every intermediate activation of a trained network: gpt-nano, three layers, 48 wide, 3 heads of 16.
//!
//! The file holds a batch of three sequences of 11 positions through layer 0. Its layer norm, learned positions and GELU
//! are not RIN's; its matrix products and its causal attention are. A float64 recomputation from the stored inputs agrees
//! with the stored outputs to 1.6e-6, so 4e-6 leaves room for the order of sums and nothing else.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_kernels::ops::attention::{Attention, KvType, RowState};
use rin_kernels::ops::linear::{Epilogue, Input, Linear};
use rin_kernels::pack::{LANES, pack_panel};
use rin_kernels::{Cpu, Format, MatMut};
use rin_testkit::data::{floats_of_base64, shared};
use serde_json::Value;

const BOUND: f32 = 4e-6;
const POSITIONS: usize = 11;
const HEADS: usize = 3;
const HEAD_DIM: usize = 16;

fn tensor(file: &Value, name: &str) -> Vec<f32> {
    let values = floats_of_base64(file[name]["data"].as_str().unwrap());
    let n: u64 = file[name]["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product();
    assert_eq!(values.len() as u64, n, "{name}");
    values
}

fn files() -> Option<(Value, Value)> {
    let read = |name: &str| {
        let path = shared(&format!("models/gpt-nano/{name}"))?;
        Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    };
    Some((read("gpt-nano-sort-model.json")?, read("gpt-nano-sort-t0-partials.json")?))
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(worst <= BOUND, "{what}: {worst:e}");
}

/// `y = x · wᵀ + bias (+ residual)` on every tier.
fn check_linear(what: &str, x: &[f32], w: &[f32], bias: Option<&[f32]>, residual: Option<&[f32]>, want: &[f32]) {
    let rows = bias.map_or(3, <[f32]>::len);
    let cols = w.len() / rows;
    let tokens = x.len() / cols;
    let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut packed = vec![0; Format::F32.packed_bytes(rows, cols).unwrap()];
    for (p, panel) in packed.chunks_exact_mut(Format::F32.panel_bytes(cols).unwrap()).enumerate() {
        pack_panel(Format::F32, cols, |lane| bytes.get((p * LANES + lane) * cols * 4..)?.get(..cols * 4), panel)
            .unwrap();
    }
    for tier in Cpu::detect().tiers() {
        let op = Linear::select(Format::F32, &Cpu::detect().up_to(tier));
        let mut y = residual.map_or_else(|| vec![0.0; tokens * rows], <[f32]>::to_vec);
        let epilogue = Epilogue { bias, add: residual.is_some() };
        op.run(&mut MatMut::new(&mut y, tokens, rows), &packed, Input::Float { x, cols }, epilogue);
        assert_close(&format!("{what} on {tier}"), &y, want);
    }
}

#[test]
fn matrix_products_of_a_trained_network() {
    let Some((model, partials)) = files() else { return };
    let layer = |name: &str| tensor(&model, &format!("transformer.h.0.{name}"));
    let seen = |name: &str| tensor(&partials, name);
    let product = |x: &str, matrix: &str, residual: Option<&str>, y: &str| {
        let (w, bias) = (layer(&format!("{matrix}.weight")), layer(&format!("{matrix}.bias")));
        check_linear(y, &seen(x), &w, Some(&bias), residual.map(seen).as_deref(), &seen(y));
    };
    product("ln1", "attn.c_attn", None, "qkv");
    product("y", "attn.c_proj", None, "yProj");
    product("y", "attn.c_proj", Some("x"), "attnResid");
    product("ln2", "mlp.c_fc", None, "fc");
    product("gelu", "mlp.c_proj", None, "mlp");
    product("gelu", "mlp.c_proj", Some("attnResid"), "mlpResid");
    check_linear("lm_head", &seen("ln_f"), &tensor(&model, "lm_head.weight"), None, None, &seen("lm_head"));
}

/// 64-byte aligned bytes, as pages are in the arena.
#[repr(C, align(64))]
struct Page([u8; 64 * HEAD_DIM * 4]);

#[test]
fn causal_attention_of_a_trained_network() {
    let Some((_, partials)) = files() else { return };
    let [q, k, v, want] = ["q", "k", "v", "y"].map(|name| tensor(&partials, name));
    for tier in Cpu::detect().tiers() {
        let attention = Attention::select(KvType::F32, &Cpu::detect().up_to(tier));
        let mut got = vec![0.0; want.len()];
        for (head, ((q, k), v)) in q
            .chunks(POSITIONS * HEAD_DIM)
            .zip(k.chunks(POSITIONS * HEAD_DIM))
            .zip(v.chunks(POSITIONS * HEAD_DIM))
            .enumerate()
        {
            let mut k_page = Page([0; 64 * HEAD_DIM * 4]);
            let mut v_page = Page([0; 64 * HEAD_DIM * 4]);
            for t in 0..POSITIONS {
                let at = t * HEAD_DIM..(t + 1) * HEAD_DIM;
                attention.store.run(&mut k_page.0, &mut v_page.0, t, &k[at.clone()], &v[at.clone()]);
                let mut state = [RowState::EMPTY];
                let mut out = [0.0; HEAD_DIM];
                let valid = [(0, u32::try_from(t).unwrap() + 1)];
                attention.page.run(&mut out, &mut state, &q[at], &k_page.0, &v_page.0, &[], &valid, 0.25);
                attention.finish.run(&mut out, &state, HEAD_DIM);
                // q, k, v are (batch, head, position, 16); y is (batch, position, head × 16).
                let row = (head / HEADS * POSITIONS + t) * HEADS + head % HEADS;
                got[row * HEAD_DIM..][..HEAD_DIM].copy_from_slice(&out);
            }
        }
        assert_close(&format!("y on {tier}"), &got, &want);
    }
}
