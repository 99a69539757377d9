"""Pictures of a search for settings, in the style of `plots`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from lmf_multitask.evaluation.plots import INK, MUTED, SERIES, WIDTH, Picture, _drawing, _finish
from lmf_multitask.evaluation.search_results import SearchResult, Trial, short_name, shown, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SLICES = 18


def search_pictures(result: SearchResult) -> list[Picture]:
    """Every picture that the search allows."""
    with _drawing():
        drawn = [
            history_picture(result),
            epochs_picture(result),
            seeds_picture(result),
            importance_picture(result),
            slices_picture(result),
        ]
    return [picture for picture in drawn if picture is not None]


def history_picture(result: SearchResult) -> Picture:
    """The objective of every trial, and the best so far."""
    figure = Figure(figsize=(WIDTH, 3.6))
    panel = figure.subplots()
    finished, pruned = _ended(result)
    _trials(panel, [t.number for t in finished], finished, [t.number for t in pruned], pruned)
    values = np.array([trial.value for trial in finished])
    if len(values):
        so_far = np.maximum.accumulate(values) if result.maximise else np.minimum.accumulate(values)
        numbers = [trial.number for trial in finished]
        panel.step(
            [*numbers, len(result.trials)], [*so_far, so_far[-1]], where="post", color=SERIES[1], label="best so far"
        )
    panel.set(xlabel="trial", ylabel=f"{result.figure}, validation")
    panel.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=3)
    first = result.best(1)[0]
    text = f"{result.figure} of {len(result.trials)} trials; the best is {first.value:.3f}, trial {first.number}."
    return _finish(figure, "history", "The trials, in their order", text)


def epochs_picture(result: SearchResult) -> Picture:
    """The objective after each epoch; pruned trials end early."""
    figure = Figure(figsize=(WIDTH, 3.6))
    panel = figure.subplots()
    best = result.best(1)[0]
    finished, pruned = _ended(result)
    for trial, label in [(t, "pruned") for t in pruned] + [(t, "finished") for t in finished if t is not best]:
        style = (
            {"color": MUTED, "linestyle": "--", "alpha": 0.8}
            if label == "pruned"
            else {"color": SERIES[0], "alpha": 0.55}
        )
        epochs = range(1, len(trial.values) + 1)
        panel.plot(epochs, trial.values, linewidth=1, label=label, **style)
        if label == "pruned":
            panel.plot(len(trial.values), trial.values[-1], "x", color=MUTED, markersize=5)
    panel.plot(
        range(1, len(best.values) + 1),
        best.values,
        color=SERIES[1],
        linewidth=2.2,
        label=f"the best, trial {best.number}",
    )
    panel.plot(best.kept, best.value, "o", color=SERIES[1], markersize=8)
    panel.set(xlabel="epoch (marked: the one that the best trial keeps)", ylabel=f"{result.figure}, validation")
    panel.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = panel.get_legend_handles_labels()
    once = dict(zip(labels, handles))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=3)
    text = f"{len(pruned)} of {len(result.trials)} trials were pruned; the best kept epoch {best.kept} of {len(best.values)}."
    return _finish(figure, "epochs", "Validation figure per epoch", text)


def seeds_picture(result: SearchResult) -> Picture | None:
    """Searched figures beside those under fresh seeds; None without any."""
    if not result.retrained:
        return None
    figure = Figure(figsize=(WIDTH, 1.5 + 0.45 * len(result.retrained)))
    panel = figure.subplots()
    for place, one in enumerate(result.retrained):
        first = place == 0
        panel.plot(
            one.trial.value,
            place,
            "D",
            color=SERIES[1],
            fillstyle="none",
            markersize=8,
            label="searched" if first else None,
        )
        panel.plot(
            one.values,
            [place] * len(one.values),
            "o",
            color=SERIES[0],
            alpha=0.75,
            label="fresh seeds" if first else None,
        )
        panel.plot(
            np.mean(one.values),
            place,
            "|",
            color=INK,
            markersize=22,
            markeredgewidth=2,
            label="their mean" if first else None,
        )
    names = [f"trial {one.trial.number}" for one in result.retrained]
    panel.set(yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6), xlabel=f"{result.figure}, validation")
    panel.set_yticklabels(names)
    panel.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=3)
    said = "; ".join(
        f"trial {one.trial.number}: searched {one.trial.value:.3f}, under fresh seeds {spread(one.values)}"
        for one in result.retrained
    )
    return _finish(figure, "fresh_seeds", "Searched, and under fresh seeds", f"{said}.")


def importance_picture(result: SearchResult) -> Picture | None:
    """Which settings the objective depends on; None while too few trials have ended."""
    if not result.importances:
        return None
    names = list(result.importances)
    figure = Figure(figsize=(WIDTH, 0.9 + 0.32 * len(names)))
    panel = figure.subplots()
    values = np.array(list(result.importances.values()))
    bars = panel.barh(np.arange(len(names)), values, color=SERIES[0], alpha=0.75, height=0.62)
    panel.bar_label(bars, [f"{value:.0%}" for value in values], padding=4, color=INK, fontsize=9.5)
    panel.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5), xlim=(0, min(1.1, values.max() * 1.18)))
    panel.set_yticklabels([short_name(name) for name in names])
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.set_xlabel("share of the variance explained")
    panel.grid(axis="y", visible=False)
    said = ", ".join(f"{short_name(name)} {value:.0%}" for name, value in result.importances.items())
    return _finish(figure, "importance", "Which settings matter (fANOVA)", f"Importance: {said}.")


def slices_picture(result: SearchResult) -> Picture:
    """The objective against each setting, the most important first."""
    names = sorted(result.trials[0].settings, key=lambda name: -result.importances.get(name, 0))[:MOST_SLICES]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH * 1.45 if columns == 3 else WIDTH, 2.3 * rows + 0.4))
    panels = list(np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel())
    finished, pruned = _ended(result)
    for panel, name in zip(panels, names):
        drawn = [trial.settings[name] for trial in result.trials]
        aside = 0.0
        ranged = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in drawn)
        if ranged and len(set(drawn)) > 6:
            place = {trial.number: trial.settings[name] for trial in result.trials}
            if name in result.logarithmic:
                panel.set_xscale("log")
                ticks = _log_ticks(min(drawn), max(drawn))
                panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                panel.set_xticks([], minor=True)
        else:
            values = sorted({json.dumps(value): value for value in drawn}.values(), key=_order)
            place = {trial.number: values.index(trial.settings[name]) for trial in result.trials}
            aside = 0.14  # so that neither kind hides the other
            panel.set_xticks(range(len(values)), [shown(value) for value in values])
            panel.set_xlim(-0.5, len(values) - 0.5)
            if max(len(shown(value)) for value in values) * len(values) > 26:
                panel.tick_params(axis="x", labelrotation=25)
        _trials(
            panel,
            [place[trial.number] + aside for trial in finished],
            finished,
            [place[trial.number] - aside for trial in pruned],
            pruned,
        )
        panel.set_title(short_name(name))
    for panel in panels[len(names) :]:
        panel.remove()
    figure.supylabel(f"{result.figure}, validation", fontsize=10.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    best = result.best(1)[0]
    said = ", ".join(f"{short_name(name)} {shown(best.settings[name])}" for name in names)
    return _finish(figure, "slices", "Each setting against the figure", f"The best trial has {said}.")


def _ended(result: SearchResult) -> tuple[list[Trial], list[Trial]]:
    return (
        [trial for trial in result.trials if trial.state == "finished"],
        [trial for trial in result.trials if trial.state == "pruned"],
    )


def _trials(panel: Axes, xs: list[Any], finished: list[Trial], pruned_xs: list[Any], pruned: list[Trial]) -> None:
    panel.plot(pruned_xs, [t.value for t in pruned], "x", color=MUTED, markersize=6, label="pruned, as far as it came")
    panel.plot(xs, [t.value for t in finished], "o", color=SERIES[0], alpha=0.8, markersize=6, label="finished")


def _log_ticks(low: float, high: float, most: int = 3) -> list[float]:
    """A few round numbers between two ends."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    round_ = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    inside = [tick for tick in round_ if low <= tick <= high]
    decades = [tick for tick in inside if math.isclose(math.log10(tick), round(math.log10(tick)))]
    chosen = decades if len(decades) >= 2 else inside
    return chosen[:: max(1, math.ceil(len(chosen) / most))]


def _order(value: Any) -> tuple[int, Any]:
    numbers = value if isinstance(value, list) else [value]
    if all(isinstance(one, (int, float)) for one in numbers):
        return 0, numbers
    return 1, [str(one) for one in numbers]
