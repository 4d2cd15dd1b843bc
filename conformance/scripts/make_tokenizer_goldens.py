#!/usr/bin/env python3
"""Trains tiny tokenizers and writes them with their reference ids.

Each folder `conformance/tokenizers/NAME/` gets the `tokenizer.json` as the `tokenizers` package saves it, and
`vectors.json`: texts, their ids and the decoded text by that package. Run it with the `tokenizers` package at hand;
the corpus is made up here, so nothing else is needed.
"""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parent.parent / "tokenizers"

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN35 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
O200K_END = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL
GPT4O = f"{LEAD}{UPPER}*{LOWER}+{CONTRACTIONS}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTIONS}?" + O200K_END
TEKKEN = f"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*" + O200K_END.replace("{1,3}", "")

CORPUS = [
    "The small engine counts every joule, and the engine's counter counts the counters.",
    "It's a network that they'll train; we've trained it, I'm training it, you'd train it, don't you?",
    "    if (value == 10) {\n        return value + 1;\n    }\n\n\n// the end of the value\r\n\r\n",
    "In 1999 there were 1234567 joules, in 2024 there were 3.14159 and 42, and 1000 more.",
    "HelloWorld fooBar someCamelCaseName HTTPServer XMLHttpRequest it'S WE'LL",
    "Übergröße naïve café señor Ærø; нещо на Български; 中文字符测试 日本語のテキスト 한국어 문장",
    "price: $5.00, a/b/c, x := y; #tag @user 100% ... --- ___ !!! ???",
    "🚀🚀 rocket 😀 smile ✅ done",
    "\t\ttabs\tand  two  spaces   three    four     five",
] * 4

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n \n  x", "\t\tx", "a\u00a0b", "\u3000\u3000x", "a \u2003 b",
    "Hello", " Hello", "  Hello", "Hello ", "Hello  ", "the engine's counter", "It's I'm we'LL YOU'RE don'T 'tis '", "'\u017f",
    "1", "12", "1234567", " 1 22 333 4444", "3.14", "x2y3", "١٢٣٤ ½ Ⅷ ²", "foo_bar(baz);\n\treturn 0;\n}\n",
    "HelloWorld HTTPServer iPhone ABCdef ǅx", "Übergröße naïve café", "e\u0301a\u0308 n\u0303o", "\u1112\u1161\u11ab<|end|>\u0041\u030a \u212b q\u0307\u0323", "нещо на Български",
    "中文字符测试中文字符", "한국어 문장 日本語", "कि नमस्ते", "🚀🚀🚀 😶\u200d🌫️ ✅", "\u0000\u0001\u007f\u00ad", "\ufeff\ufffd\U0010ffff",
    "price: $5.00!!!\n\n\n...???", "a/b//\n/c", "\u2581\u2581x \u2581y", "a\u2581b", "<|end|>", "x<|end|>y <|end|> z", "<|end|><|end|>",
    "<|begin|> text", "one <mask>  two", "one <tool>  two<tool>", "<|en", "<|end|", "<0x41>", "<unk>a", "  <|end|>  ",
    "the   end", "a\n  b\n\n    c", "zzzzzzzzzzzzzzzzzzzzzzzz", "countcountcountcounts", "\r\r\n\n\r",
]  # fmt: skip

SPECIAL = ["<|begin|>", "<|end|>"]


def byte_level(split, vocab_size=420, template=True, ignore_merges=False, prefix_space=False, nfc=False):
    """A byte-level BPE; `split` is None for the built-in pattern, "digits", or a pattern."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    built_in = split in (None, "digits")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=built_in)
    if split is None:
        tokenizer.pre_tokenizer = bytes_only
    elif split == "digits":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_only])
    else:
        cut = pre_tokenizers.Split(Regex(split), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_only])
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool>", rstrip=True, normalized=False)])
    post = [processors.ByteLevel(trim_offsets=False)]
    if template:
        first = tokenizer.token_to_id("<|begin|>")
        post.append(processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", first)]))
    tokenizer.post_processor = processors.Sequence(post)
    return tokenizer


def sentence_piece(style, vocab_size=420, byte_fallback=True):
    """The conversion of a SentencePiece BPE: `style` is where the space signs come from."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if style == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        steps.append(decoders.Strip(" ", 1, 0))
    elif style == "replace":
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        split = style == "always"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=style, split=split)
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    pieces = ["<unk>", "<s>", "</s>"]
    if byte_fallback:
        pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    words = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    own, tokenizer.pre_tokenizer = tokenizer.pre_tokenizer, words
    size = vocab_size + len(pieces) - 3
    train(tokenizer, trainers.BpeTrainer(vocab_size=size, special_tokens=pieces, limit_alphabet=90, show_progress=False))
    data = json.loads(tokenizer.to_str())
    data["pre_tokenizer"] = None
    data["added_tokens"] = data["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    if own is not None:
        tokenizer.pre_tokenizer = own
    tokenizer.add_special_tokens([*SPECIAL, AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool>", rstrip=True, normalized=False)])
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return tokenizer


def train(tokenizer, trainer):
    tokenizer.train_from_iterator(CORPUS, trainer)


def pair_merges_as_text(data):
    """The older spelling of merges: one string each."""
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]


def write(name, tokenizer, text_merges=False):
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads(tokenizer.to_str())
    if text_merges:
        pair_merges_as_text(data)
    compact = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(compact + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_str(compact)
    cases = []
    for text in TEXTS:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(
            {
                "text": text,
                "ids": plain,
                "with_special": tokenizer.encode(text, add_special_tokens=True).ids,
                "decoded": tokenizer.decode(plain, skip_special_tokens=True),
            }
        )
    vectors = {"reference": f"tokenizers {tokenizers.__version__}", "kind": data["model"]["type"], "cases": cases}
    lines = json.dumps(vectors, ensure_ascii=True, separators=(",", ":")).replace('{"text"', '\n{"text"')
    (folder / "vectors.json").write_text(lines + "\n", encoding="utf-8")


def main():
    write("bpe-gpt2", byte_level(None, template=False), text_merges=True)
    write("bpe-gpt2-prefix-space", byte_level(None, prefix_space=True))
    write("bpe-digits", byte_level("digits"))
    write("bpe-llama3", byte_level(LLAMA3, ignore_merges=True))
    write("bpe-qwen2", byte_level(QWEN2, template=False, nfc=True))
    write("bpe-qwen35", byte_level(QWEN35, template=False, nfc=True))
    write("bpe-gpt4o", byte_level(GPT4O))
    write("bpe-tekken", byte_level(TEKKEN))
    write("spm-normalizer", sentence_piece("normalizer"), text_merges=True)
    write("spm-replace", sentence_piece("replace"))
    write("spm-first", sentence_piece("first"))
    write("spm-always", sentence_piece("always"))
    write("spm-no-bytes", sentence_piece("normalizer", byte_fallback=False))


if __name__ == "__main__":
    main()
