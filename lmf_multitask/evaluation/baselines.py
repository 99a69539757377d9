"""Baselines that a model must beat: a constant per task, and a linear model of the averaged features.

Shape letters: N rows (clips), T tasks (emotions), L steps, D numbers per clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from lmf_multitask.data.columns import BLOCK_ROWS, Columns
from lmf_multitask.data.modality import MODALITIES, missing_clips, present_steps
from lmf_multitask.data.quality import usable_std
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.decisions import kind_of, task_kinds, task_names
from lmf_multitask.evaluation.metrics import BASELINES, WeightedRows, log_loss
from lmf_multitask.models.encoders import CLIP_AT
from lmf_multitask.tasks import sigmoid

STRENGTHS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse strengths of the penalty of logistic regression that are tried (C in scikit-learn)."""

UNVALIDATED_STRENGTH = 0.003
"""C of an emotion without validation labels."""

PENALTIES = tuple(10.0**power for power in range(-1, 7))
"""Strengths of the penalty of ridge regression that are tried (alpha in scikit-learn)."""

UNVALIDATED_PENALTY = 1000.0
"""Alpha of a real-valued task without validation labels."""

_Line = tuple[np.ndarray, float, float]  # weights `[D]`, intercept, and the C or alpha that was chosen

MOST_ROWS = 20_000
"""Clips of a split that the linear model is fitted on at most, drawn at random: 65 MB of averaged features."""


def flat_features(
    columns: Columns, rows: Sequence[int] | np.ndarray | None = None, modalities: Sequence[str] = tuple(MODALITIES)
) -> np.ndarray:
    """One vector per clip: vectors as they are, of sequences the mean of the steps that are present.

    Args:
        columns: features of each modality, `[N, D_m]` or `[N, L, D_m]`.
        rows: numbers of the clips to take; None takes all.
        modalities: those to take.

    Returns:
        float64 `[N, D]`, D being the sum of D_m; NaN where a modality is missing.
    """
    rows = np.arange(len(columns[modalities[0]])) if rows is None else np.asarray(rows)
    ends = np.cumsum([columns[name].shape[-1] for name in modalities])
    found = np.empty((len(rows), ends[-1]))
    for start in range(0, len(rows), BLOCK_ROWS):
        chosen, out = rows[start : start + BLOCK_ROWS], found[start : start + BLOCK_ROWS]
        for name, part in zip(modalities, np.split(out, ends[:-1], axis=1)):
            values = columns[name][chosen]
            missing = missing_clips(values)
            if values.ndim == 3:
                steps = np.maximum(present_steps(values).sum(axis=1), 1)
                values = values.sum(axis=1, dtype=np.float64) / steps[:, None]
            part[:] = values
            part[missing] = np.nan
    return found


def constant(train_labels: np.ndarray) -> np.ndarray:
    """Mean of the labels of train, which of a binary task is the share of present: `[N, T]` -> float64 `[T]`; 0 without any."""
    known = ~np.isnan(train_labels)
    return np.where(known, train_labels, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)


def baseline_predictions(train_labels: np.ndarray, linear: LinearBaseline, rows: Columns) -> dict[str, np.ndarray]:
    """Name -> predictions float64 `[N, T]` of every baseline for the rows; NaN for tasks of another kind than its own.

    Args:
        train_labels: float `[M, T]`, NaN not annotated.
        linear: the fitted linear models.
        rows: features and labels of N clips.
    """
    values = np.broadcast_to(constant(train_labels), np.shape(rows["labels"]))
    kinds, found = np.array(task_kinds(linear.tasks)), {}
    for kind in dict.fromkeys(kinds.tolist()):
        for name, predictions in zip(
            BASELINES.get(kind, ()), (values, linear.predict(rows))
        ):  # further kinds have none
            found[name] = np.where(kinds == kind, predictions, np.nan)
    return found


@dataclass(frozen=True)
class LinearBaseline:
    """A logistic or ridge regression per task on standardised `flat_features`.

    Standardised features are clipped at `CLIP_AT`; those of a missing modality count as their mean.

    Attributes:
        tasks: the T tasks.
        modalities: whose features it takes.
        mean: of each feature over the clips of train that have it, float64 `[D]`.
        std: likewise; 1 of a constant.
        weights: float64 `[D, T]`, of the log-odds of present, or of the value in the unit of the labels.
        intercepts: float64 `[T]`.
        strengths: the chosen C or alpha of each task.
    """

    tasks: Sequence[Any]
    modalities: Sequence[str]
    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    strengths: Sequence[float]

    def predict(self, columns: Columns) -> np.ndarray:
        """Features of N clips -> probabilities of present, or values, float64 `[N, T]`."""
        count, found = len(columns[self.modalities[0]]), []
        for start in range(0, count, MOST_ROWS):
            rows = flat_features(columns, np.arange(start, min(start + MOST_ROWS, count)), self.modalities)
            with threadpool_limits(1):
                found.append(_standardised(rows, self.mean, self.std) @ self.weights + self.intercepts)
        values = np.concatenate(found)
        for t, task in enumerate(self.tasks):
            if kind_of(task) == "binary":
                values[:, t] = sigmoid(values[:, t])
            elif getattr(task, "range", None) is not None:
                values[:, t] = np.clip(values[:, t], *task.range)
        return values


def _standardised(rows: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """In place: `[N, D]` with NaN where missing -> standardised, clipped, 0 where missing."""
    rows -= mean
    rows /= std
    np.clip(rows, -CLIP_AT, CLIP_AT, out=rows)
    return np.nan_to_num(rows, copy=False)


def fit_linear_baseline(
    train: Columns, validation: Columns, tasks: Sequence[Any], modalities: Sequence[str] = tuple(MODALITIES)
) -> LinearBaseline:
    """Fits on train, with the strength of the penalty that gives the lowest log loss or squared error on validation.

    Of a split with more than `MOST_ROWS` clips that many are used, drawn at random (the same ones every time), and at least one
    of each class of each emotion, so that memory does not grow with the data.

    Args:
        train: features, and ``labels`` float `[N, T]`, NaN not annotated.
        validation: the same; C is `UNVALIDATED_STRENGTH`, alpha `UNVALIDATED_PENALTY`, for a task without labels there.
        tasks: the T tasks.
        modalities: whose features it takes.

    Raises:
        DataError: train has no clip, or only clips of one class, for a task.
    """
    tasks_binary = np.array(task_kinds(tasks)) == "binary"
    drawn, held_out_drawn = (_drawn(np.asarray(columns["labels"])[:, tasks_binary]) for columns in (train, validation))
    rows = flat_features(train, drawn, modalities)
    mean, std = _mean_and_std(rows)
    rows = _standardised(rows, mean, std)
    held_out = _standardised(flat_features(validation, held_out_drawn, modalities), mean, std)
    labels, held_out_labels = (
        np.asarray(columns["labels"][chosen], np.float64)
        for columns, chosen in ((train, drawn), (validation, held_out_drawn))
    )
    lines = []
    # two threads take two to three times as long for products of this size, and change the rounding
    with threadpool_limits(1):
        for name, binary, own, judged in zip(task_names(tasks), tasks_binary, labels.T, held_out_labels.T):
            known, used = ~np.isnan(own), ~np.isnan(judged)
            if binary and len(np.unique(own[known])) < 2:
                raise DataError(f"{name} must be present in some clips of train and absent in others. Leave it out.")
            if not known.any():
                raise DataError(f"{name} must be annotated in some clips of train, but is in none. Leave it out.")
            best = _best_logistic if binary else _best_ridge
            lines.append(best(_chosen(rows, known), own[known], _chosen(held_out, used), judged[used]))
    weights, intercepts, strengths = zip(*lines)
    return LinearBaseline(
        tasks, list(modalities), mean, std, np.stack(weights, axis=1), np.array(intercepts), list(strengths)
    )


def _mean_and_std(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each column of `[N, D]`, where it is not NaN, float64 `[D]`; a constant column has std 1, one of NaN mean 0 and std 1."""
    known = ~np.isnan(rows)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, rows, 0.0).sum(axis=0) / count
    std = np.sqrt(np.square(np.where(known, rows - mean, 0.0)).sum(axis=0) / count)
    return mean, usable_std(mean, std)


def _chosen(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The wanted rows; all of them without a copy."""
    return rows if wanted.all() else rows[wanted]


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


def _best_logistic(rows: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray) -> _Line:
    from scipy.optimize import minimize  # 0.2 s of import that a deployed model does not need

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective of scikit-learn's LogisticRegression per clip, and its gradient."""
        weights, score = line[:-1], rows @ line[:-1] + line[-1]
        slope = (sigmoid(score) - labels) / len(labels)
        penalty = weights / (strength * len(labels))
        value = (np.logaddexp(0.0, score) - labels * score).mean() + weights @ penalty / 2
        return value, np.append(slope @ rows + penalty, slope.sum())

    line, found = np.zeros(rows.shape[1] + 1), []
    options = {"maxiter": 2000, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}  # scikit-learn's
    for strength in STRENGTHS if len(held_out_labels) else (UNVALIDATED_STRENGTH,):
        # from strong to weak penalty, each starting from the solution of the last one
        line = minimize(loss, line, jac=True, method="L-BFGS-B", options=options).x
        judgement = WeightedRows(held_out_labels, sigmoid(held_out @ line[:-1] + line[-1]))
        found.append((log_loss(judgement)[0] if len(held_out_labels) else 0.0, line, strength))
        losses = [one[0] for one in found[-3:]]
        if len(losses) == 3 and losses[0] < losses[1] < losses[2]:
            break  # the weaker the penalty, the longer the fit
    _, line, strength = min(found, key=lambda one: one[0])
    return line[:-1], line[-1], strength


def _best_ridge(rows: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray) -> _Line:
    center, middle, found = rows.mean(axis=0), labels.mean(), []
    centered = rows - center
    squares, products = centered.T @ centered, centered.T @ (labels - middle)
    for penalty in PENALTIES if len(held_out_labels) else (UNVALIDATED_PENALTY,):
        weights = np.linalg.solve(squares + penalty * np.eye(len(squares)), products)
        intercept = middle - center @ weights
        found.append((np.square(held_out @ weights + intercept - held_out_labels).sum(), weights, intercept, penalty))
    return min(found, key=lambda one: one[0])[1:]
