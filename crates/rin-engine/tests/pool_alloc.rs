//! The pool allocates nothing after construction, on any of its threads.

#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use rin_engine::pool::{DEFAULT_SPIN, Pool, PoolOptions, partition};

    /// Counts the allocations of the threads that the pool has set up; the test harness has threads of its own.
    struct Counting;

    static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static COUNTED: Cell<bool> = const { Cell::new(false) };
    }

    fn count() {
        if COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        }
    }

    // SAFETY: every call goes to the system allocator unchanged; counting neither allocates nor panics.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller's guarantee about the layout is passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller's guarantee about the layout is passed on.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            count();
            // SAFETY: the caller's guarantees about memory, layout and size are passed on.
            unsafe { System.realloc(memory, layout, new_size) }
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: the memory came from the system allocator with this layout, as the caller guarantees.
            unsafe { System.dealloc(memory, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    fn jobs_without_allocation(threads: usize, spin: Duration) {
        let worker_setup = || COUNTED.set(true);
        let mut pool = Pool::new(PoolOptions { threads, worker_setup, spin, ..PoolOptions::default() }).unwrap();
        let mut data = [0usize; 1000];
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        for round in 0..500 {
            pool.run(|_| ());
            let mut rest = data.as_mut_slice();
            let mut parts: [Option<&mut [usize]>; 8] = [const { None }; 8];
            for (index, part) in parts.iter_mut().enumerate() {
                let (head, tail) = std::mem::take(&mut rest).split_at_mut(partition(1000, 8, index, 16).len());
                (*part, rest) = (Some(head), tail);
            }
            pool.run_parts(&mut parts, |_, part| part.iter_mut().for_each(|value| *value += 1));
            // Now and then all workers are asleep when the next job comes.
            while round % 100 == 0 && pool.parked() < threads - 1 {
                std::thread::yield_now();
            }
        }
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0, "{threads} threads, spin {spin:?}");
        assert!(data.iter().all(|value| *value == 500));

        // The counter sees what a worker allocates.
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        pool.run(|worker| drop(std::hint::black_box(Box::new(worker))));
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, threads);
        COUNTED.set(false);
    }

    #[test]
    fn jobs_and_parts_do_not_allocate() {
        for threads in [1, 2, 3, 5, 8] {
            for spin in [Duration::ZERO, DEFAULT_SPIN] {
                jobs_without_allocation(threads, spin);
            }
        }
    }
}
