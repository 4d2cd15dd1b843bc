"""The examples in ``examples/python``, where the package that each is about can be had."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LLAMA, REPOSITORY

import rin

EXAMPLES = REPOSITORY / "examples" / "python"
# What these packages warn of is their own business.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The module of the example that the test names."""
    package, folder, name = request.param
    pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(EXAMPLES / folder))
    return importlib.import_module(name)


@pytest.mark.parametrize("example", [("transformers", "", "logits_processors")], indirect=True)
def test_processors_of_transformers_shape_the_text(example: Any, engine: rin.RinEngine) -> None:
    from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, TopKLogitsWarper

    ids = engine.encode("the")
    greedy = LogitsProcessorList([TopKLogitsWarper(1)])
    found = list(example.generate(engine, ids, greedy, 30))
    assert found == engine.complete(ids, 30, temperature=0).tokens
    once = LogitsProcessorList([NoRepeatNGramLogitsProcessor(1), TopKLogitsWarper(1)])
    found = list(example.generate(engine, ids, once, 30))
    assert len(found) > 5 and len(set(found)) == len(found)


@pytest.mark.parametrize("example", [("llm", "llm-rin", "llm_rin")], indirect=True)
def test_llm_finds_its_plugin(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import llm

    (tmp_path / "tiny.rin").symlink_to(REPOSITORY / "models" / "embedded" / "rin-shakespeare.rin")
    monkeypatch.setenv("RIN_MODELS", str(tmp_path))
    models: list[Any] = []
    example.register_models(models.append)
    assert [model.model_id for model in models] == ["rin", "rin/tiny.rin"]
    assert all(isinstance(model, llm.Model) for model in models)
    with rin.RinEngine() as engine:
        expected = engine.generate("ROMEO:", 12, seed=4)
    for model in models:
        response = model.prompt("ROMEO:", max_tokens=12, seed=4)
        assert response.text() == expected
        assert response.usage().output == 12
    conversation = llm.Conversation(models[0])
    conversation.prompt("ROMEO:", max_tokens=3).text()
    assert conversation.prompt("JULIET:", max_tokens=3).text()


@pytest.mark.parametrize("example", [("lm_eval", "", "lm_eval_adapter")], indirect=True)
def test_lm_eval_scores_are_the_engines(example: Any, engine: rin.RinEngine) -> None:
    from lm_eval.api.instance import Instance

    def ask(kind: Any, *arguments: Any) -> Instance:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    model = example.RinLM(engine)
    text = "the hatter and she"
    ids = engine.encode(text)
    rows = engine.logits(ids).astype(np.float64)
    log_p = rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
    each = [log_p[i, ids[i + 1]] for i in range(len(ids) - 1)]
    (whole,) = model.loglikelihood_rolling([ask("loglikelihood_rolling", text)])
    assert whole == pytest.approx(sum(each), abs=1e-6)
    before = len(engine.encode("the hatter"))
    ((likely, greedy),) = model.loglikelihood([ask("loglikelihood", "the hatter", " and she")])
    assert likely == pytest.approx(sum(each[before - 1 :]), abs=1e-6) and isinstance(greedy, bool)
    continuation = engine.generate("the", 3, temperature=0)
    (found,) = model.generate_until([ask("generate_until", "the", {"until": [], "max_gen_toks": 3})])
    assert found == continuation
    # Windows of a text that is longer than the context: every id but the first once.
    with rin.RinEngine(LLAMA, ctx=8, threads=1) as small:
        (cut,) = example.RinLM(small).loglikelihood_rolling([ask("loglikelihood_rolling", text)])
    assert np.isfinite(cut) and cut < 0


@pytest.mark.parametrize("example", [("sklearn", "", "sklearn_estimator")], indirect=True)
def test_scikit_learn_takes_the_estimator(example: Any, plain: Path) -> None:
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    random = np.random.default_rng(2)
    x = random.standard_normal((60, 12))
    with rin.RinEngine(plain) as engine:
        outputs = engine.infer(x.astype(np.float32))
        labels = engine.info["outputs"][0]["labels"] or list(range(engine.info["outputs"][0]["width"]))
    assert isinstance(outputs, np.ndarray)
    y = np.array(labels)[outputs.argmax(axis=1)]
    estimator = example.RinClassifier(plain, threads=1).fit(x, y)
    assert estimator.predict(x).tolist() == y.tolist() and estimator.score(x, y) == 1
    p = estimator.predict_proba(x)
    assert np.allclose(p.sum(axis=1), 1) and (p.argmax(axis=1) == outputs.argmax(axis=1)).all()
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.predict_proba(x), p)
    pipeline = make_pipeline(FunctionTransformer(), example.RinClassifier(plain))
    assert pipeline.fit(x, y).score(x, y) == 1
    assert len(cross_val_score(example.RinClassifier(plain), x, y, cv=2)) == 2


def test_the_overhead_is_measured(plain: Path) -> None:
    """The script runs; what it measures is for a quiet machine to say."""
    found = subprocess.run(
        [sys.executable, REPOSITORY / "bench" / "python_overhead.py", "--calls", "50", "--rounds", "3"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
    )
    assert found.returncode == 0, found.stderr
    assert "over the engine's own" in found.stdout
