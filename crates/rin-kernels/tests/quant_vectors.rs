//! Dequantised values against those of the `gguf` Python package, bit for bit.

use rin_kernels::Format;
use rin_kernels::format::{Codes, dequantize};
use rin_kernels::pack::{LANES, pack_panel, unpack_row, unpack_row_bytes};
use std::path::Path;

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/quant").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn values(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

#[test]
fn dequantised_values_are_those_of_the_gguf_package() {
    for format in Format::ALL.into_iter().filter(|&f| f != Format::F32) {
        let file = read(&format!("{format}.bin"));
        let want = values(&read(&format!("{format}.f32")));
        let mut got = vec![0.0_f32; want.len()];
        dequantize(format, &file, &mut got);
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert_eq!(g.to_bits(), *w, "{format} value {i}: {g} for {}", f32::from_bits(*w));
        }
        assert!(want.len() >= 16 * format.block_len(), "{format}: only {} values", want.len());
    }
}

/// The same through the packed layout: what the embedding look-up and the kernels see.
#[test]
fn packed_values_are_those_of_the_gguf_package() {
    for format in Format::ALL.into_iter().filter(|&f| f != Format::F32) {
        let file = read(&format!("{format}.bin"));
        let want = values(&read(&format!("{format}.f32")));
        let cols = 2 * format.block_len();
        let row_bytes = format.row_bytes(cols).unwrap();
        let mut panel = vec![0; format.panel_bytes(cols).unwrap()];
        for (p, rows) in file.chunks(LANES * row_bytes).enumerate() {
            let row = |lane: usize| rows.get(lane * row_bytes..(lane + 1) * row_bytes);
            pack_panel(format, cols, row, &mut panel).unwrap();
            for lane in 0..rows.len() / row_bytes {
                let mut got = vec![0.0; cols];
                unpack_row(format, &panel, lane, &mut got);
                let want = &want[(p * LANES + lane) * cols..][..cols];
                assert!(got.iter().map(|x| x.to_bits()).eq(want.iter().copied()), "{format} row {}", p * LANES + lane);
                let mut bytes = vec![0; row_bytes];
                unpack_row_bytes(format, cols, &panel, lane, &mut bytes);
                assert_eq!(bytes, rows[lane * row_bytes..][..row_bytes], "{format} row {}", p * LANES + lane);
            }
        }
    }
}

/// The way back: a block that was taken apart is put together as the file has it.
#[test]
fn blocks_are_put_together_as_they_were() {
    for format in Format::ALL.into_iter().filter(|f| f.block_len() > 1) {
        let file = read(&format!("{format}.bin"));
        for (i, block) in file.chunks_exact(format.block_bytes()).enumerate() {
            let mut written = vec![0xaa; block.len()];
            Codes::read(format, block).write(format, &mut written);
            assert_eq!(written, block, "{format} block {i}");
        }
    }
}
