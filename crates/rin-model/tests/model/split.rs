//! Models in several GGUF files.

use std::path::PathBuf;

use rin_model::ModelFile;
use rin_testkit::gguf_writer::GgufWriter;

use crate::tiny::{Folder, TENSORS, gguf_keys, ne, values};

const PARTS: u32 = 3;

fn part(number: u32) -> GgufWriter {
    let keys = if number == 0 { gguf_keys() } else { GgufWriter::new(3) };
    let keys = keys.kv_u32("split.no", number).kv_u32("split.count", PARTS).kv_i32("split.tensors.count", 12);
    TENSORS
        .iter()
        .zip((0..PARTS).cycle())
        .filter(|(_, holder)| *holder == number)
        .fold(keys, |file, ((name, _, shape), _)| file.tensor(name, &ne(shape), 0, values(name, shape)))
}

fn name(number: u32) -> String {
    format!("tiny-{:05}-of-{PARTS:05}.gguf", number + 1)
}

/// Writes the parts, part 1 as `edit` makes it, and gives the path of part 0.
fn write(folder: &Folder, edit: impl Fn(GgufWriter) -> Option<Vec<u8>>) -> PathBuf {
    for number in [0, 2] {
        folder.write(&name(number), part(number).finish());
    }
    if let Some(bytes) = edit(part(1)) {
        folder.write(&name(1), bytes);
    }
    folder.path().join(name(0))
}

#[test]
fn all_parts_become_one_model() {
    let folder = Folder::new();
    write(&folder, |file| Some(file.finish()));
    for opened in 0..PARTS {
        let file = ModelFile::open(&folder.path().join(name(opened))).unwrap();
        assert_eq!(file.config().unwrap().name.as_deref(), Some("tiny"));
        assert_eq!(file.path(), folder.path().join(name(0)));
        for (name, _, shape) in TENSORS {
            assert_eq!(file.bytes(file.tensor(name).unwrap()), values(name, shape));
        }
        file.tokenizer().unwrap();
        file.check_unchanged().unwrap();
    }
}

#[test]
fn lies_are_told() {
    let kind = |edit: &dyn Fn(GgufWriter) -> Option<Vec<u8>>| {
        let folder = Folder::new();
        let path = write(&folder, edit);
        ModelFile::open(&path).unwrap_err().kind()
    };
    assert_eq!(kind(&|_| None), "BadShard");
    assert_eq!(kind(&|file| Some(file.kv_u32("split.no", 2).finish())), "BadShard");
    assert_eq!(kind(&|file| Some(file.kv_u32("split.count", 4).finish())), "BadShard");
    assert_eq!(kind(&|file| Some(file.without("split.count").finish())), "BadShard");
    assert_eq!(kind(&|file| Some(file.without("split.no").finish())), "BadShard");
    assert_eq!(kind(&|file| Some(file.without_tensor("blk.0.attn_norm.weight").finish())), "BadShard");
    assert_eq!(kind(&|file| Some(file.tensor("extra", &[8], 0, vec![0; 32]).finish())), "BadShard");
    assert_eq!(kind(&|file| Some(file.magic(*b"PK\x03\x04").finish())), "BadMagic");
    let twice = |file: GgufWriter| {
        file.without_tensor("blk.0.attn_norm.weight").tensor("token_embd.weight", &[8], 0, vec![0; 32])
    };
    assert_eq!(kind(&|file| Some(twice(file).finish())), "Duplicate");
}

#[test]
fn a_count_that_the_name_does_not_say_is_a_lie() {
    let folder = Folder::new();
    for (name, claim) in [("plain.gguf", 3), ("tiny-00001-of-00002.gguf", 3), ("tiny-00001-of-99999.gguf", u32::MAX)] {
        let path = folder.write(name, part(0).kv_u32("split.count", claim).finish());
        assert_eq!(ModelFile::open(&path).unwrap_err().kind(), "BadShard", "{name}");
    }
}
