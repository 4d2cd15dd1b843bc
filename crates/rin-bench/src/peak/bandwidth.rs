//! Reading from memory as fast as it goes: a buffer that no cache holds, summed up by all workers at once.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use rin_engine::arena::{Arena, ArenaOptions, cast, cast_mut};
use rin_engine::limits::MemoryLimit;
use rin_engine::pool::{Pool, partition};
use rin_engine::topology::Topology;

use super::Peak;
use crate::{Error, proc_file};

/// Longest buffer.
const MAX_BYTES: u64 = 512 << 20;
/// Shortest buffer, where memory allows.
const MIN_BYTES: u64 = 64 << 20;
/// Where the caches are not known.
const DEFAULT_BYTES: u64 = 256 << 20;
/// A buffer is this many times as large as the last-level caches together.
const TIMES_CACHE: u64 = 4;

/// Passes over the buffer: at least so many, and more until the time is up.
const MIN_PASSES: usize = 8;
const MAX_PASSES: usize = 200;
const TIME: Duration = Duration::from_millis(400);

/// Numbers of streams that a worker reads at once; passes take them in turn, for which is fastest depends on the machine.
const STREAMS: [usize; 3] = [1, 4, 8];
/// Words that are summed at once in one stream.
const LANES: usize = 16;

/// How long the buffer has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferSize {
    /// Bytes.
    pub bytes: u64,
    /// What stands in the way of a good measurement, in words.
    pub notes: Vec<String>,
}

impl BufferSize {
    /// Four times the last-level caches, at least 64 MiB and at most 512 MiB, but no more than a quarter of the memory that
    /// is left.
    pub fn of_this_machine(topology: &Topology) -> Self {
        let groups = topology.cpus.iter().map(|cpu| (cpu.node, cpu.group)).collect::<std::collections::BTreeSet<_>>();
        let cache = last_level_cache(Path::new("/")).map(|one| one.saturating_mul(groups.len() as u64));
        Self::new(cache, MemoryLimit::of_this_machine(None).map(|limit| limit.bytes))
    }

    fn new(cache: Option<u64>, available: Option<u64>) -> Self {
        let wanted = cache.map_or(DEFAULT_BYTES, |cache| cache.saturating_mul(TIMES_CACHE).clamp(MIN_BYTES, MAX_BYTES));
        let bytes = wanted.min(available.unwrap_or(u64::MAX) / 4);
        let mut notes = Vec::new();
        if let Some(cache) = cache.filter(|cache| bytes < cache.saturating_mul(2)) {
            notes.push(format!(
                "memory bandwidth was measured over {bytes} bytes, which is little beside {cache} bytes of cache: the true \
                 one may be lower"
            ));
        }
        Self { bytes, notes }
    }
}

/// Bytes of the highest cache of the first processor.
fn last_level_cache(root: &Path) -> Option<u64> {
    let folder = root.join("sys/devices/system/cpu/cpu0/cache");
    let caches = (0..16).map_while(|i| {
        let index = folder.join(format!("index{i}"));
        let level: u32 = proc_file::text(&index.join("level"))?.trim().parse().ok()?;
        Some((level, proc_file::text(&index.join("size")).and_then(|text| proc_file::size(&text))))
    });
    caches.max_by_key(|cache| cache.0)?.1
}

/// Reads `bytes` of memory with all workers, again and again: 10⁹ bytes per second of each pass. None of less than a
/// cache line per worker.
///
/// # Errors
///
/// When the memory is not to be had.
pub fn read_bandwidth(pool: &mut Pool, bytes: u64) -> Result<Option<Peak>, Error> {
    // Huge pages leave out what the look-up of pages costs; they are asked for, not required.
    let mut arena = Arena::new(bytes / 64 * 64, ArenaOptions { huge_pages: true, ..ArenaOptions::default() })?;
    let words: &mut [u64] = cast_mut(arena.bytes_mut())?;
    let threads = pool.threads();
    let n = words.len();
    if n / threads < LANES * 8 {
        return Ok(None);
    }
    fill(pool, words);
    let words: &[u64] = cast(arena.bytes())?;
    let mut samples = Vec::with_capacity(MAX_PASSES);
    let start = Instant::now();
    for streams in STREAMS.into_iter().cycle().take(MAX_PASSES) {
        if samples.len() >= MIN_PASSES && start.elapsed() >= TIME {
            break;
        }
        let pass = Instant::now();
        pool.run(|worker| {
            let share = words.get(partition(n, threads, worker, LANES)).unwrap_or_default();
            black_box(sum(share, streams));
        });
        samples.push(size_of_val(words) as f64 / pass.elapsed().as_secs_f64().max(1e-9) / 1e9);
    }
    Ok(Peak::of(samples))
}

/// Writes every word, each on the worker that will read it, so that pages exist and lie near it.
fn fill(pool: &mut Pool, words: &mut [u64]) {
    let (threads, n) = (pool.threads(), words.len());
    let mut rest = words;
    let mut parts: Vec<Option<&mut [u64]>> = Vec::with_capacity(threads);
    for worker in 0..threads {
        let (share, after) = rest.split_at_mut(partition(n, threads, worker, LANES).len());
        parts.push(Some(share));
        rest = after;
    }
    pool.run_parts(&mut parts, |worker, share| {
        for (i, word) in share.iter_mut().enumerate() {
            *word = (worker + i) as u64;
        }
    });
}

/// The sum of all words, read in several streams at once.
fn sum(words: &[u64], streams: usize) -> u64 {
    match streams {
        4 => sum_streams::<4>(words),
        8 => sum_streams::<8>(words),
        _ => sum_streams::<1>(words),
    }
}

fn sum_streams<const N: usize>(words: &[u64]) -> u64 {
    let (chunks, tail) = words.as_chunks::<LANES>();
    let each = chunks.len() / N;
    let mut rest = chunks;
    let streams: [&[[u64; LANES]]; N] = std::array::from_fn(|_| {
        let (stream, after) = rest.split_at(each);
        rest = after;
        stream
    });
    let mut lanes = [0_u64; LANES];
    for i in 0..each {
        for stream in streams {
            add(&mut lanes, stream.get(i));
        }
    }
    for chunk in rest {
        add(&mut lanes, Some(chunk));
    }
    lanes.iter().chain(tail).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[inline(always)]
fn add(lanes: &mut [u64; LANES], chunk: Option<&[u64; LANES]>) {
    if let Some(chunk) = chunk {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc_file::tests::Tree;
    use rin_engine::pool::PoolOptions;

    #[test]
    fn every_word_is_read_once_in_any_number_of_streams() {
        for n in [0_usize, 1, 15, 16, 17, 64, 127, 128, 129, 1000, 4099] {
            let words: Vec<u64> = (0..n as u64).map(|i| i * i + 1).collect();
            let expected: u64 = words.iter().sum();
            for streams in STREAMS {
                assert_eq!(sum(&words, streams), expected, "{n} words in {streams} streams");
            }
        }
    }

    #[test]
    fn a_small_buffer_is_read_at_some_rate() {
        for threads in [1, 3] {
            let mut pool = Pool::new(PoolOptions { threads, ..PoolOptions::default() }).unwrap();
            let peak = read_bandwidth(&mut pool, 1 << 20).unwrap().unwrap();
            assert!(peak.samples.len() >= MIN_PASSES && peak.samples.iter().all(|rate| *rate > 0.0));
            assert_eq!(read_bandwidth(&mut pool, 64).unwrap(), None);
        }
    }

    #[test]
    fn the_buffer_outgrows_the_caches_within_bounds() {
        let mib = |n: u64| n << 20;
        let bytes = |cache: Option<u64>, available: Option<u64>| BufferSize::new(cache, available).bytes;
        assert_eq!(bytes(Some(mib(32)), Some(mib(20_000))), mib(128));
        assert_eq!(bytes(Some(mib(2)), None), mib(64));
        assert_eq!(bytes(Some(mib(300)), None), mib(512));
        assert_eq!(bytes(None, None), mib(256));
        assert_eq!(bytes(Some(mib(32)), Some(mib(100))), mib(25));
        assert_eq!(BufferSize::new(Some(mib(32)), None).notes.len(), 0);
        assert_eq!(BufferSize::new(Some(mib(300)), None).notes.len(), 1);
    }

    #[test]
    fn the_highest_cache_counts() {
        let tree = Tree::new("cache");
        let folder = "sys/devices/system/cpu/cpu0/cache";
        for (i, (level, size)) in [("1", "32K"), ("1", "32K"), ("2", "1024K"), ("3", "32768K")].iter().enumerate() {
            tree.file(&format!("{folder}/index{i}/level"), level);
            tree.file(&format!("{folder}/index{i}/size"), size);
        }
        assert_eq!(last_level_cache(tree.root()), Some(32 << 20));
        assert_eq!(last_level_cache(Path::new("/nowhere at all")), None);
    }
}
