"""Thresholds of decisions and prediction intervals, fitted on validation only.

The threshold for a metric of decisions is the one with the best value of it on validation. Where probabilities are calibrated
(`evaluation.stacking`) it is the best expected value, every clip counting as present with its probability: that needs no label and
varies less with the clips than the labels do (Lewis 1995, "Evaluating and optimizing autonomous text classification systems").

Real-valued tasks get split-conformal prediction intervals (Papadopoulos et al. 2002; Lei et al. 2018): prediction ± a quantile of
the absolute residuals on validation. Of clips drawn like those of validation, at least `COVERAGE` are inside.

Shape letters: N rows (clips), T tasks (emotions), K candidate thresholds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lmf_multitask.config import build, setting, settings, to_dict
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.evaluation.decisions import (
    checked_predictions,
    kind_of,
    task_kinds,
    task_names,
    tasks_of_kind,
    threshold_of,
)
from lmf_multitask.evaluation.metrics import METRICS, REGRESSION, Confusion
from lmf_multitask.evaluation.stacking import Weights
from lmf_multitask.files import read_json, write_json

CALIBRATION_FILE = "calibration.json"
HALF, OWN = "half", "own"
DEFAULT_CRITERION = "weighted_f1"
CRITERIA = (DEFAULT_CRITERION, "positive_f1", "uar")
"""Metrics of decisions that a threshold is fitted for."""

COVERAGE = 0.9
"""Share of clips that a prediction interval is to cover."""


@settings
class TaskCalibration:
    """Calibration of one binary task."""

    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = setting(
        default=lambda: dict.fromkeys(CRITERIA, 0.5),
        help="criterion -> the probability above which the task counts as present",
    )
    rows: int = setting(default=0, help="annotated validation clips that these were fitted on", ge=0)
    reason: str | None = setting(default=None, help="why the thresholds are one half; null where they were fitted")


@settings
class PredictionInterval:
    """Prediction interval of one real-valued task."""

    coverage: float = setting(default=COVERAGE, help="share of clips that it is to cover", gt=0, lt=1)
    half_width: float = setting(default=0.0, help="distance of its ends from the prediction, in the task's unit", ge=0)
    rows: int = setting(default=0, help="annotated validation clips that it was fitted on", ge=0)


class Calibration:
    """Calibrations of the tasks of a model.

    Attributes:
        tasks: name of a binary task -> calibration.
        intervals: name of a real-valued task -> prediction interval; without tasks that validation has too few labels of.
        weights: of the network and of the linear model, by name of the task (see `evaluation.stacking`); empty for a network
            without a linear model.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskCalibration],
        intervals: Mapping[str, PredictionInterval] | None = None,
        weights: Mapping[str, Weights] | None = None,
    ) -> None:
        self.tasks, self.intervals, self.weights = dict(tasks), dict(intervals or {}), dict(weights or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and vars(self) == vars(other)

    @classmethod
    def identity(cls, tasks: Sequence[Any], reason: str | None = None) -> Calibration:
        """Thresholds of one half."""
        return cls({name: TaskCalibration(reason=reason) for name in task_names(tasks_of_kind(tasks, "binary"))})

    @classmethod
    def joined(cls, parts: Iterable[Calibration]) -> Calibration:
        """The calibrations of several models as one."""
        parts = list(parts)
        return cls(
            {name: one for part in parts for name, one in part.tasks.items()},
            {name: one for part in parts for name, one in part.intervals.items()},
            {name: one for part in parts for name, one in part.weights.items()},
        )

    @classmethod
    def fit(
        cls,
        labels: np.ndarray,
        predictions: np.ndarray,
        tasks: Sequence[Any],
        expected: bool = False,
        weights: Mapping[str, Weights] | None = None,
    ) -> Calibration:
        """Thresholds of every binary task, prediction interval of every real-valued one.

        Args:
            labels: float `[N, T]` of validation, 1 present, 0 absent, NaN not annotated.
            predictions: float `[N, T]`, of the model on validation.
            tasks: the T tasks.
            expected: whether the probabilities are calibrated, so that thresholds are those of the best expected value.
            weights: kind of task -> those of the network and of the linear model, to note.

        Returns:
            The calibration. A task keeps one half, with a reason, where validation has clips of one class only.
        """
        labels, predictions = checked_predictions(labels, predictions, tasks)
        fitted, intervals = {}, {}
        for t, (name, kind) in enumerate(zip(task_names(tasks), task_kinds(tasks))):
            if kind == "binary":
                fitted[name] = _fit_task(labels[:, t], predictions[:, t], expected)
            elif kind == REGRESSION:
                found = fit_interval(labels[:, t], predictions[:, t])
                intervals.update({} if found is None else {name: found})
        own = {name: (weights or {}).get(kind) for name, kind in zip(task_names(tasks), task_kinds(tasks))}
        return cls(fitted, intervals, {name: one for name, one in own.items() if one is not None})

    def decided(self, tasks: Sequence[Any]) -> list[Any]:
        """The tasks, with the thresholds for weighted F1 where they are binary."""
        limits = self.thresholds(DEFAULT_CRITERION, tasks).tolist()
        return [
            dataclasses.replace(task, threshold=limit) if kind_of(task) == "binary" else task
            for task, limit in zip(tasks, limits)
        ]

    def coverage(self, labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any]) -> dict[str, Any]:
        """Real-valued task -> its interval, and ``covered``: the share of annotated rows inside (None without any)."""
        found = {}
        for t, name in enumerate(task_names(tasks)):
            known = ~np.isnan(labels[:, t])
            if name in self.intervals:
                inside = np.abs(labels[known, t] - predictions[known, t]) <= self.intervals[name].half_width
                found[name] = {
                    **to_dict(self.intervals[name]),
                    "covered": float(inside.mean()) if known.any() else None,
                }
        return found

    def thresholds(self, criterion: str, tasks: Sequence[Any]) -> np.ndarray:
        """Thresholds of the probabilities, float64 `[T]`; one half for other than binary tasks.

        Args:
            criterion: ``own``, those of the tasks; ``half``; or a metric that they were fitted for.
            tasks: names of the T tasks, or the tasks.

        Raises:
            RunError: the criterion is unknown, or a task has no calibration.
        """
        found = np.full(len(tasks), 0.5)
        for t, (name, kind) in enumerate(zip(task_names(tasks), task_kinds(tasks))):
            if kind == "binary" and criterion == OWN:
                found[t] = threshold_of(tasks[t])
            elif kind == "binary" and criterion != HALF:
                fitted = self._of(name).thresholds
                if criterion not in fitted:
                    known = ", ".join([OWN, HALF, *fitted])
                    raise RunError(f"thresholds must be one of {known}, but got {criterion!r}. Choose one of them.")
                found[t] = fitted[criterion]
        return found

    def _of(self, task: str) -> TaskCalibration:
        if task not in self.tasks:
            raise RunError(
                f"a calibration must have every task, but {task!r} is not among {', '.join(self.tasks)}. "
                "Use the calibration of the same model."
            )
        return self.tasks[task]

    def to_json(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        found: dict[str, Any] = {
            "fitted_on": "validation",
            "emotions": {name: to_dict(one) for name, one in self.tasks.items()},
        }
        if self.intervals:
            found["regression"] = {name: to_dict(one) for name, one in self.intervals.items()}
        if self.weights:
            found["weights"] = {name: to_dict(one) for name, one in self.weights.items()}
        return found

    @classmethod
    def from_json(cls, content: Any, where: object) -> Calibration:
        """Checks what `to_json` gave and a file brought back.

        Raises:
            RunError: it is something else.
        """
        parts: list[Any] = []
        if isinstance(content, dict):
            parts = [content.get("emotions"), content.get("regression", {}), content.get("weights", {})]
        if not parts or not all(isinstance(part, dict) for part in parts):
            raise RunError(f"{where}: must hold a calibration, but does not. Train again.")
        try:
            fitted, intervals, weights = parts
            return cls(
                {name: build(TaskCalibration, one, name) for name, one in fitted.items()},
                {name: build(PredictionInterval, one, name) for name, one in intervals.items()},
                {name: build(Weights, one, name) for name, one in weights.items()},
            )
        except ConfigError as error:
            raise RunError(f"{where}: {error} Train again.") from None

    def save(self, folder: str | Path) -> Path:
        """Writes ``calibration.json`` into the folder of a model."""
        path = Path(folder) / CALIBRATION_FILE
        write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """Reads what `save` wrote.

        Raises:
            RunError: the file is missing or damaged.
        """
        path = Path(folder) / CALIBRATION_FILE
        return cls.from_json(read_json(path, error=RunError), path)


def fit_interval(labels: np.ndarray, predictions: np.ndarray, coverage: float = COVERAGE) -> PredictionInterval | None:
    """The split-conformal interval of one task.

    Args:
        labels: float `[N]` of validation, NaN not annotated.
        predictions: float `[N]`.
        coverage: share of new clips that is to be inside.

    Returns:
        The interval: the ceil((n + 1) coverage)-th smallest of the n absolute residuals; None if there are fewer.
    """
    residuals = np.sort(np.abs(labels - predictions)[~np.isnan(labels)])
    place = math.ceil((len(residuals) + 1) * coverage)
    if place > len(residuals):
        return None
    return PredictionInterval(coverage=coverage, half_width=float(residuals[place - 1]), rows=len(residuals))


def _fit_task(labels: np.ndarray, probabilities: np.ndarray, expected: bool) -> TaskCalibration:
    known = ~np.isnan(labels)
    labels, probabilities = labels[known], np.asarray(probabilities, np.float64)[known]
    present = int(labels.sum())
    if not 0 < present < len(labels):
        seen = f"has only {'present' if present else 'absent'} clips" if len(labels) else "has no label"
        return TaskCalibration(rows=len(labels), reason=f"validation {seen}")
    shares = probabilities if expected else labels
    thresholds = {criterion: fit_threshold(shares, probabilities, criterion) for criterion in CRITERIA}
    return TaskCalibration(thresholds=thresholds, rows=len(labels))


def fit_threshold(shares: np.ndarray, probabilities: np.ndarray, criterion: str) -> float:
    """The threshold with the best value of a metric of decisions; of equal ones the nearest to one half.

    Args:
        shares: float `[N]`, how much each row counts as present: its label, or the probability that it is present.
        probabilities: float64 `[N]`.
        criterion: the metric.
    """
    distinct = np.unique(probabilities)
    candidates = np.concatenate([[0.5], (distinct[1:] + distinct[:-1]) / 2])
    # of rows sorted by probability, those from `start` on are decided as present
    order = np.argsort(probabilities, kind="stable")
    start = np.searchsorted(probabilities[order], candidates, side="right")
    present_below = np.concatenate([[0.0], np.cumsum(shares[order])])
    fn, below, present = present_below[start], start, present_below[-1]
    tp, tn = present - fn, below - fn
    fp = len(order) - present - tn
    confusion = np.stack([np.stack([tn, fp], axis=1), np.stack([fn, tp], axis=1)], axis=1)  # [K, 2, 2]
    metric = METRICS[criterion]
    score = metric(Confusion(confusion)) * (1 if metric.greater_is_better else -1)
    best = np.flatnonzero(score >= score.max() - 1e-12)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])
