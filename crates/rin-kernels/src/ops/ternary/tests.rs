use super::{BLOCK, TernaryLookup, pack, packed_bytes, table_bytes};
use crate::ops::linear::{Epilogue, Input, Linear, QuantRows};
use crate::pack::tests::{Noise, random_row};
use crate::pack::{LANES, pack_panel};
use crate::{Cpu, Format, MatMut};

/// A matrix and a row of activations.
#[derive(Debug)]
pub(super) struct Case {
    format: Format,
    file: Vec<Vec<u8>>,
    cols: usize,
    q: Vec<i8>,
    d: Vec<f32>,
}

impl Case {
    fn new(format: Format, rows: usize, blocks: usize, noise: &mut Noise) -> Self {
        let cols = blocks * BLOCK;
        Self {
            format,
            file: (0..rows).map(|_| random_row(format, cols, noise)).collect(),
            cols,
            q: (0..cols).map(|_| noise.next().to_le_bytes()[0].cast_signed().max(-127)).collect(),
            d: (0..blocks).map(|_| noise.unit() * 0.1).collect(),
        }
    }

    fn run(&self, op: &TernaryLookup) -> Vec<u32> {
        let rows = self.file.len();
        let mut packed = vec![0xaa; packed_bytes(rows, self.cols).unwrap()];
        pack(self.format, rows, self.cols, |r| self.file[r].as_slice(), &mut packed);
        let mut y = vec![0.5; rows];
        let mut tables = vec![0x5a; table_bytes(self.cols)];
        op.run(&mut y, &packed, &self.q, &self.d, &mut tables);
        y.iter().map(|y| y.to_bits()).collect()
    }

    pub(super) fn check(&self, reference: &TernaryLookup, candidate: &TernaryLookup) {
        let (want, got) = (self.run(reference), self.run(candidate));
        assert_eq!(want, got, "{} {}: {} x {}", candidate.tier(), self.format, self.file.len(), self.cols);
    }
}

pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
    let mut noise = Noise(77);
    for format in [Format::TQ1_0, Format::TQ2_0] {
        for blocks in [1, 2, 3, 5] {
            for rows in [1, 2, 33, 63, 64, 65, 130] {
                f(Case::new(format, rows, blocks, &mut noise));
            }
        }
    }
    // Every code and every activation at its extreme: where a sum would leave its 16 bits, it does so here.
    for byte in [0x00, 0x55, 0xaa, 0xff] {
        for x in [-127, 127] {
            let mut case = Case::new(Format::TQ2_0, 64, 2, &mut noise);
            for block in case.file.iter_mut().flat_map(|row| row.chunks_exact_mut(66)) {
                block[..64].fill(byte);
            }
            case.q.fill(x);
            f(case);
        }
    }
    let mut case = Case::new(Format::TQ2_0, 70, 2, &mut noise);
    case.d[1] = f32::from_bits(0xffc1_2345);
    f(case);
}

/// The other way to the same bits: bytes multiplied, on every tier.
#[test]
fn looked_up_sums_are_the_products() {
    let cpu = Cpu::detect();
    for_each_case(|case| {
        let rows = case.file.len();
        let mut panels = vec![0; case.format.packed_bytes(rows, case.cols).unwrap()];
        for (p, panel) in panels.chunks_exact_mut(case.format.panel_bytes(case.cols).unwrap()).enumerate() {
            let row = |lane: usize| case.file.get(p * LANES + lane).map(Vec::as_slice);
            pack_panel(case.format, case.cols, row, panel).unwrap();
        }
        let sums: Vec<i16> = case.q.chunks(16).map(|c| c.iter().map(|&v| i16::from(v)).sum()).collect();
        let x = QuantRows { q: &case.q, d: &case.d, sums: &sums, cols: case.cols, block: BLOCK };
        for tier in cpu.tiers() {
            let mut y = vec![0.0; rows];
            let product = Linear::select(case.format, &cpu.up_to(tier));
            product.run(&mut MatMut::new(&mut y, 1, rows), &panels, Input::Quant(x), Epilogue::default());
            let want: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
            assert_eq!(case.run(&TernaryLookup::select(&cpu.up_to(tier))), want, "{tier} {rows} x {}", case.cols);
        }
    });
}

#[test]
#[should_panic(expected = "room for tables")]
fn too_little_room_for_tables_is_refused() {
    let case = Case::new(Format::TQ2_0, 64, 1, &mut Noise(1));
    let mut packed = vec![0; packed_bytes(64, 256).unwrap()];
    pack(case.format, 64, 256, |r| case.file[r].as_slice(), &mut packed);
    TernaryLookup::select(&Cpu::detect()).run(&mut [0.0; 64], &packed, &case.q, &case.d, &mut [0; 64]);
}
