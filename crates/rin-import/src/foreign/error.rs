//! What can be wrong with a network in a foreign file.

/// Failures of reading a trained network from a PyTorch, safetensors or legacy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// Bytes that are not what the format says.
    #[error("{section} at byte {offset}: {reason}; the file is damaged or cut short: get it again")]
    Damaged {
        /// Part of the file.
        section: &'static str,
        /// Byte offset within it.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// A pickle that asks for code to be run, or holds more than numbers, names and tensors.
    #[error(
        "the pickle asks for `{what}`, and only data is read, never code run; save the weights alone: torch.save(model.state_dict(), FILE)"
    )]
    UnsupportedObject {
        /// The function or class.
        what: String,
    },
    /// A sound file that holds something else than what is imported.
    #[error("{what}")]
    Unsupported {
        /// What it holds, and what helps.
        what: String,
    },
    /// An ONNX model that needs more than RIN has: everything that is lacking, at once.
    #[error(
        "the model needs what RIN does not have: {}; docs/onnx.md lists what it has", lacking.join(", ")
    )]
    Operators {
        /// Operators, element types and the like.
        lacking: Vec<String>,
    },
    /// An ONNX model with sizes that are for the caller to choose.
    #[error(
        "sizes of the model's inputs are left open; choose them: rin import X.onnx -o X.rin {}", names.join(" ")
    )]
    Sizes {
        /// The flags that choose them.
        names: Vec<String>,
    },
    /// A description of the network that does not fit its weights, or none where one is needed.
    #[error("{what}; describe the network in a TOML file and give it with --network (see docs/network.md)")]
    Description {
        /// What is missing or wrong.
        what: String,
    },
}

impl ForeignError {
    pub(crate) fn damaged(section: &'static str, offset: usize, reason: impl Into<String>) -> Self {
        Self::Damaged { section, offset, reason: reason.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    pub(crate) fn description(what: impl Into<String>) -> Self {
        Self::Description { what: what.into() }
    }
}
