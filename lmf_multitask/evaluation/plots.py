"""Plots of an assessment, each with a sentence that replaces it for readers who cannot see it.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.evaluation.assessment import MEAN, Assessment
from lmf_multitask.evaluation.drawing import (
    DOTTED,
    MUTED,
    SERIES,
    WIDTH,
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
    whole_numbers,
)
from lmf_multitask.evaluation.metrics import BASELINES, METRICS, PLACES
from lmf_multitask.evaluation.table_parts import shown_metrics
from lmf_multitask.evaluation.text import difference, number, with_interval
from lmf_multitask.evaluation.value_plots import value_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


AHEAD = {"binary": ("weighted_f1", "auroc"), "regression": ("mae", "pearson")}
"""Kind of task -> keys of the metrics whose differences from the linear model are drawn."""


def plots_of(assessment: Assessment) -> list[Plot]:
    """Every plot that the assessment allows."""
    with drawing():
        drawn = [
            metrics_plot(assessment.metrics),
            ahead_plot(assessment.metrics),
            *learning_plots(assessment),
            confusion_plot(assessment),
            exclusive_plot(assessment.metrics),
            ranking_plot(assessment),
            reliability_plot(assessment),
            robustness_plot(assessment.robustness),
            *value_plots(assessment),
        ]
    return [plot for plot in drawn if plot is not None]


def metrics_plot(metrics: Mapping[str, Any]) -> Plot | None:
    """The headline metrics with intervals and baselines; None without any."""
    shown, emotions = shown_metrics(metrics, headline=True), list(metrics["emotions"])
    if not shown:
        return None
    figure, panels = panels_of(len(shown), 0.75 + 0.26 * len(emotions), sharey=True)
    others = {"always absent": metrics["always_absent"]}
    if "logistic_regression" in metrics.get("baselines", {}):
        others["logistic regression"] = metrics["baselines"]["logistic_regression"]
    for panel, metric in zip(panels, shown):
        places = rows_axis(panel, emotions)
        entries = [
            (metrics["emotions"][e].get(metric.key), metrics["intervals"]["emotions"][e].get(metric.key))
            for e in emotions
        ]
        interval_points(panel, places, entries, label="this model, 95% interval")
        for (name, other), form, colour in zip(others.items(), ("x", "D"), (MUTED, SERIES[1])):
            if other is metrics["always_absent"] and metric.needs != "decision":
                continue  # it has no probabilities of its own
            values = [or_nan(other["emotions"].get(e, {}).get(metric.key)) for e in emotions]
            panel.plot(values, places, form, color=colour, markersize=6, fillstyle="none", label=name)
        panel.set_title(metric.title)
        if panel.dataLim.x0 >= 0 and panel.dataLim.x1 <= 1:
            unit_axis(panel)
    legend_below(figure, panels[0], 2)
    first = shown[0]
    said = "; ".join(
        f"{e} {with_interval(metrics['emotions'][e].get(first.key), metrics['intervals']['emotions'][e].get(first.key))}"
        for e in emotions
    )
    title = "Headline metrics with 95% intervals, and baselines"
    return finish(figure, "metrics", title, f"{first.title} with intervals: {said}.")


def ahead_plot(metrics: Mapping[str, Any]) -> Plot | None:
    """Paired differences from the linear model of each task, with intervals; None where they were not measured."""
    wanted: list[tuple[Mapping[str, Any], str]] = []
    for kind, (_, linear) in BASELINES.items():
        ahead = (metrics.get("baselines") or {}).get(linear, {}).get("network_ahead", {})
        wanted += [(ahead[PLACES[kind]], key) for key in AHEAD[kind] if key in ahead.get("mean", {})]
    if not wanted:
        return None
    figure, panels = panels_of(len(wanted), 0.75 + 0.3 * max(len(entries) for entries, _ in wanted))
    said = []
    for panel, (entries, key) in zip(panels, wanted):
        places = rows_axis(panel, list(entries))
        found = [one.get(key) or {"difference": None, "interval": None} for one in entries.values()]
        panel.axvline(0, color=MUTED, linewidth=1)
        interval_points(panel, places, [(one["difference"], one["interval"]) for one in found])
        panel.set_title(METRICS[key].title)
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, symmetric=True))
        shown = (f"{name} {difference(one['difference'], one['interval'])}" for name, one in zip(entries, found))
        said.append(f"{METRICS[key].title}: {', '.join(shown)}")
    title = "This model minus the linear model, with 95% intervals"
    return finish(figure, "against_linear", title, f"Differences. {'; '.join(said)}.")


def learning_plots(assessment: Assessment) -> list[Plot]:
    """The monitored metric and those of each task, and losses, per epoch."""
    if not assessment.curves:
        return []
    emotions, several = list(assessment.emotions), len(assessment.curves) > 1
    keys = list(dict.fromkeys(key for one in assessment.curves.values() for key in one.metrics))
    titles = [METRICS[key].title if key in METRICS else key.replace("_", " ") for key in keys]
    figure, panels = panels_of(max(len(keys), 1), 3.4, width=WIDTH)
    said = []
    for panel, key, title in zip(panels, keys, titles):
        for number_of, (name, curves) in enumerate(assessment.curves.items()):
            for task, values in curves.metrics.get(key, {}).items():
                kept = [curves.epochs.index(curves.kept)] if curves.kept in curves.epochs else []
                look = style(emotions.index(task) if task in emotions else len(emotions) + number_of)
                text = label(name if several and task == MEAN else task)
                panel.plot(curves.epochs, values, **look, markevery=kept, markersize=8, label=text)
        kept_epochs = {curves.kept for curves in assessment.curves.values()}
        if len(kept_epochs) == 1:
            _mark_epoch(panel, kept_epochs.pop())
        panel.set(xlabel="epoch", ylabel=f"{title}, validation")
        whole_numbers(panel)
    for name, curves in assessment.curves.items():
        if curves.kept is not None:
            said.append(f"{name}: epoch {curves.kept} of {len(curves.epochs)} kept")
    legend_below(figure, panels, 4)
    learning = finish(
        figure,
        "learning",
        f"Validation {', '.join(titles)} per epoch; marked: the best, which is kept",
        f"Learning curves. {'; '.join(said)}.",
    )
    figure, panels = panels_of(len(assessment.curves), 3.4, width=WIDTH)
    losses = []
    for panel, (name, curves) in zip(panels, assessment.curves.items()):
        for index, (kind, values) in enumerate(curves.losses.items()):
            panel.plot(curves.epochs, values, **style(index, marker=False), label=kind)
        _mark_epoch(panel, curves.kept)
        panel.set(xlabel="epoch", ylabel="loss")
        panel.set_title(label(name) if several else "", pad=20)  # above the mark of the kept epoch
        whole_numbers(panel)
        panel.legend()
        if curves.losses.get("validation"):
            values = curves.losses["validation"]
            losses.append(f"{name}: validation loss from {values[0]:.3f} to {values[-1]:.3f}")
    return [learning, finish(figure, "losses", "Loss per epoch", f"Losses. {'; '.join(losses)}.")]


def _mark_epoch(panel: Axes, epoch: int | None) -> None:
    if epoch is None:
        return
    panel.axvline(epoch, color=MUTED, linestyle=DOTTED, linewidth=1.4)
    panel.annotate(
        f"kept: {epoch}", (epoch, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha="center", va="bottom", color=MUTED, fontsize=9.5, annotation_clip=False,
    )  # fmt: skip


def binary_tasks(assessment: Assessment) -> list[tuple[int, str]]:
    """Column and name of each binary task."""
    return [
        (t, name)
        for t, name in enumerate(assessment.emotions)
        if "confusion" in assessment.metrics["emotions"].get(name, {})
    ]


def confusion_plot(assessment: Assessment) -> Plot | None:
    """Confusion counts of binary tasks; None without any."""
    tasks = binary_tasks(assessment)
    if not tasks:
        return None
    figure, panels = panels_of(len(tasks), 2.5)
    said = []
    for panel, (_, name) in zip(panels, tasks):
        c = assessment.metrics["emotions"][name]["confusion"]
        cells = [[c["true_negative"], c["false_positive"]], [c["false_negative"], c["true_positive"]]]
        _matrix(panel, cells, ["absent", "present"])
        panel.set_title(label(name))
        said.append(
            f"{name}: {c['true_positive']} true positives, {c['false_negative']} false negatives, "
            f"{c['false_positive']} false positives, {c['true_negative']} true negatives"
        )
    return finish(figure, "confusion", "Decisions by emotion, clips", f"Confusion counts. {'; '.join(said)}.")


def exclusive_plot(metrics: Mapping[str, Any]) -> Plot | None:
    """Confusion counts of the decision among all emotions; None where labels are not exclusive."""
    found = metrics.get("exclusive")
    if not found:
        return None
    size = min(WIDTH, 1.6 + 0.75 * len(found["emotions"]))
    figure, (panel,) = panels_of(1, size, width=min(WIDTH, size + 0.6))
    _matrix(panel, found["confusion"], found["emotions"])
    said = "; ".join(
        f"of {sum(row)} {name}, " + ", ".join(f"{count} {other}" for other, count in zip(found["emotions"], row))
        for name, row in zip(found["emotions"], found["confusion"])
    )
    return finish(figure, "one_of_many", "The one decision among all emotions, clips", f"Decided: {said}.")


def _matrix(panel: Axes, cells: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    counts = np.asarray(cells)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(counts.shape):
        # transparent, so that the shade fits any background; up to 0.55 the text on it stays readable
        patch = matplotlib.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, color=SERIES[0], linewidth=0)
        patch.set_alpha(0.55 * share[row, column])
        panel.add_patch(patch)
        panel.text(column, row, f"{counts[row, column]}", ha="center", va="center")
    rows_axis(panel, names)
    panel.set(xlim=(-0.5, len(names) - 0.5), xticks=range(len(names)), xlabel="decided", ylabel="true")
    panel.set_xticklabels([label(name) for name in names], rotation=45 if max(map(len, names)) > 9 else 0)
    panel.grid(visible=False)
    panel.tick_params(length=0)


def ranking_plot(assessment: Assessment) -> Plot | None:
    """ROC and precision-recall curves; None where no emotion has both classes."""
    if not binary_tasks(assessment):
        return None
    figure, (roc, curve) = panels_of(2, 3.2)
    said = []
    for t, name in binary_tasks(assessment):
        truth, values = _known(assessment, t)
        if not 0 < truth.sum() < len(truth):
            continue
        found, look = assessment.metrics["emotions"][name], style(t, marker=False)
        hits, alarms = hits_and_alarms(truth, values)
        recall = hits / hits[-1]
        roc.plot(alarms / alarms[-1], recall, label=label(name), **look)
        precision = hits[1:] / (hits + alarms)[1:]
        curve.plot([0, *recall[1:]], [precision[0], *precision], drawstyle="steps-pre", **look)
        curve.plot(1.03, truth.mean(), marker="<", color=look["color"], clip_on=False, markersize=6)
        said.append(f"{name} AUROC {number(found['auroc'])}, average precision {number(found['average_precision'])}")
    if not said:
        return None
    _diagonal(roc)
    roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(0, 1.03))
    curve.set(title="precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))
    legend_below(figure, roc, 4)
    text = f"{'; '.join(said)}. Triangles: precision of guessing."
    return finish(figure, "roc_and_precision_recall", "ROC, and precision against recall", text)


def hits_and_alarms(truth: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives as the threshold falls past each value: from 0 to all, `[values + 1]` each.

    (scikit-learn's curves are the same, but take half a second to import.)

    Args:
        truth: bool `[N]`.
        values: probabilities `[N]`.
    """
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # of each value
    hits = np.cumsum(truth[order])[last]
    return np.append(0, hits), np.append(0, last + 1 - hits)


def reliability_plot(assessment: Assessment) -> Plot | None:
    """Share of present clips against probability in bins of equally many clips, and histograms; None without binary tasks."""
    tasks = binary_tasks(assessment)
    if not tasks:
        return None
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(WIDTH, 2.9 * rows + 0.4))
    grid = figure.subplots(2 * rows, columns, sharex=True, squeeze=False, height_ratios=[4, 1] * rows)
    for panel in grid.ravel()[2 * len(tasks) :] if columns == 1 else grid[-2:, 1 if len(tasks) % 2 else 2 :].ravel():
        panel.remove()
    said = []
    for number_of, (t, name) in enumerate(tasks):
        row, column = divmod(number_of, columns)
        panel, strip = grid[2 * row, column], grid[2 * row + 1, column]
        _diagonal(panel)
        truth, values = _known(assessment, t)
        mean, share, low, high = equal_mass_bins(truth, values)
        look = {**style(0), "linewidth": 1.2, "markersize": 4.5}
        panel.vlines(mean, low, high, color=look["color"], linewidth=1, alpha=0.5)
        panel.plot(mean, share, **look)
        strip.hist(values, np.linspace(0, 1, 21), histtype="step", color=look["color"], linestyle=look["linestyle"])
        panel.set(title=label(name), ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
        strip.set(yticks=[])
        strip.grid(visible=False)
        unit_axis(strip)
        said.append(f"{name} {number(assessment.metrics['emotions'][name]['ece'])}")
    figure.supxlabel("probability of present; below: histogram of clips")
    figure.supylabel("share of present clips")
    text = f"Reliability diagrams. Expected calibration error: {'; '.join(said)}."
    return finish(figure, "reliability", "Calibration: points on the diagonal are calibrated", text)


def equal_mass_bins(truth: np.ndarray, values: np.ndarray, bins: int = 10) -> tuple[np.ndarray, ...]:
    """Mean probability, share of present, and Wilson's 95% interval of that share, in bins of equally many clips, `[bins]` each.

    Args:
        truth: bool `[N]`.
        values: probabilities `[N]`.
        bins: at most; fewer clips give fewer.
    """
    parts = [rows for rows in np.array_split(np.argsort(values, kind="stable"), bins) if len(rows)]
    size, mean, share = (
        np.array([(len(rows), values[rows].mean(), truth[rows].mean()) for rows in parts]).reshape(-1, 3).T
    )
    z = 1.959964
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    return mean, share, centre - half, centre + half


def _known(assessment: Assessment, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels bool `[n]` and probabilities `[n]` of the clips that are annotated for a task."""
    known = ~np.isnan(assessment.labels[:, t])
    return assessment.labels[known, t] == 1, assessment.probabilities[known, t]


def _diagonal(panel: Axes) -> None:
    panel.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DOTTED)


def robustness_plot(found: Mapping[str, Any] | None) -> Plot | None:
    """Metrics against noise and against missing rows, a line per modality; None where no curves were measured."""
    if not found or found["noise"] is None or not found["subsets"][0]["emotions"]:
        return None
    kinds = {"noise": ("strength", "noise, in std of the feature"), "missing": ("share", "clips where it is missing")}
    floors = {"weighted_f1": ("always absent", found["always_absent"]["weighted_f1"]), "auroc": ("guessing", 0.5)}
    mean = "mean " if len(found["subsets"][0]["emotions"]) > 1 else ""
    with drawing():
        figure, panels = panels_of(4, 2.8, sharey="row", sharex="col")
        for panel, (key, kind) in zip(panels, [(key, kind) for key in floors for kind in kinds]):
            coordinate, text = kinds[kind]
            for m, modality in enumerate(MODALITIES):
                if modality in found[kind]:
                    _draw_curve(panel, m, modality, found[kind][modality], coordinate, key)
            floor_name, floor = floors[key]
            if floor is not None:
                panel.axhline(floor, color=MUTED, linewidth=1.2, linestyle=DOTTED)
                panel.annotate(
                    floor_name, (0, floor), xycoords=("axes fraction", "data"), xytext=(3, 2),
                    textcoords="offset points", ha="left", va="bottom", color=MUTED, fontsize=9,
                )  # fmt: skip
            panel.set(xlabel=text, ylabel=f"{mean}{METRICS[key].title}")
            panel.label_outer()
        strengths = [point["strength"] for point in next(iter(found["noise"].values()))]
        panels[0].set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        panels[1].xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        legend_below(figure, panels[0])
        said = "; ".join(
            f"{modality} from {number(noise[0]['mean']['weighted_f1'])} to {number(noise[-1]['mean']['weighted_f1'])} with "
            f"the strongest noise, to {number(found['missing'][modality][-1]['mean']['weighted_f1'])} without it"
            for modality, noise in found["noise"].items()
        )
        title = f"One modality disturbed ({found['split']}): mean of {found['draws']} draws, band of one std"
        return finish(figure, "robustness", title, f"Mean weighted F1 with one modality disturbed: {said}.")


def _draw_curve(
    panel: Axes, index: int, name: str, points: Sequence[Mapping[str, Any]], coordinate: str, key: str
) -> None:
    # strengths double from point to point: equal steps keep them apart
    places = range(len(points)) if coordinate == "strength" else [point[coordinate] for point in points]
    values = np.array([or_nan(point["mean"][key]) for point in points])
    spread = np.array([or_nan(point["sd"][key]) for point in points])
    panel.plot(places, values, **style(index), markersize=5, label=name)
    panel.fill_between(places, values - spread, values + spread, color=style(index)["color"], alpha=0.18, linewidth=0)
