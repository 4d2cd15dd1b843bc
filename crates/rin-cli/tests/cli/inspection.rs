//! `rin inspect` and `rin doctor`.

use crate::program::{Place, TINY, conformance, json, keys, output, shared, stdout};

#[test]
fn inspect_tells_what_the_file_holds() {
    let place = Place::new();
    let object = json(&output(place.on("inspect", &conformance(TINY), &["--json"])));
    assert_eq!(keys(&object), ["model", "config", "tensors", "tokenizer", "metadata", "problems"]);
    assert_eq!(keys(&object["model"]), ["name", "path", "format", "mode", "arch", "n_params", "file_bytes", "quant"]);
    let config = &object["config"];
    for (field, expected) in [("n_layers", 3), ("head_dim", 8), ("vocab", 288)] {
        assert_eq!(config[field], expected, "{field}");
    }
    for field in ["dim", "n_heads", "n_kv_heads", "ffn_dim", "ctx", "norm", "rope", "activation"] {
        assert!(!config[field].is_null(), "{field}");
    }
    let tensors = object["tensors"].as_array().unwrap();
    let mut parameters = 0;
    for tensor in tensors {
        assert_eq!(keys(tensor), ["name", "shape", "dtype", "bytes", "offset"]);
        let elements: u64 = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        assert_eq!((&tensor["dtype"], tensor["bytes"].as_u64()), (&"F32".into(), Some(4 * elements)));
        parameters += elements;
    }
    assert_eq!(object["model"]["n_params"], parameters);
    let tokenizer = &object["tokenizer"];
    assert_eq!(keys(tokenizer), ["kind", "vocab", "special"]);
    assert_eq!((&tokenizer["kind"], &tokenizer["vocab"]), (&"spm-bpe".into(), &288.into()));
    assert_eq!(keys(&tokenizer["special"]), ["bos", "eos", "eot", "unk", "pad", "end", "add_bos", "add_eos"]);
    assert_eq!(object["metadata"]["general.architecture"], "llama");
    let tokens = &object["metadata"]["tokenizer.ggml.tokens"];
    assert_eq!((&tokens["len"], &tokens["elem"]), (&288.into(), &"string".into()));
    assert_eq!(tokens["first"].as_array().unwrap().len(), 16);
    assert_eq!(object["problems"], serde_json::json!([]));
}

#[test]
fn ranks_hold_together_what_one_process_holds() {
    let place = Place::new();
    let inspect = |more: &[&str]| {
        let mut command = place.on("inspect", &conformance(TINY), &["--plan", "--ctx", "256", "--json"]);
        command.args(more);
        json(&output(command))
    };
    let one = inspect(&[]);
    assert!(one.get("ranks").is_none());
    let ranks = inspect(&["--ranks", "2"])["ranks"].as_array().unwrap().clone();
    let sum = |key: &str| ranks.iter().map(|rank| rank[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(ranks.len(), 2);
    assert_eq!(sum("weights_bytes"), one["plan"]["weights_bytes"].as_u64().unwrap());
    assert!(ranks.iter().all(|rank| rank["total_bytes"].as_u64() < one["plan"]["total_bytes"].as_u64()));
    assert_eq!(ranks[0]["end_layer"], ranks[1]["first_layer"]);
    // The rows of each layer: all layers in both, and half of the cache.
    for flags in [&["--tp", "2"][..], &["--tp", "2", "--ranks", "2"]] {
        let shares = inspect(flags)["ranks"].as_array().unwrap().clone();
        assert_eq!((shares.len(), &shares[1]["cut"], &shares[1]["first_layer"]), (2, &"rows".into(), &0.into()));
        assert_eq!(shares[1]["end_layer"], ranks[1]["end_layer"]);
        assert!(shares.iter().all(|rank| rank["weights_bytes"].as_u64() < one["plan"]["weights_bytes"].as_u64()));
    }
    for (flags, words) in [
        (&["--ranks", "60"][..], "ranks"),
        (&["--tp", "5"], "--tp is 5, but must be at most 4"),
        (&["--tp", "2", "--ranks", "4"], "all ranks share rows, or each has layers"),
    ] {
        let mut command = place.on("inspect", &conformance(TINY), &["--plan"]);
        let refused = command.args(flags).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(words), "{told}");
    }
}

#[test]
fn the_plan_is_exact_and_follows_the_flags() {
    let place = Place::new();
    let plan = |more: &[&str]| {
        let mut command = place.on("inspect", &conformance(TINY), &["--plan", "--json"]);
        command.args(more);
        json(&output(command))["plan"].clone()
    };
    let whole = plan(&["--ctx", "256"]);
    let expected =
        "total_bytes weights_bytes state_bytes scratch_bytes vocabulary_bytes slots fits limit_bytes limit_source";
    assert_eq!(keys(&whole), expected.split_whitespace().collect::<Vec<_>>());
    let bytes = |plan: &serde_json::Value, name: &str| plan[name].as_u64().unwrap();
    let sum = ["weights_bytes", "state_bytes", "scratch_bytes", "vocabulary_bytes"]
        .map(|name| bytes(&whole, name))
        .iter()
        .sum::<u64>();
    assert_eq!(bytes(&whole, "total_bytes"), sum);
    let end = bytes(&whole, "state_bytes") + bytes(&whole, "scratch_bytes");
    for slot in whole["slots"].as_array().unwrap() {
        assert_eq!(keys(slot), ["name", "offset", "bytes", "first_step", "last_step"]);
        assert!(bytes(slot, "offset") + bytes(slot, "bytes") <= end && bytes(slot, "offset").is_multiple_of(64));
        assert!(bytes(slot, "first_step") <= bytes(slot, "last_step"));
    }
    assert_eq!(whole["fits"], true);

    let half = plan(&["--ctx", "128"]);
    assert!(bytes(&half, "state_bytes") < bytes(&whole, "state_bytes"));
    assert!(bytes(&plan(&["--ctx", "256", "--batch", "8"]), "scratch_bytes") < bytes(&whole, "scratch_bytes"));
    assert!(bytes(&plan(&["--ctx", "256", "--kv-type", "q8"]), "state_bytes") < bytes(&whole, "state_bytes"));
    let small = plan(&["--memory-limit", "1K"]);
    assert_eq!((&small["fits"], &small["limit_bytes"]), (&false.into(), &1024.into()));
    assert_eq!(small["limit_source"], "--memory-limit");
    let text = |more: &[&str]| {
        let mut command = place.on("inspect", &conformance(TINY), &["--plan", "--ctx", "256"]);
        command.args(more);
        let told = output(command);
        assert_eq!(told.status.code(), Some(0));
        stdout(&told)
    };
    let total = bytes(&whole, "total_bytes");
    let refusal = format!("fits       no: {total} bytes are needed, 1024 are available (--memory-limit)\n");
    assert!(text(&["--memory-limit", "1K"]).ends_with(&refusal), "{}", text(&["--memory-limit", "1K"]));
    // The last byte decides, and those of the vocabulary count.
    assert!(bytes(&whole, "vocabulary_bytes") > 16 * 288);
    assert!(text(&["--memory-limit", &total.to_string()]).ends_with("\nfits       yes\n"));
    assert!(text(&["--memory-limit", &(total - 1).to_string()]).contains("fits       no: "));
    assert!(text(&[]).contains(&format!("vocabulary {} bytes", bytes(&whole, "vocabulary_bytes"))));

    let ran = json(&output(place.tiny(&["-p", "a", "-n", "1", "--ctx", "256", "--json"])));
    for name in ["weights_bytes", "state_bytes", "scratch_bytes", "vocabulary_bytes"] {
        assert_eq!(ran["memory"][name], whole[name], "{name}");
    }
    assert_eq!(ran["memory"]["plan_bytes"], whole["total_bytes"]);
}

#[test]
fn people_get_tables() {
    let place = Place::new();
    let text = stdout(&output(place.on("inspect", &conformance(TINY), &["--plan", "--tensors"])));
    for part in ["llama", "3 layers", "288 tokens", "blk.2.ffn_down.weight", "general.architecture", "total", "fits"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert!(!stdout(&output(place.on("inspect", &conformance(TINY), &[]))).contains("blk.2.ffn_down.weight"));
}

#[test]
fn the_type_is_that_of_most_bytes() {
    let Some(model) = shared("models/stories260k/stories260K-Q8_0.gguf") else { return };
    let place = Place::new();
    let object = json(&output(place.on("inspect", &model, &["--json"])));
    assert_eq!(object["model"]["quant"], "Q8_0");
    assert_eq!(object["model"]["n_params"], 260_032);
}

#[test]
fn a_folder_is_a_model_too() {
    let place = Place::new();
    let object = json(&output(place.on("inspect", &conformance("models/tiny-qwen2"), &["--json"])));
    assert_eq!((&object["model"]["format"], &object["model"]["arch"]), (&"safetensors".into(), &"qwen2".into()));
    assert_eq!((&object["model"]["quant"], &object["tokenizer"]["kind"]), (&"BF16".into(), &"bpe".into()));
}

#[test]
fn the_doctor_names_all_tiers_and_gives_remedies() {
    let place = Place::new();
    let object = json(&output(place.rin(&["doctor", "--json"])));
    let tiers = object["tiers"].as_array().unwrap();
    let names: Vec<_> = tiers.iter().map(|tier| tier["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["scalar", "avx2", "avx512vnni", "amx-int8", "neon", "neon-i8mm"]);
    for tier in tiers {
        assert_ne!(tier["usable"].as_bool().unwrap(), tier["reason"].is_string(), "{tier}");
    }
    assert_eq!(tiers[0]["usable"], true);
    assert!(object["default_threads"].as_u64().unwrap() > 0);
    assert!(object["topology"]["allowed_cores"].as_u64().unwrap() > 0);
    assert_eq!(object["energy"]["status"], "unavailable");
    assert_eq!(object["cache"]["path"], place.path(".cache/huggingface/hub").to_str().unwrap());
    for problem in object["problems"].as_array().unwrap() {
        assert!(!problem["remedy"].as_str().unwrap().is_empty(), "{problem}");
    }
    let text = stdout(&output(place.rin(&["doctor"])));
    for part in ["tiers", "amx-int8", "processors", "NUMA", "threads", "memory", "huge pages", "mlock", "cache"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
