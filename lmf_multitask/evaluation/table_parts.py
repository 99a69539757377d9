"""The one builder of tables with a row per task and a column per metric, and the cells that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmf_multitask.evaluation.metrics import EXCLUSIVE, METRICS, Metric, metrics_for
from lmf_multitask.evaluation.text import TextTable, number, with_interval

Content = Mapping[str, Any]
"""Metrics with ``emotions`` (name -> metrics of one), ``regression`` where there are any, and ``mean``, as in ``metrics.json``."""

Cell = Callable[..., str]

TASK_WORDS = {"emotions": "emotion", "regression": "task"}
"""Where tasks stand in ``metrics.json`` -> what the tables call one of them."""

PREFIX = {"regression": "real-valued tasks, "}
"""Where tasks stand -> the first words of their tables' titles, which those of emotions do not need."""

CONVENTIONS = (
    "Acc-2 and F1 neg/non-neg: negative against non-negative over all clips; neg/pos: negative against positive, without clips "
    "whose label is 0."
)


def shown_metrics(content: Content, headline: bool | None = None, place: str = "emotions") -> list[Metric]:
    """The metrics of tasks that a content has, in the order of `METRICS`.

    Args:
        content: metrics.
        headline: only those in the headline, or only the others; None for all.
        place: of the tasks, a value of `metrics.PLACES`.
    """
    return [
        metric
        for metric in METRICS.values()
        if metric.kind != EXCLUSIVE
        and headline in (None, metric.headline)
        and any(metric.key in found for found in content.get(place, {}).values())
    ]


def task_table(
    title: str,
    shown: list[Metric],
    cell: Cell,
    *contents: Content,
    place: str = "emotions",
    first: Mapping[str, Cell] | None = None,
    last: Mapping[str, Cell] | None = None,
    note: str = "",
) -> TextTable | None:
    """A row per task, and of the means if there are several; None without such tasks or metrics.

    Args:
        title: line above it.
        shown: metrics, a column each.
        cell: called with a metric and a task's entry in each content.
        contents: of the same tasks; later ones may lack some.
        place: of the tasks, a value of `metrics.PLACES`.
        first: head -> cell of a column in front of the metrics, called with the task's name (None for the means) and the
            entries; empty in the row of the means.
        last: the same behind them.
        note: lines below it; what the metrics' titles need as an explanation is added.
    """
    names: list[str | None] = list(contents[0].get(place, {}))
    if not names or not shown:
        return None
    rows = []
    for name in [*names, None] if len(names) > 1 else names:
        entries = [one.get("mean", {}) if name is None else one[place].get(name, {}) for one in contents]
        around = [[column(name, *entries) for column in (part or {}).values()] for part in (first, last)]
        rows.append([name or "mean", *around[0], *(cell(metric, *entries) for metric in shown), *around[1]])
    if any("neg/" in metric.title for metric in shown):
        note = "\n".join(filter(None, [note, CONVENTIONS]))
    heads = [TASK_WORDS[place], *(first or {}), *(metric.title for metric in shown), *(last or {})]
    return TextTable(title, heads, rows, len(names) > 1, note)


def plain(metric: Metric, found: Content) -> str:
    """A cell: the value."""
    return number(found.get(metric.key))


def bounded(metric: Metric, found: Content, intervals: Content) -> str:
    """A cell: the value with its interval."""
    return with_interval(found.get(metric.key), intervals.get(metric.key))


def spread(metric: Metric, found: Content) -> str:
    """A cell: mean, std and, where there is one, interval over runs; a dash where undefined."""
    over = found.get(metric.key)
    if over is None:
        return "-"
    if over["sd"] is None:
        return number(over["mean"])
    text = f"{over['mean']:.3f} ± {over['sd']:.3f}"
    return text if over.get("interval") is None else f"{text} [{over['interval'][0]:.3f}, {over['interval'][1]:.3f}]"


def exclusive_metrics_line(found: Content | None, cell: Cell, intervals: Content | None = None) -> str:
    """The metrics of the decision among all emotions in one line; empty where labels are not exclusive."""
    others = [] if intervals is None else [intervals]
    own = [metric for metric in metrics_for(EXCLUSIVE).values() if found and metric.key in found]
    return "  ".join(f"{metric.title} {cell(metric, found, *others)}" for metric in own)
