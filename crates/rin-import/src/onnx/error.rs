//! Why an ONNX model cannot be imported.

use crate::Error;
use crate::foreign::ForeignError;
use std::fmt;

/// What stands against a node or a model.
#[derive(Debug, Clone)]
pub(super) struct OnnxError {
    /// The node, where it is known.
    node: Option<String>,
    what: String,
    /// What is wrong with the file itself.
    damage: Option<rin_model::Error>,
}

impl OnnxError {
    /// Types, shapes or parameters that do not fit an operator, or that RIN does not run.
    pub(super) fn shape(what: impl Into<String>) -> Self {
        Self { node: None, what: what.into(), damage: None }
    }

    /// Names the node, unless it is named already.
    pub(super) fn at(mut self, op: &str, label: &str) -> Self {
        self.node.get_or_insert_with(|| format!("node `{}` ({op})", label.chars().take(80).collect::<String>()));
        self
    }
}

impl From<rin_model::Error> for OnnxError {
    fn from(error: rin_model::Error) -> Self {
        Self { node: None, what: String::new(), damage: Some(error) }
    }
}

impl From<OnnxError> for Error {
    fn from(error: OnnxError) -> Self {
        match error.damage {
            Some(damage) => damage.into(),
            None => ForeignError::unsupported(error.to_string()).into(),
        }
    }
}

impl fmt::Display for OnnxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}
