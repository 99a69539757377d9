"""Figures per emotion and their means over emotions.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import DataError

FIGURES = ("weighted_f1", "accuracy", "positive_f1", "uar")


def binary_figures(labels: np.ndarray, present: np.ndarray) -> dict[str, Any]:
    """Figures of one emotion's decisions.

    Args:
        labels: int `[N]`, 1 present, 0 absent; -100 (not annotated) is left out.
        present: bool `[N]`, the decisions.

    Returns:
        ``weighted_f1``: F1 of both classes, weighted by their frequency (the papers' figure); ``accuracy``;
        ``positive_f1``: F1 of "present"; ``uar``: mean of the two recalls; ``support``: clips where the emotion is
        present; ``annotated``: clips with a label. A figure that the labels leave undefined is None: all of them
        without any label, ``uar`` with labels of one class only, ``positive_f1`` where nothing is present.
    """
    labels, present = np.asarray(labels), np.asarray(present)
    if labels.ndim != 1 or labels.shape != present.shape:
        raise DataError(
            f"labels and decisions must have one shape [rows], but got {list(labels.shape)} and {list(present.shape)}."
        )
    known = labels != NOT_ANNOTATED
    labels, present = labels[known], present[known].astype(np.int64)
    support = int((labels == 1).sum())
    counts: dict[str, Any] = {"support": support, "annotated": len(labels)}
    if not len(labels):
        return {**dict.fromkeys(FIGURES), **counts}
    _, recall, f1, size = precision_recall_fscore_support(labels, present, labels=[0, 1], zero_division=0.0)
    return {
        "weighted_f1": float((f1 * size).sum() / len(labels)),
        "accuracy": float((labels == present).mean()),
        "positive_f1": float(f1[1]) if support else None,
        "uar": float(recall.mean()) if 0 < support < len(labels) else None,
        **counts,
    }


def multitask_figures(labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str]) -> dict[str, Any]:
    """Figures of every emotion at the plain decision "present if its probability is above one half", and their means.

    Args:
        labels: int `[N, T]`, 1 present, 0 absent, -100 not annotated.
        probabilities: float `[N, T]`, of being present.
        emotions: names of the T columns.

    Returns:
        ``emotions``: name -> figures; ``mean``: figure -> mean over the emotions where it is defined.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if labels.ndim != 2 or labels.shape != probabilities.shape or labels.shape[1] != len(emotions):
        raise DataError(
            f"labels and probabilities must have the shape [rows, {len(emotions)}], "
            f"but got {list(labels.shape)} and {list(probabilities.shape)}."
        )
    if not np.isfinite(probabilities).all():
        raise DataError("probabilities must be finite, but some are NaN or infinite. Check the features and the model.")
    per_emotion = {name: binary_figures(labels[:, t], probabilities[:, t] > 0.5) for t, name in enumerate(emotions)}
    return {"emotions": per_emotion, "mean": mean_figures(per_emotion)}


def always_absent(labels: np.ndarray, emotions: Sequence[str]) -> dict[str, Any]:
    """The figures of a classifier that never sees any emotion, as `multitask_figures` gives them."""
    return multitask_figures(labels, np.zeros(np.shape(labels)), emotions)


def mean_figures(per_emotion: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Means over the emotions where a figure is defined."""
    means: dict[str, float | None] = {}
    for figure in FIGURES:
        values = [figures[figure] for figures in per_emotion.values() if figures[figure] is not None]
        means[figure] = float(np.mean(values)) if values else None
    return means


def present_probability(logits: np.ndarray) -> np.ndarray:
    """Logits `[..., 2]` -> probability of index 1, "present", `[...]` (softmax over two is a sigmoid of the difference)."""
    difference = np.asarray(logits[..., 1], np.float64) - logits[..., 0]
    return (0.5 * (1.0 + np.tanh(0.5 * difference))).astype(np.float32)
