//! The stages behind the first: they do over their layers what the first one tells.

use super::Chain;
use super::message::{self, Order, POLICIES};
use crate::Error;
use crate::engine::Engine;
use crate::feed::Sequence;
use crate::plan::Cut;
use crate::run::BatchToken;
use rin_kernels::Tier;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

impl Engine {
    /// Does what the first stage says until it ends. Tokens and rows allocate nothing.
    ///
    /// # Errors
    ///
    /// [`ChainError`](super::ChainError) where the other stages are gone or disagree; whatever goes wrong in a step. The chain cannot go on
    /// then, and this stage is to end with the failure.
    pub fn follow(&mut self) -> Result<(), Error> {
        self.follow_and_hear(|_| Ok(()))
    }

    /// As [`follow`](Self::follow); `hear` gets the numbers that the first stage has [noted](Self::note), each when all that
    /// came before it is done.
    ///
    /// # Errors
    ///
    /// As for [`follow`](Self::follow); what `hear` gives.
    pub fn follow_and_hear(&mut self, mut hear: impl FnMut(u32) -> Result<(), Error>) -> Result<(), Error> {
        let Some(mut chain) = self.chain.take() else {
            let expected = "one that has joined a chain".to_owned();
            return Err(Error::BadOption { field: "the engine", expected, found: "another".to_owned() });
        };
        let mut batch = std::mem::take(&mut self.batch);
        let mut ids = Vec::with_capacity(message::most_ids(&self.runner.plan.options).max(batch.capacity()));
        let outcome = loop {
            match self.follow_one(&mut chain, &mut batch, &mut ids, &mut hear) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.batch = batch;
        outcome
    }

    /// Does one thing; returns whether more is to come.
    fn follow_one(
        &mut self,
        chain: &mut Chain,
        batch: &mut Vec<BatchToken>,
        ids: &mut Vec<u32>,
        hear: &mut impl FnMut(u32) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let len = chain.receive(&mut self.runner)?;
        let words = chain.words(&self.runner, len)?;
        let (order, noted, [a, b, c]) = (words.order, words.numbers[0], words.numbers.map(|n| n as usize));
        if order == Order::Step {
            self.follow_step(chain, len, batch, ids)?;
            return Ok(true);
        }
        ids.clear();
        let waits = matches!(order, Order::Save | Order::Restore | Order::Settle);
        let mut path = PathBuf::new();
        if order == Order::Admit {
            let (prompt, _) = words.ids(words.tail.len() / 4).ok_or_else(|| chain.disagree("a prompt"))?;
            ids.extend(prompt);
        } else if waits {
            let (tokens, rest) = words.ids(b).ok_or_else(|| chain.disagree("a saved text"))?;
            ids.extend(tokens);
            let text = std::str::from_utf8(rest).map_err(|_| chain.disagree("the name of a file: it is no UTF-8"))?;
            path = beside(Path::new(OsStr::new(text)), chain.stage.index, chain.stage.count, ids);
        } else {
            // All stages do it at the same time.
            if !chain.stage.is_last() {
                chain.send(&self.runner, len)?;
            }
        }
        if order == Order::Admit && !chain.stage.is_last() {
            chain.send(&self.runner, len)?;
        }
        let sequence = Sequence { row: a };
        match order {
            Order::Stop => {
                if chain.stage.is_last() {
                    chain.order(&mut self.runner, Order::Done, &[], &[])?;
                }
                return Ok(false);
            }
            Order::Admit => {
                let row = self.runner.admit(ids, b)?;
                if row != a || self.runner.cache.position(row) != c {
                    return Err(chain.disagree("what the cache holds"));
                }
            }
            Order::Release => self.runner.cache.release(a),
            Order::Truncate => self.runner.truncate(a, b)?,
            Order::Fork => {
                if self.runner.fork(a)? != b {
                    return Err(chain.disagree("what the cache holds"));
                }
            }
            Order::Note => hear(noted)?,
            Order::Forget => self.runner.cache.clear(),
            Order::Active => self.runner.pool.set_active(a.min(self.runner.pool.threads())),
            Order::Reconfigure => {
                let (Some(tier), Some(policy)) = (Tier::ALL.get(a), POLICIES.get(c)) else {
                    return Err(chain.disagree("instruction tiers"));
                };
                // What a process may use is its own matter.
                let tier = self.ceiling.map_or(*tier, |ceiling| ceiling.min(*tier));
                self.reconfigure_own(tier, b, *policy)?;
            }
            Order::Save => self.save_own(&sequence, ids, &path)?,
            Order::Restore => {
                let restored = self.restore_own(&path)?;
                if restored.sequence != sequence || self.position(&restored.sequence) != b {
                    return Err(chain.disagree("a saved text"));
                }
            }
            Order::Settle => remove_others(&path),
            Order::Step | Order::Result | Order::Done => return Err(chain.disagree("who leads")),
        }
        if waits {
            if chain.stage.is_last() {
                chain.order(&mut self.runner, Order::Done, &[], &[])?;
            } else {
                chain.send(&self.runner, len)?;
            }
        }
        Ok(true)
    }

    /// Takes tokens with their rows, runs the layers, and hands them on.
    fn follow_step(
        &mut self,
        chain: &mut Chain,
        len: usize,
        batch: &mut Vec<BatchToken>,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let dim = self.runner.plan.config.dim;
        let together = chain.stage.cut == Cut::Rows;
        if together && !chain.stage.is_last() {
            // All work on it at the same time.
            chain.send(&self.runner, len)?;
        }
        let words = chain.words(&self.runner, len)?;
        let bytes = words.tokens(batch).ok_or_else(|| chain.disagree("the length of a step"))?.len();
        if bytes != batch.len() * dim * 4 {
            return Err(chain.disagree("the width of the network"));
        }
        let ranges = [self.runner.range(chain.ports.message, len), self.runner.range(chain.ports.entry, bytes)];
        let [slot, rows] = self.runner.arena.slices_mut(ranges)?;
        rows.copy_from_slice(&slot[len - bytes..]);

        for of_one in batch.chunk_by(|a, b| a.sequence == b.sequence) {
            let (row, first) = (of_one[0].sequence as usize, of_one[0].position as usize);
            if row >= self.runner.plan.options.n_sequences || self.runner.cache.position(row) != first {
                return Err(chain.disagree("the position of a sequence"));
            }
            ids.clear();
            ids.extend(of_one.iter().map(|token| token.id));
            self.runner.take_pages(row, ids)?;
        }
        if together {
            chain.run_together(&mut self.runner, 0, batch, |_, _| {})?;
        } else {
            self.runner.run_all(batch, |_, _| {})?;
        }
        for of_one in batch.chunk_by(|a, b| a.sequence == b.sequence) {
            self.runner.commit(of_one[0].sequence as usize, of_one.len())?;
        }
        if together {
            return Ok(());
        }
        if !chain.stage.is_last() {
            return chain.send_step(&mut self.runner, batch);
        }
        let wanted = batch.iter().filter(|token| token.logits).count();
        if wanted == 0 {
            return Ok(());
        }
        let exit = self.runner.range(chain.ports.exit, wanted * dim * 4);
        let ranges = [self.runner.range(chain.ports.message, usize::MAX), exit];
        let [slot, rows] = self.runner.arena.slices_mut(ranges)?;
        let len = message::write_result(slot, wanted, rows)?;
        chain.send(&self.runner, len)
    }
}

/// Where a stage saves its pages of a text: beside the file of the first one, under a name that says of which tokens they
/// are. So files of different texts are never mixed up, whenever a job dies.
fn beside(path: &Path, stage: usize, count: usize, tokens: &[u32]) -> PathBuf {
    let mut hash = Sha256::new();
    for id in tokens {
        hash.update(id.to_le_bytes());
    }
    let hash = rin_model::rin_format::hex(&hash.finalize());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".stage-{stage}-of-{count}.{}", &hash[..16]));
    name.into()
}

/// Removes what this stage saved for other tokens.
fn remove_others(path: &Path) {
    let (Some(name), Some(stem)) = (path.file_name().and_then(OsStr::to_str), path.file_stem()) else { return };
    let Some(prefix) = stem.to_str().map(|stem| format!("{stem}.")) else { return };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let other = entry.file_name();
        if other.to_str().is_some_and(|other| other.starts_with(&prefix) && other != name) {
            // One that stays only takes room.
            fs::remove_file(entry.path()).ok();
        }
    }
}
