//! One network over several processes: each has a [`Stage`] of it, and rows go round from one to the next.
//!
//! What follows is of stages by layers; where each process has rows of all matrices instead, all work on one step at the
//! same time, and gather what each has made ([`gather`]).
//!
//! The first stage leads: whoever holds its [`Engine`] uses it as any other. Everything that changes a sequence is told to
//! the others, who do the same over their layers, and so have the same pages of the cache; tokens travel with their rows of
//! the residual, in full f32. The arithmetic is untouched, and with it the bits. What carries the messages is a [`Link`]:
//! memory ([`in_process`]), or MPI in `rin-cluster`.
//!
//! A step of many tokens travels in several messages, so that the stages work at the same time on different tokens. No
//! stage waits for one that waits for it: from the oldest message whose rows have not come back on, at most as many are under
//! way as there are other stages, and each can hold one.

mod channel;
mod follow;
mod gather;
mod message;

pub use channel::in_process;
pub(crate) use message::message_bytes;

use crate::Error;
use crate::engine::Engine;
use crate::plan::{Cut, Ports, Stage};
use crate::run::{BatchToken, Runner};
use crate::topology::Policy;
pub(crate) use message::Order;
use message::Words;
use rin_kernels::Tier;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// What went wrong in another process, as that process tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its number.
    pub rank: usize,
    /// The machine that it runs on.
    pub host: String,
    /// The exit code that it would have by itself.
    pub code: u8,
    /// The name of the class of the failure.
    pub kind: String,
    /// What went wrong, in words.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} on {}: {}", self.rank, self.host, self.message)
    }
}

/// Why a link carries nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The other end is gone, in words.
    Lost(String),
    /// Another process has told what went wrong there.
    Failed(Failure),
}

/// Failures between stages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The way to another stage is gone.
    #[error("stage {stage} has lost the stages beside it: {reason}; start all of them again")]
    Lost {
        /// Which stage says so.
        stage: usize,
        /// What the link said.
        reason: String,
    },
    /// Another stage has told what went wrong there.
    #[error("{0}")]
    Failed(Failure),
    /// Two models at a time.
    #[error("over several ranks one model runs at a time; give the second one a process of its own")]
    OneAtATime,
    /// Two stages are not of one mind about what there is.
    #[error(
        "stage {stage} disagrees with the first one about {what}; start all with the same model, options and version"
    )]
    Disagree {
        /// Which stage says so.
        stage: usize,
        /// What differs.
        what: &'static str,
    },
    /// A message that is longer than was planned for.
    #[error("a message of {needed} bytes between stages is longer than the {planned} that were planned for")]
    TooLong {
        /// Its length.
        needed: usize,
        /// Room for it.
        planned: usize,
    },
}

/// What carries bytes from each stage to the next, and from the last to the first: in order, whole, unchanged.
pub trait Link: fmt::Debug + Send {
    /// Sends a message to the next stage. The bytes may be reused when it returns.
    ///
    /// # Errors
    ///
    /// Where the other stage is gone.
    fn send(&mut self, message: &[u8]) -> Result<(), LinkError>;

    /// Waits for a message of the stage before; returns its length. The bytes behind it are left as they are.
    ///
    /// # Errors
    ///
    /// Where the other stage is gone, any stage has failed, or the message is longer than `message`.
    fn receive(&mut self, message: &mut [u8]) -> Result<usize, LinkError>;

    /// Sends a message to the next stage while it receives one of the stage before, as all stages do at the same time; returns
    /// the length of what came.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send) and [`receive`](Self::receive).
    fn exchange(&mut self, going: &[u8], coming: &mut [u8]) -> Result<usize, LinkError>;
}

/// Fewest tokens in a message where a step is cut: below that the weights are read more often than the work overlaps.
const LEAST_TOKENS: usize = 32;

/// Most messages of a step, per stage.
const MESSAGES_PER_STAGE: usize = 4;

/// How many messages a step of so many tokens goes round in, over so many stages.
pub fn messages_of(tokens: usize, stages: usize) -> usize {
    (tokens / LEAST_TOKENS).clamp(1, MESSAGES_PER_STAGE * stages)
}

/// The end of the chain that a process holds.
#[derive(Debug)]
pub(crate) struct Chain {
    link: Box<dyn Link>,
    stage: Stage,
    ports: Ports,
    /// What went wrong where there was nobody to tell.
    failure: Option<LinkError>,
}

impl Chain {
    fn lost(&self, error: LinkError) -> Error {
        match error {
            LinkError::Lost(reason) => ChainError::Lost { stage: self.stage.index, reason },
            LinkError::Failed(failure) => ChainError::Failed(failure),
        }
        .into()
    }

    fn disagree(&self, what: &'static str) -> Error {
        ChainError::Disagree { stage: self.stage.index, what }.into()
    }

    /// Refuses to go on where it has failed before.
    fn check_whole(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), |reason| Err(self.lost(reason)))
    }

    /// Remembers what the link said, for whoever goes on.
    fn fails(&mut self, reason: LinkError) -> Error {
        self.failure = Some(reason.clone());
        self.lost(reason)
    }

    /// Sends the first `len` bytes of the message slot.
    fn send(&mut self, runner: &Runner, len: usize) -> Result<(), Error> {
        self.check_whole()?;
        let slot = &runner.plan.slots[self.ports.message.0];
        let (start, planned) = (slot.offset, slot.bytes);
        if len > planned {
            return Err(ChainError::TooLong { needed: len, planned }.into());
        }
        let bytes = runner.arena.bytes().get(start..start + len).unwrap_or_default();
        let sent = self.link.send(bytes);
        sent.map_err(|reason| self.fails(reason))
    }

    /// Fills the message slot; returns the length of what came.
    fn receive(&mut self, runner: &mut Runner) -> Result<usize, Error> {
        let range = runner.range(self.ports.message, usize::MAX);
        let bytes = runner.arena.bytes_mut().get_mut(range).unwrap_or_default();
        let came = self.link.receive(bytes);
        came.map_err(|reason| self.fails(reason))
    }

    /// Writes words and then bytes into the message slot, and sends them.
    fn order(&mut self, runner: &mut Runner, order: Order, words: &[usize], tail: &[u8]) -> Result<(), Error> {
        let range = runner.range(self.ports.message, usize::MAX);
        let slot = runner.arena.bytes_mut().get_mut(range).unwrap_or_default();
        let len = Words::write(slot, order, words, tail)?;
        self.send(runner, len)
    }

    /// As [`order`](Self::order), and waits until the last stage has done it.
    fn order_and_wait(&mut self, runner: &mut Runner, order: Order, words: &[usize], tail: &[u8]) -> Result<(), Error> {
        self.order(runner, order, words, tail)?;
        let len = self.receive(runner)?;
        match self.words(runner, len)?.order {
            Order::Done => Ok(()),
            _ => Err(self.disagree("what was asked for")),
        }
    }

    /// The words of the message that lies in the slot.
    fn words<'a>(&self, runner: &'a Runner, len: usize) -> Result<Words<'a>, Error> {
        let range = runner.range(self.ports.message, len);
        let bytes = runner.arena.bytes().get(range).unwrap_or_default();
        Words::read(bytes).ok_or_else(|| self.disagree("what a message says"))
    }

    /// Puts tokens and their rows of the residual into the message slot, and sends them.
    fn send_step(&mut self, runner: &mut Runner, batch: &[BatchToken]) -> Result<(), Error> {
        let dim = runner.plan.config.dim;
        let ranges = [
            runner.range(self.ports.message, usize::MAX),
            runner.range(self.ports.exit, batch.len().saturating_mul(dim).saturating_mul(4)),
        ];
        let [slot, rows] = runner.arena.slices_mut(ranges)?;
        let len = message::write_step(slot, batch, rows)?;
        self.send(runner, len)
    }

    /// Takes rows that came back, `(n, dim)`, behind the `got` that are there; returns `n`.
    fn take_result(&mut self, runner: &mut Runner, got: usize) -> Result<usize, Error> {
        let len = self.receive(runner)?;
        let n = match self.words(runner, len)? {
            Words { order: Order::Result, numbers: [n, ..], .. } => n as usize,
            _ => return Err(self.disagree("what comes back")),
        };
        let dim = runner.plan.config.dim;
        let most = runner.plan.options.n_logits;
        if got + n > most || len != message::START + n * dim * 4 {
            return Err(self.disagree("how many rows come back"));
        }
        let ranges = [runner.range(self.ports.message, len), runner.range(self.ports.entry, (got + n) * dim * 4)];
        let [slot, rows] = runner.arena.slices_mut(ranges)?;
        rows[got * dim * 4..].copy_from_slice(&slot[message::START..]);
        Ok(n)
    }

    /// Runs a step over all stages; the logits lie in the plan's slot afterwards.
    pub(crate) fn lead(
        &mut self,
        runner: &mut Runner,
        batch: &[BatchToken],
        mut watch: impl FnMut(&Runner, usize),
    ) -> Result<(), Error> {
        match self.stage.cut {
            Cut::Layers => self.lead_layers(runner, batch, watch),
            Cut::Rows => {
                let begin = self.ports.after;
                runner.run_steps(0..begin, batch, batch.len(), &mut watch)?;
                self.send_step(runner, batch)?;
                self.run_together(runner, begin, batch, watch)
            }
        }
    }

    fn lead_layers(
        &mut self,
        runner: &mut Runner,
        batch: &[BatchToken],
        mut watch: impl FnMut(&Runner, usize),
    ) -> Result<(), Error> {
        let (head, end) = (runner.plan.head, runner.plan.steps.len());
        let wanted = batch.iter().filter(|token| token.logits).count();
        let cut = batch.len().div_ceil(messages_of(batch.len(), self.stage.count)).max(1);
        let mut got = 0;
        let messages = || batch.chunks(cut).enumerate();
        // The messages whose rows are still to come back, in order.
        let mut awaited = messages().filter(|(_, tokens)| tokens.iter().any(|token| token.logits)).peekable();
        for (i, tokens) in messages() {
            runner.run_steps(0..head, tokens, tokens.len(), &mut watch)?;
            // Behind rows that nobody takes, each of the other stages can hold one message.
            while awaited.next_if(|(oldest, _)| oldest + self.stage.count <= i + 1).is_some() {
                got += self.take_result(runner, got)?;
            }
            self.send_step(runner, tokens)?;
        }
        for _ in awaited {
            got += self.take_result(runner, got)?;
        }
        if got != wanted {
            return Err(self.disagree("how many rows come back"));
        }
        if wanted == 0 {
            return Ok(());
        }
        runner.run_steps(head..end, batch, wanted, &mut watch)
    }

    /// Ends the chain, and waits until all have heard of it: nothing of it is under way then.
    fn stop(&mut self, runner: &mut Runner) -> Result<(), Error> {
        self.order(runner, Order::Stop, &[], &[])?;
        loop {
            let len = self.receive(runner)?;
            if self.words(runner, len)?.order == Order::Done {
                return Ok(());
            }
            // Rows of a step that was given up.
        }
    }

    /// Tells the others, where nobody can be told of a failure: the next step is.
    fn tell(&mut self, runner: &mut Runner, order: Order, words: &[usize]) {
        if let Err(error) = self.order(runner, order, words, &[]) {
            self.failure.get_or_insert(LinkError::Lost(error.to_string()));
        }
    }
}

/// What the first stage tells the others.
impl Engine {
    /// Makes this engine the stage of a chain that it was loaded as. The first stage leads from now on; the others are to
    /// [`follow`](Self::follow).
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] where it was loaded as a whole network.
    pub fn join(&mut self, link: Box<dyn Link>) -> Result<(), Error> {
        let plan = self.plan();
        let (Some(stage), Some(ports)) = (plan.options.stage, plan.ports) else {
            let expected = "a stage of a network".to_owned();
            return Err(Error::BadOption { field: "the engine", expected, found: "a whole one".to_owned() });
        };
        self.chain = Some(Chain { link, stage, ports, failure: None });
        Ok(())
    }

    /// Has each of the other stages hear `n` when it comes to this place in the order of what it does; see
    /// [`follow_and_hear`](Self::follow_and_hear). Without other stages it does nothing.
    ///
    /// # Errors
    ///
    /// [`ChainError::Lost`] where they are gone.
    pub fn note(&mut self, n: u32) -> Result<(), Error> {
        match &mut self.chain {
            Some(chain) => chain.order(&mut self.runner, Order::Note, &[n as usize], &[]),
            None => Ok(()),
        }
    }

    /// Holds whether a stage that does not lead, or has not joined, is used as if it were whole.
    pub(crate) fn check_leads(&self) -> Result<(), Error> {
        match (self.plan().options.stage.filter(|stage| stage.count > 1), &self.chain) {
            (Some(stage), None) => Err(ChainError::Disagree { stage: stage.index, what: "who is in the chain" }.into()),
            (Some(stage), _) if !stage.is_first() => {
                Err(ChainError::Disagree { stage: stage.index, what: "who leads" }.into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn tell_admitted(&mut self, prompt: &[u32], limit: usize, row: usize) -> Result<(), Error> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let runner = &mut self.runner;
        // What lies behind a context's pages decides nothing.
        let prompt = &prompt[..prompt.len().min(message::most_ids(&runner.plan.options))];
        let position = runner.cache.position(row);
        chain.order(runner, Order::Admit, &[row, limit, position], bytemuck::cast_slice(prompt))
    }

    pub(crate) fn tell_released(&mut self, row: usize) {
        if let Some(chain) = &mut self.chain {
            chain.tell(&mut self.runner, Order::Release, &[row]);
        }
    }

    pub(crate) fn tell_truncated(&mut self, row: usize, n: usize) -> Result<(), Error> {
        match &mut self.chain {
            Some(chain) => chain.order(&mut self.runner, Order::Truncate, &[row, n], &[]),
            None => Ok(()),
        }
    }

    pub(crate) fn tell_forked(&mut self, row: usize, copy: usize) -> Result<(), Error> {
        match &mut self.chain {
            Some(chain) => chain.order(&mut self.runner, Order::Fork, &[row, copy], &[]),
            None => Ok(()),
        }
    }

    pub(crate) fn tell_forgotten(&mut self) {
        if let Some(chain) = &mut self.chain {
            chain.tell(&mut self.runner, Order::Forget, &[]);
        }
    }

    pub(crate) fn tell_active(&mut self, threads: usize) {
        if let Some(chain) = &mut self.chain {
            chain.tell(&mut self.runner, Order::Active, &[threads]);
        }
    }

    pub(crate) fn tell_reconfigured(&mut self, tier: Tier, threads: usize, affinity: Policy) -> Result<(), Error> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let place = Tier::ALL.iter().position(|t| *t == tier).unwrap_or(0);
        let policy = message::POLICIES.iter().position(|p| *p == affinity).unwrap_or(0);
        chain.order(&mut self.runner, Order::Reconfigure, &[place, threads, policy], &[])
    }

    /// The others save, read or keep their pages of a sequence whose tokens these are; waits until all have.
    pub(crate) fn tell_about_file(
        &mut self,
        order: Order,
        row: usize,
        tokens: &[u32],
        path: &Path,
    ) -> Result<(), Error> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let own = &tokens[..tokens.len().min(self.runner.cache.position(row))];
        let mut tail = bytemuck::cast_slice(own).to_vec();
        tail.extend_from_slice(path.as_os_str().as_encoded_bytes());
        chain.order_and_wait(&mut self.runner, order, &[row, own.len()], &tail)
    }
}

impl Drop for Engine {
    /// The other stages of a chain end with the first one.
    fn drop(&mut self) {
        if let Some(mut chain) = self.chain.take()
            && chain.stage.is_first()
        {
            // They have ended already where they cannot be reached.
            chain.stop(&mut self.runner).ok();
        }
    }
}
