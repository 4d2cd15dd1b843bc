//! ONNX's own tests of its operators, as many as the archive of the shared data has.
//!
//! Every test of an operator that RIN runs is run, or stands in a list here with the reason why it is not.

use crate::archive;
use crate::data::{Array, array, difference, engine};
use rin_import::{Error, ForeignError, ImportOptions};
use rin_testkit::data::shared;
use rin_testkit::onnx_writer::Proto;
use std::collections::BTreeMap;

/// Tolerances of ONNX's backend tests.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// Tests of operators that are run, which are not: what their names contain, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("batchnorm_example_training_mode", "trains"),
    ("batchnorm_epsilon_training_mode", "trains"),
    ("maxpool_with_argmax_2d_precomputed_strides", "counts places column by column"),
];

struct Test {
    name: String,
    model: Vec<u8>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

fn tests() -> Option<Vec<Test>> {
    let mut files = archive::files(&shared("onnx/node-tests.tar.gz")?);
    let names: Vec<String> =
        files.keys().filter_map(|name| name.strip_suffix("/model.onnx")).map(str::to_owned).collect();
    let mut tests = Vec::new();
    for name in names {
        let model = files.remove(&format!("{name}/model.onnx")).unwrap();
        let mut all = |what: &str| -> Vec<Vec<u8>> {
            (0..).map_while(|i| files.remove(&format!("{name}/test_data_set_0/{what}_{i}.pb"))).collect()
        };
        let (inputs, outputs) = (all("input"), all("output"));
        tests.push(Test { name: name.rsplit('/').next().unwrap().to_owned(), model, inputs, outputs });
    }
    Some(tests)
}

/// What became of a test.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Passed,
    /// Passed with some inputs bound to the values of the test, as their values decide about shapes.
    PassedBound,
    /// Needs an operator that RIN does not have.
    OtherOperator,
    /// Needs an element type that RIN does not have, or a sequence.
    OtherType,
    Listed,
    Failed(String),
}

/// The model with an input as a constant: protobuf joins the two parts of the graph.
fn bind(model: &mut Vec<u8>, name: &str, tensor: &[u8]) {
    let mut tensor = tensor.to_vec();
    tensor.extend(Proto::new().bytes(8, name).finish());
    model.extend(Proto::new().message(7, &Proto::new().bytes(5, &tensor)).finish());
}

/// A network computes from something: an input that nobody reads.
fn with_an_input(model: &mut Vec<u8>) {
    let unused = rin_testkit::onnx_writer::value("unused", 1, &[1]);
    model.extend(Proto::new().message(7, &Proto::new().message(11, &unused)).finish());
}

fn lacking(error: &Error) -> Option<Outcome> {
    let Error::Foreign(ForeignError::Operators { lacking }) = error else { return None };
    let operators = lacking.iter().any(|what| what.starts_with("operator "));
    Some(if operators { Outcome::OtherOperator } else { Outcome::OtherType })
}

fn run(test: &Test) -> Outcome {
    let mut model = test.model.clone();
    let names: Vec<String> = {
        let parsed = rin_model::onnx::Model::read(&test.model).unwrap();
        let constants: Vec<&str> = parsed.graph.initializers.iter().map(|t| t.name).collect();
        let open = parsed.graph.inputs.iter().filter(|input| !constants.contains(&input.name));
        open.map(|input| input.name.to_owned()).collect()
    };
    assert!(test.inputs.len() >= names.len(), "the archive has {} inputs of {names:?}", test.inputs.len());
    let mut open: Vec<usize> = (0..names.len()).collect();
    let mut bound = names.is_empty();
    if bound {
        with_an_input(&mut model);
    }
    let mut engine = match engine(&test.name, &model, &ImportOptions::default()) {
        Ok(engine) => engine,
        Err(error) => {
            if let Some(outcome) = lacking(&error) {
                return outcome;
            }
            if !error.to_string().contains("has to be known beforehand") {
                return Outcome::Failed(error.to_string());
            }
            // Everything but the first input, or all where there is only one.
            let from = usize::from(names.len() > 1);
            for at in from..names.len() {
                bind(&mut model, &names[at], &test.inputs[at]);
            }
            open.retain(|&at| at < from);
            bound = true;
            if open.is_empty() {
                with_an_input(&mut model);
            }
            match engine(&test.name, &model, &ImportOptions::default()) {
                Ok(engine) => engine,
                Err(error) => return Outcome::Failed(error.to_string()),
            }
        }
    };
    let mut inputs: Vec<Vec<f32>> = Vec::new();
    for at in open {
        let Some(Array { values, .. }) = array(&test.inputs[at]) else { return Outcome::Failed("an input".to_owned()) };
        #[expect(clippy::cast_possible_truncation, reason = "rows are given as f32")]
        inputs.push(values.iter().map(|&x| x as f32).collect());
    }
    if inputs.is_empty() {
        inputs.push(vec![0.0]);
    }
    let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    if let Err(error) = engine.run(&slices, 1) {
        return Outcome::Failed(error.to_string());
    }
    for (i, wanted) in test.outputs.iter().enumerate() {
        let Some(wanted) = array(wanted) else { return Outcome::Failed("an output".to_owned()) };
        if let Some(found) = difference(engine.output(i), &wanted.values, RELATIVE, ABSOLUTE) {
            return Outcome::Failed(format!("output {i} of {:?} ({}): {found}", wanted.shape, wanted.element));
        }
    }
    if bound { Outcome::PassedBound } else { Outcome::Passed }
}

#[test]
fn operators_give_what_onnx_says() {
    let Some(tests) = tests() else { return };
    let only = std::env::var("RIN_ONNX_TEST").ok();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    for test in &tests {
        if only.as_ref().is_some_and(|only| !test.name.contains(only.as_str())) {
            continue;
        }
        let listed = NOT_RUN.iter().find(|(part, _)| test.name.contains(part));
        let found = std::panic::catch_unwind(|| run(test));
        let mut outcome = found.unwrap_or_else(|_| Outcome::Failed("a panic".to_owned()));
        match (&outcome, listed) {
            (Outcome::Failed(_), Some(_)) => outcome = Outcome::Listed,
            (Outcome::Passed | Outcome::PassedBound, Some(_)) => {
                failures.push(format!("{}: passes, and is listed as not run", test.name));
            }
            (Outcome::Failed(why), None) => failures.push(format!("{}: {why}", test.name)),
            _ => {}
        }
        let key = match &outcome {
            Outcome::Failed(_) => "failed".to_owned(),
            other => format!("{other:?}"),
        };
        *counts.entry(key).or_default() += 1;
    }
    println!("{} tests: {counts:?}", tests.len());
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    let of = |key: &str| counts.get(key).copied().unwrap_or(0);
    assert_eq!(counts.values().sum::<usize>(), tests.len());
    assert!(only.is_some() || of("Passed") + of("PassedBound") >= 300, "{counts:?}");
}
