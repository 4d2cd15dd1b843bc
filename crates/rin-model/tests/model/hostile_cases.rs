//! The hostile files: each with the row of the list, its name, and the kind of error that it must produce.

use rin_model::rin_format::{KEY_CONFIG, KEY_NUMERICS, KEY_TENSORS, KEY_VERSION};
use rin_testkit::gguf_writer::{GgufWriter, array, string, value_type};
use rin_testkit::safetensors_writer::{SafetensorsWriter, file};

use crate::rin::rin;
use crate::tiny::{DIM, VOCAB, gguf, gguf_keys, values};

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) bytes: Vec<u8>,
}

fn case(name: &'static str, kind: &'static str, bytes: Vec<u8>) -> Case {
    Case { name, kind, bytes }
}

const I8: u32 = 24;
const F32: u32 = 0;

pub(crate) fn all() -> Vec<Case> {
    [magic_and_counts(), keys(), shapes(), placement(), configuration(), vocabulary(), safetensors(), rin_files()]
        .into_iter()
        .flatten()
        .collect()
}

/// Rows 1 to 3.
fn magic_and_counts() -> Vec<Case> {
    let version = |version| GgufWriter::new(version).finish();
    let empty = GgufWriter::new(3);
    let key = |value: &[u8]| GgufWriter::new(3).kv_raw("k", value_type::STRING, value).finish();
    vec![
        case("01-magic.gguf", "BadMagic", gguf().magic(*b"GGUX").finish()),
        case("01-magic-swapped.gguf", "WrongEndian", gguf().magic(*b"FUGG").finish()),
        case("01-version-0.gguf", "UnsupportedVersion", version(0)),
        case("01-version-1.gguf", "UnsupportedVersion", version(1)),
        case("01-version-4.gguf", "UnsupportedVersion", version(4)),
        case("01-version-swapped.gguf", "WrongEndian", version(3_u32.swap_bytes())),
        case("01-zip.bin", "NotAModel", b"PK\x03\x04 and so on".to_vec()),
        case("01-empty.bin", "NotAModel", Vec::new()),
        case("02-keys-5e8.gguf", "CountExceedsFile", empty.clone().claim_keys(500_000_000).finish()),
        case("02-keys-max.gguf", "CountExceedsFile", empty.clone().claim_keys(u64::MAX).finish()),
        case("02-tensors-5e8.gguf", "CountExceedsFile", empty.clone().claim_tensors(500_000_000).finish()),
        case("02-tensors-max.gguf", "CountExceedsFile", empty.claim_tensors(u64::MAX).finish()),
        case("03-string-max.gguf", "LengthExceedsFile", key(&u64::MAX.to_le_bytes())),
        case("03-string-one-more.gguf", "LengthExceedsFile", key(&[&4_u64.to_le_bytes()[..], b"abc"].concat())),
        case("03-key-max.gguf", "LengthExceedsFile", {
            let mut bytes = GgufWriter::new(3).claim_keys(1).finish();
            bytes.extend(u64::MAX.to_le_bytes());
            bytes.extend([0; 16]);
            bytes
        }),
        case(
            "03-string-in-array-max.gguf",
            "LengthExceedsFile",
            GgufWriter::new(3)
                .kv_raw("k", value_type::ARRAY, &array(value_type::STRING, 1, &u64::MAX.to_le_bytes()))
                .finish(),
        ),
    ]
}

/// Rows 4 and 5.
fn keys() -> Vec<Case> {
    let raw = |type_id, value: &[u8]| GgufWriter::new(3).kv_raw("k", type_id, value).finish();
    let inner = array(value_type::U8, 1, &[0]);
    let a = string(b"a");
    let tensor = |name: &str| gguf_keys().tensor(name, &[4], F32, vec![0; 16]).tensor(name, &[4], F32, vec![0; 16]);
    vec![
        case("04-array-of-arrays.gguf", "DepthLimit", raw(value_type::ARRAY, &array(value_type::ARRAY, 1, &inner))),
        case("04-value-type-13.gguf", "BadType", raw(13, &[0; 8])),
        case("04-element-type-13.gguf", "BadType", raw(value_type::ARRAY, &array(13, 1, &[0; 8]))),
        case("04-array-max.gguf", "CountExceedsFile", raw(value_type::ARRAY, &array(value_type::U8, u64::MAX, &[]))),
        case(
            "04-array-size-wraps.gguf",
            "CountExceedsFile",
            raw(value_type::ARRAY, &array(value_type::U64, 1 << 61, &[0; 8])),
        ),
        case("04-bool-2.gguf", "BadType", raw(value_type::BOOL, &[2])),
        case("04-tensor-type-4.gguf", "BadType", gguf_keys().tensor("t", &[32], 4, vec![0; 32]).finish()),
        case("04-tensor-type-max.gguf", "BadType", gguf_keys().tensor("t", &[32], u32::MAX, vec![0; 32]).finish()),
        case("05-empty-key.gguf", "EmptyKey", GgufWriter::new(3).kv_again(b"", value_type::STRING, &a).finish()),
        case("05-key-not-utf8.gguf", "BadUtf8", GgufWriter::new(3).kv_again(b"\xff", value_type::STRING, &a).finish()),
        case("05-key-twice.gguf", "Duplicate", gguf_keys().kv_again(b"general.name", value_type::STRING, &a).finish()),
        case("05-empty-tensor-name.gguf", "EmptyKey", gguf_keys().tensor("", &[4], F32, vec![0; 16]).finish()),
        case("05-tensor-twice.gguf", "Duplicate", tensor("t").finish()),
    ]
}

/// Rows 6 to 10 and 14.
fn shapes() -> Vec<Case> {
    let one = |ne: &[u64], type_id| GgufWriter::new(3).tensor("t", ne, type_id, vec![0; 64]).finish();
    let two = GgufWriter::new(3);
    let half = 0x7FFF_FFFF_FFFF_FFC0;
    vec![
        case("06-no-dimensions.gguf", "BadShape", one(&[], F32)),
        case("06-five-dimensions.gguf", "BadShape", one(&[1, 1, 1, 1, 1], F32)),
        case("06-zero.gguf", "BadShape", one(&[4, 0], F32)),
        case("06-negative.gguf", "BadShape", one(&[u64::MAX], F32)),
        case("07-elements-wrap.gguf", "ShapeOverflow", one(&[i64::MAX as u64, 2, 1, 1], I8)),
        case("07-elements-above-i64.gguf", "ShapeOverflow", one(&[1 << 32, 1 << 31], I8)),
        case("08-bytes-wrap.gguf", "ShapeOverflow", one(&[1 << 62], F32)),
        case("08-block-bytes-wrap.gguf", "ShapeOverflow", one(&[1 << 31, (1 << 31) - 1, 2], 28)),
        case(
            "09-sum-wraps.gguf",
            "SizeOverflow",
            two.tensor("a", &[half], I8, vec![0; 64]).tensor("b", &[half], I8, vec![0; 64]).finish(),
        ),
        case("10-padding-wraps.gguf", "SizeOverflow", one(&[4, 1_073_741_823, 1_073_741_825, 1], F32)),
        case("14-q4_0-33-columns.gguf", "BadShape", one(&[33], 2)),
        case("14-q4_k-32-columns.gguf", "BadShape", one(&[32], 12)),
    ]
}

/// Rows 11 to 13.
fn placement() -> Vec<Case> {
    let aligned = |alignment| GgufWriter::new(3).kv_u32("general.alignment", alignment).finish();
    let at = |offset| GgufWriter::new(3).tensor_at("t", &[8], F32, offset, vec![0; 32]).finish();
    let mut cut = gguf().finish();
    cut.truncate(cut.len() - 40);
    let mut within_keys = gguf().finish();
    within_keys.truncate(570);
    vec![
        case("11-alignment-0.gguf", "BadAlignment", aligned(0)),
        case("11-alignment-13.gguf", "BadAlignment", aligned(13)),
        case("11-alignment-2-30.gguf", "BadAlignment", aligned(1 << 30)),
        case("11-alignment-i32.gguf", "BadAlignment", GgufWriter::new(3).kv_i32("general.alignment", 32).finish()),
        case("11-alignment-string.gguf", "BadAlignment", GgufWriter::new(3).kv_str("general.alignment", "32").finish()),
        case("12-beyond-the-end.gguf", "OutOfBounds", at(32)),
        case("12-offset-wraps.gguf", "OutOfBounds", at(u64::MAX - 31)),
        case("12-misaligned.gguf", "Misaligned", {
            GgufWriter::new(3).tensor_at("t", &[4], F32, 16, vec![0; 32]).finish()
        }),
        case(
            "12-overlap.gguf",
            "Overlap",
            GgufWriter::new(3).tensor("a", &[16], F32, vec![0; 64]).tensor_at("b", &[8], F32, 32, vec![0; 32]).finish(),
        ),
        case("13-data-cut.gguf", "OutOfBounds", cut),
        case("13-keys-cut.gguf", "LengthExceedsFile", within_keys),
        case("13-magic-cut.gguf", "Truncated", b"GGU".to_vec()),
        case("13-counts-cut.gguf", "Truncated", b"GGUF\x03\0\0\0\0\0\0\0".to_vec()),
    ]
}

/// Row 15, and networks that are not RIN's.
fn configuration() -> Vec<Case> {
    let u32_key = |key: &str, value| gguf().kv_u32(key, value).finish();
    let f32_key = |key: &str, value| gguf().kv_f32(key, value).finish();
    let (heads, kv_heads) = ("llama.attention.head_count", "llama.attention.head_count_kv");
    let (eps, base) = ("llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base");
    let bad = "InconsistentConfig";
    let scaling = |kind: &str| gguf().kv_str("llama.rope.scaling.type", kind);
    vec![
        case("15-heads-0.gguf", bad, u32_key(heads, 0)),
        case("15-heads-3-of-8.gguf", bad, u32_key(heads, 3)),
        case("15-heads-max.gguf", bad, u32_key(heads, u32::MAX)),
        case("15-kv-heads-0.gguf", bad, u32_key(kv_heads, 0)),
        case("15-kv-heads-no-divisor.gguf", bad, u32_key(kv_heads, 3)),
        case("15-vocab-not-the-embedding.gguf", bad, u32_key("llama.vocab_size", 11)),
        case("15-ctx-2-63.gguf", bad, gguf().kv_u64("llama.context_length", 1 << 63).finish()),
        case("15-ctx-0.gguf", bad, u32_key("llama.context_length", 0)),
        case("15-eps-nan.gguf", bad, f32_key(eps, f32::NAN)),
        case("15-eps-0.gguf", bad, f32_key(eps, 0.0)),
        case("15-eps-negative.gguf", bad, f32_key(eps, -1e-5)),
        case("15-rope-base-nan.gguf", bad, f32_key(base, f32::NAN)),
        case("15-rope-base-inf.gguf", bad, f32_key(base, f32::INFINITY)),
        case("15-rope-base-0.gguf", bad, f32_key(base, 0.0)),
        case("15-rope-dims-odd.gguf", bad, u32_key("llama.rope.dimension_count", 3)),
        case("15-rope-dims-beyond-head.gguf", bad, u32_key("llama.rope.dimension_count", 6)),
        case("15-rope-factor-nan.gguf", bad, scaling("linear").kv_f32("llama.rope.scaling.factor", f32::NAN).finish()),
        case("15-layers-0.gguf", bad, u32_key("llama.block_count", 0)),
        case("15-layers-max.gguf", bad, u32_key("llama.block_count", u32::MAX)),
        case("15-layers-beyond-tensors.gguf", bad, u32_key("llama.block_count", 13)),
        case("15-width-max.gguf", bad, u32_key("llama.embedding_length", u32::MAX - 1)),
        case("15-layer-missing.gguf", "MissingTensor", u32_key("llama.block_count", 2)),
        case("15-ffn-not-the-tensors.gguf", "BadShape", u32_key("llama.feed_forward_length", 16)),
        case("15-tensor-missing.gguf", "MissingTensor", gguf().without_tensor("blk.0.ffn_up.weight").finish()),
        case("15-key-missing.gguf", "MissingKey", gguf().without("llama.embedding_length").finish()),
        case("15-key-of-wrong-type.gguf", "BadType", gguf().kv_str("llama.block_count", "1").finish()),
        case("15-architecture.gguf", "UnknownArchitecture", gguf().kv_str("general.architecture", "rwkv6").finish()),
        case("15-rope-scaling-longrope.gguf", "Unsupported", scaling("longrope").finish()),
        case("15-experts.gguf", "Unsupported", u32_key("llama.expert_count", 8)),
        case("15-value-width.gguf", "Unsupported", u32_key("llama.attention.value_length", 8)),
    ]
}

/// The vocabulary part of row 22.
fn vocabulary() -> Vec<Case> {
    let bad = "BadVocab";
    let n = usize::try_from(VOCAB).unwrap();
    let mut scores = vec![0.0; n];
    scores[3] = f32::NAN;
    let mut types = vec![1; n];
    types[3] = 7;
    let eleven: Vec<String> = (0..=n).map(|i| format!("t{i}")).collect();
    let no_lists = gguf().without("tokenizer.ggml.scores").without("tokenizer.ggml.token_type");
    vec![
        case("22-eos-beyond.gguf", bad, gguf().kv_u32("tokenizer.ggml.eos_token_id", 10).finish()),
        case("22-bos-negative.gguf", bad, gguf().kv_i32("tokenizer.ggml.bos_token_id", -2).finish()),
        case("22-scores-short.gguf", bad, gguf().kv_f32s("tokenizer.ggml.scores", &[0.0; 3]).finish()),
        case("22-score-nan.gguf", bad, gguf().kv_f32s("tokenizer.ggml.scores", &scores).finish()),
        case("22-types-long.gguf", bad, gguf().kv_i32s("tokenizer.ggml.token_type", &vec![1; n + 1]).finish()),
        case("22-type-7.gguf", bad, gguf().kv_i32s("tokenizer.ggml.token_type", &types).finish()),
        case("22-no-tokens.gguf", bad, no_lists.clone().kv_strs::<&str>("tokenizer.ggml.tokens", &[]).finish()),
        case("22-more-tokens-than-rows.gguf", bad, no_lists.kv_strs("tokenizer.ggml.tokens", &eleven).finish()),
        case("22-tokens-are-numbers.gguf", "BadType", gguf().kv_i32s("tokenizer.ggml.tokens", &[1; 10]).finish()),
        case("22-no-vocabulary.gguf", "MissingKey", gguf().without("tokenizer.ggml.tokens").finish()),
    ]
}

/// Row 17.
fn safetensors() -> Vec<Case> {
    let entry =
        |shape: &[u64], offsets| SafetensorsWriter::new().entry("t", "F32", shape, offsets).data(&[0; 16]).finish();
    let tensor = r#""t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#;
    let header = |json: &str| file(json.as_bytes(), &[0; 16]);
    let deep = format!("{{\"t\":{}1{}}}", "[".repeat(400), "]".repeat(400));
    let bad = "BadHeader";
    let two = SafetensorsWriter::new;
    vec![
        case("17-header-above-100-mb.safetensors", bad, [&100_000_001_u64.to_le_bytes()[..], b"{}"].concat()),
        case("17-header-max.safetensors", bad, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        case("17-header-beyond-the-end.safetensors", "LengthExceedsFile", [&3_u64.to_le_bytes()[..], b"{}"].concat()),
        case("17-seven-bytes.safetensors", "Truncated", vec![0; 7]),
        case("17-no-object.safetensors", bad, header("[]")),
        case("17-empty-header.safetensors", bad, header("")),
        case("17-not-json.safetensors", bad, header("{\"t\": nonsense}")),
        case("17-not-utf8.safetensors", bad, file(b"{\"\xff\":1}", &[])),
        case("17-deep.safetensors", "DepthLimit", header(&deep)),
        case("17-tensor-twice.safetensors", "Duplicate", header(&format!("{{{tensor},{tensor}}}"))),
        case(
            "17-metadata-twice.safetensors",
            "Duplicate",
            header(&format!("{{\"__metadata__\":{{}},\"__metadata__\":{{}},{tensor}}}")),
        ),
        case(
            "17-metadata-key-twice.safetensors",
            "Duplicate",
            header(&format!("{{\"__metadata__\":{{\"a\":\"1\",\"a\":\"2\"}},{tensor}}}")),
        ),
        case("17-metadata-number.safetensors", bad, header(&format!("{{\"__metadata__\":{{\"a\":1}},{tensor}}}"))),
        case(
            "17-unknown-field.safetensors",
            bad,
            header(r#"{"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":0}}"#),
        ),
        case("17-nine-dimensions.safetensors", bad, entry(&[1; 9], (0, 4))),
        case("17-hole.safetensors", bad, entry(&[3], (4, 16))),
        case("17-trailing-bytes.safetensors", bad, entry(&[3], (0, 12))),
        case("17-beyond-the-end.safetensors", "OutOfBounds", entry(&[5], (0, 20))),
        case("17-backwards.safetensors", "OutOfBounds", entry(&[4], (16, 0))),
        case("17-size-not-the-shape.safetensors", "BadShape", entry(&[3], (0, 16))),
        case("17-shape-wraps.safetensors", "ShapeOverflow", entry(&[1 << 33, 1 << 33], (0, 16))),
        case("17-negative.safetensors", bad, header(r#"{"t":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#)),
        case(
            "17-overlap.safetensors",
            "Overlap",
            two().entry("a", "F32", &[3], (0, 12)).entry("b", "F32", &[2], (8, 16)).data(&[0; 16]).finish(),
        ),
        case("17-dtype.safetensors", "BadType", two().tensor("t", "F31", &[4], &[0; 16]).finish()),
        case("17-empty-name.safetensors", "EmptyKey", two().tensor("", "F32", &[4], &[0; 16]).finish()),
    ]
}

/// `.rin`, by the same rules.
fn rin_files() -> Vec<Case> {
    let with = |key: &str, value: &str| rin(|k, v| if k == key { value.to_owned() } else { v.to_owned() }, 64);
    let edit = |key: &'static str, from: &'static str, to: &'static str| {
        let mut found = false;
        let bytes = rin(
            |k, v| {
                found |= k == key && v.contains(from);
                if k == key { v.replacen(from, to, 1) } else { v.to_owned() }
            },
            64,
        );
        assert!(found, "{key} holds no {from}");
        bytes
    };
    let embedding = values("token_embd.weight", &[VOCAB, DIM]);
    vec![
        case("17-version.rin", "UnsupportedVersion", with(KEY_VERSION, "3")),
        case("17-numerics.rin", "UnsupportedVersion", with(KEY_NUMERICS, "2")),
        case("17-no-hash.rin", "MissingKey", {
            SafetensorsWriter::new()
                .align(64)
                .metadata(KEY_VERSION, "2")
                .metadata(KEY_NUMERICS, "1")
                .tensor("token_embd.weight", "U8", &[320], &embedding)
                .finish()
        }),
        case("17-config-not-json.rin", "BadHeader", with(KEY_CONFIG, "{")),
        case("17-config-heads-0.rin", "InconsistentConfig", edit(KEY_CONFIG, "\"n_heads\":2", "\"n_heads\":0")),
        case("17-config-eos-beyond.rin", "BadVocab", edit(KEY_CONFIG, "\"eos\":[2]", "\"eos\":[10]")),
        case("17-config-arch.rin", "BadHeader", edit(KEY_CONFIG, "\"llama\"", "\"rwkv\"")),
        case("17-tensors-dtype.rin", "BadHeader", edit(KEY_TENSORS, "\"F32\"", "\"F31\"")),
        case("17-tensors-shape.rin", "BadShape", edit(KEY_TENSORS, "[10,8]", "[99,8]")),
        case("17-tensors-name.rin", "MissingKey", edit(KEY_TENSORS, "output_norm", "output_horn")),
        case("17-tensors-twice.rin", "Duplicate", edit(KEY_TENSORS, "output_norm.weight", "token_embd.weight")),
        case("17-misaligned.rin", "Misaligned", rin(|_, v| v.to_owned(), 8)),
    ]
}
