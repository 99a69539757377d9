"""Plots of several trainings: seeds of one, and models that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmf_multitask.evaluation.drawing import (
    INK,
    Plot,
    drawing,
    finish,
    interval_points,
    label,
    legend_below,
    or_nan,
    panels_of,
    rows_axis,
    style,
    unit_axis,
)
from lmf_multitask.evaluation.metrics import METRICS
from lmf_multitask.evaluation.table_parts import shown_metrics, spread
from lmf_multitask.evaluation.text import number

if TYPE_CHECKING:
    from lmf_multitask.evaluation.comparison import Comparison, Difference


def seeds_plot(runs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], place: str) -> Plot | None:
    """The headline metrics of every seed, and the interval of their mean; None without such tasks."""
    shown, names = shown_metrics(summary, True, place), list(summary.get(place, {}))
    if not shown or not names:
        return None
    with drawing():
        figure, panels = panels_of(len(shown), 0.75 + 0.3 * len(names), sharey=True)
        for panel, metric in zip(panels, shown):
            places = rows_axis(panel, names)
            over = [summary[place][name].get(metric.key) or {"mean": None} for name in names]
            interval_points(
                panel, places, [(one["mean"], one.get("interval")) for one in over], label="mean, 95% interval"
            )
            for run in runs:
                values = [or_nan(run[place][name].get(metric.key)) for name in names]
                panel.plot(
                    values, places + 0.2, "o", color=style(1)["color"], markersize=4, fillstyle="none", label="one seed"
                )
            panel.set_title(metric.title)
            if panel.dataLim.x0 >= 0 and panel.dataLim.x1 <= 1:
                unit_axis(panel)
        legend_below(figure, panels[0])
        said = "; ".join(f"{name} {spread(shown[0], summary[place][name])}" for name in names)
        title = f"{len(runs)} seeds: headline metrics"
        return finish(figure, f"seeds_{place}", title, f"{shown[0].title} over {len(runs)} seeds: {said}.")


def comparison_plots(comparison: Comparison) -> list[Plot]:
    """Metrics of several models side by side, and the differences from the first, with their intervals; by kind of task."""
    models, found = comparison.metrics, []
    with drawing():
        if any(metrics["emotions"] for metrics in models.values()):
            found.append(_side_by_side(models))
            entries = [{**pair.emotions, "mean": pair.mean} for pair in comparison.pairs]
            found.append(_differences(comparison, "differences", ("weighted_f1",), entries))
        if any(pair.values for pair in comparison.pairs):
            entries = [pair.values for pair in comparison.pairs]
            found.append(_differences(comparison, "value_differences", ("mae", "pearson"), entries))
    return found


def _side_by_side(models: Mapping[str, Mapping[str, Any]]) -> Plot:
    emotions = [*next(iter(models.values()))["emotions"], "mean"]
    figure, panels = panels_of(2, 1.2 + 0.26 * len(emotions) * len(models))
    for panel, key in zip(panels, ("weighted_f1", "auroc")):
        places = rows_axis(panel, emotions)
        for index, (name, found) in enumerate(models.items()):
            entries = [(one.get(key), bounds.get(key)) for one, bounds in zip(_all(found), _all(found["intervals"]))]
            shift = (index - (len(models) - 1) / 2) * 0.7 / len(models)
            interval_points(panel, places + shift, entries, index, label=label(name))
        panel.set_title(METRICS[key].title)
    legend_below(figure, panels[0])
    said = "; ".join(
        f"{name} mean weighted F1 {number(found['mean']['weighted_f1'])}" for name, found in models.items()
    )
    return finish(figure, "side_by_side", "Metrics with 95% intervals", f"{said}.")


def _all(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*content["emotions"].values(), content["mean"]]


def _differences(
    comparison: Comparison, name: str, keys: Sequence[str], entries: Sequence[Mapping[str, Difference]]
) -> Plot:
    """Differences of some metrics from the first model, with their intervals: `entries` of each pair by task."""
    names = list(entries[0])
    figure, panels = panels_of(len(keys) * len(entries), 1.3 + 0.34 * len(names), columns=len(keys))
    said = []
    for place, (pair, own) in enumerate(zip(comparison.pairs, entries)):
        for panel, key in zip(panels[len(keys) * place :], keys):
            points = [(one.differences[key], one.intervals[key]) for one in own.values()]
            panel.axvline(0, color=INK, linewidth=1)
            interval_points(panel, rows_axis(panel, names), points)
            what = f"difference of {METRICS[key].title}"
            panel.set(title=f"{label(pair.second)} minus {label(pair.first)}", xlabel=what)
            listed = ", ".join(f"{task} {number(value)}" for task, (value, _) in zip(names, points))
            said.append(f"{pair.second} minus {pair.first}, {METRICS[key].title}: {listed}")
    return finish(figure, name, "Differences with 95% intervals", f"{'; '.join(said)}.")
