"""The life of an engine in a process of its own: one JSON object a line in, one out.

A peer is a class with

    __init__(args)              loads; raises with a reason where it cannot
    facts() -> dict             name, version, arithmetic, config: what stands in the report
    tune(tests)                 picks its own fastest settings for the tests
    turn(test) -> int           one repetition, in ns of forward passes alone
    logits(ids, steps) -> array [1 + len(steps), vocab] after a prompt and after each further token
    warms_up                    true where a turn begins with a repetition that does not count

and a test is {"n_prompt": 512} or {"n_gen": 64, "n_sequences": 16}, with {"depth": 8192} tokens in each sequence before.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import traceback

PR_SET_PDEATHSIG = 1
MASK = 0xFFFFFFFF


def philox(counter, key):
    """The first word of Philox4x32-10 at (counter, 0, 0)."""
    c, k = [*counter, 0, 0], list(key)
    for _ in range(10):
        low, high = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(high >> 32) ^ c[1] ^ k[0], high & MASK, (low >> 32) ^ c[3] ^ k[1], low & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c[0]


def token(index, sequence, vocab):
    """The id that `rin bench` feeds at a place, so that all engines are fed the same."""
    return philox((index, sequence), (0x72696E00, 0x746F6B73)) * vocab >> 32


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--type", required=True, help="of the model's weights, as Q8_0")
    parser.add_argument("--cores", required=True, help="as 0,1: as many threads as cores")
    parser.add_argument("--positions", type=int, required=True, help="longest sequence")
    parser.add_argument("--sequences", type=int, required=True, help="most sequences in one step")
    parser.add_argument("--batch", type=int, required=True, help="most tokens of a prompt")
    parser.add_argument("--rin", help="the program; rin only")
    parser.add_argument("--dtype", help="of weights; torch only")
    args = parser.parse_args()
    args.cores = [int(core) for core in args.cores.split(",")]
    args.threads = len(args.cores)
    return args


def answer(peer, command):
    match command["do"]:
        case "logits":
            import numpy as np

            rows = peer.logits(command["ids"], command["steps"])
            np.save(command["file"], np.asarray(rows, dtype=np.float32))
            return {}
        case "tune":
            peer.tune(command["tests"])
            return {"facts": peer.facts()}
        case "turn":
            # Whoever ran before has filled the caches: a repetition that does not count comes first.
            if not getattr(peer, "warms_up", False):
                peer.turn(command["test"])
            return {"ns": peer.turn(command["test"])}
    raise ValueError(f"no such command: {command['do']}")


def serve(make):
    """Answers commands until there are no more. `make(args)` gives the peer; importing its package belongs there."""
    # A stopped process would outlive the one that stopped it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    args = arguments()
    os.sched_setaffinity(0, args.cores)
    # Libraries print; what they print must not get among the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value):
        out.write(json.dumps(value) + "\n")
        out.flush()

    def attempt(work):
        try:
            return work()
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}

    peer = None

    def load():
        nonlocal peer
        peer = make(args)
        return {"facts": peer.facts()}

    say(attempt(load))
    if peer is None:
        sys.exit(1)
    for line in sys.stdin:
        say(attempt(lambda: answer(peer, json.loads(line))))
