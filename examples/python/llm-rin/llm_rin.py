"""A plugin for the command `llm` (llm.datasette.io): models that RIN runs.

    pip install ./examples/python/llm-rin
    llm -m rin "ROMEO:" -o max_tokens 40              # the model that RIN carries
    RIN_MODELS=~/models llm -m rin/tiny.gguf "Once"   # each file of a folder
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm
from pydantic import Field

from rin import RinEngine


@llm.hookimpl
def register_models(register: Any) -> None:
    """The model that RIN carries, and those of the folder `RIN_MODELS`."""
    register(RinModel("rin", None))
    folder = os.environ.get("RIN_MODELS")
    if folder:
        for path in sorted(Path(folder).expanduser().iterdir()):
            if path.suffix in (".rin", ".gguf"):
                register(RinModel(f"rin/{path.name}", path))


class RinModel(llm.Model):
    """A model file."""

    can_stream = True

    class Options(llm.Options):  # type: ignore[misc]
        """Sampling; what is not given is as usual."""

        max_tokens: int = Field(description="Most tokens", default=256)
        temperature: float | None = Field(description="0 is greedy", default=None)
        top_k: int | None = Field(description="Keeps so many tokens", default=None)
        top_p: float | None = Field(description="Keeps tokens up to this probability", default=None)
        seed: int | None = Field(description="Of the random generator", default=None)

    def __init__(self, model_id: str, path: Path | None) -> None:
        self.model_id = model_id
        self.path = path
        self._engine: RinEngine | None = None

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """The text after the prompt, as it comes; times, energy and digest go into the log."""
        if self._engine is None:
            self._engine = RinEngine(self.path)
        sampling = prompt.options.model_dump(exclude_none=True)
        # Without chat templates a conversation is the texts one after another.
        before = [text for old in (conversation.responses if conversation else []) for text in (old.prompt.prompt, old.text())]
        text = "\n".join([*before, prompt.prompt])
        pieces = self._engine.stream(text, sampling.pop("max_tokens"), **sampling)
        yield from pieces
        if pieces.result is not None:
            found = pieces.result
            response.set_usage(input=found.prompt_tokens, output=len(found.tokens))
            response.response_json = {"digest": found.digest, "energy_joules": found.energy_joules}
