//! Hugging Face folders.

use rin_model::{Arch, Config, Error, ModelFile, Pairing, RopeScaling, RowOrder, TokenizerSource};
use rin_testkit::safetensors_writer::SafetensorsWriter;

use crate::tiny::{CONFIG_JSON, Folder, TENSORS, safetensors, values};

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("config.json", CONFIG_JSON);
    folder.write("model.safetensors", safetensors().finish());
    folder.write("tokenizer.json", "{\"model\":{}}");
    folder
}

#[test]
fn a_folder_and_its_file_are_one_model() {
    let folder = folder();
    for path in [folder.path().to_path_buf(), folder.path().join("model.safetensors")] {
        let file = ModelFile::open(&path).unwrap();
        let config = file.config().unwrap();
        assert_eq!((config.arch, config.n_layers, config.head_dim, config.vocab), (Arch::Llama, 1, 4, 10));
        assert_eq!((config.eos.as_slice(), config.bos), (&[2, 3][..], Some(1)));
        assert_eq!(config.name.as_deref(), folder.path().file_name().and_then(|name| name.to_str()));
        assert_eq!(config.rope.pairing, Pairing::Interleaved);
        for (name, hf, shape) in TENSORS {
            let tensor = file.tensor(name).unwrap();
            assert_eq!((tensor.source_name.as_str(), tensor.shape.as_slice()), (hf, shape));
            assert_eq!(file.bytes(tensor), values(name, shape));
            let rows = match name {
                "blk.0.attn_q.weight" => RowOrder::HalfToInterleaved { heads: 2 },
                "blk.0.attn_k.weight" => RowOrder::HalfToInterleaved { heads: 1 },
                _ => RowOrder::AsStored,
            };
            assert_eq!(tensor.rows, rows, "{name}");
        }
        let TokenizerSource::HuggingFace(json, None) = file.tokenizer().unwrap() else { panic!("tokenizer.json") };
        assert_eq!(json, b"{\"model\":{}}");
        file.check_unchanged().unwrap();
    }
}

#[test]
fn generation_config_names_the_ends() {
    let folder = folder();
    folder.write("generation_config.json", r#"{"eos_token_id": 7}"#);
    let file = ModelFile::open(folder.path()).unwrap();
    assert_eq!(file.config().unwrap().eos, [7]);
}

#[test]
fn what_is_absent_is_named() {
    let kind_without = |name: &str| {
        let folder = folder();
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let file = ModelFile::open(folder.path())?;
        file.config()?;
        file.tokenizer().map(drop)
    };
    assert_eq!(kind_without("model.safetensors").unwrap_err().kind(), "NotAModel");
    assert_eq!(kind_without("config.json").unwrap_err().kind(), "MissingFile");
    assert_eq!(kind_without("tokenizer.json").unwrap_err().kind(), "MissingFile");
}

/// Two shards by an index; `map` may place tensors elsewhere.
fn sharded(map: impl Fn(&str, &str) -> Option<String>, extra: &str) -> Result<(), Error> {
    let folder = Folder::new();
    folder.write("config.json", CONFIG_JSON);
    let mut shards = [SafetensorsWriter::new(), SafetensorsWriter::new()];
    let mut places = Vec::new();
    for (i, (name, hf, shape)) in TENSORS.iter().enumerate() {
        let shard = i % 2;
        shards[shard] = shards[shard].clone().tensor(hf, "F32", shape, &values(name, shape));
        let file = format!("model-0000{}-of-00002.safetensors", shard + 1);
        if let Some(place) = map(hf, &file) {
            places.push(format!("{hf:?}:{place:?}"));
        }
    }
    for (i, shard) in shards.iter().enumerate() {
        folder.write(&format!("model-0000{}-of-00002.safetensors", i + 1), shard.finish());
    }
    let index = format!("{{\"metadata\":{{}},\"weight_map\":{{{}{extra}}}}}", places.join(","));
    folder.write("model.safetensors.index.json", index);
    let file = ModelFile::open(folder.path())?;
    file.config()?;
    for (name, _, shape) in TENSORS {
        assert_eq!(file.bytes(file.tensor(name).unwrap()), values(name, shape));
    }
    Ok(())
}

#[test]
fn shards_are_found_by_the_index() {
    let place = |_: &str, file: &str| Some(file.to_owned());
    sharded(place, "").unwrap();
    let norm = "model.norm.weight";
    let moved = |to: &'static str| {
        sharded(move |hf, file| Some(if hf == norm { to.to_owned() } else { file.to_owned() }), "").unwrap_err().kind()
    };
    assert_eq!(moved("model-00002-of-00002.safetensors"), "BadShard");
    assert_eq!(moved("model-00003-of-00002.safetensors"), "BadShard");
    for path in ["../model.safetensors", "/etc/passwd", "a/../../x.safetensors", "", ".", "a\\..\\b", "c:x"] {
        let path: &'static str = path;
        assert_eq!(moved(path), "PathEscape", "{path}");
    }
    let absent = sharded(|hf, file| (hf != norm).then(|| file.to_owned()), "");
    assert_eq!(absent.unwrap_err().kind(), "MissingTensor");
    let extra = r#","ghost.weight":"model-00001-of-00002.safetensors""#;
    assert_eq!(sharded(place, extra).unwrap_err().kind(), "BadShard");
    let twice = r#","model.norm.weight":"model-00001-of-00002.safetensors""#;
    assert_eq!(sharded(place, twice).unwrap_err().kind(), "Duplicate");
}

fn config(edits: &[(&str, &str)]) -> Result<Config, Error> {
    let mut json: serde_json::Value = serde_json::from_str(CONFIG_JSON).unwrap();
    for (key, value) in edits {
        json[*key] = serde_json::from_str(value).unwrap();
    }
    Config::from_hf(json.to_string().as_bytes(), None)
}

#[test]
fn rope_in_its_old_and_new_form() {
    let llama3 = r#"{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 32, "rope_type": "llama3"}"#;
    let old = config(&[("rope_theta", "500000.0"), ("rope_scaling", llama3)]).unwrap();
    let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_ctx: 32 };
    assert_eq!((old.rope.base.to_bits(), &old.rope.scaling), (500_000_f32.to_bits(), &scaling));
    let new = llama3.replace("\"rope_type\"", "\"rope_theta\": 500000.0, \"rope_type\"");
    assert_eq!(config(&[("rope_theta", "null"), ("rope_parameters", &new)]).unwrap(), old);

    let linear = config(&[("rope_scaling", r#"{"type": "linear", "factor": 2.0}"#)]).unwrap();
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    let default = config(&[("rope_parameters", r#"{"rope_type": "default", "rope_theta": 1e6}"#)]).unwrap();
    assert_eq!((default.rope.base.to_bits(), default.rope.scaling), (1e6_f32.to_bits(), RopeScaling::None));
    let yarn = r#"{"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}"#;
    let yarn = config(&[("rope_scaling", yarn)]).unwrap().rope.scaling;
    let RopeScaling::Yarn { factor, original_ctx, attention_factor, truncate, .. } = yarn else { panic!("{yarn:?}") };
    assert_eq!((factor.to_bits(), original_ctx, attention_factor, truncate), (4_f32.to_bits(), 64, None, true));
}

#[test]
fn what_a_configuration_may_not_say() {
    let bad = "InconsistentConfig";
    for (key, value, kind) in [
        ("model_type", "\"mixtral\"", "UnknownArchitecture"),
        ("model_type", "null", "MissingKey"),
        ("hidden_size", "null", "MissingKey"),
        ("hidden_size", "-8", "BadHeader"),
        ("hidden_size", "1e30", "BadHeader"),
        ("num_attention_heads", "0", bad),
        ("num_attention_heads", "3", bad),
        ("num_key_value_heads", "0", bad),
        ("rms_norm_eps", "0", bad),
        ("rms_norm_eps", "1e300", "BadHeader"),
        ("rope_theta", "-1", bad),
        ("max_position_embeddings", "9223372036854775808", bad),
        ("vocab_size", "0", bad),
        ("vocab_size", "3", "BadVocab"),
        ("eos_token_id", "10", "BadVocab"),
        ("eos_token_id", "-2", "BadVocab"),
        ("hidden_act", "\"gelu\"", "Unsupported"),
        ("quantization_config", "{\"bits\": 4}", "Unsupported"),
        ("rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2}", "Unsupported"),
        ("rope_scaling", "{\"rope_type\": \"longrope\"}", "Unsupported"),
        ("rope_scaling", "{\"rope_type\": \"linear\"}", "MissingKey"),
        ("rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 0}", bad),
        ("rope_parameters", "{\"full_attention\": {}}", "Unsupported"),
        ("partial_rotary_factor", "0.5", "Unsupported"),
        ("layer_types", "[\"full_attention\", \"sliding_attention\"]", "Unsupported"),
    ] {
        let found = config(&[(key, value)]).map_or_else(|error| error.kind(), |_| "Ok");
        assert_eq!(found, kind, "{key} = {value}");
    }
    let message = config(&[("rope_scaling", "{\"type\": \"dynamic\"}")]).unwrap_err().to_string();
    assert!(message.contains("dynamic"), "{message}");
    assert_eq!(config(&[("eos_token_id", "-1")]).unwrap().eos, [0_u32; 0]);
}

#[test]
fn families_differ_where_they_should() {
    let qwen = config(&[("model_type", "\"qwen2\"")]).unwrap();
    assert_eq!((qwen.arch, qwen.rope.pairing), (Arch::Qwen2, Pairing::Half));
    assert_eq!((qwen.qkv_bias, qwen.attn_output_bias, qwen.window), (true, false, None));
    let biased = config(&[("attention_bias", "true"), ("mlp_bias", "true")]).unwrap();
    assert_eq!((biased.qkv_bias, biased.attn_output_bias, biased.mlp_bias), (true, true, true));
    let mistral = |window| config(&[("model_type", "\"mistral\""), ("sliding_window", window)]).unwrap();
    assert_eq!((mistral("null").window, mistral("16").window), (None, Some(16)));
    assert_eq!(config(&[("model_type", "\"mistral\"")]).unwrap().window, Some(4096));
    let window = [("model_type", "\"qwen2\""), ("use_sliding_window", "true"), ("sliding_window", "16")];
    let with = |layers| config(&[window[0], window[1], window[2], ("max_window_layers", layers)]);
    assert_eq!(with("0").unwrap().window, Some(16));
    assert_eq!(with("1").unwrap().window, None);
    assert_eq!(with("null").unwrap_err().kind(), "Unsupported");
}

#[test]
fn known_names_are_those_of_the_table() {
    for name in Arch::KNOWN {
        // Some need more keys than these.
        let found = config(&[("model_type", &format!("{name:?}"))]).map_err(|error| error.kind().to_owned());
        assert_ne!(found.map(drop), Err("UnknownArchitecture".to_owned()), "{name}");
    }
}
