//! Imports that change the type of the weights.

use crate::models::{Folder, convert, stories, tiny_llama};
use rin_import::Error;
use rin_kernels::Format;
use rin_model::{DType, ModelFile};
use rin_testkit::data::{conformance, shared};
use std::path::Path;

/// The matrices of a quantised import hold what the reference quantiser makes of the source's rows.
#[test]
fn quantised_matrices_hold_the_rows_of_the_reference_quantiser() {
    let folder = Folder::new();
    // A GGUF file, whose rows are stored in the order of the network.
    let src = tiny_llama().join("tiny-llama-f16.gguf");
    let from = ModelFile::open(&src).unwrap();
    for format in rin_import::quantize::TARGETS {
        let dst = folder.join(&format!("{format}.rin"));
        let report = convert(&src, &dst, Some(format)).unwrap();
        let to = ModelFile::open(&dst).unwrap();
        to.verify_sha256().unwrap();
        let mut n = 0;
        for tensor in to.tensors().iter().filter(|tensor| tensor.packed) {
            let source = from.tensor(&tensor.name).unwrap();
            let cols = usize::try_from(source.shape[1]).unwrap();
            // Rows that are no whole blocks keep their type.
            let format = if cols.is_multiple_of(format.block_len()) { format } else { Format::F16 };
            assert_eq!(tensor.dtype.name(), format.name(), "{}", tensor.name);
            n += usize::from(format != Format::F16);
            let panel_bytes = format.panel_bytes(cols).unwrap();
            for (r, row) in from.bytes(source).chunks_exact(2 * cols).enumerate() {
                let mut values = vec![0.0; cols];
                rin_kernels::format::dequantize(Format::F16, row, &mut values);
                let (mut file_row, mut want, mut got) = (Vec::new(), vec![0.0; cols], vec![0.0; cols]);
                rin_import::quantize::quantize_row(format, &values, &mut file_row);
                rin_kernels::format::dequantize(format, &file_row, &mut want);
                let panel = &to.bytes(tensor)[r / 16 * panel_bytes..][..panel_bytes];
                rin_kernels::pack::unpack_row(format, panel, r % 16, &mut got);
                assert_eq!(got, want, "row {r} of {} in {format}", tensor.name);
            }
        }
        assert!(format == Format::F16 || n > 4, "{n} matrices in {format}");
        assert_eq!(report.n_quantized, n, "{format}");
        assert!(to.tensors().iter().filter(|tensor| !tensor.packed).all(|tensor| tensor.dtype == DType::F32));
    }
}

#[test]
fn q8_0_of_the_trained_model_is_its_published_q8_0_file() {
    let (Some(f32_file), Some(q8_0)) = (shared(&stories("")), shared(&stories("-Q8_0"))) else { return };
    let folder = Folder::new();
    let (ours, theirs) = (folder.join("ours.rin"), folder.join("theirs.rin"));
    let report = convert(&f32_file, &ours, Some(Format::Q8_0)).unwrap();
    assert!(report.n_quantized > 0);
    convert(&q8_0, &theirs, None).unwrap();
    let (ours, theirs) = (ModelFile::open(&ours).unwrap(), ModelFile::open(&theirs).unwrap());
    let mut n = 0;
    for tensor in theirs.tensors().iter().filter(|tensor| tensor.dtype == DType::Q8_0) {
        let same = ours.tensor(&tensor.name).unwrap();
        assert_eq!(same.dtype, DType::Q8_0);
        assert!(ours.bytes(same) == theirs.bytes(tensor), "{}", tensor.name);
        n += 1;
    }
    assert!(n > 0);
}

#[test]
fn types_that_are_no_target_are_refused_with_those_that_are() {
    let folder = Folder::new();
    for format in [Format::Q4_K, Format::Q5_K, Format::Q6_K] {
        let error = convert(&tiny_llama(), &folder.join("a.rin"), Some(format)).unwrap_err();
        assert!(matches!(error, Error::QuantTarget { found } if found == format));
        assert!(error.to_string().contains("F32, F16, BF16, Q8_0, Q4_0, Q5_0"), "{error}");
    }
    assert!(folder.names().is_empty());
}

#[test]
fn quantised_sources_keep_their_types() {
    let folder = Folder::new();
    let src = conformance("models/tiny-llama-b32/tiny-llama-b32-q5_0.gguf");
    let (kept, asked) = (folder.join("kept.rin"), folder.join("asked.rin"));
    convert(&src, &kept, None).unwrap();
    let report = convert(&src, &asked, Some(Format::Q8_0)).unwrap();
    let types = |path: &Path| -> Vec<_> {
        let file = ModelFile::open(path).unwrap();
        file.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.dtype)).collect()
    };
    let (kept, asked) = (types(&kept), types(&asked));
    let float = |dtype: DType| [DType::F32, DType::F16, DType::BF16].contains(&dtype);
    let changed = kept.iter().zip(&asked).filter(|(a, b)| a != b).inspect(|(a, _)| assert!(float(a.1))).count();
    assert_eq!(report.n_quantized, changed);
    assert!(asked.iter().any(|tensor| tensor.1 == DType::Q5_0));
}

#[test]
fn a_weight_that_is_no_number_or_too_large_leaves_nothing_behind() {
    let folder = Folder::new();
    let (src, dst) = (folder.join("model.gguf"), folder.join("a.rin"));
    let whole = conformance("models/tiny-llama-tied/tiny-llama-tied-f32.gguf");
    let bytes = std::fs::read(&whole).unwrap();
    let file = ModelFile::open(&whole).unwrap();
    let tensor = file.tensor("blk.1.ffn_up.weight").unwrap();
    let cols = usize::try_from(tensor.shape[1]).unwrap();
    let at = usize::try_from(tensor.offset).unwrap() + (17 * cols + 3) * 4;
    let with = |x: f32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&x.to_le_bytes());
        std::fs::write(&src, bytes).unwrap();
    };
    with(f32::NAN);
    let error = convert(&src, &dst, None).unwrap_err();
    assert!(matches!(error, Error::Engine(rin_engine::Error::NonFiniteWeight { row: 17, col: 3, .. })), "{error}");
    with(1e6);
    convert(&src, &folder.join("ok.rin"), None).unwrap();
    let error = convert(&src, &dst, Some(Format::F16)).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { row: 17, col: 3, format: Format::F16, .. }), "{error}");
    with(1e8);
    let error = convert(&src, &dst, Some(Format::Q8_0)).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { row: 17, col: 0, format: Format::Q8_0, .. }), "{error}");
    assert_eq!(folder.names(), ["model.gguf", "ok.rin"]);
}
