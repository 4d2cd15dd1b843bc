//! What rank 0 and the others say to each other beside the steps of a network.

use rin_engine::chain::Failure;
use rin_engine::plan::Stage;
use serde::{Deserialize, Serialize};

/// Exit code of a job whose ranks do not belong together.
pub(crate) const USAGE: u8 = 2;

/// Who a rank is. The first thing that it says; its fields stay what they are in every version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Its number.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// Its number in the operating system.
    pub pid: u32,
    /// Version of RIN.
    pub version: String,
    /// How fast it is, in any unit that all ranks share; none: not said.
    pub speed: Option<f64>,
    /// What is wrong with its command line.
    pub failure: Option<Failure>,
}

/// A network that all ranks are to load, and how. What each decides for itself (threads, tier, limits) is not in it, but for
/// commands that try several of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadOrder {
    /// Which of the models on the command line.
    pub model: usize,
    /// [`fingerprint`](crate::fingerprint()) of rank 0's file.
    pub fingerprint: String,
    /// Who has which layers or rows.
    pub stages: Vec<Stage>,
    /// Positions per sequence.
    pub ctx: usize,
    /// Most tokens in a step.
    pub n_batch: usize,
    /// Sequences at once.
    pub n_sequences: usize,
    /// Most rows of logits in a step.
    pub n_logits: usize,
    /// Positions of the cache that sequences share.
    pub kv_positions: Option<usize>,
    /// Name of the type of keys and values.
    pub kv_type: String,
    /// The workers of rank 0, where they were asked for.
    pub threads: Option<usize>,
    /// The name of rank 0's highest tier, where it was asked for.
    pub tier: Option<String>,
}

/// What rank 0 wants of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Open and plan; then load, if all can.
    Load(LoadOrder),
    /// All can: go on.
    Proceed,
    /// One cannot: forget it.
    Withdraw,
    /// The end is near: say yes, and throw away what still comes round.
    End,
    /// Nobody waits for anybody any more: end with this exit code.
    Leave(u8),
}

/// What rank 0 hears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is planned.
    Planned {
        /// Bytes of the plan.
        bytes: u64,
        /// The memory that this rank may take.
        limit: Option<u64>,
    },
    /// It is loaded.
    Loaded {
        /// What the system did not grant.
        notes: Vec<String>,
    },
    /// It cannot be done.
    Failed(Failure),
    /// Understood.
    Yes,
}
