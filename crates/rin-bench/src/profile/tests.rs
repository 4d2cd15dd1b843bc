use super::record::Slot;
use super::*;
use crate::Grid;
use crate::cost::{StepCost, Work};
use crate::peak::Peak;
use crate::subject::Model;
use rin_engine::plan::Step;
use rin_engine::{Feed, LoadOptions, Plan, Rows};
use rin_model::ModelFile;
use rin_testkit::data::conformance;
use serde_json::Value;

fn options() -> LoadOptions {
    LoadOptions { threads: Some(2), ctx: Some(64), n_batch: 16, ..LoadOptions::default() }
}

fn file(model: &str) -> ModelFile {
    ModelFile::open(&conformance(&format!("models/{model}"))).unwrap()
}

fn peaks(gb_per_s: f64, tops: f64) -> Peaks {
    let peak = |best| Some(Peak { best, samples: vec![best] });
    let notes = vec!["a note".to_owned()];
    Peaks { threads: 2, tier: "scalar", gb_per_s: peak(gb_per_s), tops: peak(tops), notes }
}

/// A profile of times that are made up, two repetitions of a prompt of 40 tokens and 3 steps.
fn pretended(plan: &Plan, times: impl Fn(Slot) -> u64 + Copy, between: u64) -> Profile {
    let phases = [Test::Prompt(40), Test::Generate(3)].map(|test| {
        let mut recorder = Recorder::new(plan, test, 2);
        for _ in 0..if test == Test::Prompt(40) { 2 } else { 6 } {
            recorder.pretend(times, between);
        }
        Phase::of(plan, &recorder, 2)
    });
    let machine = crate::row::tests::machine();
    let machine = Machine { peaks: Vec::new(), jitter: None, ..machine };
    let text = |text: &str| text.to_owned();
    Profile {
        version: text("0"),
        model_filename: text("/some/where/a<b>\u{7}&\"c\".gguf"),
        model_type: text("llama 1.2K F32"),
        model_size: 4800,
        n_threads: 2,
        n_batch: 16,
        tier: text("scalar"),
        kv_type: text("f16"),
        test_time: text("2024-02-29T12:34:56Z"),
        phases: phases.into(),
        machine,
    }
}

fn plan(model: &str) -> Plan {
    options().plan(&file(model)).unwrap()
}

fn shares(phase: &Phase) -> f64 {
    phase.operations.iter().map(|operation| operation.measured.share).sum()
}

#[test]
fn every_step_of_a_real_engine_is_attributed() {
    let mut engine = Engine::load(file("tiny-llama"), &options(), |_| {}).unwrap();
    let mut profile = Profile::measure(&mut engine, 40, 3, 2).unwrap();
    profile.set_peaks(peaks(10.0, 0.5));
    let plan = engine.plan();
    let [prompt, decode] = &profile.phases[..] else { panic!("{profile:?}") };
    assert_eq!((prompt.n_passes, decode.n_passes), (2, 6));
    for phase in [prompt, decode] {
        assert_eq!(phase.steps.len(), plan.steps.len());
        assert!((shares(phase) - 1.0).abs() < 1e-9);
        let sum: u64 = phase.operations.iter().map(|operation| operation.measured.total_ns).sum();
        assert_eq!(sum, phase.total.total_ns);
        let called: u64 = phase.operations.iter().map(|operation| operation.measured.calls).sum();
        assert_eq!(called - phase.n_passes, phase.steps.iter().map(|step| step.measured.calls).sum::<u64>());
        assert!(phase.total.gb_per_s.is_some_and(|rate| rate > 0.0) && phase.total.roofline.is_some());
        for (step, layer) in phase.steps.iter().zip(&plan.layers) {
            assert_eq!(step.layer, *layer);
            // 40 tokens in steps of 16 are three forward passes, of which the last one has logits.
            let selected = step.step >= plan.head || phase.n_passes == 6;
            assert_eq!(step.measured.calls, phase.n_passes * if selected { 1 } else { 3 }, "{}", step.name);
        }
    }
    // The engine is as it was: all of its sequences are there.
    engine.sequence().unwrap();
    assert!(matches!(Profile::measure(&mut engine, 65, 0, 1), Err(Error::ContextTooShort { needed: 65, ctx: 64 })));
    assert!(matches!(Profile::measure(&mut engine, 0, 0, 1), Err(Error::NothingToMeasure)));
    assert!(matches!(Profile::measure(&mut engine, 4, 0, 0), Err(Error::BadOption { .. })));
}

#[test]
fn a_timed_step_computes_the_same_and_hears_every_step_once() {
    let mut engine = Engine::load(file("tiny-llama"), &options(), |_| {}).unwrap();
    let n_steps = engine.plan().steps.len();
    let sequence = engine.sequence().unwrap();
    let expected = engine.feed(&sequence, &[1, 2, 3]).unwrap().to_vec();
    engine.truncate(&sequence, 0).unwrap();
    let mut heard = Vec::new();
    let feed = Feed { sequence: &sequence, tokens: &[1, 2, 3], rows: Rows::Last };
    let logits = engine.step_timed(&[feed], |step, _| heard.push(step)).unwrap();
    assert_eq!(logits, expected);
    assert_eq!(heard, (0..n_steps).collect::<Vec<_>>());
    assert_eq!(engine.position(&sequence), 3);
}

#[test]
fn products_are_called_by_their_matrices() {
    for (model, head) in [("tiny-llama", "output"), ("tiny-llama-tied", "output"), ("tiny-qwen2", "output")] {
        let profile = pretended(&plan(model), |_| 10, 5);
        let names: Vec<&str> = profile.phases[1].operations.iter().map(|found| found.name.as_str()).collect();
        for name in ["attn_q+attn_k+attn_v", "attn_output", "ffn_gate+ffn_up", "ffn_down", head, "attention"] {
            assert_eq!(names.iter().filter(|found| **found == name).count(), 1, "{name} of {model}: {names:?}");
        }
        assert!(!names.contains(&"linear") && names.contains(&"between steps"), "{names:?}");
    }
}

/// Bytes, operations and rates against their definitions, from the packed weights and the times that were made up.
#[test]
fn figures_are_those_of_their_definitions() {
    let plan = plan("tiny-qwen2");
    let (n_layers, n_steps) = (plan.config.n_layers as u64, plan.steps.len() as u64);
    // Every call takes 100 ns but for products, which take 1000.
    let is_linear = |slot: Slot| matches!(plan.steps[slot.step], Step::Linear { .. });
    let mut profile = pretended(&plan, |slot| if is_linear(slot) { 1000 } else { 100 }, 50);
    profile.set_peaks(peaks(0.5, 1e-3));
    let decode = &profile.phases[1];
    let linear = 4 * n_layers + 1;
    let pass = 1000 * linear + 100 * (n_steps - linear) + 50;
    assert_eq!((decode.total.total_ns, decode.total.median_ns), (6 * pass, pass as f64));
    for step in &decode.steps {
        let Step::Linear { parts, .. } = &plan.steps[step.step] else { continue };
        let packed: usize = parts
            .iter()
            .map(|part| {
                let matrix = plan.weights.get(part.matrix);
                let bias = part.bias.map_or(0, |bias| 4 * plan.weights.vector_len(bias));
                matrix.format.packed_bytes(matrix.rows, matrix.cols).unwrap() + bias
            })
            .sum();
        assert_eq!(step.measured.bytes, 6 * packed as u64, "{}", step.name);
        assert_eq!((step.measured.total_ns, step.measured.median_ns), (6000, 1000.0));
        assert_eq!(step.measured.gb_per_s, Some(packed as f64 / 1000.0));
        let products: usize = parts.iter().map(|part| plan.weights.get(part.matrix)).map(|m| m.rows * m.cols).sum();
        assert_eq!(step.measured.ops, 6 * 2 * products as u64);
        let least = (packed as f64 / 0.5).max(2.0 * products as f64);
        assert!((step.measured.roofline.unwrap() / (least / 1000.0) - 1.0).abs() < 1e-12);
    }
    // Steps of an operation add up, over layers and over positions.
    let attention = decode.operations.iter().find(|operation| operation.name == "attention").unwrap();
    let at = plan.steps.iter().position(|step| matches!(step, Step::Attend { .. })).unwrap();
    let bytes = |position| StepCost::of(&plan, at).bytes(&Work { position, tokens: 1, rows: 1 });
    assert_eq!(attention.measured.bytes, 2 * n_layers * (bytes(1) + bytes(2) + bytes(3)));
    assert_eq!((attention.measured.calls, attention.measured.median_ns), (6 * n_layers, 100.0 * n_layers as f64));
    // A prompt reads its weights once in each of its three forward passes, the output once.
    let prompt = &profile.phases[0];
    let of = |phase: &Phase, name: &str| {
        phase.operations.iter().find(|operation| operation.name == name).unwrap().measured.clone()
    };
    assert_eq!(of(prompt, "ffn_down").bytes, of(decode, "ffn_down").bytes);
    assert_eq!(3 * of(prompt, "output").bytes, of(decode, "output").bytes);
    assert_eq!(3 * of(prompt, "ffn_down").ops, 40 * of(decode, "ffn_down").ops);
    // The longest first.
    assert!(decode.operations.is_sorted_by_key(|operation| std::cmp::Reverse(operation.measured.total_ns)));
    assert_eq!(of(decode, "between steps").total_ns, 6 * 50);
}

#[test]
fn the_example_is_a_pass_in_the_middle() {
    let plan = plan("tiny-llama");
    let mut recorder = Recorder::new(&plan, Test::Generate(3), 1);
    for time in [70, 10, 40] {
        recorder.pretend(|_| time, 7);
    }
    let phase = Phase::of(&plan, &recorder, 1);
    let n = plan.steps.len() as u64;
    assert_eq!(phase.example.whole_ns, 40 * n + 7);
    assert_eq!((phase.total.total_ns, phase.total.median_ns), (120 * n + 21, (40 * n + 7) as f64));
    assert_eq!(phase.steps[0].measured.median_ns.to_bits(), 40.0_f64.to_bits());
    // It is the third pass: position 3.
    let at = plan.steps.iter().position(|step| matches!(step, Step::Attend { .. })).unwrap();
    let bytes = StepCost::of(&plan, at).bytes(&Work { position: 3, tokens: 1, rows: 1 });
    assert_eq!(phase.example.calls[at], Call { bytes, ..phase.example.calls[at] });
}

#[test]
fn events_of_the_trace_nest_and_stand_in_order() {
    let plan = plan("tiny-llama");
    let mut profile = pretended(&plan, |slot| 1 + slot.step as u64 * 37 % 100, 999);
    profile.set_peaks(peaks(10.0, 0.5));
    let events: Vec<Value> = serde_json::from_str(&profile.chrome_trace().unwrap()).unwrap();
    // Whole ns, so that ends and begins can be compared.
    let ns = |event: &Value, field: &str| (event[field].as_f64().unwrap() * 1000.0).round();
    let (mut open, mut last, mut steps): (Vec<f64>, f64, usize) = (Vec::new(), 0.0, 0);
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let (begin, end) = (ns(event, "ts"), ns(event, "ts") + ns(event, "dur"));
        assert!(begin >= last, "in order: {event}");
        last = begin;
        while open.last().is_some_and(|end| *end <= begin) {
            open.pop();
        }
        assert!(open.last().is_none_or(|outer| end <= *outer), "within what is around it: {event}");
        let depth = match event["cat"].as_str().unwrap() {
            "pass" => 0,
            "layer" | "rest" => 1,
            "step" => 1 + usize::from(event["args"].get("layer").is_some()),
            other => panic!("{other}"),
        };
        assert_eq!(open.len(), depth, "{event}");
        if event["cat"] == "step" {
            // Where no logits are wanted, the selection moves nothing.
            let moved = event["args"]["bytes"].as_u64().unwrap() > 0;
            assert!(moved || event["name"] == "select", "{event}");
            assert_eq!(event["args"].get("gb_per_s").is_some(), moved, "{event}");
            steps += 1;
        }
        open.push(end);
    }
    let calls: usize = profile.phases.iter().map(|phase| phase.example.calls.len()).sum();
    assert_eq!((steps, calls), (calls, 3 * plan.head + (plan.steps.len() - plan.head) + plan.steps.len()));
    assert_eq!(events[0]["args"]["name"].as_str().map(|name| name.contains('\u{fffd}')), Some(true));
}

/// Elements are closed as they were opened, attributes are quoted, and nothing stands unescaped.
fn check_xml(text: &str) -> usize {
    let (mut open, mut elements) = (Vec::new(), 0);
    let sound = |text: &str| {
        !text.contains('<')
            && text.split('&').skip(1).all(|rest| ["amp;", "lt;", "gt;", "quot;"].iter().any(|e| rest.starts_with(e)))
    };
    for (i, piece) in text.trim_end().split('<').enumerate() {
        if i == 0 {
            assert_eq!(piece, "");
            continue;
        }
        let (tag, words) = piece.split_once('>').unwrap();
        assert!(sound(words), "{piece}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{piece}");
            continue;
        }
        let inner = tag.strip_suffix('/').unwrap_or(tag);
        let (name, attributes) = inner.split_once(' ').unwrap_or((inner, ""));
        let pieces: Vec<&str> = attributes.split('"').collect();
        assert_eq!(pieces.len() % 2, 1, "{tag}");
        assert!(pieces.iter().step_by(2).all(|name| name.is_empty() || name.ends_with('=')), "{tag}");
        assert!(pieces.iter().skip(1).step_by(2).all(|value| sound(value)), "{tag}");
        elements += 1;
        if inner.len() == tag.len() {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    elements
}

#[test]
fn the_picture_is_sound_and_within_its_frame() {
    let mut profile = pretended(&plan("tiny-llama"), |slot| 10 + slot.step as u64, 500);
    profile.set_peaks(peaks(10.0, 0.5));
    let svg = profile.svg();
    assert!(check_xml(&svg) > 100, "{svg}");
    assert!(svg.contains("a&lt;b&gt;\u{fffd}&amp;&quot;c&quot;.gguf: llama 1.2K F32, 2 threads"), "{svg}");
    assert!(svg.contains(">disturbed: other processes took 20.0 %"), "{svg}");
    let number = |line: &str, name: &str| -> f64 {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    let bars: Vec<&str> = svg.lines().filter(|line| line.contains("stroke-width=\"0.5\"")).collect();
    assert_eq!(bars.len(), profile.phases.iter().map(|phase| phase.operations.len()).sum::<usize>());
    let width: f64 = bars.iter().map(|line| number(line, "width")).sum();
    assert!((width - 2.0 * 712.0).abs() < 0.2, "{width}");
    assert!(bars.iter().all(|line| number(line, "x") >= 24.0 && number(line, "x") + number(line, "width") < 736.1));
    let height: f64 = svg.split_once("viewBox=\"0 0 760 ").unwrap().1.split('"').next().unwrap().parse().unwrap();
    assert!(svg.lines().filter(|line| line.starts_with("<text")).all(|line| number(line, "y") < height - 4.0));
}

#[test]
fn a_table_for_people_and_json_for_programs() {
    let plan = plan("tiny-llama");
    let mut profile = pretended(&plan, |_| 2000, 1000);
    let text = profile.table().unwrap();
    assert!(text.contains("pp40 (a pass is the whole prompt), median") && text.contains("| **total** "), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("| norm")).all(|line| line.ends_with("|           - |")));
    profile.set_peaks(peaks(10.0, 0.5));
    let text = profile.table().unwrap();
    assert!(text.contains("- peak with 2 threads: memory is read at 10.0 GB/s") && text.contains("- note: a note"));
    assert!(text.lines().filter(|line| line.starts_with("| norm")).all(|line| line.ends_with(" % |")), "{text}");
    let json: Value = serde_json::from_str(&profile.json().unwrap()).unwrap();
    assert_eq!(json["phases"][1]["test"], "tg3");
    assert_eq!(json["phases"][1]["steps"].as_array().unwrap().len(), plan.steps.len());
    for field in ["name", "calls", "total_ns", "median_ns", "share", "bytes", "ops", "gb_per_s", "tops", "roofline"] {
        assert!(json["phases"][0]["operations"][0].get(field).is_some(), "{field}");
    }
    assert_eq!(json["machine"]["peaks"][0]["gb_per_s"]["best"], 10.0);
}

#[test]
fn no_time_at_all_is_no_number_out_of_nothing() {
    let mut profile = pretended(&plan("tiny-llama"), |_| 0, 0);
    profile.set_peaks(peaks(0.0, 0.5));
    for phase in &profile.phases {
        let all = phase.operations.iter().map(|operation| &operation.measured);
        for measured in all.chain(phase.steps.iter().map(|step| &step.measured)).chain([&phase.total]) {
            assert_eq!((measured.gb_per_s, measured.tops, measured.roofline), (None, None, None));
            assert_eq!(measured.share.to_bits(), 0.0_f64.to_bits());
        }
    }
    let forms = [profile.table().unwrap(), profile.json().unwrap(), profile.chrome_trace().unwrap(), profile.svg()];
    for form in forms {
        let form = form.replace("cpu_info", "");
        assert!(!["NaN", "inf", "\"dur\":null", "\"median_ns\": null"].iter().any(|bad| form.contains(bad)), "{form}");
    }
    check_xml(&profile.svg());
}

#[test]
fn a_run_loads_measures_and_compares() {
    let models = vec![Model::at(conformance("models/tiny-llama"))];
    let loader = EngineLoader::alone(models, LoadOptions { threads: Some(1), n_batch: 16, ..options() });
    let workload = Workload { n_prompt: 20, n_gen: 0, repetitions: 2, ..Workload::default() };
    let settings = Grid { models: 1, ..Grid::default() }.settings(&workload).unwrap();
    let mut events = Vec::new();
    let profile = run(&loader, &settings[0], &workload, |event| events.push(event)).unwrap();
    assert_eq!((profile.phases.len(), profile.phases[0].test), (1, Test::Prompt(20)));
    assert!(profile.phases[0].total.roofline.is_some_and(|share| share > 0.0), "{:?}", profile.machine);
    let told = [Event::Loading(0), Event::Repetitions(0, 2), Event::Repetitions(1, 2), Event::Repetitions(2, 2)];
    assert_eq!(events, [&told[..], &[Event::Machine]].concat());
}
