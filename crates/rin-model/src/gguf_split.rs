//! A GGUF model in several files: `NAME-00001-of-00003.gguf` and its sisters.

use std::path::{Path, PathBuf};

use crate::error::{Error, fault};
use crate::gguf::{Gguf, Metadata};
use crate::mmap::FileBytes;
use crate::tensor::TensorTable;

/// How many files there are, and which of them (from 0) one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    number: u64,
    count: u64,
}

fn part(metadata: &Metadata<'_>) -> Result<Option<Part>, Error> {
    let Some(count) = metadata.u64("split.count")?.filter(|&count| count > 1) else { return Ok(None) };
    let number = metadata.u64("split.no")?.ok_or_else(|| bad_shard("split.no", "a number", "no such key"))?;
    Ok(Some(Part { number, count }))
}

fn bad_shard(name: impl Into<String>, expected: impl Into<String>, found: impl std::fmt::Display) -> Error {
    Error::BadShard(fault("split GGUF", name, expected, found))
}

/// The other files of a split model, by the name of one.
#[derive(Debug)]
struct Names {
    folder: PathBuf,
    stem: String,
    number: u64,
    count: u64,
}

impl Names {
    /// Takes `STEM-NNNNN-of-NNNNN.gguf` apart.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let five_digits = |text: &str| -> Option<u64> {
            (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Some(Self {
            folder,
            stem: stem.to_owned(),
            number: five_digits(number)?.checked_sub(1)?,
            count: five_digits(count)?,
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}-{:05}-of-{:05}.gguf", self.stem, number.saturating_add(1), self.count))
    }
}

/// The files of a model, in order, and all their tensors.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) files: Vec<FileBytes>,
    pub(crate) tensors: TensorTable,
}

/// Reads the header of a file that was mapped, and maps and reads its sisters where it is one of several.
pub(crate) fn load(file: FileBytes) -> Result<Loaded, Error> {
    let path = file.path().to_path_buf();
    let here = |error: Error| error.in_file(&path);
    let gguf = Gguf::parse(file.bytes()).map_err(here)?;
    let Some(part) = part(gguf.metadata()).map_err(here)? else {
        let tensors = gguf.into_tensors();
        return Ok(Loaded { files: vec![file], tensors });
    };
    let names = Names::of(&path).filter(|_| file.is_mapped()).ok_or_else(|| {
        here(bad_shard(
            "split.count",
            "a file on disk with a name ending in -NNNNN-of-NNNNN.gguf",
            format!("{} parts", part.count),
        ))
    })?;
    if (names.number, names.count) != (part.number, part.count) {
        let found = format!("part {} of {}", part.number.saturating_add(1), part.count);
        let expected = format!("part {} of {}, as the file is named", names.number.saturating_add(1), names.count);
        return Err(here(bad_shard("split.no", expected, found)));
    }
    drop(gguf);
    load_all(file, &names, part)
}

fn load_all(file: FileBytes, names: &Names, opened: Part) -> Result<Loaded, Error> {
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    let mut file = Some(file);
    let mut declared = None;
    for number in 0..opened.count {
        let path = names.path(number);
        let file = match file.take_if(|_| number == opened.number) {
            Some(file) => file,
            None => map_part(&path)?,
        };
        let gguf = Gguf::parse(file.bytes()).map_err(|error| error.in_file(&path))?;
        let part = part(gguf.metadata()).map_err(|error| error.in_file(&path))?;
        if part != Some(Part { number, count: opened.count }) {
            let expected = format!("part {} of {}", number.saturating_add(1), opened.count);
            let found = part.map_or("no split.count".to_owned(), |part| {
                format!("part {} of {}", part.number.saturating_add(1), part.count)
            });
            return Err(bad_shard("split.no", expected, found).in_file(&path));
        }
        if number == 0 {
            declared = gguf.metadata().u64("split.tensors.count").map_err(|error| error.in_file(&path))?;
        }
        let shard = files.len();
        tensors.extend(gguf.into_tensors().into_all().into_iter().map(|mut tensor| {
            tensor.shard = shard;
            tensor
        }));
        files.push(file);
    }
    let found = u64::try_from(tensors.len()).unwrap_or(u64::MAX);
    if declared.is_some_and(|declared| declared != found) {
        let expected = format!("{} tensors in all parts together", declared.unwrap_or(0));
        return Err(bad_shard("split.tensors.count", expected, found).in_file(&names.path(0)));
    }
    let tensors = TensorTable::new(tensors).map_err(|error| error.in_file(&names.path(0)))?;
    Ok(Loaded { files, tensors })
}

fn map_part(path: &Path) -> Result<FileBytes, Error> {
    FileBytes::map(path).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            bad_shard("", "all parts of the model", "no such file").in_file(path)
        }
        other => other,
    })
}
