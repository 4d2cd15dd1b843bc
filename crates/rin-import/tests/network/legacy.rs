//! Files of the first generation, written here from the descriptions of their layouts.

use crate::model::{Temporary, load, outputs};
use rin_import::{ImportOptions, Report, import};
use std::path::PathBuf;

/// Two layers, 5 inputs, 4 hidden, 3 outputs: bytes, scales and biases that are no accident.
struct Net {
    bytes: [Vec<u8>; 2],
    scales: [f32; 2],
    biases: [Vec<f32>; 2],
}

const DIMS: [usize; 3] = [5, 4, 3];

fn net() -> Net {
    let bytes = |n: u8, seed: u8| (0..n).map(|i| i.wrapping_mul(37).wrapping_add(seed)).collect();
    let biases = |n: u8| (0..n).map(|i| f32::from(i) * 0.25 - 0.4).collect();
    Net { bytes: [bytes(20, 11), bytes(12, 90)], scales: [0.015_625, 0.031_25], biases: [biases(4), biases(3)] }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn rin1_c(net: &Net) -> Vec<u8> {
    let mut file = b"RIN1".to_vec();
    file.extend(words(&[1, 0, 1, 5, 3, 2, 4, 3]));
    for i in 0..2 {
        file.extend(floats(&[net.scales[i]]));
        file.extend(&net.bytes[i]);
        file.extend(floats(&net.biases[i]));
    }
    file
}

/// Weights `[in][out]`, sizes before each layer.
fn rin1_python(net: &Net) -> Vec<u8> {
    let mut file = b"RIN1".to_vec();
    file.extend(words(&[1, 0, 2, 5, 3]));
    for i in 0..2 {
        let (cols, rows) = (DIMS[i], DIMS[i + 1]);
        file.extend(words(&[cols, rows].map(|n| u32::try_from(n).unwrap())));
        file.extend(floats(&[net.scales[i]]));
        for c in 0..cols {
            file.extend((0..rows).map(|r| net.bytes[i][r * cols + c]));
        }
        file.extend(floats(&net.biases[i]));
    }
    file
}

/// As the reader had it, or as the writers had it: signed bytes, and a last layer of floats.
fn thor(net: &Net, written: bool) -> Vec<u8> {
    let mut file = b"THOR".to_vec();
    file.extend(words(&[5, 3, 2, 4, 3, 3]));
    for i in 0..2 {
        if written && i == 1 {
            let weights: Vec<f32> = net.bytes[1].iter().map(|&b| (f32::from(b) - 128.0) * net.scales[1]).collect();
            file.extend(floats(&weights));
        } else {
            file.extend(net.bytes[i].iter().map(|b| if written { b ^ 0x80 } else { *b }));
            file.extend(floats(&[net.scales[i]]));
        }
        file.extend(floats(&net.biases[i]));
    }
    file
}

/// What the network computes.
fn definition(net: &Net, x: &[f32]) -> Vec<f32> {
    let mut x: Vec<f32> = x.to_vec();
    for i in 0..2 {
        let cols = DIMS[i];
        let row = |(r, bias): (usize, &f32)| {
            let weights = net.bytes[i][r * cols..][..cols].iter().map(|&b| (f32::from(b) - 128.0) * net.scales[i]);
            let y = weights.zip(&x).map(|(w, x)| w * x).sum::<f32>() + bias;
            if i == 0 { y.max(0.0) } else { y }
        };
        x = net.biases[i].iter().enumerate().map(row).collect();
    }
    x
}

fn convert(bytes: &[u8]) -> (Result<Report, rin_import::Error>, Temporary, PathBuf) {
    let to = Temporary::new();
    let from = to.0.with_extension("legacy");
    std::fs::write(&from, bytes).unwrap();
    let result = import(&from, &to.0, &ImportOptions::default(), &mut |_| ());
    std::fs::remove_file(&from).unwrap();
    (result, to, from)
}

#[test]
fn each_layout_is_told_apart_and_gives_the_same_network() {
    let net = net();
    let x = [0.5, -1.0, 2.0, 0.25, -0.75];
    let want = definition(&net, &x);
    for (name, bytes) in [
        ("C", rin1_c(&net)),
        ("Python", rin1_python(&net)),
        ("THOR, read", thor(&net, false)),
        ("THOR, written", thor(&net, true)),
    ] {
        let (result, to, _) = convert(&bytes);
        result.unwrap();
        let (found, _) = outputs(&mut load(&to, 1), &x, 1);
        for (found, want) in found[0].iter().zip(&want) {
            assert!((found - want).abs() <= 1e-6 * (1.0 + want.abs()), "{name}: {found} for {want}");
        }
    }
}

#[test]
fn what_fits_no_layout_is_refused_with_the_reasons() {
    let net = net();
    let reason = |bytes: &[u8]| {
        let (result, to, _) = convert(bytes);
        assert!(!to.0.exists());
        result.unwrap_err().to_string()
    };
    let mut long = rin1_c(&net);
    long.push(0);
    let text = reason(&long);
    assert!(text.contains("1 bytes are left over") && text.contains("not RIN1 as Python writes it"), "{text}");
    let mut layers = rin1_c(&net);
    layers[24..28].copy_from_slice(&65_u32.to_le_bytes());
    assert!(reason(&layers).contains("65 layers"));
    let mut transformer = rin1_c(&net);
    transformer[8] = 1;
    assert!(reason(&transformer).contains("transformer"));
    let mut other = rin1_c(&net);
    other[8] = 16;
    assert!(reason(&other).contains("architecture 16"));
    assert!(reason(b"TH3R\x05\x00\x00\x00").contains("pruned"));
    for file in [rin1_c(&net), rin1_python(&net), thor(&net, false), thor(&net, true)] {
        // By its length alone, a file of the one THOR layout may be the start of one of the other: then only the scale,
        // which is a weight there, can tell.
        let other = thor(&net, false).len();
        for cut in (4..file.len()).filter(|&cut| cut != other) {
            reason(&file[..cut]);
        }
    }
    let mut nan = rin1_c(&net);
    nan[36..40].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(reason(&nan).contains("NaN as a scale"));
}
