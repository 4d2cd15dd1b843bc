//! Quantisation against the bits of the `gguf` Python package.

use rin_import::quantize::{TARGETS, quantize_row};
use rin_kernels::Format;
use rin_testkit::data::conformance;

#[test]
fn blocks_are_those_of_the_gguf_package() {
    for format in TARGETS.into_iter().filter(|&format| format != Format::F32) {
        let read = |extension: &str| {
            let path = conformance("quantize").join(format!("{format}.{extension}"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let values: Vec<f32> = read("f32").as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        let want = read("bin");
        assert_eq!(format.row_bytes(values.len()), Some(want.len()), "{format}");
        let size = want.len() * 32 / values.len();
        for (i, (values, want)) in values.chunks_exact(32).zip(want.chunks_exact(size)).enumerate() {
            let mut got = Vec::new();
            quantize_row(format, values, &mut got);
            assert_eq!(got, want, "row {i} in {format}: {values:?}");
        }
        let mut all = Vec::new();
        quantize_row(format, &values, &mut all);
        assert_eq!(all, want, "{format} in one row");
    }
}

#[test]
fn single_precision_stays() {
    let row = [1.5_f32, -0.0, f32::MIN_POSITIVE];
    let mut got = Vec::new();
    quantize_row(Format::F32, &row, &mut got);
    assert_eq!(got, row.map(f32::to_le_bytes).concat());
}

/// Below the smallest f16 the scale is stored as 0, so the codes do not count; they must only not end the program.
#[test]
fn a_block_of_vanishing_numbers_is_zero() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q5_0] {
        let mut got = Vec::new();
        quantize_row(format, &[f32::from_bits(1); 32], &mut got);
        let mut values = [1.0; 32];
        rin_kernels::format::dequantize(format, &got, &mut values);
        assert!(values.iter().all(|&x| x == 0.0), "{format}: {values:?}");
    }
}
