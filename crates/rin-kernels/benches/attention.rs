//! Attention over the pages of one head on one core, by type of the pages, tier, size of the head and number of rows.
//!
//! ```text
//! cargo bench -p rin-kernels --bench attention -- [TIER …]
//! ```
//!
//! All rows attend to 512 positions, which stay in the caches of a core. Billions of multiply-adds per second (two for
//! each row, position and dimension: score and value), the best of several samples.
#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may end")]

use std::time::{Duration, Instant};

use rin_kernels::ops::attention::{Attention, KvType, PAGE, PAGE_ALIGN, RowState};
use rin_kernels::{Cpu, Tier};

const PAGES: usize = 8;
const SAMPLES: usize = 12;
const SAMPLE: Duration = Duration::from_millis(10);

/// Pages of keys and of values, aligned.
struct Pages {
    bytes: Vec<u8>,
    start: usize,
    page: usize,
}

impl Pages {
    fn new(page: usize) -> Self {
        let bytes = vec![0; 2 * PAGES * page + PAGE_ALIGN];
        let start = bytes.as_ptr().align_offset(PAGE_ALIGN);
        Self { bytes, start, page }
    }

    /// The page of keys and of values that have the number `i`, to write.
    fn pair(&mut self, i: usize) -> (&mut [u8], &mut [u8]) {
        self.bytes[self.start + 2 * i * self.page..][..2 * self.page].split_at_mut(self.page)
    }

    fn keys(&self, i: usize) -> &[u8] {
        &self.bytes[self.start + 2 * i * self.page..][..self.page]
    }

    fn values(&self, i: usize) -> &[u8] {
        &self.bytes[self.start + (2 * i + 1) * self.page..][..self.page]
    }
}

fn main() {
    let wanted: Vec<Tier> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    let cpu = Cpu::detect();
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(0x3f80_0000 | state >> 9) - 1.5
    };
    println!("| pages | tier | head | rows | G multiply-adds/s |\n|---|---|---|---|---|");
    for kv in KvType::ALL {
        for tier in
            cpu.tiers().filter(|tier| if wanted.is_empty() { *tier != Tier::Scalar } else { wanted.contains(tier) })
        {
            let op = Attention::select(kv, &cpu.up_to(tier));
            for head in [48, 64, 128] {
                let mut pages = Pages::new(kv.k_page_bytes(head));
                for at in 0..PAGES * PAGE {
                    let key: Vec<f32> = (0..head).map(|_| next()).collect();
                    let value: Vec<f32> = (0..head).map(|_| next()).collect();
                    let (k, v) = pages.pair(at / PAGE);
                    op.store.run(k, v, at % PAGE, &key, &value);
                }
                for rows in [1, 4, 7, 8, 32] {
                    let q: Vec<f32> = (0..rows * head).map(|_| next()).collect();
                    let (mut out, valid) = (vec![0.0; rows * head], vec![(0, u32::try_from(PAGE).unwrap()); rows]);
                    let mut pass = |times: usize| {
                        let start = Instant::now();
                        for _ in 0..times {
                            let mut states = vec![RowState::EMPTY; rows];
                            for i in 0..PAGES {
                                let (k, v) = (pages.keys(i), pages.values(i));
                                op.page.run(&mut out, &mut states, &q, k, v, &[], &valid, 0.125);
                            }
                        }
                        start.elapsed().as_secs_f64() / times as f64
                    };
                    let once = Duration::from_secs_f64(pass(1).max(1e-7));
                    let times = usize::try_from(SAMPLE.as_nanos() / once.as_nanos()).unwrap().max(1);
                    let best = (0..SAMPLES).map(|_| pass(times)).fold(f64::INFINITY, f64::min);
                    let rate = (2 * rows * head * PAGES * PAGE) as f64 / best / 1e9;
                    println!("| {kv} | {tier} | {head} | {rows} | {rate:.1} |");
                }
            }
        }
    }
}
