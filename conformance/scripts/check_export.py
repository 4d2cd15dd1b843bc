"""Exports models with `rin export` and loads the results with transformers and llama-cpp-python.

    HF_HUB_OFFLINE=1 python conformance/scripts/check_export.py --rin target/release/rin [--write docs/export.md]

Every source goes to a Hugging Face folder and to a GGUF file, directly and by way of `.rin`, which has to give the same
bytes. The logits after each position of a prompt are computed by transformers (folders, float32, eager attention) and
by llama.cpp (GGUF files, one thread) and held against those of `rin run --logits` on the source: the argmax has to be
the same unless the two largest logits of RIN are a tie, and the largest difference is reported. llama.cpp rounds the
activations of every product to the type of 16-bit weights, or to 8 bits in its own blocks, so its ties are wider there.
Where there is a GGUF file of the same weights that another tool wrote, llama.cpp has to give the same bits for both.
Tokenizers are compared by the ids of a text. Without llama-cpp-python that half is left out, and said to be.

`--write` puts the table between the marks `<!-- check_export -->` and `<!-- end -->` of a file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "conformance" / "models"
STORIES = ROOT.parent / "shared" / "data" / "models" / "stories260k"
TEXT = "The hatter and she went in 1999 to the thin and noted sea: it's there."
N_TOKENS = 40
# Least distance between two tokens, in the range of the logits, below which they are a tie: for float32 throughout, and
# for llama.cpp's rounded activations.
TIE = 1e-4
ROUNDED_TIE = 1e-2
try:
    import llama_cpp
except ImportError:
    llama_cpp = None


def rin(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"rin {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def rin_logits(binary, model, tokens, folder):
    """Logits after each prefix of `tokens`: one token is generated after each."""
    rows = []
    for end in range(1, len(tokens) + 1):
        ids = ",".join(map(str, tokens[:end]))
        out = folder / "logits.npy"
        flags = ["--no-special", "--temp", "0", "-n", "1", "--ignore-eos", "--kv-type", "f32", "-q", "--threads", "1"]
        rin(binary, "run", model, "--tokens", ids, *flags, "--logits", out)
        rows.append(np.load(out)[0])
    return np.stack(rows)


def rin_ids(binary, model, text):
    return json.loads(rin(binary, "tokens", model, "-p", text, "--json", "-q"))["tokens"]


def transformers_logits(folder, tokens):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


def transformers_ids(folder, text):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return tokenizer(text)["input_ids"]


def llama(path, **more):
    return llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True, **more)


def llama_logits(path, tokens):
    model = llama(path, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


def llama_ids(path, text):
    return llama(path, vocab_only=True).tokenize(text.encode(), add_bos=True, special=False)


def compare(name, expected, found, tie):
    """Rows whose argmax is the same, other rows that are ties, and the largest difference in the range."""
    assert expected.shape == found.shape, f"{name}: {expected.shape} against {found.shape}"
    spread = float(expected.max() - expected.min())
    top = np.sort(expected, axis=1)[:, -2:]
    ties = (top[:, 1] - top[:, 0]) < tie * spread
    same = expected.argmax(axis=1) == found.argmax(axis=1)
    return int(same.sum()), int((ties & ~same).sum()), float(np.abs(expected - found).max()) / spread


def sources():
    """Every folder and GGUF file of the conformance models, and the trained one where it is there."""
    for folder in sorted(MODELS.iterdir()):
        if (folder / "model.safetensors").exists():
            yield folder
        yield from sorted(folder.glob("*.gguf"))
    yield from sorted(STORIES.glob("*.gguf"))


def types(file):
    """Types of the matrices of a GGUF file."""
    return {tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) == 2}


def reference(source):
    """A GGUF file of the source's weights that another tool wrote."""
    if source.is_file():
        return source
    return next(iter(sorted(source.glob("*.gguf"))), None)


def cell(same, ties, worst, n):
    return f"{same} of {n}" + (f" ({ties} tie{'s' if ties > 1 else ''})" if ties else "") + f", {worst:.1e}"


def check(binary, source, folder):
    """One row of the table, and whether all is well."""
    folder.mkdir()
    through = folder / "through.rin"
    rin(binary, "import", source, "-o", through, "-q")
    folders, files = [folder / "direct", folder / "through"], [folder / "direct.gguf", folder / "through.gguf"]
    for start, dir_, file in zip((source, through), folders, files):
        rin(binary, "export", start, "-o", dir_, "-q")
        rin(binary, "export", start, "-o", file, "-q")
    for a, b in (files, [path / "model.safetensors" for path in folders]):
        assert a.read_bytes() == b.read_bytes(), f"{source.name}: the way through .rin gives other bytes"
    config = json.loads((folders[0] / "config.json").read_text())
    ids = rin_ids(binary, source, TEXT)
    tokens = (ids * N_TOKENS)[:N_TOKENS]
    kinds = types(files[0])
    quantised = not kinds <= {"F32", "F16", "BF16"}
    # RIN quantises the activations of quantised products: transformers is held against RIN on the same numbers.
    expected = rin_logits(binary, folders[0] if quantised else source, tokens, folder)
    same, ties, worst = compare(source.name, expected, transformers_logits(folders[0], tokens), TIE)
    good = same + ties == len(tokens)
    cells, same_ids = [cell(same, ties, worst, len(tokens))], [transformers_ids(folders[0], TEXT) == ids]
    if llama_cpp is not None:
        expected = rin_logits(binary, source, tokens, folder) if quantised else expected
        found = llama_logits(files[0], tokens)
        # llama.cpp knows no window for llama, so it is asked about what lies within.
        n = config.get("sliding_window") or len(tokens)
        tie = TIE if kinds == {"F32"} else ROUNDED_TIE
        same, ties, worst = compare(source.name, expected[:n], found[:n], tie)
        cells.append(cell(same, ties, worst, len(expected[:n])))
        other = reference(source)
        equal = other is None or np.array_equal(found, llama_logits(other, tokens))
        cells.append("-" if other is None else "yes" if equal else "no")
        same_ids.append(llama_ids(files[0], TEXT) == ids)
        good &= same + ties == len(expected[:n]) and equal
    good &= all(same_ids)
    while len(cells) < 3:
        cells.append("not run")
    name = source.name if source.is_file() else f"{source.name}/"
    return [name, config["model_type"], *cells, " / ".join("same" if same else "differ" for same in same_ids)], good


def package(name):
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name}: absent"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rin", required=True, help="the rin binary")
    parser.add_argument("--write", type=Path, help="the file whose table is replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows, all_good = [], True
    with tempfile.TemporaryDirectory() as folder:
        for i, source in enumerate(sources()):
            row, good = check(arguments.rin, source, Path(folder) / str(i))
            all_good &= good
            rows.append(row)
            print(*row, "" if good else "  <-- WRONG", sep=" | ", flush=True)
    packages = ["transformers", "torch", "tokenizers", "llama-cpp-python", "gguf", "numpy"]
    lines = [
        f"Versions: {rin(arguments.rin, '--version').strip()}; {', '.join(map(package, packages))}; "
        f"Python {sys.version.split()[0]}.",
        "",
        "| source | `model_type` | transformers | llama.cpp | llama.cpp as on its own file | ids of a text |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    if arguments.write:
        text = arguments.write.read_text()
        before, rest = text.split("<!-- check_export -->\n")
        after = rest.split("<!-- end -->")[1]
        arguments.write.write_text(f"{before}<!-- check_export -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}")
    print("all as they should be" if all_good else "SOMETHING DIFFERS")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
