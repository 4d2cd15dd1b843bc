//! The tokenizer, as the byte tensor of a `.rin` file.

use crate::Error;
use crate::layout::Layout;
use rin_model::rin_format::{TOKENIZER, TOKENIZER_CONFIG};
use rin_model::{ModelFile, TokenizerSource};
use std::io::{self, Read};

/// Adds the source's tokenizer, where it has one: `tokenizer.json` and `tokenizer_config.json` as they are, or the
/// keys of a GGUF file as a GGUF file without tensors.
pub(crate) fn add(file: &ModelFile, layout: &mut Layout) -> Result<(), Error> {
    match file.tokenizer() {
        Ok(TokenizerSource::Gguf(_)) => {
            let bytes = file.vocabulary_bytes().unwrap_or_default();
            let vocabulary = gguf_vocabulary(bytes).map_err(|error| Error::reading(file.path(), error))?;
            layout.push_bytes(TOKENIZER, vocabulary, 0)
        }
        Ok(TokenizerSource::HuggingFace(json, config)) => {
            // The reader tells the two kinds apart by the first byte.
            layout.push_bytes(TOKENIZER, json.trim_ascii_start().to_vec(), b' ')?;
            config.map_or(Ok(()), |config| layout.push_bytes(TOKENIZER_CONFIG, config.to_vec(), b' '))
        }
        Err(rin_model::Error::MissingKey(_) | rin_model::Error::MissingFile(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Keys that go into the vocabulary.
fn is_wanted(key: &[u8]) -> bool {
    key.starts_with(b"tokenizer.") || key == b"general.architecture"
}

/// A GGUF file of version 3 with the keys of a vocabulary in their order and without tensors.
fn gguf_vocabulary(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (n_keys, keys) = tokenizer_keys(bytes, is_wanted)?;
    let no_tensors = 0_u64;
    Ok([&b"GGUF"[..], &3_u32.to_le_bytes(), &no_tensors.to_le_bytes(), &n_keys.to_le_bytes(), &keys].concat())
}

/// The keys of a GGUF file that are wanted, in their order and as they are, and their number. The reader has checked
/// the header that they are taken from.
pub(crate) fn tokenizer_keys(bytes: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<(u64, Vec<u8>)> {
    let mut header = Copier { from: bytes, copied: Vec::new() };
    header.copy(8 + 8)?;
    let n_keys = header.u64()?;
    let (mut n_wanted, mut keys) = (0_u64, Vec::new());
    for _ in 0..n_keys {
        header.copied.clear();
        let length = header.u64()?;
        header.copy(length)?;
        let wanted = header.copied.get(8..).is_some_and(&is_wanted);
        let kind = header.u32()?;
        header.value(kind)?;
        if wanted {
            n_wanted = n_wanted.saturating_add(1);
            keys.append(&mut header.copied);
        }
    }
    Ok((n_wanted, keys))
}

/// Reads on and keeps what it has read.
struct Copier<R> {
    from: R,
    copied: Vec<u8>,
}

/// Numbers of the GGUF value types that are not of one size.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a GGUF value of one size.
fn scalar_bytes(kind: u32) -> io::Result<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("value type {kind} in the header"))),
    }
}

impl<R: Read> Copier<R> {
    fn copy(&mut self, n: u64) -> io::Result<()> {
        // What is reserved grows with what is there, not with what a length claims.
        let copied = self.from.by_ref().take(n).read_to_end(&mut self.copied)?;
        if u64::try_from(copied).ok() == Some(n) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.copied.extend(bytes);
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn value(&mut self, kind: u32) -> io::Result<()> {
        match kind {
            STRING => self.string(),
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if kind == STRING {
                    return (0..count).try_for_each(|_| self.string());
                }
                self.copy(scalar_bytes(kind)?.saturating_mul(count))
            }
            scalar => self.copy(scalar_bytes(scalar)?),
        }
    }

    fn string(&mut self) -> io::Result<()> {
        let length = self.u64()?;
        self.copy(length)
    }
}
