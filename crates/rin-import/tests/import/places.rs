//! Where the file goes: what is refused, and what stands after a failure.

use crate::models::{Folder, convert, tiny_llama};
use rin_import::{Error, ImportOptions, import};
use rin_model::ModelFile;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    let options = ImportOptions { overwrite: true, cancel: Some(Arc::clone(&cancel)), ..ImportOptions::default() };
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
    let script =
        r#"trap '' XFSZ; ulimit -f 16; exec "$0" places::a_full_disk_leaves_what_was_there --exact --nocapture"#;
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
