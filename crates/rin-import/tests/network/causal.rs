//! Decoders in integers: beside the engine's own float pass and the goldens of `transformers`, on all tiers and threads.

use crate::model::{Temporary, tiers};
use rin_engine::network::verify::{Axes, verify};
use rin_engine::topology::Policy;
use rin_engine::{Engine, LoadOptions, NetworkEngine};
use rin_import::{Error, ImportOptions, Report, import};
use rin_kernels::ops::attention::KvType;
use rin_model::array::Array;
use rin_model::{Body, Mode, ModelFile};
use rin_testkit::data::{conformance, floats_of_base64, shared};
use rin_testkit::safetensors_writer::SafetensorsWriter;
use serde_json::Value;
use std::path::Path;

/// Ids that look random, the same ones of a seed.
fn ids(n: usize, vocab: usize, seed: usize) -> Vec<f32> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from((state >> 33) % vocab).unwrap())
    };
    (0..n).map(|_| next()).collect()
}

fn convert(src: &Path, rows: usize, ids: &[f32]) -> Result<(Temporary, Report), Error> {
    let to = Temporary::new();
    let calibration = Some(Array { shape: vec![rows, ids.len() / rows], values: ids.to_vec(), lengths: None });
    let options = ImportOptions { integer: true, calibration, ..ImportOptions::default() };
    let report = import(src, &to.0, &options, &mut |_| ())?;
    Ok((to, report))
}

fn load(file: &Temporary, n_batch: usize, ctx: usize) -> NetworkEngine {
    let options = LoadOptions { n_batch, ctx: Some(ctx), affinity: Policy::None, ..LoadOptions::default() };
    NetworkEngine::load(ModelFile::open(&file.0).unwrap(), &options, |_| ()).unwrap()
}

/// The logits that the decoder's own engine gives for every position.
fn floats(src: &Path, ids: &[f32]) -> Vec<f32> {
    let options = LoadOptions {
        kv_type: Some(KvType::F32),
        n_logits: ids.len(),
        threads: Some(1),
        affinity: Policy::None,
        ..LoadOptions::default()
    };
    let mut engine = Engine::load(ModelFile::open(src).unwrap(), &options, |_| ()).unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]
    let tokens: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
    let (mut all, sequence) = (Vec::new(), engine.sequence().unwrap());
    engine.feed_all(&sequence, &tokens, |row| all.extend_from_slice(row)).unwrap();
    all
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// The root of the mean square of the distances by the range, and the share of rows with the same largest element.
fn distance(found: &[f32], want: &[f32], width: usize) -> (f32, f32) {
    assert_eq!(found.len(), want.len());
    let most = want.iter().copied().fold(f32::MIN, f32::max);
    let least = want.iter().copied().fold(f32::MAX, f32::min);
    let squares: f32 = found.iter().zip(want).map(|(a, b)| ((a - b) / (most - least)).powi(2)).sum();
    let same = found.chunks(width).zip(want.chunks(width)).filter(|(a, b)| argmax(a) == argmax(b)).count();
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let (n, rows) = (want.len() as f32, (want.len() / width) as f32);
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let share = same as f32 / rows;
    ((squares / n).sqrt(), share)
}

/// Biases, tied embeddings, shared key heads, all scalings of rotary positions, both orders of pairs, a window.
#[test]
fn decoders_in_integers_are_near_their_floats() {
    for (name, file, positions) in [
        ("tiny-llama", "", 150),
        ("tiny-llama", "tiny-llama-f16.gguf", 150),
        ("tiny-llama-tied", "", 40),
        ("tiny-llama3", "", 150),
        ("tiny-llama-linear", "", 150),
        ("tiny-llama-bias", "", 40),
        ("tiny-mistral", "", 32),
        ("tiny-qwen2", "", 40),
        ("tiny-qwen2", "tiny-qwen2-bf16.gguf", 40),
        ("tiny-qwen2-yarn", "", 150),
        ("tiny-gpt2", "", 150),
        ("tiny-gpt2", "tiny-gpt2-f32.gguf", 40),
    ] {
        let src = conformance("models").join(name).join(file);
        let (to, report) = convert(&src, 4, &ids(4 * positions, 288, 1)).unwrap();
        let (text, cost) = (ids(positions, 288, 9), report.cost.unwrap());
        let mut engine = load(&to, 1, positions);
        assert_eq!(engine.file().mode(), Some(Mode::Rin));
        assert!(matches!(engine.plan().network.body, Body::Whole(_)));
        engine.run(&[&text, &[]], 1).unwrap();
        let (rms, same) = distance(engine.output(0), &floats(&src, &text), 288);
        println!("{name} {file}: {rms:.5} rms by the range, {same:.3} the same; {cost:?}");
        assert!(rms <= 0.01 && same >= 0.85, "{name}: {rms} {same}");
        // Beside its own nodes in f32 it stands as it does beside the engine: they compute the same.
        let [in_floats, converted] = cost.loss.unwrap();
        assert!(cost.rms <= 0.01 && (in_floats - converted).abs() < 0.05, "{name}: {cost:?}");
    }
}

#[test]
fn a_trained_decoder_keeps_its_loss() {
    let Some(src) = shared("models/stories260k/stories260K.gguf") else { return };
    // The published greedy text, in the ids that its first letters have: what the network says after `<s>`.
    let text = {
        let mut engine = Engine::load(
            ModelFile::open(&src).unwrap(),
            &LoadOptions { threads: Some(1), affinity: Policy::None, ..LoadOptions::default() },
            |_| (),
        )
        .unwrap();
        let sequence = engine.sequence().unwrap();
        let (mut ids, mut next) = (Vec::new(), 1_u32);
        for _ in 0..200 {
            ids.push(next);
            next = u32::try_from(argmax(engine.feed(&sequence, &[next]).unwrap())).unwrap();
        }
        ids
    };
    #[expect(clippy::cast_precision_loss, reason = "below 512")]
    let text: Vec<f32> = text.iter().map(|id| *id as f32).collect();
    let (to, report) = convert(&src, 2, &text).unwrap();
    let Report { cost: Some(cost), .. } = report else { panic!("{report:?}") };
    let mut engine = load(&to, 1, 200);
    engine.run(&[&text, &[]], 1).unwrap();
    let (rms, same) = distance(engine.output(0), &floats(&src, &text), 512);
    println!("{rms:.5} rms by the range, {same:.3} the same; {cost:?}");
    let [floats, converted] = cost.loss.unwrap();
    assert!(rms <= 0.01 && same >= 0.95 && (floats - converted).abs() < 0.02, "{rms} {same} {cost:?}");
}

/// gpt-nano as the folder that `transformers` would write of it: matrices as (inputs, outputs).
fn gpt_nano(place: &Path) -> Option<(Vec<f32>, Vec<f32>)> {
    let read = |name: &str| -> Option<Value> {
        let path = shared(&format!("models/gpt-nano/{name}"))?;
        Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    };
    let (model, partials) = (read("gpt-nano-sort-model.json")?, read("gpt-nano-sort-t0-partials.json")?);
    let mut writer = SafetensorsWriter::new();
    for (name, tensor) in model.as_object().unwrap().iter().filter(|(_, tensor)| tensor["data"].is_string()) {
        let mut shape: Vec<u64> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        let mut values = floats_of_base64(tensor["data"].as_str().unwrap());
        if name.contains(".c_") && shape.len() == 2 {
            let cols = usize::try_from(shape[1]).unwrap();
            values = (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect();
            shape.reverse();
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer = writer.tensor(name, "F32", &shape, &bytes);
    }
    std::fs::create_dir_all(place).unwrap();
    std::fs::write(place.join("model.safetensors"), writer.finish()).unwrap();
    let config = r#"{"model_type": "gpt2", "n_layer": 3, "n_head": 3, "n_embd": 48, "vocab_size": 3, "n_positions": 11,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": false,
        "architectures": ["GPT2LMHeadModel"]}"#;
    std::fs::write(place.join("config.json"), config).unwrap();
    let numbers = |name: &str| floats_of_base64(partials[name]["data"].as_str().unwrap());
    Some((numbers("idx"), numbers("lm_head")))
}

/// A network that others trained, and the logits that they published, in floats and in integers.
#[test]
fn gpt2_with_learned_positions_gives_the_published_logits() {
    let place = std::env::temp_dir().join(format!("rin-gpt2-{}", std::process::id()));
    let Some((text, logits)) = gpt_nano(&place) else { return };
    let to = Temporary::new();
    import(&place, &to.0, &ImportOptions::default(), &mut |_| ()).unwrap();
    for src in [&place, &to.0] {
        let found: Vec<f32> = text.chunks(11).flat_map(|row| floats(src, row)).collect();
        let (rms, same) = distance(&found, &logits, 3);
        println!("floats: {rms:e} rms by the range, {same:.3} the same");
        assert!(rms < 1e-6 && same > 0.999, "{rms} {same}");
    }
    let longer = LoadOptions { ctx: Some(12), ..LoadOptions::default() };
    let error = Engine::load(ModelFile::open(&place).unwrap(), &longer, |_| {}).unwrap_err().to_string();
    assert!(error.contains("11") && error.contains("learned"), "{error}");

    let (to, report) = convert(&place, 3, &text).unwrap();
    let mut engine = load(&to, 3, 11);
    engine.run(&[&text, &[]], 3).unwrap();
    let (rms, same) = distance(engine.output(0), &logits, 3);
    println!("integers: {rms:.5} rms by the range, {same:.3} the same; {:?}", report.cost);
    assert!(rms < 0.01 && same >= 0.96, "{rms} {same}");

    let refused = |from: &str, to: &str| {
        let path = place.join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, config.replace(from, to)).unwrap();
        let error = convert(&place, 3, &text).map(|_| ()).unwrap_err().to_string();
        std::fs::write(&path, config).unwrap();
        error
    };
    assert!(refused("gelu_new", "mish").contains("mish"));
    assert!(refused("\"n_layer\": 3", "\"n_layer\": 2").contains("h.2."));
    assert!(refused("\"n_embd\"", "\"scale_attn_by_inverse_layer_idx\": true, \"n_embd\"").contains("inverse_layer"));
    std::fs::remove_dir_all(place).unwrap();
}

#[test]
fn bits_depend_on_no_tier_thread_or_batch() {
    let (to, _) = convert(&conformance("models/tiny-qwen2"), 4, &ids(160, 288, 2)).unwrap();
    let mut engine = load(&to, 3, 70);
    let axes = Axes { tiers: tiers(), threads: vec![1, 2, 3], batch: vec![1, 3] };
    let report = verify(&mut engine, &axes, Policy::None).unwrap();
    assert_eq!((report.cases, &report.mismatches[..]), (report.equal, &[][..]));
    assert!(report.cases >= 6);
}

#[test]
fn what_comes_later_changes_nothing() {
    let (to, _) = convert(&conformance("models/tiny-llama"), 2, &ids(140, 288, 3)).unwrap();
    let mut engine = load(&to, 2, 70);
    let bits = |engine: &NetworkEngine| -> Vec<u32> { engine.output(0).iter().map(|x| x.to_bits()).collect() };
    let long = ids(70, 288, 4);
    engine.run(&[&long, &[]], 1).unwrap();
    let all = bits(&engine);
    for n in [1, 33, 65] {
        engine.run(&[&long[..n], &[]], 1).unwrap();
        assert_eq!(bits(&engine), all[..n * 288], "{n} ids");
    }
}

#[test]
fn what_has_no_integers_is_told() {
    let to = Temporary::new();
    let told = |src: &str, calibration: Option<Array>, integer: bool| {
        let options = ImportOptions { integer, calibration, ..ImportOptions::default() };
        import(&conformance(src), &to.0, &options, &mut |_| ()).unwrap_err().to_string()
    };
    let rows = |id: f32| Some(Array { shape: vec![1, 2], values: vec![id, 1.0], lengths: None });
    assert!(told("models/tiny-llama", None, true).contains("--calibrate"));
    assert!(told("models/tiny-llama", rows(1.0), false).contains("--mode rin"));
    assert!(told("models/tiny-llama", rows(288.0), true).contains("288"));
    assert!(told("recurrent/tiny-mamba2", rows(1.0), true).contains("mamba2"));
    assert!(!to.0.exists());
}
