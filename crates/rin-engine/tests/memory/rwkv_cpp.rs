//! A trained RWKV-7 in the file format of rwkv.cpp, against the logits that its repository publishes.

use super::bits;
use rin_engine::{Engine, LoadOptions};
use rin_model::ModelFile;
use rin_testkit::data::shared;
use rin_testkit::gguf_writer::GgufWriter;

/// A tensor of a file of rwkv.cpp.
struct Tensor {
    name: String,
    /// Fastest dimension first.
    ne: Vec<u64>,
    type_id: u32,
    bytes: Vec<u8>,
}

/// The tensors of a file in F32 or F16. Header: magic, version, vocabulary, width, layers, type; then per tensor the number
/// of dimensions, the length of the name, the type, the dimensions, the name, the numbers.
fn tensors(file: &[u8]) -> Vec<Tensor> {
    let number = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
    assert_eq!((number(0), number(4)), (0x6767_6d66, 101));
    let (mut at, mut all) = (24, Vec::new());
    while at < file.len() {
        let [dims, length, type_id] = [number(at), number(at + 4), number(at + 8)];
        at += 12;
        let ne: Vec<u64> = (0..dims as usize).map(|i| u64::from(number(at + 4 * i))).collect();
        at += 4 * dims as usize;
        let name = String::from_utf8(file[at..at + length as usize].to_vec()).unwrap();
        at += length as usize;
        let size = usize::try_from(ne.iter().product::<u64>()).unwrap() * [4, 2][type_id as usize];
        all.push(Tensor { name, ne, type_id, bytes: file[at..at + size].to_vec() });
        at += size;
    }
    all
}

/// The name that llama.cpp's converter gives a tensor.
fn gguf_name(name: &str) -> String {
    let stem = |rest: &str| match rest {
        "ln1" => "attn_norm".to_owned(),
        "ln2" => "attn_norm_2".to_owned(),
        "att.ln_x" => "time_mix_ln".to_owned(),
        "att.x_rwkvag" => "time_mix_lerp_fused".to_owned(),
        "ffn.x_k" => "channel_mix_lerp_k".to_owned(),
        other => other.replace("att.", "time_mix_").replace("ffn.", "channel_mix_"),
    };
    let (name, kind) = match name.rsplit_once('.') {
        Some((stem, kind @ ("weight" | "bias"))) => (stem, kind),
        _ => (name, "weight"),
    };
    match name {
        "emb" => format!("token_embd.{kind}"),
        "head" => format!("output.{kind}"),
        "ln_out" => format!("output_norm.{kind}"),
        "blocks.0.ln0" => format!("token_embd_norm.{kind}"),
        _ => {
            let (layer, rest) = name.strip_prefix("blocks.").unwrap().split_once('.').unwrap();
            format!("blk.{layer}.{}.{kind}", stem(rest))
        }
    }
}

fn as_gguf(file: &[u8]) -> Vec<u8> {
    let all = tensors(file);
    let of = |name: &str| all.iter().find(|tensor| tensor.name == name).unwrap();
    let number = |n: u64| u32::try_from(n).unwrap();
    let layers = all.iter().filter(|tensor| tensor.name.ends_with(".ln1.weight")).count();
    let mut gguf = GgufWriter::new(3)
        .kv_str("general.architecture", "rwkv7")
        .kv_u32("rwkv7.context_length", 1 << 20)
        .kv_u32("rwkv7.embedding_length", number(of("emb.weight").ne[0]))
        .kv_u32("rwkv7.block_count", u32::try_from(layers).unwrap())
        .kv_u32("rwkv7.feed_forward_length", number(of("blocks.0.ffn.key.weight").ne[1]))
        .kv_u32("rwkv7.wkv.head_size", number(of("blocks.0.att.r_k").ne[0]))
        .kv_f32("rwkv7.attention.layer_norm_epsilon", 1e-5);
    for tensor in all {
        // Rows of numbers are stored with trailing dimensions of 1, which GGUF leaves out.
        let whole = tensor.name.contains("att.x_rwkvag") || tensor.name.ends_with("r_k");
        let ne: Vec<u64> = tensor.ne.iter().copied().filter(|&n| whole || n > 1).collect();
        gguf = gguf.tensor(&gguf_name(&tensor.name), &ne, tensor.type_id, tensor.bytes);
    }
    gguf.finish()
}

#[test]
fn a_trained_network_has_the_logits_that_are_published() {
    let Some(folder) = shared("models/rwkv") else { return };
    let expected: Vec<f32> = std::fs::read(folder.join("expected-logits-7v0-834K.bin"))
        .unwrap()
        .chunks_exact(4)
        .map(|x| f32::from_le_bytes(*x.first_chunk().unwrap()))
        .collect();
    let spread = |x: &[f32]| x.iter().copied().fold(f32::MIN, f32::max) - x.iter().copied().fold(f32::MAX, f32::min);
    // Half precision rounds weights, which the published logits of single precision do not know.
    for (name, tolerance) in [("FP32", 1e-4), ("FP16", 5e-3)] {
        let file = std::fs::read(folder.join(format!("tiny-rwkv-7v0-834K-{name}.bin"))).unwrap();
        let gguf = as_gguf(&file);
        let load = || {
            let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
            Engine::load(ModelFile::from_bytes("rwkv.gguf", gguf.clone()).unwrap(), &options, |_| {}).unwrap()
        };
        let mut engine = load();
        let sequence = engine.sequence().unwrap();
        let got = engine.feed(&sequence, &[0x22, 0x69, 0x6e]).unwrap().to_vec();
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        eprintln!("{name}: {:e} of the range", worst / spread(&expected));
        assert!(worst <= tolerance * spread(&expected), "{name}: off by {worst} of {}", spread(&expected));
        let mut again = load();
        let sequence = again.sequence().unwrap();
        let one_by_one = [0x22, 0x69, 0x6e].map(|id| bits(again.feed(&sequence, &[id]).unwrap()));
        assert_eq!(one_by_one[2], bits(&got), "token by token");
    }
}
