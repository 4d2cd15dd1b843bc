//! RWKV-7 as its author publishes it: a state dictionary of PyTorch.

use crate::models::{Folder, convert, metadata};
use rin_engine::{Engine, LoadOptions};
use rin_kernels::Format;
use rin_model::{DType, ModelFile};
use rin_testkit::data::conformance;
use rin_testkit::npy::Array2;
use std::path::Path;

fn folder() -> std::path::PathBuf {
    conformance("recurrent/tiny-rwkv7")
}

/// The logits of the file's own text.
fn logits(path: &Path) -> Vec<f32> {
    let tokens = std::fs::read(conformance("recurrent/tokens.json")).unwrap();
    let tokens: Vec<u32> = serde_json::from_slice(&tokens).unwrap();
    let options = LoadOptions { threads: Some(1), ctx: Some(128), n_logits: 16, ..LoadOptions::default() };
    let mut engine = Engine::load(ModelFile::open(path).unwrap(), &options, |_| {}).unwrap();
    let sequence = engine.sequence().unwrap();
    let mut all = Vec::new();
    engine.feed_all(&sequence, &tokens, |row| all.extend_from_slice(row)).unwrap();
    all
}

#[test]
fn a_state_dictionary_has_the_logits_of_the_rwkv_package_and_the_bits_of_the_gguf_file() {
    let here = Folder::new();
    let (dst, other) = (here.join("pth.rin"), here.join("gguf.rin"));
    convert(&folder().join("tiny-rwkv7.pth"), &dst, None).unwrap();
    convert(&folder().join("tiny-rwkv7-f32.gguf"), &other, None).unwrap();
    let got = logits(&dst);
    let want = Array2::read(&folder().join("logits.npy")).values;
    let range = want.iter().copied().fold(f32::MIN, f32::max) - want.iter().copied().fold(f32::MAX, f32::min);
    let worst = got.iter().zip(&want).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
    eprintln!("{:e} of the range", worst / range);
    assert!(got.len() == want.len() && worst <= 1e-4 * range, "{worst} of {range}");
    assert!(got == logits(&other), "the layouts are of one network");

    let file = ModelFile::open(&dst).unwrap();
    file.verify_sha256().unwrap();
    let (header, _) = crate::models::header(&std::fs::read(&dst).unwrap());
    assert_eq!(metadata(&header, "rin.provenance")["format"], "pytorch");
    assert!(file.tokenizer().is_err(), "no tokenizer lies beside it");
}

#[test]
fn matrices_are_quantised_where_their_rows_hold_whole_blocks() {
    let here = Folder::new();
    let dst = here.join("q8.rin");
    convert(&folder().join("tiny-rwkv7.pth"), &dst, Some(Format::Q8_0)).unwrap();
    let file = ModelFile::open(&dst).unwrap();
    let dtype = |name: &str| file.tensor(name).unwrap().dtype;
    assert_eq!(dtype("blk.1.time_mix_key.weight"), DType::Q8_0);
    // 16 columns.
    assert_eq!(dtype("blk.1.time_mix_w2.weight"), DType::F32);
    let (got, want) = (logits(&dst), Array2::read(&folder().join("logits.npy")).values);
    let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
    let off = squares(&mut got.iter().zip(&want).map(|(a, b)| a - b)) / squares(&mut want.iter().copied());
    assert!(off < 1e-2, "{off} of the energy");
}
