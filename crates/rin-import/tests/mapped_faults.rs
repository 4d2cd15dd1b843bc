//! Weights that run from the mapping of a `.rin` file are in memory after load: a token whose row nobody has looked at
//! faults no page in. Faults are counted process-wide, so this file has one test.

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};

    use rin_engine::{Engine, LoadOptions};
    use rin_import::{ImportOptions, import};
    use rin_model::ModelFile;
    use rin_testkit::gguf_writer::GgufWriter;

    const VOCAB: u64 = 32_768;
    const DIM: u64 = 256;

    /// Minor and major page faults of this process. Reading them takes no memory.
    fn faults(stat: &File) -> (u64, u64) {
        let mut buffer = [0; 1024];
        let read = stat.read_at(&mut buffer, 0).unwrap();
        // The name, in brackets, may hold anything; the tenth and twelfth fields are the eighth and tenth behind it.
        let name_end = buffer[..read].iter().rposition(|byte| *byte == b')').unwrap();
        let mut fields = str::from_utf8(&buffer[name_end + 1..read]).unwrap().split_ascii_whitespace();
        let mut field = |n| fields.nth(n).unwrap().parse().unwrap();
        (field(7), field(1))
    }

    /// A network of zeros whose embedding, 16 MiB of F16, is read by look-up alone.
    fn write_source(path: &Path) {
        const F32: u32 = 0;
        const F16: u32 = 1;
        const Q4_0: u32 = 2;

        let header = GgufWriter::new(3)
            .kv_str("general.architecture", "llama")
            .kv_u32("llama.context_length", 64)
            .kv_u32("llama.embedding_length", u32::try_from(DIM).unwrap())
            .kv_u32("llama.block_count", 1)
            .kv_u32("llama.feed_forward_length", u32::try_from(DIM).unwrap())
            .kv_u32("llama.attention.head_count", 4)
            .kv_u32("llama.attention.head_count_kv", 4)
            .kv_f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        let norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"].map(|name| (name, vec![DIM], F32, DIM * 4));
        let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
            .map(|name| (name, vec![DIM, DIM], Q4_0, DIM * DIM / 32 * 18));
        let tables = [
            ("token_embd", vec![DIM, VOCAB], F16, DIM * VOCAB * 2),
            ("output", vec![DIM, VOCAB], Q4_0, DIM * VOCAB / 32 * 18),
        ];
        let writer = tables.into_iter().chain(norms).chain(matrices).fold(header, |writer, (name, ne, kind, bytes)| {
            let block = if ne == [DIM, DIM] { "blk.0." } else { "" };
            writer.tensor(&format!("{block}{name}.weight"), &ne, kind, vec![0; usize::try_from(bytes).unwrap()])
        });
        std::fs::write(path, writer.finish()).unwrap();
    }

    #[test]
    fn a_row_that_nobody_has_looked_at_is_in_memory() {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mapped-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (source, model) = (folder.join("a.gguf"), folder.join("a.rin"));
        write_source(&source);
        import(&source, &model, &ImportOptions::default(), &mut |_| {}).unwrap();
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let mut engine = Engine::load(ModelFile::open(&model).unwrap(), &options, |_| {}).unwrap();
        let sequence = engine.sequence().unwrap();
        engine.feed(&sequence, &[0]).unwrap();

        let stat = File::open("/proc/self/stat").unwrap();
        faults(&stat);
        let before = faults(&stat);
        // Far apart in the table: one fault maps a large page of the file cache at most.
        for id in 1..16 {
            engine.feed(&sequence, &[id * 2048]).unwrap();
        }
        assert_eq!(faults(&stat), before, "(minor, major)");
        // The faults of a new page are seen.
        std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(faults(&stat).0 > before.0);
        drop(engine);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[cfg(not(target_os = "linux"))]
#[test]
fn faults_are_counted_on_linux() {
    eprintln!("SKIPPED: page faults are read on Linux");
}
