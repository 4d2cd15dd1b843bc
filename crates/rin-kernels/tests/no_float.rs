//! The kernels of integer layers execute no float operation: their machine code in this very binary is read with objdump.
//!
//! Moves, and the clearing of a register with itself, are no operations on floats, whatever they are called. A layer norm
//! stands beside for what the reading must find.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use rin_kernels::ops::integer::{DenseNarrow, DenseWide, IntegerLayer, look_up};
use rin_kernels::ops::layer_norm::LayerNorm;
use rin_kernels::ops::wide::Factor;
use rin_kernels::ops::wide::attention::{Attend, Attended, FRACTION};
use rin_kernels::ops::wide::norm::{WideLayerNorm, WideNorm, WideRmsNorm};
use rin_kernels::ops::wide::rotate::WideRotate;
use rin_kernels::ops::wide::rows::{AddScaled, Curve, Largest, MultiplyScaled, Rescale, SEGMENTS, ToBytes};
use rin_kernels::ops::wide::softmax::Powers;
use rin_kernels::{Cpu, MatMut, Tier};
use std::process::Command;

/// Mnemonics of operations on floats, the `v` of AVX taken off: what they begin with.
const FLOAT: [&str; 22] = [
    "add", "sub", "mul", "div", "sqrt", "rsqrt", "rcp", "fmadd", "fmsub", "fnmadd", "fnmsub", "min", "max", "cmp",
    "ucomi", "comi", "round", "rndscale", "scalef", "getexp", "getmant", "dp",
];

/// Whether an instruction computes with floats.
fn is_float(mnemonic: &str) -> bool {
    // x87.
    if mnemonic.starts_with('f') && !mnemonic.starts_with("fence") {
        return true;
    }
    let name = mnemonic.strip_prefix('v').unwrap_or(mnemonic);
    let of_floats = ["ps", "pd", "ss", "sd", "ph", "sh"].iter().any(|end| name.ends_with(end));
    let converts = name.starts_with("cvt") && ["ps", "pd", "ss", "sd", "ph"].iter().any(|kind| name.contains(kind));
    converts || of_floats && FLOAT.iter().any(|start| name.starts_with(start))
}

/// The instructions of the functions whose name contains `part`, by function.
fn functions(listing: &str, part: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')).map(|(_, name)| name) {
            inside = name.contains(part);
            if inside {
                found.push((name.to_owned(), Vec::new()));
            }
        } else if inside && let Some((_, instruction)) = line.split_once(":\t") {
            let mnemonic = instruction.split_whitespace().next().unwrap_or_default();
            if let Some((_, list)) = found.last_mut() {
                list.push(mnemonic.to_owned());
            }
        }
    }
    found
}

fn floats(functions: &[(String, Vec<String>)]) -> Vec<String> {
    let of = |(name, list): &(String, Vec<String>)| -> Vec<String> {
        list.iter().filter(|mnemonic| is_float(mnemonic)).map(|mnemonic| format!("{mnemonic} in {name}")).collect()
    };
    functions.iter().flat_map(of).collect()
}

#[test]
fn integer_layers_have_no_float_instruction() {
    // What is looked for has to be in this binary.
    let (w, numbers) = (vec![129; 64], vec![31; 16]);
    let layer = IntegerLayer { w: &w, bias: &numbers, multiplier: &numbers, shift: &numbers, low: -127, high: 127 };
    let (mut narrow, mut wide, mut y) = ([0; 16], [0; 16], [0.0; 16]);
    for tier in [Tier::Scalar, Tier::Avx2, Tier::Avx512Vnni] {
        let cpu = Cpu::detect().up_to(tier);
        DenseNarrow::select(&cpu).run(&mut MatMut::new(&mut narrow, 1, 16), &[1; 4], layer);
        DenseWide::select(&cpu).run(&mut MatMut::new(&mut wide, 1, 16), &[1; 4], layer);
        encoder(cpu);
        LayerNorm::select(&cpu).run(&mut y, &[1.0; 16], &[1.0; 16], &[0.0; 16], 1e-5);
    }
    look_up(&mut narrow, &[0; 256]);
    let binary = std::env::current_exe().unwrap();
    let listing = Command::new("objdump").args(["-d", "-C", "--no-show-raw-insn"]).arg(binary).output();
    let Ok(listing) = listing else {
        assert!(std::env::var_os("RIN_REQUIRE_C").is_none(), "objdump is not installed");
        println!("SKIPPED: objdump is not installed");
        return;
    };
    assert!(listing.status.success());
    let listing = String::from_utf8_lossy(&listing.stdout);

    let norm = functions(&listing, "rin_kernels::ops::layer_norm::row");
    assert!(norm.len() >= 3, "{norm:?}");
    assert!(norm.iter().all(|function| !floats(std::slice::from_ref(function)).is_empty()), "the reading finds floats");

    let layers = functions(&listing, "rin_kernels::ops::integer::");
    for part in ["::integer::dense", "avx2::dense", "avx512::dense"] {
        assert!(
            layers.iter().any(|(name, list)| name.contains(part) && list.len() > 10),
            "{part} in {:?}",
            names(&layers)
        );
    }
    assert!(layers.iter().any(|(_, list)| list.iter().any(|mnemonic| mnemonic == "vpdpbusd")));
    assert_eq!(floats(&layers), Vec::<String>::new());

    let rows = functions(&listing, "rin_kernels::ops::wide::");
    for operation in [
        "largest_row",
        "bytes_row",
        "rescale_row",
        "add_row",
        "multiply_row",
        "curve_row",
        "norm::row",
        "norm::rms_row",
        "rotate::row",
    ] {
        for tier in ["scalar", "avx2", "avx512"] {
            let name = format!("{operation}::{tier}");
            let found = rows.iter().any(|(found, list)| found.contains(&name) && list.len() > 10);
            assert!(found, "{name} in {:?}", names(&rows));
        }
    }
    for name in ["attention::attend", "attention::avx2", "attention::avx512::attend"] {
        assert!(
            rows.iter().any(|(found, list)| found.contains(name) && list.len() > 10),
            "{name} in {:?}",
            names(&rows)
        );
    }
    assert!(rows.iter().any(|(_, list)| list.iter().any(|mnemonic| mnemonic == "vpdpwssd")));
    assert_eq!(floats(&rows), Vec::<String>::new());
}

/// The operations between the products of encoders and decoders, so that they are in this binary.
fn encoder(cpu: Cpu) {
    let factor = Factor { multiplier: 1 << 30, shift: 31 };
    let (mut q, mut y, x) = ([0; 16], [3; 16], [5; 16]);
    ToBytes::select(&cpu).run(&mut q, &x, 5);
    Rescale::select(&cpu).run(&mut y, &x, factor);
    AddScaled::select(&cpu).run(&mut y, &x, factor, factor);
    Curve::select(&cpu).run(&mut y, &vec![0; SEGMENTS + 1]);
    let norm = WideNorm { gain: &x, bias: &x, shift: 16, epsilon: 1 };
    WideLayerNorm::select(&cpu).run(&mut y, &x, norm);
    WideRmsNorm::select(&cpu).run(&mut y, &x, WideNorm { bias: &[], ..norm });
    MultiplyScaled::select(&cpu).run(&mut y, &x, factor);
    WideRotate::select(&cpu).run(&mut y, &[1; 8], 16, true);
    let powers = Powers::new(FRACTION);
    let to = Attended { keys: &[[1; 2]; 128], values: &[[1; 2]; 16], factor, powers: &powers };
    Attend::select(&cpu).run(&mut y, &[[1; 2]; 8], to, &mut [0; 2], &mut [0; 2]);
    let mut most = 0;
    Largest::select(&cpu).run(&x, &mut most);
}

fn names(functions: &[(String, Vec<String>)]) -> Vec<&str> {
    functions.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn mnemonics_are_told_apart() {
    for float in
        ["vaddps", "mulss", "vfmadd213ps", "vcvtdq2ps", "cvttss2si", "vmaxps", "fld", "vroundps", "sqrtsd", "vcmpltps"]
    {
        assert!(is_float(float), "{float}");
    }
    for whole in [
        "vmovups",
        "movaps",
        "vxorps",
        "vbroadcastss",
        "vpaddd",
        "vpdpbusd",
        "imul",
        "vinsertf128",
        "sub",
        "adds",
        "vpmaxsd",
        "vpmovsxbw",
    ] {
        assert!(!is_float(whole), "{whole}");
    }
}
