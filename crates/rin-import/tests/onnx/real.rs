//! Trained models with stored inputs and outputs.

use crate::data::{array, difference, engine};
use rin_import::ImportOptions;
use rin_testkit::data::shared;

#[test]
fn mnist_agrees_on_its_three_digits() {
    let Some(folder) = shared("onnx/mnist_8") else { return };
    let read = |path: &str| std::fs::read(folder.join(path)).unwrap();
    let mut engine = engine("mnist", &read("model.onnx"), &ImportOptions::default()).unwrap();
    for set in 0..3 {
        let input = array(&read(&format!("test_data_set_{set}/input_0.pb"))).unwrap();
        let wanted = array(&read(&format!("test_data_set_{set}/output_0.pb"))).unwrap();
        #[expect(clippy::cast_possible_truncation, reason = "the values are floats")]
        let values: Vec<f32> = input.values.iter().map(|&x| x as f32).collect();
        engine.run(&[&values], 1).unwrap();
        // The stored answers are another program's, with its rounding: scores of up to some thousands.
        assert_eq!(difference(engine.output(0), &wanted.values, 1e-3, 2e-3), None, "set {set}");
    }
}
