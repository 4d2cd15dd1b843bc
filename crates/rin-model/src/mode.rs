//! What a network computes: one list for files, flags and reports.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Kind of a network, which decides what goes in and what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// Dense layers: rows of numbers to rows of numbers.
    Mlp,
    /// Spiking neurons over time steps.
    Snn,
    /// An attention encoder over a whole sequence.
    Attn,
    /// Integers from input to output.
    Rin,
    /// A decoder that continues text.
    Transformer,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 5] = [Self::Mlp, Self::Snn, Self::Attn, Self::Rin, Self::Transformer];

    /// The name on the command line, in files and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Snn => "snn",
            Self::Attn => "attn",
            Self::Rin => "rin",
            Self::Transformer => "transformer",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
