"""From anybody's predictions to ``metrics.json``, tables and a report.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.calibration import THRESHOLDS, Calibration, fit_calibration
from lmf_multitask.evaluation.metrics import (
    PROBABILITY_FIGURES,
    all_figures,
    always_absent,
    checked_predictions,
    exclusive_figures,
    mean_figures,
)
from lmf_multitask.evaluation.statistics import (
    RESAMPLES,
    figure_intervals,
    interval,
    mean_over_tasks,
    paired_differences,
)

Threshold = Literal["0.5", "positive_f1", "uar"]
COMPARED_FIGURES = ("weighted_f1", "positive_f1", "uar")


@dataclass(frozen=True)
class LearningCurves:
    """How one training went.

    Attributes:
        epochs: numbers from 1.
        losses: name (train, validation) -> loss per epoch.
        weighted_f1: emotion -> validation figure per epoch.
        kept: the epoch whose weights were kept; None if unknown.
    """

    epochs: list[int]
    losses: dict[str, list[float]]
    weighted_f1: dict[str, list[float]]
    kept: int | None


@dataclass(frozen=True)
class Assessment:
    """Predictions of one model on one split, and everything that is known of their worth.

    Attributes:
        name: of the model, in tables of several.
        emotions: names of the T tasks.
        ids: names of the N rows.
        labels: int64 `[N, T]`, 1 present, 0 absent, -100 not annotated.
        probabilities: float `[N, T]`, plain.
        metrics: the content of ``metrics.json``.
        calibration: what was fitted on validation, if anything.
        curves: name -> one per training (a per-emotion group has several).
        robustness: see `robustness.measure_robustness`; None where there is no model to ask.
        facts: what was trained on what with which command: heading -> text.
        data_report: the data's cleaning report, as plain text.
    """

    name: str
    emotions: list[str]
    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    metrics: dict[str, Any]
    calibration: Calibration | None = None
    curves: dict[str, LearningCurves] = field(default_factory=dict)
    robustness: dict[str, Any] | None = None
    facts: dict[str, str] = field(default_factory=dict)
    data_report: str | None = None

    def table(self, calibrated: bool = False, threshold: Threshold = "0.5") -> str:
        """The figures as text for a terminal; those of calibrated probabilities and fitted thresholds below the plain ones."""
        from lmf_multitask.evaluation.report import full_tables

        return full_tables(self.metrics, calibrated=calibrated, threshold=threshold)

    def write_report(self, folder: str | Path) -> Path:
        """Writes ``report.html``, one self-contained file, and its pictures as ``plots/*.png`` and ``*.svg``.

        Returns:
            The page.
        """
        from lmf_multitask.evaluation.page import write_report

        return write_report(self, Path(folder))


def evaluate_predictions(
    labels: np.ndarray,
    probabilities: np.ndarray,
    emotions: Sequence[str] | None = None,
    *,
    ids: Sequence[str] | None = None,
    validation_labels: np.ndarray | None = None,
    validation_probabilities: np.ndarray | None = None,
    split: str = "test",
    name: str = "model",
    resamples: int = RESAMPLES,
) -> Assessment:
    """Judges predictions of any model; neither Paddle nor this package's model is needed.

    Args:
        labels: int `[N, T]`, 1 present, 0 absent, -100 not annotated.
        probabilities: float `[N, T]`, of being present.
        emotions: names of the T columns; None names them task1, task2, ...
        ids: names of the N rows; None numbers them.
        validation_labels: int `[M, T]`; with the next, temperatures and thresholds are fitted on these rows.
        validation_probabilities: float `[M, T]`.
        split: what the rows are called in tables.
        name: of the model.
        resamples: of the bootstrap.

    Returns:
        ``.metrics`` (the content of a ``metrics.json``), ``.table()`` and ``.write_report(folder)``.

    Raises:
        DataError: shapes, labels or probabilities are not as they must be.
    """
    if np.ndim(labels) != 2:
        raise DataError(f"labels must have the shape [rows, emotions], but got {list(np.shape(labels))}.")
    emotions = list(emotions) if emotions is not None else [f"task{t + 1}" for t in range(np.shape(labels)[1])]
    labels, probabilities = checked_predictions(labels, probabilities, emotions)
    if not len(labels):
        raise DataError("labels must have at least one row, but got none.")
    ids = [f"{split}-{row:05d}" for row in range(len(labels))] if ids is None else [str(one) for one in ids]
    if len(ids) != len(labels) or len(set(ids)) != len(ids):
        raise DataError(
            f"ids must be {len(labels)} different names, but got {len(ids)}, {len(set(ids))} of them different."
        )
    if (validation_labels is None) != (validation_probabilities is None):
        raise DataError("validation labels and probabilities must be given together, but one of them is missing.")
    calibration = None
    if validation_labels is not None:
        calibration = fit_calibration(validation_labels, validation_probabilities, emotions)
    metrics = assess(labels, probabilities, emotions, split=split, calibration=calibration, resamples=resamples)
    return Assessment(name, emotions, ids, labels, probabilities, metrics, calibration)


def assess(
    labels: np.ndarray,
    probabilities: np.ndarray,
    emotions: Sequence[str],
    *,
    split: str,
    seed: int | None = None,
    calibration: Calibration | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Everything of ``metrics.json``.

    Args:
        labels: int `[N, T]`.
        probabilities: float `[N, T]`, plain.
        emotions: names of the T columns.
        split: of the rows.
        seed: of the training.
        calibration: fitted on validation.
        baselines: name -> probabilities float `[N, T]` on the same rows.
        resamples: of the bootstrap.

    Returns:
        ``emotions`` and ``mean``: the plain figures (`metrics.all_figures`); ``always_absent``; ``baselines``: the same
        figures of each, and ``network_ahead``, the paired difference with its interval; ``exclusive``: the decision among
        all emotions, or None; ``intervals``; and with a calibration ``calibration`` (what was fitted), ``calibrated`` (its
        probabilities' figures) and ``thresholds`` (figure -> decisions' figures at the thresholds fitted for it).
    """
    labels, probabilities = checked_predictions(labels, probabilities, emotions)
    calibrated = None if calibration is None else calibration.calibrate(probabilities, emotions)
    exclusive = exclusive_figures(labels, probabilities, emotions, calibrated)
    if exclusive is not None:
        exclusive["probabilities"] = "plain" if calibrated is None else "calibrated"
        if calibrated is not None:
            plain = exclusive_figures(labels, probabilities, emotions)
            exclusive["plain"] = {k: plain[k] for k in ("weighted_accuracy", "unweighted_accuracy", "macro_f1")}
    found: dict[str, Any] = {
        "split": split,
        "samples": len(labels),
        "seed": seed,
        **all_figures(labels, probabilities, emotions),
        "always_absent": always_absent(labels, emotions),
        "baselines": {},
        "exclusive": exclusive,
        "intervals": figure_intervals(labels, probabilities, emotions, ranked=calibrated, resamples=resamples),
    }
    for name, guesses in (baselines or {}).items():
        guesses = np.asarray(guesses, np.float64)
        figures = all_figures(labels, guesses, emotions)
        ahead = _network_ahead(labels, probabilities, guesses, emotions, found, figures, resamples)
        found["baselines"][name] = {**figures, "network_ahead": ahead}
    if calibration is not None:
        found["calibration"] = {
            "fitted_on": "validation",
            "emotions": {
                name: {
                    "temperature": calibration.emotions[name].temperature,
                    "thresholds": {figure: calibration.emotions[name].threshold(figure) for figure in THRESHOLDS},
                    "reason": calibration.emotions[name].reason,
                }
                for name in emotions
            },
        }
        per_emotion = {
            name: {figure: figures[figure] for figure in PROBABILITY_FIGURES}
            for name, figures in all_figures(labels, calibrated, emotions)["emotions"].items()
        }
        found["calibrated"] = {"emotions": per_emotion, "mean": mean_figures(per_emotion, PROBABILITY_FIGURES)}
        found["thresholds"] = {
            figure: all_figures(labels, probabilities, emotions, calibration.thresholds(figure, emotions))
            for figure in THRESHOLDS
        }
    return found


def _network_ahead(
    labels: np.ndarray,
    probabilities: np.ndarray,
    guesses: np.ndarray,
    emotions: Sequence[str],
    own: Mapping[str, Any],
    theirs: Mapping[str, Any],
    resamples: int,
) -> dict[str, Any]:
    drawn = paired_differences(labels, guesses, probabilities, resamples=resamples)

    def entry(mine: float | None, other: float | None, values: np.ndarray) -> dict[str, Any]:
        difference = None if mine is None or other is None else mine - other
        return {"difference": difference, "interval": interval(values)}

    return {
        "emotions": {
            name: {
                figure: entry(own["emotions"][name][figure], theirs["emotions"][name][figure], drawn[figure][:, t])
                for figure in COMPARED_FIGURES
            }
            for t, name in enumerate(emotions)
        },
        "mean": {
            figure: entry(own["mean"][figure], theirs["mean"][figure], mean_over_tasks(drawn[figure]))
            for figure in COMPARED_FIGURES
        },
    }
