//! One position into the pages.

use super::element::{Element, k_index, view_mut};
use super::{KvType, PAGE, check_page};

pub(super) fn check(kv: KvType, k_page: &[u8], v_page: &[u8], slot: usize, k: &[f32], v: &[f32]) {
    assert!(k.len() == v.len(), "one length: k {}, v {}", k.len(), v.len());
    assert!(slot < PAGE, "slot {slot} of {PAGE}");
    check_page("K", k_page, kv.k_page_bytes(k.len()));
    check_page("V", v_page, kv.v_page_bytes(v.len()));
}

#[inline(always)]
pub(super) fn store<E: Element>(k_page: &mut [u8], v_page: &mut [u8], slot: usize, k: &[f32], v: &[f32]) {
    let head_dim = k.len();
    let (elements, scales) = view_mut::<E>(k_page, head_dim);
    let scale = E::narrow(k, |d, x| elements[k_index(slot, d, head_dim)] = x);
    if E::SCALED {
        scales[slot] = scale;
    }
    let (elements, scales) = view_mut::<E>(v_page, head_dim);
    let row = &mut elements[slot * head_dim..][..head_dim];
    let scale = E::narrow(v, |d, x| row[d] = x);
    if E::SCALED {
        scales[slot] = scale;
    }
}
