"""Model files for the peers' bench: random weights in real shapes, kept in a cache folder, and read back.

The same shape, type and seed give the same bytes; nothing is downloaded.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_random_model as maker  # noqa: E402

# The names of the command line.
SHAPES = {"4m": "seed-4m", "15m": "stories-15m", "135m": "smol-135m", "qwen2.5-0.5b": "qwen-0.5b", "llama-3.2-1b": "llama-1b"}
SEED = 1


def make(name, kind, cache):
    """The path of the model's file, which is written if it is not there."""
    path = Path(cache) / f"{SHAPES[name]}-{kind.lower()}-seed{SEED}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}.half")
        maker.write(SHAPES[name], kind, half, SEED)
        half.rename(path)
    return path


def sha256(path):
    """The file's digest, so that a report says what was measured."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Decoder:
    """A decoder read from a GGUF file. Rows of q and k are in the order of rotated halves."""

    arch: str
    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    rope_base: float
    eps: float
    tensors: dict

    @property
    def head_dim(self):
        return self.dim // self.heads

    def kind(self, name):
        """The type of a matrix: 'Q8_0', 'F32', ..."""
        return self.tensors[name].tensor_type.name

    def rows(self, name):
        """The stored rows of a matrix, [rows, bytes or values]."""
        data = np.asarray(self.tensors[name].data)
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(name.split(".")[-2])
        if self.arch == "llama" and heads:
            # GGUF keeps llama's pairs side by side.
            data = data.reshape(heads, self.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(data.shape)
        return data

    def values(self, name):
        """The values of a tensor in f32."""
        return gguf.quants.dequantize(self.rows(name), self.tensors[name].tensor_type).astype(np.float32)

    def names(self):
        return list(self.tensors)


def read(path):
    """The decoder of a file that `make` wrote."""
    reader = gguf.GGUFReader(path)
    get = lambda key: reader.fields[key].contents()
    arch = get("general.architecture")
    return Decoder(
        arch, get(f"{arch}.embedding_length"), get(f"{arch}.block_count"), get(f"{arch}.attention.head_count"),
        get(f"{arch}.attention.head_count_kv"), get(f"{arch}.feed_forward_length"), get(f"{arch}.vocab_size"),
        get(f"{arch}.rope.freq_base"), get(f"{arch}.attention.layer_norm_rms_epsilon"),
        {t.name: t for t in reader.tensors},
    )  # fmt: skip
