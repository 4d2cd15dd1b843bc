"""RIN as a model of `lm-eval` (EleutherAI's harness).

    python lm_eval_adapter.py MODEL TASK [TASK ...]

Log-likelihoods are of the engine's own logits, whose bits are the same on every machine, so that a score is one too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from rin import RinEngine


class RinLM(LM):
    """A model that RIN runs.

    Args:
        engine: a language model.
        max_gen_toks: most tokens of a generation whose task names no number.
    """

    def __init__(self, engine: RinEngine, max_gen_toks: int = 128) -> None:
        super().__init__()
        self.engine = engine
        self.max_gen_toks = max_gen_toks
        self.context = int(engine.info["context"])

    def _score(self, ids: Sequence[int], first: int) -> tuple[float, bool]:
        """The log-likelihood of the ids from the `first` on, and whether each is the most probable one."""
        # What does not fit is left out at the beginning, as the harness does.
        cut = max(0, len(ids) - self.context)
        ids, first = ids[cut:], max(first - cut, 1)
        rows = self.engine.logits(ids[:-1])[first - 1 :].astype(np.float64)
        wanted = np.asarray(ids[first:])
        rows -= rows.max(axis=1, keepdims=True)
        likely = rows[np.arange(len(wanted)), wanted] - np.log(np.exp(rows).sum(axis=1))
        return float(likely.sum()), bool((rows.argmax(axis=1) == wanted).all())

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of a continuation after a context."""
        found = []
        for request in requests:
            context, continuation = request.args
            before = self.engine.encode(context) if context else self._start()
            whole = self.engine.encode(context + continuation)
            # Where the boundary melts, the continuation begins at the first id that differs.
            alike = next((i for i, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
            found.append(self._score(whole, max(alike, 1)))
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Of whole texts, in windows that overlap by one id."""
        found = []
        for request in requests:
            ids = self.engine.encode(request.args[0])
            total, at = 0.0, 0
            while at < len(ids) - 1:
                window = ids[at : at + self.context]
                total += self._score(window, 1)[0]
                at += len(window) - 1
            found.append(total)
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Texts until a string that ends them."""
        found = []
        for request in requests:
            context, options = request.args
            stops = options.get("until", [])
            found.append(
                self.engine.generate(
                    context,
                    options.get("max_gen_toks", self.max_gen_toks),
                    stop=[stops] if isinstance(stops, str) else list(stops),
                    temperature=options.get("temperature", 0.0) if options.get("do_sample") else 0.0,
                )
            )
        return found

    def _start(self) -> list[int]:
        found = self.engine.encode("")
        return found if found else [0]


def main() -> None:
    with RinEngine(sys.argv[1]) as engine:
        results: Any = simple_evaluate(model=RinLM(engine), tasks=sys.argv[2:])
    print(json.dumps(results["results"], indent=2, default=str))


if __name__ == "__main__":
    main()
