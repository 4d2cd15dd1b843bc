//! Where a training's results lie.

use crate::Error;
use crate::config::OutputConfig;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The files of a training.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The network.
    pub(super) model: PathBuf,
    pub(super) log: PathBuf,
    pub(super) plot: PathBuf,
    pub(super) evaluation: PathBuf,
    pub(super) checkpoint: PathBuf,
    /// The weights of the best evaluation.
    pub(super) best: PathBuf,
}

impl Files {
    /// Names the files and makes their folder.
    pub(super) fn new(output: &OutputConfig) -> Result<Self, Error> {
        std::fs::create_dir_all(&output.dir).map_err(|e| Error::writing(&output.dir, e))?;
        let file = |end: &str| output.dir.join(format!("{}.{end}", output.name));
        Ok(Self {
            model: file("rin"),
            log: file("jsonl"),
            plot: file("svg"),
            evaluation: file("eval.json"),
            checkpoint: file("checkpoint"),
            best: file("best"),
        })
    }

    /// Refuses to replace what an earlier training left.
    pub(super) fn check_free(&self, overwrite: bool) -> Result<(), Error> {
        match [&self.checkpoint, &self.model, &self.log].into_iter().find(|path| path.exists()) {
            Some(path) if !overwrite => Err(Error::Exists(path.clone())),
            _ => Ok(()),
        }
    }
}

/// Writes a file as a whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // Nothing more can be done about a file that cannot be removed.
        std::fs::remove_file(&temporary).ok();
        Error::writing(path, source)
    })
}
