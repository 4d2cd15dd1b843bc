//! A GGUF file: header, network, tensors, vocabulary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rin_fuzz::visit;

fuzz_target!(|bytes: &[u8]| visit("fuzz.gguf", bytes));
