"""What the tables of binary and of real-valued tasks have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmf_multitask.evaluation.metrics import EXCLUSIVE, METRICS, Metric
from lmf_multitask.evaluation.text import number, with_interval

Content = Mapping[str, Any]
"""Metrics with ``emotions`` (name -> metrics of one), ``regression`` where there are any, and ``mean``, as in ``metrics.json``."""

TASK_WORDS = {"emotions": "emotion", "regression": "task"}
"""Where tasks stand in ``metrics.json`` -> what the tables call one of them."""


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


def rows_of(cells: Callable[..., list[str]], *contents: Content, place: str = "emotions") -> list[list[str]]:
    """A row per task, and of the means if there are several.

    Args:
        cells: called with the task's name (None for the means) and its entry in each content.
        contents: of the same tasks; later ones may lack some.
        place: of the tasks.
    """
    names = list(contents[0].get(place, {}))
    rows = [[name, *cells(name, *(one[place].get(name, {}) for one in contents))] for name in names]
    return [*rows, ["mean", *cells(None, *(one["mean"] for one in contents))]] if len(names) > 1 else rows


def cells_with_intervals(shown: Sequence[Metric]) -> Callable[..., list[str]]:
    """For `rows_of`: the values of one content with the intervals of another."""
    return lambda name, found, intervals: [with_interval(found.get(m.key), intervals.get(m.key)) for m in shown]


def spread(found: Content | None) -> str:
    """Mean, std and, where there is one, interval over runs; a dash where undefined."""
    if found is None:
        return "-"
    if found["sd"] is None:
        return number(found["mean"])
    text = f"{found['mean']:.3f} ± {found['sd']:.3f}"
    return text if found.get("interval") is None else f"{text} [{found['interval'][0]:.3f}, {found['interval'][1]:.3f}]"
