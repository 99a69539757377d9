"""Metrics of predictions: one table, and one function per metric.

A metric is a function of weighted rows. Its plain value is that with unit weights; the bootstrap uses the number of times
each row was drawn. To add a metric, add an entry to `METRICS`, here or in a plug-in file: it then appears in
``metrics.json``, tables, plots and intervals, and can be monitored in training.

Shape letters: N rows (clips), T tasks (emotions), R sets of row weights, C classes of a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.data.targets import REGRESSION
from lmf_multitask.errors import ConfigError, suggestion
from lmf_multitask.evaluation.decisions import (
    Decisions,
    checked_predictions,
    decisions_of,
    exclusive_decision,
    kind_of,
    task_kinds,
    task_names,
    task_rows,
)
from lmf_multitask.evaluation.value_metrics import (
    concordance,
    mean_absolute_error,
    pearson,
    root_mean_squared_error,
    same_integer,
    spearman,
    two_classes,
)
from lmf_multitask.evaluation.weighted_rows import Confusion, WeightedRows, ratio
from lmf_multitask.tasks import CLOSEST_TO_CERTAIN

EXCLUSIVE = "exclusive"
"""Kind of the metrics of the one decision among all binary tasks, where labels are exclusive."""

PLACES = {"binary": "emotions", "regression": "regression"}
"""Kind of task -> where tasks of this kind stand in ``metrics.json``; those of a plug-in stand under ``emotions``."""

BASELINES = {"binary": ("prevalence", "logistic_regression"), "regression": ("train_mean", "ridge_regression")}
"""Kind of task -> names of its constant and its linear baseline in ``metrics.json``."""

TASK_METRIC = "task_metric"
"""As a monitor: of each task the metric of its kind, see `tasks.Task.monitor`."""

SENTIMENT_RANGE, TRAIT_RANGE = (-3.0, 3.0), (1.0, 7.0)
"""Ranges of sentiment in MOSI and MOSEI, and of traits in POM: seven integers each."""


# -- the metrics; NaN where they are undefined


def weighted_f1(rows: Confusion) -> np.ndarray:
    """F1 of every class, weighted by its rows: the metric of the papers."""
    return ratio((rows.f1 * rows.true).sum(axis=1), rows.true.sum(axis=1))


def accuracy(rows: Confusion) -> np.ndarray:
    """Share of correct decisions."""
    return ratio(rows.right.sum(axis=1), rows.true.sum(axis=1))


def mean_recall(rows: Confusion) -> np.ndarray:
    """Mean of the classes' recalls; undefined unless every class occurs."""
    return ratio(rows.right, rows.true).mean(axis=1)


def macro_f1(rows: Confusion) -> np.ndarray:
    """Mean of the classes' F1; undefined unless every class occurs."""
    return np.where((rows.true > 0).all(axis=1), rows.f1.mean(axis=1), np.nan)


def positive_f1(rows: Confusion) -> np.ndarray:
    """F1 of the class present; undefined where nothing is present."""
    return np.where(rows.true[:, 1] > 0, rows.f1[:, 1], np.nan)


def precision(rows: Confusion) -> np.ndarray:
    """Precision of the class present: 0 where nothing is decided as present, undefined where nothing is present."""
    return np.where(rows.true[:, 1] > 0, ratio(rows.right[:, 1], rows.decided[:, 1], otherwise=0.0), np.nan)


def recall(rows: Confusion) -> np.ndarray:
    """Recall of the class present; undefined where nothing is present."""
    return ratio(rows.right[:, 1], rows.true[:, 1])


def brier(rows: WeightedRows) -> np.ndarray:
    """Mean squared error of the probability."""
    return rows.mean((rows.predictions - rows.labels) ** 2)


def expected_calibration_error(rows: WeightedRows) -> np.ndarray:
    """Mean gap between probability and share of present clips over the bins, weighted by their rows."""
    gaps = rows.sum(rows.bins * (rows.predictions - rows.labels)[:, None])
    return ratio(np.abs(gaps).sum(axis=1), rows.total)


def log_loss(rows: WeightedRows) -> np.ndarray:
    """Mean negative log-likelihood in nats."""
    kept = np.clip(rows.predictions, CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return rows.mean(-np.log(np.where(rows.labels == 1, kept, 1 - kept)))


@dataclass(frozen=True)
class Metric:
    """A number that rates the predictions of one task.

    Attributes:
        key: name in JSON.
        title: name in tables and plots.
        function: `WeightedRows` (`Confusion` is enough where `needs` is ``decision``) -> float64 `[R]`, NaN where undefined.
        kind: kind of task that it rates, or `EXCLUSIVE`.
        needs: ``decision`` where it depends on the decisions alone, ``probability`` where it depends on predictions,
            ``value`` for real-valued tasks.
        greater_is_better: its direction.
        headline: shown first.
        per_epoch: whether ``history.csv`` has it for each task.
        ranges: ranges of the real-valued tasks that it is for; empty: any.
    """

    key: str
    title: str
    function: Callable[[Any], np.ndarray]
    kind: str = "binary"
    needs: str = "decision"
    greater_is_better: bool = True
    headline: bool = False
    per_epoch: bool = False
    ranges: tuple[tuple[float, float], ...] = ()

    def rates(self, task: Any) -> bool:
        """Whether it is defined for a task."""
        return self.kind == kind_of(task) and (not self.ranges or getattr(task, "range", None) in self.ranges)

    def __call__(self, rows: Confusion) -> np.ndarray:
        """The values float64 `[R]`.

        Raises:
            ConfigError: the function returns something else.
        """
        values = np.asarray(self.function(rows), np.float64)
        if values.shape != (len(rows),):
            raise ConfigError(
                f"metric {self.key!r} must return one number per set of row weights, [{len(rows)}], "
                f"but got {list(values.shape)}."
            )
        return values


def _real(key: str, title: str, function: Callable[[WeightedRows], np.ndarray], **about: Any) -> Metric:
    return Metric(key, title, function, REGRESSION, "value", **about)


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("weighted_f1", "weighted F1", weighted_f1, headline=True, per_epoch=True),
        Metric("accuracy", "accuracy", accuracy, headline=True),
        Metric("positive_f1", "present F1", positive_f1, headline=True),
        Metric("uar", "UAR", mean_recall, headline=True),
        Metric("precision", "precision", precision),
        Metric("recall", "recall", recall),
        Metric("macro_f1", "macro F1", macro_f1),
        Metric("auroc", "AUROC", lambda rows: rows.ranking[0], needs="probability", headline=True),
        Metric("average_precision", "avg. precision", lambda rows: rows.ranking[1], needs="probability"),
        Metric("brier", "Brier", brier, needs="probability", greater_is_better=False),
        Metric("ece", "ECE", expected_calibration_error, needs="probability", greater_is_better=False),
        Metric("log_loss", "log loss", log_loss, needs="probability", greater_is_better=False),
        _real("mae", "MAE", mean_absolute_error, greater_is_better=False, headline=True, per_epoch=True),
        _real("rmse", "RMSE", root_mean_squared_error, greater_is_better=False),
        _real("pearson", "r", pearson, headline=True, per_epoch=True),
        _real("spearman", "Spearman", spearman),
        _real("ccc", "CCC", concordance, headline=True),
        _real("acc7", "Acc-7", same_integer(7), ranges=(SENTIMENT_RANGE, TRAIT_RANGE), headline=True),
        _real("acc5", "Acc-5", same_integer(5), ranges=(SENTIMENT_RANGE,)),
        _real(
            "acc2_negative_nonnegative",
            "Acc-2 neg/non-neg",
            two_classes(accuracy, True),
            ranges=(SENTIMENT_RANGE,),
            headline=True,
        ),
        _real("f1_negative_nonnegative", "F1 neg/non-neg", two_classes(weighted_f1, True), ranges=(SENTIMENT_RANGE,)),
        _real(
            "acc2_negative_positive",
            "Acc-2 neg/pos",
            two_classes(accuracy, False),
            ranges=(SENTIMENT_RANGE,),
            headline=True,
        ),
        _real("f1_negative_positive", "F1 neg/pos", two_classes(weighted_f1, False), ranges=(SENTIMENT_RANGE,)),
        Metric("weighted_accuracy", "WA", accuracy, EXCLUSIVE),
        Metric("unweighted_accuracy", "UA", mean_recall, EXCLUSIVE),
    )
}
"""Name in settings -> metric. The name is the key in JSON, except that ``exclusive_macro_f1`` has the key ``macro_f1``."""

METRICS["exclusive_macro_f1"] = Metric("macro_f1", "macro F1", macro_f1, EXCLUSIVE)


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise ConfigError(f"a metric must be one of {known}, but got {name!r}.{suggestion(name, list(METRICS))}")
    return METRICS[name]


def metrics_for(kind: str, needs: str | None = None) -> dict[str, Metric]:
    """Key -> metric, of those for a kind of task; `needs` restricts them to ``decision`` or ``probability``."""
    return {m.key: m for m in METRICS.values() if m.kind == kind and needs in (None, m.needs)}


# -- values


def weighted_values(
    labels: np.ndarray,
    predictions: np.ndarray,
    tasks: Sequence[Any],
    *,
    decisions: Decisions | None = None,
    weights: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Metrics under row weights.

    Args:
        labels: float `[N, T]`, NaN not annotated.
        predictions: float `[N, T]`.
        tasks: the T tasks.
        decisions: of the model; None: `decisions_of`.
        weights: float `[R, N]`; None: unit weights.
        names: of `METRICS`; None computes all that rate one of the tasks.

    Returns:
        Name -> float64 `[R, T]`, NaN where undefined or for a task of another kind; of the decision among exclusive tasks
        float64 `[R]`, left out unless labels are exclusive.
    """
    rows = task_rows(labels, predictions, tasks, decisions=decisions, weights=weights)
    decision = exclusive_decision(labels, predictions, tasks, decisions, weights)
    found = {}
    if names is None:
        names = [n for n, metric in METRICS.items() if metric.kind == EXCLUSIVE or any(map(metric.rates, tasks))]
    for name in names:
        metric = find_metric(name)
        if metric.kind != EXCLUSIVE:
            undefined = np.full(1 if weights is None else len(weights), np.nan)
            columns = [metric(one) if metric.rates(task) else undefined for one, task in zip(rows, tasks)]
            found[name] = np.stack(columns, axis=1)
        elif decision is not None:
            found[name] = metric(decision)
    return found


def value_of(name: str, labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any]) -> float | None:
    """One metric: the mean over the tasks for which it is defined, or of the decision among all; None if undefined.

    Raises:
        ConfigError: there is no metric of that name.
    """
    if name == TASK_METRIC:
        chosen = [getattr(task, "monitor", METRICS["average_precision"].key) for task in tasks]
        found = weighted_values(labels, predictions, tasks, names=list(dict.fromkeys(chosen)))
        return mean_of([found[key][0, t] for t, key in enumerate(chosen)])
    values = weighted_values(labels, predictions, tasks, names=[name]).get(name, np.empty(0))
    return mean_of(values.ravel())


def mean_of(values: Sequence[float | None] | np.ndarray) -> float | None:
    """Mean of the values that are neither None nor NaN; None without any."""
    array = np.array([value for value in values if value is not None], np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if len(array) else None


def metrics_of(
    labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any], decisions: Decisions | None = None
) -> dict[str, Any]:
    """Every metric of every task, and their means.

    Args:
        labels: float `[N, T]`, NaN not annotated; 1 present, 0 absent for binary tasks.
        predictions: float `[N, T]`; of binary tasks the probability of present.
        tasks: `tasks.Task` objects, or names of binary tasks.
        decisions: of the model; None: `decisions_of`.

    Returns:
        ``emotions``: name -> key -> value, None where undefined; ``support``: clips where it is present; ``annotated``: clips
        with a label; ``confusion``: counts of clips; ``undefined``: key -> why, only if any is. ``regression``: the same of
        real-valued tasks, only if there are any. ``mean``: key -> mean over the tasks where the metric is defined.

    Raises:
        DataError: see `checked_predictions`.
    """
    labels, predictions = checked_predictions(labels, predictions, tasks)
    rows = task_rows(labels, predictions, tasks, decisions=decisions)
    per_task = {name: _task_metrics(one, task) for name, one, task in zip(task_names(tasks), rows, tasks)}
    keys = [metric.key for metric in METRICS.values() if any(metric.rates(task) for task in tasks)]
    mean = {key: mean_of([one.get(key) for one in per_task.values()]) for key in keys}
    return {**by_place(per_task, tasks), "mean": mean}


def by_place(per_task: Mapping[str, Any], tasks: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Name of a task -> value, as it stands in ``metrics.json``: ``emotions`` and, where there are such tasks, ``regression``."""
    found: dict[str, dict[str, Any]] = {"emotions": {}}
    for name, kind in zip(task_names(tasks), task_kinds(tasks)):
        found.setdefault(PLACES.get(kind, "emotions"), {})[name] = per_task[name]
    return found


def all_tasks(content: Mapping[str, Any]) -> dict[str, Any]:
    """Name of a task of any kind -> its entry in a part of ``metrics.json``."""
    return {name: one for place in PLACES.values() for name, one in content.get(place, {}).items()}


def _task_metrics(rows: WeightedRows, task: Any) -> dict[str, Any]:
    kind = kind_of(task)
    found: dict[str, Any] = {m.key: _number(m(rows)) for m in METRICS.values() if m.rates(task)}
    reason = _why_undefined(rows.labels, kind)
    undefined = {key: reason for key, value in found.items() if value is None}
    if kind == "binary":
        (tn, fp), (fn, tp) = rows.confusion[0].astype(int).tolist()
        found["support"] = tp + fn
        found["confusion"] = {"true_positive": tp, "false_positive": fp, "false_negative": fn, "true_negative": tn}
    found["annotated"] = len(rows.labels)
    return {**found, "undefined": undefined} if undefined else found


def _number(values: np.ndarray) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])


def _why_undefined(labels: np.ndarray, kind: str) -> str:
    if not len(labels):
        return "no clip is annotated"
    if kind == "binary" and len(np.unique(labels)) == 1:
        return f"all annotated clips are {'present' if labels[0] else 'absent'}"
    if kind == REGRESSION and len(np.unique(labels)) == 1:
        return "all annotated clips have the same value"
    return "it has no value for these predictions"


def always_absent(labels: np.ndarray, tasks: Sequence[Any]) -> dict[str, Any]:
    """`metrics_of` a classifier that decides absent for every clip and binary task."""
    binary = [t for t, kind in enumerate(task_kinds(tasks)) if kind == "binary"]
    chosen = labels[:, binary]
    return metrics_of(chosen, np.zeros(chosen.shape), [tasks[t] for t in binary])


def exclusive_metrics(
    labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any], decisions: Decisions | None = None
) -> dict[str, Any] | None:
    """The one decision among all binary tasks, where labels are exclusive.

    Args:
        labels: float `[N, T]`; rows with a NaN are left out.
        predictions: float `[N, T]`.
        tasks: the T tasks.
        decisions: of the model; None: `decisions_of`.

    Returns:
        The metrics of kind `EXCLUSIVE`: ``weighted_accuracy`` (WA, share of correct clips), ``unweighted_accuracy`` (UA, mean
        recall of the tasks), ``macro_f1``; ``confusion``: `[T][T]` counts, true by decided; ``emotions``; ``rows``; ``heads``:
        shares of clips where none, one, or several heads decide present. None unless labels are exclusive.
    """
    decisions = decisions or decisions_of(predictions, tasks)
    decision = exclusive_decision(labels, predictions, tasks, decisions)
    if decision is None:
        return None
    binary = [t for t, kind in enumerate(task_kinds(tasks)) if kind == "binary"]
    present = decisions.present[:, binary].sum(axis=1)[~np.isnan(labels[:, binary]).any(axis=1)]
    return {
        **{key: _number(metric(decision)) for key, metric in metrics_for(EXCLUSIVE).items()},
        "confusion": decision.confusion[0].astype(int).tolist(),
        "emotions": [task_names(tasks)[t] for t in binary],
        "rows": len(decision.labels),
        "heads": {
            "none_present": float((present == 0).mean()),
            "one_present": float((present == 1).mean()),
            "several_present": float((present > 1).mean()),
        },
    }
