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

/// Numbers in f32, little-endian, in padded base64.
pub fn floats_of_base64(text: &str) -> Vec<f32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, &c| bits << 6 | u32::from(digit(c))) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
