"""From the start to the first token: rin's whole process beside llama.cpp's loading, one prompt and one choice.

    python bench/peers/start.py --rin target/release/rin --gguf MODEL.gguf --threads 2

The file lies in the page cache. Of rin the process is timed from outside, from its start to its end, from the GGUF file and from a
`.rin` file made of it once. Of llama.cpp the time runs inside, from before its backend starts until the logits of the
prompt's last token are there: the start of Python and the loading of its library are not counted. Its weights are once
repacked for its fastest kernels and once taken as they lie in the mapping (`no repacking`), for the first costs time here.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = list(range(11, 19))


def child(model, threads, repack):
    """Loads, feeds the prompt, and says how many seconds that took."""
    import llama_cpp as c

    silence = c.llama_log_callback(lambda *_: None)
    c.llama_log_set(silence, ctypes.c_void_p(0))
    start = time.perf_counter()
    c.llama_backend_init()
    params = c.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = repack
    model = c.llama_model_load_from_file(model.encode(), params)
    context_params = c.llama_context_default_params()
    context_params.n_ctx = 512
    context_params.n_threads = context_params.n_threads_batch = threads
    context = c.llama_init_from_model(model, context_params)
    batch = c.llama_batch_init(len(PROMPT), 0, 1)
    batch.n_tokens = len(PROMPT)
    for i, id_ in enumerate(PROMPT):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = id_, i, 1, 0
        batch.logits[i] = i + 1 == len(PROMPT)
    code = c.llama_decode(context, batch)
    c.llama_synchronize(context)
    vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    logits = c.llama_get_logits_ith(context, -1)
    first = max(range(vocab), key=lambda i: logits[i]) if code == 0 else None
    taken = time.perf_counter() - start
    print(json.dumps({"seconds": taken, "first": first}))


def measured(command):
    """A process's output, seconds from start to end, and most resident bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - start
    if status != 0:
        sys.exit(f"{command[0]} failed: {process.stderr.read().strip()}")
    return out, taken, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rin", required=True, help="the program, built with --release")
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--child", choices=["repack", "mapped"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.gguf, args.threads, args.child == "repack")
    with tempfile.TemporaryDirectory(dir=Path(args.gguf).parent) as folder:
        packed = str(Path(folder) / "model.rin")
        measured([args.rin, "import", args.gguf, "-o", packed])
        ids = ",".join(map(str, PROMPT))
        flags = ["--tokens", ids, "-n", "1", "--ignore-eos", "--temp", "0", "--threads", str(args.threads), "--ctx", "512", "-q"]
        again = [sys.executable, __file__, "--rin", args.rin, "--gguf", args.gguf, "--threads", str(args.threads), "--child"]
        commands = {
            "rin, .rin": [args.rin, "run", packed, *flags],
            "rin, .gguf": [args.rin, "run", args.gguf, *flags],
            "llama.cpp": [*again, "repack"],
            "llama.cpp, no repacking": [*again, "mapped"],
        }
        seconds, memory = {name: [] for name in commands}, {name: 0 for name in commands}
        for round_ in range(args.repetitions + 1):
            for name in list(commands)[:: 1 if round_ % 2 else -1]:
                out, taken, peak = measured(commands[name])
                if name.startswith("llama.cpp"):
                    taken = json.loads(out)["seconds"]
                if round_:
                    # The first round fills the page cache.
                    seconds[name].append(taken)
                    memory[name] = max(memory[name], peak)
    best = min(statistics.median(seconds[name]) for name in seconds if name.startswith("llama.cpp"))
    print("| | ms to the first token | range | most resident MB | of llama.cpp's better time |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        middle = statistics.median(values)
        low, high = 1e3 * min(values), 1e3 * max(values)
        print(f"| {name} | {1e3 * middle:.0f} | {low:.0f} to {high:.0f} | {memory[name] / 1e6:.0f} | {middle / best:.2f} |")


if __name__ == "__main__":
    main()
