"""Robustness of a model against missing and noisy modalities: every subset of modalities, and curves of corruption.

The curves are those of MultiBench (Liang et al. 2021, arXiv 2107.07502): metric by strength of an imperfection, one modality at a
time. A modality is removed from a clip by setting all its numbers to zero.

Shape letters: N rows (clips), n rows of a block, T tasks (emotions), L steps, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lmf_multitask.data.columns import Column, Columns, row_blocks
from lmf_multitask.data.modality import MODALITIES, missing_clips, present_steps
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.decisions import checked_predictions, task_names, tasks_of_kind
from lmf_multitask.evaluation.metrics import (
    METRICS,
    PLACES,
    REGRESSION,
    always_absent,
    by_place,
    mean_of,
    weighted_values,
)

ROBUSTNESS_FILE = "robustness.json"
ROBUSTNESS_METRICS = ("weighted_f1", "positive_f1", "auroc")
VALUE_METRICS = ("mae", "pearson")
"""Measured too where there are real-valued tasks."""

NOISE_STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Standard deviations (std) of the noise, in stds of the feature over train."""

MISSING_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of rows from which the modality is removed."""

DRAWS = 3
_BLOCK_ROWS = 1024  # of which corrupted copies are in memory at a time

Features = Mapping[str, np.ndarray]  # of a block
Predict = Callable[[Features], np.ndarray]
Change = Callable[[Features, int], Features]  # of a block and the number of its first row


def measure_robustness(
    predict: Predict,
    rows: Columns,
    tasks: Sequence[Any],
    *,
    split: str,
    train: Columns | None = None,
    modalities: Sequence[str] = tuple(MODALITIES),
    plain: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Measures a model of any kind; the same arguments give the same numbers.

    Noise and missing rows are drawn `draws` times; one draw serves every strength, so that the points of a curve can be compared.
    Noise leaves padding steps and clips without the modality at zero.

    Args:
        predict: features (``audio``, ``video``, ``text`` float32, `[n, D]` or `[n, L, D]`) -> predictions `[n, T]`.
        rows: the same of N rows, and ``labels`` float `[N, T]`, NaN not annotated.
        tasks: `tasks.Task` objects, or names of binary tasks.
        split: name of the rows.
        train: features of train, for their stds; None: no curves, only the subsets.
        modalities: those that the model uses.
        plain: predictions `[N, T]` for the unchanged rows, if they are known.
        seed: of noise and of missing rows.
        draws: of each, 1 or more.

    Returns:
        The content of ``robustness.json``: ``subsets``, the largest first: ``modalities`` and the metrics of `ROBUSTNESS_METRICS`
        as ``mean`` (over tasks) and for each of ``emotions`` (with real-valued tasks also `VALUE_METRICS`, of each under
        ``regression``); ``noise`` and ``missing``: modality -> points ``{"strength" or "share": x, "draws": n, "mean": metrics,
        "sd": their std over draws, "emotions": metrics}``, None without curves;
        ``always_absent``; ``rows_without``: modality -> rows in which it is missing anyway. An undefined metric is None.

    Raises:
        DataError: there are no rows, or no modality.
    """
    labels = np.asarray(rows["labels"], np.float64)
    if not len(labels) or not modalities or draws < 1:
        raise DataError(
            f"robustness must be measured on rows and modalities, in at least one draw, but got {len(labels)} rows, "
            f"{len(modalities)} modalities and {draws} draws."
        )

    def measure(change: Change) -> dict[str, Any]:
        return _metrics(labels, _predicted(predict, rows, change), tasks)

    def point(axis: str, value: float, changes: Sequence[Change]) -> dict[str, Any]:
        return {axis: value, **_over_draws([measure(change) for change in changes] or [whole])}

    subsets = []
    for size in range(len(modalities), 0, -1):
        for kept in combinations(modalities, size):
            removed = [name for name in modalities if name not in kept]
            known = not removed and plain is not None
            metrics = _metrics(labels, np.asarray(plain), tasks) if known else measure(_without(removed))
            subsets.append({"modalities": list(kept), **metrics})
    whole = {key: value for key, value in subsets[0].items() if key != "modalities"}
    noise: dict[str, Any] = {}
    missing: dict[str, Any] = {}
    stds = {} if train is None else {name: feature_stds(train[name]) for name in modalities}
    for modality, std in stds.items():
        keys = [(seed, list(MODALITIES).index(modality), draw) for draw in range(draws)]
        noise[modality] = [
            point("strength", strength, [_noisy(modality, strength * std, key) for key in keys] if strength else [])
            for strength in NOISE_STRENGTHS
        ]
        orders = [np.random.default_rng(key).permutation(len(labels)) for key in keys]
        missing[modality] = [point("share", 0.0, [])]
        for share in MISSING_SHARES[1:-1]:
            count = round(share * len(labels))
            missing[modality].append(point("share", share, [_missing_in(modality, one[:count]) for one in orders]))
        missing[modality].append(point("share", 1.0, [_without([modality])]))
    return {
        "split": split,
        "samples": len(labels),
        "seed": seed,
        "draws": draws,
        "modalities": list(modalities),
        "rows_without": {m: sum(int(missing_clips(b).sum()) for b in row_blocks(rows[m])) for m in modalities},
        "always_absent": {"weighted_f1": always_absent(labels, tasks)["mean"].get("weighted_f1")},
        "subsets": subsets,
        "noise": noise or None,
        "missing": missing or None,
    }


def predictions_without(predict: Predict, rows: Columns, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """Predictions of each clip when one modality is removed from it.

    Args:
        predict: as of `measure_robustness`.
        rows: features of N rows, and ``labels``.
        modalities: those that the model uses.

    Returns:
        Modality -> predictions `[N, T]`; empty for a model of one modality, which has nothing left without it.
    """
    if len(modalities) < 2:
        return {}
    return {name: _predicted(predict, rows, _without([name])) for name in modalities}


def feature_stds(features: Column) -> np.ndarray:
    """Standard deviation of each feature, of vectors `[N, D]` or of the steps of sequences `[N, L, D]`: float32 `[D]`.

    Clips without the modality and padding steps are no observations; without any observation the result is 0.
    """
    sums, count = np.zeros(features.shape[-1]), 0
    squares = np.zeros_like(sums)
    for pass_ in range(2):  # the mean first, then the squares around it: exact, without a copy of the whole
        mean = sums / max(count, 1)
        for block in row_blocks(features, _BLOCK_ROWS):
            values = block[_present(block)].astype(np.float64)
            if pass_ == 0:
                sums, count = sums + values.sum(axis=0), count + len(values)
            else:
                squares += ((values - mean) ** 2).sum(axis=0)
    return np.sqrt(squares / max(count, 1)).astype(np.float32)


def _present(values: np.ndarray) -> np.ndarray:
    """Clips of vectors `[n, D]`, bool `[n]`, or steps of sequences `[n, L, D]`, bool `[n, L]`, that are present."""
    return present_steps(values) if values.ndim == 3 else ~missing_clips(values)


def _predicted(predict: Predict, rows: Columns, change: Change) -> np.ndarray:
    parts = []
    for start in range(0, len(rows["labels"]), _BLOCK_ROWS):
        block = {name: np.asarray(rows[name][start : start + _BLOCK_ROWS]) for name in MODALITIES}
        parts.append(np.asarray(predict(change(block, start)), np.float64))
    return np.concatenate(parts)


def _without(removed: Sequence[str]) -> Change:
    return lambda block, start: {**block, **{name: np.zeros_like(block[name]) for name in removed}}


def _noisy(modality: str, std: np.ndarray, key: tuple[int, ...]) -> Change:
    def change(block: Features, start: int) -> Features:
        values = block[modality]
        noise = np.random.default_rng((*key, start)).standard_normal(values.shape, np.float32) * std
        return {**block, modality: np.where(_present(values)[..., None], values + noise, values)}

    return change


def _missing_in(modality: str, chosen: np.ndarray) -> Change:
    def change(block: Features, start: int) -> Features:
        values = block[modality].copy()
        inside = chosen - start
        values[inside[(inside >= 0) & (inside < len(values))]] = 0
        return {**block, modality: values}

    return change


def _metrics(labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any]) -> dict[str, Any]:
    real = tasks_of_kind(tasks, REGRESSION)
    names = ROBUSTNESS_METRICS + (VALUE_METRICS if real else ())
    found = weighted_values(*checked_predictions(labels, predictions, tasks), tasks, names=names)
    per_task = {
        name: {key: _or_none(values[0, t]) for key, values in found.items() if METRICS[key].rates(task)}
        for t, (name, task) in enumerate(zip(task_names(tasks), tasks))
    }
    return {"mean": {name: mean_of(values[0]) for name, values in found.items()}, **by_place(per_task, tasks)}


def _over_draws(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def columns(draws: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        return {name: np.array([one[name] for one in draws], np.float64) for name in draws[0]}

    means = columns([one["mean"] for one in found])
    return {
        "draws": len(found),
        "mean": {name: _or_none(values.mean()) for name, values in means.items()},
        "sd": {name: _or_none(values.std(ddof=1)) if len(found) > 1 else 0.0 for name, values in means.items()},
        **{
            place: {
                task: {
                    name: _or_none(values.mean())
                    for name, values in columns([one[place][task] for one in found]).items()
                }
                for task in found[0][place]
            }
            for place in PLACES.values()
            if place in found[0]
        },
    }


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def loss_without(found: Mapping[str, Any], modality: str) -> tuple[float, float] | None:
    """Mean weighted F1 with all modalities, and without one; None where it was not measured."""
    by_kept = {tuple(one["modalities"]): one["mean"].get("weighted_f1") for one in found["subsets"]}
    everything = tuple(found["modalities"])
    with_all = by_kept.get(everything)
    without = by_kept.get(tuple(name for name in everything if name != modality))
    return None if modality not in everything or with_all is None or without is None else (with_all, without)
