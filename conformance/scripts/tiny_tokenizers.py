"""Two tokenizers of 288 entries: a byte-level BPE and a SentencePiece-style BPE with byte fallback.

Imported by make_tiny_models.py and make_gguf.py; makes no file of its own.
"""

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

VOCAB = 288
TEXT = "The hatter and she went in 1999 to the thin and noted sea: it's there, on a  Thursday! naïve ☕"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    "llama-bpe": _CONTRACTIONS + r"\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"\p{N}" + _REST,
}
BYTE_MERGES = (
    "Ġ t|h e|Ġt he|i n|Ġ a|e r|o n|o u|n d|Ġ s|r e|Ġa nd|i t|Ġ w|e s|a t|Ġ b|in g|o r|l l|e n|Ġ m|Ġ c|Ġs he|l o"
    "|v er|9 9|e d|Ġ Ġ"
)
BYTE_SPECIALS = ["<|begin|>", "<|end|>", "<|pad|>"]
SPM_SINGLES = "▁theanisodrw"
SPM_MERGES = "▁ t|h e|▁t he|i n|▁ a|e r|o n|n d|▁ s|r e|▁a nd|i t|e s|a t|o r|▁ w|e n"
SPM_SPECIALS = ["<unk>", "<s>", "</s>"]


def _merges(text):
    return [tuple(m.split(" ")) for m in text.split("|")]


def byte_level(pre: str) -> Tokenizer:
    """Byte-level BPE: 256 bytes, 29 merges, then begin, end and pad (285, 286, 287)."""
    merges = _merges(BYTE_MERGES)
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(m) for m in merges]
    tok = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    if pre == "qwen2":
        tok.normalizer = normalizers.NFC()
    if pre == "gpt-2":
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(PRE_TOKENIZERS[pre]), "isolated")
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in BYTE_SPECIALS])
    if pre == "llama-bpe":
        tok.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", tok.token_to_id("<|begin|>"))]
        )
    assert tok.get_vocab_size() == VOCAB
    return tok


def sentencepiece_style() -> Tokenizer:
    """SentencePiece-style BPE: unk, s, /s, 256 byte pieces, 12 single characters, 17 merges."""
    merges = _merges(SPM_MERGES)
    pieces = SPM_SPECIALS + [f"<0x{b:02X}>" for b in range(256)] + list(SPM_SINGLES) + ["".join(m) for m in merges]
    vocab = {p: i for i, p in enumerate(pieces)}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPM_SPECIALS])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    assert tok.get_vocab_size() == VOCAB
    return tok


def make(kind: str) -> tuple[Tokenizer, dict]:
    """The tokenizer of a kind ('spm', 'llama-bpe', 'qwen2' or 'gpt-2') and the config's special ids."""
    if kind == "spm":
        return sentencepiece_style(), {"bos_token_id": 1, "eos_token_id": 2}
    return byte_level(kind), {"bos_token_id": 285, "eos_token_id": 286}


def write_gguf(writer: gguf.GGUFWriter, kind: str):
    """The tokenizer's keys of a GGUF file."""
    tok, special = make(kind)
    pieces = [tok.id_to_token(i) for i in range(VOCAB)]
    normal, control, unknown, byte = (
        int(getattr(gguf.TokenType, n)) for n in ("NORMAL", "CONTROL", "UNKNOWN", "BYTE")
    )
    if kind == "spm":
        types = [unknown, control, control] + [byte] * 256 + [normal] * 29
        # A merge of rank r scores -r; what no merge makes scores below all merges.
        n_merges = len(_merges(SPM_MERGES))
        scores = [0.0] * 259 + [-1000.0] * len(SPM_SINGLES) + [-float(r) for r in range(n_merges)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(True)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(kind)
        writer.add_token_list(pieces)
        writer.add_token_types([normal] * 285 + [control] * 3)
        writer.add_token_merges(BYTE_MERGES.split("|"))
    writer.add_bos_token_id(special["bos_token_id"])
    writer.add_eos_token_id(special["eos_token_id"])
    writer.add_add_bos_token(kind not in ("qwen2", "gpt-2"))
    writer.add_add_eos_token(False)
