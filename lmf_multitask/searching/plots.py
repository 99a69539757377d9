"""Plots of a search for settings, in the style of `evaluation.plots`.

Those of `optuna.visualization.matplotlib` have colours that do not follow a dark page, count interrupted attempts as trials,
and leave pruned trials out of history and slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from lmf_multitask.evaluation.drawing import (
    INK,
    MUTED,
    SERIES,
    WIDTH,
    Plot,
    drawing,
    finish,
    label,
    legend_below,
    panels_of,
    rows_axis,
    whole_numbers,
)
from lmf_multitask.searching.results import SearchResult, State, short_name, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SLICES = 18


def search_plots(result: SearchResult) -> list[Plot]:
    """Every plot that the search allows."""
    with drawing():
        plots = [history_plot(result), epochs_plot(result), slices_plot(result)]
        return [*plots, importance_plot(result)] if result.importances else plots


def history_plot(result: SearchResult) -> Plot:
    """The objective of every trial, and the best so far."""
    figure, (panel,) = panels_of(1, 3.6, width=WIDTH)
    _points(panel, result, {trial.number: trial.number for trial in result.trials})
    finished = result.of_state("finished")
    best = (np.maximum if result.maximise else np.minimum).accumulate([trial.score for trial in finished])
    numbers = [*(trial.number for trial in finished), len(result.trials)]
    panel.step(numbers, [*best, best[-1]], where="post", color=SERIES[1], label="best so far")
    panel.set(xlabel="trial", ylabel=f"{result.metric}, validation")
    whole_numbers(panel)
    legend_below(figure, panel)
    first = result.best(1)[0]
    text = f"{result.metric} of {len(result.trials)} trials; the best is {first.score:.3f}, trial {first.number}."
    return finish(figure, "history", "Trials in order", text)


def epochs_plot(result: SearchResult) -> Plot:
    """The objective after each epoch; pruned trials end early."""
    figure, (panel,) = panels_of(1, 3.6, width=WIDTH)
    best, pruned = result.best(1)[0], result.of_state("pruned")
    looks: dict[str, dict[str, Any]] = {
        "pruned": {"color": MUTED, "linestyle": "--", "alpha": 0.8, "marker": "x", "markersize": 5},
        "finished": {"color": SERIES[0], "alpha": 0.55},
    }
    for trial in [*pruned, *(trial for trial in result.of_state("finished") if trial is not best)]:
        last = [len(trial.values) - 1]
        epochs = range(1, len(trial.values) + 1)
        panel.plot(epochs, trial.values, linewidth=1, markevery=last, label=trial.state, **looks[trial.state])
    panel.plot(
        range(1, len(best.values) + 1),
        best.values,
        color=SERIES[1],
        linewidth=2.2,
        label=f"the best, trial {best.number}",
    )
    panel.plot(best.kept or 0, best.score, "o", color=SERIES[1], markersize=8)
    panel.set(xlabel="epoch (circle: the one that the best trial keeps)", ylabel=f"{result.metric}, validation")
    whole_numbers(panel)
    legend_below(figure, panel)
    text = f"{len(pruned)} of {len(result.trials)} trials were pruned; the best kept epoch {best.kept} of {len(best.values)}."
    return finish(figure, "epochs", "Objective per epoch", text)


def importance_plot(result: SearchResult) -> Plot:
    """Share of the objective's variance that each setting explains."""
    names, values = [short_name(name) for name in result.importances], np.array(list(result.importances.values()))
    figure, (panel,) = panels_of(1, 0.9 + 0.32 * len(names), width=WIDTH)
    bars = panel.barh(rows_axis(panel, names), values, color=SERIES[0], alpha=0.75, height=0.62)
    panel.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, color=INK, fontsize=9.5)
    panel.set(xlim=(0, min(1.1, values.max() * 1.18)), xlabel="share of the variance explained")
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    text = ", ".join(f"{name} {value:.0%}" for name, value in zip(names, values))
    return finish(figure, "importance", "Importance of settings (fANOVA)", f"Importance: {text}.")


def slices_plot(result: SearchResult) -> Plot:
    """The objective against each setting, the most important first."""
    names = sorted(result.trials[0].settings, key=lambda name: -result.importances.get(name, 0))[:MOST_SLICES]
    figure, panels = panels_of(len(names), 2.3, columns=3, width=WIDTH * 1.45 if len(names) > 2 else WIDTH, sharey=True)
    for panel, name in zip(panels, names):
        values = {trial.number: trial.settings[name] for trial in result.trials}
        numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.values())
        if name in result.logarithmic or numeric and len(set(values.values())) > 6:
            _points(panel, result, values)
            if name in result.logarithmic:
                panel.set_xscale("log")
                ticks = np.geomspace(min(values.values()), max(values.values()), 3)
                panel.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
                panel.set_xticks([], minor=True)
        else:
            texts = {shown(value): value for value in values.values()}
            order = sorted(texts, key=lambda text: (texts[text] if numeric else 0, text))
            _points(panel, result, {number: order.index(shown(value)) for number, value in values.items()}, apart=0.14)
            panel.set_xticks(range(len(order)), [label(text) for text in order])
            panel.set_xlim(-0.5, len(order) - 0.5)
            if sum(map(len, order)) > 26:
                panel.tick_params(axis="x", labelrotation=25)
        panel.set_title(label(short_name(name)))
    figure.supylabel(f"{result.metric}, validation")
    legend_below(figure, panels[0])
    best = result.best(1)[0]
    text = ", ".join(f"{short_name(name)} {shown(best.settings[name])}" for name in names)
    return finish(figure, "slices", "The objective against each setting", f"The best trial has {text}.")


def _points(panel: Axes, result: SearchResult, places: dict[int, Any], apart: float = 0.0) -> None:
    """Finished and pruned trials at their places (trial number -> horizontal coordinate), drawn `apart` from each other."""
    looks = {
        "pruned": ("x", MUTED, 1.0, "pruned, best value until then"),
        "finished": ("o", SERIES[0], 0.8, "finished"),
    }
    shifted: list[tuple[State, float]] = [("pruned", -apart), ("finished", apart)]
    for state, shift in shifted:
        trials, (form, colour, alpha, text) = result.of_state(state), looks[state]
        x, y = [places[trial.number] + shift for trial in trials], [trial.score for trial in trials]
        panel.plot(x, y, form, color=colour, alpha=alpha, markersize=6, label=text)
