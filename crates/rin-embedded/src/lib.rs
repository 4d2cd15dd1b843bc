//! The model that `rin` carries: a small character model of English verse, so that the first command of a fresh machine
//! gives text without a download. Its recipe, log and model card stand in `models/embedded/`.

use rin_model::{Error, ModelFile};

/// Its name, in the place of a path.
pub const NAME: &str = "rin-shakespeare (embedded)";

/// Bytes that begin where a cache line does, as packed weights do in a mapped file.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/embedded/rin-shakespeare.rin"));

/// The model, straight from the program's own pages: nothing is read or copied.
///
/// # Errors
/// As [`ModelFile::from_bytes`]; never for the file that this was built with.
pub fn model() -> Result<ModelFile, Error> {
    ModelFile::from_bytes(NAME, &MODEL.0)
}

#[cfg(test)]
mod tests {
    use rin_engine::{Engine, LoadOptions};

    #[test]
    fn its_weights_run_where_they_lie() {
        let file = super::model().unwrap();
        file.verify_sha256().unwrap();
        let bytes = file.file_bytes();
        assert!(bytes <= 4_000_000, "{bytes} bytes");
        for tensor in file.tensors() {
            assert_eq!(file.bytes(tensor).as_ptr().addr() % 64, 0, "{}", tensor.name);
        }
        Engine::load(file, &LoadOptions::default(), |_| {}).unwrap();
    }
}
