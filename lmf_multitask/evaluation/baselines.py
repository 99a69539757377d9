"""Baselines that a model must beat: the frequency of each emotion, and a linear model of the averaged features.

Shape letters: N rows (clips), T tasks (emotions), L steps, D numbers per clip.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lmf_multitask.data.columns import BLOCK_ROWS, Column, Columns
from lmf_multitask.data.modality import MODALITIES, present_steps
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import WeightedRows, log_loss, task_names

STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Values of scikit-learn's C (inverse strength of the penalty) that are tried."""

UNVALIDATED_STRENGTH = 0.003
"""C of an emotion without validation labels."""

MOST_ROWS = 20_000
"""Clips of a split that the linear model is fitted on at most, drawn at random: 65 MB of averaged features."""


def flat_features(columns: Columns, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """One vector per clip: vectors as they are, of sequences the mean of the steps that are present.

    Args:
        columns: ``audio``, ``video`` and ``text``, `[N, D_m]` or `[N, L, D_m]` each.
        rows: numbers of the clips to take; None takes all.

    Returns:
        float64 `[N, D_a + D_v + D_t]`; zeros where a modality is missing.
    """
    rows = np.arange(len(columns["audio"])) if rows is None else np.asarray(rows)
    ends = np.cumsum([columns[name].shape[-1] for name in MODALITIES])
    found = np.empty((len(rows), ends[-1]))
    for start in range(0, len(rows), BLOCK_ROWS):
        chosen, out = rows[start : start + BLOCK_ROWS], found[start : start + BLOCK_ROWS]
        for name, part in zip(MODALITIES, np.split(out, ends[:-1], axis=1)):
            values = columns[name][chosen]
            if values.ndim == 3:
                steps = np.maximum(present_steps(values).sum(axis=1), 1)
                values = values.sum(axis=1, dtype=np.float64) / steps[:, None]
            part[:] = values
    return found


def prevalence(train_labels: Column) -> np.ndarray:
    """Share of the annotated clips of train in which each emotion is present: labels `[N, T]` -> float64 `[T]`."""
    labels = np.asarray(train_labels)
    return (labels == 1).sum(axis=0) / np.maximum((~np.isnan(labels)).sum(axis=0), 1)


@dataclass(frozen=True)
class LinearBaseline:
    """A logistic regression per emotion on standardised `flat_features`.

    Attributes:
        scaler: fitted on train.
        models: one per emotion, with the chosen C.
    """

    scaler: StandardScaler
    models: list[LogisticRegression]

    def predict_probabilities(self, columns: Columns) -> np.ndarray:
        """Features of N clips -> probability that each emotion is present, float64 `[N, T]`."""
        count, found = len(columns["audio"]), []
        for start in range(0, count, MOST_ROWS):
            rows = self.scaler.transform(flat_features(columns, np.arange(start, min(start + MOST_ROWS, count))))
            found.append(np.stack([model.predict_proba(rows)[:, 1] for model in self.models], axis=1))
        return np.concatenate(found)


def fit_linear_baseline(train: Columns, validation: Columns, tasks: Sequence[Any]) -> LinearBaseline:
    """Fits on train, with the strength of the penalty that gives the lowest log loss on validation.

    Of a split with more than `MOST_ROWS` clips that many are used, drawn at random (the same ones every time), and at least one
    of each class of each emotion, so that memory does not grow with the data.

    Args:
        train: ``audio``, ``video``, ``text``, and ``labels`` float `[N, T]`, NaN not annotated.
        validation: the same; C is `UNVALIDATED_STRENGTH` for an emotion without labels there.
        tasks: the T binary tasks.

    Raises:
        DataError: train has no clip, or only clips of one class, for an emotion.
    """
    drawn, held_out_drawn = _drawn(np.asarray(train["labels"])), _drawn(np.asarray(validation["labels"]))
    scaler = StandardScaler(copy=False)  # works in place
    rows = scaler.fit_transform(flat_features(train, drawn))
    held_out = scaler.transform(flat_features(validation, held_out_drawn))
    labels, held_out_labels = train["labels"][drawn], validation["labels"][held_out_drawn]
    # two threads take two to three times as long for products of this size, and change the rounding
    with threadpool_limits(1):
        models = [
            _best_of(name, rows, labels[:, t], held_out, held_out_labels[:, t])
            for t, name in enumerate(task_names(tasks))
        ]
    return LinearBaseline(scaler, models)


def _drawn(labels: np.ndarray) -> np.ndarray:
    """Row numbers to use, of labels `[N, T]`: all, or `MOST_ROWS` of them and one of each class that would be left out."""
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
) -> LogisticRegression:
    known, judged = ~np.isnan(labels), ~np.isnan(held_out_labels)
    if len(np.unique(labels[known])) < 2:
        raise DataError(f"{name} must be present in some clips of train and absent in others. Leave it out.")
    if not known.all():  # otherwise it would be a needless copy
        rows, labels = rows[known], labels[known]
    model = LogisticRegression(solver="lbfgs", max_iter=2000, tol=1e-4, warm_start=True)
    if not judged.any():
        return model.set_params(C=UNVALIDATED_STRENGTH).fit(rows, labels)
    held_out, held_out_labels = held_out[judged], held_out_labels[judged]
    losses, models = [], []
    for strength in STRENGTHS:  # from strong to weak penalty, each starting from the solution of the last one
        model.set_params(C=strength).fit(rows, labels)
        judgement = WeightedRows(held_out_labels, model.predict_proba(held_out)[:, 1])
        losses.append(log_loss(judgement)[0])
        models.append(copy.deepcopy(model))
    return models[int(np.argmin(losses))]
