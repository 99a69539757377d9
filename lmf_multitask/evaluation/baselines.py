"""What a model must beat: never seeing the emotion, knowing its frequency, and a linear model of the averaged features.

Shape letters: N rows (clips), T tasks (emotions), L words, D numbers per clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lmf_multitask.data.columns import BLOCK_ROWS, Columns
from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import log_loss

STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of scikit-learn's C (inverse strength of the penalty) that are tried."""

MOST_ROWS = 20_000
"""Clips of a split that the linear model is fitted on at most, drawn at random: 65 MB of averaged features."""


def flat_features(columns: Columns, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """One vector per clip: audio, video, and the mean of the words.

    Args:
        columns: ``audio`` `[N, D_a]`, ``video`` `[N, D_v]`, ``text`` `[N, L, D_t]`.
        rows: numbers of the clips to take; None takes all.

    Returns:
        float64 `[N, D_a + D_v + D_t]`. Words that are zero throughout are padding and do not count; a clip without any
        word has zeros.
    """
    rows = np.arange(len(columns["audio"])) if rows is None else np.asarray(rows)
    audio, video, words = (columns[name].shape[-1] for name in MODALITIES)
    found = np.empty((len(rows), audio + video + words))
    for start in range(0, len(rows), BLOCK_ROWS):
        chosen = rows[start : start + BLOCK_ROWS]
        text, out = columns["text"][chosen], found[start : start + BLOCK_ROWS]
        there = np.maximum((text != 0).any(axis=2).sum(axis=1), 1)
        out[:, :audio], out[:, audio : audio + video] = columns["audio"][chosen], columns["video"][chosen]
        out[:, audio + video :] = text.sum(axis=1, dtype=np.float64) / there[:, None]
    return found


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

    def predict_probabilities(self, columns: Columns) -> np.ndarray:
        """Features of N clips -> probability that each emotion is present, float64 `[N, T]`."""
        count, scores = len(columns["audio"]), []
        for start in range(0, count, MOST_ROWS):
            rows = flat_features(columns, np.arange(start, min(start + MOST_ROWS, count)))
            rows -= self.mean
            rows /= self.deviation
            scores.append(rows @ self.weights.T + self.bias)
        return 0.5 * (1 + np.tanh(0.5 * np.concatenate(scores)))


def fit_linear_baseline(train: Columns, validation: Columns, emotions: Sequence[str]) -> LinearBaseline:
    """Fits on train; the strength of the penalty is that with the lowest log loss on validation.

    Of a split with more than `MOST_ROWS` clips so many are used, drawn at random (the same ones every time), and at least one of
    each emotion's classes, so that memory does not grow with the data.

    Args:
        train: ``audio``, ``video``, ``text`` and ``labels`` int `[N, T]`.
        validation: the same; for an emotion without labels there C is 0.003.
        emotions: names of the T label columns.

    Raises:
        DataError: train has no clip, or only clips of one class, for an emotion.
    """
    drawn, judges = _drawn(train["labels"]), _drawn(validation["labels"])
    rows, held_out = flat_features(train, drawn), flat_features(validation, judges)
    scaler = StandardScaler(copy=False).fit(rows)  # which then works in place
    rows, held_out = scaler.transform(rows), scaler.transform(held_out)
    labels, held_out_labels = train["labels"][drawn], validation["labels"][judges]
    # two threads take two to three times as long for products of this size, and round otherwise
    with threadpool_limits(1):
        chosen = [
            _best_of(name, rows, labels[:, t], held_out, held_out_labels[:, t]) for t, name in enumerate(emotions)
        ]
    return LinearBaseline(
        tuple(emotions),
        tuple(strength for strength, _, _ in chosen),
        scaler.mean_,
        scaler.scale_,
        np.stack([weights for _, weights, _ in chosen]),
        np.array([bias for _, _, bias in chosen]),
    )


def _drawn(labels: np.ndarray) -> np.ndarray:
    """Numbers of the rows to use, of labels `[N, T]`: all, or `MOST_ROWS` of them and one of each class that would be left out."""
    if len(labels) <= MOST_ROWS:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[:MOST_ROWS]
    for column in labels.T:
        for label in (0, 1):
            if not (column[chosen] == label).any():
                chosen = np.append(chosen, order[column[order] == label][:1])
    return np.sort(chosen)


def _best_of(
    name: str, rows: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray
) -> tuple[float, np.ndarray, float]:
    known, judged = labels != NOT_ANNOTATED, held_out_labels != NOT_ANNOTATED
    if len(np.unique(labels[known])) < 2:
        raise DataError(f"{name} must be present in some clips of train and absent in others. Leave it out.")
    strengths = STRENGTHS if judged.any() else (0.003,)
    best: tuple[float, float, np.ndarray, float] | None = None
    model = LogisticRegression(solver="lbfgs", max_iter=2000, tol=1e-4, warm_start=True)
    if not known.all():  # or it would be a copy for nothing
        rows, labels = rows[known], labels[known]
    for strength in strengths:  # from strong to weak, each starting where the last one ended
        model.set_params(C=strength).fit(rows, labels)
        loss = 0.0
        if judged.any():
            loss = log_loss(held_out_labels[judged] == 1, model.predict_proba(held_out[judged])[:, 1])
        if best is None or loss < best[0]:
            best = (loss, strength, model.coef_[0].copy(), float(model.intercept_[0]))
    return best[1:]
