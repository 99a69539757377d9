"""Calibrated probabilities, better thresholds and prediction intervals, fitted on validation only.

Temperature scaling (Guo et al. 2017, arXiv 1706.04599): the logit difference of each head is divided by one number, which
changes no decision at one half. Thresholds apply to the plain probability, so they need no temperature.

Real-valued tasks get split-conformal prediction intervals (Papadopoulos et al. 2002; Lei et al. 2018): prediction ± a quantile of
the absolute residuals on validation. Of clips drawn like those of validation, at least `COVERAGE` are inside.

Shape letters: N rows (clips), T tasks (emotions), K candidate thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lmf_multitask.config import build, setting, settings, to_dict
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.evaluation.metrics import (
    CLOSEST_TO_CERTAIN,
    METRICS,
    REGRESSION,
    Confusion,
    WeightedRows,
    checked_predictions,
    log_loss,
    task_kinds,
    task_names,
    tasks_of_kind,
)
from lmf_multitask.files import read_json, write_json

CALIBRATION_FILE = "calibration.json"
HALF = "half"
CRITERIA = ("positive_f1", "uar")
"""Metrics of decisions that a threshold is fitted for."""

COVERAGE = 0.9
"""Share of clips that a prediction interval is to cover."""

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


@settings
class TaskCalibration:
    """Calibration of one binary task."""

    temperature: float = setting(
        default=1.0, help="above 1 makes probabilities less extreme", ge=LOWEST_TEMPERATURE, le=HIGHEST_TEMPERATURE
    )
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = setting(
        default=lambda: dict.fromkeys(CRITERIA, 0.5),
        help="criterion -> the plain probability above which the task counts as present",
    )
    rows: int = setting(default=0, help="annotated validation clips that these were fitted on", ge=0)
    reason: str | None = setting(default=None, help="why the plain values were kept; null where they were fitted")


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
    """

    def __init__(
        self, tasks: Mapping[str, TaskCalibration], intervals: Mapping[str, PredictionInterval] | None = None
    ) -> None:
        self.tasks, self.intervals = dict(tasks), dict(intervals or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Calibration) and (self.tasks, self.intervals) == (other.tasks, other.intervals)

    @classmethod
    def identity(cls, tasks: Sequence[Any], reason: str | None = None) -> Calibration:
        """Plain probabilities and thresholds of one half."""
        return cls({name: TaskCalibration(reason=reason) for name in task_names(tasks_of_kind(tasks, "binary"))})

    @classmethod
    def joined(cls, parts: Iterable[Calibration]) -> Calibration:
        """The calibrations of several models as one."""
        parts = list(parts)
        return cls(
            {name: one for part in parts for name, one in part.tasks.items()},
            {name: one for part in parts for name, one in part.intervals.items()},
        )

    @classmethod
    def fit(cls, labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any]) -> Calibration:
        """Temperature and thresholds of every binary task, prediction interval of every real-valued one.

        Args:
            labels: float `[N, T]` of validation, 1 present, 0 absent, NaN not annotated.
            predictions: float `[N, T]`, of the model on validation.
            tasks: the T tasks.

        Returns:
            The calibration. A task keeps 1 and one half, with a reason, where validation has clips of one class only.
        """
        labels, predictions = checked_predictions(labels, predictions, tasks)
        fitted, intervals = {}, {}
        for t, (name, kind) in enumerate(zip(task_names(tasks), task_kinds(tasks))):
            if kind == "binary":
                fitted[name] = _fit_task(labels[:, t], predictions[:, t])
            elif kind == REGRESSION:
                found = fit_interval(labels[:, t], predictions[:, t])
                intervals.update({} if found is None else {name: found})
        return cls(fitted, intervals)

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

    def calibrate(self, predictions: np.ndarray, tasks: Sequence[Any]) -> np.ndarray:
        """Plain predictions float `[N, T]` -> calibrated ones, float64 `[N, T]`; those of other than binary tasks as they are.

        Raises:
            RunError: a binary task has no calibration.
        """
        found = np.array(predictions, np.float64)
        for t, (name, kind) in enumerate(zip(task_names(tasks), task_kinds(tasks))):
            if kind == "binary":
                found[:, t] = scale(found[:, t], self._of(name).temperature)
        return found

    def thresholds(self, criterion: str, tasks: Sequence[Any]) -> np.ndarray:
        """Thresholds of the plain probabilities, float64 `[T]`; one half for other than binary tasks.

        Args:
            criterion: ``half``, or a metric that they were fitted for.
            tasks: names of the T tasks, or the tasks.

        Raises:
            RunError: the criterion is unknown, or a task has no calibration.
        """
        found = np.full(len(tasks), 0.5)
        for t, (name, kind) in enumerate(zip(task_names(tasks), task_kinds(tasks))):
            if kind == "binary" and criterion != HALF:
                fitted = self._of(name).thresholds
                if criterion not in fitted:
                    known = ", ".join([HALF, *fitted])
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
        return found

    @classmethod
    def from_json(cls, content: Any, where: object) -> Calibration:
        """Checks what `to_json` gave and a file brought back.

        Args:
            content: the parsed JSON.
            where: the file, for messages.

        Raises:
            RunError: it is something else.
        """
        parts: list[Any] = [content.get("emotions"), content.get("regression", {})] if isinstance(content, dict) else []
        if not parts or not all(isinstance(part, dict) for part in parts):
            raise RunError(f"{where}: must hold a calibration, but does not. Train again.")
        try:
            fitted, intervals = parts
            return cls(
                {name: build(TaskCalibration, one, name) for name, one in fitted.items()},
                {name: build(PredictionInterval, one, name) for name, one in intervals.items()},
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


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by a temperature; float64, of the same shape."""
    kept = np.clip(np.asarray(probabilities, np.float64), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return 0.5 * (1 + np.tanh(0.5 * (np.log(kept) - np.log1p(-kept)) / temperature))


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


def _fit_task(labels: np.ndarray, probabilities: np.ndarray) -> TaskCalibration:
    rows = WeightedRows(labels, probabilities)
    present = int(rows.labels.sum())
    if not 0 < present < len(rows.labels):
        seen = f"has only {'present' if present else 'absent'} clips" if len(rows.labels) else "has no label"
        return TaskCalibration(rows=len(rows.labels), reason=f"validation {seen}")
    thresholds = {criterion: fit_threshold(rows, criterion) for criterion in CRITERIA}
    return TaskCalibration(temperature=fit_temperature(rows), thresholds=thresholds, rows=len(rows.labels))


def fit_temperature(rows: WeightedRows) -> float:
    """The temperature from 0.05 to 20 with the lowest log loss (which has one minimum: convex in the inverse)."""
    from scipy.optimize import minimize_scalar  # 0.2 s of import that a deployed model does not need

    def loss(logarithm: float) -> float:
        scaled = scale(rows.predictions, math.exp(logarithm))
        return float(log_loss(WeightedRows(rows.labels, scaled))[0])

    bounds = (math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))
    best = math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x)
    best = min(max(best, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE)
    return best if loss(math.log(best)) < loss(0.0) else 1.0


def fit_threshold(rows: WeightedRows, criterion: str) -> float:
    """The threshold with the best value of a metric of decisions; of equal ones the nearest to one half."""
    distinct = np.unique(rows.predictions)
    candidates = np.concatenate([[0.5], (distinct[1:] + distinct[:-1]) / 2])
    # of rows sorted by probability, those from `start` on are decided as present
    order = np.argsort(rows.predictions, kind="stable")
    start = np.searchsorted(rows.predictions[order], candidates, side="right")
    present_below = np.concatenate([[0.0], np.cumsum(rows.labels[order])])
    fn, below, present = present_below[start], start, present_below[-1]
    tp, tn = present - fn, below - fn
    fp = len(order) - present - tn
    confusion = np.stack([np.stack([tn, fp], axis=1), np.stack([fn, tp], axis=1)], axis=1)  # [K, 2, 2]
    metric = METRICS[criterion]
    score = metric(Confusion(confusion)) * (1 if metric.greater_is_better else -1)
    best = np.flatnonzero(score >= score.max() - 1e-12)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])
