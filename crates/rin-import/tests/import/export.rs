//! The way back: what an export writes is what was imported, and runs as it did.

use crate::models::{Folder, convert, logits, models, tiny_llama};
use rin_engine::tokenizer::{EncodeOptions, Tokenizer};
use rin_import::{Error, ExportKind, ExportOptions, ExportReport, NewModel, NewTensor, export, write};
use rin_kernels::Format;
use rin_kernels::format::dequantize;
use rin_model::{Config, DType, FileFormat, ModelFile, Pairing, RopeScaling, TensorInfo};
use rin_testkit::data::conformance;
use std::path::{Path, PathBuf};

pub(crate) fn exported(src: &Path, dst: &Path) -> Result<ExportReport, Error> {
    export(src, dst, &ExportOptions::default(), &mut |_| {})
}

fn must(src: &Path, dst: &Path) -> ExportReport {
    exported(src, dst).unwrap_or_else(|error| panic!("{}: {error}", src.display()))
}

/// Types, shapes and bytes of two files' tensors, which have the same names in both.
fn assert_same_tensors(a: &Path, b: &Path) {
    let (a, b) = (ModelFile::open(a).unwrap(), ModelFile::open(b).unwrap());
    assert_eq!(a.tensors().len(), b.tensors().len(), "{}", a.path().display());
    for tensor in a.tensors() {
        let other = b.tensors().iter().find(|other| other.source_name == tensor.source_name);
        let other = other.unwrap_or_else(|| panic!("{}: {} is missing", a.path().display(), tensor.source_name));
        let kind = |tensor: &TensorInfo| (tensor.dtype, tensor.shape.clone(), tensor.rows);
        assert_eq!(kind(tensor), kind(other), "{}: {}", a.path().display(), tensor.name);
        assert!(a.bytes(tensor) == b.bytes(other), "{}: {} differs", a.path().display(), tensor.name);
    }
}

/// The configuration but for what only one kind of file says.
fn network(path: &Path) -> Config {
    let config = ModelFile::open(path).unwrap().config().unwrap().clone();
    Config { name: None, eos: Vec::new(), bos: None, ..config }
}

fn folders() -> Vec<PathBuf> {
    let folders: Vec<_> = models().into_iter().filter(|path| path.is_dir()).collect();
    assert!(folders.len() >= 8);
    folders
}

fn ggufs() -> Vec<PathBuf> {
    let files: Vec<_> = models().into_iter().filter(|path| path.is_file()).collect();
    assert!(files.len() >= 11);
    files
}

/// The ids of a text by a file's own tokenizer.
fn ids(path: &Path) -> Vec<u32> {
    let file = ModelFile::open(path).unwrap();
    let tokenizer = Tokenizer::from_source(&file.tokenizer().unwrap()).unwrap();
    let options = EncodeOptions { add_special: true, parse_special: false };
    tokenizer.encode("The hatter and she went in 1999 to  the noted sea: naïve ☕\n", options).unwrap()
}

#[test]
fn a_folder_comes_back_from_rin_with_the_same_tensors() {
    for src in folders() {
        let folder = Folder::new();
        let (rin, back) = (folder.join("a.rin"), folder.join("back"));
        convert(&src, &rin, None).unwrap();
        let report = must(&rin, &back);
        assert_eq!((report.kind, report.n_dequantized, report.tokenizer), (ExportKind::Folder, 0, true));
        assert_same_tensors(&src, &back);
        let config = |path: &Path| ModelFile::open(path).unwrap().config().unwrap().clone();
        assert_eq!(config(&src), config(&back), "{}", src.display());
        assert!(
            std::fs::read(src.join("tokenizer.json")).unwrap() == std::fs::read(back.join("tokenizer.json")).unwrap()
        );
        let sizes = std::fs::read_dir(&back).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert_eq!(report.bytes, sizes.sum::<u64>());
        assert_eq!(folder.names(), ["a.rin", "back"]);
    }
}

#[test]
fn a_gguf_file_comes_back_from_rin_with_the_same_bytes() {
    for src in ggufs() {
        let folder = Folder::new();
        let (rin, back) = (folder.join("a.rin"), folder.join("back.gguf"));
        convert(&src, &rin, None).unwrap();
        let report = must(&rin, &back);
        assert_eq!((report.kind, report.n_dequantized), (ExportKind::Gguf, 0));
        assert_eq!(report.bytes, std::fs::metadata(&back).unwrap().len());
        assert_same_tensors(&src, &back);
        let (from, to) = (ModelFile::open(&src).unwrap(), ModelFile::open(&back).unwrap());
        assert_eq!(from.config().unwrap(), to.config().unwrap());
        let vocabulary = |file: &ModelFile| {
            let keys = file.metadata().filter(|(key, _)| key.starts_with("tokenizer."));
            keys.map(|(key, value)| format!("{key}: {value:?}")).collect::<Vec<_>>()
        };
        assert!(vocabulary(&from) == vocabulary(&to), "{}", src.display());
        // All other keys are those of the source, too.
        for (key, value) in from.metadata() {
            let written = to.metadata().find(|entry| entry.0 == key).map(|entry| entry.1);
            assert_eq!(written.map(|value| value.to_string()), Some(value.to_string()), "{}: {key}", src.display());
        }
    }
}

#[test]
fn a_folder_as_gguf_has_its_logits_to_the_bit() {
    for src in folders() {
        let folder = Folder::new();
        let (rin, direct, through) = (folder.join("a.rin"), folder.join("a.gguf"), folder.join("b.gguf"));
        must(&src, &direct);
        convert(&src, &rin, None).unwrap();
        must(&rin, &through);
        assert!(logits(&src) == logits(&direct), "{}", src.display());
        assert!(std::fs::read(&direct).unwrap() == std::fs::read(&through).unwrap(), "{}", src.display());
        assert_eq!(ids(&src), ids(&direct), "{}", src.display());
    }
}

/// The GGUF files beside the folders were written by the `gguf` package.
#[test]
fn a_folder_as_gguf_has_the_tensors_that_the_gguf_package_writes() {
    let mut compared = 0;
    for src in folders() {
        let reference = ggufs().into_iter().find(|path| path.parent() == Some(&src));
        let Some(reference) = reference else { continue };
        let folder = Folder::new();
        let (gguf, back) = (folder.join("a.gguf"), folder.join("back"));
        must(&src, &gguf);
        assert_same_tensors(&reference, &gguf);
        assert_eq!(network(&reference), network(&gguf));
        must(&reference, &back);
        assert_same_tensors(&src, &back);
        assert_eq!(network(&src), network(&back));
        assert!(logits(&src) == logits(&back));
        assert_eq!(ids(&src), ids(&back));
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn quantised_matrices_become_numbers_in_a_folder() {
    for src in ggufs() {
        let is_quantised = |tensor: &TensorInfo| tensor.dtype.block_len() > 1;
        if !ModelFile::open(&src).unwrap().tensors().iter().any(is_quantised) {
            continue;
        }
        let folder = Folder::new();
        let (rin, back) = (folder.join("a.rin"), folder.join("back"));
        convert(&src, &rin, None).unwrap();
        let report = must(&rin, &back);
        assert!(report.n_dequantized > 0);
        let (from, to) = (ModelFile::open(&src).unwrap(), ModelFile::open(&back).unwrap());
        for tensor in to.tensors() {
            let source = from.tensor(&tensor.name).unwrap();
            assert_eq!(tensor.dtype, if is_quantised(source) { DType::F32 } else { source.dtype });
            let values = |file: &ModelFile, tensor: &TensorInfo| {
                let mut values = vec![0.0; usize::try_from(tensor.n_elements()).unwrap()];
                dequantize(rin_engine::weights::format_of(tensor.dtype).unwrap(), file.bytes(tensor), &mut values);
                values
            };
            let (values, written) = (values(&from, source), values(&to, tensor));
            let cols = usize::try_from(*source.shape.last().unwrap()).unwrap();
            let rows: Vec<&[f32]> = values.chunks(cols).collect();
            let heads = from.config().unwrap().rotated_heads(&tensor.name);
            for (r, row) in written.chunks(cols).enumerate() {
                // Definition: row i of the first half of a head is the first of pair i.
                let width = heads.map_or(rows.len(), |heads| rows.len() / heads);
                let (head, i) = (r / width, r % width);
                let pair = if i < width / 2 { 2 * i } else { 2 * (i - width / 2) + 1 };
                let source = if heads.is_some() { head * width + pair } else { r };
                assert!(row.iter().zip(rows[source]).all(|(a, b)| a.to_bits() == b.to_bits()), "{} {r}", tensor.name);
            }
        }
    }
}

#[test]
fn dtype_says_what_quantised_matrices_become() {
    let folder = Folder::new();
    let src = conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf");
    for (i, format) in [Format::F16, Format::BF16, Format::F32].into_iter().enumerate() {
        let dst = folder.join(&format!("{i}"));
        let options = ExportOptions { dtype: Some(format), ..ExportOptions::default() };
        export(&src, &dst, &options, &mut |_| {}).unwrap();
        let file = ModelFile::open(&dst).unwrap();
        let matrices = file.tensors().iter().filter(|tensor| tensor.shape.len() == 2);
        assert!(matrices.clone().count() > 10);
        assert!(matrices.clone().all(|tensor| tensor.dtype.name() == format.name()));
        logits(&dst);
    }
    let bad = |dst: &str, dtype| {
        let options = ExportOptions { dtype: Some(dtype), ..ExportOptions::default() };
        export(&src, &folder.join(dst), &options, &mut |_| {}).unwrap_err()
    };
    assert!(matches!(bad("x", Format::Q8_0), Error::ExportType { found: Format::Q8_0 }));
    assert!(matches!(bad("x.gguf", Format::F16), Error::DtypeForGguf));
}

/// A model of one layer in memory, written as `.rin`.
fn made(path: &Path, change: impl FnOnce(&mut Config), weight: f32, norm: f32) {
    let source = ModelFile::open(&conformance("models/tiny-llama-tied")).unwrap();
    let mut config = source.config().unwrap().clone();
    config.n_layers = 1;
    change(&mut config);
    let tensors: Vec<NewTensor> = config
        .tensors()
        .into_iter()
        .map(|names| {
            let tensor = source.tensor(&names.name);
            let shape = tensor.map_or(vec![config.rope.dims / 2], |tensor| {
                tensor.shape.iter().map(|&n| usize::try_from(n).unwrap()).collect()
            });
            let value = if shape.len() == 1 { norm } else { weight };
            let bytes = vec![value; shape.iter().product()].iter().flat_map(|x| x.to_le_bytes()).collect();
            NewTensor { name: names.name, format: Format::F32, shape, bytes }
        })
        .collect();
    let tokenizer = std::fs::read(tiny_llama().join("tokenizer.json")).unwrap();
    let model =
        NewModel { config: &config, tokenizer: &tokenizer, tokenizer_config: None, source: "test", quant: None };
    write(path, &model, &tensors, true).unwrap();
}

#[test]
fn what_a_target_cannot_say_is_an_error() {
    let folder = Folder::new();
    let rin = folder.join("a.rin");
    let error = |change: &dyn Fn(&mut Config), dst: &str| {
        made(&rin, change, 0.5, 1.7);
        let error = exported(&rin, &folder.join(dst)).unwrap_err();
        assert!(matches!(error, Error::Inexpressible { .. }), "{error}");
        assert_eq!(folder.names(), ["a.rin"]);
        error.to_string()
    };
    let factors = error(&|config| config.rope.scaling = RopeScaling::Factors, "x");
    assert!(factors.contains("rope_freqs.weight"), "{factors}");
    let partial = error(&|config| config.rope.dims = 4, "x");
    assert!(partial.contains("rotates"), "{partial}");
    let pairs = error(
        &|config| {
            config.rope.dims = 4;
            config.rope.pairing = Pairing::Half;
        },
        "x.gguf",
    );
    assert!(pairs.contains("reordered"), "{pairs}");
    let yarn = |truncate| RopeScaling::Yarn {
        factor: 4.0,
        original_ctx: 64,
        attention_factor: None,
        multiplier: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        truncate,
    };
    let ramp = error(&|config| config.rope.scaling = yarn(false), "x.gguf");
    assert!(ramp.contains("truncate: false"), "{ramp}");
}

#[test]
fn a_yarn_factor_is_kept_to_the_bit_in_both_words() {
    let yarn = |attention_factor, multiplier| RopeScaling::Yarn {
        factor: 4.0,
        original_ctx: 64,
        attention_factor,
        multiplier,
        beta_fast: 24.0,
        beta_slow: 2.0,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    for (i, scaling) in [yarn(Some(1.3), 1.0), yarn(None, 0.7), yarn(Some(1.1), 1.2)].into_iter().enumerate() {
        let folder = Folder::new();
        let (rin, gguf, dir) = (folder.join("a.rin"), folder.join("a.gguf"), folder.join("dir"));
        made(&rin, |config| config.rope.scaling = scaling, 0.25, 1.0);
        must(&rin, &gguf);
        must(&rin, &dir);
        let factor = |path: &Path| {
            let config = network(path);
            rin_engine::arch::rope::frequencies(&config.rope, None, &mut []).to_bits()
        };
        assert_eq!(factor(&rin), factor(&gguf), "case {i}");
        assert_eq!(factor(&rin), factor(&dir), "case {i}");
        assert!(logits(&rin) == logits(&gguf) && logits(&rin) == logits(&dir), "case {i}");
    }
}

/// A network whose file pairs halves, of a family whose GGUF files pair neighbours.
#[test]
fn rows_are_reordered_where_the_file_pairs_them_otherwise() {
    let folder = Folder::new();
    let (rin, gguf, dir) = (folder.join("a.rin"), folder.join("a.gguf"), folder.join("dir"));
    let source = ModelFile::open(&conformance("models/tiny-llama-tied")).unwrap();
    let mut config = source.config().unwrap().clone();
    config.rope.pairing = Pairing::Half;
    // The rows as the folder has them are in the order of halves.
    let tensors: Vec<NewTensor> = source
        .tensors()
        .iter()
        .map(|tensor| NewTensor {
            name: tensor.name.clone(),
            format: Format::F32,
            shape: tensor.shape.iter().map(|&n| usize::try_from(n).unwrap()).collect(),
            bytes: source.bytes(tensor).to_vec(),
        })
        .collect();
    let tokenizer = std::fs::read(tiny_llama().join("tokenizer.json")).unwrap();
    let model =
        NewModel { config: &config, tokenizer: &tokenizer, tokenizer_config: None, source: "test", quant: None };
    write(&rin, &model, &tensors, true).unwrap();
    must(&rin, &gguf);
    must(&rin, &dir);
    assert_same_tensors(&conformance("models/tiny-llama-tied/tiny-llama-tied-f32.gguf"), &gguf);
    assert_same_tensors(&conformance("models/tiny-llama-tied"), &dir);
}

#[test]
fn vectors_stay_wide_where_the_matrices_type_would_lose_something() {
    let folder = Folder::new();
    let (src, rin) = (conformance("models/tiny-llama-b32/tiny-llama-b32-q4_0.gguf"), folder.join("a.rin"));
    let options = ExportOptions { dtype: Some(Format::F16), ..ExportOptions::default() };
    // One value of one norm that no f16 is: 1 + 2^-20.
    let mut bytes = std::fs::read(&src).unwrap();
    let file = ModelFile::open(&src).unwrap();
    let norm = file.tensor("output_norm.weight").unwrap();
    let at = usize::try_from(norm.offset).unwrap();
    bytes[at..at + 4].copy_from_slice(&(1.0_f32 + 2.0_f32.powi(-20)).to_le_bytes());
    std::fs::write(folder.join("a.gguf"), bytes).unwrap();
    convert(&folder.join("a.gguf"), &rin, None).unwrap();
    export(&rin, &folder.join("dir"), &options, &mut |_| {}).unwrap();
    let written = ModelFile::open(&folder.join("dir")).unwrap();
    assert_eq!(written.format(), FileFormat::Safetensors);
    assert_eq!(written.tensor("output_norm.weight").unwrap().dtype, DType::F32);
    assert_eq!(
        written.bytes(written.tensor("output_norm.weight").unwrap())[..4],
        (1.0_f32 + 2.0_f32.powi(-20)).to_le_bytes()
    );
    let config = std::fs::read_to_string(folder.join("dir/config.json")).unwrap();
    assert!(config.contains(r#""torch_dtype": "float32""#), "{config}");
}

#[test]
fn a_weight_beyond_the_range_of_the_type_is_named() {
    let folder = Folder::new();
    let mut bytes = std::fs::read(conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf")).unwrap();
    let file = ModelFile::from_bytes("a.gguf", bytes.clone()).unwrap();
    let at = usize::try_from(file.tensor("blk.0.ffn_up.weight").unwrap().offset).unwrap();
    // The largest scale and code: 65504 * 127.
    bytes[at..at + 3].copy_from_slice(&[0xff, 0x7b, 0x7f]);
    let src = folder.join("a.gguf");
    std::fs::write(&src, bytes).unwrap();
    let options = ExportOptions { dtype: Some(Format::F16), ..ExportOptions::default() };
    let error = export(&src, &folder.join("dir"), &options, &mut |_| {}).unwrap_err();
    let named = "model.layers.0.mlp.up_proj.weight";
    assert!(matches!(&error, Error::OutOfRange { tensor, row: 0, col: 0, .. } if tensor == named), "{error}");
    assert_eq!(folder.names(), ["a.gguf"]);
}
