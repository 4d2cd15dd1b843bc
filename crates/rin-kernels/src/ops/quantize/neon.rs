//! One group at a time. By hand, because the compiler does not find the packing to bytes.

use std::arch::aarch64::{
    vaddlvq_s8, vandq_u32, vcombine_s8, vcombine_s16, vcvtnq_s32_f32, vdupq_n_u32, vld1q_f32, vmaxq_u32, vmaxvq_u32,
    vmovn_s16, vmovn_s32, vmulq_n_f32, vreinterpretq_u32_f32, vst1q_s8,
};

use super::{SUM_GROUP, Scale};

#[target_feature(enable = "neon")]
pub(super) fn row(q: &mut [i8], d: &mut [f32], sums: &mut [i16], x: &[f32], block: usize) {
    let groups = block / SUM_GROUP;
    let (x, _) = x.as_chunks::<SUM_GROUP>();
    let (q, _) = q.as_chunks_mut::<SUM_GROUP>();
    for b in 0..d.len() {
        let x = &x[b * groups..][..groups];
        let q = &mut q[b * groups..][..groups];
        let sums = &mut sums[b * groups..][..groups];
        let scale = Scale::from_magnitude(largest_magnitude(x));
        d[b] = scale.d;
        if scale.inverse == 0.0 {
            q.fill([0; SUM_GROUP]);
            sums.fill(0);
            continue;
        }
        for ((x, q), sum) in x.iter().zip(q).zip(sums) {
            *sum = quantize_group(q, x, scale.inverse);
        }
    }
}

/// The largest bits without a sign.
#[inline]
#[target_feature(enable = "neon")]
fn largest_magnitude(x: &[[f32; SUM_GROUP]]) -> u32 {
    let mut largest = [vdupq_n_u32(0); 4];
    for x in x {
        for (largest, x) in largest.iter_mut().zip(x.as_chunks::<4>().0) {
            // SAFETY: 4 floats are 16 bytes.
            let bits = vreinterpretq_u32_f32(unsafe { vld1q_f32(x.as_ptr()) });
            *largest = vmaxq_u32(*largest, vandq_u32(bits, vdupq_n_u32(0x7fff_ffff)));
        }
    }
    vmaxvq_u32(vmaxq_u32(vmaxq_u32(largest[0], largest[1]), vmaxq_u32(largest[2], largest[3])))
}

/// Quantises a group and returns its sum.
#[inline]
#[target_feature(enable = "neon")]
fn quantize_group(q: &mut [i8; SUM_GROUP], x: &[f32; SUM_GROUP], inverse: f32) -> i16 {
    let fours = x.as_chunks::<4>().0;
    let steps = |i: usize| {
        // SAFETY: 4 floats are 16 bytes.
        let x = unsafe { vld1q_f32(fours[i].as_ptr()) };
        // Rounds to nearest even; every step lies in -127..=127, as `Scale::quantize` explains.
        vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x, inverse)))
    };
    let low = vmovn_s16(vcombine_s16(steps(0), steps(1)));
    let bytes = vcombine_s8(low, vmovn_s16(vcombine_s16(steps(2), steps(3))));
    // SAFETY: 16 bytes.
    unsafe { vst1q_s8(q.as_mut_ptr(), bytes) };
    vaddlvq_s8(bytes)
}
