"""Runs RIN and its peers on the same weights, in turns, and writes report.md and report.json.

    python bench/peers/run.py --rin target/release/rin --cache DIR --out DIR --models 15m --types q8_0 --threads 1,2

See README.md beside this file for the protocol.
"""

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import machine
import models
import numpy as np
import report
from engine import ENGINES, Engine, Failed
from worker import token

# Largest difference of two engines' logits, over the range of rin's. The same products in another order stay far
# below; activations that are rounded to 8 bits a little differently do not.
BOUNDS = {"F32": 3e-3, "F16": 1e-2}
BOUND = 3e-2
# Of engines that compute with other weights than those stored: they are shown without a comparison.
OTHER_ARITHMETIC = 1e-1
PARITY_PROMPT, PARITY_STEPS = 64, 4


def arguments():
    words = lambda text: [word for word in text.split(",") if word]
    numbers = lambda text: [int(word) for word in words(text)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rin", required=True, help="the program, built with --release")
    parser.add_argument("--cache", required=True, help="folder of the models, which are made there")
    parser.add_argument("--out", required=True, help="folder of the report")
    parser.add_argument("--models", type=words, default=["15m"], help=",".join(models.SHAPES))
    parser.add_argument("--types", type=words, default=["q8_0"], help="f32,bf16,f16,q8_0,q4_0,q4_k_m")
    parser.add_argument("--threads", type=numbers, default=[1])
    parser.add_argument("--prompt", type=int, default=512, help="tokens; 0 leaves it out")
    parser.add_argument("--gen", type=int, default=64, help="steps; 0 leaves them out")
    parser.add_argument("--sequences", type=numbers, default=[1], help="stepped together")
    parser.add_argument("--depth", type=numbers, default=[0], help="tokens in each sequence before a test")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--peers", type=words, default=[name for name in ENGINES if name != "rin"])
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one answer of an engine")
    args = parser.parse_args()
    args.types = [kind.upper() for kind in args.types]
    cores = sorted(os.sched_getaffinity(0))
    for found, known, what in [
        (args.models, models.SHAPES, "model"), (args.types, models.maker.TYPES, "type"), (args.peers, ENGINES, "peer"),
        (args.threads, range(1, len(cores) + 1), "number of threads"),
        (args.sequences, range(1, 257), "number of sequences"),
    ]:  # fmt: skip
        if unknown := [value for value in found if value not in known]:
            choices = f"1 to {known[-1]}" if isinstance(known, range) else ", ".join(known)
            parser.error(f"no such {what}: {unknown[0]} (there are {choices})")
    if args.depth != [0] and args.peers != ["llama.cpp"]:
        parser.error("of the peers only llama.cpp is measured at a depth: add --peers llama.cpp")
    if args.repetitions < 1 or args.prompt < 0 or args.gen < 0 or args.prompt + args.gen == 0:
        parser.error("nothing to measure")
    args.engines = ["rin", *(name for name in dict.fromkeys(args.peers) if name != "rin")]
    return args, cores


def tests_of(args):
    """Name, tokens that count, and what the worker is told."""
    prompt = [(f"pp{args.prompt}", args.prompt, {"n_prompt": args.prompt})] if args.prompt else []
    several = lambda n: f" × {n}" if n > 1 else ""
    steps = [
        (f"tg{args.gen}{several(n)}", args.gen * n, {"n_gen": args.gen, "n_sequences": n}) for n in args.sequences
    ] if args.gen else []  # fmt: skip
    at = lambda depth: f" @ d{depth}" if depth else ""
    return [
        (name + at(depth), tokens, {**test, "depth": depth}) for depth in args.depth for name, tokens, test in prompt + steps
    ]  # fmt: skip


def difference(ours, theirs):
    """(largest difference over the range of a row, rows with the same first choice)."""
    if theirs.shape != ours.shape:
        raise Failed(f"its logits have the shape {theirs.shape}, rin's {ours.shape}")
    if not np.isfinite(theirs).all():
        raise Failed("its logits are not finite")
    spread = ours.max(axis=1) - ours.min(axis=1)
    worst = (np.abs(theirs - ours).max(axis=1) / spread).max()
    return float(worst), int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())


class Bench:
    """One model, type and number of threads: its engines, and rows for each test."""

    def __init__(self, args, path, name, kind, cores, log):
        self.args, self.path, self.name, self.kind, self.log = args, path, name, kind, log
        self.cores, self.tests = cores, tests_of(args)
        self.engines, self.failures, self.parity = {}, {}, []
        self.samples, self.meter = {}, machine.Meter()

    def attempt(self, engine, work):
        """What `work()` gives; an engine that fails is out for this configuration."""
        try:
            return work()
        except Failed as failure:
            print(f"  {engine}: {failure}", file=sys.stderr)
            self.failures[engine] = str(failure)
            if gone := self.engines.pop(engine, None):
                gone.close()
            return None

    def start(self):
        longest = max(self.args.depth) + max(self.args.prompt, self.args.gen + 1, PARITY_PROMPT + PARITY_STEPS)
        common = [
            "--model", self.path, "--type", self.kind, "--cores", ",".join(map(str, self.cores)),
            "--sequences", max(self.args.sequences), "--batch", max(self.args.prompt, PARITY_PROMPT),
            "--positions", longest, "--rin", self.args.rin,
        ]  # fmt: skip
        common = [str(word) for word in common]
        for name in self.args.engines:
            if made := self.attempt(name, lambda name=name: Engine(name, common, self.log, self.args.timeout)):
                self.engines[name] = made

    def check(self, folder):
        """Excludes engines that do not compute what rin computes; all of them where rin gives no logits."""
        decoder = models.read(self.path)
        ids = [token(i, 0, decoder.vocab) for i in range(PARITY_PROMPT)]

        def logits(name, steps):
            file = Path(folder) / "logits.npy"
            self.engines[name].ask(do="logits", ids=ids, steps=steps, file=str(file))
            return np.load(file).astype(np.float64)

        ours = None
        if "rin" in self.engines:
            # rin goes on with its own choices, so the steps that it is given are not read.
            ours = self.attempt("rin", lambda: logits("rin", [0] * PARITY_STEPS))
        if ours is None:
            for name in list(self.engines):
                self.failures[name] = "rin gave no logits to compare with"
                self.engines.pop(name).close()
            return
        steps = [int(row.argmax()) for row in ours[:-1]]
        for name in [name for name in self.engines if name != "rin"]:
            self.attempt(name, lambda name=name: self.compare(name, ours, logits(name, steps)))

    def compare(self, name, ours, theirs):
        same = self.engines[name].facts["arithmetic"] == "same"
        bound = BOUNDS.get(self.kind, BOUND) if same else OTHER_ARITHMETIC
        found, choices = difference(ours, theirs)
        self.parity.append({
            **self.place(), "engine": name, "difference": found, "bound": bound, "within": found <= bound,
            "same_choice": choices, "positions": len(ours),
        })  # fmt: skip
        if found > bound:
            raise Failed(f"parity: its logits differ by {found:.1e} of their range, more than {bound:.0e}")

    def place(self):
        return {"model": self.name, "type": self.kind, "threads": len(self.cores)}

    def measure(self):
        """Rounds in which every engine has its turn with every test, each round in the opposite order of the last."""
        commands = [test for _, _, test in self.tests]
        for name in list(self.engines):
            self.attempt(name, lambda name=name: self.engines[name].ask(do="tune", tests=commands))
        turns = [(test, name) for test in self.tests for name in self.args.engines]
        for number in range(self.args.repetitions):
            for (test, tokens, command), name in turns if number % 2 == 0 else reversed(turns):
                if name not in self.engines:
                    continue
                engine = self.engines[name]
                work = lambda engine=engine, command=command: engine.ask(do="turn", test=command)
                if done := self.attempt(name, lambda work=work, pid=engine.pid: self.meter.turn(pid, work)):
                    self.samples.setdefault((name, test), []).append((done["ns"], tokens))

    def rows(self):
        """A row for each test and engine; those of an engine that failed have no figures."""
        disturbed, by = self.meter.verdict()
        for test, _, _ in self.tests:
            for name in self.args.engines:
                row = {**self.place(), "test": test, "engine": name, "disturbed": disturbed, "disturbed_by": by}
                if name not in self.engines:
                    yield {**row, "status": self.failures.get(name, "not run")}
                    continue
                facts, samples = self.engines[name].facts, self.samples[name, test]
                yield {
                    **row, "status": "measured", "version": facts["version"], "arithmetic": facts["arithmetic"],
                    "differs": facts["differs"], "samples_ns": [ns for ns, _ in samples],
                    "samples_ts": [tokens / ns * 1e9 for ns, tokens in samples],
                }  # fmt: skip

    def about(self):
        """What each engine said of itself."""
        where = f"{self.name} {self.kind}, {len(self.cores)} threads"
        for name, engine in self.engines.items():
            yield {"engine": name, "for": where, "version": engine.facts["version"], "config": engine.facts["config"]}

    def close(self):
        for engine in self.engines.values():
            engine.close()


def main():
    args, cores = arguments()
    found = {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"), "repetitions": args.repetitions,
        "machine": machine.facts(), "rows": [], "parity": [], "engines": [], "models": [],
    }  # fmt: skip
    Path(args.out).mkdir(parents=True, exist_ok=True)
    with open(Path(args.out) / "engines.log", "w") as log, tempfile.TemporaryDirectory() as folder:
        for name, kind in [(name, kind) for name in args.models for kind in args.types]:
            path = models.make(name, kind, args.cache)
            size = path.stat().st_size
            found["models"].append({"model": name, "type": kind, "bytes": size, "sha256": models.sha256(path)})
            for threads in args.threads:
                print(f"{name} {kind}, {threads} threads", file=sys.stderr)
                bench = Bench(args, path, name, kind, cores[:threads], log)
                try:
                    bench.start()
                    bench.check(folder)
                    bench.measure()
                    found["rows"] += bench.rows()
                    found["parity"] += bench.parity
                    found["engines"] += bench.about()
                finally:
                    bench.close()
                # What is there so far is not lost when a later model fails.
                report.finish(found["rows"])
                report.write(found, args.out)
    print(f"{args.out}/report.md", file=sys.stderr)
    if not any(row["status"] == "measured" for row in found["rows"]):
        sys.exit("nothing was measured; see the report")


if __name__ == "__main__":
    main()
