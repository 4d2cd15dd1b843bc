//! After load and warm-up: no allocation, no page fault, no system call but those of waiting and writing.
//!
//! Each test runs again in a process of its own, where nothing else counts: `cargo test` runs tests side by side.

#[cfg(test)]
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::hint::black_box;
    use std::io::Write;
    use std::ops::ControlFlow;
    use std::os::unix::fs::FileExt;
    use std::os::unix::process::ExitStatusExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};
    use std::time::Duration;

    use rin_engine::generate::{Listener, Request, generate};
    use rin_engine::sampler::SamplingParams;
    use rin_engine::tokenizer::Tokenizer;
    use rin_engine::{Engine, LoadOptions};
    use rin_kernels::alloc::{CountingAllocator, allocations};
    use rin_kernels::ops::attention::KvType;
    use rin_model::ModelFile;
    use rin_testkit::data::{conformance, shared};
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};

    #[global_allocator]
    static GLOBAL: CountingAllocator = CountingAllocator;

    /// What a process of its own is for; not set in the process that starts it.
    const ROLE: &str = "RIN_NO_SURPRISE_ROLE";

    /// Ends a child that cannot do what it is for.
    const CANNOT: i32 = 77;

    const PROMPT: [u32; 64] = {
        let mut ids = [3; 64];
        let mut i = 1;
        while i < ids.len() {
            ids[i] = 3 + (ids[i - 1] + 4) % 61;
            i += 1;
        }
        ids
    };
    const DECODED: usize = 200;
    /// Enough for the text to fill several pages of memory.
    const GENERATED: usize = 3000;

    fn role() -> Option<String> {
        std::env::var(ROLE).ok()
    }

    /// Runs one test of this file in a process of its own.
    fn alone(test: &str, role: &str) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("tests::{test}"), "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
        command.output().unwrap()
    }

    fn words(output: &Output) -> String {
        format!(
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// Whether a child said that this system lacks what it needs; the words are passed on.
    fn skipped(output: &Output) -> bool {
        let skipped = output.status.code() == Some(CANNOT);
        if skipped {
            eprintln!("SKIPPED: {}", words(output));
        }
        skipped
    }

    fn cannot(why: &str) -> ! {
        println!("{why}");
        std::process::exit(CANNOT)
    }

    fn load(path: &Path, kv: KvType, threads: usize, decoded: usize) -> Engine {
        let options = LoadOptions {
            threads: Some(threads),
            kv_type: Some(kv),
            ctx: Some(PROMPT.len() + decoded),
            ..LoadOptions::default()
        };
        Engine::load(ModelFile::open(path).unwrap(), &options, |_| {}).unwrap()
    }

    fn most_probable(logits: &[f32]) -> u32 {
        let mut best = 0;
        for (i, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = i;
            }
        }
        u32::try_from(best).unwrap()
    }

    /// Feeds [`PROMPT`] at once and then tokens one by one, greedily.
    fn steps(engine: &mut Engine, decoded: usize) {
        let sequence = engine.sequence().unwrap();
        let mut id = most_probable(engine.feed(&sequence, &PROMPT).unwrap());
        for _ in 0..decoded {
            id = most_probable(engine.feed(&sequence, &[id]).unwrap());
        }
        engine.release(sequence);
    }

    /// Page faults of this process, all threads together: the numbers that `getrusage` gives as `ru_minflt` and
    /// `ru_majflt`. Reading them takes no memory.
    struct Faults(File);

    impl Faults {
        fn new() -> Self {
            let faults = Self(File::open("/proc/self/stat").unwrap());
            let before = faults.now();
            // One fault per page, or per huge page.
            drop(black_box(vec![1_u8; 64 << 20]));
            if faults.now().0 < before.0 + 16 {
                cannot("this system does not count page faults");
            }
            faults
        }

        /// Minor and major ones.
        fn now(&self) -> (u64, u64) {
            let mut buffer = [0; 1024];
            let read = self.0.read_at(&mut buffer, 0).unwrap();
            // The name, in brackets, may hold anything; the tenth and twelfth fields are the eighth and tenth behind it.
            let name_end = buffer[..read].iter().rposition(|byte| *byte == b')').unwrap();
            let mut fields = str::from_utf8(&buffer[name_end + 1..read]).unwrap().split_ascii_whitespace();
            let mut field = |n| fields.nth(n).unwrap().parse().unwrap();
            (field(7), field(1))
        }
    }

    /// Every page of code that this process has mapped is made ready by reading it. Which of it runs depends on how
    /// threads meet (who waits for whom, and for how long), so no number of warm-up steps would touch it for certain.
    fn touch_code() {
        let memory = File::open("/proc/self/mem").unwrap();
        for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let mut words = line.split_ascii_whitespace();
            let (range, rights) = (words.next().unwrap(), words.next().unwrap());
            let (start, end) = range.split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            // What the kernel maps into every process lies beyond what a file offset can say.
            if rights.contains('x') && address(end) < 1 << 62 {
                for page in (address(start)..address(end)).step_by(4096) {
                    drop(memory.read_at(&mut [0], page));
                }
            }
        }
    }

    fn models() -> Vec<PathBuf> {
        let tiny = [
            "tiny-llama",
            "tiny-llama-tied",
            "tiny-llama-b32/tiny-llama-b32-q4_0.gguf",
            "tiny-llama-b32/tiny-llama-b32-q8_0.gguf",
            "tiny-llama-k256/tiny-llama-k256-q4_k.gguf",
            "tiny-llama-k256/tiny-llama-k256-q6_k.gguf",
            "tiny-llama3",
            "tiny-mistral",
            "tiny-qwen2",
        ];
        let stories = ["stories260K.gguf", "stories260K-Q4_0.gguf", "stories260K-Q8_0.gguf"];
        let tiny = tiny.iter().map(|name| conformance("models").join(name));
        let stories = stories.iter().filter_map(|name| shared(&format!("models/stories260k/{name}")));
        let embedded = conformance("../models/embedded/rin-shakespeare.rin");
        tiny.chain(stories).chain(Some(embedded).filter(|path| path.exists())).collect()
    }

    /// The variants of a step's surroundings: workers and how keys and values are stored.
    fn settings() -> impl Iterator<Item = (usize, KvType)> {
        [1, 2, 3].into_iter().flat_map(|threads| [KvType::F32, KvType::F16, KvType::Q8].map(|kv| (threads, kv)))
    }

    #[test]
    fn steps_neither_fault_nor_allocate() {
        if role().is_none() {
            let output = alone("steps_neither_fault_nor_allocate", "measure");
            assert!(output.status.success() || skipped(&output), "{}", words(&output));
            return;
        }
        let faults = Faults::new();
        let mut surprises = Vec::new();
        for path in models() {
            for (threads, kv) in settings() {
                let mut engine = load(&path, kv, threads, DECODED);
                touch_code();
                steps(&mut engine, 1);
                let before = (faults.now(), allocations());
                steps(&mut engine, DECODED);
                let after = (faults.now(), allocations());
                if before != after {
                    surprises.push(format!("{}, {threads} threads, {kv}: {before:?} {after:?}", path.display()));
                }
            }
        }
        assert!(surprises.is_empty(), "((minor, major) faults, allocations):\n{}", surprises.join("\n"));
    }

    /// Hears a generation and tells `at` how many tokens it has got to.
    struct Watch<F> {
        heard: usize,
        at: F,
    }

    impl<F: FnMut(usize)> Listener for Watch<F> {
        fn text(&mut self, _text: &str) -> ControlFlow<()> {
            self.heard += 1;
            (self.at)(self.heard);
            ControlFlow::Continue(())
        }
    }

    fn request(max_tokens: usize) -> Request {
        let sampling = SamplingParams { temp: 1.1, repeat_penalty: 1.1, ..SamplingParams::default() };
        let stop = vec!["never seen in this text".to_owned()];
        Request {
            prompt: PROMPT.to_vec(),
            max_tokens: Some(max_tokens),
            sampling,
            stop,
            ignore_eos: true,
            ..Request::default()
        }
    }

    /// The loop around the engine as well: sampling, text, stop strings, digest.
    #[test]
    fn generating_neither_faults_nor_allocates() {
        if role().is_none() {
            let output = alone("generating_neither_faults_nor_allocates", "measure");
            assert!(output.status.success() || skipped(&output), "{}", words(&output));
            return;
        }
        let faults = Faults::new();
        let source = ModelFile::open(&conformance("models/tiny-llama")).unwrap();
        let tokenizer = Tokenizer::from_source(&source.tokenizer().unwrap()).unwrap();
        let mut surprises = Vec::new();
        for threads in [1, 2, 3] {
            let path = conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf");
            let mut engine = load(&path, KvType::F16, threads, GENERATED);
            touch_code();
            let (mut first, mut last) = (None, None);
            let at = |heard| match heard {
                // The second token comes from the first single step.
                2 => first = Some((faults.now(), allocations())),
                GENERATED => last = Some((faults.now(), allocations())),
                _ => (),
            };
            let outcome =
                generate(&mut engine, Some(&tokenizer), &request(GENERATED), &mut Watch { heard: 0, at }).unwrap();
            assert!(first.is_some() && last.is_some());
            if first != last {
                surprises.push(format!("{threads} threads, {} bytes: {first:?} {last:?}", outcome.text.len()));
            }
        }
        assert!(surprises.is_empty(), "((minor, major) faults, allocations):\n{}", surprises.join("\n"));
    }

    /// All that a step may ask of the system: to wait, to wake, to tell the time, to write out text, to end. Stricter
    /// than a list of what is forbidden: `mmap`, `munmap`, `mremap`, `brk`, `madvise`, `mprotect`, `open`, `clone` and
    /// every other call ends the process.
    fn filter() -> BpfProgram {
        let permitted = [
            libc::SYS_futex,
            libc::SYS_sched_yield,
            libc::SYS_restart_syscall,
            libc::SYS_rt_sigreturn,
            // Where the clock cannot be read without a call.
            libc::SYS_clock_gettime,
            libc::SYS_write,
            libc::SYS_exit_group,
        ];
        let rules: BTreeMap<_, _> = permitted.into_iter().map(|call| (call, Vec::new())).collect();
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch).unwrap().try_into().unwrap()
    }

    /// Puts all threads under the filter. Takes no memory where it succeeds.
    fn confine(filter: &BpfProgram) {
        if let Err(error) = apply_filter_all_threads(filter) {
            cannot(&format!("system calls cannot be filtered here: {error}"));
        }
    }

    fn say(line: &[u8]) {
        let mut out = std::io::stdout().lock();
        out.write_all(line).and_then(|()| out.flush()).unwrap();
    }

    /// Ends the process with `exit_group` alone: the orderly end gives memory back, which the filter forbids.
    fn done() -> ! {
        say(b"done\n");
        signal_hook::low_level::exit(0)
    }

    fn confined_child(role: &str) {
        let filter = filter();
        say(b"\n");
        let threads = if role.ends_with('3') { 3 } else { 2 };
        let path = conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf");
        let mut engine = load(&path, KvType::F16, threads, DECODED);
        match role {
            "steps2" | "steps3" => {
                steps(&mut engine, 1);
                // Long enough for all workers to fall asleep, so that the first step under the filter has to wake them.
                std::thread::sleep(Duration::from_millis(20));
                confine(&filter);
                steps(&mut engine, DECODED);
                done();
            }
            "generate2" | "generate3" => {
                let source = ModelFile::open(&conformance("models/tiny-llama")).unwrap();
                let tokenizer = Tokenizer::from_source(&source.tokenizer().unwrap()).unwrap();
                let at = |heard| match heard {
                    2 => confine(&filter),
                    102 => done(),
                    // Text is written as it comes.
                    _ => say(b"."),
                };
                generate(&mut engine, Some(&tokenizer), &request(DECODED), &mut Watch { heard: 0, at }).unwrap();
            }
            "allocate" => {
                confine(&filter);
                drop(black_box(vec![0_u8; 64 << 20]));
                done();
            }
            "open" => {
                confine(&filter);
                drop(File::open("/proc/self/stat"));
                done();
            }
            "spawn" => {
                confine(&filter);
                drop(std::thread::spawn(|| ()).join());
                done();
            }
            _ => unreachable!("no such role"),
        }
    }

    #[test]
    fn steps_make_no_system_call_but_to_wait_and_write() {
        const NAME: &str = "steps_make_no_system_call_but_to_wait_and_write";
        /// `SIGSYS` of both architectures.
        const BAD_SYSTEM_CALL: i32 = 31;

        if let Some(role) = role() {
            return confined_child(&role);
        }
        for role in ["steps2", "steps3", "generate2", "generate3"] {
            let output = alone(NAME, role);
            if skipped(&output) {
                return;
            }
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.ends_with("done\n"), "{role}: {}", words(&output));
        }
        for role in ["allocate", "open", "spawn"] {
            let output = alone(NAME, role);
            assert_eq!(output.status.signal(), Some(BAD_SYSTEM_CALL), "{role}: {}", words(&output));
        }
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[test]
fn surprises_are_measured_on_linux() {
    eprintln!("SKIPPED: page faults and system calls are measured on Linux on x86-64 and AArch64");
}
