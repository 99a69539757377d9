"""Pictures of an assessment and of a comparison; each with the sentence that replaces it for who cannot see it.

Colours are those of Okabe and Ito (told apart with every common colour blindness), and never the only sign: lines differ
in dash, points in form. A picture is drawn once, in light colours; on the page a style sheet inside it turns them dark.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED
from lmf_multitask.evaluation.metrics import reliability_bins
from lmf_multitask.evaluation.tables import HEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lmf_multitask.evaluation.assessment import Assessment
    from lmf_multitask.evaluation.comparison import Comparison

INK, MUTED, GRID = "#1b1f24", "#5f6873", "#d3d8de"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9")
DARK = dict(
    zip(
        (INK, MUTED, GRID, *SERIES),
        ("#e7eaee", "#a4adb8", "#3b434d", "#58b0ec", "#ff8b3d", "#35cc9b", "#eba4cb", "#f2c14e", "#b7e0fb"),
    )
)
"""Colour of a picture -> its colour on a dark page."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 6.4  # inches; small enough that text stays readable when a phone scales it down

_STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "lmf",  # the same picture gives the same file
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
}


@dataclass(frozen=True)
class Picture:
    """One finished picture.

    Attributes:
        name: of its files.
        title: what it shows.
        alternative: the sentence in place of it.
        svg: in light colours, without a background.
        png: on white.
    """

    name: str
    title: str
    alternative: str
    svg: str
    png: bytes

    def svg_of_both_themes(self) -> str:
        """The SVG that follows the page between light and dark."""
        names = {colour: f"--c{number}" for number, colour in enumerate(DARK)}
        light = "".join(f"{name}:{colour};" for colour, name in names.items())
        dark = "".join(f"{names[colour]}:{other};" for colour, other in DARK.items())
        text = self.svg
        for colour, name in names.items():
            text = text.replace(colour, f"var({name})")
        style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
        end = text.index(">", text.index("<svg")) + 1
        return text[:end] + style + text[end:]


@contextmanager
def _drawing() -> Iterator[None]:
    with matplotlib.rc_context(rc={**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}):
        yield


def _finish(figure: Figure, name: str, title: str, alternative: str) -> Picture:
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    figure.set_layout_engine("none")  # everything has its place now
    figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Title": title, "Description": alternative})
    text = svg.getvalue()
    return Picture(name, title, alternative, text[text.index("<svg") :], png.getvalue())


def _grid(count: int, height: float, columns: int = 2, **shared: Any) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else WIDTH * 0.75, height * rows))
    panels = list(np.atleast_1d(figure.subplots(rows, columns, **shared)).ravel())
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def pictures_of(assessment: Assessment) -> list[Picture]:
    """Every picture that the assessment allows."""
    with _drawing():
        drawn = [
            figures_picture(assessment.metrics),
            *learning_pictures(assessment),
            confusion_picture(assessment.metrics),
            exclusive_picture(assessment.metrics),
            ranking_picture(assessment),
            reliability_picture(assessment),
            robustness_picture(assessment.robustness),
        ]
    return [picture for picture in drawn if picture is not None]


def figures_picture(metrics: Mapping[str, Any]) -> Picture:
    """Headline figures with intervals, baselines beside them."""
    shown = ("weighted_f1", "positive_f1", "uar", "auroc")
    emotions = list(metrics["emotions"])
    figure, panels = _grid(len(shown), 0.9 + 0.34 * len(emotions), sharey=True)
    places = np.arange(len(emotions))
    others = {"always absent": metrics["always_absent"]}
    if "logistic_regression" in metrics.get("baselines", {}):
        others["logistic regression"] = metrics["baselines"]["logistic_regression"]
    for panel, name in zip(panels, shown):
        values = [_or_nan(metrics["emotions"][e].get(name)) for e in emotions]
        bounds = [metrics["intervals"]["emotions"][e].get(name) or [np.nan, np.nan] for e in emotions]
        low, high = np.array(bounds).T
        panel.hlines(places, low, high, color=SERIES[0], linewidth=2.4)
        panel.plot(values, places, "o", color=SERIES[0], label="this model, 95% interval")
        for (label, other), form, colour in zip(others.items(), ("x", "D"), (MUTED, SERIES[1])):
            guess = [_or_nan(other["emotions"][e].get(name)) for e in emotions]
            panel.plot(guess, places, form, color=colour, markersize=6, fillstyle="none", label=label)
        panel.set(title=HEADS[name], xlim=(-0.02, 1.02), yticks=places, ylim=(len(emotions) - 0.5, -0.5))
        panel.set_yticklabels(emotions)
        panel.grid(axis="y", visible=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    said = "; ".join(
        f"{e} {_say(metrics['emotions'][e]['weighted_f1'])} {_range(metrics['intervals']['emotions'][e]['weighted_f1'])}"
        for e in emotions
    )
    return _finish(
        figure, "figures", "Figures with 95% intervals, and baselines", f"Weighted F1 with intervals: {said}."
    )


def learning_pictures(assessment: Assessment) -> list[Picture]:
    """Losses, and each emotion's validation figure, per epoch."""
    if not assessment.curves:
        return []
    emotions = list(assessment.emotions)
    figure = Figure(figsize=(WIDTH, 3.4))
    panel = figure.subplots()
    said = []
    for name, curves in assessment.curves.items():
        for emotion, values in curves.weighted_f1.items():
            t = emotions.index(emotion) if emotion in emotions else 0
            panel.plot(curves.epochs, values, color=_colour(t), linestyle=_dash(t), label=emotion)
            if curves.kept in curves.epochs:
                place = curves.epochs.index(curves.kept)
                panel.plot(curves.kept, values[place], _form(t), color=_colour(t), markersize=8)
        if curves.kept is not None:
            said.append(f"{name}: epoch {curves.kept} of {len(curves.epochs)} kept")
    kept = {curves.kept for curves in assessment.curves.values()}
    if len(kept) == 1 and None not in kept:
        _mark_epoch(panel, kept.pop())
    panel.set(xlabel="epoch (marked: the one kept)", ylabel="weighted F1, validation")
    panel.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    learning = _finish(figure, "learning", "Validation weighted F1 per epoch", f"Learning curves. {'; '.join(said)}.")
    figure, panels = _grid(len(assessment.curves), 3.4)
    if len(panels) == 1:
        figure.set_size_inches(WIDTH, 3.4)  # as its neighbour
    for panel, (name, curves) in zip(panels, assessment.curves.items()):
        for number, (kind, values) in enumerate(curves.losses.items()):
            panel.plot(curves.epochs, values, color=SERIES[number], linestyle=DASHES[number], label=kind)
        if curves.kept is not None:
            _mark_epoch(panel, curves.kept)
        panel.set(xlabel="epoch", ylabel="loss")
        panel.set_title(name if len(panels) > 1 else "", pad=20)  # above the mark of the kept epoch
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.legend()
    losses = [
        f"{name}: validation loss from {c.losses['validation'][0]:.3f} to {c.losses['validation'][-1]:.3f}"
        for name, c in assessment.curves.items()
        if c.losses.get("validation")
    ]
    return [learning, _finish(figure, "losses", "Loss per epoch", f"Losses. {'; '.join(losses)}.")]


def _mark_epoch(panel: Axes, epoch: int) -> None:
    panel.axvline(epoch, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.4)
    panel.annotate(
        f"kept: {epoch}", (epoch, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha="center", va="bottom", color=MUTED, fontsize=9.5, annotation_clip=False,
    )  # fmt: skip


def confusion_picture(metrics: Mapping[str, Any]) -> Picture:
    """Counts per emotion, at one half."""
    emotions = list(metrics["emotions"])
    figure, panels = _grid(len(emotions), 2.5)
    said = []
    for panel, name in zip(panels, emotions):
        c = metrics["emotions"][name]["confusion"]
        cells = [[c["true_negative"], c["false_positive"]], [c["false_negative"], c["true_positive"]]]
        _matrix(panel, cells, ["absent", "present"])
        panel.set(title=name, xlabel="decided", ylabel="true")
        said.append(
            f"{name}: {c['true_positive']} found, {c['false_negative']} missed, {c['false_positive']} false alarms, "
            f"{c['true_negative']} rightly absent"
        )
    return _finish(figure, "confusion", "Decisions at one half, clips", f"Confusion counts. {'; '.join(said)}.")


def exclusive_picture(metrics: Mapping[str, Any]) -> Picture | None:
    """Counts of the decision among all emotions; None where labels are not exclusive."""
    found = metrics.get("exclusive")
    if not found:
        return None
    size = 1.6 + 0.75 * len(found["emotions"])
    figure = Figure(figsize=(min(WIDTH, size + 0.6), min(WIDTH, size)))
    panel = figure.subplots()
    _matrix(panel, found["confusion"], found["emotions"])
    panel.set(xlabel="decided", ylabel="true")
    said = "; ".join(
        f"of {sum(row)} {name}, " + ", ".join(f"{count} {other}" for other, count in zip(found["emotions"], row))
        for name, row in zip(found["emotions"], found["confusion"])
    )
    return _finish(figure, "one_of_many", "The one decision among all emotions, clips", f"Decided: {said}.")


def _matrix(panel: Axes, cells: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    counts = np.asarray(cells)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.ndindex(counts.shape):
        # transparency, so that the shade fits any background; below 0.55 the ink stays readable on it
        patch = matplotlib.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, color=SERIES[0], linewidth=0)
        patch.set_alpha(0.55 * share[row, column])
        panel.add_patch(patch)
        panel.text(column, row, f"{counts[row, column]}\n{share[row, column]:.0%}", ha="center", va="center")
    size = len(names)
    panel.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xticks=range(size), yticks=range(size), aspect="auto")
    panel.set_xticklabels(names)
    panel.set_yticklabels(names)
    panel.grid(visible=False)
    panel.tick_params(length=0)


def ranking_picture(assessment: Assessment) -> Picture | None:
    """ROC and precision-recall; None where no emotion has both classes."""
    figure, (roc, curve) = _grid(2, 3.9)
    said = []
    for t, name in enumerate(assessment.emotions):
        known = assessment.labels[:, t] != NOT_ANNOTATED
        truth, values = assessment.labels[known, t], assessment.probabilities[known, t]
        if not 0 < truth.sum() < len(truth):
            continue
        figures = assessment.metrics["emotions"][name]
        wrong, right, _ = roc_curve(truth, values)
        precision, recall, _ = precision_recall_curve(truth, values)
        style = {"color": _colour(t), "linestyle": _dash(t)}
        roc.plot(wrong, right, label=name, **style)
        curve.plot(recall, precision, drawstyle="steps-post", **style)
        curve.plot(1.03, truth.mean(), marker="<", color=_colour(t), clip_on=False, markersize=6)
        said.append(f"{name} AUROC {_say(figures['auroc'])}, average precision {_say(figures['average_precision'])}")
    if not said:
        return None
    roc.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    roc.set(
        title="ROC",
        xlabel="false alarms / absent clips",
        ylabel="found / present clips",
        xlim=(-0.02, 1.02),
        ylim=(0, 1.03),
    )
    curve.set(title="precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))
    figure.legend(loc="outside lower center", ncols=min(len(said), 4))
    text = f"{'; '.join(said)}. Triangles: precision of guessing."
    return _finish(figure, "roc_and_precision_recall", "ROC, and precision against recall", text)


def reliability_picture(assessment: Assessment) -> Picture:
    """Share of present clips against probability in ten bins, before and after calibration."""
    figure, panels = _grid(len(assessment.emotions), 2.75, sharex=True, sharey=True)
    calibrated = None
    if assessment.calibration is not None:
        calibrated = assessment.calibration.calibrate(assessment.probabilities, assessment.emotions)
    said = []
    for t, (panel, name) in enumerate(zip(panels, assessment.emotions)):
        known = assessment.labels[:, t] != NOT_ANNOTATED
        truth = assessment.labels[known, t] == 1
        panel.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        versions = [("plain", assessment.probabilities, SERIES[1], "s", "--")]
        if calibrated is not None:
            versions.append(("calibrated", calibrated, SERIES[0], "o", "-"))
        for label, values, colour, form, dash in versions:
            count, mean, share = reliability_bins(truth, values[known, t])
            filled = count > 0
            panel.plot(mean[filled], share[filled], color=colour, linestyle=dash, linewidth=1.2)
            sizes = 12 + 120 * count[filled] / max(count.sum(), 1)
            open_ = {"facecolors": "none"} if form == "s" else {}
            panel.scatter(
                mean[filled],
                share[filled],
                sizes,
                color=None if open_ else colour,
                edgecolors=colour,
                marker=form,
                label=label,
                **open_,
            )
        panel.set(title=name, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        before = assessment.metrics["emotions"][name]["ece"]
        after = assessment.metrics.get("calibrated", {}).get("emotions", {}).get(name, {}).get("ece")
        said.append(f"{name} {_say(before)}" + (f" to {_say(after)}" if after is not None else ""))
    figure.supxlabel("probability of present", fontsize=10.5)
    figure.supylabel("share of present clips", fontsize=10.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    when = " before and after" if calibrated is not None else ""
    text = f"Reliability diagrams. Expected calibration error{when}: {'; '.join(said)}."
    return _finish(figure, "reliability", "Is the probability true? Points on the diagonal: yes", text)


def robustness_picture(found: Mapping[str, Any] | None) -> Picture | None:
    """Figures against noise and against missing rows, a line per modality; None where no curves were measured."""
    if not found or found["noise"] is None:
        return None
    kinds = {
        "noise": ("strength", "noise, in sd of the feature"),
        "missing": ("share", "clips where it is missing"),
    }
    floors = {"weighted_f1": ("always absent", found["always_absent"]["weighted_f1"]), "auroc": ("guessing", 0.5)}
    with _drawing():
        figure = Figure(figsize=(WIDTH, 5.6))
        panels = figure.subplots(2, 2, sharey="row", sharex="col")
        for panel, (_, label) in zip(panels[-1], kinds.values()):
            panel.set_xlabel(label)
        for row, (name, (floor_name, floor)) in zip(panels, floors.items()):
            for panel, (kind, (key, _)) in zip(row, kinds.items()):
                for m, modality in enumerate(MODALITIES):
                    if modality in found[kind]:
                        _draw_curve(panel, m, modality, found[kind][modality], key, name)
                if floor is not None:
                    panel.axhline(floor, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
                    panel.annotate(
                        floor_name, (0, floor), xycoords=("axes fraction", "data"), xytext=(3, 2),
                        textcoords="offset points", ha="left", va="bottom", color=MUTED, fontsize=9,
                    )  # fmt: skip
            row[0].set_ylabel(f"{'mean ' if len(found['subsets'][0]['emotions']) > 1 else ''}{HEADS[name]}")
        strengths = [point["strength"] for point in next(iter(found["noise"].values()))]
        panels[0, 0].set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        panels[0, 1].xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        said = "; ".join(
            f"{modality} from {_say(noise[0]['mean']['weighted_f1'])} to {_say(noise[-1]['mean']['weighted_f1'])} under the "
            f"strongest noise, to {_say(found['missing'][modality][-1]['mean']['weighted_f1'])} without it"
            for modality, noise in found["noise"].items()
        )
        title = (
            f"One modality disturbed ({found['split']}): mean of {found['draws']} draws, band of one standard deviation"
        )
        return _finish(figure, "robustness", title, f"Mean weighted F1 with one modality disturbed: {said}.")


def _draw_curve(panel: Axes, number: int, label: str, points: Sequence[Mapping[str, Any]], key: str, name: str) -> None:
    # strengths double from point to point: side by side they can be told apart
    places = range(len(points)) if key == "strength" else [point[key] for point in points]
    values = np.array([_or_nan(point["mean"][name]) for point in points])
    spread = np.array([_or_nan(point["sd"][name]) for point in points])
    panel.plot(
        places, values, color=_colour(number), linestyle=_dash(number), marker=_form(number), markersize=5, label=label
    )
    panel.fill_between(places, values - spread, values + spread, color=_colour(number), alpha=0.18, linewidth=0)


def difference_pictures(comparison: Comparison) -> list[Picture]:
    """Figures of several runs side by side, and the differences from the first with their intervals."""
    with _drawing():
        names, emotions = list(comparison.names), [*comparison.emotions, "mean"]
        figure, panels = _grid(2, 1.2 + 0.26 * len(emotions) * len(names))
        for panel, figure_name in zip(panels, ("weighted_f1", "positive_f1")):
            for r, name in enumerate(names):
                found = comparison.figures[name]
                places = np.arange(len(emotions)) + (r - (len(names) - 1) / 2) * 0.7 / len(names)
                values = [
                    _or_nan((found["mean"] if e == "mean" else found["emotions"][e]).get(figure_name)) for e in emotions
                ]
                bounds = [
                    (found["intervals"]["mean"] if e == "mean" else found["intervals"]["emotions"][e]).get(figure_name)
                    or [np.nan, np.nan]
                    for e in emotions
                ]
                low, high = np.array(bounds).T
                panel.hlines(places, low, high, color=_colour(r), linewidth=2)
                panel.plot(values, places, _form(r), color=_colour(r), label=name)
            panel.set(title=HEADS[figure_name], yticks=range(len(emotions)), ylim=(len(emotions) - 0.5, -0.5))
            panel.set_yticklabels(emotions)
            panel.grid(axis="y", visible=False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 3))
        said = "; ".join(f"{n} mean weighted F1 {_say(comparison.figures[n]['mean']['weighted_f1'])}" for n in names)
        first = _finish(figure, "side_by_side", "Figures with 95% intervals", f"{said}.")
        figure, panels = _grid(len(comparison.pairs), 1.3 + 0.34 * len(emotions), columns=1)
        said = []
        for panel, pair in zip(panels, comparison.pairs):
            entries = [*pair.emotions.values(), pair.mean]
            values = [_or_nan(entry.differences["weighted_f1"]) for entry in entries]
            bounds = [entry.intervals["weighted_f1"] or [np.nan, np.nan] for entry in entries]
            low, high = np.array(bounds).T
            places = np.arange(len(emotions))
            panel.axvline(0, color=INK, linewidth=1)
            panel.hlines(places, low, high, color=SERIES[0], linewidth=2.4)
            panel.plot(values, places, "o", color=SERIES[0])
            panel.set(title=f"{pair.second} minus {pair.first}", yticks=places, ylim=(len(emotions) - 0.5, -0.5))
            panel.set_yticklabels(emotions)
            panel.set_xlabel("difference of weighted F1")
            panel.grid(axis="y", visible=False)
            said.append(
                f"{pair.second} minus {pair.first}: "
                + ", ".join(f"{e} {v:+.3f}" for e, v in zip(emotions, values) if np.isfinite(v))
            )
        return [first, _finish(figure, "differences", "Differences with 95% intervals", f"{'; '.join(said)}.")]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _say(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(found: Sequence[float] | None) -> str:
    return "" if found is None else f"({found[0]:.3f} to {found[1]:.3f})"


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _dash(number: int) -> Any:
    return DASHES[(number + number // len(SERIES)) % len(DASHES)]  # a colour comes back with another dash


def _form(number: int) -> str:
    return MARKERS[(number + number // len(SERIES)) % len(MARKERS)]
