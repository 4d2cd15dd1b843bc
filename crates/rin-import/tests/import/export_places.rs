//! Where an export goes: what is refused, and what stands after a failure.

use crate::export::exported;
use crate::models::{Folder, tiny_llama};
use rin_import::{Error, ExportOptions, export};
use rin_model::ModelFile;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const NAMES: [&str; 2] = ["a.gguf", "a"];

/// Something an export wrote, and may replace.
fn old(path: &Path) {
    if path.extension().is_some() {
        std::fs::write(path, "old").unwrap();
    } else {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("config.json"), "old").unwrap();
    }
}

fn is_old(path: &Path) -> bool {
    let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
    std::fs::read(file).unwrap() == b"old"
}

fn overwriting() -> ExportOptions {
    ExportOptions { overwrite: true, ..ExportOptions::default() }
}

#[test]
fn an_existing_export_is_replaced_only_where_that_is_asked_for() {
    for name in NAMES {
        let folder = Folder::new();
        let dst = folder.join(name);
        old(&dst);
        assert!(matches!(exported(&tiny_llama(), &dst).unwrap_err(), Error::Exists(path) if path == dst));
        assert!(is_old(&dst));
        export(&tiny_llama(), &dst, &overwriting(), &mut |_| {}).unwrap();
        ModelFile::open(&dst).unwrap().config().unwrap();
        assert_eq!(folder.names(), [name]);
    }
}

#[test]
fn an_interrupt_leaves_what_was_there() {
    for name in NAMES {
        let folder = Folder::new();
        let dst = folder.join(name);
        old(&dst);
        let cancel = Arc::new(AtomicBool::new(false));
        let options = ExportOptions { cancel: Some(Arc::clone(&cancel)), ..overwriting() };
        let (mut seen_temporary, mut last) = (false, 0);
        let error = export(&tiny_llama(), &dst, &options, &mut |progress| {
            assert!(progress.bytes_done > last && progress.bytes_done <= progress.bytes_total);
            last = progress.bytes_done;
            if progress.bytes_done * 2 > progress.bytes_total {
                seen_temporary |= folder.names().iter().any(|found| found.starts_with(&format!(".{name}.tmp-")));
                cancel.store(true, Ordering::Relaxed);
            }
        })
        .unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert!(seen_temporary);
        assert_eq!(folder.names(), [name]);
        assert!(is_old(&dst));
    }
}

#[test]
fn progress_arrives_at_its_total() {
    for name in NAMES {
        let folder = Folder::new();
        let (mut last, mut total) = (0, 1);
        export(&tiny_llama(), &folder.join(name), &ExportOptions::default(), &mut |progress| {
            (last, total) = (progress.bytes_done, progress.bytes_total);
        })
        .unwrap();
        assert_eq!(last, total, "{name}");
    }
}

/// Runs in a process of its own, in which files may not grow beyond a few blocks.
const LIMITED: &str = "RIN_EXPORT_TEST_LIMITED";

#[test]
fn a_full_disk_leaves_what_was_there() {
    if let Some(dst) = std::env::var_os(LIMITED) {
        let error = export(&tiny_llama(), Path::new(&dst), &overwriting(), &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::DiskFull { needed, .. } if needed > 16 * 1024), "{error}");
        return;
    }
    for name in NAMES {
        let folder = Folder::new();
        let dst = folder.join(name);
        old(&dst);
        // The signal of the limit is ignored, so that the write fails with EFBIG as it fails with ENOSPC on a full disk.
        let script =
            r#"trap '' XFSZ; ulimit -f 16; exec "$0" export_places::a_full_disk_leaves_what_was_there --exact"#;
        let mut child = Command::new("sh");
        child.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(LIMITED, &dst);
        let output = child.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        assert_eq!(folder.names(), [name]);
        assert!(is_old(&dst));
    }
}

#[test]
fn places_that_are_none_are_refused() {
    let folder = Folder::new();
    let of = |dst: &Path| export(&tiny_llama(), dst, &overwriting(), &mut |_| {}).unwrap_err();
    for name in ["a.rin", "a.safetensors", "A.RIN"] {
        assert!(matches!(of(&folder.join(name)), Error::DestinationKind(_)), "{name}");
    }
    assert!(matches!(of(&folder.join("..")), Error::DestinationIsNoFile(_)));
    assert!(matches!(of(&folder.join("no/a.gguf")), Error::NoFolder(path) if path == folder.join("no")));
    assert!(matches!(of(&folder.join("no/a")), Error::NoFolder(path) if path == folder.join("no")));
    std::fs::write(folder.join("file"), "x").unwrap();
    assert!(matches!(of(&folder.join("file")), Error::DestinationIsNoFolder(_)));
    std::fs::create_dir(folder.join("b.gguf")).unwrap();
    assert!(matches!(of(&folder.join("b.gguf")), Error::DestinationIsNoFile(_)));
    std::fs::create_dir(folder.join("full")).unwrap();
    std::fs::write(folder.join("full/notes.txt"), "x").unwrap();
    let error = of(&folder.join("full"));
    assert!(matches!(&error, Error::FolderHoldsMore { found, .. } if found == "notes.txt"), "{error}");
    assert_eq!(std::fs::read(folder.join("full/notes.txt")).unwrap(), b"x");
    // An empty folder is a place like any other.
    std::fs::create_dir(folder.join("empty")).unwrap();
    exported(&tiny_llama(), &folder.join("empty")).unwrap();
    assert_eq!(folder.names(), ["b.gguf", "empty", "file", "full"]);
}

#[test]
fn the_source_is_never_replaced() {
    let folder = Folder::new();
    let (gguf, dir) = (folder.join("a.gguf"), folder.join("a"));
    exported(&tiny_llama(), &gguf).unwrap();
    exported(&gguf, &dir).unwrap();
    let before = (std::fs::read(&gguf).unwrap(), std::fs::read(dir.join("model.safetensors")).unwrap());
    let error = |src: &Path, dst: &Path| export(src, dst, &overwriting(), &mut |_| {}).unwrap_err();
    assert!(matches!(error(&gguf, &gguf), Error::DestinationIsSource(_)));
    assert!(matches!(error(&dir, &dir), Error::DestinationIsSource(_)));
    assert!(matches!(error(&dir.join("model.safetensors"), &dir), Error::DestinationIsSource(_)));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&dir, folder.join("link")).unwrap();
        assert!(matches!(error(&folder.join("link"), &dir), Error::DestinationIsSource(_)));
        assert!(matches!(error(&dir, &folder.join("link")), Error::DestinationIsSource(_)));
    }
    assert!(before == (std::fs::read(&gguf).unwrap(), std::fs::read(dir.join("model.safetensors")).unwrap()));
}

#[test]
fn a_damaged_source_leaves_nothing_behind() {
    let folder = Folder::new();
    std::fs::write(folder.join("cut.gguf"), &std::fs::read(tiny_llama().join("tiny-llama-f16.gguf")).unwrap()[..9999])
        .unwrap();
    for name in ["b.gguf", "b"] {
        assert!(matches!(exported(&folder.join("cut.gguf"), &folder.join(name)).unwrap_err(), Error::Model(_)));
    }
    assert_eq!(folder.names(), ["cut.gguf"]);
}
