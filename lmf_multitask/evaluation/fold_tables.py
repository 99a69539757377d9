"""Tables of a cross-validation: pooled metrics, their spread over folds, and the folds themselves."""

from __future__ import annotations

from lmf_multitask.evaluation.metrics import EXCLUSIVE, PLACES, metrics_for
from lmf_multitask.evaluation.table_parts import (
    TASK_WORDS,
    Content,
    cells_with_intervals,
    rows_of,
    shown_metrics,
    spread,
)
from lmf_multitask.evaluation.text import TextTable, number, with_interval


def pooled_tables(metrics: Content) -> list[TextTable]:
    """Metrics of the pooled predictions with their intervals, and mean ± std over folds: a table per kind of task."""
    return [_pooled_table(metrics, place) for place in PLACES.values() if metrics.get(place)]


def _pooled_table(metrics: Content, place: str) -> TextTable:
    shown, folds, rows = shown_metrics(metrics, headline=True, place=place), metrics["folds"], []
    pooled = rows_of(cells_with_intervals(shown), metrics, metrics["intervals"], place=place)
    over = rows_of(lambda name, found: [spread(found.get(m.key)) for m in shown], folds, place=place)
    for (name, *together), (_, *apart) in zip(pooled, over):
        rows += [[name, "pooled", *together], ["", "folds", *apart]]
    notes = ["pooled: all out-of-fold predictions together, 95% intervals over clips; folds: mean ± std over folds"]
    exclusive = metrics.get("exclusive") if place == PLACES["binary"] else None
    if exclusive:
        own, intervals = list(metrics_for(EXCLUSIVE).values()), metrics["intervals"].get("exclusive", {})
        together = ["  ".join(f"{m.title} {with_interval(exclusive[m.key], intervals.get(m.key))}" for m in own)]
        apart = ["  ".join(f"{m.title} {spread((folds.get('exclusive') or {}).get(m.key))}" for m in own)]
        notes.append(f"one of {len(metrics['emotions'])}: pooled {together[0]}; folds {apart[0]}")
    by = f"one per {folds['by']}" if isinstance(folds["by"], str) else "stratified"
    return TextTable(
        f"{metrics['samples']:,} clips, each predicted by the fold that was not trained on it; {len(folds['runs'])} folds ({by})",
        [TASK_WORDS[place], "", *(metric.title for metric in shown)],
        rows,
        note="\n".join(notes),
        left=(0, 1),
    )


def each_fold_table(metrics: Content) -> TextTable:
    """The means over tasks of every fold."""
    shown = [metric for place in PLACES.values() for metric in shown_metrics(metrics, headline=True, place=place)]
    rows = [
        [
            one["name"],
            ", ".join(one["groups"][:4]) + (", ..." if len(one["groups"]) > 4 else "") or "-",
            f"{one['samples']:,}",
            *(number(one["mean"].get(metric.key)) for metric in shown),
        ]
        for one in metrics["folds"]["runs"]
    ]
    heads = ["fold", "test groups", "clips", *(metric.title for metric in shown)]
    return TextTable("means over tasks of each fold", heads, rows, left=(0, 1))
