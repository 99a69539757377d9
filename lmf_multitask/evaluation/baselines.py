"""What a model must beat: never seeing the emotion, knowing its frequency, and a linear model of the averaged features.

Shape letters: N rows (clips), T tasks (emotions), L words, D numbers per clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import log_loss

STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of scikit-learn's C (inverse strength of the penalty) that are tried."""


def flat_features(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """One vector per clip: audio, video, and the mean of the words.

    Args:
        columns: ``audio`` `[N, D_a]`, ``video`` `[N, D_v]`, ``text`` `[N, L, D_t]`.

    Returns:
        float64 `[N, D_a + D_v + D_t]`. Words that are zero throughout are padding and do not count; a clip without any
        word has zeros.
    """
    audio, video, text = (np.asarray(columns[name]) for name in MODALITIES)
    words = np.maximum((text != 0).any(axis=2).sum(axis=1), 1)
    return np.concatenate([audio, video, text.sum(axis=1, dtype=np.float64) / words[:, None]], axis=1, dtype=np.float64)


def prevalence(train_labels: np.ndarray) -> np.ndarray:
    """Share of train's annotated clips where each emotion is present: labels `[N, T]` -> float64 `[T]`."""
    known = train_labels != NOT_ANNOTATED
    return (train_labels == 1).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


@dataclass(frozen=True)
class LinearBaseline:
    """A logistic regression per emotion on standardised `flat_features`.

    Attributes:
        emotions: names of the T tasks.
        strengths: the C that was chosen for each.
        mean: float64 `[D]`, of train.
        deviation: float64 `[D]`, of train; 1 for constant features.
        weights: float64 `[T, D]`.
        bias: float64 `[T]`.
    """

    emotions: tuple[str, ...]
    strengths: tuple[float, ...]
    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def predict_probabilities(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features of N clips -> probability that each emotion is present, float64 `[N, T]`."""
        scores = (flat_features(columns) - self.mean) / self.deviation @ self.weights.T + self.bias
        return 0.5 * (1 + np.tanh(0.5 * scores))


def fit_linear_baseline(
    train: Mapping[str, np.ndarray], validation: Mapping[str, np.ndarray], emotions: Sequence[str]
) -> LinearBaseline:
    """Fits on train; the strength of the penalty is that with the lowest log loss on validation.

    Args:
        train: ``audio``, ``video``, ``text`` and ``labels`` int `[N, T]`.
        validation: the same; for an emotion without labels there C is 0.003.
        emotions: names of the T label columns.

    Raises:
        DataError: train has no clip, or only clips of one class, for an emotion.
    """
    scaler = StandardScaler().fit(flat_features(train))
    rows, held_out = scaler.transform(flat_features(train)), scaler.transform(flat_features(validation))
    chosen = [
        _best_of(name, rows, train["labels"][:, t], held_out, validation["labels"][:, t])
        for t, name in enumerate(emotions)
    ]
    return LinearBaseline(
        tuple(emotions),
        tuple(strength for strength, _, _ in chosen),
        scaler.mean_,
        scaler.scale_,
        np.stack([weights for _, weights, _ in chosen]),
        np.array([bias for _, _, bias in chosen]),
    )


def _best_of(
    name: str, rows: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray
) -> tuple[float, np.ndarray, float]:
    known, judged = labels != NOT_ANNOTATED, held_out_labels != NOT_ANNOTATED
    if len(np.unique(labels[known])) < 2:
        raise DataError(f"{name} must be present in some clips of train and absent in others. Leave it out.")
    strengths = STRENGTHS if judged.any() else (0.003,)
    best: tuple[float, float, np.ndarray, float] | None = None
    model = LogisticRegression(solver="lbfgs", max_iter=2000, tol=1e-4, warm_start=True)
    for strength in strengths:  # from strong to weak, each starting where the last one ended
        model.set_params(C=strength).fit(rows[known], labels[known])
        loss = 0.0
        if judged.any():
            loss = log_loss(held_out_labels[judged] == 1, model.predict_proba(held_out[judged])[:, 1])
        if best is None or loss < best[0]:
            best = (loss, strength, model.coef_[0].copy(), float(model.intercept_[0]))
    return best[1:]
