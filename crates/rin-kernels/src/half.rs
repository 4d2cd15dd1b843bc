//! Half-precision conversions in portable integer arithmetic, equal to the hardware's to the bit.

/// IEEE binary16 to f32, exact.
#[inline(always)]
#[expect(clippy::verbose_bit_mask, reason = "a mask of the mantissa, not a power of two")]
pub const fn f16_to_f32(h: u16) -> f32 {
    let sign = (h as u32 & 0x8000) << 16;
    let magnitude = (h as u32 & 0x7fff) << 13;
    let exponent = magnitude & 0x0f80_0000;
    let bits = if exponent == 0x0f80_0000 {
        // Infinity stays, NaN keeps its payload and becomes quiet, as `vcvtph2ps` does.
        let quiet = if magnitude & 0x007f_ffff == 0 { 0 } else { 0x0040_0000 };
        (magnitude | 0x7f80_0000) | quiet
    } else if exponent == 0 {
        // Subnormal: the mantissa counts 2^-24.
        return f32::from_bits(sign | ((magnitude >> 13) as f32 * f32::from_bits(0x3380_0000)).to_bits());
    } else {
        magnitude + (112 << 23)
    };
    f32::from_bits(sign | bits)
}

/// f32 to IEEE binary16, round to nearest, ties to even; overflow gives infinity, NaN stays NaN.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the value has 15 bits")]
pub const fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 | ((magnitude >> 13) & 0x03ff)
    } else if magnitude >= 0x4780_0000 {
        0x7c00
    } else if magnitude < 0x3880_0000 {
        // Subnormal result: adding 0.5 puts the rounded mantissa into the low bits.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000
    } else {
        let odd = (magnitude >> 13) & 1;
        (magnitude + 0xfff + odd - (112 << 23)) >> 13
    };
    sign | half as u16
}

/// bfloat16 to f32, exact.
#[inline(always)]
pub const fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

#[cfg(test)]
mod tests {
    use super::{bf16_to_f32, f16_to_f32, f32_to_f16};

    #[test]
    fn known_values() {
        for (h, x) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 2.0_f32.powi(-24)), (0x0400, 2.0_f32.powi(-14))]
        {
            assert_eq!(f16_to_f32(h).to_bits(), x.to_bits());
            assert_eq!(f32_to_f16(x), h);
        }
        assert_eq!(f16_to_f32(0x8000).to_bits(), (-0.0_f32).to_bits());
        assert_eq!(bf16_to_f32(0x3f80).to_bits(), 1.0_f32.to_bits());
        assert_eq!(f32_to_f16(65520.0), 0x7c00, "halfway to the next power rounds to infinity");
        assert_eq!(f32_to_f16(65519.0), 0x7bff);
        assert_eq!(f32_to_f16(2.0_f32.powi(-25)), 0, "a tie goes to even");
        assert_eq!(f32_to_f16(1.5 * 2.0_f32.powi(-24)), 2, "a tie goes to even");
    }

    #[test]
    fn every_half_survives_the_round_trip() {
        for h in 0..=u16::MAX {
            let x = f16_to_f32(h);
            if x.is_nan() {
                assert!(f32_to_f16(x) & 0x7fff > 0x7c00);
            } else {
                assert_eq!(f32_to_f16(x), h, "{h:#x}");
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn equals_the_hardware() {
        use std::arch::x86_64::{
            _mm_cvtph_ps, _mm_cvtps_ph, _mm_cvtss_f32, _mm_extract_epi16, _mm_set1_epi16, _mm_set1_ps,
        };
        #[target_feature(enable = "f16c")]
        fn up(h: u16) -> u32 {
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(h.cast_signed()))).to_bits()
        }
        #[target_feature(enable = "f16c")]
        fn down(x: f32) -> u16 {
            let [low, high, ..] = _mm_extract_epi16::<0>(_mm_cvtps_ph::<0>(_mm_set1_ps(x))).to_le_bytes();
            u16::from_le_bytes([low, high])
        }
        if !std::arch::is_x86_feature_detected!("f16c") {
            eprintln!("SKIPPED: no F16C on this processor");
            return;
        }
        for h in 0..=u16::MAX {
            // SAFETY: F16C was just detected.
            assert_eq!(f16_to_f32(h).to_bits(), unsafe { up(h) }, "{h:#x}");
        }
        for i in 0..=u32::MAX / 997 {
            let x = f32::from_bits(i * 997);
            // SAFETY: F16C was just detected.
            assert_eq!(f32_to_f16(x), unsafe { down(x) }, "{:#x}", i * 997);
        }
    }
}
