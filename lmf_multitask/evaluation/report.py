"""Figures as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from lmf_multitask.evaluation import tables
from lmf_multitask.evaluation.metrics import FIGURES
from lmf_multitask.evaluation.published import LMF_PADDLE, LMF_PAPER


def results_table(metrics: dict[str, Any]) -> str:
    """The figures of ``metrics.json`` as text, at most 100 columns wide.

    Args:
        metrics: as `multitask_figures` gives them, with ``split``, ``samples`` and optionally ``always_absent`` (the
            baseline's figures). The published figures are added where an emotion is one of the paper's, and under ``mode``
            per_emotion what ours are above or below them.
    """
    per_emotion = metrics["emotions"]
    baseline = metrics.get("always_absent", {}).get("emotions", {})
    published = all(name in LMF_PAPER for name in per_emotion)
    separate = metrics.get("mode") == "per_emotion"
    table = Table(
        title=f"{metrics['split']}, {metrics['samples']} clips",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("emotion")
    table.add_column("present", justify="right")
    for figure in FIGURES:
        table.add_column(tables.HEADS[figure], justify="right")
    if baseline:
        table.add_column("always absent*", justify="right")
    if published:
        table.add_column("LMF paper**", justify="right")
        table.add_column("LMF_Paddle**", justify="right")
    for name, figures in per_emotion.items():
        row = [
            name,
            f"{figures['support']}/{figures['annotated']}",
            *(tables.number(figures[figure]) for figure in FIGURES),
        ]
        if baseline:
            row.append(tables.number(baseline[name]["weighted_f1"]))
        if published:
            ours = figures["weighted_f1"] if separate else None
            row += [_beside(source.get(name), ours) for source in (LMF_PAPER, LMF_PADDLE)]
        table.add_row(*row)
    if len(per_emotion) > 1:
        row = ["mean", "", *(tables.number(metrics["mean"][figure]) for figure in FIGURES)]
        row += [tables.number(metrics["always_absent"]["mean"]["weighted_f1"])] if baseline else []
        table.add_row(*row, style="bold")
    notes = ["*  weighted F1 of never seeing the emotion, on these clips"] if baseline else []
    if published:
        difference = " (in brackets: ours less that)" if separate else ""
        notes.append(
            f"** weighted F1 published for IEMOCAP's 938 test clips, one model per emotion; not measured here{difference}"
        )
    if metrics.get("baselines", {}).get("logistic_regression"):
        notes.append(tables.verdict_on_linear(metrics))
    buffer = io.StringIO()
    Console(file=buffer, width=120, no_color=True).print(table)
    return "\n".join([line.rstrip() for line in buffer.getvalue().splitlines()] + notes)


def _beside(published: float | None, ours: float | None) -> str:
    if published is None or ours is None:
        return tables.number(published)
    return f"{published:.3f} ({ours - published:+.3f})"


def full_tables(metrics: Mapping[str, Any], *, calibrated: bool = False, threshold: str = "0.5") -> str:
    """`results_table` and everything else that ``metrics.json`` holds, as text for a terminal.

    Args:
        metrics: as `assessment.assess` gives them; what is absent is left out.
        calibrated: also the figures of the calibrated probabilities.
        threshold: ``positive_f1`` or ``uar`` for the figures at the thresholds fitted for them too; ``0.5`` for none.
    """
    found: list[tables.TextTable | None] = []
    if metrics.get("intervals"):
        found += [tables.intervals_table(metrics), tables.further_table(metrics)]
    if calibrated and metrics.get("calibrated"):
        found.append(tables.calibrated_table(metrics))
    if threshold != "0.5" and metrics.get("thresholds"):
        found.append(tables.thresholds_table(metrics, threshold))
    found += [
        tables.exclusive_table(metrics),
        tables.baseline_table(metrics),
        tables.published_table({"this model": metrics}),
    ]
    first = {name: value for name, value in metrics.items() if name != "baselines"}  # they have a table of their own
    parts = [results_table(first), *(one.as_text() for one in found if one is not None)]
    parts.append(tables.undefined_lines(metrics))
    return "\n\n".join(part for part in parts if part)
