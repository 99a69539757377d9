"""Comparison of models on the same rows: paired bootstrap, and McNemar's or Wilcoxon's test with Holm's correction.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.assessment import differences_of
from lmf_multitask.evaluation.decisions import exclusive_rows, task_kinds, task_names
from lmf_multitask.evaluation.metrics import REGRESSION, exclusive_metrics, metrics_of
from lmf_multitask.evaluation.predictions import Predictions, shared_ids
from lmf_multitask.evaluation.statistics import (
    RESAMPLES,
    bootstrap,
    holm,
    intervals_of,
    mcnemar_exact,
    paired_differences,
)


@dataclass(frozen=True)
class Difference:
    """Second minus first, of one task, of the mean over tasks, or of the decision among exclusive emotions.

    Attributes:
        rows: annotated clips.
        differences: key of a metric -> value; None where undefined.
        intervals: key of a metric -> [low, high] of the paired bootstrap; None where undefined.
        only_first: clips that only the first decides correctly, or to whose real label it is closer (None for the mean,
            and of several seeds).
        only_second: the same of the second.
        p: of McNemar's exact test of the decisions, or of Wilcoxon's signed-rank test of the absolute errors.
        corrected: the same after Holm's correction over all tasks of the comparison.
    """

    rows: int
    differences: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    only_first: int | None = None
    only_second: int | None = None
    p: float | None = None
    corrected: float | None = None

    @classmethod
    def of(cls, rows: int, found: Mapping[str, Any], *test: Any) -> Difference:
        """From key -> ``difference`` and ``interval`` (see `assessment.differences_of`), and the values of a test."""
        values, intervals = ({key: one[part] for key, one in found.items()} for part in ("difference", "interval"))
        return cls(rows, values, intervals, *test)


@dataclass(frozen=True)
class Pair:
    """One model against the reference.

    Attributes:
        first: name of the reference.
        second: name of the other.
        emotions: name of a binary task -> difference.
        mean: differences of the means over tasks.
        decision: difference of the decision among all emotions; None unless labels are exclusive. Its p-value is not
            corrected: it is one test.
        values: name of a real-valued task -> difference.
    """

    first: str
    second: str
    emotions: dict[str, Difference]
    mean: Difference
    decision: Difference | None = None
    values: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Several models on the same rows.

    Attributes:
        names: of the models; the first is the reference.
        emotions: common to all of them.
        rows: common clips.
        notes: what was left out.
        metrics: name -> `metrics.metrics_of` on the common clips, with ``exclusive`` and ``intervals``.
        pairs: every other model against the reference.
    """

    names: list[str]
    emotions: list[str]
    rows: int
    notes: list[str]
    metrics: dict[str, dict[str, Any]]
    pairs: list[Pair] = field(default_factory=list)


def compare(
    models: Sequence[Predictions | Sequence[Predictions]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compares models with the first of them, on the clips and emotions that all have.

    Args:
        models: two or more; labels may be missing in all but one, and must agree where several have them. Of a model that was
            trained under several seeds, the predictions of each: its metrics are averaged over them, its decisions not tested.
        resamples: of the bootstrap.
        seed: of its draws.

    Raises:
        DataError: there are fewer than two, they share no clip or emotion, or their labels differ.
    """
    if len(models) < 2:
        raise DataError(f"a comparison must have at least two models, but got {len(models)}. Name another run.")
    seeds = [[one] if isinstance(one, Predictions) else list(one) for one in models]
    names = [runs[0].name for runs in seeds]
    if len(set(names)) != len(names):
        raise DataError(f"models to compare must have different names, but got {', '.join(names)}.")
    chosen, notes = _common([run for runs in seeds for run in runs])
    notes += [
        f"{runs[0].name}: metrics are means over {len(runs)} seeds ({', '.join(run.source.parent.name for run in runs)}); "
        "intervals show the variation over clips, with these seeds"
        for runs in seeds
        if len(runs) > 1
    ]
    ids, tasks = chosen[0].ids, chosen[0].tasks
    labels = _common_labels(chosen)
    rest = iter(chosen)
    found = {name: [next(rest) for _ in runs] for name, runs in zip(names, seeds)}
    every = {(name, number): one for name, own in found.items() for number, one in enumerate(own)}
    probabilities, decisions = (
        {key: getattr(one, part) for key, one in every.items()} for part in ("probabilities", "decisions")
    )
    resampled = bootstrap(labels, probabilities, tasks, decisions=decisions, resamples=resamples, seed=seed)
    drawn, metrics = {}, {}
    for name, own in found.items():
        parts = [resampled[name, number] for number in range(len(own))]
        drawn[name] = {key: np.mean([part[key] for part in parts], axis=0) for key in parts[0]}
        metrics[name] = {
            **_averaged([metrics_of(labels, one.probabilities, tasks, one.decisions) for one in own]),
            "exclusive": _averaged([exclusive_metrics(labels, one.probabilities, tasks, one.decisions) for one in own]),
            "intervals": intervals_of(drawn[name], tasks),
        }
    pairs = []
    for name in names[1:]:
        intervals = intervals_of(paired_differences(drawn[names[0]], drawn[name]), tasks)
        differences = differences_of(metrics[name], metrics[names[0]], intervals)
        pairs.append(_pair(labels, tasks, {key: found[key] for key in (names[0], name)}, differences))
    return Comparison(names, chosen[0].emotions, len(ids), notes, metrics, _corrected(pairs))


def _common(models: Sequence[Predictions]) -> tuple[list[Predictions], list[str]]:
    """The clips and emotions that all models have, and notes on what was left out."""
    emotions = [emotion for emotion in models[0].emotions if all(emotion in model.emotions for model in models[1:])]
    if not emotions:
        known = "; ".join(f"{model.name} has {', '.join(model.emotions)}" for model in models)
        raise DataError(f"models to compare must share an emotion, but {known}.")
    ids = shared_ids(models)
    notes = []
    for model in models:
        if len(model.ids) != len(ids):
            notes.append(
                f"{model.name}: {len(model.ids) - len(ids)} of its {len(model.ids)} rows are not in all others"
            )
        if left := [emotion for emotion in model.emotions if emotion not in emotions]:
            notes.append(f"{model.name}: {', '.join(left)} left out, because not all others have it")
    chosen = [model.select(ids, emotions) for model in models]
    tasks = chosen[0].tasks
    for model in chosen[1:]:
        for name, own, other in zip(emotions, task_kinds(tasks), task_kinds(model.tasks)):
            if own != other:
                raise DataError(
                    f"{model.source}: {name} must be a {own} task, as in {chosen[0].source}, but is {other}. "
                    "Compare models of the same tasks."
                )
    return chosen, list(dict.fromkeys(notes))


def _averaged(parts: Sequence[Any]) -> Any:
    """Metrics of several seeds as their means, None where one is undefined; what differs otherwise is None."""
    first = parts[0]
    if len(parts) == 1 or all(part == first for part in parts):
        return first
    if isinstance(first, Mapping):
        return {key: _averaged([part.get(key) for part in parts]) for key in first}
    return float(np.mean(parts)) if all(isinstance(part, float) for part in parts) else None


def _common_labels(models: Sequence[Predictions]) -> np.ndarray:
    labelled = [model for model in models if not np.isnan(model.labels).all()]
    if not labelled:
        raise DataError("one of the models to compare must have labels, but none has. Give a run directory among them.")
    labels = labelled[0].labels
    for other in labelled[1:]:
        both = ~np.isnan(labels) & ~np.isnan(other.labels)
        different = np.argwhere(both & (labels != other.labels))
        if len(different):
            row, t = different[0]
            raise DataError(
                f"{other.source}: labels must equal those of {labelled[0].source}, but {other.emotions[t]} of "
                f"{other.ids[row]!r} is {other.labels[row, t]:g}, not {labels[row, t]:g}. Compare models on the same rows."
            )
        labels = np.where(np.isnan(labels), other.labels, labels)  # a file may have labels of some emotions only
    return labels


def _pair(
    labels: np.ndarray,
    tasks: Sequence[Any],
    models: Mapping[str, Sequence[Predictions]],
    found: Mapping[str, Any],
) -> Pair:
    tested = all(len(seeds) == 1 for seeds in models.values())
    both = [seeds[0] for seeds in models.values()]
    per_emotion, values = {}, {}
    for t, (name_of_task, kind) in enumerate(zip(task_names(tasks), task_kinds(tasks))):
        known = ~np.isnan(labels[:, t])
        if kind == REGRESSION:
            errors = [np.abs(one.probabilities[known, t] - labels[known, t]) for one in both]
            values[name_of_task] = _value_difference(found[REGRESSION][name_of_task], errors, tested)
            continue
        right = [one.decisions.present[known, t] == (labels[known, t] == 1) for one in both]
        entry = found["emotions"][name_of_task]
        per_emotion[name_of_task] = Difference.of(int(known.sum()), entry, *(mcnemar_exact(*right) if tested else ()))
    binary = [t for t, kind in enumerate(task_kinds(tasks)) if kind != REGRESSION]
    truth, decision = labels[:, binary], None
    rows = exclusive_rows(truth)
    if rows is not None:
        truth = np.array(binary)[truth[rows].argmax(axis=1)]
        right = [one.decisions.chosen[rows] == truth for one in both]
        decision = Difference.of(int(rows.sum()), found["exclusive"], *(mcnemar_exact(*right) if tested else ()))
    first, second = models
    return Pair(first, second, per_emotion, Difference.of(len(labels), found["mean"]), decision, values)


def _value_difference(found: Mapping[str, Any], errors: Sequence[np.ndarray], tested: bool) -> Difference:
    """Wilcoxon's signed-rank test of the absolute errors `[n]` of both models; ties count for neither."""
    first, second = errors
    if not tested:
        return Difference.of(len(first), found)
    closer = int((first < second).sum()), int((second < first).sum())
    from scipy.stats import wilcoxon  # takes a second to import

    return Difference.of(len(first), found, *closer, float(wilcoxon(first, second).pvalue) if sum(closer) else 1.0)


def _corrected(pairs: list[Pair]) -> list[Pair]:
    """Holm's correction over all tasks of all pairs, which are read together."""
    tests = [one for pair in pairs for part in (pair.emotions, pair.values) for one in part.values()]
    corrected = iter(holm([one.p for one in tests if one.p is not None]))

    def with_corrected(part: Mapping[str, Difference]) -> dict[str, Difference]:
        return {
            name: dataclasses.replace(one, corrected=None if one.p is None else next(corrected))
            for name, one in part.items()
        }

    return [
        dataclasses.replace(pair, emotions=with_corrected(pair.emotions), values=with_corrected(pair.values))
        for pair in pairs
    ]
