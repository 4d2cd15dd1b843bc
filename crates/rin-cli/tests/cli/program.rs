//! Runs the binary in a folder and an environment of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use rin_testkit::data::{conformance, shared};
use serde_json::Value;

/// A model of the repository: F32 GGUF, 288 tokens.
pub(crate) const TINY: &str = "models/tiny-llama-tied/tiny-llama-tied-f32.gguf";

/// An empty folder that is gone at the end, and the command in it.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The command, with nothing of the tester's environment that it would read, and no input.
    pub(crate) fn rin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rin"));
        for (name, _) in std::env::vars_os() {
            if ["RIN_", "HF_", "XDG_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
                command.env_remove(name);
            }
        }
        command.args(arguments).current_dir(&self.folder).env("HOME", &self.folder).stdin(Stdio::null());
        // A machine without sensors, whatever the tester's has.
        command.env("RIN_SYS_ROOT", self.path("machine"));
        command
    }

    /// `command MODEL arguments`.
    pub(crate) fn on(&self, command: &str, model: &Path, arguments: &[&str]) -> Command {
        let mut command = self.rin(&[command]);
        command.arg(model).args(arguments);
        command
    }

    /// `run TINY -q arguments`.
    pub(crate) fn tiny(&self, arguments: &[&str]) -> Command {
        let mut command = self.on("run", &conformance(TINY), &["-q"]);
        command.args(arguments);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

pub(crate) fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

/// Runs with `text` on standard input.
pub(crate) fn with_input(mut command: Command, text: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Standard output of a run that has to succeed.
pub(crate) fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one JSON object of a run that has to succeed.
pub(crate) fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Ids of an array.
pub(crate) fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}
