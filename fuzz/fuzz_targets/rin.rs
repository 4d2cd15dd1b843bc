//! A `.rin` file: header, network, tensors, tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rin_fuzz::visit;

fuzz_target!(|bytes: &[u8]| visit("fuzz.rin", bytes));
