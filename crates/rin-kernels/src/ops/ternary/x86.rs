//! Tables in registers: 16 entries of a byte (AVX2), or of 16 bits (AVX-512).

use super::{BLOCK, CODES, COLUMNS, LINES, ROWS, TABLE, finish, table};
use std::arch::x86_64::{
    __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_cvtepi16_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16,
    _mm256_storeu_ps, _mm512_add_epi16, _mm512_add_epi32, _mm512_broadcast_i64x4, _mm512_castsi512_si256,
    _mm512_cvtepi16_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_extracti64x4_epi64, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_ps, _mm512_setzero_si512,
    _mm512_srli_epi16, _mm512_storeu_ps,
};

/// Sixteen bytes for both halves of a register.
#[inline(always)]
fn twice(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..16];
    // SAFETY: 16 bytes are read of 16; every x86-64 has the instruction.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    // SAFETY: only the AVX2 variant calls this.
    unsafe { _mm256_broadcastsi128_si256(bytes) }
}

/// 32 bytes.
#[inline(always)]
fn half(bytes: &[u8]) -> __m256i {
    let bytes = &bytes[..32];
    // SAFETY: 32 bytes are read of 32; only variants with AVX2 call this.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The low bytes of all sums of a table, then the high ones.
#[target_feature(enable = "avx2,fma,f16c")]
fn split_tables(tables: &mut [u8], q: &[i8]) {
    for (out, x) in tables.chunks_exact_mut(TABLE).zip(q.as_chunks::<2>().0) {
        let (low, high) = out.split_at_mut(TABLE / 2);
        for ((low, high), sum) in low.iter_mut().zip(high).zip(table(x[0], x[1])) {
            [*low, *high] = sum.to_le_bytes();
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2(y: &mut [f32], w: &[u8], q: &[i8], d: &[f32], tables: &mut [u8]) {
    split_tables(tables, q);
    let blocks = d.len();
    for (p, panel) in w.chunks_exact(blocks * (CODES + 2 * ROWS)).enumerate() {
        let (lines, scales) = panel.split_at(blocks * CODES);
        let mut acc = [0.0_f32; ROWS];
        for (b, dx) in d.iter().enumerate() {
            let (lines, scales) = (&lines[b * CODES..][..CODES], &scales[b * 2 * ROWS..][..2 * ROWS]);
            let tables = &tables[b * BLOCK / 2 * TABLE..][..BLOCK / 2 * TABLE];
            for side in 0..2 {
                let sums = sums_of_32(lines, tables, side);
                for (i, sum) in sums.into_iter().enumerate() {
                    // Sixteen even rows of this side, then sixteen odd ones.
                    let at = i / 2 * (ROWS / 2) + side * 16 + i % 2 * 8;
                    let (of_rows, acc) = (&scales[2 * at..][..16], &mut acc[at..][..8]);
                    // SAFETY: 16 bytes are read of 16.
                    let dw = unsafe { _mm_loadu_si128(of_rows.as_ptr().cast()) };
                    let scale = _mm256_mul_ps(_mm256_cvtph_ps(dw), _mm256_set1_ps(*dx));
                    // SAFETY: 8 numbers are read of 8.
                    let before = unsafe { _mm256_loadu_ps(acc.as_ptr()) };
                    let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, before);
                    // SAFETY: 8 numbers are written of 8.
                    unsafe { _mm256_storeu_ps(acc.as_mut_ptr(), sum) };
                }
            }
        }
        finish(y, p, &acc);
    }
}

/// The sums of 32 rows of a block: of the even ones eight and eight, then of the odd ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums_of_32(lines: &[u8], tables: &[u8], side: usize) -> [__m256i; 4] {
    let (nibble, low_byte) = (_mm256_set1_epi8(0xf), _mm256_set1_epi16(0xff));
    let high_byte = _mm256_slli_epi16::<8>(low_byte);
    let mut sums = [_mm256_setzero_si256(); 4];
    for (lines, tables) in lines.chunks_exact(LINES * ROWS).zip(tables.chunks_exact(LINES * COLUMNS / 2 * TABLE)) {
        // Low bytes are added up in 16 bits, even rows and odd ones; high bytes, −2 to 1, in 8.
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let mut high = _mm256_setzero_si256();
        for (line, tables) in lines.chunks_exact(ROWS).zip(tables.chunks_exact(2 * TABLE)) {
            let codes = half(&line[side * 32..]);
            let first = _mm256_and_si256(codes, nibble);
            let second = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
            let a = _mm256_shuffle_epi8(twice(tables), first);
            let b = _mm256_shuffle_epi8(twice(&tables[TABLE..]), second);
            even = _mm256_add_epi16(even, _mm256_and_si256(a, low_byte));
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(a));
            even = _mm256_add_epi16(even, _mm256_and_si256(b, low_byte));
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(b));
            high = _mm256_add_epi8(high, _mm256_shuffle_epi8(twice(&tables[TABLE / 2..]), first));
            high = _mm256_add_epi8(high, _mm256_shuffle_epi8(twice(&tables[TABLE + TABLE / 2..]), second));
        }
        even = _mm256_add_epi16(even, _mm256_slli_epi16::<8>(high));
        odd = _mm256_add_epi16(odd, _mm256_and_si256(high, high_byte));
        for (i, words) in [even, odd].into_iter().enumerate() {
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            sums[2 * i] = _mm256_add_epi32(sums[2 * i], _mm256_cvtepi16_epi32(low));
            sums[2 * i + 1] = _mm256_add_epi32(sums[2 * i + 1], _mm256_cvtepi16_epi32(high));
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn avx512(y: &mut [f32], w: &[u8], q: &[i8], d: &[f32], tables: &mut [u8]) {
    for (out, x) in tables.chunks_exact_mut(TABLE).zip(q.as_chunks::<2>().0) {
        for (out, sum) in out.as_chunks_mut::<2>().0.iter_mut().zip(table(x[0], x[1])) {
            *out = sum.to_le_bytes();
        }
    }
    let blocks = d.len();
    for (p, panel) in w.chunks_exact(blocks * (CODES + 2 * ROWS)).enumerate() {
        let (lines, scales) = panel.split_at(blocks * CODES);
        let mut acc = [0.0_f32; ROWS];
        for (b, dx) in d.iter().enumerate() {
            let (lines, scales) = (&lines[b * CODES..][..CODES], &scales[b * 2 * ROWS..][..2 * ROWS]);
            let sums = sums_of_64(lines, &tables[b * BLOCK / 2 * TABLE..][..BLOCK / 2 * TABLE]);
            for (i, sum) in sums.into_iter().enumerate() {
                let (of_rows, acc) = (&scales[32 * i..][..32], &mut acc[16 * i..][..16]);
                let scale = _mm512_mul_ps(_mm512_cvtph_ps(half(of_rows)), _mm512_set1_ps(*dx));
                // SAFETY: 16 numbers are read of 16.
                let before = unsafe { _mm512_loadu_ps(acc.as_ptr()) };
                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, before);
                // SAFETY: 16 numbers are written of 16.
                unsafe { _mm512_storeu_ps(acc.as_mut_ptr(), sum) };
            }
        }
        finish(y, p, &acc);
    }
}

/// The sums of 64 rows of a block: of the even ones sixteen and sixteen, then of the odd ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sums_of_64(lines: &[u8], tables: &[u8]) -> [__m512i; 4] {
    let mut sums = [_mm512_setzero_si512(); 4];
    for (lines, tables) in lines.chunks_exact(LINES * ROWS).zip(tables.chunks_exact(LINES * COLUMNS / 2 * TABLE)) {
        let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (line, tables) in lines.as_chunks::<ROWS>().0.iter().zip(tables.as_chunks::<{ 2 * TABLE }>().0) {
            // SAFETY: a line is 64 bytes.
            let codes = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
            // Equal halves: the fifth bit of an index chooses between them.
            let first = _mm512_broadcast_i64x4(half(tables));
            let second = _mm512_broadcast_i64x4(half(&tables[TABLE..]));
            even = _mm512_add_epi16(even, _mm512_permutexvar_epi16(codes, first));
            odd = _mm512_add_epi16(odd, _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), first));
            even = _mm512_add_epi16(even, _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), second));
            odd = _mm512_add_epi16(odd, _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), second));
        }
        for (i, words) in [even, odd].into_iter().enumerate() {
            let (low, high) = (_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64::<1>(words));
            sums[2 * i] = _mm512_add_epi32(sums[2 * i], _mm512_cvtepi16_epi32(low));
            sums[2 * i + 1] = _mm512_add_epi32(sums[2 * i + 1], _mm512_cvtepi16_epi32(high));
        }
    }
    sums
}
