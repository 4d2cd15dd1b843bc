//! `rin run`: text, JSON, prompts, sampling.

use crate::program::{Place, TINY, conformance, ids, json, keys, output, shared, stderr, stdout, with_input};

#[test]
fn greedy_text_is_the_published_one_and_nothing_is_allocated() {
    let Some(model) = shared("models/stories260k/stories260K.gguf") else { return };
    let Some(expected) = shared("models/stories260k/greedy-200.txt") else { return };
    let expected = std::fs::read_to_string(expected).unwrap();
    let place = Place::new();
    let greedy = ["-p", "", "--temp", "0", "-n", "200"];
    let streamed = output(place.on("run", &model, &greedy));
    assert_eq!(stdout(&streamed), expected);
    let summary = stderr(&streamed);
    for part in ["tokens/s", "plan", "weights", "state", "scratch", "peak", "tier", "threads", "unmeasured", "sha256:"]
    {
        assert!(summary.contains(part), "{part}: {summary}");
    }

    let mut as_json = place.on("run", &model, &greedy);
    as_json.args(["--json", "-q"]);
    let as_json = output(as_json);
    assert_eq!(stderr(&as_json), "");
    let object = json(&as_json);
    assert_eq!(object["text"], expected);
    assert_eq!((object["generated_tokens"].as_u64(), ids(&object["tokens"]).len()), (Some(200), 200));
    assert_eq!(object["allocations_during_inference"], 0);
    assert_eq!(object["finish_reason"], "length");
    assert_eq!(object["model"]["n_params"], 260_032);
    assert_eq!(object["model"]["quant"], "F32");
}

#[test]
fn json_has_the_fields_of_the_contract() {
    let place = Place::new();
    let object = json(&output(place.tiny(&["-p", "hello", "-n", "4", "--json", "--seed", "9"])));
    let expected = "model prompt_tokens generated_tokens tokens text finish_reason timings memory \
                    drafted_tokens accepted_tokens \
                    allocations_during_inference energy digest tier threads seed version";
    assert_eq!(keys(&object), expected.split_whitespace().collect::<Vec<_>>());
    let model = &object["model"];
    assert_eq!(keys(model), ["name", "path", "format", "mode", "arch", "n_params", "file_bytes", "quant"]);
    assert_eq!(model["path"], conformance(TINY).to_str().unwrap());
    assert_eq!((&model["format"], &model["mode"]), (&"gguf".into(), &"transformer".into()));
    assert_eq!((&model["arch"], &model["quant"]), (&"llama".into(), &"F32".into()));
    assert_eq!(model["file_bytes"], std::fs::metadata(conformance(TINY)).unwrap().len());
    assert!(model["n_params"].is_u64() && model["name"].is_string());

    let timings = &object["timings"];
    let expected = ["load_ms", "prefill_ms", "prefill_tps", "decode_ms", "decode_tps", "first_token_ms"];
    assert_eq!(keys(timings), expected);
    assert!(expected.iter().all(|name| timings[name].as_f64().unwrap() > 0.0), "{timings}");

    let memory = &object["memory"];
    let expected =
        ["plan_bytes", "weights_bytes", "state_bytes", "scratch_bytes", "vocabulary_bytes", "peak_rss_bytes"];
    assert_eq!(keys(memory), expected);
    let bytes = expected.map(|name| memory[name].as_u64());
    let sum = bytes[1..5].iter().map(|part| part.unwrap()).sum::<u64>();
    assert_eq!(bytes[0], Some(sum));
    assert!(!cfg!(target_os = "linux") || bytes[5].unwrap() > 0);

    let energy = &object["energy"];
    let expected = ["status", "joules", "joules_per_token", "uncertainty_joules", "idle_watts", "source", "reason"];
    assert_eq!(keys(energy), expected);
    assert_eq!(energy["status"], "unmeasured");
    assert!(expected[1..6].iter().all(|name| energy[name].is_null()) && energy["reason"].is_string());

    let digest = object["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(object["tier"].is_string() && object["threads"].as_u64().unwrap() > 0);
    assert_eq!(object["seed"], 9);
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(object["generated_tokens"], object["tokens"].as_array().unwrap().len());
    assert!(object["prompt_tokens"].as_u64().unwrap() > 1 && object["allocations_during_inference"].is_u64());
}

#[test]
fn nothing_to_time_is_null() {
    let place = Place::new();
    let object = json(&output(place.tiny(&["-p", "hello", "-n", "0", "--json"])));
    assert_eq!((&object["generated_tokens"], &object["text"]), (&0.into(), &"".into()));
    assert!(object["timings"]["decode_tps"].is_null());
    assert!(object["timings"]["prefill_tps"].is_f64());
}

#[test]
fn one_seed_is_one_text_over_threads_and_tiers() {
    let place = Place::new();
    let digest = |more: &[&str]| {
        let mut command = place.tiny(&["-p", "a", "-n", "24", "--json", "--ignore-eos", "--temp", "1.5"]);
        command.args(more);
        let object = json(&output(command));
        (object["digest"].clone(), object["tokens"].clone(), object["tier"].clone(), object["threads"].clone())
    };
    let (first, tokens, ..) = digest(&["--seed", "1"]);
    for more in [["--threads", "1"], ["--threads", "3"], ["--tier", "scalar"], ["--affinity", "none"]] {
        let (digest, others, tier, threads) = digest(&["--seed", "1", more[0], more[1]]);
        assert_eq!((&digest, &others), (&first, &tokens), "{more:?}");
        assert!(more[0] != "--tier" || tier == "scalar");
        assert!(more[0] != "--threads" || threads.as_u64() == more[1].parse().ok());
    }
    assert_ne!(digest(&["--seed", "2"]).1, tokens);
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let Some(model) = shared("models/stories260k/stories260K.gguf") else { return };
    let place = Place::new();
    let greedy = ["-p", "", "--temp", "0", "-n", "50", "-q", "--stop", "never there", "--stop", "Lily"];
    assert_eq!(stdout(&output(place.on("run", &model, &greedy))), "Once upon a time, there was a little girl named ");
    let mut as_json = place.on("run", &model, &greedy);
    as_json.arg("--json");
    assert_eq!(json(&output(as_json))["finish_reason"], "stop");
}

#[test]
fn prompts_come_from_a_flag_from_ids_or_from_standard_input() {
    let place = Place::new();
    let greedy = ["--temp", "0", "-n", "6", "--json"];
    let run = |more: &[&str]| {
        let mut command = place.tiny(&greedy);
        command.args(more);
        command
    };
    let flag = json(&output(run(&["-p", "hello there"])));
    let encoded = stdout(&output(place.on("tokens", &conformance(TINY), &["-p", "hello there"])));
    let from_ids = json(&output(run(&["--tokens", encoded.trim()])));
    let piped = json(&with_input(run(&[]), "hello there\n"));
    for other in [&from_ids, &piped] {
        assert_eq!(other["digest"], flag["digest"]);
        assert_eq!(other["prompt_tokens"], flag["prompt_tokens"]);
    }
    assert_ne!(json(&with_input(run(&[]), "hello there\n\n"))["digest"], flag["digest"]);

    let plain = json(&output(run(&["-p", "hello there", "--no-special"])));
    assert_eq!(plain["prompt_tokens"].as_u64().unwrap() + 1, flag["prompt_tokens"].as_u64().unwrap());
    assert_eq!(json(&output(run(&["-p", ""])))["prompt_tokens"], 1);
    assert_eq!(json(&output(run(&["-p", "-n"])))["finish_reason"], "length", "a prompt may look like a flag");
}

#[test]
fn the_bias_of_a_token_forces_and_forbids_it() {
    let place = Place::new();
    let tokens = |more: &[&str]| {
        let mut command = place.tiny(&["-p", "a", "--temp", "0", "-n", "3", "--json"]);
        command.args(more);
        ids(&json(&output(command))["tokens"])
    };
    assert_eq!(tokens(&["--logit-bias", "70=1000"]), [70, 70, 70]);
    assert_eq!(tokens(&["--logit-bias", "70=1000", "--logit-bias", "71=2000"]), [71, 71, 71]);
    let first = tokens(&[])[0];
    assert_ne!(tokens(&["--logit-bias", &format!("{first}=-inf")])[0], first);
}

#[test]
fn gen_is_another_name_of_max_tokens() {
    let place = Place::new();
    for name in ["--gen", "--max-tokens", "-n"] {
        let object = json(&output(place.tiny(&["-p", "a", name, "2", "--ignore-eos", "--json"])));
        assert_eq!(object["generated_tokens"], 2, "{name}");
    }
}

/// Learned positions: a folder, a GGUF file, what becomes of them, and the integers of the same network.
#[test]
fn gpt2_continues_text_and_scores_it_in_integers() {
    let place = Place::new();
    let folder = conformance("models/tiny-gpt2");
    let text = ["-p", "and the hatter", "-n", "40", "--temp", "0", "--ignore-eos", "--kv-type", "f32", "--json", "-q"];
    let run = |model: &std::path::Path| json(&output(place.on("run", model, &text)));
    let from_folder = run(&folder);
    assert_eq!(from_folder["model"]["arch"], "gpt2");
    assert_eq!((ids(&from_folder["tokens"]).len(), &from_folder["allocations_during_inference"]), (40, &0.into()));
    let (rin, gguf) = (place.path("gpt2.rin"), place.path("gpt2.gguf"));
    let import = |more: &[&str], to: &std::path::Path| {
        let mut command = place.on("import", &folder, more);
        command.arg("-o").arg(to);
        output(command)
    };
    stdout(&import(&["-q"], &rin));
    let mut export = place.on("export", &rin, &["-q", "-o"]);
    export.arg(&gguf);
    stdout(&output(export));
    let back = place.path("folder");
    let mut export = place.on("export", &gguf, &["-q", "-o"]);
    export.arg(&back);
    stdout(&output(export));
    for file in [&rin, &gguf, &back, &conformance("models/tiny-gpt2/tiny-gpt2-f32.gguf")] {
        let found = run(file);
        assert_eq!((&found["tokens"], &found["digest"]), (&from_folder["tokens"], &from_folder["digest"]));
    }
    // The network has 192 positions, and no more can be asked for.
    let longer = output(place.on("run", &folder, &["-p", "x", "--ctx", "193"]));
    assert!(longer.status.code() == Some(2) && stderr(&longer).contains("192"), "{}", stderr(&longer));

    let rows = place.file("rows.csv", "45,12,77,200,8,91\n3,250,14,60,61,9\n");
    let integers = place.path("integers.rin");
    let calibrate = ["--mode", "rin", "--calibrate", rows.to_str().unwrap(), "--json", "-q"];
    let imported = json(&import(&calibrate, &integers));
    assert!(imported["cost"]["rms"].as_f64().unwrap() < 0.02, "{imported}");
    let scored = ["--input", rows.to_str().unwrap(), "--mode", "rin", "--json", "-q"];
    let found = json(&output(place.on("run", &integers, &scored)));
    assert_eq!((&found["model"]["mode"], &found["rows"]), (&"rin".into(), &2.into()));
}
