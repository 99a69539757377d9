"""How sure a figure is: bootstrap over rows, exact McNemar test, Holm's correction, t-interval over seeds.

Shape letters: N rows (clips), T tasks (emotions), R resamples, S runs (seeds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import FIGURES, exclusive_rows, one_of_many_figures

LEVEL = 0.95
RESAMPLES = 2000
INTERVAL_FIGURES = (*FIGURES, "macro_f1", "auroc", "average_precision", "brier")
EXCLUSIVE_FIGURES = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
REDRAWS = 20
"""How often resamples without a class are drawn anew before they are stratified."""

WEIGHTS_AT_A_TIME = 1 << 23
"""Row weights in memory, 32 MB: 2000 resamples of up to 4194 rows are drawn at once, of more rows in batches."""


def weight_batches(labels: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """`bootstrap_weights` in batches, so that memory does not grow with the rows.

    All resamples are one batch where they fit into `WEIGHTS_AT_A_TIME`; otherwise each batch has a random stream of its own.

    Args:
        labels: int `[N, T]`.
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
    """How often each row is drawn in each resample of the rows.

    Rows are drawn with replacement from all rows. A resample that lacks a class which the rows have is drawn anew; the
    few that still lack one after 20 times are drawn within groups of equal labels (stratified). Stratifying all of them
    would make intervals too narrow: of 80 clips with 16 present, 95% intervals of F1 on "present" cover 85%, not 92%.

    Args:
        labels: int `[N, T]`, 1, 0 or -100.
        resamples: R.
        seed: of the draws.

    Returns:
        float32 `[R, N]`, whole numbers; each row sums to N.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    weights = _draw(rng, resamples, np.zeros(len(labels), np.int64))
    present, absent = labels == 1, labels == 0
    both = present.any(axis=0) & absent.any(axis=0)
    classes = np.concatenate([present[:, both], absent[:, both]], axis=1).astype(np.float32)
    for _ in range(REDRAWS):
        lacking = np.flatnonzero((weights @ classes == 0).any(axis=1))
        if not len(lacking):
            return weights
        weights[lacking] = _draw(rng, len(lacking), np.zeros(len(labels), np.int64))
    lacking = np.flatnonzero((weights @ classes == 0).any(axis=1))
    _, strata = np.unique(labels[:, both], axis=0, return_inverse=True)
    weights[lacking] = _draw(rng, len(lacking), strata.ravel())
    return weights


def _draw(rng: np.random.Generator, resamples: int, strata: np.ndarray) -> np.ndarray:
    """Counts `[R, N]` of rows drawn with replacement within each stratum of `[N]`."""
    weights = np.zeros((resamples, len(strata)), np.float32)
    for group in range(int(strata.max(initial=0)) + 1):
        rows = np.flatnonzero(strata == group)
        for some in _parts(resamples, len(rows)):
            count = some.stop - some.start
            drawn = rng.integers(0, len(rows), size=(count, len(rows)))
            drawn += np.arange(count)[:, None] * len(rows)
            weights[some, rows] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return weights


def _parts(resamples: int, rows: int) -> Iterator[slice]:
    """All resamples, some at a time: what is computed of each by itself needs no copies of all weights."""
    step = max((1 << 20) // max(rows, 1), 1)
    return (slice(start, min(start + step, resamples)) for start in range(0, resamples, step))


def weighted_figures(
    labels: np.ndarray, probabilities: np.ndarray, present: np.ndarray, weights: np.ndarray, *, ranking: bool = True
) -> dict[str, np.ndarray]:
    """The figures of `INTERVAL_FIGURES` of every emotion in every resample.

    Args:
        labels: int `[N, T]`.
        probabilities: float `[N, T]`.
        present: bool `[N, T]`, the decisions.
        weights: float32 `[R, N]`, how often each row counts.
        ranking: also ``auroc`` and ``average_precision``, which take most of the time.

    Returns:
        figure -> float64 `[R, T]`; NaN where the emotion's labels leave a figure undefined.
    """
    known, true = labels != NOT_ANNOTATED, labels == 1
    false = known & ~true
    cells = [true & present, false & present, true & ~present, false & ~present]
    tp, fp, fn, tn = np.split(
        (weights @ np.concatenate(cells, axis=1).astype(np.float32)).astype(np.float64), 4, axis=1
    )
    positives, negatives, total = tp + fn, fp + tn, tp + fp + fn + tn
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = np.where(2 * tp + fp + fn > 0, 2 * tp / (2 * tp + fp + fn), 0.0)
        f1_absent = np.where(2 * tn + fp + fn > 0, 2 * tn / (2 * tn + fp + fn), 0.0)
        found = {
            "weighted_f1": (f1 * positives + f1_absent * negatives) / total,
            "accuracy": (tp + tn) / total,
            "positive_f1": np.where(positives > 0, f1, np.nan),
            "uar": (tp / positives + tn / negatives) / 2,
            "macro_f1": np.where((positives > 0) & (negatives > 0), (f1 + f1_absent) / 2, np.nan),
            "brier": (weights @ np.where(known, (probabilities - true) ** 2, 0).astype(np.float32)) / total,
        }
    if not ranking:
        return found
    auroc, precision = np.full_like(tp, np.nan), np.full_like(tp, np.nan)
    for t in range(labels.shape[1]):
        if true[:, t].any() and false[:, t].any():
            rows = known[:, t]
            for some in _parts(*weights.shape):
                drawn = weights[some][:, rows]
                auroc[some, t], precision[some, t] = _ranking_figures(true[rows, t], probabilities[rows, t], drawn)
    return {**found, "auroc": auroc, "average_precision": precision}


def _ranking_figures(true: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under ROC and average precision, `[R]` each, of scores `[N]` with row weights `[R, N]`; ties count half."""
    order = np.argsort(-scores, kind="stable")
    true, scores = true[order], scores[order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    drawn = weights[:, order]
    here_all = np.add.reduceat(drawn, starts, axis=1)
    here_true = np.add.reduceat(drawn * true, starts, axis=1)
    up_to_true, up_to_all = here_true.cumsum(axis=1), here_all.cumsum(axis=1)
    positives = up_to_true[:, -1].astype(np.float64)
    negatives = up_to_all[:, -1] - positives
    pairs = ((here_all - here_true) * (up_to_true - here_true / 2)).sum(axis=1, dtype=np.float64)
    precision = (here_true * up_to_true / np.maximum(up_to_all, 1)).sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return pairs / (positives * negatives), precision / positives


def interval(values: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """The middle `level` of resampled values `[R]` (percentile interval); None if any is undefined."""
    if not len(values) or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def figure_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    emotions: Sequence[str],
    *,
    ranked: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """95% bootstrap intervals over rows, at the plain decision "above one half".

    They tell what other test rows would have changed; not what another training seed would have.

    Args:
        labels: int `[N, T]`.
        probabilities: float `[N, T]`.
        emotions: names of the T columns.
        ranked: float `[N, T]`, what the decision among exclusive emotions goes by; None: `probabilities`.
        resamples: R.
        seed: of the draws.

    Returns:
        ``level``, ``resamples``, ``seed``; ``emotions``: name -> figure -> [low, high] or None where undefined;
        ``mean``: the same of the means; ``exclusive``: of the decision among all, where labels are exclusive.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    rows = exclusive_rows(labels)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weighted_figures(labels, probabilities, probabilities > 0.5, weights)
        if rows is not None:
            ranking = probabilities if ranked is None else ranked
            drawn["confusion"] = _resampled_confusion(labels, ranking, rows, weights)
        return drawn

    drawn = _of_all_resamples(figures, labels, resamples, seed)
    found: dict[str, Any] = {"level": LEVEL, "resamples": resamples, "seed": seed}
    found["emotions"] = {
        name: {figure: interval(drawn[figure][:, t]) for figure in INTERVAL_FIGURES} for t, name in enumerate(emotions)
    }
    found["mean"] = {figure: interval(mean_over_tasks(drawn[figure])) for figure in INTERVAL_FIGURES}
    if rows is not None:
        confusion = drawn["confusion"]
        complete = bool((labels[rows] == 1).any(axis=0).all()) and bool((confusion.sum(axis=2) > 0).all())
        of_all = one_of_many_figures(confusion)
        found["exclusive"] = {
            name: interval(of_all[name]) if complete or name == "weighted_accuracy" else None
            for name in EXCLUSIVE_FIGURES
        }
    return found


def _of_all_resamples(
    figures: Callable[[np.ndarray], dict[str, np.ndarray]], labels: np.ndarray, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Weights `[r, N]` -> figures `[r, ...]`, applied to all R resamples: `[R, ...]` each."""
    parts = [figures(weights) for weights in weight_batches(labels, resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean_over_tasks(values: np.ndarray) -> np.ndarray:
    """`[R, T]` -> `[R]`, over the emotions where the figure is defined; empty if it is so nowhere."""
    defined = np.isfinite(values).all(axis=0)
    return values[:, defined].mean(axis=1) if defined.any() else np.empty(0)


def _resampled_confusion(labels: np.ndarray, ranked: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    tasks = labels.shape[1]
    cell = labels[rows].argmax(axis=1) * tasks + ranked[rows].argmax(axis=1)
    return (weights[:, rows] @ np.eye(tasks * tasks, dtype=np.float32)[cell]).reshape(-1, tasks, tasks)


def paired_differences(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Resampled differences second - first, both on the same drawn rows.

    Args:
        labels: int `[N, T]`.
        first: float `[N, T]`, probabilities of one model.
        second: float `[N, T]`, of the other.
        resamples: R.
        seed: of the draws.

    Returns:
        figure -> float64 `[R, T]`; those of `INTERVAL_FIGURES` but the ranking ones.
    """

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = [
            weighted_figures(labels, p, p > 0.5, weights, ranking=False)
            for p in (np.asarray(first), np.asarray(second))
        ]
        return {figure: drawn[1][figure] - drawn[0][figure] for figure in drawn[0]}

    return _of_all_resamples(differences, labels, resamples, seed)


def mcnemar_exact(first_right: np.ndarray, second_right: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two classifiers on the same rows.

    Args:
        first_right: bool `[N]`, where one classifier is right.
        second_right: bool `[N]`, where the other is.

    Returns:
        Rows that only the first has right, rows that only the second has right, and the two-sided probability of a split
        at least so uneven if both err equally often (1 without any such row).
    """
    first_right, second_right = np.asarray(first_right, bool), np.asarray(second_right, bool)
    only_first, only_second = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    return only_first, only_second, float(stats.binomtest(only_first, only_first + only_second).pvalue)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values of several tests, such that the chance of any false alarm stays the level."""
    values = np.asarray(probabilities, np.float64)
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
    sd = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, len(array) - 1)) * sd / np.sqrt(len(array))
    return {"mean": mean, "sd": sd, "interval": [float(mean - half), float(mean + half)], "runs": len(array)}


def seed_summary(list_of_metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several seeds of one training say together.

    Args:
        list_of_metrics: S contents of ``metrics.json``, of the same emotions on the same split.

    Returns:
        ``split``, ``samples``, ``seeds``; ``emotions``: name -> figure -> ``mean``, ``sd``, ``interval`` (95%, Student's) and
        ``runs`` (how many seeds define the figure); ``mean``: the same of the means over emotions; ``exclusive``: of the
        decision among all, where every run has it. A figure that no run defines is None.

    Raises:
        DataError: there are none, or they are not of the same emotions, split and number of clips.
    """
    if not list_of_metrics:
        raise DataError("a summary of seeds must have at least one run, but got none.")
    first = list_of_metrics[0]
    for other in list_of_metrics[1:]:
        for name, here, there in (
            ("emotions", list(first["emotions"]), list(other["emotions"])),
            ("split", first["split"], other["split"]),
            ("samples", first["samples"], other["samples"]),
        ):
            if here != there:
                raise DataError(f"runs to summarise must have the same {name}, but got {here} and {there}.")
    found: dict[str, Any] = {
        "split": first["split"],
        "samples": first["samples"],
        "seeds": [metrics.get("seed") for metrics in list_of_metrics],
        "emotions": {
            emotion: _summary([metrics["emotions"][emotion] for metrics in list_of_metrics])
            for emotion in first["emotions"]
        },
        "mean": _summary([metrics["mean"] for metrics in list_of_metrics]),
    }
    if all(metrics.get("exclusive") for metrics in list_of_metrics):
        found["exclusive"] = _summary([metrics["exclusive"] for metrics in list_of_metrics])
    return found


def _summary(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    summary = {}
    for name in figures[0]:
        values = [one.get(name) for one in figures]
        defined = [value for value in values if value is not None]
        if name in ("support", "annotated", "rows") or any(not isinstance(value, float) for value in defined):
            continue
        summary[name] = t_interval(defined) if defined else None
    return summary
