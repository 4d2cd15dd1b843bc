//! Asking memory for what is read soon.

/// Asks for the line that lies `ahead` bytes after the start of `at`, which need not exist. Nothing where the compiler
/// has no such instruction.
#[inline(always)]
pub(super) fn prefetch(at: &[u8], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and no address makes it fail.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().wrapping_add(ahead).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, ahead);
}
