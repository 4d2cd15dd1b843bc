//! Slots into one arena, by lifetime.

use super::Slot;
use crate::Error;

/// Alignment of every slot: a cache line, an AVX-512 register, a line of a panel.
const ALIGN: usize = 64;

/// Places all slots; returns the bytes of state and of scratch.
///
/// State comes first, one slot after the other. Scratch follows: the largest slot first, each at the lowest offset
/// where it meets no slot that lives at the same time (greedy by size, Pisarchyk & Lee 2020, "Efficient Memory
/// Management for Deep Neural Net Inference", section 5).
pub(super) fn place(slots: &mut [Slot]) -> Result<(usize, usize), Error> {
    let overflow = || Error::PlanOverflow { what: "arena" };
    let aligned = |n: usize| n.checked_next_multiple_of(ALIGN).filter(|&n| isize::try_from(n).is_ok());
    let mut state = 0_usize;
    for slot in slots.iter_mut().filter(|s| s.state) {
        slot.offset = state;
        state = state.checked_add(slot.bytes).and_then(aligned).ok_or_else(overflow)?;
    }
    let mut order: Vec<usize> = (0..slots.len()).filter(|&i| !slots[i].state).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(slots[i].bytes), i));
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut end = state;
    for i in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .map(|&j| &slots[j])
            .filter(|s| s.first_step <= slots[i].last_step && slots[i].first_step <= s.last_step)
            .map(|s| (s.offset, s.offset + s.bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = state;
        for (from, to) in taken {
            if offset.checked_add(slots[i].bytes).ok_or_else(overflow)? <= from {
                break;
            }
            offset = offset.max(aligned(to).ok_or_else(overflow)?);
        }
        slots[i].offset = offset;
        end = end.max(offset.checked_add(slots[i].bytes).and_then(aligned).ok_or_else(overflow)?);
        placed.push(i);
    }
    Ok((state, end - state))
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, Slot, place};

    fn slot(bytes: usize, first_step: usize, last_step: usize) -> Slot {
        Slot { name: String::new(), offset: 0, bytes, first_step, last_step, state: false }
    }

    /// No two slots that live at the same time overlap, all are aligned, and the reported size covers them.
    fn check(slots: &mut [Slot]) -> usize {
        let (state, scratch) = place(slots).unwrap();
        for (i, a) in slots.iter().enumerate() {
            assert_eq!(a.offset % ALIGN, 0);
            assert!(a.offset + a.bytes <= state + scratch);
            for b in &slots[..i] {
                let together = a.state || b.state || (a.first_step <= b.last_step && b.first_step <= a.last_step);
                let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
                assert!(!together || apart || a.bytes == 0 || b.bytes == 0, "{a:?} meets {b:?}");
            }
        }
        state + scratch
    }

    #[test]
    fn slots_that_do_not_meet_share_bytes() {
        let mut slots = [slot(1000, 0, 1), slot(1000, 2, 3), slot(500, 1, 2)];
        assert_eq!(check(&mut slots), 1024 + 512);
    }

    #[test]
    fn any_lifetimes_are_placed_apart() {
        let mut seed = 1_u32;
        let mut next = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % n
        };
        for _ in 0..300 {
            let n = next(20) as usize;
            let mut slots: Vec<Slot> = (0..n)
                .map(|_| {
                    let first = next(12) as usize;
                    let mut s = slot(next(5000) as usize, first, first + next(6) as usize);
                    s.state = next(5) == 0;
                    s
                })
                .collect();
            check(&mut slots);
        }
    }

    #[test]
    fn sizes_past_the_address_space_are_errors() {
        assert!(place(&mut [slot(usize::MAX, 0, 1)]).is_err());
        assert!(place(&mut [slot(isize::MAX as usize, 0, 1), slot(isize::MAX as usize, 0, 1)]).is_err());
    }
}
