"""Reads the stories260K GGUF files with the gguf package, prints what they hold, and runs them in float64.

    python conformance/scripts/check_stories.py PATH/models/stories260k

Checks that the F32 file, run by GGML's conventions, gives the published greedy text. Writes nothing.
"""

import sys
from collections import Counter
from pathlib import Path

import gguf
import numpy as np

import reference


def greedy(path, n):
    """`n` greedy ids after BOS, by whole forward passes."""
    shape, weights, _ = reference.read_gguf(path)
    tokens, gaps = [1], []
    for _ in range(n):
        top = np.sort(logits := reference.forward(shape, weights, tokens)[-1])
        gaps.append(top[-1] - top[-2])
        tokens.append(int(logits.argmax()))
    return tokens[1:], min(gaps)


def text_of(path, tokens):
    pieces = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    joined = b"".join(
        bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.replace("▁", " ").encode()
        for p in (pieces[t] for t in tokens)
    )
    return joined.decode().removeprefix(" ")


def describe(path):
    reader = gguf.GGUFReader(path)
    print(path.name)
    for key, f in reader.fields.items():
        print("  ", key, "/".join(t.name for t in f.types), repr(f.contents())[:72])
    print("  ", dict(Counter(f"{t.name.rsplit('.', 2)[-2]} {t.tensor_type.name}" for t in reader.tensors)))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    published = (folder / "greedy-200.txt").read_text().strip()
    for path in sorted(folder.glob("*.gguf")):
        describe(path)
        tokens, gap = greedy(path, 200)
        text = text_of(path, tokens).strip()
        same = len(text) if text == published else next(i for i, (a, b) in enumerate(zip(text, published)) if a != b)
        print(f"   greedy: {same} of {len(published)} characters as published; least top-2 gap {gap:.2e}")
        print("   ids", tokens)
        if path.name == "stories260K.gguf":
            assert text == published
