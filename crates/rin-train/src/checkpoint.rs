//! Checkpoints: everything that a training needs to go on with equal losses, as a safetensors file.
//!
//! A new checkpoint is written under a temporary name, brought to the disk and renamed; the one before it stays beside
//! it as `….previous`. A full disk or a kill at any time leaves at least one that is whole. A hash of the data tells a
//! damaged file.

use crate::Error;
use crate::optimizer::AdamW;
use crate::parameters::Parameters;
use rin_model::rin_format::hex;
use rin_model::safetensors::Safetensors;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Key of the state in the file's metadata.
const STATE: &str = "rin.train";
/// Key of the hash of all tensors.
const HASH: &str = "sha256";

/// Where a training stands, beside its numbers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps done.
    pub step: usize,
    /// Least validation loss so far, in nats per character.
    pub best: Option<f64>,
    /// Step of it.
    pub best_step: usize,
    /// Evaluations since then.
    pub waited: usize,
    /// The hint's distances in the first step, where there are any.
    #[serde(default, deserialize_with = "distances")]
    pub hint: Vec<f64>,
    /// What the training is: see [`Fingerprint`].
    pub fingerprint: Fingerprint,
}

/// Distances; checkpoints from before there were several hold one or none.
fn distances<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Found {
        Several(Vec<f64>),
        One(f64),
    }
    Ok(match Option::<Found>::deserialize(from)? {
        Some(Found::Several(all)) => all,
        Some(Found::One(one)) => vec![one],
        None => Vec::new(),
    })
}

/// What must be equal for a checkpoint to fit a training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The `[model]` section, as JSON.
    pub model: String,
    /// SHA-256 of the text.
    pub data: String,
    /// SHA-256 of the vocabulary.
    pub vocabulary: String,
}

/// The numbers of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where it stands.
    pub state: State,
    /// The weights.
    pub parameters: Parameters,
    /// Moments and averages.
    pub optimizer: AdamW,
}

/// Whether a checkpoint has averages of the weights beside the moments.
#[derive(Clone, Copy, Debug)]
pub struct WithEma(pub bool);

/// The name of the checkpoint before `path`.
pub fn previous(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".previous");
    path.with_file_name(name)
}

impl Checkpoint {
    /// The tensors of the file: for each parameter its weights, moments and average.
    fn tensors(&self) -> impl Iterator<Item = (String, &[usize], &[f32])> {
        let o = &self.optimizer;
        let kinds = [("first", &o.first), ("second", &o.second), ("ema", &o.ema)];
        self.parameters.0.iter().enumerate().flat_map(move |(i, p)| {
            let others = kinds.into_iter().filter_map(move |(kind, all)| {
                Some((format!("{kind}.{}", p.name), p.shape.as_slice(), all.get(i)?.as_slice()))
            });
            std::iter::once((format!("weight.{}", p.name), p.shape.as_slice(), p.values.as_slice())).chain(others)
        })
    }

    /// Writes the checkpoint to `path`; the one that was there becomes [`previous`].
    ///
    /// # Errors
    /// [`Error::Write`]: what stood at `path` still stands there or at [`previous`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        let written = self.write(&temporary).and_then(|()| {
            if path.exists() {
                std::fs::rename(path, previous(path))?;
            }
            std::fs::rename(&temporary, path)
        });
        if let Err(source) = written {
            // Nothing more can be done about a file that cannot be removed.
            std::fs::remove_file(&temporary).ok();
            return Err(Error::writing(path, source));
        }
        // Not all file systems sync folders, and the files themselves are on the disk.
        path.parent().and_then(|folder| File::open(folder).ok()).and_then(|folder| folder.sync_all().ok());
        Ok(())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut hash = Sha256::new();
        let mut header = Map::new();
        let mut at = 0;
        for (name, shape, values) in self.tensors() {
            let end = at + 4 * values.len();
            header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
            at = end;
            hash.update(bytes_of(values));
        }
        let state = serde_json::to_string(&self.state)?;
        header.insert("__metadata__".to_owned(), json!({ STATE: state, HASH: hex(&hash.finalize()) }));
        let mut header = serde_json::to_string(&Value::Object(header))?;
        while header.len() % 8 != 0 {
            header.push(' ');
        }
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (_, _, values) in self.tensors() {
            file.write_all(bytes_of(values))?;
        }
        file.flush()?;
        file.get_ref().sync_all()
    }

    /// Reads the checkpoint at `path`, for the parameters of `like`; without `moments`, the weights alone.
    ///
    /// # Errors
    /// [`Error::BrokenCheckpoint`] when the file is damaged, [`Error::OtherTraining`] when it is of another network.
    pub fn load(path: &Path, like: &Parameters, moments: Option<WithEma>) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|e| Error::reading(path, e))?;
        let broken = |reason: String| Error::BrokenCheckpoint { path: path.to_owned(), reason };
        let header = Safetensors::parse(&bytes).map_err(|e| broken(e.to_string()))?;
        let key = |key: &str| header.get(key).ok_or_else(|| broken(format!("it has no key '{key}'")));
        let state: State = serde_json::from_str(key(STATE)?).map_err(|e| broken(e.to_string()))?;
        let start = 8 + bytes.first_chunk::<8>().map_or(0, |length| u64::from_le_bytes(*length));
        let data = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        if hex(&Sha256::digest(data)) != key(HASH)? {
            return Err(broken("its data is not what was written: the SHA-256 differs".to_owned()));
        }
        let other = |reason: String| Error::OtherTraining { path: path.to_owned(), reason };
        let read = |kind: &str, name: &str, shape: &[usize]| -> Result<Vec<f32>, Error> {
            let name = format!("{kind}.{name}");
            let found = header.tensors().iter().find(|t| t.source_name == name || t.name == name);
            let t = found.ok_or_else(|| other(format!("it has no tensor '{name}'")))?;
            if !t.shape.iter().copied().eq(shape.iter().map(|&n| n as u64)) {
                return Err(other(format!("'{name}' has the shape {:?}, not {shape:?}", t.shape)));
            }
            let range = usize::try_from(t.offset).ok().zip(usize::try_from(t.n_bytes).ok());
            let values = range.and_then(|(at, n)| bytes.get(at..at.checked_add(n)?));
            let values = values.ok_or_else(|| broken(format!("'{name}' lies outside the file")))?;
            Ok(values.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
        };
        let mut parameters = like.clone();
        let mut optimizer = AdamW { step: state.step, first: Vec::new(), second: Vec::new(), ema: Vec::new() };
        for p in &mut parameters.0 {
            p.values = read("weight", &p.name, &p.shape)?;
            let Some(WithEma(with_ema)) = moments else { continue };
            optimizer.first.push(read("first", &p.name, &p.shape)?);
            optimizer.second.push(read("second", &p.name, &p.shape)?);
            if with_ema {
                optimizer.ema.push(read("ema", &p.name, &p.shape)?);
            }
        }
        Ok(Self { state, parameters, optimizer })
    }
}

/// The bytes of numbers as the file has them.
fn bytes_of(values: &[f32]) -> &[u8] {
    // Every processor that RIN runs on is little-endian, as the file is.
    const { assert!(cfg!(target_endian = "little")) }
    bytemuck::cast_slice(values)
}
