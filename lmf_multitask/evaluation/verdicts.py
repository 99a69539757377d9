"""Tables of a comparison, and the verdicts: what intervals and tests of paired differences show, in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lmf_multitask.errors import printable
from lmf_multitask.evaluation.comparison import Comparison, Difference, Pair
from lmf_multitask.evaluation.metrics import BASELINES, METRICS, PLACES, Metric
from lmf_multitask.evaluation.statistics import FEWEST_ROWS, LEVEL, t_interval
from lmf_multitask.evaluation.table_parts import TASK_WORDS, Content, bounded, shown_metrics, task_table
from lmf_multitask.evaluation.text import TextTable, difference

VERDICT_METRICS = ("weighted_f1", "auroc", "weighted_accuracy", "unweighted_accuracy", "mae", "pearson")
"""Metrics that a verdict between two models is based on."""

PAIRED_METRICS = {"emotions": ("weighted_f1", "positive_f1", "auroc"), "regression": ("mae", "pearson", "ccc")}
"""Where tasks stand in ``metrics.json`` -> metrics whose paired differences are shown per task."""


def comparison_text(comparison: Comparison) -> str:
    """All tables of a comparison and its verdict, as text."""
    tables = [table.as_text() for table in comparison_tables(comparison)]
    return "\n\n".join([*tables, printable("\n".join([*comparison.notes, comparison_verdict(comparison)]), keep="\n")])


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """`side_by_side_tables`, and a table of differences for each pair and kind of task."""
    pairs = [pair_table(pair, place) for pair in comparison.pairs for place in places_of(comparison)]
    return [*side_by_side_tables(comparison), *pairs]


def side_by_side_tables(comparison: Comparison) -> list[TextTable]:
    """The metrics of all models, task by task: a table per kind of task."""
    return [_side_by_side(comparison, place) for place in places_of(comparison)]


def places_of(comparison: Comparison) -> list[str]:
    """Where the tasks of a comparison stand in ``metrics.json``."""
    return [place for place in PLACES.values() if next(iter(comparison.metrics.values())).get(place)]


def _side_by_side(comparison: Comparison, place: str) -> TextTable:
    shown = shown_metrics(next(iter(comparison.metrics.values())), True, place)
    found = {
        name: task_table("", shown, bounded, one, one["intervals"], place=place)
        for name, one in comparison.metrics.items()
    }
    rows = [[task, name, *cells] for name, table in found.items() if table for task, *cells in table.rows]
    order = [*comparison.emotions, "mean"]
    rows.sort(key=lambda row: order.index(row[0]))  # stable: models stay in their order
    heads = [TASK_WORDS[place], "model", *(metric.title for metric in shown)]
    return TextTable(f"{comparison.rows:,} common clips, 95% intervals", heads, rows, left=(0, 1))


def pair_table(pair: Pair, place: str = "emotions") -> TextTable:
    """Paired differences with intervals, a test and the verdict, per task and of the means.

    Args:
        pair: two models.
        place: ``emotions``, with McNemar's test of the decisions; or ``regression``, with Wilcoxon's of the absolute errors.
    """
    pair, shown = _part(pair, place), [METRICS[key] for key in PAIRED_METRICS[place]]
    entries = {**pair.emotions, **({"mean": pair.mean} if len(pair.emotions) > 1 else {})}
    rows = []
    for name, one in entries.items():
        tests = ["", "", ""]
        if one.p is not None:
            tests = [f"{one.only_first} : {one.only_second}", _probability(one.p), _probability(one.corrected)]
        differences = [difference(one.differences.get(m.key), one.intervals.get(m.key)) for m in shown]
        rows.append([name, *differences, *tests, verdict(one, pair)])
    note = f"Right alone: clips that only {pair.first} : only {pair.second} predicts correctly."
    tests = ["right alone", "McNemar p"]
    if place != "emotions":
        note, tests = f"Closer: clips to whose label {pair.first} : {pair.second} is closer.", ["closer", "Wilcoxon p"]
    if pair.decision is not None:
        one = pair.decision
        note += (
            f"\nOne of {len(pair.emotions)} (highest probability as a multiple of its threshold): {_differences(one)}"
            + (
                f", right alone {one.only_first} : {one.only_second}, McNemar p {_probability(one.p)}"
                if one.p is not None
                else ""
            )
            + f": {verdict(one, pair)}."
        )
    heads = [TASK_WORDS[place], *(metric.title for metric in shown), *tests, "Holm", "verdict"]
    title = f"{pair.second} minus {pair.first}, 95% intervals of the paired difference"
    return TextTable(title, heads, rows, len(entries) > 1, note, left=(0, len(heads) - 1))


def _part(pair: Pair, place: str) -> Pair:
    """A pair restricted to the tasks, and the means of the metrics, of one place; they become its ``emotions``."""
    others = {metric.key for metric in METRICS.values() if PLACES.get(metric.kind, place) != place}
    mean = dataclasses.replace(
        pair.mean,
        differences={key: value for key, value in pair.mean.differences.items() if key not in others},
        intervals={key: value for key, value in pair.mean.intervals.items() if key not in others},
    )
    if place == "emotions":
        return dataclasses.replace(pair, mean=mean, values={})
    return Pair(pair.first, pair.second, pair.values, mean)


def comparison_verdict(comparison: Comparison) -> str:
    """The outcome, in a sentence per pair and kind of task."""
    parts = [(_part(pair, place), TASK_WORDS[place]) for pair in comparison.pairs for place in PLACES.values()]
    return " ".join(_pair_verdict(part, word) for part, word in parts if part.emotions)


def verdict_on_linear(metrics: Content, *kinds: str, brief: bool = False) -> str:
    """Whether the model is better than a linear model of the same features; empty where that was not measured."""
    found = (_verdict_on(metrics, kind, BASELINES[kind][-1], brief=brief) for kind in kinds or BASELINES)
    return " ".join(filter(None, found))


def verdict_on_constant(metrics: Content) -> str:
    """Whether the model is better than never predicting an emotion, and than the mean of train; empty where not measured."""
    found = []
    for kind, (name, *_) in BASELINES.items():
        shown = name.replace("_", " ")
        baseline, absent = ((metrics.get(one) or {}) for one in ("baselines", "always_absent"))
        if (
            kind == "binary"
            and name in baseline
            and baseline[name]["mean"].get("accuracy") == absent["mean"].get("accuracy")
        ):
            shown = "always absent"  # a share of one half or less gives the same decisions
        found.append(_verdict_on(metrics, kind, name, shown, brief=True))
    return " ".join(filter(None, found))


def linear_over_seeds(runs: Sequence[Content]) -> str:
    """Mean differences from the linear models over seeds, with Student's intervals; empty where not measured."""
    found = []
    for kind in BASELINES:
        name = BASELINES[kind][-1]
        ahead = [((run.get("baselines") or {}).get(name) or {}).get("network_ahead") for run in runs]
        parts = [{**one["mean"], **(one.get("exclusive") or {})} for one in ahead if one]
        shown = []
        for key in VERDICT_METRICS if len(parts) == len(runs) else ():
            values = [part[key]["difference"] for part in parts if part.get(key, {}).get("difference") is not None]
            if len(values) == len(runs):
                over = t_interval(values)
                shown.append(f"{METRICS[key].title} {difference(over['mean'], over['interval'])}")
        if shown:
            means = f"means over {TASK_WORDS[PLACES[kind]]}s and {len(runs)} seeds, 95% t-intervals over seeds"
            found.append(f"The model minus {name.replace('_', ' ')}, {means}: {', '.join(shown)}.")
    return " ".join(found)


def _verdict_on(metrics: Content, kind: str, name: str, shown: str = "", *, brief: bool = False) -> str:
    place = PLACES[kind]
    ahead = (metrics.get("baselines") or {}).get(name, {}).get("network_ahead")
    if not ahead:
        return ""

    found = {task: Difference.of(metrics[place][task]["annotated"], one) for task, one in ahead[place].items()}
    exclusive = ahead.get("exclusive")
    decision = Difference.of(metrics["exclusive"]["rows"], exclusive) if exclusive else None
    mean = Difference.of(metrics["samples"], ahead["mean"])
    pair = Pair(shown or name.replace("_", " "), "the model", found, mean, decision)
    text = _pair_verdict(pair, TASK_WORDS[place], brief)
    return f"{text[0].upper()}{text[1:]}"


def verdict(one: Difference, pair: Pair) -> str:
    """What the intervals of `VERDICT_METRICS` and the test of the pair show, and in which direction each points."""
    if one.rows < FEWEST_ROWS:
        return f"no verdict is possible on {one.rows} clips (at least {FEWEST_ROWS} are needed)"
    better: dict[str, list[str]] = {pair.second: [], pair.first: []}
    for key in VERDICT_METRICS:
        sign = _direction(METRICS[key], one.intervals.get(key))
        if sign:
            better[pair.second if sign > 0 else pair.first].append(METRICS[key].title)
    p = one.p if one.corrected is None else one.corrected
    if p is not None and p < 1 - LEVEL:
        winner = pair.second if (one.only_second or 0) > (one.only_first or 0) else pair.first
        better[winner].append("absolute errors" if "mae" in one.differences else "number of errors")
    found = [f"{name} is better on {', '.join(titles)}" for name, titles in better.items() if titles]
    return ", but ".join(found) or f"no difference that {one.rows} clips can show"


def _pair_verdict(pair: Pair, word: str = "emotion", brief: bool = False) -> str:
    """`verdict` on the means and on the decision among all emotions, then on each task, which is called `word`."""
    overall, decision = pair.mean, pair.decision
    if decision is not None and decision.rows >= FEWEST_ROWS:
        overall = dataclasses.replace(
            decision,
            rows=overall.rows,
            differences={**overall.differences, **decision.differences},
            intervals={**overall.intervals, **decision.intervals},
        )
    several = len(pair.emotions) > 1
    if not several and pair.emotions:
        (overall,) = pair.emotions.values()
    text = f"{pair.second} against {pair.first}: {verdict(overall, pair)}"
    if overall.rows >= FEWEST_ROWS:
        text += f" ({f'means over {word}s: ' if several else ''}{_differences(overall)})"
        if several and not brief:
            grouped: dict[str, list[str]] = {}
            for name, one in pair.emotions.items():
                grouped.setdefault(verdict(one, pair), []).append(name)
            text += f". By {word}: " + "; ".join(f"{found} ({', '.join(names)})" for found, names in grouped.items())
    return f"{text}."


def _direction(metric: Metric, interval: Sequence[float] | None) -> int:
    """1 if an interval of the difference is on the better side of zero, -1 on the worse; 0 if it shows neither."""
    if interval is None or interval[0] == interval[1] or interval[0] <= 0 <= interval[1]:
        return 0
    return 1 if (interval[0] > 0) == metric.greater_is_better else -1


# -- parts


def _differences(one: Difference) -> str:
    return ", ".join(
        f"{METRICS[key].title} {difference(one.differences[key], one.intervals.get(key))}"
        for key in VERDICT_METRICS
        if one.differences.get(key) is not None
    )


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
