"""Figures per emotion and their means over emotions.

Shape letters: N rows (clips), T tasks (emotions), R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import DataError

FIGURES = ("weighted_f1", "accuracy", "positive_f1", "uar")
"""What training watches and the table shows first."""

DECISION_FIGURES = (*FIGURES, "precision", "recall", "macro_f1")
"""Figures of decisions."""

PROBABILITY_FIGURES = ("auroc", "average_precision", "brier", "ece", "log_loss")
"""Figures of probabilities, whatever the threshold."""

ECE_BINS = 10
CLOSEST_TO_CERTAIN = 1e-7
"""Probabilities are kept so far from 0 and 1 before logarithms: about what float32 can tell from 1."""

_LABEL_VALUES = (0, 1, NOT_ANNOTATED)


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


def emotion_figures(labels: np.ndarray, probabilities: np.ndarray, present: np.ndarray | None = None) -> dict[str, Any]:
    """Every figure of one emotion.

    Args:
        labels: int `[N]`, 1 present, 0 absent; -100 is left out.
        probabilities: float `[N]`, of being present.
        present: bool `[N]`, the decisions; None decides "present if the probability is above one half".

    Returns:
        Those of `binary_figures`; ``precision``, ``recall`` and ``macro_f1`` of the decisions (``precision`` and F1 are
        0 where nothing is called present); ``auroc``; ``average_precision``; ``brier``: mean squared error of the
        probability; ``ece``: expected calibration error, the mean gap between probability and share of present clips
        over 10 equally wide bins, weighted by their clips; ``log_loss`` in nats; ``confusion``: counts of clips;
        ``undefined``: for each figure that is None, why (only there if any is).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    present = probabilities > 0.5 if present is None else np.asarray(present, bool)
    figures = binary_figures(labels, present)
    known = labels != NOT_ANNOTATED
    labels, probabilities, present = labels[known] == 1, probabilities[known], present[known]
    support, absent = figures["support"], len(labels) - figures["support"]
    figures.update(dict.fromkeys(("precision", "recall", "macro_f1", *PROBABILITY_FIGURES)))
    counts = {
        "true_positive": int((labels & present).sum()),
        "false_positive": int((~labels & present).sum()),
        "false_negative": int((labels & ~present).sum()),
        "true_negative": int((~labels & ~present).sum()),
    }
    if support:
        called = counts["true_positive"] + counts["false_positive"]
        figures["precision"] = counts["true_positive"] / called if called else 0.0
        figures["recall"] = counts["true_positive"] / support
    if support and absent:
        _, _, f1, _ = precision_recall_fscore_support(labels, present, labels=[False, True], zero_division=0.0)
        figures["macro_f1"] = float(f1.mean())
        figures["auroc"] = float(roc_auc_score(labels, probabilities))
        figures["average_precision"] = float(average_precision_score(labels, probabilities))
    if len(labels):
        figures["brier"] = float(((probabilities - labels) ** 2).mean())
        figures["ece"] = expected_calibration_error(labels, probabilities)
        figures["log_loss"] = log_loss(labels, probabilities)
    figures["confusion"] = counts
    reason = _why_undefined(support, absent)
    undefined = {name: reason for name in (*DECISION_FIGURES, *PROBABILITY_FIGURES) if figures[name] is None and reason}
    return {**figures, "undefined": undefined} if undefined else figures


def _why_undefined(support: int, absent: int) -> str | None:
    if support and absent:
        return None
    return (
        f"all annotated clips are {'present' if support else 'absent'}" if support or absent else "no clip is annotated"
    )


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between probability and share of present clips over equally wide bins, weighted by their clips.

    Args:
        labels: bool or 0/1 `[N]`.
        probabilities: float `[N]`.
        bins: their number; a probability on an edge belongs to the bin above it, 1 to the last.
    """
    count, mean_probability, share = reliability_bins(labels, probabilities, bins)
    filled = count > 0
    return float((np.abs(mean_probability - share)[filled] * count[filled]).sum() / count.sum())


def reliability_bins(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips, mean probability and share of present clips in each of equally wide bins, `[bins]` each (NaN where empty)."""
    labels, probabilities = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(number, minlength=bins)
    divisor = np.where(count, count, np.nan)
    mean_probability = np.bincount(number, probabilities, minlength=bins) / divisor
    return count, mean_probability, np.bincount(number, labels, minlength=bins) / divisor


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats per clip, of 0/1 labels `[N]` under probabilities `[N]`."""
    kept = np.clip(np.asarray(probabilities, np.float64), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return float(-np.log(np.where(np.asarray(labels, bool), kept, 1 - kept)).mean())


def checked_predictions(
    labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities as arrays `[N, T]`.

    Raises:
        DataError: the shapes differ, a label is not 1, 0 or -100, or a probability is not from 0 to 1.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if labels.ndim != 2 or labels.shape != probabilities.shape or labels.shape[1] != len(emotions):
        raise DataError(
            f"labels and probabilities must have the shape [rows, {len(emotions)}], "
            f"but got {list(labels.shape)} and {list(probabilities.shape)}."
        )
    if not np.isfinite(probabilities).all():
        raise DataError("probabilities must be finite, but some are NaN or infinite. Check the features and the model.")
    wrong = probabilities[(probabilities < 0) | (probabilities > 1)]
    if wrong.size:
        raise DataError(f"probabilities must be from 0 to 1, but got {wrong[0]:.6g}. Give probabilities, not logits.")
    odd = labels[~np.isin(labels, _LABEL_VALUES)]
    if odd.size:
        raise DataError(f"labels must be 1, 0 or -100 (not annotated), but got {odd[0]}.")
    return labels.astype(np.int64), probabilities


def multitask_figures(labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str]) -> dict[str, Any]:
    """Figures of every emotion at the plain decision "present if its probability is above one half", and their means.

    Args:
        labels: int `[N, T]`, 1 present, 0 absent, -100 not annotated.
        probabilities: float `[N, T]`, of being present.
        emotions: names of the T columns.

    Returns:
        ``emotions``: name -> figures; ``mean``: figure -> mean over the emotions where it is defined.
    """
    labels, probabilities = checked_predictions(labels, probabilities, emotions)
    per_emotion = {name: binary_figures(labels[:, t], probabilities[:, t] > 0.5) for t, name in enumerate(emotions)}
    return {"emotions": per_emotion, "mean": mean_figures(per_emotion)}


def all_figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    emotions: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Every figure of every emotion, and their means.

    Args:
        labels: int `[N, T]`, 1 present, 0 absent, -100 not annotated.
        probabilities: float `[N, T]`, of being present.
        emotions: names of the T columns.
        thresholds: `[T]`; present if the probability is above it. None: one half.

    Returns:
        As `multitask_figures`, with the figures of `emotion_figures`.
    """
    labels, probabilities = checked_predictions(labels, probabilities, emotions)
    present = probabilities > (0.5 if thresholds is None else np.asarray(thresholds))
    per_emotion = {
        name: emotion_figures(labels[:, t], probabilities[:, t], present[:, t]) for t, name in enumerate(emotions)
    }
    return {
        "emotions": per_emotion,
        "mean": mean_figures(per_emotion, (*DECISION_FIGURES, *PROBABILITY_FIGURES)),
    }


def always_absent(labels: np.ndarray, emotions: Sequence[str]) -> dict[str, Any]:
    """The figures of a classifier that never sees any emotion, as `multitask_figures` gives them."""
    return multitask_figures(labels, np.zeros(np.shape(labels)), emotions)


def mean_figures(
    per_emotion: Mapping[str, Mapping[str, Any]], names: Sequence[str] = FIGURES
) -> dict[str, float | None]:
    """Means over the emotions where a figure is defined."""
    means: dict[str, float | None] = {}
    for figure in names:
        values = [figures[figure] for figures in per_emotion.values() if figures[figure] is not None]
        means[figure] = float(np.mean(values)) if values else None
    return means


def exclusive_figures(
    labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str], ranked: np.ndarray | None = None
) -> dict[str, Any] | None:
    """The one decision among all emotions, where labels are exclusive: the emotion whose probability is highest.

    Args:
        labels: int `[N, T]`; rows with a label that is -100 are left out.
        probabilities: float `[N, T]`; heads contradict each other by these, at one half.
        emotions: names of the T columns.
        ranked: float `[N, T]`, calibrated probabilities, comparable between heads; None: `probabilities`.

    Returns:
        ``weighted_accuracy`` (WA: share of clips that are right) and ``unweighted_accuracy`` (UA: mean of the emotions'
        recalls), as the corpus' community calls them; ``macro_f1``; ``confusion``: `[T][T]` counts, rows true, columns
        decided; ``rows``; ``heads``: shares of clips where none, one, or several of the heads say present. None unless
        each annotated row has exactly one emotion present. Figures but WA are None where an emotion never occurs.
    """
    labels, probabilities = checked_predictions(labels, probabilities, emotions)
    chosen = exclusive_rows(labels)
    if chosen is None:
        return None
    truth = labels[chosen].argmax(axis=1)
    decided = (probabilities if ranked is None else np.asarray(ranked))[chosen].argmax(axis=1)
    tasks = len(emotions)
    confusion = np.bincount(truth * tasks + decided, minlength=tasks * tasks).reshape(tasks, tasks)
    found = one_of_many_figures(confusion[None])
    said = (probabilities[chosen] > 0.5).sum(axis=1)
    everywhere = bool((confusion.sum(axis=1) > 0).all())
    return {
        "weighted_accuracy": float(found["weighted_accuracy"][0]),
        "unweighted_accuracy": float(found["unweighted_accuracy"][0]) if everywhere else None,
        "macro_f1": float(found["macro_f1"][0]) if everywhere else None,
        "confusion": confusion.tolist(),
        "emotions": list(emotions),
        "rows": int(chosen.sum()),
        "heads": {
            "none_present": float((said == 0).mean()),
            "one_present": float((said == 1).mean()),
            "several_present": float((said > 1).mean()),
        },
    }


def exclusive_rows(labels: np.ndarray) -> np.ndarray | None:
    """Bool `[N]`, the rows of labels `[N, T]` that are annotated for all emotions; None if they are not exclusive."""
    annotated = (labels != NOT_ANNOTATED).all(axis=1)
    if labels.shape[1] < 2 or not annotated.any() or ((labels[annotated] == 1).sum(axis=1) != 1).any():
        return None
    return annotated


def one_of_many_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Confusion counts `[R, T, T]` (rows true, columns decided) -> figures `[R]` each; no emotion may lack rows."""
    confusion = np.asarray(confusion, np.float64)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, decided = confusion.sum(axis=2), confusion.sum(axis=1)
    return {
        "weighted_accuracy": right.sum(axis=1) / true.sum(axis=1),
        "unweighted_accuracy": (right / np.maximum(true, 1)).mean(axis=1),
        "macro_f1": (2 * right / np.maximum(true + decided, 1)).mean(axis=1),
    }


def present_probability(logits: np.ndarray) -> np.ndarray:
    """Logits `[..., 2]` -> probability of index 1, "present", `[...]` (softmax over two is a sigmoid of the difference)."""
    difference = np.asarray(logits[..., 1], np.float64) - logits[..., 0]
    return (0.5 * (1.0 + np.tanh(0.5 * difference))).astype(np.float32)


METRICS: dict[str, Any] = dict.fromkeys((*DECISION_FIGURES, *PROBABILITY_FIGURES))  # placeholder until stream METRICS lands
