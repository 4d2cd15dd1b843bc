"""RIN through its command line: `rin bench` for a turn, `rin run` for logits."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from worker import serve


class Rin:
    # `rin bench` runs a repetition that does not count before the one that does.
    warms_up = True

    def __init__(self, args):
        self.args = args
        self.row = {}
        for command in ("bench", "run"):
            if self.program(command, "--help", check=False).returncode != 0:
                raise RuntimeError(f"{args.rin} has no `{command}`")
        self.version = self.program("--version").stdout.strip()

    def program(self, *arguments, check=True):
        done = subprocess.run([self.args.rin, *map(str, arguments)], capture_output=True, text=True)
        if check and done.returncode != 0:
            words = (done.stderr.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"rin {arguments[0]} ended with {done.returncode}: {words}")
        return done

    def facts(self):
        config = ["KV cache f16"] + [f"{name} {self.row[name]}" for name in ("tier", "n_threads") if name in self.row]
        return {"version": self.version, "arithmetic": "same", "differs": [], "config": config}

    def tune(self, tests):
        """It has nothing to choose; one turn tells its tier."""
        self.turn(tests[0])

    def turn(self, test):
        # One repetition beside its own warm-up. Loading is not in its figure.
        n_prompt, n_gen, sequences = (test.get(name, 0) for name in ("n_prompt", "n_gen", "n_sequences"))
        done = self.program(
            "bench", self.args.model, "-p", n_prompt, "-n", n_gen, "-b", sequences or 1, "-r", 1,
            "-d", test.get("depth", 0),
            "-t", self.args.threads, "--kv-type", "f16", "--batch", self.args.batch, "--rates-only", "-q", "-o", "json",
        )  # fmt: skip
        (self.row,) = json.loads(done.stdout)
        if self.row["n_threads"] != self.args.threads:
            raise RuntimeError(f"rin took {self.row['n_threads']} threads, not {self.args.threads}")
        (taken,) = self.row["samples_ns"]
        return taken

    def logits(self, ids, steps):
        """The steps are its own greedy choices: they must be what it chooses again."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "logits.npy"
            self.program(
                "run", self.args.model, "--tokens", ",".join(map(str, ids)), "-n", 1 + len(steps), "--temp", 0,
                "--ignore-eos", "--kv-type", "f16", "--threads", self.args.threads, "-q", "--json", "--logits", file,
            )  # fmt: skip
            rows = np.load(file)
        if len(rows) != 1 + len(steps):
            raise RuntimeError(f"rin wrote {len(rows)} rows of logits, not {1 + len(steps)}")
        return rows


if __name__ == "__main__":
    serve(Rin)
