//! Jobs, parts, panics and parking.

use std::sync::atomic::AtomicUsize;
use std::thread::ThreadId;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(PoolOptions { threads, ..PoolOptions::default() }).unwrap()
}

/// Runs `f` and returns the words of its panic.
fn panic_of(f: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(f)).err().map(|payload| panic_message(payload.as_ref()))
}

#[test]
fn every_job_runs_once_on_every_worker() {
    for threads in 1..=8 {
        let pool = pool(threads);
        assert_eq!(pool.threads(), threads);
        let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for job in 1..=10_000 {
            // A sum that is wrong when a worker is left out, runs twice or sees another job's closure.
            let sum = AtomicUsize::new(0);
            pool.run(|worker| {
                counts[worker].fetch_add(1, Ordering::Relaxed);
                sum.fetch_add(job * (worker + 1), Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), job * threads * (threads + 1) / 2, "{threads} threads, job {job}");
        }
        assert!(counts.into_iter().all(|count| count.into_inner() == 10_000));
    }
}

#[test]
fn workers_are_threads_of_their_own_and_the_caller_is_worker_0() {
    let pool = pool(3);
    let seen: Mutex<Vec<(usize, ThreadId, Option<String>)>> = Mutex::new(Vec::new());
    pool.run(|worker| {
        let thread = std::thread::current();
        lock(&seen).push((worker, thread.id(), thread.name().map(str::to_owned)));
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_by_key(|(worker, ..)| *worker);
    assert_eq!(seen[0].1, std::thread::current().id());
    assert!(seen[1].1 != seen[2].1 && seen[1].1 != seen[0].1);
    assert_eq!((seen[1].2.as_deref(), seen[2].2.as_deref()), (Some("rin-worker-1"), Some("rin-worker-2")));
}

#[test]
fn writes_of_workers_are_seen_by_the_caller_and_by_the_next_job() {
    let mut pool = pool(4);
    let mut data = vec![0u64; 1003];
    for round in 1..=200 {
        let mut rest = data.as_mut_slice();
        let mut parts: [Option<&mut [u64]>; 4] = [const { None }; 4];
        for (index, part) in parts.iter_mut().enumerate() {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(partition(1003, 4, index, 8).len());
            (*part, rest) = (Some(head), tail);
        }
        pool.run_parts(&mut parts, |_, part| part.iter_mut().for_each(|value| *value += round));
        assert!(data.iter().all(|value| *value == round * (round + 1) / 2));
        data.rotate_left(1);
    }
}

#[test]
fn a_panic_goes_on_in_the_caller_after_the_others_are_done() {
    for threads in 1..=4 {
        let pool = pool(threads);
        for culprit in 0..threads {
            let done = AtomicUsize::new(0);
            let panic = panic_of(|| {
                pool.run(|worker| {
                    assert!(worker != culprit, "worker {worker} fails");
                    done.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(panic, Some(format!("worker {culprit} fails")));
            assert_eq!(done.into_inner(), threads - 1);
        }
        let panic = panic_of(|| pool.run(|worker| panic!("{worker}")));
        assert_eq!(panic.as_deref(), Some("0"), "the lowest worker's panic");
        let sum = AtomicUsize::new(0);
        pool.run(|worker| _ = sum.fetch_add(worker + 1, Ordering::Relaxed));
        assert_eq!(sum.into_inner(), threads * (threads + 1) / 2, "usable afterwards");
    }
}

#[test]
fn a_job_inside_a_job_runs_for_all_indices() {
    let pool = pool(3);
    let inner = AtomicUsize::new(0);
    pool.run(|_| pool.run(|worker| _ = inner.fetch_add(worker + 1, Ordering::Relaxed)));
    assert_eq!(inner.into_inner(), 3 * 6);
    let panic =
        panic_of(|| pool.run(|outer| pool.run(|worker| assert!(outer != 1 || worker != 2, "{outer} {worker}"))));
    assert_eq!(panic.as_deref(), Some("1 2"));
    pool.run(|_| ());
}

#[test]
fn jobs_from_two_threads_at_once_are_both_done() {
    let pool = pool(2);
    let sum = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    pool.run(|worker| _ = sum.fetch_add(worker + 1, Ordering::Relaxed));
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 2 * 2000 * 3);
}

/// Counts its drops.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn parts_are_moved_once_and_dropped_once() {
    for threads in 1..=4 {
        let mut pool = pool(threads);
        for n_parts in [0, 1, 3, 17] {
            let drops = AtomicUsize::new(0);
            let seen: Vec<AtomicUsize> = (0..n_parts).map(|_| AtomicUsize::new(0)).collect();
            let mut parts: Vec<Option<Counted<'_>>> = (0..n_parts).map(|_| Some(Counted(&drops))).collect();
            if n_parts > 2 {
                parts[2] = None;
                drops.store(0, Ordering::Relaxed);
            }
            let given = parts.iter().flatten().count();
            pool.run_parts(&mut parts, |index, _part| _ = seen[index].fetch_add(1, Ordering::Relaxed));
            assert!(parts.iter().all(Option::is_none));
            drop(parts);
            assert_eq!(drops.into_inner(), given);
            let seen: Vec<usize> = seen.into_iter().map(AtomicUsize::into_inner).collect();
            let expected: Vec<usize> = (0..n_parts).map(|index| usize::from(index != 2)).collect();
            assert_eq!(seen, expected);
        }
    }
}

#[test]
fn a_part_belongs_to_the_worker_of_its_remainder() {
    let mut pool = pool(3);
    let threads: Mutex<Vec<(usize, ThreadId)>> = Mutex::new(Vec::new());
    let mut parts = [const { Some(()) }; 8];
    pool.run_parts(&mut parts, |index, ()| lock(&threads).push((index, std::thread::current().id())));
    let threads = threads.into_inner().unwrap();
    let of = |wanted: usize| threads.iter().find(|(index, _)| *index == wanted).unwrap().1;
    assert_eq!(of(0), std::thread::current().id());
    assert!((0..8).all(|index| of(index) == of(index % 3)));
}

#[test]
fn parts_that_a_panic_leaves_behind_are_still_dropped_once() {
    let drops = AtomicUsize::new(0);
    let mut pool = pool(2);
    let mut parts: Vec<Option<Counted<'_>>> = (0..6).map(|_| Some(Counted(&drops))).collect();
    let panic = panic_of(|| pool.run_parts(&mut parts, |index, _part| assert!(index != 3, "part 3")));
    assert_eq!(panic.as_deref(), Some("part 3"));
    let left: Vec<bool> = parts.iter().map(Option::is_some).collect();
    assert_eq!(left, [false, false, false, false, false, true]);
    assert_eq!(drops.load(Ordering::Relaxed), 5);
    drop(parts);
    assert_eq!(drops.into_inner(), 6);
}

#[test]
fn idle_workers_park_and_are_woken() {
    for spin in [Duration::ZERO, DEFAULT_SPIN] {
        let pool = Pool::new(PoolOptions { threads: 4, spin, ..PoolOptions::default() }).unwrap();
        for _ in 0..20 {
            // Ends only when all are parked: a worker that kept spinning would hang the test.
            while pool.parked() < 3 {
                std::thread::yield_now();
            }
            let sum = AtomicUsize::new(0);
            pool.run(|worker| _ = sum.fetch_add(worker + 1, Ordering::Relaxed));
            assert_eq!(sum.into_inner(), 10);
        }
    }
}

#[test]
fn only_active_workers_take_part_and_the_others_stay_parked() {
    for spin in [Duration::ZERO, DEFAULT_SPIN] {
        let mut pool = Pool::new(PoolOptions { threads: 4, spin, ..PoolOptions::default() }).unwrap();
        let mut state = 7_usize;
        for job in 1..=20_000 {
            // Changes after one job and after many, so that sleepers miss few epochs and many.
            if job % 3 == 0 || job % 1000 < 10 {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                pool.set_active(1 + (state >> 33) % 4);
            }
            let active = pool.active();
            // Wrong when a worker that rests takes part, or one that takes part is left out or runs twice.
            let seen: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];
            pool.run(|worker| _ = seen[worker].fetch_add(job, Ordering::Relaxed));
            let seen = seen.map(AtomicUsize::into_inner);
            let expected: [usize; 4] = std::array::from_fn(|worker| if worker < active { job } else { 0 });
            assert_eq!(seen, expected, "job {job}, {active} active");
        }
        pool.set_active(2);
        // Ends only when both are parked, though jobs go on: one that woke for the jobs of others would hang the test
        // or be counted below.
        while pool.parked() < 2 {
            pool.run(|_| ());
        }
        let mut parts: [Option<usize>; 5] = std::array::from_fn(Some);
        let threads = Mutex::new(BTreeSet::new());
        pool.run_parts(&mut parts, |index, part| {
            assert_eq!(index, part);
            lock(&threads).insert(std::thread::current().name().map(str::to_owned));
        });
        assert!(parts.iter().all(Option::is_none) && threads.into_inner().unwrap().len() == 2);
    }
}

#[test]
fn active_workers_are_at_least_the_caller_and_at_most_all() {
    let mut pool = pool(3);
    for (asked, found) in [(0, 1), (1, 1), (2, 2), (3, 3), (4, 3), (usize::MAX, 3)] {
        pool.set_active(asked);
        assert_eq!((pool.active(), pool.threads()), (found, 3));
        let sum = AtomicUsize::new(0);
        pool.run(|_| _ = sum.fetch_add(1, Ordering::Relaxed));
        assert_eq!(sum.into_inner(), found);
    }
}

#[test]
fn a_pool_ends_while_workers_rest() {
    let mut pool = pool(4);
    pool.set_active(1);
    let shared = Arc::downgrade(&pool.shared);
    pool.run(|_| ());
    drop(pool);
    assert_eq!(shared.strong_count(), 0);
}

#[test]
fn the_caller_parks_too_and_is_woken() {
    let pool = pool(2);
    for _ in 0..20 {
        pool.run(|worker| {
            if worker == 1 {
                while !pool.shared.caller_is_parked() {
                    std::thread::yield_now();
                }
            }
        });
    }
}

#[test]
fn set_up_runs_once_per_worker_and_once_per_new_caller() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let setup = || _ = CALLS.fetch_add(1, Ordering::Relaxed);
    let pool = Pool::new(PoolOptions { threads: 3, worker_setup: setup, ..PoolOptions::default() }).unwrap();
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    pool.run(|_| ());
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..5).for_each(|_| pool.run(|_| ())));
    });
    assert_eq!(CALLS.load(Ordering::Relaxed), 4);
}

#[test]
fn a_set_up_that_panics_is_an_error() {
    for threads in [1, 3] {
        let setup = || panic!("wrong rounding mode");
        let error = Pool::new(PoolOptions { threads, worker_setup: setup, ..PoolOptions::default() }).unwrap_err();
        assert!(matches!(&error, PoolError::Setup { message } if message == "wrong rounding mode"), "{error}");
    }
}

#[test]
fn thread_counts_have_bounds() {
    for threads in [0, MAX_THREADS + 1, usize::MAX] {
        let error = Pool::new(PoolOptions { threads, ..PoolOptions::default() }).unwrap_err();
        assert!(matches!(error, PoolError::ThreadCount { threads: n, .. } if n == threads));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn workers_are_pinned_and_the_caller_gets_its_mask_back() {
    let before = Affinity::current();
    let last = *before.cpus().last().unwrap();
    let cpus = vec![Some(last); 2];
    let pool = Pool::new(PoolOptions { threads: 2, cpus, pin_caller: true, ..PoolOptions::default() }).unwrap();
    assert_eq!((pool.notes().len(), pool.shared.spin), (0, Duration::ZERO), "two threads on one processor do not spin");
    pool.run(|_| assert_eq!(Affinity::current(), Affinity::new([last])));
    drop(pool);
    assert_eq!(Affinity::current(), before);
}

#[test]
#[cfg(target_os = "linux")]
fn without_pin_caller_only_the_workers_are_pinned() {
    let before = Affinity::current();
    let first = before.cpus()[0];
    let cpus = vec![Some(first), Some(first), None];
    let pool = Pool::new(PoolOptions { threads: 3, cpus, ..PoolOptions::default() }).unwrap();
    pool.run(|worker| {
        let expected = if worker == 1 { Affinity::new([first]) } else { before.clone() };
        assert_eq!(Affinity::current(), expected, "worker {worker}");
    });
}

#[test]
fn a_processor_that_is_not_there_is_a_note() {
    let cpus = vec![None, Some(CpuId(8000))];
    let pool = Pool::new(PoolOptions { threads: 2, cpus, ..PoolOptions::default() }).unwrap();
    assert_eq!(pool.notes().len(), 1);
    assert!(pool.notes()[0].starts_with("worker 1 cannot be pinned to cpu8000"), "{:?}", pool.notes());
}

#[test]
#[cfg(target_os = "linux")]
fn dropping_the_pool_joins_its_threads() {
    for _ in 0..50 {
        let mut pool = pool(4);
        let shared = Arc::downgrade(&pool.shared);
        pool.run_parts(&mut [Some(1), Some(2)], |_, _| ());
        drop(pool);
        assert_eq!(shared.strong_count(), 0, "a thread that still ran would hold the shared state");
    }
}
