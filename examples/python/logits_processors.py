"""Generation with the logits processors of `transformers`, token by token.

    python logits_processors.py MODEL "Once upon a time" 40

Any `LogitsProcessor` works: the loop hands it the ids so far and the logits after them. `RinEngine.logits(ids, last=True)`
computes one step per token, for it keeps what it has computed of the same text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper

from rin import RinEngine


def generate(
    engine: RinEngine, ids: list[int], processors: LogitsProcessorList, max_tokens: int, seed: int = 0
) -> Iterator[int]:
    """The ids after `ids`, each as it is drawn."""
    ids, ends = list(ids), set(engine.info.get("eos", ()))
    random = torch.Generator().manual_seed(seed)
    for _ in range(max_tokens):
        scores = torch.from_numpy(engine.logits(ids, last=True)).unsqueeze(0)
        scores = processors(torch.tensor([ids]), scores)
        drawn = int(torch.multinomial(torch.softmax(scores[0], -1), 1, generator=random))
        if drawn in ends:
            return
        ids.append(drawn)
        yield drawn


def main() -> None:
    model, prompt, max_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    processors = LogitsProcessorList(
        [NoRepeatNGramLogitsProcessor(3), TemperatureLogitsWarper(0.8), TopKLogitsWarper(40)]
    )
    with RinEngine(model) as engine:
        print(engine.decode(generate(engine, engine.encode(prompt), processors, max_tokens)))


if __name__ == "__main__":
    main()
