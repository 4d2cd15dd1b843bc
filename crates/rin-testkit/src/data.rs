//! Where test data lies.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file under `conformance/`.
pub fn conformance(path: &str) -> PathBuf {
    repository().join("conformance").join(path)
}

/// A file under the shared data beside the repository; none, with a loud line, where it is absent.
///
/// # Panics
///
/// When it is absent and `RIN_REQUIRE_DATA=1`.
#[expect(clippy::print_stderr, reason = "a skipped test has to be seen")]
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = repository().join("../shared/data").join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(std::env::var("RIN_REQUIRE_DATA").as_deref() != Ok("1"), "{} is required here", full.display());
    eprintln!("SKIPPED: {} is absent", full.display());
    None
}
