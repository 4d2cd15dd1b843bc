use super::{CacheShape, Copied, PAGE, PageCache};
use crate::Error;

/// A cache and the tokens of its pages, as the engine has them.
struct Model {
    cache: PageCache,
    tokens: Vec<u32>,
}

impl Model {
    fn new(pages: usize, rows: usize, row_pages: usize, window: Option<usize>) -> Self {
        let window_pages = window.map_or(row_pages, |w| (w + PAGE).div_ceil(PAGE) + 1);
        let shape = CacheShape { pages, rows, row_pages, window, window_pages };
        Self { cache: PageCache::new(shape), tokens: vec![0; pages * PAGE] }
    }

    fn admit(&mut self, prompt: &[u32], limit: usize) -> Result<usize, Error> {
        self.cache.admit(prompt, limit, &self.tokens)
    }

    fn feed(&mut self, row: usize, ids: &[u32]) -> Result<(), Error> {
        for ids in ids.chunks(PAGE) {
            self.cache.extend(row, ids.len())?;
            let at = self.cache.position(row);
            for (i, &id) in ids.iter().enumerate() {
                let page = self.cache.row(row)[(at + i) / PAGE] as usize;
                self.tokens[page * PAGE + (at + i) % PAGE] = id;
            }
            self.cache.commit(row, ids.len(), &self.tokens);
            self.check();
        }
        Ok(())
    }

    /// What holds at all times: each page has as many users as rows name it, promises can be kept.
    fn check(&self) {
        let c = &self.cache;
        let mut users = vec![0; c.pages.len()];
        for (i, row) in c.rows.iter().enumerate().filter(|(_, row)| row.in_use) {
            for &page in &c.row(i)[row.first..row.end] {
                users[page as usize] += 1;
            }
            assert!(row.position <= row.end * PAGE && row.position <= row.limit);
        }
        let found: Vec<u32> = c.pages.iter().map(|p| p.users).collect();
        assert_eq!(found, users);
        let idle = c.pages.iter().filter(|p| p.users == 0 && p.key.is_some()).count();
        assert_eq!(idle, c.idle);
        assert_eq!(c.free.len() + idle + users.iter().filter(|&&n| n > 0).count(), c.pages.len());
        assert_eq!(c.promised, c.rows.iter().map(|row| row.promised).sum::<usize>());
        assert!(c.promised <= c.free.len() + c.idle, "more is promised than there is");
        for (key, &page) in &c.index {
            assert_eq!(c.pages[page as usize].key, Some(*key));
        }
    }
}

fn ids(n: usize, salt: u32) -> Vec<u32> {
    (0..n).map(|i| u32::try_from(i).unwrap() * 7 + salt).collect()
}

#[test]
fn a_prefix_is_found_page_by_page_and_never_whole() {
    let mut m = Model::new(16, 3, 8, None);
    let prompt = ids(3 * PAGE, 0);
    let a = m.admit(&prompt, 4 * PAGE).unwrap();
    assert_eq!(m.cache.position(a), 0);
    m.feed(a, &prompt).unwrap();
    // Also while the first still lives.
    let b = m.admit(&prompt, 4 * PAGE).unwrap();
    assert_eq!(m.cache.position(b), 2 * PAGE, "one token is left to feed");
    assert_eq!(m.cache.row(a)[..2], m.cache.row(b)[..2]);
    let mut other = prompt.clone();
    other[PAGE + 3] += 1;
    other.push(1);
    let c = m.admit(&other, 4 * PAGE).unwrap();
    assert_eq!(m.cache.position(c), PAGE, "up to the first page that differs");
    m.check();
    for row in [a, b, c] {
        m.cache.release(row);
    }
    m.check();
    let longer: Vec<u32> = prompt.iter().copied().chain(ids(5, 9)).collect();
    let d = m.admit(&longer, 4 * PAGE).unwrap();
    assert_eq!(m.cache.position(d), 3 * PAGE, "given back, and still there");
}

#[test]
fn twins_that_computed_the_same_share_afterwards() {
    let mut m = Model::new(8, 2, 4, None);
    let prompt = ids(2 * PAGE, 0);
    let (a, b) = (m.admit(&prompt, 4 * PAGE).unwrap(), m.admit(&prompt, 4 * PAGE).unwrap());
    m.feed(a, &prompt).unwrap();
    m.feed(b, &prompt).unwrap();
    assert_eq!(m.cache.row(a)[..2], m.cache.row(b)[..2]);
    m.feed(a, &[1]).unwrap();
    m.feed(b, &[1]).unwrap();
    assert_ne!(m.cache.row(a)[2], m.cache.row(b)[2], "what is not full is one's own");
}

#[test]
fn what_is_promised_can_be_taken() {
    let mut m = Model::new(4, 4, 4, None);
    let a = m.admit(&[1], 3 * PAGE).unwrap();
    assert!(matches!(m.admit(&[2], 2 * PAGE), Err(Error::CacheFull { needed: 128, available: 64 })));
    let b = m.admit(&[2], PAGE).unwrap();
    m.feed(b, &ids(PAGE, 5)).unwrap();
    m.feed(a, &ids(3 * PAGE, 3)).unwrap();
    assert!(matches!(m.feed(a, &[1]), Err(Error::CacheFull { needed: 1, available: 0 })));
    m.cache.release(b);
    // The page of b is idle, not free, and is taken when it is needed.
    let c = m.admit(&[9], PAGE).unwrap();
    m.feed(c, &[9]).unwrap();
    assert!(matches!(m.admit(&[9], 1), Err(Error::CacheFull { .. })));
    m.cache.release(a);
    m.cache.release(c);
    m.cache.clear();
    m.check();
    assert_eq!((m.cache.free.len(), m.cache.index.len()), (4, 0));
    let rows: Vec<usize> = (0..4).map(|_| m.admit(&[1], 1).unwrap()).collect();
    assert!(matches!(m.admit(&[1], 0), Err(Error::NoSequenceLeft(4))));
    assert_eq!(rows, [0, 1, 2, 3]);
}

#[test]
fn the_longest_unused_leave_first_and_children_before_parents() {
    let mut m = Model::new(4, 2, 4, None);
    let (old, new) = (ids(2 * PAGE, 0), ids(2 * PAGE, 1));
    for prompt in [&old, &new] {
        let row = m.admit(prompt, 2 * PAGE).unwrap();
        m.feed(row, prompt).unwrap();
        m.cache.release(row);
    }
    let row = m.admit(&[5], 1).unwrap();
    m.feed(row, &[5]).unwrap();
    let with_one_more = |prompt: &[u32]| prompt.iter().copied().chain([1]).collect::<Vec<u32>>();
    let again = m.admit(&with_one_more(&old), 2 * PAGE).unwrap();
    assert_eq!(m.cache.position(again), PAGE, "its second page left, its first did not");
    m.cache.release(again);
    let again = m.admit(&with_one_more(&new), 2 * PAGE).unwrap();
    assert_eq!(m.cache.position(again), 2 * PAGE);
}

#[test]
fn truncation_keeps_the_pages_of_others() {
    let mut m = Model::new(8, 2, 4, None);
    let prompt = ids(2 * PAGE + 1, 0);
    let a = m.admit(&prompt, 3 * PAGE).unwrap();
    m.feed(a, &prompt).unwrap();
    let b = m.admit(&prompt, 3 * PAGE).unwrap();
    let shared = m.cache.row(a)[1];
    let Some(Copied { from, to }) = m.cache.truncate(b, PAGE + 7).unwrap() else { panic!("no copy") };
    assert_eq!((from, to, m.cache.row(a)[1]), (shared, m.cache.row(b)[1], shared));
    m.check();
    // Alone on its page, a sequence takes it out of the index and writes on.
    assert_eq!(m.cache.truncate(a, PAGE + 7).unwrap(), None);
    m.check();
    m.cache.release(b);
    let c = m.admit(&prompt, 3 * PAGE).unwrap();
    assert_eq!(m.cache.position(c), PAGE, "the truncated page is not found any more");
    assert_eq!(m.cache.truncate(c, 2 * PAGE).unwrap(), None);
    m.feed(a, &ids(PAGE, 3)).unwrap();
    assert_eq!(m.cache.truncate(a, PAGE).unwrap(), None);
    assert_eq!(m.cache.position(a), PAGE);
    m.check();
}

#[test]
fn a_window_gives_back_what_nobody_sees() {
    let (window, row_pages) = (100, 1000);
    // Two pages of window, one of a step, one for the page that is being filled.
    let mut m = Model::new(4, 1, row_pages, Some(window));
    let a = m.admit(&[1], row_pages * PAGE).unwrap();
    for i in 0..20 {
        m.feed(a, &ids(PAGE, i)).unwrap();
    }
    let held = m.cache.held(a);
    assert!(held.start * PAGE <= m.cache.position(a) + 1 - window && held.len() <= 4, "{held:?}");
    assert!(matches!(m.cache.truncate(a, 3 * PAGE), Err(Error::OutOfWindow { position: 192 })));
    m.cache.truncate(a, m.cache.position(a) - 3).unwrap();
    m.feed(a, &ids(500, 77)).unwrap();
    m.cache.release(a);
    m.check();
}

#[test]
fn any_order_of_calls_keeps_the_books() {
    let mut seed = 7_u64;
    let mut next = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    for window in [None, Some(70), Some(200)] {
        let mut m = Model::new(13, 4, 8, window);
        let mut rows: Vec<usize> = Vec::new();
        let (mut admitted, mut shared, mut copied) = (0, 0, 0);
        for _ in 0..20_000 {
            match next(8) {
                0 | 1 => {
                    let prompt = ids(1 + next(6 * PAGE), u32::try_from(next(2)).unwrap());
                    let limit = prompt.len() + next(2 * PAGE);
                    if let Ok(row) = m.admit(&prompt, limit.min(8 * PAGE)) {
                        admitted += 1;
                        shared += m.cache.position(row);
                        m.feed(row, &prompt[m.cache.position(row)..]).unwrap();
                        rows.push(row);
                    }
                }
                2..=4 if !rows.is_empty() => {
                    let row = rows[next(rows.len())];
                    let room = m.cache.limit(row) - m.cache.position(row);
                    if room > 0 {
                        let n = 1 + next(room);
                        m.feed(row, &ids(n, 3)).unwrap();
                    }
                }
                5 if !rows.is_empty() => {
                    let row = rows[next(rows.len())];
                    let n = next(m.cache.position(row) + 1);
                    copied += usize::from(m.cache.truncate(row, n).is_ok_and(|copied| copied.is_some()));
                }
                6 if !rows.is_empty() => m.cache.release(rows.swap_remove(next(rows.len()))),
                7 if next(50) == 0 => m.cache.clear(),
                _ => {}
            }
            m.check();
        }
        assert!(admitted > 500 && shared > 1000, "{window:?}: {admitted} admitted, {shared} positions shared");
        assert!(copied > 0 || window.is_some(), "{copied}");
    }
}
