//! Asking memory for what is read soon.

use crate::cpu::NearCache;

/// How far ahead is asked, and for which cache.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    bytes: usize,
    cache: NearCache,
}

#[cfg(target_arch = "x86_64")]
impl Ahead {
    /// So many bytes ahead; 0 asks for nothing.
    #[inline(always)]
    pub(super) fn by(bytes: usize) -> Self {
        Self { bytes, cache: crate::cpu::prefetches_into() }
    }

    /// Asks for the line that lies so far behind the start of `at`, and `more` bytes further.
    #[inline(always)]
    pub(super) fn ask(self, at: &[u8], more: usize) {
        if self.bytes > 0 {
            prefetch(at, self.bytes.wrapping_add(more), self.cache);
        }
    }
}

/// Asks for the line that lies `ahead` bytes after the start of `at`, which need not exist. Nothing where the compiler
/// has no such instruction.
#[inline(always)]
pub(super) fn prefetch(at: &[u8], ahead: usize, cache: NearCache) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let line = at.as_ptr().wrapping_add(ahead).cast();
        match cache {
            // SAFETY: a prefetch reads nothing that the program could see, and no address makes it fail.
            NearCache::First => unsafe { _mm_prefetch::<_MM_HINT_T0>(line) },
            // SAFETY: as above.
            NearCache::Second => unsafe { _mm_prefetch::<_MM_HINT_T1>(line) },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, ahead, cache);
}
