//! An open model file, of any format.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::error::{Error, fault};
use crate::gguf::{Gguf, MAGIC};
use crate::mmap::FileBytes;
use crate::mode::Mode;
use crate::network::Network;
use crate::rin_format::{KEY_SHA256, Kind, RinHeader, hex};
use crate::safetensors::Safetensors;
use crate::tensor::{TensorInfo, TensorTable};
use crate::value::Value;
use crate::vocab::{GgufVocab, TokenizerSource};
use crate::{gguf_config, gguf_split, hf_folder};

/// Format of a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileFormat {
    /// GGUF.
    Gguf,
    /// safetensors, alone or in a Hugging Face folder.
    Safetensors,
    /// `.rin`.
    Rin,
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Rin => "rin",
        })
    }
}

/// Where the tokenizer lies.
#[derive(Debug)]
enum TokenizerPlace {
    /// In the keys of the first GGUF file.
    Gguf,
    /// In files of the folder.
    Files { json: Option<FileBytes>, config: Option<FileBytes> },
    /// In byte tensors.
    Tensors { tokenizer: Option<TensorInfo>, config: Option<TensorInfo> },
}

/// An open model: its header is checked, its bytes are mapped.
///
/// The bytes stay valid as long as nobody cuts the file short; see [`check_unchanged`](Self::check_unchanged).
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    format: FileFormat,
    files: Vec<FileBytes>,
    tensors: TensorTable,
    metadata: Vec<(String, String)>,
    config: Result<Config, Error>,
    network: Option<Network>,
    tokenizer: TokenizerPlace,
    data_start: u64,
}

impl ModelFile {
    /// Opens a GGUF, safetensors or `.rin` file (told apart by content), or a Hugging Face folder.
    ///
    /// The header is checked in full. A sound file that describes no network that RIN runs (a vocabulary alone, another
    /// architecture) opens all the same, and [`config`](Self::config) says what is wrong with it.
    ///
    /// # Errors
    /// `Io`, `NotAModel`, and whatever is wrong with the header.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            return hf_folder::load(path).map(|loaded| Self::from_folder(path, loaded));
        }
        Self::from_file(FileBytes::map(path)?)
    }

    /// Reads a model that is in memory, such as one embedded in a program: GGUF, `.rin`, or safetensors without a
    /// configuration.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, Error> {
        Self::from_file(FileBytes::held(name, bytes.into()))
    }

    fn from_file(file: FileBytes) -> Result<Self, Error> {
        let path = file.path().to_path_buf();
        let bytes = file.bytes();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let swapped = bytes.starts_with(b"FUGG");
        let starts_gguf = bytes.len() < MAGIC.len() && !bytes.is_empty() && MAGIC.starts_with(bytes);
        if bytes.starts_with(&MAGIC) || swapped || starts_gguf || extension.eq_ignore_ascii_case("gguf") {
            return Self::from_gguf(gguf_split::load(file)?);
        }
        let named = ["safetensors", "rin"].iter().any(|known| extension.eq_ignore_ascii_case(known));
        if !named && !Safetensors::looks_like(bytes) {
            let start = bytes.get(..bytes.len().min(8)).unwrap_or_default();
            let found = if start.starts_with(b"PK") { "a zip archive".to_owned() } else { format!("{start:02x?}") };
            let expected = "a start as GGUF or safetensors files have it";
            return Err(Error::NotAModel(fault("file", "", expected, found)).in_file(&path));
        }
        let header = Safetensors::parse(bytes).map_err(|error| error.in_file(&path))?;
        if RinHeader::is_rin(&header) {
            let header = RinHeader::check(header).map_err(|error| error.in_file(&path))?;
            return Ok(Self::from_rin(file, header));
        }
        hf_folder::load_single(file, header).map(|loaded| Self::from_folder(&path, loaded))
    }

    fn from_gguf(loaded: gguf_split::Loaded) -> Result<Self, Error> {
        let gguf_split::Loaded { files, mut tensors } = loaded;
        let first = files.first().map_or(Path::new(""), FileBytes::path);
        let bytes = files.first().map_or(&[][..], FileBytes::bytes);
        let metadata = Gguf::parse_metadata(bytes).map_err(|error| error.in_file(first))?;
        let config = gguf_config::config(&metadata, &mut tensors).map_err(|error| error.in_file(first));
        Ok(Self {
            path: first.to_path_buf(),
            format: FileFormat::Gguf,
            tensors,
            metadata: Vec::new(),
            config,
            network: None,
            tokenizer: TokenizerPlace::Gguf,
            data_start: 0,
            files,
        })
    }

    fn from_folder(path: &Path, loaded: hf_folder::Loaded) -> Self {
        Self {
            path: path.to_path_buf(),
            format: FileFormat::Safetensors,
            files: loaded.files,
            tensors: loaded.tensors,
            metadata: loaded.metadata,
            config: loaded.config,
            network: None,
            tokenizer: TokenizerPlace::Files { json: loaded.tokenizer, config: loaded.tokenizer_config },
            data_start: 0,
        }
    }

    fn from_rin(file: FileBytes, header: RinHeader) -> Self {
        let (config, network) = match header.kind {
            Kind::Decoder(config) => (Ok(config), None),
            Kind::Network(network) => {
                let found = format!("one of the mode `{}`, which takes rows of numbers", network.mode);
                let fault = fault("config", "mode", "a network that continues text", found);
                (Err(Error::NoText(fault).in_file(file.path())), Some(network))
            }
        };
        Self {
            path: file.path().to_path_buf(),
            format: FileFormat::Rin,
            files: vec![file],
            tensors: header.tensors,
            metadata: header.metadata,
            config,
            network,
            tokenizer: TokenizerPlace::Tensors { tokenizer: header.tokenizer, config: header.tokenizer_config },
            data_start: header.data_start,
        }
    }

    /// Path as it was given; of a split GGUF, the first part.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Format.
    pub fn format(&self) -> FileFormat {
        self.format
    }

    /// Bytes of all files that hold weights.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.length()))
    }

    /// Elements of all tensors.
    pub fn n_params(&self) -> u64 {
        self.tensors().iter().fold(0, |sum: u64, tensor| sum.saturating_add(tensor.n_elements()))
    }

    /// The network, checked against the tensors; or why there is none that RIN runs.
    ///
    /// # Errors
    /// `UnknownArchitecture`, `MissingKey`, `MissingTensor`, `InconsistentConfig`, `BadShape`, `Unsupported`, …: found
    /// when the file was opened. `NoText` where the file holds a [`network`](Self::network) of another kind.
    pub fn config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(Clone::clone)
    }

    /// The network of a file that continues no text; none in all other files. It has been checked against the tensors.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// What the file's network computes; none where RIN does not run it.
    pub fn mode(&self) -> Option<Mode> {
        match (&self.network, &self.config) {
            (Some(network), _) => Some(network.mode),
            (None, Ok(_)) => Some(Mode::Transformer),
            (None, Err(_)) => None,
        }
    }

    /// All tensors, in file order; without the tokenizer of a `.rin` file.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.all()
    }

    /// A tensor by its canonical name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor of this file; empty for a description that is not from it and leads out of it.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let bytes = || self.files.get(tensor.shard)?.bytes().get(range_of(tensor)?);
        bytes().unwrap_or_default()
    }

    /// Gives the memory of pages of a tensor back, `bytes` counting from its start; a later look reads them from the
    /// file again.
    pub fn release(&self, tensor: &TensorInfo, bytes: Range<usize>) {
        if let (Some(file), Some(range)) = (self.files.get(tensor.shard), range_of(tensor)) {
            let at = |offset: usize| range.start.saturating_add(offset).min(range.end);
            file.not_needed(at(bytes.start)..at(bytes.end));
        }
    }

    /// Reads the pages of some bytes of a tensor into memory, those that it has, so that no later look waits for one or faults.
    pub fn populate_part(&self, tensor: &TensorInfo, bytes: Range<usize>) {
        if let (Some(file), Some(range)) = (self.files.get(tensor.shard), range_of(tensor)) {
            let at = |offset: usize| range.start.saturating_add(offset).min(range.end);
            file.populate(at(bytes.start)..at(bytes.end));
        }
    }

    /// Gives the memory of all pages back, those of the tokenizer among them; a later look reads them from the file again.
    pub fn release_all(&self) {
        self.all_files().for_each(|file| file.not_needed(0..file.bytes().len()));
    }

    /// The files that hold weights, and those of the tokenizer.
    fn all_files(&self) -> impl Iterator<Item = &FileBytes> {
        let (json, config) = match &self.tokenizer {
            TokenizerPlace::Files { json, config } => (json.as_ref(), config.as_ref()),
            TokenizerPlace::Gguf | TokenizerPlace::Tensors { .. } => (None, None),
        };
        self.files.iter().chain(json).chain(config)
    }

    /// Reads all pages of the files that hold weights into memory, so that no later look waits for one or faults; the
    /// tokenizer within a `.rin` file is left out.
    pub fn populate(&self) {
        let mut skipped: Vec<Range<usize>> = match &self.tokenizer {
            TokenizerPlace::Tensors { tokenizer, config } => {
                tokenizer.iter().chain(config).filter_map(range_of).collect()
            }
            TokenizerPlace::Gguf | TokenizerPlace::Files { .. } => Vec::new(),
        };
        skipped.sort_unstable_by_key(|range| range.start);
        for file in &self.files {
            let mut from = 0;
            for range in &skipped {
                file.populate(from..range.start.max(from));
                from = range.end.max(from);
            }
            file.populate(from..file.bytes().len().max(from));
        }
    }

    /// Keeps all pages in memory, out of reach of reclaim.
    ///
    /// # Errors
    /// What the operating system answers.
    pub fn lock(&self) -> std::io::Result<()> {
        self.files.iter().try_for_each(FileBytes::lock)
    }

    /// The description of the tokenizer.
    ///
    /// # Errors
    /// `MissingKey` or `MissingFile` where there is none; `BadVocab` where it contradicts itself or the embedding.
    pub fn tokenizer(&self) -> Result<TokenizerSource<'_>, Error> {
        self.tokenizer_source().map_err(|error| error.in_file(&self.path))
    }

    fn tokenizer_source(&self) -> Result<TokenizerSource<'_>, Error> {
        let missing = |what| Error::MissingFile(fault("tokenizer", what, "a tokenizer", "none"));
        match &self.tokenizer {
            TokenizerPlace::Gguf => self.gguf_vocab(self.first_bytes()),
            TokenizerPlace::Files { json, config } => {
                let json = json.as_ref().ok_or_else(|| missing("tokenizer.json"))?;
                Ok(TokenizerSource::HuggingFace(json.bytes(), config.as_ref().map(FileBytes::bytes)))
            }
            TokenizerPlace::Tensors { tokenizer, config } => {
                let bytes = self.bytes(tokenizer.as_ref().ok_or_else(|| missing("tensor `tokenizer`"))?);
                match bytes.first() {
                    Some(b'{') => {
                        Ok(TokenizerSource::HuggingFace(bytes, config.as_ref().map(|tensor| self.bytes(tensor))))
                    }
                    _ => self.gguf_vocab(bytes),
                }
            }
        }
    }

    /// A GGUF file whose keys `tokenizer.*` describe the tokenizer: this file, or the one that a `.rin` file holds. None
    /// where the tokenizer, if there is one, comes from elsewhere.
    pub fn vocabulary_bytes(&self) -> Option<&[u8]> {
        match &self.tokenizer {
            TokenizerPlace::Gguf => Some(self.first_bytes()),
            TokenizerPlace::Tensors { tokenizer: Some(tensor), .. } => {
                Some(self.bytes(tensor)).filter(|bytes| bytes.starts_with(&MAGIC))
            }
            TokenizerPlace::Files { .. } | TokenizerPlace::Tensors { .. } => None,
        }
    }

    fn gguf_vocab<'a>(&self, bytes: &'a [u8]) -> Result<TokenizerSource<'a>, Error> {
        let vocab = GgufVocab::parse(bytes)?;
        if let Ok(config) = &self.config
            && vocab.tokens.len() > config.vocab
        {
            let expected = format!("at most {} tokens, the rows of the embedding", config.vocab);
            return Err(Error::BadVocab(fault("metadata", "tokenizer.ggml.tokens", expected, vocab.tokens.len())));
        }
        Ok(TokenizerSource::Gguf(vocab))
    }

    fn first_bytes(&self) -> &[u8] {
        self.files.first().map_or(&[], FileBytes::bytes)
    }

    /// Keys and values: those of the first GGUF file, or the strings of a safetensors file.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let keys = match self.format {
            // The header was checked when the file was opened, and is checked again in case the file changed.
            FileFormat::Gguf => Gguf::parse_metadata(self.first_bytes()).unwrap_or_default().into_entries(),
            FileFormat::Safetensors | FileFormat::Rin => Vec::new(),
        };
        let strings = self.metadata.iter().map(|(key, text)| (key.as_str(), Value::Str(text)));
        keys.into_iter().chain(strings)
    }

    /// Tells the operating system that all bytes are about to be read.
    pub fn advise(&self) {
        self.files.iter().for_each(FileBytes::will_need);
    }

    /// Whether the files are those that were opened, by length and time of change.
    ///
    /// A file that is cut short while it is mapped ends the process with SIGBUS when a lost page is touched. Who keeps a
    /// mapping for long calls this from time to time; who copies the weights (as packing does) calls it afterwards.
    ///
    /// # Errors
    /// `FileChanged` names the file.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        self.all_files().try_for_each(FileBytes::check_unchanged)
    }

    /// Holds the data of a `.rin` file against the SHA-256 in its header. Reads all of it.
    ///
    /// # Errors
    /// `BadChecksum` where they differ; `MissingKey` for other formats, which record no hash.
    pub fn verify_sha256(&self) -> Result<(), Error> {
        let recorded = self.metadata.iter().find(|entry| entry.0 == KEY_SHA256 && self.format == FileFormat::Rin);
        let Some((_, recorded)) = recorded else {
            let found = format!("a {} file, which has none", self.format);
            return Err(Error::MissingKey(fault("header", KEY_SHA256, "a recorded hash", found)).in_file(&self.path));
        };
        let start = usize::try_from(self.data_start).unwrap_or(usize::MAX);
        let hash = hex(&Sha256::digest(self.first_bytes().get(start..).unwrap_or_default()));
        if hash.eq_ignore_ascii_case(recorded) {
            return Ok(());
        }
        Err(Error::BadChecksum(fault("rin data", KEY_SHA256, recorded, hash)).in_file(&self.path))
    }
}

/// Where a tensor lies in its file.
fn range_of(tensor: &TensorInfo) -> Option<Range<usize>> {
    let start = usize::try_from(tensor.offset).ok()?;
    Some(start..start.checked_add(usize::try_from(tensor.n_bytes).ok()?)?)
}
