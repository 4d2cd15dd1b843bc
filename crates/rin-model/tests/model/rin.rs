//! `.rin` files.

use rin_model::rin_format::{
    KEY_CONFIG, KEY_NUMERICS, KEY_PROVENANCE, KEY_SHA256, KEY_TENSORS, KEY_VERSION, NUMERICS, Provenance, TOKENIZER,
    TensorEntry, VERSION, hex,
};
use rin_model::{DType, Error, FileFormat, ModelFile, TokenizerSource};
use rin_testkit::safetensors_writer::SafetensorsWriter;
use sha2::{Digest, Sha256};

use crate::tiny::{Folder, TENSORS, gguf, gguf_keys, values};

/// The tiny network as `.rin`, its header strings passed through `edit`, its data after the header at a multiple of
/// `align` bytes (8 puts it beside a multiple of 64).
pub(crate) fn rin(mut edit: impl FnMut(&str, &str) -> String, align: usize) -> Vec<u8> {
    let source = ModelFile::from_bytes("tiny.gguf", gguf().finish()).unwrap();
    let mut config = source.config().unwrap().clone();
    config.eos = vec![2];
    let mut entries = serde_json::Map::new();
    let mut file = SafetensorsWriter::new();
    let entry = |dtype, shape: &[u64], packed| {
        serde_json::to_value(TensorEntry { dtype, shape: shape.to_vec(), packed }).unwrap()
    };
    for (name, _, shape) in TENSORS {
        entries.insert(name.to_owned(), entry(DType::F32, shape, false));
        file = padded_tensor(file, name, values(name, shape));
    }
    let vocabulary = gguf_keys().finish();
    entries.insert(TOKENIZER.to_owned(), entry(DType::U8, &[vocabulary.len() as u64], false));
    file = padded_tensor(file, TOKENIZER, vocabulary);
    let provenance = Provenance {
        source: "tiny.gguf".to_owned(),
        format: "gguf".to_owned(),
        sha256: None,
        writer: "test".to_owned(),
        quant: None,
    };
    let hash = hex(&Sha256::digest(file.data_so_far()));
    for (key, value) in [
        (KEY_VERSION, VERSION.to_owned()),
        (KEY_NUMERICS, NUMERICS.to_owned()),
        (KEY_CONFIG, serde_json::to_string(&config).unwrap()),
        (KEY_TENSORS, serde_json::to_string(&entries).unwrap()),
        (KEY_SHA256, hash),
        (KEY_PROVENANCE, serde_json::to_string(&provenance).unwrap()),
    ] {
        file = file.metadata(key, &edit(key, &value));
    }
    let bytes = file.clone().align(align).finish();
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    if align < 64 && (header + 8).is_multiple_of(64) {
        // The header happens to end at a multiple of 64: a longer string moves it.
        return file.metadata("pad", "12345678").align(align).finish();
    }
    bytes
}

fn padded_tensor(file: SafetensorsWriter, name: &str, mut bytes: Vec<u8>) -> SafetensorsWriter {
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    file.tensor(name, "U8", &[bytes.len() as u64], &bytes)
}

fn header_length(file: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(*file.first_chunk().unwrap())).unwrap()
}

fn unedited(_: &str, value: &str) -> String {
    value.to_owned()
}

#[test]
fn it_gives_what_went_in() {
    let folder = Folder::new();
    let path = folder.write("tiny.rin", rin(unedited, 64));
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.format(), FileFormat::Rin);
    let mut expected = ModelFile::from_bytes("tiny.gguf", gguf().finish()).unwrap().config().unwrap().clone();
    expected.eos = vec![2];
    assert_eq!(*file.config().unwrap(), expected);
    assert_eq!(file.tensors().len(), TENSORS.len());
    for (name, _, shape) in TENSORS {
        let tensor = file.tensor(name).unwrap();
        assert_eq!((tensor.shape.as_slice(), tensor.dtype, tensor.packed), (shape, DType::F32, false));
        assert!(tensor.offset.is_multiple_of(64));
        assert_eq!(file.bytes(tensor), values(name, shape));
    }
    let TokenizerSource::Gguf(vocab) = file.tokenizer().unwrap() else { panic!("a GGUF vocabulary") };
    assert_eq!(vocab.tokens.iter().nth(3), Some(&b"t3"[..]));
    assert_eq!(file.metadata().next().unwrap().0, KEY_VERSION);
    file.verify_sha256().unwrap();
    file.check_unchanged().unwrap();
}

#[test]
fn a_flipped_weight_fails_the_hash() {
    let mut bytes = rin(unedited, 64);
    let header = header_length(&bytes);
    bytes[8 + header + 100] ^= 1;
    let file = ModelFile::from_bytes("tiny.rin", bytes).unwrap();
    assert_eq!(file.verify_sha256().unwrap_err().kind(), "BadChecksum");
    let gguf = ModelFile::from_bytes("tiny.gguf", gguf().finish()).unwrap();
    assert_eq!(gguf.verify_sha256().unwrap_err().kind(), "MissingKey");
}

/// A packed matrix has as many bytes as its panels need, which are more than its elements would.
#[test]
fn packed_tensors_are_multiples_of_64_bytes() {
    let pack = |stored: usize| -> Result<(), Error> {
        let bytes = rin(unedited, 64);
        let header_len = header_length(&bytes);
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let mut file = SafetensorsWriter::new().align(64);
        for (key, value) in header["__metadata__"].as_object().unwrap() {
            let text = value.as_str().unwrap().replace(
                r#""output.weight":{"dtype":"F32","shape":[10,8],"packed":false}"#,
                r#""output.weight":{"dtype":"F32","shape":[10,8],"packed":true}"#,
            );
            file = file.metadata(key, &text);
        }
        for (name, _, shape) in TENSORS {
            file = match name {
                "output.weight" => file.tensor(name, "U8", &[stored as u64], &vec![0; stored]),
                _ => padded_tensor(file, name, values(name, shape)),
            };
        }
        file = padded_tensor(file, TOKENIZER, gguf_keys().finish());
        let file = ModelFile::from_bytes("packed.rin", file.finish())?;
        let tensor = file.tensor("output.weight").unwrap();
        assert_eq!((tensor.packed, tensor.n_bytes, file.bytes(tensor).len()), (true, 512, 512));
        Ok(())
    };
    pack(512).unwrap();
    assert_eq!(pack(0).unwrap_err().kind(), "BadShape");
    assert_eq!(pack(544).unwrap_err().kind(), "BadShape");
}
