"""Tables of several trainings (seeds, folds) and of modalities removed or disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lmf_multitask.evaluation.metrics import METRICS, PLACES, Metric
from lmf_multitask.evaluation.table_parts import (
    PREFIX,
    Content,
    bounded,
    exclusive_metrics_line,
    plain,
    shown_metrics,
    spread,
    task_table,
)
from lmf_multitask.evaluation.text import TextTable


def of_both(table: Callable[[str], TextTable | None]) -> list[TextTable]:
    """A table of the emotions and one of the real-valued tasks, where there are any."""
    return [found for found in map(table, dict.fromkeys(PLACES.values())) if found is not None]


def seed_tables(summary: Content, title: str = "") -> list[TextTable]:
    """`statistics.seed_summary` as tables of emotions and of real-valued tasks: mean ± std over seeds, interval of the mean."""
    line = exclusive_metrics_line(summary.get("exclusive"), spread)

    def table(place: str) -> TextTable | None:
        return task_table(
            f"{title}{PREFIX.get(place, '')}{summary['split']}, {summary['samples']:,} clips, {len(summary['seeds'])} seeds: "
            "mean ± std [95% t-interval of the mean]",
            shown_metrics(summary, True, place),
            spread,
            summary,
            place=place,
            note=f"one of {len(summary['emotions'])}: {line}" if line and place not in PREFIX else "",
        )

    return of_both(table)


def pooled_tables(metrics: Content) -> list[TextTable]:
    """Of a cross-validation, metrics of the pooled predictions with their intervals, and mean ± std over folds."""
    folds, intervals = metrics["folds"], metrics["intervals"]
    by = f"one per {folds['by']}" if isinstance(folds["by"], str) else "stratified"
    title = f"{metrics['samples']:,} clips, each predicted by the fold that was not trained on it; {len(folds['runs'])} folds ({by})"
    note = "pooled: all out-of-fold predictions together, 95% intervals over clips; folds: mean ± std over folds"

    def table(place: str) -> TextTable | None:
        shown = shown_metrics(metrics, True, place)
        together = task_table(title, shown, bounded, metrics, intervals, place=place)
        apart = task_table(title, shown, spread, folds, place=place)
        if together is None or apart is None:
            return None
        pairs = zip(together.rows, apart.rows)
        rows = [row for (name, *one), (_, *other) in pairs for row in ([name, "pooled", *one], ["", "folds", *other])]
        line, over = (
            exclusive_metrics_line(metrics.get("exclusive"), bounded, intervals.get("exclusive", {})),
            exclusive_metrics_line(folds.get("exclusive"), spread),
        )
        one_of = (
            f"one of {len(metrics['emotions'])}: pooled {line}; folds {over}" if line and place not in PREFIX else ""
        )
        heads = [together.heads[0], "", *together.heads[1:]]
        return TextTable(title, heads, rows, note="\n".join(filter(None, [note, one_of, apart.note])), left=(0, 1))

    return of_both(table)


def each_run_table(title: str, runs: Mapping[str, Content], first: Mapping[str, Callable[[Content], str]]) -> TextTable:
    """The means over tasks of several trainings, a row each.

    Args:
        title: line above it.
        runs: name -> metrics.
        first: head -> cell of a column in front of the metrics.
    """
    means = [
        metric
        for metric in METRICS.values()
        if metric.headline and any(metric.key in one["mean"] for one in runs.values())
    ]
    rows = [
        [name, *(column(one) for column in first.values()), *(plain(metric, one["mean"]) for metric in means)]
        for name, one in runs.items()
    ]
    return TextTable(title, ["", *first, *(metric.title for metric in means)], rows, left=(0, 1))


def robustness_tables(found: Content) -> list[TextTable]:
    """Emotions and real-valued tasks with modalities removed and, where curves were measured, at some disturbances."""
    return of_both(lambda place: _robustness_table(found, place))


def _robustness_table(found: Content, place: str) -> TextTable | None:
    first = found["subsets"][0]
    names, emotions = list(first.get(place, {})), place not in PREFIX
    if not names:
        return None
    shown = shown_metrics(first, place=place)
    if emotions:  # means, and of each emotion weighted F1
        mean = "mean " if len(names) > 1 else ""
        columns: dict[str, tuple[Metric, str | None]] = {f"{mean}{metric.title}": (metric, None) for metric in shown}
        columns |= {f"{name}*": (METRICS["weighted_f1"], name) for name in names if mean}
    else:
        columns = {f"{name} {metric.title}": (metric, name) for name in names for metric in shown}
    points = [(" + ".join(one["modalities"]), one) for one in found["subsets"]]
    for modality, curve in (found["noise"] or {}).items():
        points += [(f"noise of {p['strength']:g} std on {modality}", p) for p in curve if p["strength"] in (1, 4)]
    for modality, curve in (found["missing"] or {}).items():
        points += [(f"no {modality} in {p['share']:.0%} of clips", p) for p in curve if p["share"] == 0.5]
    rows = [
        [label, *(plain(m, one["mean"] if name is None else one[place][name]) for m, name in columns.values())]
        for label, one in points
    ]
    notes = []
    if emotions:
        absent = found["always_absent"]
        rows.append(
            [
                "always absent",
                *(plain(m, absent) if name is None and m.key in absent else "" for m, name in columns.values()),
            ]
        )
        if mean:
            notes.append("*  weighted F1 of the emotion.")
    if found["noise"] is not None:
        notes.append(f"Noise and missing rows: mean of {found['draws']} draws; std is that of the feature over train.")
    gaps = [f"{modality} {count}" for modality, count in found["rows_without"].items() if count]
    if gaps:
        notes.append(f"Clips that lack a modality in the data: {', '.join(gaps)}.")
    title = f"{PREFIX.get(place, '')}with modalities removed or disturbed, {found['split']}, {found['samples']:,} clips"
    return TextTable(title, ["present modalities", *columns], rows, note=" ".join(notes))
