//! Peak memory: what the system counted, against what the plan said, for every format and for a large model.

#[cfg(test)]
#[cfg(target_os = "linux")]
#[path = "cli/program.rs"]
#[expect(dead_code, reason = "the other test binary uses all of it")]
mod program;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use rin_testkit::gguf_writer::GgufWriter;
    use rin_testkit::vocabulary;
    use serde_json::Value;

    use crate::program::{Place, conformance, json, output, shared, stderr};

    /// Most bytes that a process holds beside its plan: the program with its libraries, stacks, text.
    /// A program without optimisation is the larger one; what is promised holds for a release build.
    const BESIDE_THE_PLAN: u64 = if cfg!(debug_assertions) { 16 << 20 } else { 8 << 20 };

    /// Linux (from 6.2) counts a process's pages per processor, and adds these counts up in batches.
    fn counting_error() -> u64 {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        processors * (2 * processors).max(32) * 4096
    }

    fn run(place: &Place, model: &Path) -> Value {
        let arguments = ["--tokens", "1,2,3", "-n", "8", "--ignore-eos", "--json", "-q"];
        json(&output(place.on("run", model, &arguments)))
    }

    /// Holds the peak of a run against its plan; says what is wrong.
    fn check(place: &Place, model: &Path) -> Option<String> {
        let memory = &run(place, model)["memory"];
        let bytes = |key: &str| memory[key].as_u64().unwrap();
        let (plan, peak) = (bytes("plan_bytes"), bytes("peak_rss_bytes"));
        let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let beside = mib(peak) - mib(plan);
        let row = format!("| {} | {:.2} | {:.2} | {beside:.2} |", file_name(model), mib(plan), mib(peak));
        eprintln!("{row}");
        let fits = plan <= peak + counting_error() && peak <= plan + BESIDE_THE_PLAN + counting_error();
        (!fits).then_some(row)
    }

    fn verdict(wrong: &[String]) {
        assert!(
            wrong.is_empty(),
            "not the plan plus at most {BESIDE_THE_PLAN} bytes: model, plan, peak, difference in MiB\n{}",
            wrong.join("\n")
        );
    }

    /// Every folder and GGUF file of the repository's models.
    fn tiny_models() -> Vec<PathBuf> {
        let entries = |folder: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let folders = entries(&conformance("models"));
        let files = folders.iter().flat_map(|folder| entries(folder));
        let ggufs = files.filter(|file| file.extension().is_some_and(|extension| extension == "gguf"));
        let with_config = folders.iter().filter(|folder| folder.join("model.safetensors").exists()).cloned();
        let mut models: Vec<_> = ggufs.chain(with_config).collect();
        models.extend(shared("models/stories260k/stories260K.gguf"));
        models.sort();
        models
    }

    #[test]
    fn the_peak_is_the_plan_plus_a_constant_for_every_format() {
        let place = Place::new();
        let mut wrong = Vec::new();
        for model in tiny_models() {
            wrong.extend(check(&place, &model));
            let imported = place.path(&format!("{}.rin", model.file_stem().unwrap().to_string_lossy()));
            let target = imported.to_str().unwrap();
            let done = output(place.on("import", &model, &["-o", target, "--overwrite", "-q"]));
            assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
            wrong.extend(check(&place, &imported));
        }
        verdict(&wrong);
    }

    /// A network of Q8_0 matrices.
    struct Shape {
        dim: u64,
        ffn: u64,
        layers: u32,
        heads: u32,
        kv_heads: u32,
        vocab: u64,
    }

    /// A header, and zeros behind it: a hole in the file, which takes no disk.
    fn write_model(path: &Path, shape: &Shape, vocabulary: impl FnOnce(GgufWriter, usize) -> GgufWriter) {
        const F32: u32 = 0;
        const Q8_0: u32 = 8;

        let mut end = 0;
        let mut tensor = |writer: GgufWriter, name: &str, ne: &[u64]| {
            let (kind, bytes) = match ne {
                [cols] => (F32, cols * 4),
                _ => (Q8_0, ne.iter().product::<u64>() / 32 * 34),
            };
            let offset = end;
            end = (end + bytes).next_multiple_of(32);
            writer.tensor_at(name, ne, kind, offset, Vec::new())
        };
        let &Shape { dim, ffn, layers, heads, kv_heads, vocab } = shape;
        let mut writer = GgufWriter::new(3)
            .kv_str("general.architecture", "llama")
            .kv_u32("llama.context_length", 1024)
            .kv_u32("llama.embedding_length", u32::try_from(dim).unwrap())
            .kv_u32("llama.block_count", layers)
            .kv_u32("llama.feed_forward_length", u32::try_from(ffn).unwrap())
            .kv_u32("llama.attention.head_count", heads)
            .kv_u32("llama.attention.head_count_kv", kv_heads)
            .kv_f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        writer = vocabulary(writer, usize::try_from(vocab).unwrap());
        writer = tensor(writer, "token_embd.weight", &[dim, vocab]);
        writer = tensor(writer, "output_norm.weight", &[dim]);
        let kv = dim * u64::from(kv_heads) / u64::from(heads);
        for layer in 0..layers {
            for (name, ne) in [
                ("attn_norm", &[dim][..]),
                ("ffn_norm", &[dim]),
                ("attn_q", &[dim, dim]),
                ("attn_k", &[dim, kv]),
                ("attn_v", &[dim, kv]),
                ("attn_output", &[dim, dim]),
                ("ffn_gate", &[dim, ffn]),
                ("ffn_up", &[dim, ffn]),
                ("ffn_down", &[ffn, dim]),
            ] {
                writer = tensor(writer, &format!("blk.{layer}.{name}.weight"), ne);
            }
        }
        let header = writer.finish();
        let mut file = File::create(path).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(header.len() as u64 + end).unwrap();
    }

    fn has_memory_for(needed: u64) -> bool {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
        let available = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        if available < needed {
            eprintln!("SKIPPED: {available} bytes of memory are available, a model of 500 MB is tested with {needed}");
        }
        available >= needed
    }

    #[test]
    fn the_peak_is_the_plan_plus_a_constant_for_a_large_model() {
        if !has_memory_for(2 << 30) {
            return;
        }
        let place = Place::new();
        let shape = Shape { dim: 1536, ffn: 6144, layers: 12, heads: 24, kv_heads: 8, vocab: 32_000 };
        write_model(&place.path("large.gguf"), &shape, vocabulary::sentence_piece);
        verdict(&check_with_copies(&place, &[("large.gguf", "import", "large.rin")]));
    }

    /// 128,000 tokens, nearly twice as many merges, and every whole word looked up: the vocabulary weighs a fifth of the
    /// matrices.
    #[test]
    fn the_peak_is_the_plan_plus_a_constant_for_a_large_vocabulary() {
        let place = Place::new();
        let shape = Shape { dim: 256, ffn: 512, layers: 1, heads: 4, kv_heads: 4, vocab: 128_000 };
        let write = |writer, n| vocabulary::byte_level(writer, "llama-bpe", n);
        write_model(&place.path("words.gguf"), &shape, write);
        let copies = [
            ("words.gguf", "import", "words.rin"),
            ("words.gguf", "export", "words"),
            ("words", "import", "again.rin"),
        ];
        verdict(&check_with_copies(&place, &copies));
    }

    /// Checks the first model, then each copy that a command makes of one.
    fn check_with_copies(place: &Place, copies: &[(&str, &str, &str)]) -> Vec<String> {
        let mut wrong: Vec<_> = copies.first().and_then(|copy| check(place, &place.path(copy.0))).into_iter().collect();
        for (source, command, target) in copies {
            let done = output(place.on(command, &place.path(source), &["-o", target, "-q"]));
            let said = stderr(&done);
            if said.contains("No space left") || said.contains("disk") {
                eprintln!("SKIPPED: {target}: {said}");
                break;
            }
            assert_eq!(done.status.code(), Some(0), "{said}");
            wrong.extend(check(place, &place.path(target)));
        }
        wrong
    }
}

#[cfg(not(target_os = "linux"))]
#[test]
fn peaks_are_measured_on_linux() {
    eprintln!("SKIPPED: the peak of resident memory is read on Linux");
}
