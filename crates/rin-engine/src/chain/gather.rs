//! Steps that all processes run at the same time, each over its own columns, and how columns become whole rows.
//!
//! Columns go round: of `n` processes each sends its own ones to the next, and hands on what comes, until all have all
//! (`n - 1` messages at a time; the ring of Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of
//! workstations", section 4). Nothing is added up, so no bit depends on how many there are.

use super::{Chain, LinkError};
use crate::Error;
use crate::arena::{cast, cast_mut};
use crate::plan::{Columns, Gather, SlotId, Step};
use crate::run::{BatchToken, Runner};
use std::ops::Range;

impl Chain {
    /// Runs the steps of the plan from `begin` on, as all others do with the same tokens.
    pub(super) fn run_together(
        &mut self,
        runner: &mut Runner,
        begin: usize,
        batch: &[BatchToken],
        mut watch: impl FnMut(&Runner, usize),
    ) -> Result<(), Error> {
        let (head, end) = (runner.plan.head, runner.plan.steps.len());
        let wanted = batch.iter().filter(|token| token.logits).count();
        let last = if wanted == 0 { head } else { end };
        for step in begin..last {
            let rows = if step < head { batch.len() } else { wanted };
            match runner.plan.steps[step] {
                Step::Gather(gather) => {
                    self.gather(runner, &gather, rows)?;
                    watch(runner, step);
                }
                _ => runner.run_steps(step..step + 1, batch, rows, &mut watch)?,
            }
        }
        Ok(())
    }

    fn gather(&mut self, runner: &mut Runner, of: &Gather, rows: usize) -> Result<(), Error> {
        let (me, n) = (self.stage.index, self.stage.count);
        let [mut sent, mut taken] = of.buffers;
        let columns = |rank: usize| of.width.of(rank);
        let whole = Columns::all(of.out, of.width.all);
        if of.to_first && me > 0 {
            // Its own ones, and then those that come from behind.
            pack(runner, of.x, columns(me).len(), sent, rows)?;
            self.send_columns(runner, sent, columns(me).len() * rows)?;
            for rank in (1..me).rev() {
                self.receive_columns(runner, taken, columns(rank).len() * rows)?;
                self.send_columns(runner, taken, columns(rank).len() * rows)?;
            }
            return Ok(());
        }
        if of.x.slot != of.out {
            copy_own(runner, of, columns(me), rows)?;
        }
        if of.to_first {
            for rank in (1..n).rev() {
                self.receive_columns(runner, taken, columns(rank).len() * rows)?;
                unpack(runner, taken, whole, columns(rank), rows)?;
            }
            return Ok(());
        }
        pack(runner, of.x, columns(me).len(), sent, rows)?;
        for turn in 0..n.saturating_sub(1) {
            let (going, coming) = (columns((me + n - turn) % n), columns((me + n - turn - 1) % n));
            self.exchange_columns(runner, (sent, going.len() * rows), (taken, coming.len() * rows))?;
            unpack(runner, taken, whole, coming, rows)?;
            (sent, taken) = (taken, sent);
        }
        Ok(())
    }

    fn send_columns(&mut self, runner: &Runner, slot: SlotId, values: usize) -> Result<(), Error> {
        self.check_whole()?;
        let bytes = runner.arena.bytes().get(runner.range(slot, values * 4)).unwrap_or_default();
        let sent = self.link.send(bytes);
        sent.map_err(|reason| self.fails(reason))
    }

    fn receive_columns(&mut self, runner: &mut Runner, slot: SlotId, values: usize) -> Result<(), Error> {
        self.check_whole()?;
        let range = runner.range(slot, values * 4);
        let bytes = runner.arena.bytes_mut().get_mut(range).unwrap_or_default();
        let came = self.link.receive(bytes);
        self.check_columns(came, values)
    }

    fn exchange_columns(
        &mut self,
        runner: &mut Runner,
        (sent, going): (SlotId, usize),
        (taken, coming): (SlotId, usize),
    ) -> Result<(), Error> {
        self.check_whole()?;
        let ranges = [runner.range(sent, going * 4), runner.range(taken, coming * 4)];
        let [sent, taken] = runner.arena.slices_mut(ranges)?;
        let came = self.link.exchange(sent, taken);
        self.check_columns(came, coming)
    }

    fn check_columns(&mut self, came: Result<usize, LinkError>, values: usize) -> Result<(), Error> {
        match came {
            Ok(len) if len == values * 4 => Ok(()),
            Ok(_) => Err(self.disagree("the columns of a row")),
            Err(reason) => Err(self.fails(reason)),
        }
    }
}

/// Copies columns of `rows` rows to the beginning of a slot, one row behind the other.
fn pack(runner: &mut Runner, x: Columns, cols: usize, to: SlotId, rows: usize) -> Result<(), Error> {
    let ranges = [runner.range(x.slot, rows * x.stride * 4), runner.range(to, rows * cols * 4)];
    let [x_values, to] = runner.arena.slices_mut(ranges)?;
    let from = cast::<f32>(x_values)?.chunks_exact(x.stride.max(1));
    for (from, to) in from.zip(cast_mut::<f32>(to)?.chunks_exact_mut(cols.max(1))) {
        to.copy_from_slice(&from[x.first..x.first + cols]);
    }
    Ok(())
}

/// Copies rows that lie one behind the other to the columns `at` of whole rows.
fn unpack(runner: &mut Runner, from: SlotId, whole: Columns, at: Range<usize>, rows: usize) -> Result<(), Error> {
    let ranges = [runner.range(from, rows * at.len() * 4), runner.range(whole.slot, rows * whole.stride * 4)];
    let [from, to] = runner.arena.slices_mut(ranges)?;
    let to = cast_mut::<f32>(to)?.chunks_exact_mut(whole.stride.max(1));
    for (from, to) in cast::<f32>(from)?.chunks_exact(at.len().max(1)).zip(to) {
        to[at.clone()].copy_from_slice(from);
    }
    Ok(())
}

/// Copies the columns of this process to where they are in whole rows.
fn copy_own(runner: &mut Runner, of: &Gather, at: Range<usize>, rows: usize) -> Result<(), Error> {
    let Gather { x, width, out, .. } = *of;
    let ranges = [runner.range(x.slot, rows * x.stride * 4), runner.range(out, rows * width.all * 4)];
    let [from, to] = runner.arena.slices_mut(ranges)?;
    let to = cast_mut::<f32>(to)?.chunks_exact_mut(width.all.max(1));
    for (from, to) in cast::<f32>(from)?.chunks_exact(x.stride.max(1)).zip(to) {
        to[at.clone()].copy_from_slice(&from[x.first..x.first + at.len()]);
    }
    Ok(())
}
