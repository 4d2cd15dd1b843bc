//! The loss and every gradient of tiny decoders with memories against PyTorch; and a short training that the engine runs.
#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

use rin_engine::{Engine, LoadOptions};
use rin_kernels::Cpu;
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_model::safetensors::Safetensors;
use rin_testkit::data::conformance;
use rin_train::config::{MemoryConfig, ModelConfig, TokenizerKind};
use rin_train::kernels::Kernels;
use rin_train::network::{Batch, Decoder, Network, Pass};
use rin_train::ops::cross_entropy;
use rin_train::parameters::Parameters;
use rin_train::vocabulary::Vocabulary;
use rin_train::weights::{Arithmetic, Weights};
use serde_json::{Value, json};

/// Distance to PyTorch, relative to the largest element of a tensor.
const TOLERANCE: f64 = 1e-4;

struct Reference {
    facts: Value,
    bytes: Vec<u8>,
    header: Safetensors,
}

impl Reference {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(conformance(&format!("gradients/memory-{name}.safetensors"))).unwrap();
        let header = Safetensors::parse(&bytes).unwrap();
        let facts = serde_json::from_str(header.get("facts").unwrap()).unwrap();
        Self { facts, bytes, header }
    }

    fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let t = self.header.tensors().iter().find(|t| t.source_name == name)?;
        let at = usize::try_from(t.offset).unwrap();
        let bytes = &self.bytes[at..][..usize::try_from(t.n_bytes).unwrap()];
        Some(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
    }

    fn network(&self, seq: usize) -> Decoder {
        let number = |key: &str| usize::try_from(self.facts[key].as_u64().unwrap()).unwrap();
        let layers = self.facts["layers"].as_array().unwrap();
        let first = &layers[0];
        let names: Vec<Value> =
            layers.iter().map(|m| if m.is_null() { json!("softmax") } else { m["kind"].clone() }).collect();
        let mut memory = json!({
            "layers": names, "conv": first["conv"], "output_norm": first["output_norm"],
            "output_gate": first["output_gate"],
        });
        if first["slots"] != 0 {
            memory["slots"] = first["slots"].clone();
        }
        if first["kind"] == "bhrr" {
            for (arm, value) in first["bhrr"].as_object().unwrap().iter().filter(|(arm, _)| *arm != "outer") {
                memory[arm] = value.clone();
            }
        }
        let memory: MemoryConfig = serde_json::from_value(memory).unwrap();
        let model = ModelConfig {
            dim: number("dim"),
            layers: layers.len(),
            heads: 2,
            ffn: number("ffn"),
            ctx: seq,
            memory: Some(memory),
            ..ModelConfig::plain(TokenizerKind::Char)
        };
        Decoder::new(&model, number("vocab"), "tiny").unwrap()
    }
}

fn distance(found: &[f32], want: &[f32]) -> f64 {
    assert_eq!(found.len(), want.len());
    let largest = want.iter().fold(0.0_f64, |max, &x| max.max(f64::from(x).abs()));
    let differences = found.iter().zip(want).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    differences.fold(0.0, f64::max) / largest.max(1e-12)
}

#[test]
fn gradients_of_memories_are_those_of_pytorch() {
    for name in [
        "linear",
        "retnet",
        "gla",
        "delta",
        "gated-delta",
        "mamba2",
        "gsa",
        "rwkv7",
        "bhrr-signs",
        "bhrr-router",
        "bhrr-delta",
    ] {
        let reference = Reference::read(name);
        let tokens: Vec<u32> = serde_json::from_value(reference.facts["tokens"].clone()).unwrap();
        let seq = tokens.len() - 1;
        let network = reference.network(seq);
        let mut parameters = Parameters(network.parameters());
        for p in &mut parameters.0 {
            p.values = reference.tensor(&format!("weight.{}", p.name)).unwrap_or_else(|| panic!("{name}: {}", p.name));
            assert_eq!(p.values.len(), p.len(), "{name}: {}", p.name);
        }
        for arithmetic in [Arithmetic::Float, Arithmetic::Exact] {
            let kernels = Kernels::select(&Cpu::detect());
            let (weights, vars) = Weights::variable(&parameters, arithmetic, kernels).unwrap();
            let logits = network.forward(&weights, Batch { ids: &tokens[..seq], seq }, Pass::Evaluate).unwrap();
            let loss = cross_entropy(&logits, &tokens[1..], kernels).unwrap();
            let want = reference.facts["loss"].as_f64().unwrap();
            let found = f64::from(loss.to_scalar::<f32>().unwrap());
            assert!((found - want).abs() < 1e-5 * want, "{name}: a loss of {found} for {want}");
            let gradients = loss.backward().unwrap();
            for (var, p) in vars.iter().zip(&parameters.0) {
                // Rates are held fixed; a hash has no gradient for its codebook, which is not there.
                let Some(want) =
                    reference.tensor(&format!("gradient.{}", p.name)).filter(|_| !p.name.ends_with(".mem_rate"))
                else {
                    continue;
                };
                let found: Vec<f32> = gradients.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let far = distance(&found, &want);
                assert!(far < TOLERANCE, "{name}: gradient of {}: {far:e}", p.name);
            }
        }
    }
}

/// What is trained is what runs: the logits of the exact forward pass are the bits of the engine on the exported file.
#[test]
fn the_forward_pass_has_the_bits_of_the_engine() {
    for name in ["linear", "gla", "gated-delta", "mamba2", "gsa", "rwkv7", "bhrr-router", "bhrr-delta", "bhrr-signs"] {
        let reference = Reference::read(name);
        let tokens: Vec<u32> = serde_json::from_value(reference.facts["tokens"].clone()).unwrap();
        let network = reference.network(tokens.len());
        let parameters = rin_train::network::initialize(&network, 3);
        let kernels = Kernels::select(&Cpu::detect());
        let weights = Weights::constant(&parameters, Arithmetic::Exact, kernels).unwrap();
        let batch = Batch { ids: &tokens, seq: tokens.len() };
        let want: Vec<f32> =
            network.forward(&weights, batch, Pass::Evaluate).unwrap().flatten_all().unwrap().to_vec1().unwrap();

        let letters: Vec<u8> = (0..40_u8).map(|i| b'0' + i).collect();
        let vocabulary = Vocabulary::learn(TokenizerKind::Char, &letters, 0).unwrap();
        let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("memory-{name}.rin"));
        rin_train::export::export(&network, &parameters, &vocabulary, None, &path).unwrap();
        let options = LoadOptions {
            threads: Some(1),
            ctx: Some(64),
            n_logits: 64,
            kv_type: Some(KvType::F32),
            ..LoadOptions::default()
        };
        let mut engine = Engine::load(ModelFile::open(&path).unwrap(), &options, |_| {}).unwrap();
        let sequence = engine.sequence().unwrap();
        let mut got = Vec::new();
        engine.feed_all(&sequence, &tokens, |logits| got.extend_from_slice(logits)).unwrap();
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&want), "{name}");
        std::fs::remove_file(path).unwrap();
    }
}
