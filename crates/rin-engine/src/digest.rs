//! The digest of a run: SHA-256 over the bits of every step's logits.
//!
//! Two runs with one digest produced the same logit bits at every step, so they are one run in the sense of the numerics
//! contract. `rin verify`, `rin run --json` and `rin bench` print it.

use std::fmt;

use sha2::{Digest, Sha256};

/// Values that are turned into bytes at a time: 1 KiB on the stack.
const CHUNK: usize = 256;

/// A running SHA-256 (FIPS 180-4) over f32 bits in little-endian order, steps one after another without separators.
///
/// The digest of one step equals `sha256sum` over the data of the same logits in a little-endian `.npy` file.
#[derive(Clone, Debug, Default)]
pub struct LogitDigest {
    hasher: Sha256,
}

impl LogitDigest {
    /// A digest over no steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the logits of one step. Allocates nothing.
    pub fn update(&mut self, logits: &[f32]) {
        let mut bytes = [0u8; 4 * CHUNK];
        for chunk in logits.chunks(CHUNK) {
            for (to, logit) in bytes.chunks_exact_mut(4).zip(chunk) {
                to.copy_from_slice(&logit.to_le_bytes());
            }
            self.hasher.update(&bytes[..4 * chunk.len()]);
        }
    }

    /// The digest of all steps so far; more may follow. Allocates nothing.
    pub fn finish(&self) -> DigestHex {
        DigestHex(self.hasher.clone().finalize().into())
    }
}

/// A finished digest, displayed as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DigestHex([u8; 32]);

impl DigestHex {
    /// The 32 bytes of the digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for DigestHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DigestHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_steps_is_the_digest_of_the_empty_message() {
        let expected = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(LogitDigest::new().finish().to_string(), expected);
    }

    /// The message `abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq` of FIPS 180-2, appendix B.2, as f32 bits.
    #[test]
    fn matches_the_published_vector() {
        let message = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        let (words, rest) = message.as_chunks::<4>();
        assert!(rest.is_empty());
        let logits: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let mut digest = LogitDigest::new();
        digest.update(&logits);
        let expected = "sha256:248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
        assert_eq!(digest.finish().to_string(), expected);
    }

    #[test]
    fn is_one_over_steps_of_any_length_and_sees_the_sign_of_zero() {
        let logits: Vec<f32> = (0u16..1000).map(|i| f32::from(i) - 500.0).collect();
        let mut whole = LogitDigest::new();
        whole.update(&logits);
        let mut parts = LogitDigest::new();
        for part in logits.chunks(333) {
            parts.update(part);
        }
        assert_eq!(whole.finish(), parts.finish());

        let mut negated = logits;
        negated[500] = -0.0;
        let mut other = LogitDigest::new();
        other.update(&negated);
        assert_ne!(whole.finish(), other.finish());
    }

    #[test]
    fn finish_leaves_the_digest_running() {
        let mut digest = LogitDigest::new();
        digest.update(&[1.0, 2.0]);
        let first = digest.finish();
        assert_eq!(first, digest.finish());
        digest.update(&[3.0]);
        assert_ne!(first, digest.finish());
    }
}
