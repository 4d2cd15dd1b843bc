//! A file of `torch.save`: a zip archive or a legacy one, and the pickles in it.
#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = rin_import::torch_shapes(bytes) {
        black_box(tensors.len());
    }
});
