//! Each check on the model itself, as it is and with the thing that it measures broken.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rin_kernels::ops::lif::Reset;
use rin_lab::validate::{Measured, Options, Rule, Subject, Thermometers, Watch, check, engine};
use rin_lab::{Context, Scale};
use rin_model::ModelFile;

use crate::checks::{fails, passes, untestable};
use crate::machine::{Counter, Folder, short};

/// The model on a machine.
fn subject(root: &Path) -> Subject {
    Subject::new(rin_embedded::model().unwrap(), Thermometers::read(root)).unwrap()
}

fn found(name: &str, subject: &mut Subject, root: &Path) -> Measured {
    let cancel = AtomicBool::new(false);
    let context = Context { data: Path::new(""), python: None, cancel: &cancel };
    let watch = Watch::new(Duration::from_secs(2), Duration::from_millis(200)).unwrap();
    let options = Options { energy: short(), ..Options::new(root, watch, Scale::Quick) };
    check(name, subject, &options, &context).unwrap().measured
}

/// The model with the bytes of a tensor changed.
fn changed(tensor: &str, change: impl FnOnce(&mut [u8])) -> ModelFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/embedded/rin-shakespeare.rin");
    let mut bytes = fs::read(path).unwrap();
    let file = rin_embedded::model().unwrap();
    let info = file.tensor(tensor).unwrap();
    change(&mut bytes[info.offset as usize..(info.offset + info.n_bytes) as usize]);
    let file_of_them = ModelFile::from_bytes("changed.rin", bytes).unwrap();
    assert_ne!(file_of_them.bytes(file_of_them.tensor(tensor).unwrap()), file.bytes(info), "{tensor} is as it was");
    file_of_them
}

/// A check that passes, and fails where a tensor of the engine is zeros.
fn with_and_without(name: &str, tensor: &str) -> (Measured, Measured) {
    let root = Folder::new(&format!("model-{name}"));
    let mut subject = subject(&root.0);
    let whole = found(name, &mut subject, &root.0);
    assert!(passes(&whole), "{whole:?}");
    subject.engine = engine(changed(tensor, |bytes| bytes.fill(0))).unwrap();
    let broken = found(name, &mut subject, &root.0);
    assert!(fails(&broken), "{broken:?}");
    (whole, broken)
}

#[test]
fn joule_sees_what_a_token_takes() {
    let per_token = |name: &str, watts: f64, microjoules: u64| {
        let counter = Counter::new(name, watts);
        let mut subject = subject(&counter.folder.0);
        let sum = Arc::clone(&counter.microjoules);
        subject.each_step = Box::new(move || {
            sum.fetch_add(microjoules, Ordering::Relaxed);
        });
        found("joule", &mut subject, &counter.folder.0)
    };
    // 0.1 mJ and 1 mJ a token, and a little for the time.
    let (frugal, hungry) = (per_token("model-frugal", 0.002, 100), per_token("model-hungry", 0.002, 1000));
    assert!(passes(&frugal) && frugal.value.unwrap() > 0.09 && frugal.ci95.is_some(), "{frugal:?}");
    assert!(fails(&hungry) && hungry.value.unwrap() > 0.9, "{hungry:?}");
    let still = per_token("model-still", 0.0, 0);
    assert!(untestable(&still), "a counter that stands still: {still:?}");
}

#[test]
fn fidelity_sees_a_changed_tensor() {
    let (whole, broken) = with_and_without("fidelity", "blk.3.ffn_down.weight");
    assert!(whole.beside.len() == 2, "{whole:?}");
    for (whole, broken) in whole.beside.iter().zip(&broken.beside) {
        assert!(whole.value < broken.value && broken.value.unwrap() > broken.threshold, "{broken:?}");
    }
}

#[test]
fn latency_sees_slow_steps() {
    let root = Folder::new("model-latency");
    let mut subject = subject(&root.0);
    let whole = found("latency", &mut subject, &root.0);
    assert!(passes(&whole), "{whole:?}");
    subject.each_step = Box::new(|| std::thread::sleep(Duration::from_millis(68)));
    let broken = found("latency", &mut subject, &root.0);
    assert!(fails(&broken), "{broken:?}");
}

#[test]
fn thermal_sees_heat_of_generation_and_of_what_ran_before() {
    let root = Folder::new("model-thermal");
    let zone = root.file("sys/class/thermal/thermal_zone0/temp", "40000\n");
    let mut subject = subject(&root.0);
    let mut under_load = |degrees: Option<u32>, before: u32| {
        fs::write(&zone, format!("{before}000\n")).unwrap();
        let path = zone.clone();
        subject.each_step = Box::new(move || match degrees {
            Some(degrees) => fs::write(&path, format!("{degrees}000\n")).unwrap(),
            None => drop(fs::remove_file(&path)),
        });
        found("thermal", &mut subject, &root.0)
    };
    let warm = under_load(Some(50), 40);
    assert!(passes(&warm) && (warm.value.unwrap() - 10.0).abs() < 1e-9, "{warm:?}");
    let points = warm.curve.unwrap().points;
    assert!((5..=12).contains(&points.len()) && (points[0][1] - 40.0).abs() < 1e-9, "{points:?}");
    assert!(fails(&under_load(Some(56), 40)));
    // It was heated before the check began, and rises no more.
    let hot_before = under_load(Some(58), 58);
    assert!(fails(&hot_before), "{hot_before:?}");
    let (constant, gone) = (under_load(Some(40), 40), under_load(None, 40));
    assert!(untestable(&constant) && untestable(&gone), "{constant:?} {gone:?}");
}

#[test]
fn numerical_sees_one_way_with_other_weights_and_another_rule() {
    let root = Folder::new("model-numerical");
    let mut subject = subject(&root.0);
    let whole = found("numerical", &mut subject, &root.0);
    assert!(passes(&whole), "{whole:?}");
    // For its third way the engine is one whose codes differ in a bit here and there.
    let file = changed("blk.0.attn_q.weight", |bytes| bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1));
    let (mut other, mut way) = (engine(file).unwrap(), 0);
    subject.each_way = Box::new(move |engine| {
        way += 1;
        if way == 3 || way == 4 {
            std::mem::swap(engine, &mut other);
        }
    });
    let broken = found("numerical", &mut subject, &root.0);
    let (value, defined) = (broken.value.unwrap(), whole.value.unwrap());
    assert!(fails(&broken) && value < defined && value > 0.5, "{broken:?}");
    subject.each_way = Box::new(|_| {});
    assert!(passes(&found("numerical", &mut subject, &root.0)));
    let rule = subject.rule;
    for wrong in [Rule { reset: Reset::Subtract, ..rule }, Rule { keep: rule.keep + 1, ..rule }] {
        subject.rule = wrong;
        let broken = found("numerical", &mut subject, &root.0);
        assert!(fails(&broken), "{wrong:?}: {broken:?}");
    }
}

#[test]
fn sparsity_sees_sizes_that_tell_nothing_and_neurons_that_do_nothing() {
    let root = Folder::new("model-sparsity");
    // Rows of the up matrix times a factor, columns of the down matrix by it: the same function, other hidden values.
    let scaled = |up: &dyn Fn(usize) -> f32, down: &dyn Fn(usize) -> f32| {
        let mut subject = subject(&root.0);
        subject
            .decoder
            .change_weights(|matrix| {
                let factor = |at: usize| match &matrix.name {
                    name if name.ends_with("ffn_up.weight") => up(at / matrix.cols),
                    name if name.ends_with("ffn_down.weight") => down(at % matrix.cols),
                    _ => 1.0,
                };
                Ok(matrix.values().iter().enumerate().map(|(at, x)| x * factor(at)).collect())
            })
            .unwrap();
        found("sparsity", &mut subject, &root.0)
    };
    let whole = scaled(&|_| 1.0, &|_| 1.0);
    assert!(whole.value.unwrap() > 0.4 && whole.curve.as_ref().unwrap().points.len() == 6, "{whole:?}");
    let factor = |neuron: usize| [1.0, 32.0, 1024.0][neuron % 3];
    let mixed = scaled(&factor, &|neuron| 1.0 / factor(neuron));
    assert!(fails(&mixed) && mixed.value.unwrap() < 0.8 * whole.value.unwrap(), "{mixed:?} {whole:?}");
    // Of twelve neurons eleven do next to nothing.
    let idle = |neuron: usize| if neuron.is_multiple_of(12) { 1.0 } else { 1e-6 };
    let few = scaled(&idle, &|_| 1.0);
    assert!(passes(&few), "{few:?}");
    let none = scaled(&|_| 1.0, &|_| 0.0);
    assert!(untestable(&none), "{none:?}");
}

#[test]
fn topology_sees_a_changed_layer() {
    with_and_without("topology", "blk.0.ffn_down.weight");
}
