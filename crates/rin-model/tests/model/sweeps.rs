//! Sweeps over small sound files: every truncation, every flipped bit, and what they make the reader allocate.

use std::hint::black_box;

use rin_model::{Config, ModelFile};

use crate::counting::peak_of;
use crate::hostile_cases::all;
use crate::rin::rin;
use crate::tiny::{CONFIG_JSON, gguf, safetensors};

/// Opens, looks at everything, and says whether the header is sound. Panics and hangs are what it is for.
fn visit(name: &str, bytes: &[u8]) -> bool {
    let Ok(file) = ModelFile::from_bytes(name, bytes.to_vec()) else { return false };
    if let Ok(config) = file.config() {
        black_box(config.clone());
    }
    for tensor in file.tensors() {
        assert_eq!(file.bytes(tensor).len() as u64, tensor.n_bytes, "{}", tensor.name);
    }
    for (key, value) in file.metadata() {
        black_box((key, value.to_string()));
    }
    drop(black_box(file.tokenizer()));
    true
}

fn files() -> [(&'static str, Vec<u8>); 3] {
    [
        ("tiny.gguf", gguf().finish()),
        ("tiny.safetensors", safetensors().finish()),
        ("tiny.rin", rin(|_, value| value.to_owned(), 64)),
    ]
}

#[test]
fn every_truncation_is_an_error() {
    for (name, bytes) in files() {
        assert!(visit(name, &bytes), "{name}");
        for length in 0..bytes.len() {
            assert!(!visit(name, &bytes[..length]), "{name} cut to {length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn every_flipped_bit_is_survived() {
    for (name, mut bytes) in files() {
        // The weights are bytes like any other: flipping those of the first tensors is enough.
        let swept = bytes.len().min(4096);
        for at in 0..swept {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                visit(name, &bytes);
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn every_byte_at_its_extremes_is_survived() {
    for (name, mut bytes) in files() {
        for at in 0..bytes.len().min(4096) {
            let original = bytes[at];
            for value in [0, 0x7F, 0x80, 0xFF] {
                bytes[at] = value;
                visit(name, &bytes);
            }
            bytes[at] = original;
        }
    }
}

#[test]
fn every_truncation_and_flip_of_a_configuration_is_survived() {
    let json = CONFIG_JSON.as_bytes();
    Config::from_hf(json, None).unwrap();
    for length in 0..json.len() {
        assert!(Config::from_hf(&json[..length], None).is_err(), "cut to {length}");
    }
    let mut json = json.to_vec();
    for at in 0..json.len() {
        for bit in 0..8 {
            json[at] ^= 1 << bit;
            drop(black_box(Config::from_hf(&json, Some(&json))));
            json[at] ^= 1 << bit;
        }
    }
}

/// Held at any time: a small multiple of the file, and never what a count in it asks for.
#[test]
fn allocation_stays_within_the_order_of_the_file() {
    let sound = files().map(|(name, bytes)| (name, bytes)).into_iter();
    for (name, bytes) in sound.chain(all().into_iter().map(|case| (case.name, case.bytes))) {
        let bound = 8 * bytes.len() + (16 << 10);
        let bytes: &'static [u8] = bytes.leak();
        let (_, peak) = peak_of(|| {
            let file = ModelFile::from_bytes(name, bytes)?;
            file.config()?;
            file.tokenizer().map(drop)
        });
        assert!(peak <= bound, "{name}: {peak} bytes held for a file of {}", bytes.len());
    }
}

/// The densest headers: as many tensors and keys as fit.
#[test]
fn allocation_stays_within_the_order_of_a_dense_header() {
    use rin_testkit::gguf_writer::GgufWriter;
    use rin_testkit::safetensors_writer::file;
    let keys = (0..60_000_u32)
        .fold(GgufWriter::new(3), |file, i| file.kv_again(&i.to_le_bytes().map(|byte| byte & 0x7F), 0, &[0]));
    let tensors = (0..20_000_u64).fold(GgufWriter::new(3), |file, i| file.tensor(&format!("{i}"), &[1], 24, vec![0]));
    let json = |item: &str, n: usize, end: &str| file(format!("{{{}{end}", item.repeat(n)).as_bytes(), &[]);
    let long_name = format!(r#"{{"t":{{"{}":1}}}}"#, "x".repeat(1 << 20));
    for (name, bytes) in [
        ("keys", keys.finish()),
        ("tensors", tensors.finish()),
        ("shape.safetensors", json("\"t\":{\"shape\":[1", 1, &format!("{}]}}}}", ",1".repeat(1 << 20)))),
        ("metadata.safetensors", json("\"__metadata__\":{\"a\":\"\"", 1, &",\"a\":\"\"".repeat(200_000))),
        ("field.safetensors", file(long_name.as_bytes(), &[])),
    ] {
        let bytes: &'static [u8] = bytes.leak();
        let (_, peak) = peak_of(|| ModelFile::from_bytes(name, bytes).is_ok());
        assert!(peak <= 20 * bytes.len() + (16 << 10), "{name}: {peak} bytes held for a file of {}", bytes.len());
    }
}
