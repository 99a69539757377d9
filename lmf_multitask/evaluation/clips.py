"""The table of clips to look at: the most confident errors and the least confident decisions, with all predictions.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

import numpy as np

from lmf_multitask.evaluation.assessment import Assessment
from lmf_multitask.evaluation.decisions import threshold_of
from lmf_multitask.evaluation.metrics import PLACES, REGRESSION
from lmf_multitask.evaluation.text import TextTable

CLIPS_SHOWN = 50
"""Errors, and uncertain decisions, per task."""


def clips_table(assessment: Assessment, predictions: np.ndarray) -> TextTable:
    """A row per clip and task that deserves a look; the largest errors first, task by task in turn.

    Args:
        assessment: labels, and how predictions change without a modality.
        predictions: float `[N, T]` to show.
    """
    names, labels, decided = assessment.emotions, assessment.labels, assessment.decided.present
    ranked: list[tuple[int, int, list[str]]] = []
    for t, task in enumerate(names):
        truth, values = labels[:, t], predictions[:, t].astype(np.float64)
        real = task in assessment.metrics.get(PLACES[REGRESSION], {})
        errors = np.nan_to_num(np.abs(values - truth), nan=-1.0)
        if real:
            chosen = np.argsort(-errors, kind="stable")[:CLIPS_SHOWN]
            chosen = chosen[errors[chosen] >= 0]
        else:
            missed = (errors >= 0) & (decided[:, t] != (truth == 1))
            wrong = np.argsort(np.where(missed, -errors, 1.0), kind="stable")[: min(CLIPS_SHOWN, missed.sum())]
            limit = threshold_of(assessment.tasks[t])
            unsure = np.argsort(np.abs(values - limit), kind="stable")[:CLIPS_SHOWN]
            chosen = np.array(list(dict.fromkeys([*wrong, *unsure])), int)
        for place, row in enumerate(chosen):
            changes = [
                f"{without[row, t] - assessment.probabilities[row, t]:+.3f}" for without in assessment.without.values()
            ]
            cells = [
                assessment.ids[row],
                task,
                f"{truth[row]:.3f}" if real else _label(truth[row]),
                _outcome(truth[row], values[row], None if real else bool(decided[row, t])),
                *(f"{value:.3f}" for value in predictions[row].tolist()),
                *changes,
            ]
            ranked.append((place, t, cells))
    rows = [cells for *_, cells in sorted(ranked, key=lambda one: one[:2])]
    heads = ["clip", "task", "label", "outcome", *names, *(f"no {name}" for name in assessment.without)]
    return TextTable("errors, and uncertain decisions", heads, rows, left=(0, 1, 2, 3), sortable=True, filters=(1, 3))


def _label(truth: float) -> str:
    return "not annotated" if np.isnan(truth) else "present" if truth else "absent"


def _outcome(truth: float, value: float, decided: bool | None) -> str:
    if np.isnan(truth):
        return "unknown"
    if decided is None:
        return "too high" if value > truth else "too low"
    if decided == (truth == 1):
        return "correct"
    return "missed" if truth else "false alarm"
