//! The bytes that stages tell each other.
//!
//! Four little-endian words: what is to be done, and up to three numbers. What follows depends on the first.

use super::ChainError;
use crate::Error;
use crate::plan::PlanOptions;
use crate::run::BatchToken;
use crate::topology::Policy;
use rin_kernels::ops::attention::PAGE;

/// Bytes of the four words.
pub(super) const START: usize = 16;

/// Bytes per token of a step: id, position, and sequence with the mark of those whose logits are wanted.
const TOKEN: usize = 12;

/// Set in the sequence's word of a token whose logits are wanted. Plans hold fewer than 2^20 sequences.
const WANTED: u32 = 1 << 31;

/// Longest path of a saved sequence.
const MAX_PATH: usize = 4096;

/// Where threads are pinned, in the order in which messages count them.
pub(super) const POLICIES: [Policy; 3] = [Policy::Compact, Policy::Scatter, Policy::None];

/// What a message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The end.
    Stop,
    /// `n` tokens, then their rows.
    Step,
    /// `n` rows, for the first stage.
    Result,
    /// All stages have done what was asked: for the first stage.
    Done,
    /// A sequence in a row, up to a limit, that holds so many tokens at once; then its prompt.
    Admit,
    /// A row is given back.
    Release,
    /// A row goes back to its first tokens.
    Truncate,
    /// A row is copied to another one.
    Fork,
    /// Pages that nobody uses are forgotten.
    Forget,
    /// So many threads compute.
    Active,
    /// Tier, threads, places of threads.
    Reconfigure,
    /// A row is saved; then its tokens and the path.
    Save,
    /// A row is read; then its tokens and the path.
    Restore,
    /// What was saved for other tokens is removed; then tokens and path.
    Settle,
    /// A number for whoever follows.
    Note,
}

impl Order {
    const ALL: [Self; 15] = [
        Self::Stop,
        Self::Step,
        Self::Result,
        Self::Done,
        Self::Admit,
        Self::Release,
        Self::Truncate,
        Self::Fork,
        Self::Forget,
        Self::Active,
        Self::Reconfigure,
        Self::Save,
        Self::Restore,
        Self::Settle,
        Self::Note,
    ];

    fn word(self) -> u32 {
        Self::ALL.iter().position(|order| *order == self).and_then(|i| u32::try_from(i).ok()).unwrap_or(0)
    }
}

/// Ids that can decide which pages a prompt shares: those of a context's pages, and one behind them.
pub(super) fn most_ids(options: &PlanOptions) -> usize {
    options.ctx.div_ceil(PAGE).saturating_mul(PAGE).saturating_add(1)
}

/// Bytes of the longest message; none: more than there can be.
pub(crate) fn message_bytes(options: &PlanOptions, dim: usize) -> Option<usize> {
    let rows = options.n_batch.max(options.n_logits).checked_mul(dim.checked_mul(4)?.checked_add(TOKEN)?)?;
    let text = most_ids(options).checked_mul(4)?.checked_add(MAX_PATH)?;
    rows.max(text).checked_add(START)
}

/// A message that is read.
#[derive(Debug)]
pub(super) struct Words<'a> {
    pub(super) order: Order,
    pub(super) numbers: [u32; 3],
    pub(super) tail: &'a [u8],
}

impl<'a> Words<'a> {
    /// Writes a message into `slot`; returns its length.
    pub(super) fn write(slot: &mut [u8], order: Order, numbers: &[usize], tail: &[u8]) -> Result<usize, ChainError> {
        let (needed, planned) = (START + tail.len(), slot.len());
        let Some((start, after)) = slot.get_mut(..needed).and_then(|slot| slot.split_at_mut_checked(START)) else {
            return Err(ChainError::TooLong { needed, planned });
        };
        let numbers = numbers.iter().map(|&n| u32::try_from(n).unwrap_or(u32::MAX)).chain([0; 3]);
        for (to, word) in start.chunks_exact_mut(4).zip([order.word()].into_iter().chain(numbers)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        after.copy_from_slice(tail);
        Ok(needed)
    }

    /// A message; none where it is cut short or asks for what nobody knows.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let (start, tail) = message.split_at_checked(START)?;
        let mut words = words_of(start);
        let order = *Order::ALL.get(words.next()? as usize)?;
        Some(Self { order, numbers: [words.next()?, words.next()?, words.next()?], tail })
    }

    /// The first `n` words of what follows, and the rest.
    pub(super) fn ids(&self, n: usize) -> Option<(impl Iterator<Item = u32> + 'a, &'a [u8])> {
        let (ids, rest) = self.tail.split_at_checked(n.checked_mul(4)?)?;
        Some((words_of(ids), rest))
    }

    /// Lays out the tokens of a step; returns the bytes of their rows.
    pub(super) fn tokens(&self, batch: &mut Vec<BatchToken>) -> Option<&'a [u8]> {
        let n = self.numbers[0] as usize;
        let (tokens, rows) = self.tail.split_at_checked(n.checked_mul(TOKEN)?)?;
        batch.clear();
        if n > batch.capacity() {
            return None;
        }
        for token in tokens.chunks_exact(TOKEN) {
            let mut words = words_of(token);
            let (id, position, sequence) = (words.next()?, words.next()?, words.next()?);
            batch.push(BatchToken { id, position, sequence: sequence & !WANTED, logits: sequence & WANTED != 0 });
        }
        Some(rows)
    }
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| word.iter().rev().fold(0, |n, &byte| n << 8 | u32::from(byte)))
}

/// Writes a step into `slot`; returns its length.
pub(super) fn write_step(slot: &mut [u8], batch: &[BatchToken], rows: &[u8]) -> Result<usize, Error> {
    let tokens = batch.len() * TOKEN;
    let (needed, planned) = (START + tokens + rows.len(), slot.len());
    if needed > planned {
        return Err(ChainError::TooLong { needed, planned }.into());
    }
    Words::write(slot, Order::Step, &[batch.len()], &[])?;
    let (list, after) = slot[START..needed].split_at_mut(tokens);
    for (to, token) in list.chunks_exact_mut(TOKEN).zip(batch) {
        let sequence = token.sequence | if token.logits { WANTED } else { 0 };
        for (to, word) in to.chunks_exact_mut(4).zip([token.id, token.position, sequence]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    after.copy_from_slice(rows);
    Ok(needed)
}

/// Writes rows for the first stage into `slot`; returns the length of the message.
pub(super) fn write_result(slot: &mut [u8], n: usize, rows: &[u8]) -> Result<usize, Error> {
    Ok(Words::write(slot, Order::Result, &[n], rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut slot = [0xaa_u8; 80];
        let batch = [(7, 3, 2, true), (u32::MAX, (1 << 31) - 1, (1 << 20) - 1, false)];
        let batch = batch.map(|(id, position, sequence, logits)| BatchToken { id, position, sequence, logits });
        let rows: Vec<u8> = (0..16).collect();
        let len = write_step(&mut slot, &batch, &rows).unwrap();
        let words = Words::read(&slot[..len]).unwrap();
        let mut read = Vec::with_capacity(2);
        assert_eq!((words.order, words.tokens(&mut read)), (Order::Step, Some(&rows[..])));
        assert_eq!(read, batch);
        for order in Order::ALL {
            let len = Words::write(&mut slot, order, &[1, 2, 3], &[9; 9]).unwrap();
            let words = Words::read(&slot[..len]).unwrap();
            assert_eq!((words.order, words.numbers, words.tail), (order, [1, 2, 3], &[9; 9][..]));
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        let mut slot = [0_u8; 40];
        assert!(Words::write(&mut slot, Order::Save, &[], &[0; 25]).is_err());
        assert!(write_step(&mut slot, &[BatchToken::default(); 2], &[0; 1]).is_err());
        assert!(Words::read(&slot[..15]).is_none());
        slot[0] = 200;
        assert!(Words::read(&slot).is_none(), "an order that nobody knows");
        Words::write(&mut slot, Order::Step, &[2], &[]).unwrap();
        let words = Words::read(&slot[..20]).unwrap();
        assert!(words.tokens(&mut Vec::with_capacity(4)).is_none() && words.ids(2).is_none());
        let words = Words::read(&slot).unwrap();
        assert!(words.tokens(&mut Vec::with_capacity(1)).is_none(), "more tokens than were planned for");
    }
}
