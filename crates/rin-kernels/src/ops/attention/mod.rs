//! The key-value cache in pages of 64 positions, and attention over it page by page.
//!
//! A page holds 64 positions of one key-value head. Its size and layout depend on the [`KvType`]:
//!
//! | | elements | then, for `q8` |
//! |---|---|---|
//! | K page | `[64 / 16][head_dim][16]`: positions are lanes, so scores need no horizontal sum | 64 scales, `f32` |
//! | V page | `[64][head_dim]` | 64 scales, `f32` |
//!
//! The softmax is computed online (Milakov and Gimelshein, 2018): pages are visited in ascending order, each row keeps
//! a running maximum, a running sum and an unnormalised output. A row's result depends on its query and the positions
//! it attends to, not on the other rows of a call, the chunk in which a position was stored, or what lies in the
//! positions it does not attend to.

mod element;
mod finish;
#[macro_use]
pub(in crate::ops) mod lanes;
mod page;
mod store;

use std::fmt;
use std::str::FromStr;

pub use finish::FinishAttention;

use crate::{Cpu, Tier};

/// Positions per page.
pub const PAGE: usize = 64;

/// Positions that lie side by side in a K page.
const LANES: usize = 16;

/// Every page starts on a multiple of this many bytes.
pub const PAGE_ALIGN: usize = 64;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Single precision, as computed.
    F32,
    /// Half precision, rounded to nearest even.
    F16,
    /// 8 bits with one scale per position and head.
    Q8,
}

impl KvType {
    /// All types.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        }
    }

    /// Bytes of a K page of one head, a multiple of 64.
    pub const fn k_page_bytes(self, head_dim: usize) -> usize {
        PAGE * match self {
            Self::F32 => 4 * head_dim,
            Self::F16 => 2 * head_dim,
            Self::Q8 => head_dim + 4,
        }
    }

    /// Bytes of a V page of one head, a multiple of 64.
    pub const fn v_page_bytes(self, head_dim: usize) -> usize {
        self.k_page_bytes(head_dim)
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key-value type that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKvType(pub String);

impl fmt::Display for UnknownKvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KvType::ALL.map(KvType::name).join(", ");
        write!(f, "no key-value type is called '{}'; known: {known}", self.0)
    }
}

impl std::error::Error for UnknownKvType {}

impl FromStr for KvType {
    type Err = UnknownKvType;

    fn from_str(name: &str) -> Result<Self, UnknownKvType> {
        Self::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| UnknownKvType(name.to_owned()))
    }
}

/// Where the softmax of one row stands after the pages so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowState {
    /// The largest score so far.
    pub m: f32,
    /// The sum of `exp(score - m)` so far; 0 exactly where the row has attended to nothing.
    pub l: f32,
}

impl RowState {
    /// Nothing attended to yet; the row's output is not read before it is first written.
    pub const EMPTY: Self = Self { m: f32::NEG_INFINITY, l: 0.0 };
}

impl Default for RowState {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The operations on the pages of one [`KvType`].
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The type of the pages.
    pub kv: KvType,
    /// Stores one position.
    pub store: StoreKv,
    /// Attends to one page.
    pub page: AttendPage,
    /// Normalises the output after the last page.
    pub finish: FinishAttention,
}

impl Attention {
    /// Picks the highest variants that `cpu` can run.
    #[must_use]
    pub fn select(kv: KvType, cpu: &Cpu) -> Self {
        let (store, page) = match kv {
            KvType::F32 => {
                (StoreKv::F32(f32_pages::Store::select(cpu)), AttendPage::F32(f32_pages::Attend::select(cpu)))
            }
            KvType::F16 => {
                (StoreKv::F16(f16_pages::Store::select(cpu)), AttendPage::F16(f16_pages::Attend::select(cpu)))
            }
            KvType::Q8 => (StoreKv::Q8(q8_pages::Store::select(cpu)), AttendPage::Q8(q8_pages::Attend::select(cpu))),
        };
        Self { kv, store, page, finish: FinishAttention::select(cpu) }
    }

    /// The tier the handles run on.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.finish.tier()
    }
}

/// Stores the key and the value of one position of one head.
#[derive(Clone, Copy, Debug)]
pub enum StoreKv {
    /// In single precision.
    F32(f32_pages::Store),
    /// In half precision.
    F16(f16_pages::Store),
    /// In 8 bits.
    Q8(q8_pages::Store),
}

impl StoreKv {
    /// Writes `k` and `v` (`head_dim` each) to position `slot` (below 64) of the pages.
    ///
    /// # Panics
    ///
    /// When a page is not aligned to 64 bytes, its length is not the one of [`KvType`], or `slot` is not below 64.
    #[inline]
    pub fn run(&self, k_page: &mut [u8], v_page: &mut [u8], slot: usize, k: &[f32], v: &[f32]) {
        match self {
            Self::F32(op) => op.run(k_page, v_page, slot, k, v),
            Self::F16(op) => op.run(k_page, v_page, slot, k, v),
            Self::Q8(op) => op.run(k_page, v_page, slot, k, v),
        }
    }
}

/// Attends to one page of one key-value head, for any number of rows.
///
/// A row is one query vector: one head of one token. Heads that share a key-value head, and tokens of a prompt, are
/// passed together, so that each line of the page is loaded once for several of them.
#[derive(Clone, Copy, Debug)]
pub enum AttendPage {
    /// In single precision.
    F32(f32_pages::Attend),
    /// In half precision.
    F16(f16_pages::Attend),
    /// In 8 bits.
    Q8(q8_pages::Attend),
}

impl AttendPage {
    /// Folds the positions `valid[r].0 .. valid[r].1` of the page into `out` and `state` of each row `r`.
    ///
    /// `state` and `valid` hold one entry per row, `q` and `out` hold `head_dim` values per row. `scale` multiplies
    /// the scores. `next` is what is read after this page, which is asked for meanwhile; it may be empty. A row without positions in this page is left untouched; a row whose state is
    /// [`RowState::EMPTY`] has its output overwritten. A NaN in `out` or `state` may be any NaN.
    ///
    /// # Panics
    ///
    /// When the lengths do not fit each other, a page is not aligned to 64 bytes or has not the length of the
    /// [`KvType`], or a range does not lie in `0..=64`.
    #[inline]
    pub fn run(
        &self,
        out: &mut [f32],
        state: &mut [RowState],
        q: &[f32],
        k_page: &[u8],
        v_page: &[u8],
        next: &[u8],
        valid: &[(u32, u32)],
        scale: f32,
    ) {
        match self {
            Self::F32(op) => op.run(out, state, q, k_page, v_page, next, valid, scale),
            Self::F16(op) => op.run(out, state, q, k_page, v_page, next, valid, scale),
            Self::Q8(op) => op.run(out, state, q, k_page, v_page, next, valid, scale),
        }
    }
}

/// Declares the kernels of one element type, which the compiler then specialises per tier.
macro_rules! pages {
    ($(#[$doc:meta])* $pages:ident, $kv:ident, $Element:ty) => {
        $(#[$doc])*
        pub mod $pages {
            use super::{KvType, RowState, page, store};

            tiers!(fn store_position(k_page: &mut [u8], v_page: &mut [u8], slot: usize, k: &[f32], v: &[f32])
                = store::store::<$Element>;);
            lane_tiers!(fn attend(out: &mut [f32], state: &mut [RowState], q: &[f32], k_page: &[u8], v_page: &[u8],
                next: &[u8], valid: &[(u32, u32)], scale: f32) = attend::<$Element>;);

            kernel! {
                /// See [`StoreKv`](super::StoreKv).
                pub struct Store(k_page: &mut [u8], v_page: &mut [u8], slot: usize, k: &[f32], v: &[f32]);
                check: |k_page: &[u8], v_page: &[u8], slot: &usize, k: &[f32], v: &[f32]| {
                    store::check(KvType::$kv, k_page, v_page, *slot, k, v);
                };
                cases: crate::ops::attention::tests::for_each_store;
                conformance: store_conformance;
                variants {
                    Scalar => store_position::scalar,
                    Avx2 if target_arch = "x86_64" => store_position::avx2,
                    Avx512Vnni if target_arch = "x86_64" => store_position::avx512,
                }
            }

            kernel! {
                /// See [`AttendPage`](super::AttendPage).
                pub struct Attend(out: &mut [f32], state: &mut [RowState], q: &[f32], k_page: &[u8], v_page: &[u8],
                    next: &[u8], valid: &[(u32, u32)], scale: f32);
                check: |out: &[f32], state: &[RowState], q: &[f32], k_page: &[u8], v_page: &[u8],
                        _next: &[u8], valid: &[(u32, u32)], _scale: &f32| {
                    page::check(KvType::$kv, out, state, q, k_page, v_page, valid);
                };
                cases: crate::ops::attention::tests::for_each_attend;
                conformance: attend_conformance;
                variants {
                    Scalar => attend::scalar,
                    Avx2 if target_arch = "x86_64" => attend::avx2,
                    Avx512Vnni if target_arch = "x86_64" => attend::avx512,
                    NeonDot if target_arch = "aarch64" => attend::neon,
                }
            }
        }
    };
}

pages!(
    /// Pages in single precision.
    f32_pages, F32, f32
);
pages!(
    /// Pages in half precision.
    f16_pages, F16, u16
);
pages!(
    /// Pages in 8 bits.
    q8_pages, Q8, i8
);

/// Whether `page` may be read as pages are.
fn check_page(name: &str, page: &[u8], bytes: usize) {
    assert!(page.len() == bytes, "{name} page of {} bytes, expected {bytes}", page.len());
    assert!(page.as_ptr().addr().is_multiple_of(PAGE_ALIGN), "{name} page is not aligned to {PAGE_ALIGN} bytes");
}

#[cfg(test)]
mod tests;
