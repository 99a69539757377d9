"""Are the differences between models real? Paired bootstrap, and McNemar's exact test with Holm's correction.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.metrics import all_figures, exclusive_rows
from lmf_multitask.evaluation.predictions import Predictions, shared_ids
from lmf_multitask.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    figure_intervals,
    holm,
    interval,
    mcnemar_exact,
    mean_over_tasks,
    paired_differences,
    weight_batches,
)
from lmf_multitask.evaluation.tables import HEADS, TextTable, number, with_interval

COMPARED = ("weighted_f1", "positive_f1", "uar", "accuracy")


@dataclass(frozen=True)
class Difference:
    """Second minus first, on one emotion or on the mean over emotions.

    Attributes:
        rows: annotated clips behind it.
        differences: figure -> value; None where undefined.
        intervals: figure -> [low, high] of the paired bootstrap; None where undefined.
        only_first: clips that only the first has right (None for the mean).
        only_second: clips that only the second has right.
        p: of McNemar's exact test.
        corrected: the same after Holm's correction over all tests of the comparison.
    """

    rows: int
    differences: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    only_first: int | None = None
    only_second: int | None = None
    p: float | None = None
    corrected: float | None = None

    def verdict(self, first: str, second: str) -> str:
        """What the rows can show."""
        found = self.intervals["weighted_f1"]
        differs = found is not None and (found[0] > 0 or found[1] < 0)
        if self.corrected is not None and self.corrected < 1 - LEVEL:
            return f"{second if self.only_second > self.only_first else first} errs less"
        if differs and self.p is None:
            return f"{second if found[0] > 0 else first} is better"
        if differs:
            return "undecided: weighted F1 differs, the test does not confirm it"
        return f"no difference that {self.rows} rows can show"


@dataclass(frozen=True)
class Pair:
    """One model against the reference.

    Attributes:
        first: name of the reference.
        second: name of the other.
        emotions: name -> difference.
        mean: difference of the means over emotions.
        decision: difference of the decision among all emotions (its figure is ``weighted_accuracy``); None where labels
            are not exclusive. Its test is one of its own, not corrected.
    """

    first: str
    second: str
    emotions: dict[str, Difference]
    mean: Difference
    decision: Difference | None = None

    def decision_line(self) -> str:
        """The decision among all emotions in a sentence; empty where labels are not exclusive."""
        one = self.decision
        if one is None:
            return ""
        winner = self.second if (one.only_second or 0) > (one.only_first or 0) else self.first
        verdict = f"{winner} errs less" if one.p < 1 - LEVEL else f"no difference that {one.rows} rows can show"
        figures = _difference(one.differences["weighted_accuracy"], one.intervals["weighted_accuracy"])
        return (
            f"One of {len(self.emotions)} (highest plain probability): WA {figures}, right alone {one.only_first} : "
            f"{one.only_second}, McNemar p {_probability(one.p)}: {verdict}."
        )


@dataclass(frozen=True)
class Comparison:
    """Several models on the same rows.

    Attributes:
        names: of the models; the first is the reference.
        emotions: that all of them know.
        rows: common clips.
        notes: what was left out.
        figures: name -> `metrics.all_figures` on the common clips, with ``intervals``.
        pairs: every other model against the reference.
    """

    names: list[str]
    emotions: list[str]
    rows: int
    notes: list[str]
    figures: dict[str, dict[str, Any]]
    pairs: list[Pair] = field(default_factory=list)

    def figures_table(self) -> TextTable:
        """Figures of all models, with intervals."""
        rows = []
        for emotion in [*self.emotions, *(["mean"] if len(self.emotions) > 1 else [])]:
            for place, name in enumerate(self.names):
                found = self.figures[name]
                figures = found["mean"] if emotion == "mean" else found["emotions"][emotion]
                bounds = found["intervals"]["mean"] if emotion == "mean" else found["intervals"]["emotions"][emotion]
                cells = [with_interval(figures[f], bounds.get(f)) for f in ("weighted_f1", "positive_f1", "uar")]
                rows.append([emotion if place == 0 else "", name, *cells])
        heads = ["emotion", "model", *(HEADS[f] for f in ("weighted_f1", "positive_f1", "uar"))]
        return TextTable(f"{self.rows:,} common rows, 95% intervals", heads, rows)

    def pair_tables(self) -> list[TextTable]:
        """Per pair: differences, intervals, test, verdict."""
        found = []
        for pair in self.pairs:
            rows = []
            entries = {**pair.emotions, **({"mean": pair.mean} if len(pair.emotions) > 1 else {})}
            for name, one in entries.items():
                only = "" if one.p is None else f"{one.only_first} : {one.only_second}"
                tests = ["", ""] if one.p is None else [_probability(one.p), _probability(one.corrected)]
                rows.append(
                    [
                        name,
                        *(_difference(one.differences[f], one.intervals[f]) for f in ("weighted_f1", "positive_f1")),
                        only,
                        *tests,
                        one.verdict(pair.first, pair.second),
                    ]
                )
            heads = ["emotion", "weighted F1", "present F1", "right alone", "McNemar p", "Holm", "verdict"]
            title = f"{pair.second} minus {pair.first}, 95% intervals of the paired difference"
            note = f"Right alone: clips that only {pair.first} : only {pair.second} has right."
            note = " ".join(part for part in (note, pair.decision_line()) if part)
            found.append(TextTable(title, heads, rows, len(entries) > 1, note))
        return found

    def rows_line(self) -> str:
        """How many rows are compared, and what was left out."""
        return "\n".join([f"{self.rows:,} rows that all have, joined by id", *self.notes])

    def verdict(self) -> str:
        """The outcome in a sentence per pair."""
        return " ".join(_sentence(pair) for pair in self.pairs)

    def as_text(self) -> str:
        """For a terminal."""
        parts = [self.figures_table().as_text(), *(table.as_text() for table in self.pair_tables())]
        return "\n\n".join([*parts, "\n".join([*self.notes, self.verdict()])])


def compare(models: Sequence[Predictions], *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compares models with the first of them, on the clips and emotions that all have, at the decision "above one half".

    Args:
        models: two or more; labels may be missing in all but one, and must agree where several have them.
        resamples: of the bootstrap.
        seed: of its draws.

    Raises:
        DataError: there are fewer than two, they share no clip or emotion, or their labels differ.
    """
    if len(models) < 2:
        raise DataError(f"a comparison must have at least two models, but got {len(models)}. Name another run.")
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise DataError(f"models to compare must have different names, but got {', '.join(names)}.")
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
    labels = _common_labels(chosen)
    figures = {
        model.name: {
            **all_figures(labels, model.probabilities, emotions),
            "intervals": figure_intervals(labels, model.probabilities, emotions, resamples=resamples, seed=seed),
        }
        for model in chosen
    }
    pairs = [_pair(labels, chosen[0], other, figures, resamples, seed) for other in chosen[1:]]
    return Comparison(names, emotions, len(ids), notes, figures, _corrected(pairs))


def _common_labels(models: Sequence[Predictions]) -> np.ndarray:
    labelled = [model for model in models if model.labelled]
    if not labelled:
        raise DataError("one of the models to compare must have labels, but none has. Give a run directory among them.")
    labels = labelled[0].labels.copy()
    for other in labelled[1:]:
        both = (labels != NOT_ANNOTATED) & (other.labels != NOT_ANNOTATED)
        different = np.argwhere(both & (labels != other.labels))
        if len(different):
            row, t = different[0]
            raise DataError(
                f"{other.source}: labels must be those of {labelled[0].source}, but {other.emotions[t]} of {other.ids[row]!r} "
                f"is {other.labels[row, t]}, not {labels[row, t]}. Compare models on the same rows."
            )
        labels = np.where(labels == NOT_ANNOTATED, other.labels, labels)  # a file may have labels of some emotions only
    return labels


def _pair(
    labels: np.ndarray,
    first: Predictions,
    second: Predictions,
    figures: dict[str, dict[str, Any]],
    resamples: int,
    seed: int,
) -> Pair:
    drawn = paired_differences(labels, first.probabilities, second.probabilities, resamples=resamples, seed=seed)
    ours, theirs = figures[second.name], figures[first.name]
    found = {}
    for t, emotion in enumerate(first.emotions):
        known = labels[:, t] != NOT_ANNOTATED
        right = [(model.probabilities[known, t] > 0.5) == (labels[known, t] == 1) for model in (first, second)]
        only_first, only_second, p = mcnemar_exact(*right)
        found[emotion] = Difference(
            int(known.sum()),
            _differences(ours["emotions"][emotion], theirs["emotions"][emotion]),
            {figure: interval(drawn[figure][:, t]) for figure in COMPARED},
            only_first,
            only_second,
            p,
        )
    mean = Difference(
        len(labels),
        _differences(ours["mean"], theirs["mean"]),
        {figure: interval(mean_over_tasks(drawn[figure])) for figure in COMPARED},
    )
    return Pair(first.name, second.name, found, mean, _decision(labels, first, second, resamples, seed))


def _decision(
    labels: np.ndarray, first: Predictions, second: Predictions, resamples: int, seed: int
) -> Difference | None:
    rows = exclusive_rows(labels)
    if rows is None:
        return None
    truth = labels[rows].argmax(axis=1)
    right = [model.probabilities[rows].argmax(axis=1) == truth for model in (first, second)]
    gain = right[1].astype(np.float32) - right[0]
    drawn = [
        weights[:, rows] @ gain / weights[:, rows].sum(axis=1) for weights in weight_batches(labels, resamples, seed)
    ]
    return Difference(
        int(rows.sum()),
        {"weighted_accuracy": float(gain.mean())},
        {"weighted_accuracy": interval(np.concatenate(drawn).astype(np.float64))},
        *mcnemar_exact(*right),
    )


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float | None]:
    return {f: None if ours[f] is None or theirs[f] is None else ours[f] - theirs[f] for f in COMPARED}


def _corrected(pairs: list[Pair]) -> list[Pair]:
    """Holm's correction over all emotions of all pairs: they are read together."""
    corrected = iter(holm([one.p for pair in pairs for one in pair.emotions.values()]))
    return [
        dataclasses.replace(
            pair,
            emotions={name: dataclasses.replace(one, corrected=next(corrected)) for name, one in pair.emotions.items()},
        )
        for pair in pairs
    ]


def _sentence(pair: Pair) -> str:
    verdicts: dict[str, list[str]] = {}
    for emotion, one in pair.emotions.items():
        verdicts.setdefault(one.verdict(pair.first, pair.second), []).append(emotion)
    if len(pair.emotions) > 1:
        verdicts.setdefault(pair.mean.verdict(pair.first, pair.second), []).append("mean weighted F1")
    parts = [f"{verdict} ({', '.join(names)})" for verdict, names in verdicts.items()]
    return f"{pair.second} against {pair.first}: {'; '.join(parts)}."


def _difference(value: float | None, found: Sequence[float] | None) -> str:
    if value is None:
        return number(None)
    return f"{value:+.3f}" if found is None else f"{value:+.3f} [{found[0]:+.3f}, {found[1]:+.3f}]"


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
