//! `config.json` and, after a NUL byte, `generation_config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rin_model::Config;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let config = parts.next().unwrap_or_default();
    if let Ok(config) = Config::from_hf(config, parts.next()) {
        config.validate().expect("what was read is valid");
    }
});
