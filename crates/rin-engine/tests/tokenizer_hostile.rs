//! Vocabularies that contradict themselves, files with unknown parts, and texts that make naive tokenizers slow.

#[cfg(test)]
mod hostile {
    //! Every bad input has its typed error; long inputs fit a small stack.

    use std::borrow::Cow;
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rin_engine::tokenizer::{
        Alphabet, EncodeOptions, Merging, SpacePrefix, SplitRule, TokenType, Tokenizer, TokenizerError, Vocab,
    };
    use serde_json::{Value, json};
    use unicode_normalization::UnicodeNormalization;

    const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

    fn bytes(texts: &[&'static str]) -> Vec<Cow<'static, [u8]>> {
        texts.iter().map(|text| Cow::Borrowed(text.as_bytes())).collect()
    }

    fn ranks(merges: &[(&'static str, &'static str)]) -> Merging<'static> {
        let cow = |text: &'static str| Cow::Borrowed(text.as_bytes());
        Merging::Ranks(merges.iter().map(|&(left, right)| (cow(left), cow(right))).collect())
    }

    /// Byte-level, all tokens normal.
    fn byte_level(texts: &[&'static str], merges: &[(&'static str, &'static str)]) -> Vocab<'static> {
        let types = vec![TokenType::Normal; texts.len()];
        Vocab::new(Alphabet::ByteLevel, ranks(merges), SplitRule::Gpt2, bytes(texts), types)
    }

    /// SentencePiece with equal scores and an unknown token at id 0.
    fn metaspace(texts: &[&'static str]) -> Vocab<'static> {
        let scores = vec![0.0; texts.len()];
        let mut types = vec![TokenType::Normal; texts.len()];
        types[0] = TokenType::Unknown;
        let mut vocab = Vocab::new(Alphabet::Metaspace, Merging::Scores(scores), SplitRule::Whole, bytes(texts), types);
        vocab.unk = Some(0);
        vocab
    }

    fn bad_place(vocab: &Vocab<'_>) -> String {
        match Tokenizer::from_vocab(vocab) {
            Err(TokenizerError::BadVocab { place, .. }) => place,
            other => panic!("expected BadVocab, got {other:?}"),
        }
    }

    #[test]
    fn vocabularies_that_contradict_themselves_name_the_place() {
        assert_eq!(bad_place(&byte_level(&[], &[])), "tokens");
        assert_eq!(bad_place(&byte_level(&["a", "b"], &[("a", "b")])), "merge 0");
        assert_eq!(bad_place(&byte_level(&["a", "aa", "aaa"], &[("a", "a"), ("aa", "b")])), "merge 1");
        assert_eq!(bad_place(&byte_level(&["a"], &[("", "a")])), "merge 0");

        let mut vocab = byte_level(&["a"], &[]);
        vocab.eos = Some(1);
        assert_eq!(bad_place(&vocab), "eos");
        vocab.eos = None;
        vocab.end = vec![u32::MAX];
        assert_eq!(bad_place(&vocab), "end");
        vocab.end = Vec::new();
        vocab.add_bos = true;
        assert_eq!(bad_place(&vocab), "bos");
        vocab.add_bos = false;
        vocab.tokens[0] = Cow::Owned(vec![b'a'; 65_536]);
        assert_eq!(bad_place(&vocab), "token 0");
        vocab.types.clear();
        assert_eq!(bad_place(&vocab), "token types");

        let mut vocab = metaspace(&["<unk>", "a"]);
        vocab.merging = Merging::Scores(vec![0.0, f32::NAN]);
        assert_eq!(bad_place(&vocab), "token 1");
        vocab.merging = Merging::Scores(vec![0.0]);
        assert_eq!(bad_place(&vocab), "scores");
        let mut vocab = metaspace(&["<unk>", "<0xZZ>"]);
        vocab.types[1] = TokenType::Byte;
        assert_eq!(bad_place(&vocab), "token 1");
        let mut vocab = metaspace(&["<unk>", "x"]);
        vocab.types[1] = TokenType::Control;
        vocab.tokens[1] = Cow::Owned(vec![b'x'; 257]);
        assert_eq!(bad_place(&vocab), "token 1");
    }

    #[test]
    fn duplicates_and_broken_utf8_are_harmless() {
        let mut vocab = byte_level(&["a", "b", "ab", "ab", "a"], &[("a", "b"), ("a", "b")]);
        vocab.tokens.push(Cow::Borrowed(b"\xFF\xFE"));
        vocab.types.push(TokenType::Normal);
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode("abab", PLAIN).unwrap(), [2, 2]);
        assert_eq!(tokenizer.piece(5), Some(b"\xFF\xFE".as_slice()));
        assert_eq!(tokenizer.decode(&[5, 0, u32::MAX]), "\u{FFFD}\u{FFFD}a\u{FFFD}");
        let error = tokenizer.encode("abc", PLAIN).unwrap_err();
        assert!(matches!(error, TokenizerError::NoToken { ref text } if text == "c"), "{error}");
    }

    #[test]
    fn merges_go_by_rank_then_from_the_left() {
        let vocab = byte_level(&["a", "b", "ab", "ba", "aa"], &[("b", "a"), ("a", "b"), ("a", "a")]);
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode("abab", PLAIN).unwrap(), [0, 3, 1]);
        assert_eq!(tokenizer.encode("aaaaa", PLAIN).unwrap(), [4, 4, 0]);
        let mut vocab = metaspace(&["<unk>", "a", "b", "ab", "bc", "c", "\u{2581}"]);
        vocab.merging = Merging::Scores(vec![0.0, -3.0, -3.0, -2.0, -1.0, -3.0, -3.0]);
        vocab.prefix = SpacePrefix::Always;
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode("abc", PLAIN).unwrap(), [6, 1, 4]);
        assert_eq!(tokenizer.encode("xyab", PLAIN).unwrap(), [6, 0, 3]);
    }

    #[test]
    fn words_are_merged_alone_only_where_no_token_reaches_over_a_space() {
        let mut vocab = metaspace(&["<unk>", "a", "\u{2581}", "a\u{2581}"]);
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode("a a", PLAIN).unwrap(), [3, 1]);
        vocab.split_at_spaces = true;
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode("a a", PLAIN).unwrap(), [1, 2, 1]);
    }

    #[test]
    fn a_space_is_looked_up_by_its_sign_and_never_as_itself() {
        let mut vocab = metaspace(&["<unk>", " a", "a", "\u{2581}", "b", "\u{2581}b", "\u{2581}b", "\u{2581}a "]);
        vocab.types[5] = TokenType::Unused;
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode(" a", PLAIN).unwrap(), [3, 2], "a token with a space in its text is out of reach");
        assert_eq!(tokenizer.encode(" b", PLAIN).unwrap(), [5], "the first of equal texts, whatever its type");
        assert_eq!(tokenizer.encode("\u{2581}b", PLAIN).unwrap(), [5]);
        assert_eq!(tokenizer.encode(" a ", PLAIN).unwrap(), [3, 2, 3]);
    }

    /// A small file that loads; the tests below break it in one place each.
    fn json_file() -> Value {
        json!({
            "added_tokens": [{"id": 3, "content": "<e>", "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        })
    }

    fn load(file: &Value) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_hf_json(file.to_string().as_bytes(), None)
    }

    #[test]
    fn unknown_parts_of_a_json_file_are_named() {
        assert_eq!(
            load(&json_file()).unwrap().encode("abb<e>", EncodeOptions { parse_special: true, ..PLAIN }).unwrap(),
            [2, 1, 3]
        );
        let parts = [
            ("normalizer", json!({"type": "NFKC"}), "normalizer", "NFKC"),
            ("pre_tokenizer", json!({"type": "Whitespace"}), "pre_tokenizer", "Whitespace"),
            ("pre_tokenizer", Value::Null, "pre_tokenizer", "null"),
            ("decoder", json!({"type": "WordPiece"}), "decoder", "WordPiece"),
            ("post_processor", json!({"type": "BertProcessing"}), "post_processor", "BertProcessing"),
        ];
        for (section, part, component, name) in parts {
            let mut file = json_file();
            file[section] = part;
            match load(&file).unwrap_err() {
                TokenizerError::UnsupportedComponent { component: found, name: text } => {
                    assert_eq!(found, component);
                    assert!(text.contains(name), "{text}");
                }
                other => panic!("{section}: {other}"),
            }
        }
        let mut file = json_file();
        let split = json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false});
        file["pre_tokenizer"] =
            json!({"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", "use_regex": false}]});
        assert!(load(&file).unwrap_err().to_string().contains("(a+)+$"));
        let mut file = json_file();
        file["model"] = json!({"type": "Unigram", "vocab": [["a", -1.0]]});
        assert!(matches!(load(&file), Err(TokenizerError::UnsupportedModel { ref name, .. }) if name == "Unigram"));
        let mut file = json_file();
        file["added_tokens"][0]["single_word"] = json!(true);
        assert!(load(&file).unwrap_err().to_string().contains("single_word"));
    }

    #[test]
    fn broken_json_files_are_refused() {
        for (vocab, place) in [
            (json!({"a": 0, "b": u32::MAX}), "vocab"),
            (json!({"a": 0, "b": 0}), "token 0"),
            (json!({"a": 0, "b": 3, "ab": 2}), "token 3"),
            (json!({"a": 0, "b": 1}), "merge 0"),
        ] {
            let mut file = json_file();
            file["model"]["vocab"] = vocab;
            match load(&file).unwrap_err() {
                TokenizerError::BadVocab { place: found, .. } => assert_eq!(found, place),
                other => panic!("{other}"),
            }
        }
        let mut file = json_file();
        for merges in [json!(["a b c"]), json!(["ab"]), json!([["a"]]), json!([["a", "b", "c"]]), json!([1])] {
            file["model"]["merges"] = merges;
            assert!(matches!(load(&file), Err(TokenizerError::BadJson { file: "tokenizer.json", .. })));
        }
        let deep = format!("{{\"normalizer\":{}", "[".repeat(1 << 20));
        let good = json_file().to_string();
        for text in ["", "null", "{}", "[]", &good[..good.len() - 1], &deep] {
            assert!(matches!(Tokenizer::from_hf_json(text.as_bytes(), None), Err(TokenizerError::BadJson { .. })));
        }
        let error = Tokenizer::from_hf_json(good.as_bytes(), Some(b"{")).unwrap_err();
        assert!(matches!(error, TokenizerError::BadJson { file: "tokenizer_config.json", .. }), "{error}");
    }

    #[test]
    fn the_configuration_names_the_special_tokens() {
        let config = json!({"bos_token": {"content": "<e>"}, "eos_token": "<e>", "add_bos_token": true});
        let file = json_file().to_string();
        let tokenizer = Tokenizer::from_hf_json(file.as_bytes(), Some(config.to_string().as_bytes())).unwrap();
        assert_eq!((tokenizer.special().bos, tokenizer.special().eos), (Some(3), Some(3)));
        assert_eq!(tokenizer.special().end, [3]);
        assert_eq!(tokenizer.encode("a", EncodeOptions { add_special: true, ..PLAIN }).unwrap(), [3, 0]);
    }

    #[test]
    fn ends_of_generation_are_found_by_name() {
        let mut vocab = byte_level(&["a", "<|im_end|>", "</s>", "<|endoftext|>", "<|eot_id|>"], &[]);
        assert_eq!(Tokenizer::from_vocab(&vocab).unwrap().special().end, [0_u32; 0]);
        vocab.types[1..4].fill(TokenType::Control);
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.special().eot, Some(1));
        assert_eq!(tokenizer.special().end, [1, 2, 3]);
        assert_eq!(tokenizer.with_end(&[0, 3]).unwrap().special().end, [0, 1, 2, 3]);
        assert!(Tokenizer::from_vocab(&vocab).unwrap().with_end(&[5]).is_err());
    }

    #[test]
    fn fallback_bytes_merge_where_the_list_says_so() {
        let mut vocab = metaspace(&["<unk>", "<0xC3>", "<0xA9>", "<0xC3><0xA9>"]);
        vocab.merging = ranks(&[("<0xC3>", "<0xA9>")]);
        vocab.types[1..3].fill(TokenType::Byte);
        let tokenizer = Tokenizer::from_vocab(&vocab).unwrap();
        assert_eq!(tokenizer.encode("é", PLAIN).unwrap(), [3]);
        assert_eq!(tokenizer.encode("x", PLAIN).unwrap(), [0]);
    }

    fn golden(name: &str) -> Tokenizer {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/tokenizers"));
        Tokenizer::from_hf_json(&std::fs::read(root.join(name).join("tokenizer.json")).unwrap(), None).unwrap()
    }

    /// Every length of one letter is a token, so that a word merges into ever longer symbols.
    fn all_lengths(n: usize) -> Tokenizer {
        let tokens: Vec<Cow<'_, [u8]>> = (1..=n).map(|len| Cow::Owned(vec![b'Z'; len])).collect();
        let scores = (0..n).map(|id| f32::from(u16::try_from(id).unwrap())).collect();
        let types = vec![TokenType::Normal; n];
        let vocab = Vocab::new(Alphabet::Metaspace, Merging::Scores(scores), SplitRule::Whole, tokens, types);
        Tokenizer::from_vocab(&vocab).unwrap()
    }

    #[test]
    fn long_monotonous_texts_need_little_stack() {
        let texts = [
            "Z".repeat(131_072),
            "\n".repeat(100_000),
            "x \n".repeat(100_000),
            "x".to_owned() + &" ".repeat(131_072) + "x",
            "中".repeat(100_000),
            "🚀".repeat(250_000),
            "'".repeat(100_000),
            "1".repeat(100_000),
            "<|end|".repeat(20_000),
            "aB".repeat(50_000),
        ];
        let tokenizers =
            ["bpe-gpt2", "bpe-llama3", "bpe-gpt4o", "bpe-digits", "spm-normalizer", "spm-always", "spm-first"]
                .map(golden);
        let lengths = all_lengths(2_000);
        let work = move || {
            for tokenizer in &tokenizers {
                for text in &texts {
                    let ids =
                        tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: true }).unwrap();
                    assert!(&tokenizer.decode(&ids) == text, "{}: {:.20}", tokenizer.kind(), text);
                }
            }
            let ids = lengths.encode(&texts[0], PLAIN).unwrap();
            assert!(lengths.decode(&ids) == texts[0]);
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(work).unwrap().join().unwrap();
    }

    static BYTE_LEVEL: LazyLock<[Tokenizer; 5]> =
        LazyLock::new(|| ["bpe-gpt2", "bpe-digits", "bpe-llama3", "bpe-gpt4o", "bpe-tekken"].map(golden));
    static COMPOSING: LazyLock<Tokenizer> = LazyLock::new(|| golden("bpe-qwen2"));
    static STREAMED: LazyLock<[Tokenizer; 3]> =
        LazyLock::new(|| ["bpe-llama3", "spm-normalizer", "spm-no-bytes"].map(golden));

    proptest! {
        #[test]
        fn byte_level_gives_every_text_back(
            texts in prop::collection::vec(prop_oneof![any::<String>(), "[ \\t\\n\\r'a-cA-C0-3./]{0,24}"], 1..24),
        ) {
            for tokenizer in &*BYTE_LEVEL {
                for text in &texts {
                    let ids = tokenizer.encode(text, PLAIN).unwrap();
                    prop_assert_eq!(&tokenizer.decode(&ids), text);
                }
            }
            for text in &texts {
                let ids = COMPOSING.encode(text, PLAIN).unwrap();
                prop_assert_eq!(COMPOSING.decode(&ids), text.nfc().collect::<String>());
            }
        }

        #[test]
        fn what_is_streamed_is_what_is_decoded(ids in prop::collection::vec(0_u32..700, 0..64)) {
            for tokenizer in &*STREAMED {
                let mut decoder = tokenizer.decoder();
                let mut out = String::new();
                let mut bytes = Vec::new();
                for &id in &ids {
                    decoder.push(id, &mut out);
                    bytes.extend_from_slice(tokenizer.piece(id).unwrap_or("\u{FFFD}".as_bytes()));
                }
                decoder.finish(&mut out);
                prop_assert_eq!(&out, &tokenizer.decode(&ids));
                // The definition: the bytes of all pieces, without the space that SentencePiece puts first.
                let first = if tokenizer.kind() == "spm-bpe" { bytes.strip_prefix(b" ") } else { None };
                prop_assert_eq!(out, String::from_utf8_lossy(first.unwrap_or(&bytes)));
            }
        }
    }
}
