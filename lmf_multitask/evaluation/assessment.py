"""From predictions to the content of ``metrics.json``.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.calibration import CRITERIA, HALF, Calibration
from lmf_multitask.evaluation.decisions import (
    Decisions,
    checked_predictions,
    decide,
    decisions_of,
    task_kinds,
    task_names,
    threshold_of,
)
from lmf_multitask.evaluation.metrics import always_absent, exclusive_metrics, metrics_of
from lmf_multitask.evaluation.statistics import LEVEL, RESAMPLES, bootstrap, intervals_of, paired_differences
from lmf_multitask.tasks import make_tasks


@dataclass(frozen=True)
class LearningCurves:
    """Losses and metrics of one training by epoch.

    Attributes:
        epochs: numbers from 1.
        losses: name (train, validation) -> loss per epoch.
        metrics: name of a metric, the monitored one first -> task, or `MEAN` over tasks -> its value on validation per epoch.
        kept: the epoch whose weights were kept; None if unknown.
    """

    epochs: list[int]
    losses: dict[str, list[float]]
    metrics: dict[str, dict[str, list[float]]]
    kept: int | None


MEAN = "mean"


@dataclass(frozen=True)
class Assessment:
    """Predictions of one model on one split, and all results on them: the content of a report.

    Attributes:
        name: of the model, in tables of several.
        tasks: the T tasks, `tasks.Task` objects or names of binary ones.
        ids: names of the N rows.
        labels: float64 `[N, T]`, NaN not annotated; of binary tasks 1 present, 0 absent.
        probabilities: float `[N, T]`; of real-valued tasks the predictions.
        metrics: the content of ``metrics.json``.
        calibration: fitted on validation, if any.
        baselines: name -> predictions float `[N, T]`.
        decisions: name of a baseline, or ``network`` -> decisions, where these are not those of `assess`.
        curves: name -> one per training (a per-emotion group has several).
        robustness: see `robustness.measure_robustness`; None without a model.
        without: modality -> predictions `[N, T]` without it, see `robustness.predictions_without`.
        facts: data, settings and command of the training: heading -> text.
        data_report: the cleaning report of the data, as plain text.
    """

    name: str
    tasks: list[Any]
    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    metrics: dict[str, Any]
    calibration: Calibration | None = None
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)
    decisions: Mapping[str, Decisions] = field(default_factory=dict)
    curves: dict[str, LearningCurves] = field(default_factory=dict)
    robustness: dict[str, Any] | None = None
    without: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    data_report: str | None = None

    @property
    def emotions(self) -> list[str]:
        """Names of the T tasks."""
        return task_names(self.tasks)

    @property
    def decided(self) -> Decisions:
        """What the model decides."""
        return self.decisions.get("network") or decisions_of(self.probabilities, self.tasks)


def evaluate_predictions(
    labels: np.ndarray,
    probabilities: np.ndarray,
    emotions: Sequence[Any] | None = None,
    *,
    ids: Sequence[str] | None = None,
    validation_labels: np.ndarray | None = None,
    validation_probabilities: np.ndarray | None = None,
    split: str = "test",
    name: str = "model",
    resamples: int = RESAMPLES,
) -> Assessment:
    """Evaluates predictions of any model; neither Paddle nor a model of this package is needed.

    Args:
        labels: float `[N, T]`, 1 present, 0 absent, NaN not annotated.
        probabilities: float `[N, T]`, of present.
        emotions: the T columns: names of binary tasks, ``NAME:regression``, or `tasks.Task` objects; None names them task1, ...
        ids: names of the N rows; None numbers them.
        validation_labels: float `[M, T]`; with the next, thresholds are fitted on these rows.
        validation_probabilities: float `[M, T]`.
        split: name of the rows in tables.
        name: of the model.
        resamples: of the bootstrap.

    Returns:
        The assessment; ``.metrics`` is the content of a ``metrics.json``. `full_tables` and `write_report` show it.

    Raises:
        DataError: shapes, labels or probabilities are invalid.
    """
    if np.ndim(labels) != 2:
        raise DataError(f"labels must have the shape [rows, emotions], but got {list(np.shape(labels))}.")
    tasks = _named_tasks(
        list(emotions) if emotions is not None else [f"task{t + 1}" for t in range(np.shape(labels)[1])]
    )
    labels, probabilities = checked_predictions(labels, probabilities, tasks)
    if not len(labels):
        raise DataError("labels must have at least one row, but got none.")
    ids = [f"{split}-{row:05d}" for row in range(len(labels))] if ids is None else [str(one) for one in ids]
    if len(ids) != len(labels) or len(set(ids)) != len(ids):
        raise DataError(
            f"ids must be {len(labels)} different names, but got {len(ids)}, {len(set(ids))} of them different."
        )
    calibration = None
    if validation_labels is not None and validation_probabilities is not None:
        calibration = Calibration.fit(validation_labels, validation_probabilities, tasks)
    elif validation_labels is not None or validation_probabilities is not None:
        raise DataError("validation labels and probabilities must be given together, but one of them is missing.")
    metrics = assess(labels, probabilities, tasks, split=split, calibration=calibration, resamples=resamples)
    return Assessment(name, tasks, ids, labels, probabilities, metrics, calibration)


def _named_tasks(given: Sequence[Any]) -> list[Any]:
    """``NAME:KIND`` as a task; any other text is the name of a binary task."""
    return [make_tasks([one])[0] if isinstance(one, str) and ":" in one else one for one in given]


def assess(
    labels: np.ndarray,
    predictions: np.ndarray,
    tasks: Sequence[Any],
    *,
    split: str,
    seed: int | None = None,
    calibration: Calibration | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
    decisions: Mapping[str, Decisions] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The content of ``metrics.json``.

    Args:
        labels: float `[N, T]`, NaN not annotated.
        predictions: float `[N, T]`.
        tasks: `tasks.Task` objects, or names of binary tasks.
        split: of the rows.
        seed: of the training.
        calibration: fitted on validation.
        baselines: name -> predictions float `[N, T]` for the same rows; NaN in the columns of tasks that it does not predict.
        decisions: name of a baseline, or ``network`` -> decisions; otherwise baselines decide at one half, and the model at the
            thresholds of the tasks.
        resamples: of the bootstrap.

    Returns:
        ``emotions``, ``regression`` and ``mean``: metrics (`metrics.metrics_of`); ``always_absent``; ``decided_above``: threshold
        of each emotion, empty where decisions are given; ``exclusive``: the decision among all emotions, or None; ``baselines``:
        the same of each, and ``network_ahead``: the paired differences network - baseline with their intervals; ``intervals``;
        with a calibration ``calibration`` (the fitted numbers), ``prediction_intervals`` (`Calibration.coverage`) and
        ``thresholds`` (criterion -> metrics at one half and at the thresholds fitted for it).
    """
    labels, predictions = checked_predictions(labels, predictions, tasks)
    others = {f"baseline {name}": np.asarray(values, np.float64) for name, values in (baselines or {}).items()}
    absent = {name: np.flatnonzero(np.isnan(values).all(axis=0)).tolist() for name, values in others.items()}
    others = {name: np.where(np.isnan(values).all(axis=0), predictions, values) for name, values in others.items()}
    given = decisions or {}
    decided = {
        name: given.get(name.removeprefix("baseline ")) or decide(values, 0.5, tasks) for name, values in others.items()
    }
    own_decisions = decided["network"] = given.get("network") or decisions_of(predictions, tasks)
    drawn = bootstrap(labels, {"network": predictions, **others}, tasks, decisions=decided, resamples=resamples)
    found = {
        "split": split,
        "samples": len(labels),
        "seed": seed,
        **metrics_of(labels, predictions, tasks, own_decisions),
        "always_absent": always_absent(labels, tasks),
        "decided_above": {
            name: threshold_of(task)
            for name, task, kind in zip(task_names(tasks), tasks, task_kinds(tasks))
            if kind == "binary" and "network" not in given
        },
        "baselines": {},
        "exclusive": exclusive_metrics(labels, predictions, tasks, own_decisions),
        "intervals": {"level": LEVEL, "resamples": resamples, "seed": 0, **intervals_of(drawn["network"], tasks)},
    }
    for name, values in others.items():
        own_tasks = [t for t in range(len(tasks)) if t not in absent[name]]
        chosen = [tasks[t] for t in own_tasks]
        parts = labels[:, own_tasks], values[:, own_tasks], chosen, decided[name].select(own_tasks)
        own = {**metrics_of(*parts), "exclusive": exclusive_metrics(*parts)}
        differences = paired_differences(drawn[name], drawn["network"])
        if own["exclusive"] is None:
            differences = {key: one for key, one in differences.items() if one.ndim == 2}
        intervals = intervals_of(
            {k: one[:, own_tasks] if one.ndim == 2 else one for k, one in differences.items()}, chosen
        )
        own["network_ahead"] = {"exclusive": None, **differences_of(found, own, intervals)}
        found["baselines"][name.removeprefix("baseline ")] = own
    if calibration is None:
        return found
    found["calibration"] = calibration.to_json()
    covered = calibration.coverage(labels, predictions, tasks)
    if covered:
        found["prediction_intervals"] = covered
    binary = [t for t, kind in enumerate(task_kinds(tasks)) if kind == "binary"]
    if not binary:
        return found
    labels, predictions, tasks = labels[:, binary], predictions[:, binary], [tasks[t] for t in binary]
    found["thresholds"] = {
        criterion: metrics_of(
            labels, predictions, tasks, decide(predictions, calibration.thresholds(criterion, tasks), tasks)
        )
        for criterion in (HALF, *CRITERIA)
    }
    return found


def differences_of(own: Any, other: Any, intervals: Any) -> Any:
    """Differences own - other of the metrics of two models.

    Args:
        own: metrics of one model by place in ``metrics.json``: emotions, mean, exclusive.
        other: those of the other.
        intervals: `statistics.intervals_of` the paired differences.

    Returns:
        The intervals, each replaced by ``{"difference": value, "interval": [low, high]}``, either None where undefined.
    """
    if isinstance(intervals, Mapping):
        return {key: differences_of(own[key], other[key], part) for key, part in intervals.items()}
    return {"difference": None if own is None or other is None else own - other, "interval": intervals}
