"""What a model is worth when a modality is missing or noisy: every subset of modalities, and figures against corruption.

The curves are drawn as MultiBench does (Liang et al. 2021, arXiv 2107.07502): figure against the strength of an imperfection, one
modality at a time. A modality is missing in a row when all its numbers there are zero; so zeros take it away.

Shape letters: N rows (clips), n rows of a block, T tasks (emotions), L words, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from lmf_multitask.data.columns import Column, Columns, row_blocks
from lmf_multitask.data.schema import MODALITIES, missing_rows
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import always_absent
from lmf_multitask.evaluation.statistics import weighted_figures
from lmf_multitask.evaluation.tables import HEADS, TextTable, number

ROBUSTNESS_FIGURES = ("weighted_f1", "positive_f1", "auroc")
NOISE_STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Standard deviation of the noise, in standard deviations of the feature over train."""

MISSING_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Share of rows in which the modality is taken away."""

DRAWS = 3
_BLOCK_ROWS = 1024  # of which corrupted copies are in memory at a time
_TABLE_NOISE, _TABLE_SHARES = (1.0, 4.0), (0.5,)  # the points that a table shows; file and picture have all

Features = Mapping[str, np.ndarray]  # of a block
Predict = Callable[[Features], np.ndarray]
Change = Callable[[Features, int], Features]


def measure_robustness(
    predict: Predict,
    rows: Columns,
    emotions: Sequence[str],
    *,
    split: str,
    train: Columns | None = None,
    modalities: Sequence[str] = MODALITIES,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Measures a model of any kind; the same arguments give the same numbers.

    Noise and missing rows are drawn `draws` times; the same draw serves every strength, so that a curve compares like with
    like. Noise leaves padding words and rows without the modality at zero: what is not there cannot be noisy.

    Args:
        predict: features (``audio`` float32 `[n, D]`, ``video`` `[n, D]`, ``text`` `[n, L, D]`) -> probabilities `[n, T]`.
        rows: the same of N rows, and ``labels`` int `[N, T]` (1, 0, -100).
        emotions: names of the T tasks.
        split: what the rows are called.
        train: features of train, for their standard deviations; None: no curves, the subsets only.
        modalities: those that the model looks at.
        seed: of noise and of rows without a modality.
        draws: of each, 1 or more.

    Returns:
        The content of ``robustness.json``: ``subsets``, the largest first: ``modalities``, figures ``mean`` (over emotions) and
        of each of ``emotions``; ``noise`` and ``missing``: modality -> points ``{"strength" or "share": x, "draws": n, "mean":
        figures, "sd": their standard deviation over draws, "emotions": figures}``, None without curves; ``always_absent``;
        ``rows_without``: modality -> rows that have none of it as they are. An undefined figure is None.

    Raises:
        DataError: there are no rows, or no modality.
    """
    labels = np.asarray(rows["labels"])
    if not len(labels) or not modalities or draws < 1:
        raise DataError(
            f"robustness must be measured on rows and modalities, in at least one draw, but got {len(labels)} rows, "
            f"{len(modalities)} modalities and {draws} draws."
        )

    def figures(change: Change) -> dict[str, Any]:
        return _figures(labels, _predicted(predict, rows, change), emotions)

    missing = missing_rows(rows)
    found: dict[str, Any] = {
        "split": split,
        "samples": len(labels),
        "seed": seed,
        "draws": draws,
        "modalities": list(modalities),
        "rows_without": {m: missing[m] for m in modalities},
        "always_absent": {"weighted_f1": always_absent(labels, emotions)["mean"]["weighted_f1"]},
        "subsets": [],
        "noise": None,
        "missing": None,
    }
    for size in range(len(modalities), 0, -1):
        for kept in combinations(modalities, size):
            gone = [name for name in modalities if name not in kept]
            found["subsets"].append({"modalities": list(kept), **figures(_without(gone))})
    if train is None:
        return found
    whole = {key: found["subsets"][0][key] for key in ("mean", "emotions")}
    found["noise"], found["missing"] = {}, {}
    for modality in modalities:
        deviation, number_of = deviations(train[modality]), MODALITIES.index(modality)
        found["noise"][modality] = [
            {
                "strength": strength,
                **_over_draws(
                    [whole]
                    if strength == 0
                    else [figures(_noisy(modality, strength * deviation, (seed, number_of, d))) for d in range(draws)]
                ),
            }
            for strength in NOISE_STRENGTHS
        ]
        orders = [np.random.default_rng((seed, number_of, d)).permutation(len(labels)) for d in range(draws)]
        found["missing"][modality] = [
            {
                "share": share,
                **_over_draws(
                    [whole]
                    if share == 0
                    else [figures(_without([modality]))]
                    if share == 1
                    else [figures(_missing_in(modality, order[: round(share * len(labels))])) for order in orders]
                ),
            }
            for share in MISSING_SHARES
        ]
    return found


def deviations(features: Column) -> np.ndarray:
    """Standard deviation of each feature, of audio or video `[N, D]` or of the words of text `[N, L, D]`: float32 `[D]`.

    Rows without the modality, and padding words, are no observations and do not count; without any the result is 0.
    """
    sums, count = np.zeros(features.shape[-1]), 0
    squares = np.zeros_like(sums)
    for step in range(2):  # the mean first, then the squares around it: exact, and no copy of the whole
        mean = sums / max(count, 1)
        for block in row_blocks(features, _BLOCK_ROWS):
            values = block.reshape(-1, features.shape[-1])
            values = values[_there(values)].astype(np.float64)
            if step == 0:
                sums, count = sums + values.sum(axis=0), count + len(values)
            else:
                squares += ((values - mean) ** 2).sum(axis=0)
    return np.sqrt(squares / max(count, 1)).astype(np.float32)


def _there(values: np.ndarray) -> np.ndarray:
    """Whether anything is there: `[..., D]` -> bool `[...]`."""
    return (values != 0).any(axis=-1)


def _predicted(predict: Predict, rows: Columns, change: Change) -> np.ndarray:
    parts = []
    for start in range(0, len(rows["labels"]), _BLOCK_ROWS):
        block = {name: np.asarray(rows[name][start : start + _BLOCK_ROWS]) for name in MODALITIES}
        parts.append(np.asarray(predict(change(block, start)), np.float64))
    return np.concatenate(parts)


def _without(gone: Sequence[str]) -> Change:
    return lambda block, start: {**block, **{name: np.zeros_like(block[name]) for name in gone}}


def _noisy(modality: str, deviation: np.ndarray, key: tuple[int, ...]) -> Change:
    def change(block: Features, start: int) -> Features:
        values = block[modality]
        noise = np.random.default_rng((*key, start)).standard_normal(values.shape, np.float32) * deviation
        return {**block, modality: np.where(_there(values)[..., None], values + noise, values)}

    return change


def _missing_in(modality: str, chosen: np.ndarray) -> Change:
    def change(block: Features, start: int) -> Features:
        values = block[modality].copy()
        inside = chosen - start
        values[inside[(inside >= 0) & (inside < len(values))]] = 0
        return {**block, modality: values}

    return change


def _figures(labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str]) -> dict[str, Any]:
    once = np.ones((1, len(labels)), np.float32)
    found = weighted_figures(labels, probabilities, probabilities > 0.5, once)
    values = {figure: found[figure][0] for figure in ROBUSTNESS_FIGURES}
    return {
        "mean": {figure: _mean(each) for figure, each in values.items()},
        "emotions": {
            name: {figure: _or_none(each[t]) for figure, each in values.items()} for t, name in enumerate(emotions)
        },
    }


def _over_draws(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = {f: np.array([one["mean"][f] for one in found], np.float64) for f in ROBUSTNESS_FIGURES}
    return {
        "draws": len(found),
        "mean": {f: _or_none(values.mean()) for f, values in means.items()},
        "sd": {f: _or_none(values.std(ddof=1)) if len(found) > 1 else 0.0 for f, values in means.items()},
        "emotions": {
            name: {
                f: _or_none(np.mean([np.nan if one["emotions"][name][f] is None else one["emotions"][name][f] for one in found]))
                for f in ROBUSTNESS_FIGURES
            }
            for name in found[0]["emotions"]
        },
    }  # fmt: skip


def _mean(values: np.ndarray) -> float | None:
    """Over the emotions where the figure is defined."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else None


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# -- telling


def robustness_table(found: Mapping[str, Any]) -> TextTable:
    """The subsets and, where curves were measured, some points of them, as one table."""
    names = list(found["subsets"][0]["emotions"])

    def row(label: str, one: Mapping[str, Any]) -> list[str]:
        return [
            label,
            *(number(one["mean"][figure]) for figure in ROBUSTNESS_FIGURES),
            *(number(one["emotions"][name]["weighted_f1"]) for name in names if len(names) > 1),
        ]

    rows = [row(" + ".join(one["modalities"]), one) for one in found["subsets"]]
    for modality, points in (found["noise"] or {}).items():
        rows += [
            row(f"noise of {p['strength']:g} sd on {modality}", p) for p in points if p["strength"] in _TABLE_NOISE
        ]
    for modality, points in (found["missing"] or {}).items():
        rows += [row(f"no {modality} in {p['share']:.0%} of clips", p) for p in points if p["share"] in _TABLE_SHARES]
    blank = [""] * (len(rows[0]) - 2)
    rows.append(["always absent", number(found["always_absent"]["weighted_f1"]), *blank])
    of = "mean " if len(names) > 1 else ""
    heads = ["what is there", *(f"{of}{HEADS[figure]}" for figure in ROBUSTNESS_FIGURES)]
    heads += [f"{name}*" for name in names if len(names) > 1]
    notes = ["*  weighted F1 of the emotion."] if len(names) > 1 else []
    if found["noise"] is not None:
        notes.append(
            f"Noise and missing rows: mean of {found['draws']} draws; an sd is the feature's standard deviation over train."
        )
    gaps = [f"{m} {count}" for m, count in found["rows_without"].items() if count]
    if gaps:
        notes.append(f"Clips that lack a modality anyway: {', '.join(gaps)}.")
    title = f"with modalities taken away or disturbed, {found['split']}, {found['samples']:,} clips"
    return TextTable(title, heads, rows, note=" ".join(notes))


def loss_without(found: Mapping[str, Any], modality: str) -> tuple[float, float] | None:
    """Mean weighted F1 with all modalities, and without one; None where it was not measured."""
    by_kept = {tuple(one["modalities"]): one["mean"]["weighted_f1"] for one in found["subsets"]}
    everything = tuple(found["modalities"])
    pair = by_kept.get(everything), by_kept.get(tuple(name for name in everything if name != modality))
    return None if modality not in everything or None in pair else pair
