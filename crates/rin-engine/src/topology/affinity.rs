//! The processors that a thread may run on, asked for and set.

use std::cell::RefCell;
use std::io;

use super::cpu_list::CpuId;

thread_local! {
    /// How many pools have pinned this thread, and its mask before the first did.
    static PINNED: RefCell<Option<(usize, Affinity)>> = const { RefCell::new(None) };
}

/// Processors that the operating system lets this thread use, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity(Vec<CpuId>);

impl Affinity {
    /// A mask of the given processors; duplicates are dropped.
    pub fn new(cpus: impl IntoIterator<Item = CpuId>) -> Affinity {
        let mut cpus: Vec<CpuId> = cpus.into_iter().collect();
        cpus.sort_unstable();
        cpus.dedup();
        Affinity(cpus)
    }

    /// The mask of the calling thread. Where the system has no such call: as many processors as it offers, from 0.
    pub fn current() -> Affinity {
        if let Ok(mask) = sys::affinity() {
            return mask;
        }
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Affinity::new((0..).take(count).map(CpuId))
    }

    /// The mask of the calling thread, as it was before a pool pinned it: what another engine on this thread may use.
    pub fn own() -> Affinity {
        PINNED.with_borrow(|pinned| pinned.as_ref().map(|(_, before)| before.clone())).unwrap_or_else(Self::current)
    }

    /// Confines the calling thread to one processor, until as many [`unpin`](Self::unpin) follow.
    pub(crate) fn pin(cpu: CpuId) -> io::Result<()> {
        let own = Self::own();
        Self::new([cpu]).apply()?;
        PINNED.with_borrow_mut(|pinned| pinned.get_or_insert((0, own)).0 += 1);
        Ok(())
    }

    /// Takes one pin of the calling thread back; the last one gives it its own mask.
    pub(crate) fn unpin() {
        let before = PINNED.with_borrow_mut(|pinned| {
            let (count, _) = pinned.as_mut()?;
            *count -= 1;
            if *count == 0 { pinned.take() } else { None }
        });
        if let Some((_, before)) = before {
            // Nothing can be done about a mask that is no longer permitted.
            drop(before.apply());
        }
    }

    /// The processors, ascending.
    pub fn cpus(&self) -> &[CpuId] {
        &self.0
    }

    /// Whether the mask holds this processor.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// Confines the calling thread to the mask.
    ///
    /// # Errors
    /// What the operating system answers; [`io::ErrorKind::Unsupported`] where there is no such call.
    pub fn apply(&self) -> io::Result<()> {
        sys::set_affinity(self)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sys {
    use std::io;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::{Affinity, CpuId};

    pub(super) fn affinity() -> io::Result<Affinity> {
        let set = sched_getaffinity(None)?;
        Ok(Affinity::new((0u32..).zip(0..CpuSet::MAX_CPU).filter(|(_, bit)| set.is_set(*bit)).map(|(id, _)| CpuId(id))))
    }

    pub(super) fn set_affinity(mask: &Affinity) -> io::Result<()> {
        let mut set = CpuSet::new();
        for cpu in mask.cpus() {
            let bit = usize::try_from(cpu.0).ok().filter(|bit| *bit < CpuSet::MAX_CPU);
            set.set(bit.ok_or(io::ErrorKind::InvalidInput)?);
        }
        Ok(sched_setaffinity(None, &set)?)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sys {
    use std::io;

    use super::Affinity;

    pub(super) fn affinity() -> io::Result<Affinity> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn set_affinity(_mask: &Affinity) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_ascending_and_distinct() {
        let mask = Affinity::new([3, 1, 3, 0].map(CpuId));
        assert_eq!(mask.cpus(), [0, 1, 3].map(CpuId));
        assert!(mask.contains(CpuId(3)) && !mask.contains(CpuId(2)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pinned_thread_knows_its_own_mask() {
        std::thread::spawn(|| {
            let all = Affinity::current();
            Affinity::pin(all.cpus()[0]).unwrap();
            Affinity::pin(*all.cpus().last().unwrap()).unwrap();
            assert_eq!((Affinity::current().cpus().len(), Affinity::own()), (1, all.clone()));
            Affinity::unpin();
            assert_eq!(Affinity::current().cpus().len(), 1);
            Affinity::unpin();
            assert_eq!((Affinity::current(), Affinity::own()), (all.clone(), all));
        })
        .join()
        .unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_can_be_confined_and_reads_it_back() {
        // In a thread of its own: the mask of the test thread stays as it is.
        std::thread::spawn(|| {
            let all = Affinity::current();
            let one = Affinity::new(all.cpus().iter().copied().take(1));
            one.apply().unwrap();
            assert_eq!(Affinity::current(), one);
            assert!(Affinity::new([CpuId(8000)]).apply().is_err());
        })
        .join()
        .unwrap();
    }
}
