//! An HDF5 file.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    black_box(rin_model::hdf5::read(bytes).is_ok());
});
