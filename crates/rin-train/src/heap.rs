//! Keeps freed memory with the process.
//!
//! A step allocates and frees some hundred blocks of megabytes. glibc gives such blocks back to the system, which then
//! has to clear them anew: a third of the time of a step of a small network. What it gives back depends on what the
//! program did before: once a block of up to 32 MiB was freed it serves blocks of that size from its heap, and of the
//! heap it only gives back what lies above the last live block. Elsewhere none of this has an effect.

use std::hint::black_box;

/// Just below the largest size that moves glibc's threshold, 32 MiB.
const BLOCK: usize = (32 << 20) - (64 << 10);
/// Address space below the last block, of which only what training uses becomes memory.
const BLOCKS: usize = 64;
/// Larger than any hole that is in the heap of a program that has just begun.
const PIN: usize = 4 << 20;

/// While this lives, the heap does not shrink.
#[derive(Debug)]
pub(crate) struct KeepHeap {
    _pin: Vec<u8>,
}

impl KeepHeap {
    /// Reserves address space; where that is refused, nothing is kept.
    pub(crate) fn new() -> Self {
        drop(reserve(BLOCK));
        let blocks: Vec<Vec<u8>> = (0..BLOCKS).map(|_| reserve(BLOCK)).collect();
        let pin = reserve(PIN);
        drop(black_box(blocks));
        Self { _pin: pin }
    }
}

/// Untouched memory; none where there is none.
fn reserve(bytes: usize) -> Vec<u8> {
    let mut block = Vec::new();
    // Training does without.
    block.try_reserve_exact(bytes).ok();
    black_box(block)
}
