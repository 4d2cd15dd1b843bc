//! One block of memory for everything that a run computes: a single mapping, cut into disjoint slots.
//!
//! In go the bytes that a plan needs and how the operating system shall treat them, out come byte ranges and typed views.

use std::io;
use std::ops::Range;

use bytemuck::{AnyBitPattern, NoUninit, PodCastError};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions};

use crate::limits::MemoryLimit;

/// Every arena begins at a multiple of this; slots that do as well suit every instruction tier and cache line.
pub const ALIGNMENT: usize = 64;

/// Size of a huge page on x86-64, and on AArch64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// The smallest page that any supported system has.
const SMALL_PAGE: usize = 4096;

/// How the operating system shall treat an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaOptions {
    /// Ask for transparent huge pages; a refusal is a note.
    pub huge_pages: bool,
    /// Keep the arena in memory, out of reach of swapping; a refusal is a note.
    pub mlock: bool,
    /// Touch every page now, from the calling thread (which puts them on its NUMA node), rather than at first use.
    pub prefault: bool,
}

/// Failures of an arena.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The plan is larger than any memory that this kind of processor could address.
    #[error("the plan needs {needed} bytes, an address space holds at most {maximum}")]
    AddressSpace {
        /// Bytes needed.
        needed: u64,
        /// Bytes that fit.
        maximum: u64,
    },
    /// The operating system refuses the memory.
    #[error("the plan needs {needed} bytes, which the system refuses ({source}); {}", available_words(*.available))]
    Map {
        /// Bytes needed.
        needed: u64,
        /// Bytes available, where the system says so.
        available: Option<u64>,
        /// The system's answer.
        source: io::Error,
    },
    /// A slot lies beyond the end, or ends before it begins.
    #[error("slot {start}..{end} does not lie in an arena of {len} bytes")]
    OutOfBounds {
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
        /// Bytes in the arena.
        len: usize,
    },
    /// Two of the slots asked for at once share bytes.
    #[error("slots that are used together overlap")]
    Overlap,
    /// The bytes are no array of the type: wrong alignment, or a length that is no multiple.
    #[error("{bytes} bytes cannot be seen as values of {element}: {cause}")]
    Cast {
        /// Length of the slot.
        bytes: usize,
        /// Name of the element type.
        element: &'static str,
        /// What does not fit.
        cause: PodCastError,
    },
}

fn available_words(available: Option<u64>) -> String {
    available.map_or_else(|| "what is available is not known".to_owned(), |bytes| format!("{bytes} are available"))
}

/// What happened to memory that could not be locked, and what helps.
pub(crate) fn lock_note(needed: u64, answer: &io::Error) -> String {
    lock_words(needed, memlock_limit(), answer)
}

/// `permitted` is `None` where locking is not limited or the limit is not known.
fn lock_words(needed: u64, permitted: Option<u64>, answer: &io::Error) -> String {
    let limit = permitted.map_or_else(String::new, |bytes| format!("the limit (RLIMIT_MEMLOCK) is {bytes} bytes: "));
    format!(
        "{needed} bytes cannot be locked in memory and may be swapped out ({answer}); {limit}raise it (`ulimit -l`, \
         LimitMEMLOCK= of a service, --ulimit memlock= of a container) or grant CAP_IPC_LOCK"
    )
}

/// Zeroed memory for one run, in one private mapping.
#[derive(Debug)]
pub struct Arena {
    map: MmapMut,
    range: Range<usize>,
    notes: Vec<String>,
}

impl Arena {
    /// Maps `bytes` zero bytes. The start is aligned to a page, or to a huge page where those are asked for.
    ///
    /// # Errors
    /// [`ArenaError::AddressSpace`] and [`ArenaError::Map`] when the memory is not to be had. Huge pages and locking are
    /// tried, see [`Arena::notes`].
    pub fn new(bytes: u64, options: ArenaOptions) -> Result<Arena, ArenaError> {
        let maximum = isize::MAX.unsigned_abs() - HUGE_PAGE;
        let too_large = || ArenaError::AddressSpace { needed: bytes, maximum: maximum as u64 };
        let len = usize::try_from(bytes).ok().filter(|len| *len <= maximum).ok_or_else(too_large)?;
        // A mapping is aligned to small pages; the slack lets the arena begin at a huge one.
        let slack = if options.huge_pages && len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let map = MmapOptions::new().len(len + slack).map_anon().map_err(|source| ArenaError::Map {
            needed: bytes,
            available: MemoryLimit::of_this_machine(None).map(|limit| limit.bytes),
            source,
        })?;
        let start = if slack > 0 { map.as_ptr().align_offset(HUGE_PAGE).min(slack) } else { 0 };
        let mut arena = Arena { map, range: start..start + len, notes: Vec::new() };
        // Before anything is touched, or the pages would already be small.
        if options.huge_pages {
            let note = match arena.advise_huge_pages() {
                Err(error) => Some(format!("huge pages are not to be had for {bytes} bytes: {error}")),
                // The system takes the advice and does not heed it.
                Ok(()) if huge_pages_are_off() => Some(format!("huge pages are switched off: {HUGE_PAGE_SWITCH}")),
                Ok(()) => None,
            };
            arena.notes.extend(note);
        }
        if options.mlock
            && let Err(answer) = arena.map.lock()
        {
            arena.notes.push(lock_note(bytes, &answer));
        }
        if options.prefault {
            arena.prefault();
        }
        Ok(arena)
    }

    /// Bytes in the arena.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Wishes that the system did not grant, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }

    /// All bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.get_mut(self.range.clone()).unwrap_or_default()
    }

    /// Several slots at once, writable; empty slots overlap nothing.
    ///
    /// # Errors
    /// [`ArenaError::OutOfBounds`] for a slot that does not lie in the arena, [`ArenaError::Overlap`] for two that share
    /// bytes.
    pub fn slices_mut<const N: usize>(&mut self, ranges: [Range<usize>; N]) -> Result<[&mut [u8]; N], ArenaError> {
        let len = self.len();
        for range in &ranges {
            if range.start > range.end || range.end > len {
                return Err(ArenaError::OutOfBounds { start: range.start, end: range.end, len });
            }
        }
        // `get_disjoint_mut` holds an empty range within another against both.
        let ranges = ranges.map(|range| if range.is_empty() { 0..0 } else { range });
        self.bytes_mut().get_disjoint_mut(ranges).map_err(|_| ArenaError::Overlap)
    }

    #[cfg(target_os = "linux")]
    fn advise_huge_pages(&self) -> io::Result<()> {
        self.map.advise_range(Advice::HugePage, self.range.start, self.len())
    }

    #[cfg(not(target_os = "linux"))]
    fn advise_huge_pages(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Touches every page now, from the calling thread, as [`ArenaOptions::prefault`] does at the beginning.
    pub fn prefault(&mut self) {
        // One system call where the kernel (Linux 5.14) knows it, which faults in huge pages as such.
        #[cfg(target_os = "linux")]
        if self.map.advise_range(Advice::PopulateWrite, self.range.start, self.len()).is_ok() {
            return;
        }
        for byte in self.bytes_mut().iter_mut().step_by(SMALL_PAGE) {
            *byte = 0;
        }
    }
}

/// Where Linux says when it gives huge pages.
const HUGE_PAGE_SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

fn huge_pages_are_off() -> bool {
    std::fs::read_to_string(HUGE_PAGE_SWITCH).is_ok_and(|switch| says_never(&switch))
}

/// The choice that holds stands in brackets.
fn says_never(switch: &str) -> bool {
    switch.split_ascii_whitespace().any(|choice| choice == "[never]")
}

#[cfg(unix)]
fn memlock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

#[cfg(not(unix))]
fn memlock_limit() -> Option<u64> {
    None
}

/// A slot seen as values of a type.
///
/// # Errors
/// [`ArenaError::Cast`] for a wrong alignment or a length that is no multiple of the type's size.
pub fn cast<T: AnyBitPattern>(bytes: &[u8]) -> Result<&[T], ArenaError> {
    bytemuck::try_cast_slice(bytes).map_err(|cause| cast_error::<T>(bytes.len(), cause))
}

/// A slot seen as values of a type, writable.
///
/// # Errors
/// As for [`cast`].
pub fn cast_mut<T: AnyBitPattern + NoUninit>(bytes: &mut [u8]) -> Result<&mut [T], ArenaError> {
    let len = bytes.len();
    bytemuck::try_cast_slice_mut(bytes).map_err(|cause| cast_error::<T>(len, cause))
}

fn cast_error<T>(bytes: usize, cause: PodCastError) -> ArenaError {
    ArenaError::Cast { bytes, element: std::any::type_name::<T>(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ArenaOptions = ArenaOptions { huge_pages: true, mlock: false, prefault: true };

    #[test]
    fn an_arena_is_zero_aligned_and_of_the_length_asked_for() {
        for options in [ArenaOptions::default(), ALL] {
            for len in [0, 1, 63, 4096, 4097, (2 << 20) - 1, (4 << 20) + 3] {
                let mut arena = Arena::new(len as u64, options).unwrap();
                assert_eq!((arena.len(), arena.is_empty()), (len, len == 0));
                assert_eq!(arena.bytes().as_ptr().align_offset(ALIGNMENT), 0);
                if options.huge_pages && len >= HUGE_PAGE {
                    assert_eq!(arena.bytes().as_ptr().align_offset(HUGE_PAGE), 0);
                }
                assert!(arena.bytes().iter().all(|byte| *byte == 0));
                arena.bytes_mut().fill(0xa5);
                assert!(arena.bytes().len() == len && arena.bytes().iter().all(|byte| *byte == 0xa5));
            }
        }
    }

    #[test]
    fn a_plan_beyond_memory_is_refused_with_the_numbers() {
        for needed in [u64::MAX, u64::MAX / 2 + 1] {
            let error = Arena::new(needed, ALL).unwrap_err();
            assert!(matches!(error, ArenaError::AddressSpace { needed: n, maximum } if n == needed && maximum < n));
        }
        // Beyond every 48-bit and 57-bit address space.
        let needed = 1 << 60;
        let error = Arena::new(needed, ArenaOptions::default()).unwrap_err();
        assert!(matches!(error, ArenaError::Map { needed: n, .. } if n == needed), "{error}");
        assert!(error.to_string().contains(&needed.to_string()));
        #[cfg(target_os = "linux")]
        assert!(matches!(error, ArenaError::Map { available: Some(bytes), .. } if bytes < needed));
    }

    #[test]
    fn a_note_about_locking_has_the_limit_and_the_remedy() {
        let note = lock_words(9, Some(8), &io::ErrorKind::PermissionDenied.into());
        assert!(note.contains("9 bytes") && note.contains("is 8 bytes") && note.contains("`ulimit -l`"), "{note}");
        let note = lock_words(9, None, &io::ErrorKind::OutOfMemory.into());
        assert!(!note.contains("RLIMIT_MEMLOCK") && note.contains("CAP_IPC_LOCK"), "{note}");
    }

    #[test]
    fn huge_pages_are_off_where_the_switch_says_never() {
        assert!(says_never("always madvise [never]\n"));
        assert!(!says_never("always [madvise] never\n") && !says_never("") && !says_never("never"));
    }

    #[cfg(target_os = "linux")]
    fn status_kib(key: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn locking_is_done_or_noted_and_never_fails() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

        const SIZE: usize = 1 << 20;
        let options = ArenaOptions { mlock: true, prefault: true, ..ArenaOptions::default() };
        let arena = Arena::new(SIZE as u64, options).unwrap();
        if arena.notes().is_empty() {
            assert!(status_kib("VmLck:") * 1024 >= SIZE);
        }
        drop(arena);

        // Without the right to lock more than a little, on a thread of its own: capabilities belong to threads.
        let before = getrlimit(Resource::Memlock);
        let permitted = before.maximum.unwrap_or(u64::MAX).min(64 << 10);
        setrlimit(Resource::Memlock, Rlimit { current: Some(permitted), maximum: before.maximum }).unwrap();
        let refused = std::thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::IPC_LOCK);
            set_capabilities(None, sets).unwrap();
            Arena::new(SIZE as u64, options).unwrap()
        });
        let mut refused = refused.join().unwrap();
        setrlimit(Resource::Memlock, before).unwrap();
        let [note] = refused.notes() else { panic!("{:?}", refused.notes()) };
        let limit = format!("is {permitted} bytes");
        assert!(note.contains("1048576 bytes cannot be locked") && note.contains(&limit), "{note}");
        refused.bytes_mut().fill(1);
    }

    #[test]
    fn disjoint_slots_are_handed_out_together() {
        let mut arena = Arena::new(256, ArenaOptions::default()).unwrap();
        let [tail, none, head] = arena.slices_mut([128..256, 64..64, 0..64]).unwrap();
        tail.fill(2);
        head.fill(1);
        assert!(none.is_empty());
        assert_eq!((arena.bytes()[63], arena.bytes()[64], arena.bytes()[128]), (1, 0, 2));
    }

    #[test]
    fn slots_that_overlap_or_overrun_are_refused() {
        let mut arena = Arena::new(256, ArenaOptions::default()).unwrap();
        assert!(matches!(arena.slices_mut([0..65, 64..128]), Err(ArenaError::Overlap)));
        assert!(matches!(arena.slices_mut([0..64, 0..64]), Err(ArenaError::Overlap)));
        assert!(matches!(arena.slices_mut([0..257, 0..1]), Err(ArenaError::OutOfBounds { end: 257, len: 256, .. })));
        assert!(matches!(arena.slices_mut([0..1, 300..300]), Err(ArenaError::OutOfBounds { .. })));
        let (start, end) = (8, 4);
        assert!(matches!(arena.slices_mut([start..end, 16..32]), Err(ArenaError::OutOfBounds { .. })));
        assert!(arena.slices_mut([250..256, 256..256]).is_ok());
    }

    #[test]
    fn typed_views_check_length_and_alignment() {
        let mut arena = Arena::new(128, ArenaOptions::default()).unwrap();
        let [floats, words, _rest] = arena.slices_mut([0..64, 64..96, 96..128]).unwrap();
        let floats = cast_mut::<f32>(floats).unwrap();
        floats.fill(1.0);
        assert_eq!(floats.len(), 16);
        cast_mut::<i32>(words).unwrap().fill(-1);
        assert_eq!(cast::<u32>(&arena.bytes()[..4]).unwrap(), [1.0f32.to_bits()]);
        assert_eq!(cast::<i8>(&arena.bytes()[64..96]).unwrap(), [-1; 32]);
        let error = cast_mut::<f32>(&mut arena.bytes_mut()[..6]).unwrap_err();
        assert!(matches!(error, ArenaError::Cast { bytes: 6, element: "f32", .. }), "{error}");
        assert!(matches!(cast::<u32>(&arena.bytes()[2..6]), Err(ArenaError::Cast { .. })));
    }
}
