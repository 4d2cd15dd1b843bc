//! Dense classifiers: gradients by differences, and trainings of the digits in integers.
#![expect(clippy::unwrap_used, reason = "a failed test should say where")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "data of tests, which is small")]

use rin_engine::{LoadOptions, NetworkEngine};
use rin_model::{Mode, ModelFile};
use rin_testkit::data::shared;
use rin_train::mlp::network::Shape;
use rin_train::mlp::{MlpConfig, run};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

#[test]
fn gradients_are_those_of_differences() {
    let shape = Shape { widths: vec![5, 7, 6, 3], scale: 0.5 };
    let parameters = shape.parameters(3);
    let row = [0.5, -1.0, 2.0, 0.25, 1.5];
    let mut gradients: Vec<Vec<f32>> = parameters.0.iter().map(|p| vec![0.0; p.values.len()]).collect();
    shape.backward(&parameters.0, &row, 1, None, &mut gradients);
    let loss = |parameters: &rin_train::parameters::Parameters| {
        let mut ignored: Vec<Vec<f32>> = parameters.0.iter().map(|p| vec![0.0; p.values.len()]).collect();
        shape.backward(&parameters.0, &row, 1, None, &mut ignored).loss
    };
    let (mut checked, mut largest) = (0, 0.0_f64);
    for (i, gradient) in gradients.iter().enumerate() {
        for at in 0..gradient.len() {
            let step = 1.0 / 512.0;
            let moved = |by: f32| {
                let mut moved = parameters.clone();
                moved.0[i].values[at] += by;
                loss(&moved)
            };
            let want = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let found = f64::from(gradient[at]);
            assert!((found - want).abs() <= 2e-3 * want.abs().max(0.1), "{i} {at}: {found} for {want}");
            (checked, largest) = (checked + 1, largest.max(want.abs()));
        }
    }
    assert!(checked == 5 * 7 + 7 + 7 * 6 + 6 + 6 * 3 + 3 && largest > 0.05, "{checked} {largest}");
}

/// A folder with rows and labels as .csv, and a configuration.
fn folder(name: &str, rows: &[(Vec<f32>, usize)], text: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("rin-mlp-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let line = |row: &[f32]| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let inputs: Vec<String> = rows.iter().map(|(row, _)| line(row)).collect();
    let labels: Vec<String> = rows.iter().map(|(_, label)| label.to_string()).collect();
    std::fs::write(folder.join("x.csv"), inputs.join("\n")).unwrap();
    std::fs::write(folder.join("y.csv"), labels.join("\n")).unwrap();
    std::fs::write(folder.join("train.toml"), text).unwrap();
    folder
}

fn digits() -> Option<Vec<(Vec<f32>, usize)>> {
    let bytes = std::fs::read(shared("digits/digits.xy")?).unwrap();
    // Features and rows as u64, then the features and the classes as f32.
    let (width, rows) = (64, 1797);
    let values: Vec<f32> = bytes[16..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let label = |at: usize| values[rows * width + at] as usize;
    Some((0..rows).map(|at| (values[at * width..][..width].to_vec(), label(at))).collect())
}

#[test]
fn digits_are_told_apart_in_integers() {
    let Some(rows) = digits() else { return };
    let text = "[model]\nfamily = 'mlp'\nhidden = [128]\n[data]\ninputs = 'x.csv'\nlabels = 'y.csv'\nscale = 0.0625\n\
                [train]\nepochs = 40\ninput_dropout = 0.1\n[output]\ndir = '.'\nname = 'digits'\n";
    assert!(MlpConfig::is_meant(text));
    let folder = folder("digits", &rows, text);
    let mut losses = Vec::new();
    let hear = &mut |epoch: rin_train::mlp::Epoch| losses.push((epoch.loss, epoch.rounded));
    let summary = run(&folder.join("train.toml"), false, hear, &AtomicBool::new(false)).unwrap().unwrap();
    println!("{summary:?}");
    let test = summary.test;
    assert_eq!((test.rows, summary.train_rows, losses.len()), (359, 1438, 40));
    assert!(test.integer_accuracy >= 0.975, "{test:?}");
    assert!(test.mcnemar_p > 0.05, "{test:?}");
    assert!(losses[0].0 > 3.0 * losses[39].0 && !losses[0].1 && losses[39].1, "{losses:?}");
    // The file takes rows as those of the data are.
    let file = ModelFile::open(&summary.model).unwrap();
    assert_eq!(file.mode(), Some(Mode::Rin));
    let mut engine = NetworkEngine::load(file, &LoadOptions { n_batch: 1, ..LoadOptions::default() }, |_| ()).unwrap();
    let right = rows.iter().take(300).filter(|(row, label)| {
        engine.run(&[row], 1).unwrap();
        let best = (0..10).max_by(|&a, &b| engine.output(0)[a].total_cmp(&engine.output(0)[b])).unwrap();
        best == *label
    });
    assert!(right.count() > 290);
    let again = run(&folder.join("train.toml"), false, &mut |_| (), &AtomicBool::new(false));
    assert!(again.unwrap_err().to_string().contains("exists"));
    std::fs::remove_dir_all(folder).unwrap();
}

fn unzipped(name: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(shared(name)?).unwrap();
    // Ten bytes of header, then the name up to a zero where the fourth byte says so; eight bytes follow the data.
    let start = 10 + if bytes[3] & 8 == 0 { 0 } else { bytes[10..].iter().position(|&b| b == 0).unwrap() + 1 };
    Some(miniz_oxide::inflate::decompress_to_vec(&bytes[start..bytes.len() - 8]).unwrap())
}

/// 8,000 of the 10,000 test pictures of MNIST to train on, 2,000 to test: not comparable with published figures. Minutes.
#[test]
#[ignore = "takes minutes; its figures are in docs/train.md"]
fn mnist_t10k_is_told_apart_in_integers() {
    let Some(images) = unzipped("mnist/t10k-images-idx3-ubyte.gz") else { return };
    let labels = unzipped("mnist/t10k-labels-idx1-ubyte.gz").unwrap();
    let rows: Vec<(Vec<f32>, usize)> = images[16..]
        .chunks_exact(784)
        .zip(&labels[8..])
        .map(|(image, &label)| (image.iter().map(|&b| f32::from(b)).collect(), usize::from(label)))
        .collect();
    let text = "[model]\nfamily = 'mlp'\nhidden = [512, 256]\n[data]\ninputs = 'x.csv'\nlabels = 'y.csv'\nscale = 0.00392156862\n\
                [train]\nepochs = 24\nlr = 1e-3\nshift = [28, 28, 2]\n[output]\ndir = '.'\nname = 'mnist'\n";
    let folder = folder("mnist", &rows, text);
    let summary =
        run(&folder.join("train.toml"), true, &mut |e| println!("{e:?}"), &AtomicBool::new(false)).unwrap().unwrap();
    println!("{summary:?}");
    assert!(summary.test.integer_accuracy >= 0.975 && summary.test.mcnemar_p > 0.05, "{:?}", summary.test);
    std::fs::remove_dir_all(folder).unwrap();
}
