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
    use serde_json::Value;

    use crate::program::{Place, conformance, json, output, shared, stderr};

    /// Most bytes that a process holds beside its plan: the program with its libraries, stacks, text.
    /// A program without optimisation is the larger one; what is promised holds for a release build.
    const BESIDE_THE_PLAN: u64 = if cfg!(debug_assertions) { 16 << 20 } else { 8 << 20 };

    /// The same per token of the vocabulary: its text, the table to find it by, and what the sampler keeps of it.
    const PER_TOKEN: u64 = 192;

    /// Tokens of the large model.
    const VOCAB: u64 = 32_000;

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
    fn check(place: &Place, model: &Path, n_tokens: u64) -> Option<String> {
        let memory = &run(place, model)["memory"];
        let bytes = |key: &str| memory[key].as_u64().unwrap();
        let (plan, peak) = (bytes("plan_bytes"), bytes("peak_rss_bytes"));
        let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let beside = mib(peak) - mib(plan);
        let row = format!("| {} | {:.2} | {:.2} | {beside:.2} |", file_name(model), mib(plan), mib(peak));
        eprintln!("{row}");
        let beside_at_most = BESIDE_THE_PLAN + n_tokens * PER_TOKEN;
        let fits = plan <= peak + counting_error() && peak <= plan + beside_at_most + counting_error();
        (!fits).then_some(row)
    }

    fn verdict(wrong: &[String]) {
        assert!(
            wrong.is_empty(),
            "not the plan plus at most {BESIDE_THE_PLAN} bytes and {PER_TOKEN} a token: model, plan, peak, difference \
             in MiB\n{}",
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
            wrong.extend(check(&place, &model, 0));
            let imported = place.path(&format!("{}.rin", model.file_stem().unwrap().to_string_lossy()));
            let target = imported.to_str().unwrap();
            let done = output(place.on("import", &model, &["-o", target, "--overwrite", "-q"]));
            assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
            wrong.extend(check(&place, &imported, 0));
        }
        verdict(&wrong);
    }

    /// A header of 500 MB of Q8_0 matrices, and zeros behind it: a hole in the file, which takes no disk.
    fn write_large(path: &Path) {
        const DIM: u64 = 1536;
        const FFN: u64 = 6144;
        const LAYERS: u32 = 12;
        const HEADS: u32 = 24;
        const KV_HEADS: u32 = 8;
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
        let words =
            ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter().chain((0..256).map(|i| format!("<0x{i:02X}>")));
        let words: Vec<String> = words.chain((259..VOCAB).map(|i| format!("\u{2581}t{i}"))).collect();
        let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).chain((259..VOCAB).map(|_| 1)).collect();
        let mut writer = GgufWriter::new(3)
            .kv_str("general.architecture", "llama")
            .kv_u32("llama.context_length", 1024)
            .kv_u32("llama.embedding_length", u32::try_from(DIM).unwrap())
            .kv_u32("llama.block_count", LAYERS)
            .kv_u32("llama.feed_forward_length", u32::try_from(FFN).unwrap())
            .kv_u32("llama.attention.head_count", HEADS)
            .kv_u32("llama.attention.head_count_kv", KV_HEADS)
            .kv_f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
            .kv_str("tokenizer.ggml.model", "llama")
            .kv_strs("tokenizer.ggml.tokens", &words)
            .kv_f32s("tokenizer.ggml.scores", &vec![0.0; words.len()])
            .kv_i32s("tokenizer.ggml.token_type", &kinds)
            .kv_u32("tokenizer.ggml.bos_token_id", 1)
            .kv_u32("tokenizer.ggml.eos_token_id", 2);
        writer = tensor(writer, "token_embd.weight", &[DIM, VOCAB]);
        writer = tensor(writer, "output_norm.weight", &[DIM]);
        let kv = DIM * u64::from(KV_HEADS) / u64::from(HEADS);
        for layer in 0..LAYERS {
            for (name, ne) in [
                ("attn_norm", &[DIM][..]),
                ("ffn_norm", &[DIM]),
                ("attn_q", &[DIM, DIM]),
                ("attn_k", &[DIM, kv]),
                ("attn_v", &[DIM, kv]),
                ("attn_output", &[DIM, DIM]),
                ("ffn_gate", &[DIM, FFN]),
                ("ffn_up", &[DIM, FFN]),
                ("ffn_down", &[FFN, DIM]),
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
        let model = place.path("large.gguf");
        write_large(&model);
        let mut wrong = Vec::from_iter(check(&place, &model, VOCAB));
        let imported = output(place.on("import", &model, &["-o", "large.rin", "-q"]));
        let said = stderr(&imported);
        if said.contains("No space left") || said.contains("disk") {
            eprintln!("SKIPPED: the model of 500 MB as .rin: {said}");
        } else {
            assert_eq!(imported.status.code(), Some(0), "{said}");
            wrong.extend(check(&place, &place.path("large.rin"), VOCAB));
        }
        verdict(&wrong);
    }
}

#[cfg(not(target_os = "linux"))]
#[test]
fn peaks_are_measured_on_linux() {
    eprintln!("SKIPPED: the peak of resident memory is read on Linux");
}
