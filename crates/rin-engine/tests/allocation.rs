//! Nothing is allocated after load, on any thread. The counter is process-wide, so this file has one test.

use std::ops::ControlFlow;

use rin_engine::generate::{Drafter, Listener, Request, Silent, continue_with, generate};
use rin_engine::sampler::SamplingParams;
use rin_engine::tokenizer::Tokenizer;
use rin_engine::{Engine, LoadOptions};
use rin_kernels::alloc::{CountingAllocator, allocations};
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::conformance;

#[global_allocator]
static GLOBAL: CountingAllocator = CountingAllocator;

/// Asks for another number of threads before each step.
struct Restless(usize);

impl Listener for Restless {
    fn text(&mut self, _: &str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn threads(&mut self) -> Option<usize> {
        self.0 += 1;
        Some(self.0 * 7 % 5 + 1)
    }
}

#[test]
fn nothing_is_allocated_after_load() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert!(allocations() > before, "the counter counts");

    for (path, kv, threads) in [
        ("models/tiny-llama", KvType::F32, 1),
        ("models/tiny-llama", KvType::F16, 3),
        ("models/tiny-llama-b32/tiny-llama-b32-q4_0.gguf", KvType::Q8, 2),
        ("models/tiny-llama-k256/tiny-llama-k256-q4_k.gguf", KvType::F16, 5),
        ("models/tiny-qwen2", KvType::F16, 2),
    ] {
        let options = LoadOptions {
            threads: Some(threads),
            kv_type: Some(kv),
            ctx: Some(200),
            n_batch: 32,
            n_logits: 5,
            ..LoadOptions::default()
        };
        let file = ModelFile::open(&conformance(path)).unwrap();
        let mut engine = Engine::load(file, &options, |_| {}).unwrap();
        let source = ModelFile::open(&conformance("models/tiny-llama")).unwrap();
        let tokenizer = Tokenizer::from_source(&source.tokenizer().unwrap()).unwrap();
        let sampling = SamplingParams {
            temp: 1.1,
            typical_p: 0.9,
            repeat_penalty: 1.1,
            frequency_penalty: 0.1,
            logit_bias: vec![(3, 1.0)],
            ..SamplingParams::default()
        };
        let request = Request {
            prompt: (1..100).collect(),
            max_tokens: Some(60),
            sampling,
            stop: vec!["never seen in this text".to_owned()],
            ignore_eos: true,
            max_draft: 4,
            ..Request::default()
        };
        let mut digests = Vec::new();
        for _ in 0..2 {
            let outcome = generate(&mut engine, Some(&tokenizer), &request, &mut Silent).unwrap();
            assert_eq!(outcome.tokens.len(), 60);
            assert_eq!(outcome.allocations, 0, "{path} with {kv} on {threads} threads");
            digests.push(outcome.digest.to_string());
        }
        engine.forget_prefixes();
        let outcome = generate(&mut engine, Some(&tokenizer), &request, &mut Restless(0)).unwrap();
        assert_eq!(outcome.allocations, 0, "{path} with workers that rest now and then");
        assert!(digests.iter().all(|digest| *digest == outcome.digest.to_string()), "{path}: bits depend on workers");
        assert!(engine.active_threads() <= engine.threads() && engine.threads() == threads);
        engine.set_active_threads(threads);
        // Guesses, several sequences and what follows a shared prefix allocate as little.
        let mut sequence = engine.admit(&request.prompt, 200).unwrap();
        assert_eq!(engine.position(&sequence), 64, "the first page is there");
        let mut drafter = Drafter::Lookup;
        let greedy = Request { sampling: SamplingParams { temp: 0.0, ..SamplingParams::default() }, ..request };
        let guess = Some(&mut drafter);
        let outcome = continue_with(&mut engine, &mut sequence, Some(&tokenizer), &greedy, guess, &mut Silent).unwrap();
        assert_eq!((outcome.tokens.len(), outcome.allocations), (60, 0), "{path} with guesses");
        engine.release(sequence);
    }
}
