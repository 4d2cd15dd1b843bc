//! A sequence on disk: its tokens and its pages of the KV cache, to go on later with the same bits.
//!
//! | bytes | hold |
//! |---|---|
//! | 8 | `RINSTATE` |
//! | 4 | version of this layout, 1, little-endian |
//! | 4 | length of the header in bytes, little-endian |
//! | | the header: JSON with the version of RIN, the fingerprint of the weights, how keys and values are stored, the number of positions and the tokens |
//! | | page by page, in order of positions: the tokens of the page, then layer by layer and head by head its keys and values |
//! | | what layers with memories of a fixed size hold, in the order of the plan |
//! | 32 | SHA-256 of all before it |
//!
//! A file is written beside its name and takes it when it is whole. One that is damaged, of another model, another way
//! of storing keys and values, or another version of RIN (whose bits may differ) is refused.

use crate::Error;
use crate::chain::Order;
use crate::engine::Engine;
use crate::feed::Sequence;
use crate::plan::{Cut, Stage};
use crate::run::Runner;
use rin_kernels::ops::attention::PAGE;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"RINSTATE";
const LAYOUT: u32 = 1;
/// Most bytes of a header: 16 million tokens.
const MAX_HEADER: u32 = 1 << 28;

/// Failures of saving and restoring a sequence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is no saved sequence, or is damaged.
    #[error("{} is no sound saved sequence: {reason}; save it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The sequence is of another model, other options, or another version.
    #[error("{} was saved with another {what}: {found}, and this is {expected}; begin from the text again", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the file has.
        found: String,
        /// What is wanted.
        expected: String,
    },
}

/// What a file says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Version of RIN.
    rin: String,
    /// [`Weights::fingerprint`](crate::weights::Weights::fingerprint).
    model: String,
    /// How keys and values are stored.
    kv_type: String,
    /// Tokens in the cache.
    position: usize,
    /// What of the network the pages are of; empty where it is whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    share: String,
    /// Which memories of a fixed size the layers have, and their bytes; empty where there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    memory: String,
    /// First page that is stored; those before it have fallen out of a window.
    first_page: usize,
    /// All tokens of the text so far; those from `position` on are not in the cache yet.
    tokens: Vec<u32>,
}

/// A sequence that goes on.
#[derive(Debug)]
pub struct Restored {
    /// The sequence, with room for a whole context.
    pub sequence: Sequence,
    /// All tokens of the text so far; the engine's [`position`](Engine::position) says how many of them it holds.
    pub tokens: Vec<u32>,
}

/// A place in a sequence to come back to, with what its memories of a fixed size held there.
#[derive(Clone, Debug)]
pub struct Mark {
    position: usize,
    held: Vec<u8>,
}

impl Engine {
    /// Remembers where a sequence is. It allocates what its memories of a fixed size hold, and nothing where there are none.
    pub fn mark(&mut self, sequence: &Sequence) -> Mark {
        let position = self.position(sequence);
        let (runner, row) = (&mut self.runner, sequence.row);
        let mut held = Vec::with_capacity(runner.plan.held_bytes());
        runner.each_held_part(row, |arena, part| held.extend_from_slice(&arena[part]));
        Mark { position, held }
    }

    /// Goes back to where a sequence was marked.
    ///
    /// # Errors
    ///
    /// [`Error::NotRewindable`] where the sequence has not come so far, or the mark is of another plan; as for
    /// [`truncate`](Self::truncate) otherwise.
    pub fn rewind(&mut self, sequence: &Sequence, mark: &Mark) -> Result<(), Error> {
        let position = self.position(sequence);
        let (runner, row) = (&mut self.runner, sequence.row);
        if position < mark.position || mark.held.len() != runner.plan.held_bytes() {
            return Err(Error::NotRewindable { position: mark.position });
        }
        runner.truncate_pages(row, mark.position)?;
        self.tell_truncated(row, mark.position)?;
        let (runner, row) = (&mut self.runner, sequence.row);
        let mut rest = mark.held.as_slice();
        runner.each_held_part(row, |arena, part| {
            let (own, after) = rest.split_at(part.len());
            arena[part].copy_from_slice(own);
            rest = after;
        });
        Ok(())
    }

    /// Writes a sequence to `path`. `tokens` are all of its text, those that are not fed yet included.
    ///
    /// # Errors
    ///
    /// What the operating system says; an earlier file at `path` stands then.
    pub fn save(&mut self, sequence: &Sequence, tokens: &[u32], path: &Path) -> Result<(), Error> {
        // The file of the first stage is written last: what it names is whole wherever a job dies.
        let row = sequence.row;
        self.tell_about_file(Order::Save, row, tokens, path)?;
        self.save_own(sequence, tokens, path)?;
        self.tell_about_file(Order::Settle, row, tokens, path)
    }

    /// [`save`](Self::save) of this stage alone.
    pub(crate) fn save_own(&mut self, sequence: &Sequence, tokens: &[u32], path: &Path) -> Result<(), StateError> {
        let at = |source| StateError::Io { path: path.to_owned(), source };
        let beside = path.with_extension(format!("tmp-{}", std::process::id()));
        let written = self.write(sequence, tokens, &beside).and_then(|()| std::fs::rename(&beside, path));
        written.map_err(|error| {
            // A half-written file is of no use to anyone.
            std::fs::remove_file(&beside).ok();
            at(error)
        })
    }

    fn write(&mut self, sequence: &Sequence, tokens: &[u32], path: &Path) -> io::Result<()> {
        let (runner, row) = (&mut self.runner, sequence.row);
        let held = runner.cache.held(row);
        let header = Header {
            rin: env!("CARGO_PKG_VERSION").to_owned(),
            model: runner.weights.fingerprint(),
            share: share_of(&runner.plan),
            memory: memory_of(&runner.plan),
            kv_type: runner.plan.kv_type.name().to_owned(),
            position: runner.cache.position(row),
            first_page: held.start,
            tokens: tokens.to_vec(),
        };
        let header = serde_json::to_vec(&header)?;
        let length = u32::try_from(header.len()).ok().filter(|&n| n <= MAX_HEADER);
        let length = length.ok_or_else(|| io::Error::other("the text is too long to be saved"))?;
        let mut out = Hashed { inner: BufWriter::new(File::create(path)?), hash: Sha256::new() };
        out.write_all(MAGIC)?;
        out.write_all(&LAYOUT.to_le_bytes())?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&header)?;
        let last = runner.cache.position(row).div_ceil(PAGE);
        for i in held.start..last.min(held.end) {
            let page = runner.cache.row(row)[i];
            let mut written = Ok(());
            runner.each_page_part(page, |arena, part| {
                if written.is_ok() {
                    written = out.write_all(&arena[part]);
                }
            });
            written?;
        }
        let mut written = Ok(());
        runner.each_held_part(row, |arena, part| {
            if written.is_ok() {
                written = out.write_all(&arena[part]);
            }
        });
        written?;
        let hash = out.hash.finalize_reset();
        out.inner.write_all(&hash)?;
        out.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// Reads a sequence from `path`.
    ///
    /// # Errors
    ///
    /// [`StateError`] where the file cannot be used, [`Error::NoSequenceLeft`] and [`Error::CacheFull`] where there is no
    /// place for it, [`Error::PromptTooLong`] where it is longer than the context.
    pub fn restore(&mut self, path: &Path) -> Result<Restored, Error> {
        let restored = self.restore_own(path)?;
        let row = restored.sequence.row;
        self.tell_about_file(Order::Restore, row, &restored.tokens, path)?;
        Ok(restored)
    }

    /// [`restore`](Self::restore) of this stage alone.
    pub(crate) fn restore_own(&mut self, path: &Path) -> Result<Restored, Error> {
        let at = |source| StateError::Io { path: path.to_owned(), source };
        let damaged = |reason: String| StateError::Damaged { path: path.to_owned(), reason };
        let file = File::open(path).map_err(at)?;
        let mut from = Hashed { inner: BufReader::new(file), hash: Sha256::new() };
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends too early".to_owned()),
            _ => at(error),
        };
        let mut start = [0; 16];
        from.read_exact(&mut start).map_err(cut)?;
        let [magic, layout, length] = [&start[..8], &start[8..12], &start[12..]];
        if magic != MAGIC {
            return Err(damaged("it does not begin with RINSTATE".to_owned()).into());
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |n, &byte| n << 8 | u32::from(byte));
        if number(layout) != LAYOUT {
            let (found, expected) = (number(layout).to_string(), LAYOUT.to_string());
            return Err(StateError::Other { path: path.to_owned(), what: "layout", found, expected }.into());
        }
        if number(length) > MAX_HEADER {
            return Err(damaged(format!("its header of {} bytes is too long", number(length))).into());
        }
        let mut json = Vec::new();
        let read = (&mut from).take(u64::from(number(length))).read_to_end(&mut json).map_err(at)?;
        if read < number(length) as usize {
            return Err(damaged("it ends too early".to_owned()).into());
        }
        let header: Header = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        self.check_header(&header, path)?;
        let limit = self.plan().options.ctx;
        if header.position > limit {
            return Err(Error::PromptTooLong { tokens: header.position, ctx: limit });
        }
        let sequence = Sequence { row: self.runner.admit(&[], limit)? };
        let outcome = self.read_pages(&sequence, &header, &mut from).map_err(cut).and_then(|()| {
            let computed = from.hash.finalize_reset();
            let mut stored = [0; 32];
            from.inner.read_exact(&mut stored).map_err(cut)?;
            let more = from.inner.read(&mut [0]).map_err(at)?;
            match (stored == *computed, more) {
                (true, 0) => Ok(()),
                (true, _) => Err(damaged("it goes on after its end".to_owned())),
                (false, _) => Err(damaged("its checksum does not fit".to_owned())),
            }
        });
        let (runner, row) = (&mut self.runner, sequence.row);
        let outcome = match outcome {
            Ok(()) => runner.index_restored(row, &header.tokens),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => Ok(Restored { sequence, tokens: header.tokens }),
            Err(error) => {
                self.runner.cache.release(sequence.row);
                Err(error)
            }
        }
    }

    fn check_header(&self, header: &Header, path: &Path) -> Result<(), StateError> {
        let fields = [
            ("version of RIN", header.rin.clone(), env!("CARGO_PKG_VERSION").to_owned()),
            ("share of the network", header.share.clone(), share_of(self.plan())),
            ("model", header.model.clone(), self.weights().fingerprint()),
            ("memory", header.memory.clone(), memory_of(self.plan())),
            ("--kv-type", header.kv_type.clone(), self.plan().kv_type.name().to_owned()),
        ];
        for (what, found, expected) in fields {
            if found != expected {
                let whole = |text: String| if text.is_empty() { "all of it".to_owned() } else { text };
                let (found, expected) = (whole(found), whole(expected));
                return Err(StateError::Other { path: path.to_owned(), what, found, expected });
            }
        }
        let vocab = self.plan().config.vocab;
        let first = self.plan().cache_shape().first_live(header.position);
        let reason = if header.tokens.len() < header.position {
            Some("it has fewer tokens than positions".to_owned())
        } else if header.first_page != first {
            Some(format!("its first page is {}, and {first} is the first one within the window", header.first_page))
        } else {
            let unknown = header.tokens.iter().find(|&&id| id as usize >= vocab);
            unknown.map(|id| format!("token {id} is not in the vocabulary"))
        };
        match reason {
            Some(reason) => Err(StateError::Damaged { path: path.to_owned(), reason }),
            None => Ok(()),
        }
    }

    fn read_pages(&mut self, sequence: &Sequence, header: &Header, from: &mut impl Read) -> io::Result<()> {
        let (runner, row) = (&mut self.runner, sequence.row);
        runner.cache.restore(row, header.position).map_err(io::Error::other)?;
        for i in runner.cache.held(row) {
            let page = runner.cache.row(row)[i];
            let mut read = Ok(());
            runner.each_page_part(page, |arena, part| {
                if read.is_ok() {
                    read = from.read_exact(&mut arena[part]);
                }
            });
            read?;
        }
        let mut read = Ok(());
        runner.each_held_part(row, |arena, part| {
            if read.is_ok() {
                read = from.read_exact(&mut arena[part]);
            }
        });
        read
    }
}

/// Which layers or rows of the network a plan has, in words; nothing where it has all.
fn share_of(plan: &crate::plan::Plan) -> String {
    match plan.options.stage {
        Some(Stage { index, count, cut: Cut::Rows, .. }) if count > 1 => format!("rows {} of {count}", index + 1),
        Some(Stage { first_layer, end_layer, count, .. }) if count > 1 => {
            format!("layers {first_layer} to {end_layer}")
        }
        _ => String::new(),
    }
}

/// The kinds of the memories in a plan and their bytes per sequence, in words.
fn memory_of(plan: &crate::plan::Plan) -> String {
    if plan.held.is_empty() {
        return String::new();
    }
    let kind = |layer: usize| plan.config.memory_of(layer).map_or("softmax", |memory| memory.kind.name());
    let kinds: Vec<&str> = (0..plan.config.n_layers).map(kind).collect();
    format!("{} ({} bytes)", kinds.join(", "), plan.held_bytes())
}

impl Runner {
    /// Writes the tokens of a restored sequence down anew, rather than trust those of its pages, and indexes its pages.
    fn index_restored(&mut self, row: usize, tokens: &[u32]) -> Result<(), Error> {
        let position = self.cache.position(row);
        let held = self.cache.held(row);
        let own = tokens.get(held.start * PAGE..position).unwrap_or_default();
        self.write_tokens(row, held.start * PAGE, own)?;
        self.commit(row, 0)
    }
}

/// Hashes what goes through.
struct Hashed<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}
