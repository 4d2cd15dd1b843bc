//! Imports of real and of tiny models: what comes out runs as what went in, and what fails leaves nothing behind.

use rin_engine::tokenizer::Tokenizer;
use rin_engine::{Engine, LoadOptions};
use rin_import::{Error, ImportOptions, Report, import};
use rin_kernels::Format;
use rin_kernels::ops::attention::KvType;
use rin_model::{DType, FileFormat, ModelFile};
use rin_testkit::data::{conformance, shared};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A folder of its own for each test, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let n = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rin-import-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn convert(src: &Path, dst: &Path, quant: Option<Format>) -> Result<Report, Error> {
    import(src, dst, &ImportOptions { quant, ..ImportOptions::default() }, &mut |_| {})
}

/// Every model of `conformance/models`, as a folder and as GGUF files, and the trained one.
fn models() -> Vec<PathBuf> {
    let mut models = Vec::new();
    for folder in std::fs::read_dir(conformance("models")).unwrap() {
        let folder = folder.unwrap().path();
        if folder.join("model.safetensors").exists() {
            models.push(folder.clone());
        }
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        models.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")));
    }
    assert!(models.len() >= 19, "only {} models", models.len());
    models.extend(["", "-Q8_0", "-Q4_0"].iter().filter_map(|name| shared(&stories(name))));
    models
}

fn stories(name: &str) -> String {
    format!("models/stories260k/stories260K{name}.gguf")
}

fn tiny_llama() -> PathBuf {
    conformance("models/tiny-llama")
}

fn logits(path: &Path) -> Vec<u32> {
    let file = ModelFile::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kv_type = Some(KvType::F32);
    let options = LoadOptions { threads: Some(1), ctx: Some(64), n_logits: 24, kv_type, ..LoadOptions::default() };
    let mut engine = Engine::load(file, &options, |_| {}).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut sequence = engine.sequence().unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 11 % 280).collect();
    let mut bits = Vec::new();
    engine.feed_all(&mut sequence, &tokens, |row| bits.extend(row.iter().map(|x| x.to_bits()))).unwrap();
    bits
}

/// The header of a safetensors file, and where its data begins.
fn header(bytes: &[u8]) -> (Value, usize) {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), 8 + length)
}

fn metadata(header: &Value, key: &str) -> Value {
    serde_json::from_str(header["__metadata__"][key].as_str().unwrap()).unwrap()
}

#[test]
fn every_model_runs_as_its_source_does_bit_for_bit() {
    let folder = Folder::new();
    for (i, src) in models().iter().enumerate() {
        let dst = folder.join(&format!("{i}.rin"));
        let report = convert(src, &dst, None).unwrap_or_else(|error| panic!("{}: {error}", src.display()));
        let (from, to) = (ModelFile::open(src).unwrap(), ModelFile::open(&dst).unwrap());
        assert_eq!(to.format(), FileFormat::Rin);
        to.verify_sha256().unwrap();
        assert_eq!(to.config().unwrap(), from.config().unwrap(), "{}", src.display());
        assert_eq!(report.bytes, std::fs::metadata(&dst).unwrap().len());
        assert_eq!(report.n_quantized, 0);
        assert!(logits(src) == logits(&dst), "{}: the logits differ", src.display());
        assert_eq!(from.tokenizer().is_ok(), to.tokenizer().is_ok(), "{}", src.display());
        if let (Ok(from), Ok(to)) = (from.tokenizer(), to.tokenizer()) {
            // The descriptions are the same to the last byte of each token.
            assert!(format!("{from:?}") == format!("{to:?}"), "{}: the tokenizers differ", src.display());
            let ids =
                |source| Tokenizer::from_source(source).unwrap().encode(" Once upon\n\na tïme", Default::default());
            assert_eq!(ids(&from).unwrap(), ids(&to).unwrap());
        }
    }
}

#[test]
fn a_folder_and_a_gguf_file_of_the_same_weights_become_the_same_network() {
    let folder = Folder::new();
    for (name, gguf) in [
        ("tiny-llama", "tiny-llama-f16.gguf"),
        ("tiny-llama-tied", "tiny-llama-tied-f32.gguf"),
        ("tiny-llama3", "tiny-llama3-bf16.gguf"),
        ("tiny-qwen2", "tiny-qwen2-bf16.gguf"),
        ("tiny-qwen2-yarn", "tiny-qwen2-yarn-f16.gguf"),
    ] {
        let src = conformance("models").join(name);
        for quant in [None, Some(Format::Q8_0)] {
            let of = |src: &Path, dst: &str| {
                let dst = folder.join(&format!("{name}-{quant:?}-{dst}"));
                convert(src, &dst, quant).unwrap();
                dst
            };
            let (a, b) = (of(&src, "hf.rin"), of(&src.join(gguf), "gguf.rin"));
            assert!(logits(&a) == logits(&b), "{name} with {quant:?}");
        }
    }
}

#[test]
fn the_header_is_a_safetensors_header_without_holes() {
    let folder = Folder::new();
    let (src, dst) = (tiny_llama(), folder.join("a.rin"));
    let report = convert(&src, &dst, Some(Format::Q8_0)).unwrap();
    let bytes = std::fs::read(&dst).unwrap();
    let (header, data) = header(&bytes);
    assert!(data.is_multiple_of(64));
    assert_eq!(bytes[8], b'{');
    let strings = &header["__metadata__"];
    assert_eq!((&strings["rin.version"], &strings["rin.numerics"]), (&"2".into(), &"1".into()));
    let hash = rin_model::rin_format::hex(&Sha256::digest(&bytes[data..]));
    assert_eq!(strings["rin.sha256"], Value::from(hash.as_str()));
    assert_eq!(report.sha256, hash);
    let mut end = 0;
    let tensors: Vec<_> = header.as_object().unwrap().iter().filter(|entry| entry.0 != "__metadata__").collect();
    for (name, tensor) in &tensors {
        let offsets: [u64; 2] = serde_json::from_value(tensor["data_offsets"].clone()).unwrap();
        let shape: Vec<u64> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        assert_eq!((&tensor["dtype"], offsets[0]), (&"U8".into(), end), "{name}");
        assert_eq!(offsets[1] - offsets[0], shape.iter().product::<u64>(), "{name}");
        assert!(offsets[1].is_multiple_of(64), "{name}");
        end = offsets[1];
    }
    assert_eq!(end, (bytes.len() - data) as u64);
    assert_eq!(report.n_tensors, tensors.len());
    // 64 columns of Q8_0: two blocks of 512 bytes of codes and 32 of scales for 16 rows.
    let golden = r#"{"dtype":"Q8_0","shape":[288,64],"packed":true}"#;
    assert_eq!(metadata(&header, "rin.tensors")["token_embd.weight"].to_string(), golden);
    assert_eq!(header["token_embd.weight"]["shape"], serde_json::json!([18, 1088]));
    let golden = r#"{"dtype":"F32","shape":[64],"packed":false}"#;
    assert_eq!(metadata(&header, "rin.tensors")["output_norm.weight"].to_string(), golden);
    assert_eq!(header["output_norm.weight"]["shape"], serde_json::json!([256]));
    let json = std::fs::read(src.join("tokenizer.json")).unwrap();
    assert_eq!(metadata(&header, "rin.tensors")["tokenizer"]["shape"], serde_json::json!([json.len()]));
}

#[test]
fn the_provenance_names_each_file_with_its_hash() {
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    convert(&tiny_llama(), &dst, Some(Format::Q4_0)).unwrap();
    let (header, _) = header(&std::fs::read(&dst).unwrap());
    let provenance = metadata(&header, "rin.provenance");
    assert_eq!((&provenance["source"], &provenance["format"]), (&"tiny-llama".into(), &"safetensors".into()));
    assert_eq!((&provenance["quant"], &provenance["writer"]), (&"Q4_0".into(), &env!("CARGO_PKG_VERSION").into()));
    let files = provenance["files"].as_array().unwrap();
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["model.safetensors", "config.json", "tokenizer.json"]);
    for file in files {
        let bytes = std::fs::read(tiny_llama().join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"], bytes.len());
        assert_eq!(file["sha256"], rin_model::rin_format::hex(&Sha256::digest(&bytes)));
    }
}

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
            assert_eq!(tensor.dtype.name(), format.name());
            n += usize::from(format != Format::F16);
            let source = from.tensor(&tensor.name).unwrap();
            let cols = usize::try_from(source.shape[1]).unwrap();
            let panel_bytes = format.panel_bytes(cols).unwrap();
            for (r, row) in from.bytes(source).chunks_exact(2 * cols).enumerate() {
                let (mut values, mut file_row, mut want) = (vec![0.0; cols], Vec::new(), vec![0.0; cols]);
                rin_kernels::format::dequantize(Format::F16, row, &mut values);
                rin_import::quantize::quantize_row(format, &values, &mut file_row);
                rin_kernels::format::dequantize(format, &file_row, &mut want);
                let panel = &to.bytes(tensor)[r / 16 * panel_bytes..][..panel_bytes];
                let mut got = vec![0.0; cols];
                rin_kernels::pack::unpack_row(format, panel, r % 16, &mut got);
                assert_eq!(got, want, "row {r} of {} in {format}", tensor.name);
            }
        }
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
fn a_flipped_byte_fails_the_hash() {
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    convert(&tiny_llama(), &dst, None).unwrap();
    let bytes = std::fs::read(&dst).unwrap();
    let (_, data) = header(&bytes);
    for at in [data, data + (bytes.len() - data) / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let file = ModelFile::from_bytes("a.rin", damaged).unwrap();
        assert_eq!(file.verify_sha256().unwrap_err().kind(), "BadChecksum", "byte {at}");
    }
}

#[test]
fn progress_rises_to_its_total() {
    let folder = Folder::new();
    let (mut last, mut total, mut names) = (0, 0, Vec::new());
    import(&tiny_llama(), &folder.join("a.rin"), &ImportOptions::default(), &mut |progress| {
        assert!(progress.bytes_done > last && progress.bytes_done <= progress.bytes_total);
        (last, total) = (progress.bytes_done, progress.bytes_total);
        names.push(progress.tensor.to_owned());
    })
    .unwrap();
    assert_eq!(last, total);
    assert!(
        names.iter().any(|name| name == "model.safetensors") && names.iter().any(|name| name == "token_embd.weight")
    );
}

#[test]
fn an_existing_file_is_replaced_only_where_that_is_asked_for() {
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    std::fs::write(&dst, "old").unwrap();
    assert!(matches!(convert(&tiny_llama(), &dst, None).unwrap_err(), Error::Exists(path) if path == dst));
    assert_eq!(std::fs::read(&dst).unwrap(), b"old");
    let options = ImportOptions { overwrite: true, ..ImportOptions::default() };
    import(&tiny_llama(), &dst, &options, &mut |_| {}).unwrap();
    ModelFile::open(&dst).unwrap().verify_sha256().unwrap();
    assert_eq!(folder.names(), ["a.rin"]);
}

#[test]
fn an_interrupt_leaves_what_was_there() {
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    std::fs::write(&dst, "old").unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let options = ImportOptions { overwrite: true, cancel: Some(Arc::clone(&cancel)), quant: None };
    let mut seen_temporary = false;
    let error = import(&tiny_llama(), &dst, &options, &mut |progress| {
        if progress.tensor.starts_with("blk.1.") {
            seen_temporary |= folder.names().iter().any(|name| name.starts_with(".a.rin.tmp-"));
            cancel.store(true, Ordering::Relaxed);
        }
    })
    .unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert!(seen_temporary);
    assert_eq!(folder.names(), ["a.rin"]);
    assert_eq!(std::fs::read(&dst).unwrap(), b"old");
}

/// Runs in a process of its own, in which files may not grow beyond a few blocks.
const LIMITED: &str = "RIN_IMPORT_TEST_LIMITED";

#[test]
fn a_full_disk_leaves_what_was_there() {
    if let Some(dst) = std::env::var_os(LIMITED) {
        let options = ImportOptions { overwrite: true, ..ImportOptions::default() };
        let error = import(&tiny_llama(), Path::new(&dst), &options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::DiskFull { needed, .. } if needed > 16 * 1024), "{error}");
        assert!(error.to_string().contains("free some space"), "{error}");
        return;
    }
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    std::fs::write(&dst, "old").unwrap();
    // The signal of the limit is ignored, so that the write fails with EFBIG as it fails with ENOSPC on a full disk.
    let script = r#"trap '' XFSZ; ulimit -f 16; exec "$0" a_full_disk_leaves_what_was_there --exact --nocapture"#;
    let mut child = Command::new("sh");
    child.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(LIMITED, &dst);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(folder.names(), ["a.rin"]);
    assert_eq!(std::fs::read(&dst).unwrap(), b"old");
}

#[test]
fn places_that_are_none_are_refused() {
    let folder = Folder::new();
    let of = |dst: &Path, overwrite: bool| {
        let options = ImportOptions { overwrite, ..ImportOptions::default() };
        import(&tiny_llama(), dst, &options, &mut |_| {}).unwrap_err()
    };
    assert!(matches!(of(&folder.0, true), Error::DestinationIsNoFile(_)));
    assert!(matches!(of(&folder.join(".."), true), Error::DestinationIsNoFile(_)));
    assert!(matches!(of(Path::new(""), true), Error::DestinationIsNoFile(_)));
    assert!(matches!(of(&folder.join("no/a.rin"), true), Error::NoFolder(path) if path == folder.join("no")));
    #[cfg(target_os = "linux")]
    assert!(matches!(of(Path::new("/dev/null"), true), Error::DestinationIsNoFile(_)));
}

#[test]
fn the_source_is_never_replaced() {
    let folder = Folder::new();
    let gguf = folder.join("model.gguf");
    std::fs::copy(tiny_llama().join("tiny-llama-f16.gguf"), &gguf).unwrap();
    let before = std::fs::read(&gguf).unwrap();
    let options = ImportOptions { overwrite: true, ..ImportOptions::default() };
    let error = |src: &Path, dst: &Path| import(src, dst, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error(&gguf, &gguf), Error::DestinationIsSource(_)));
    assert!(matches!(
        error(&gguf, &folder.join("../").join(folder.0.file_name().unwrap()).join("model.gguf")),
        Error::DestinationIsSource(_)
    ));
    #[cfg(unix)]
    {
        let link = folder.join("link.gguf");
        std::os::unix::fs::symlink(&gguf, &link).unwrap();
        assert!(matches!(error(&link, &gguf), Error::DestinationIsSource(_)));
        assert!(matches!(error(&link, &link), Error::DestinationIsSource(_)));
    }
    assert_eq!(std::fs::read(&gguf).unwrap(), before);
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        std::fs::copy(tiny_llama().join(name), folder.join(name)).unwrap();
    }
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(matches!(error(&folder.0, &folder.join(name)), Error::DestinationIsSource(_)), "{name}");
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), std::fs::read(tiny_llama().join(name)).unwrap());
    }
    // Beside them there is room.
    import(&folder.0, &folder.join("model.rin"), &options, &mut |_| {}).unwrap();
}

#[test]
fn a_rin_file_is_not_imported_again() {
    let folder = Folder::new();
    convert(&tiny_llama(), &folder.join("a.rin"), None).unwrap();
    let error = convert(&folder.join("a.rin"), &folder.join("b.rin"), None).unwrap_err();
    assert!(matches!(error, Error::AlreadyRin(_)), "{error}");
    assert_eq!(folder.names(), ["a.rin"]);
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

/// A split model names all its parts.
#[test]
fn the_vocabulary_of_a_gguf_file_keeps_its_keys_and_their_order() {
    let Some(src) = shared(&stories("")) else { return };
    let folder = Folder::new();
    let dst = folder.join("a.rin");
    convert(&src, &dst, None).unwrap();
    let bytes = std::fs::read(&dst).unwrap();
    let (header, data) = header(&bytes);
    let begin = data + usize::try_from(header["tokenizer"]["data_offsets"][0].as_u64().unwrap()).unwrap();
    let length = metadata(&header, "rin.tensors")["tokenizer"]["shape"][0].as_u64().unwrap();
    let vocabulary = &bytes[begin..begin + usize::try_from(length).unwrap()];
    let gguf = rin_model::gguf::Gguf::parse(vocabulary).unwrap();
    assert!(gguf.version() == 3 && gguf.tensors().is_empty());
    let keys: Vec<_> = gguf.metadata().iter().collect();
    let source = ModelFile::open(&src).unwrap();
    let wanted = |key: &str| key.starts_with("tokenizer.") || key == "general.architecture";
    let want: Vec<_> = source.metadata().filter(|(key, _)| wanted(key)).collect();
    assert!(want.len() > 3);
    assert!(keys == want, "the keys or their values differ");
}
