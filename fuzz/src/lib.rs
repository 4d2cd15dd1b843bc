//! What every model-file target does with its input.

use std::hint::black_box;

use rin_model::ModelFile;

/// Opens the bytes as a model file and looks at everything that it offers.
pub fn visit(name: &str, bytes: &[u8]) {
    let Ok(file) = ModelFile::from_bytes(name, bytes.to_vec()) else { return };
    black_box(file.config().is_ok());
    for tensor in file.tensors() {
        assert_eq!(file.bytes(tensor).len() as u64, tensor.n_bytes, "{}", tensor.name);
    }
    for (key, value) in file.metadata() {
        black_box((key, value.to_string()));
    }
    black_box(file.tokenizer().is_ok());
    black_box(file.verify_sha256().is_ok());
}
