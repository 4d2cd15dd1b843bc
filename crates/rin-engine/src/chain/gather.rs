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
        let (own, whole) = (columns(me), Columns::all(of.out, of.width.all));
        if of.to_first && me > 0 {
            // Its own ones, and then those that come from behind.
            copy(runner, of.x, Columns::all(sent, own.len()), own.len(), rows)?;
            self.send_columns(runner, sent, own.len() * rows)?;
            for rank in (1..me).rev() {
                self.receive_columns(runner, taken, columns(rank).len() * rows)?;
                self.send_columns(runner, taken, columns(rank).len() * rows)?;
            }
            return Ok(());
        }
        if of.x.slot != of.out {
            copy(runner, of.x, whole.from(own.start), own.len(), rows)?;
        }
        if of.to_first {
            for rank in (1..n).rev() {
                let coming = columns(rank);
                self.receive_columns(runner, taken, coming.len() * rows)?;
                copy(runner, Columns::all(taken, coming.len()), whole.from(coming.start), coming.len(), rows)?;
            }
            return Ok(());
        }
        copy(runner, of.x, Columns::all(sent, own.len()), own.len(), rows)?;
        for turn in 0..n.saturating_sub(1) {
            let (going, coming) = (columns((me + n - turn) % n), columns((me + n - turn - 1) % n));
            self.exchange_columns(runner, (sent, going.len() * rows), (taken, coming.len() * rows))?;
            copy(runner, Columns::all(taken, coming.len()), whole.from(coming.start), coming.len(), rows)?;
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

/// Copies `cols` columns of `rows` rows to other ones.
fn copy(runner: &mut Runner, from: Columns, to: Columns, cols: usize, rows: usize) -> Result<(), Error> {
    let ranges = [from, to].map(|columns| runner.range(columns.slot, rows * columns.stride * 4));
    let [x, y] = runner.arena.slices_mut(ranges)?;
    let x = cast::<f32>(x)?.chunks_exact(from.stride.max(1));
    for (x, y) in x.zip(cast_mut::<f32>(y)?.chunks_exact_mut(to.stride.max(1))) {
        y[to.first..][..cols].copy_from_slice(&x[from.first..][..cols]);
    }
    Ok(())
}
