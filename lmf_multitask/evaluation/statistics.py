"""Uncertainty of metrics: bootstrap over rows, exact McNemar test, Holm's correction, t-interval over seeds.

Shape letters: N rows (clips), T tasks (emotions), R resamples, S runs (seeds).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.decisions import Decisions, task_kinds, task_names
from lmf_multitask.evaluation.metrics import EXCLUSIVE, PLACES, all_tasks, by_place, find_metric, weighted_values

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_ROWS = 30
"""With fewer rows no verdict is given: intervals of the bootstrap are too narrow then, at the worst of zero width."""

REDRAWS = 20
"""How often resamples that lack a class are drawn again before they are stratified."""

WEIGHTS_AT_A_TIME = 1 << 23
"""Row weights in memory, 32 MB: 2000 resamples of up to 4194 rows are drawn at once, of more rows in batches."""

Name = TypeVar("Name", bound=Hashable)

Resampled = Mapping[str, np.ndarray]
"""Name of a metric -> resampled values, float64 `[R, T]`, or `[R]` of the decision among exclusive tasks."""


def weight_batches(labels: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """`bootstrap_weights` in batches, so that memory does not grow with the rows.

    All resamples are one batch if they fit into `WEIGHTS_AT_A_TIME`; otherwise each batch has its own random stream.

    Args:
        labels: float `[N, T]`.
        resamples: R, of all batches together.
        seed: of the draws.

    Yields:
        float32 `[r, N]`.
    """
    size = max(WEIGHTS_AT_A_TIME // max(len(labels), 1), 1)
    if size >= resamples:
        yield bootstrap_weights(labels, resamples, seed)
        return
    for number, start in enumerate(range(0, resamples, size)):
        yield bootstrap_weights(labels, min(size, resamples - start), (seed, number))


def bootstrap_weights(labels: np.ndarray, resamples: int = RESAMPLES, seed: int | tuple[int, ...] = 0) -> np.ndarray:
    """Number of times each row is drawn in each resample of the rows.

    Rows are drawn with replacement from all rows. A resample that lacks a class which the rows have is drawn again; the few
    that still lack one after 20 attempts are drawn within groups of equal labels (stratified). Stratifying all of them would
    make intervals too narrow: of 80 clips with 16 present, 95% intervals of F1 on "present" cover 85%, not 92%.

    Args:
        labels: float `[N, T]`, 1, 0 or NaN.
        resamples: R.
        seed: of the draws.

    Returns:
        float32 `[R, N]`, whole numbers; each row sums to N.
    """
    rng = np.random.default_rng(seed)
    together = np.zeros(len(labels), np.int64)
    weights = _draw(rng, resamples, together)
    present, absent = labels == 1, labels == 0
    both = present.any(axis=0) & absent.any(axis=0)
    classes = np.concatenate([present[:, both], absent[:, both]], axis=1).astype(np.float32)
    for _ in range(REDRAWS):
        lacking = np.flatnonzero((weights @ classes == 0).any(axis=1))
        if not len(lacking):
            return weights
        weights[lacking] = _draw(rng, len(lacking), together)
    lacking = np.flatnonzero((weights @ classes == 0).any(axis=1))
    _, strata = np.unique(labels[:, both], axis=0, return_inverse=True)
    weights[lacking] = _draw(rng, len(lacking), strata.ravel())
    return weights


def _draw(rng: np.random.Generator, resamples: int, strata: np.ndarray) -> np.ndarray:
    """Counts `[R, N]` of rows drawn with replacement within each stratum of `[N]`."""
    weights = np.zeros((resamples, len(strata)), np.float32)
    for group in range(int(strata.max(initial=0)) + 1):
        rows = np.flatnonzero(strata == group)
        for part in _parts(resamples, len(rows)):
            count = part.stop - part.start
            drawn = rng.integers(0, len(rows), size=(count, len(rows)))
            drawn += np.arange(count)[:, None] * len(rows)
            weights[part, rows] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return weights


def _parts(resamples: int, rows: int) -> Iterator[slice]:
    """All resamples in parts of a few MB, which bounds the memory for copies of the weights."""
    step = max((1 << 20) // max(rows, 1), 128)
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))


def bootstrap(
    labels: np.ndarray,
    models: Mapping[Name, np.ndarray],
    tasks: Sequence[Any],
    *,
    decisions: Mapping[Name, Decisions] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[Name, Resampled]:
    """Every metric of several models on the same resampled rows, so that differences between models are paired.

    Args:
        labels: float `[N, T]`, NaN not annotated.
        models: name -> predictions float `[N, T]`.
        tasks: the T tasks.
        decisions: name -> decisions; of others those of `decisions.decisions_of`.
        resamples: R.
        seed: of the draws.

    Returns:
        Name of the model -> resampled metrics.
    """
    binary = np.array(task_kinds(tasks)) == "binary"
    parts: dict[Name, list[Resampled]] = {name: [] for name in models}
    for batch in weight_batches(labels[:, binary], resamples, seed):
        for part in _parts(*batch.shape):
            weights = np.asfortranarray(batch[part])  # as rankings need them, transposed once for all tasks and models
            for name, predictions in models.items():
                own = (decisions or {}).get(name)
                values = weighted_values(labels, predictions, tasks, decisions=own, weights=weights)
                parts[name].append(values)
    return {name: {key: np.concatenate([one[key] for one in of]) for key in of[0]} for name, of in parts.items()}


def paired_differences(first: Resampled, second: Resampled) -> dict[str, np.ndarray]:
    """Resampled differences second - first, of two models of one `bootstrap`."""
    return {name: second[name] - first[name] for name in first}


def interval(values: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """The middle `level` of resampled values `[R]` (percentile interval); None if any is undefined."""
    if not len(values) or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def intervals_of(resampled: Resampled, tasks: Sequence[Any]) -> dict[str, Any]:
    """95% percentile intervals, [low, high] or None where undefined, by the keys of ``metrics.json``.

    They show the effect of other test rows, not that of another training seed.

    Returns:
        ``emotions``: name -> key -> interval; ``mean``: key -> interval of the mean over tasks; ``exclusive``: key -> interval of
        the decision among all, only if labels are exclusive.
    """
    per_task: dict[str, dict[str, Any]] = {name: {} for name in task_names(tasks)}
    mean: dict[str, Any] = {}
    found: dict[str, Any] = {**by_place(per_task, tasks), "mean": mean}
    for name, values in resampled.items():
        metric = find_metric(name)
        if metric.kind == EXCLUSIVE:
            found.setdefault("exclusive", {})[metric.key] = interval(values)
            continue
        for name_of_task, task, column in zip(task_names(tasks), tasks, values.T):
            if metric.rates(task):
                per_task[name_of_task][metric.key] = interval(column)
        if any(metric.rates(task) for task in tasks):
            mean[metric.key] = interval(mean_over_tasks(values))
    return found


def mean_over_tasks(values: np.ndarray) -> np.ndarray:
    """`[R, T]` -> `[R]`, mean over the tasks for which the metric is defined; empty without any."""
    defined = np.isfinite(values).all(axis=0)
    return values[:, defined].mean(axis=1) if defined.any() else np.empty(0)


def mcnemar_exact(first_right: np.ndarray, second_right: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two classifiers on the same rows.

    Args:
        first_right: bool `[N]`, where one classifier is right.
        second_right: bool `[N]`, where the other is.

    Returns:
        Number of rows that only the first decides correctly, number that only the second does, and the two-sided p-value of
        that split if both err equally often (1 without any such row).
    """
    first_right, second_right = np.asarray(first_right, bool), np.asarray(second_right, bool)
    only_first, only_second = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    from scipy.stats import binomtest  # takes a second to import

    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p-values of several tests (family-wise error rate)."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected.tolist()


def t_interval(values: Sequence[float], level: float = LEVEL) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and Student's interval of the mean; the last two None for one value."""
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return {"mean": mean, "sd": None, "interval": None, "runs": len(array)}
    from scipy.special import stdtrit  # quantiles of Student's distribution; scipy.stats takes a second to import

    sd = float(array.std(ddof=1))
    half = float(stdtrit(len(array) - 1, (1 + level) / 2)) * sd / np.sqrt(len(array))
    return {"mean": mean, "sd": sd, "interval": [float(mean - half), float(mean + half)], "runs": len(array)}


def seed_summary(list_of_metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metrics of several seeds of one training.

    Returns:
        ``split``, ``samples``, ``seeds``; ``emotions``: name -> key -> ``mean``, ``sd``, ``interval`` (95%, Student's) and ``runs``
        (number of seeds for which the metric is defined); ``mean``: the same of the means over emotions; ``exclusive``: of the
        decision among all, where every run has it. A metric that is undefined in all runs is None.

    Raises:
        DataError: there are none, or they are not of the same emotions, split and number of clips.
    """
    if not list_of_metrics:
        raise DataError("a summary of seeds must have at least one run, but got none.")
    first = list_of_metrics[0]
    for other in list_of_metrics[1:]:
        for name, expected, got in (
            ("emotions", list(all_tasks(first)), list(all_tasks(other))),
            ("split", first["split"], other["split"]),
            ("samples", first["samples"], other["samples"]),
        ):
            if expected != got:
                raise DataError(f"runs to summarise must have the same {name}, but got {expected} and {got}.")
    found: dict[str, Any] = {
        "split": first["split"],
        "samples": first["samples"],
        "seeds": [metrics.get("seed") for metrics in list_of_metrics],
        **{
            place: {name: _summary([metrics[place][name] for metrics in list_of_metrics]) for name in first[place]}
            for place in PLACES.values()
            if place in first
        },
        "mean": _summary([metrics["mean"] for metrics in list_of_metrics]),
    }
    if all(metrics.get("exclusive") for metrics in list_of_metrics):
        found["exclusive"] = _summary([metrics["exclusive"] for metrics in list_of_metrics])
    return found


def fold_summary(list_of_metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of metrics over the folds of a cross-validation, by the keys of `seed_summary`.

    There are no intervals: the training data of folds overlap, so that Student's interval would be too narrow.
    """
    found = seed_summary([{**metrics, "samples": 0} for metrics in list_of_metrics])
    return _without_intervals({key: value for key, value in found.items() if key not in ("split", "samples", "seeds")})


def _without_intervals(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {key: _without_intervals(value) for key, value in tree.items() if key != "interval"}


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in runs[0]:
        defined = [one[name] for one in runs if one.get(name) is not None]
        if name in ("support", "annotated", "rows") or any(not isinstance(value, float) for value in defined):
            continue
        summary[name] = t_interval(defined) if defined else None
    return summary
