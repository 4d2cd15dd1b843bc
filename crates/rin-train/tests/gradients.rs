//! The loss, the logits and every gradient of a tiny decoder against PyTorch.
#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

use candle_core::Tensor;
use rin_kernels::Cpu;
use rin_model::safetensors::Safetensors;
use rin_testkit::data::conformance;
use rin_train::config::{ModelConfig, TokenizerKind};
use rin_train::kernels::Kernels;
use rin_train::network::{Batch, Decoder, Network, Pass};
use rin_train::ops::cross_entropy;
use rin_train::parameters::Parameters;
use rin_train::weights::{Arithmetic, Weights};
use serde_json::Value;

/// Distance to PyTorch's float64, relative to the largest element of a tensor.
const TOLERANCE: f64 = 1e-4;

struct Reference {
    facts: Value,
    bytes: Vec<u8>,
    header: Safetensors,
}

impl Reference {
    fn read() -> Self {
        let facts = std::fs::read(conformance("gradients/tiny-decoder.json")).unwrap();
        let bytes = std::fs::read(conformance("gradients/tiny-decoder.safetensors")).unwrap();
        let header = Safetensors::parse(&bytes).unwrap();
        Self { facts: serde_json::from_slice(&facts).unwrap(), bytes, header }
    }

    fn number(&self, key: &str) -> usize {
        usize::try_from(self.facts[key].as_u64().unwrap()).unwrap()
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        serde_json::from_value(self.facts[key].clone()).unwrap()
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let t = self.header.tensors().iter().find(|t| t.source_name == name).unwrap();
        let at = usize::try_from(t.offset).unwrap();
        let bytes = &self.bytes[at..][..usize::try_from(t.n_bytes).unwrap()];
        bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    }

    fn network(&self) -> Decoder {
        let model = ModelConfig {
            dim: self.number("dim"),
            layers: self.number("layers"),
            heads: self.number("heads"),
            kv_heads: Some(self.number("kv_heads")),
            ffn: self.number("ffn"),
            ctx: self.number("seq"),
            ..ModelConfig::plain(TokenizerKind::Char)
        };
        Decoder::new(&model, self.number("vocab"), "tiny").unwrap()
    }
}

fn distance(found: &[f32], want: &[f32]) -> f64 {
    assert_eq!(found.len(), want.len());
    let largest = want.iter().fold(0.0_f64, |max, &x| max.max(f64::from(x).abs()));
    let differences = found.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    differences.fold(0.0, f64::max) / largest
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn compare(arithmetic: Arithmetic) {
    let reference = Reference::read();
    let network = reference.network();
    let mut parameters = Parameters(network.parameters());
    for p in &mut parameters.0 {
        p.values = reference.tensor(&format!("weight.{}", p.name));
        assert_eq!(p.values.len(), p.len(), "{}", p.name);
    }
    let kernels = Kernels::select(&Cpu::detect());
    let (weights, vars) = Weights::variable(&parameters, arithmetic, kernels).unwrap();
    let ids = reference.ids("ids");
    let batch = Batch { ids: &ids, seq: reference.number("seq") };
    let logits = network.forward(&weights, batch, Pass::Evaluate).unwrap();
    let far = distance(&numbers(&logits), &reference.tensor("logits"));
    assert!(far < TOLERANCE, "logits: {far:e}");
    let loss = cross_entropy(&logits, &reference.ids("targets"), kernels).unwrap();
    let want = reference.facts["loss"].as_f64().unwrap();
    assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - want).abs() < 1e-5 * want);
    let gradients = loss.backward().unwrap();
    for (var, p) in vars.iter().zip(&parameters.0) {
        let found = numbers(gradients.get(var.as_tensor()).unwrap());
        let far = distance(&found, &reference.tensor(&format!("gradient.{}", p.name)));
        assert!(far < TOLERANCE, "gradient of {}: {far:e}", p.name);
    }
}

#[test]
fn gradients_of_the_fast_product_are_those_of_pytorch() {
    compare(Arithmetic::Float);
}

#[test]
fn gradients_of_the_runtimes_product_are_those_of_pytorch() {
    compare(Arithmetic::Exact);
}
