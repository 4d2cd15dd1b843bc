//! The tokenizer against the ids of llama.cpp and of the `tokenizers` package, and against hostile vocabularies.

#[cfg(test)]
mod published {
    //! Vectors that other programs made.

    use std::path::Path;

    use rin_engine::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer, TokenizerError};
    use rin_model::GgufVocab;
    use serde_json::Value;

    const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
    const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

    /// A file of the shared tokenizers.
    fn shared(name: &str) -> Option<Vec<u8>> {
        let path = rin_testkit::data::shared(&format!("tokenizers/{name}"))?;
        Some(std::fs::read(path).unwrap())
    }

    fn gguf(name: &str) -> Option<Tokenizer> {
        let bytes = shared(name)?;
        Some(Tokenizer::from_gguf(&GgufVocab::parse(&bytes).unwrap()).unwrap())
    }

    /// All ids equal those of llama.cpp, and all texts come back.
    fn same_ids_as_llama_cpp(name: &str, kind: &str) {
        let Some(tokenizer) = gguf(name) else { return };
        assert_eq!(tokenizer.kind(), kind);
        let read = |suffix: &str| String::from_utf8(shared(&format!("{name}{suffix}")).unwrap()).unwrap();
        let (inputs, outputs) = (read(".inp"), read(".out"));
        let expected: Vec<Vec<u32>> =
            outputs.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
        let texts: Vec<_> = inputs.split(SEPARATOR).take(expected.len()).collect();
        assert_eq!(texts.len(), expected.len());
        assert!(expected.len() > 40);
        for (text, expected) in texts.into_iter().zip(expected) {
            let ids = tokenizer.encode(text, PLAIN).unwrap();
            assert_eq!(ids, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), text, "{name}");
        }
    }

    #[test]
    fn llama_spm() {
        same_ids_as_llama_cpp("ggml-vocab-llama-spm.gguf", "spm-bpe");
    }

    #[test]
    fn gpt2() {
        same_ids_as_llama_cpp("ggml-vocab-gpt-2.gguf", "bpe");
    }

    #[test]
    fn mpt() {
        same_ids_as_llama_cpp("ggml-vocab-mpt.gguf", "bpe");
    }

    #[test]
    fn starcoder() {
        same_ids_as_llama_cpp("ggml-vocab-starcoder.gguf", "bpe");
    }

    #[test]
    fn vocabularies_without_vectors_give_the_text_back() {
        let Some(corpus) = shared("tokenizer-corpus.txt") else { return };
        let corpus = String::from_utf8(corpus).unwrap();
        let lines: Vec<String> = corpus.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() > 100);
        for name in ["llama3", "qwen2", "smollm", "gpt4o"].map(|pre| format!("vocab-bpe-{pre}.gguf")) {
            let tokenizer = gguf(&name).unwrap();
            for line in &lines {
                assert_eq!(&tokenizer.decode(&tokenizer.encode(line, PLAIN).unwrap()), line, "{name}");
            }
        }
        let baichuan = gguf("ggml-vocab-baichuan.gguf").unwrap();
        for line in &lines {
            // SentencePiece cannot tell its sign for a space from a space.
            assert_eq!(baichuan.decode(&baichuan.encode(line, PLAIN).unwrap()), line.replace('\u{2581}', " "));
        }
    }

    #[test]
    fn a_gguf_bert_vocabulary_is_refused_by_name() {
        let Some(bytes) = shared("ggml-vocab-bert-bge.gguf") else { return };
        let error = Tokenizer::from_gguf(&GgufVocab::parse(&bytes).unwrap()).unwrap_err();
        assert!(matches!(error, TokenizerError::UnsupportedModel { ref name, .. } if name == "bert"), "{error}");
    }

    #[test]
    fn special_ids_of_a_gguf_file() {
        let Some(tokenizer) = gguf("ggml-vocab-llama-spm.gguf") else { return };
        let special = tokenizer.special();
        assert_eq!((special.bos, special.eos, special.unk), (Some(1), Some(2), Some(0)));
        assert_eq!((special.add_bos, special.add_eos), (true, false));
        assert_eq!(special.end, [2]);
        assert_eq!(tokenizer.special_id("</s>"), Some(2));
        let options = EncodeOptions { add_special: true, parse_special: true };
        assert_eq!(tokenizer.encode("Hello</s>", options).unwrap(), [1, 15043, 2]);
        // Without leave to, the text of a control token is text.
        let spelled = tokenizer.encode("</s>", PLAIN).unwrap();
        assert!(!spelled.contains(&2));
        assert_eq!(tokenizer.decode(&spelled), "</s>");
        let shown = DecodeOptions { show_special: true, continuation: true };
        assert_eq!(tokenizer.decode_with(&[1, 15043, 2], shown), "<s> Hello</s>");
        assert_eq!(tokenizer.decode(&[1, 15043, 2]), "Hello");
        assert_eq!(tokenizer.piece(2), Some(b"".as_slice()));
        assert_eq!(tokenizer.piece(32000), None);
    }

    #[test]
    fn same_ids_as_the_tokenizers_package() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/tokenizers"));
        let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        assert!(folders.len() >= 12);
        let mut wrong = Vec::new();
        for folder in folders {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let tokenizer = Tokenizer::from_hf_json(&std::fs::read(folder.join("tokenizer.json")).unwrap(), None)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let vectors: Value = serde_json::from_slice(&std::fs::read(folder.join("vectors.json")).unwrap()).unwrap();
            for case in vectors["cases"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                for (key, add_special) in [("ids", false), ("with_special", true)] {
                    let expected: Vec<u32> = serde_json::from_value(case[key].clone()).unwrap();
                    let ids = tokenizer.encode(text, EncodeOptions { add_special, parse_special: true }).unwrap();
                    if ids != expected {
                        wrong.push(format!("{name}: {text:?} {key}\n  {ids:?}, expected\n  {expected:?}"));
                    }
                }
                let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
                let decoded = tokenizer.decode(&ids);
                if decoded != case["decoded"] {
                    wrong.push(format!("{name}: decoded {decoded:?}, expected {}", case["decoded"]));
                }
            }
        }
        assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
    }
}
