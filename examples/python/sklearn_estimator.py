"""A classifier that RIN runs, as an estimator of scikit-learn: in pipelines, cross-validation and calibration.

    estimator = RinClassifier("digits.rin")
    estimator.predict(images)
    make_pipeline(StandardScaler(), RinClassifier("digits.rin")).fit(x, y).score(x, y)

The network is trained already (`rin train`, PyTorch, `rin import`), so that `fit` only looks at the classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rin import RinEngine


class RinClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network on rows of numbers with an output of logits or probabilities.

    Args:
        path: a `.rin` file.
        threads: workers; None: the physical cores that the process may use.
    """

    def __init__(self, path: Any, threads: int | None = None) -> None:
        self.path = path
        self.threads = threads

    def fit(self, X: Any, y: Any = None) -> RinClassifier:
        """Loads the network. Classes are its labels where it has them, else those of `y` in their order where each
        output has one, else numbers."""
        validate_data(self, X, dtype=np.float32)
        self.engine_ = RinEngine(self.path, threads=self.threads)
        (output,) = self.engine_.info["outputs"]
        self.kind_ = output["kind"]
        self.classes_ = np.array(output["labels"] or range(output["width"]))
        if y is not None and not output["labels"] and len(np.unique(y)) == output["width"]:
            self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Any) -> Any:
        """The outputs of the network, `(rows, classes)`."""
        check_is_fitted(self)
        return self.engine_.infer(validate_data(self, X, dtype=np.float32, order="C", reset=False))

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, `(rows, classes)`."""
        found = self.decision_function(X)
        if self.kind_ == "probabilities":
            return found
        powers = np.exp(found - found.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Any:
        """The most probable class of each row."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("engine_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "classes_" in state:
            self.engine_ = RinEngine(self.path, threads=self.threads)
