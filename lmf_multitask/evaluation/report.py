"""Figures as a table for a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from lmf_multitask.evaluation.metrics import FIGURES
from lmf_multitask.evaluation.published import LMF_PADDLE, LMF_PAPER

_HEADS = {"weighted_f1": "weighted F1", "accuracy": "accuracy", "positive_f1": "present F1", "uar": "UAR"}


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
        table.add_column(_HEADS[figure], justify="right")
    if baseline:
        table.add_column("always absent*", justify="right")
    if published:
        table.add_column("LMF paper**", justify="right")
        table.add_column("LMF_Paddle**", justify="right")
    for name, figures in per_emotion.items():
        row = [name, f"{figures['support']}/{figures['annotated']}", *(_number(figures[figure]) for figure in FIGURES)]
        if baseline:
            row.append(_number(baseline[name]["weighted_f1"]))
        if published:
            ours = figures["weighted_f1"] if separate else None
            row += [_beside(source.get(name), ours) for source in (LMF_PAPER, LMF_PADDLE)]
        table.add_row(*row)
    if len(per_emotion) > 1:
        row = ["mean", "", *(_number(metrics["mean"][figure]) for figure in FIGURES)]
        row += [_number(metrics["always_absent"]["mean"]["weighted_f1"])] if baseline else []
        table.add_row(*row, style="bold")
    notes = ["*  weighted F1 of never seeing the emotion, on these clips"] if baseline else []
    if published:
        difference = " (in brackets: ours less that)" if separate else ""
        notes.append(
            f"** weighted F1 published for IEMOCAP's 938 test clips, one model per emotion; not measured here{difference}"
        )
    buffer = io.StringIO()
    Console(file=buffer, width=120, no_color=True).print(table)
    return "\n".join([line.rstrip() for line in buffer.getvalue().splitlines()] + notes)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _beside(published: float | None, ours: float | None) -> str:
    return _number(published) if published is None or ours is None else f"{published:.3f} ({ours - published:+.3f})"
