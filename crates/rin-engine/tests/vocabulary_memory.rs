//! What a tokenizer holds on the heap, counted, against what was planned for it.
#![expect(unsafe_code, reason = "the allocator interface is unsafe; every call goes on to the system's allocator")]

#[cfg(test)]
mod heap {
    //! One allocator counts for all tests, thread by thread.

    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::path::Path;

    use rin_engine::sampler::{Sampler, SamplingParams};
    use rin_engine::tokenizer::Tokenizer;
    use rin_model::{GgufVocab, ModelFile, TokenizerSource};
    use rin_testkit::gguf_writer::GgufWriter;
    use rin_testkit::vocabulary;

    thread_local! {
        static HELD: Cell<usize> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    // SAFETY: each method passes its arguments on to `System` and returns what that returns; counting touches only a
    // thread-local integer and allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            HELD.set(HELD.get().wrapping_add(layout.size()));
            // SAFETY: the caller keeps the conditions of `alloc`, which are `System`'s.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            HELD.set(HELD.get().wrapping_sub(layout.size()));
            // SAFETY: the block came from `System` with this layout, as the caller promises.
            unsafe { System.dealloc(block, layout) }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            HELD.set(HELD.get().wrapping_add(size).wrapping_sub(layout.size()));
            // SAFETY: the block came from `System` with this layout, and the size fits, as the caller promises.
            unsafe { System.realloc(block, layout, size) }
        }
    }

    /// What `work` makes, and the bytes that it still holds.
    fn held_by<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let before = HELD.get();
        let made = work();
        (made, HELD.get().wrapping_sub(before))
    }

    fn held(source: &TokenizerSource<'_>) -> usize {
        // What is made once for the whole program must not count.
        drop(Tokenizer::from_source(source).unwrap());
        let (tokenizer, held) = held_by(|| Tokenizer::from_source(source).unwrap());
        drop(tokenizer);
        held
    }

    /// A byte-level vocabulary whose tokens are the 256 bytes alone: what it holds is the pattern that cuts words.
    fn of_bytes_alone(pre: &str) -> Vec<u8> {
        let printable = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let shifted = (0..256).filter(|byte| !printable(*byte)).zip(256..);
        let chars = (0..256).filter(|byte| printable(*byte)).chain(shifted.map(|(_, code)| code));
        let tokens: Vec<String> = chars.map(|code| char::from_u32(code).unwrap().to_string()).collect();
        GgufWriter::new(3)
            .kv_str("tokenizer.ggml.model", "gpt2")
            .kv_str("tokenizer.ggml.pre", pre)
            .kv_strs("tokenizer.ggml.tokens", &tokens)
            .kv_strs("tokenizer.ggml.merges", &Vec::<String>::new())
            .finish()
    }

    /// What a plan keeps for the ids that end a text; the vocabulary of bytes alone has none.
    const ROOM_FOR_ENDS: usize = 16 * size_of::<u32>();

    /// Bytes of the pattern of a pre-tokenizer.
    fn of_pattern(pre: &str) -> usize {
        let bytes = of_bytes_alone(pre);
        let source = TokenizerSource::Gguf(GgufVocab::parse(&bytes).unwrap());
        held(&source) - (Tokenizer::planned_bytes(&source).unwrap() - ROOM_FOR_ENDS)
    }

    /// Held is at most planned, planned at most a tenth above held. `fixed` is what does not grow with the vocabulary.
    fn check(name: &str, source: &TokenizerSource<'_>, fixed: usize) {
        let planned = Tokenizer::planned_bytes(source).unwrap();
        let held = held(source) - fixed;
        eprintln!("{name}: {planned} bytes planned, {held} held, {fixed} beside them");
        assert!(held <= planned, "{name}: {held} bytes are held, {planned} were planned");
        assert!(planned * 10 <= held * 11, "{name}: {held} bytes are held, {planned} were planned");
    }

    #[test]
    fn vocabularies_of_others_take_what_is_planned() {
        for (name, pre) in
            [("gpt-2", "gpt-2"), ("mpt", "mpt"), ("starcoder", "starcoder"), ("llama-spm", ""), ("baichuan", "")]
        {
            let Some(path) = rin_testkit::data::shared(&format!("tokenizers/ggml-vocab-{name}.gguf")) else { return };
            let bytes = std::fs::read(path).unwrap();
            let source = TokenizerSource::Gguf(GgufVocab::parse(&bytes).unwrap());
            check(name, &source, if pre.is_empty() { 0 } else { of_pattern(pre) });
        }
    }

    #[test]
    fn a_large_vocabulary_takes_what_is_planned() {
        for pre in ["dbrx", "llama-bpe"] {
            // Words that are tokens are merged by the one and looked up by the other.
            let bytes = vocabulary::byte_level(GgufWriter::new(3), pre, 128_000).finish();
            let source = TokenizerSource::Gguf(GgufVocab::parse(&bytes).unwrap());
            check(&format!("128,000 tokens, {pre}"), &source, of_pattern(pre));
        }
    }

    #[test]
    fn a_tokenizer_json_takes_at_most_what_is_planned() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/models");
        let mut seen = 0;
        for entry in std::fs::read_dir(models).unwrap() {
            let folder = entry.unwrap().path();
            let Ok(file) = ModelFile::open(&folder) else { continue };
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let pattern = [("llama3", "llama-bpe"), ("qwen2", "qwen2"), ("gpt2", "gpt-2")]
                .into_iter()
                .find(|(part, _)| name.contains(part));
            check(&name, &file.tokenizer().unwrap(), pattern.map_or(0, |(_, pre)| of_pattern(pre)));
            seen += 1;
        }
        assert!(seen >= 2, "{seen} folders have a tokenizer.json");
    }

    #[test]
    fn a_sampler_takes_what_is_planned() {
        let defaults = SamplingParams::default;
        for params in [
            defaults(),
            SamplingParams { temp: 0.0, ..defaults() },
            SamplingParams { typical_p: 0.9, ..defaults() },
            SamplingParams { typical_p: 0.9, top_k: 0, ..defaults() },
            SamplingParams { typical_p: 0.9, top_k: 5000, ..defaults() },
        ] {
            let planned = Sampler::bytes(&params, 1000);
            let (sampler, held) = held_by(|| Sampler::new(params, 1000).unwrap());
            assert_eq!(held, planned, "{:?}", sampler.params());
        }
    }
}
