"""Plots of real-valued tasks: predicted against true, residuals by value.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lmf_multitask.evaluation.drawing import INK, MUTED, Plot, finish, label, panels_of, style
from lmf_multitask.evaluation.metrics import METRICS, PLACES, REGRESSION
from lmf_multitask.evaluation.text import number, with_interval

if TYPE_CHECKING:
    from lmf_multitask.evaluation.assessment import Assessment

PLACE = PLACES[REGRESSION]
BINS = 8
"""Of the label, with equally many clips, for errors by value."""


def value_plots(assessment: Assessment) -> list[Plot]:
    """Predicted against true, and residuals by value, of every real-valued task; nothing without any."""
    chosen = [(t, name) for t, name in enumerate(assessment.emotions) if name in assessment.metrics.get(PLACE, {})]
    known = {name: _known(assessment, t) for t, name in chosen}
    known = {name: pair for name, pair in known.items() if len(pair[0])}
    if not known:
        return []
    figure, panels = panels_of(len(known), 3.2)
    said = []
    for panel, (name, (truth, values)) in zip(panels, known.items()):
        low, high = min(truth.min(), values.min()), max(truth.max(), values.max())
        panel.plot([low, high], [low, high], color=MUTED, linewidth=1)
        panel.scatter(truth, values, 9, color=style(0)["color"], alpha=0.5, linewidths=0)
        panel.set(title=label(name), xlabel="true", ylabel="predicted")
        found, intervals = assessment.metrics[PLACE][name], assessment.metrics["intervals"][PLACE][name]
        shown = (
            f"{METRICS[key].title} {with_interval(found[key], intervals[key])}" for key in ("mae", "pearson", "ccc")
        )
        said.append(f"{name}: {', '.join(shown)}")
    scatter = finish(figure, "predicted", "Predicted against true; on the line they are equal", f"{'; '.join(said)}.")
    figure, panels = panels_of(len(known), 3.0)
    said = []
    for panel, (name, (truth, values)) in zip(panels, known.items()):
        edges = np.unique(np.quantile(truth, np.linspace(0, 1, BINS + 1)))
        number_of = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, max(len(edges) - 2, 0))
        panel.axhline(0, color=INK, linewidth=1)
        panel.scatter(truth, values - truth, 9, color=style(0)["color"], alpha=0.4, linewidths=0, label="one clip")
        bins = [number_of == one for one in np.unique(number_of)]
        centres = [truth[rows].mean() for rows in bins]
        means, errors = (
            [f(values[rows] - truth[rows]) for rows in bins] for f in (np.mean, lambda d: np.abs(d).mean())
        )
        panel.plot(centres, means, **style(1), label="mean error")
        panel.plot(centres, errors, **style(2), label="mean absolute error")
        panel.set(title=label(name), xlabel="true", ylabel="predicted minus true")
        listed = ", ".join(f"{number(error)} around {centre:.2f}" for centre, error in zip(centres, errors))
        said.append(f"{name}: mean absolute error {listed}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, columnspacing=1)
    return [scatter, finish(figure, "residuals", "Errors by true value", f"{'; '.join(said)}.")]


def _known(assessment: Assessment, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions float64 `[n]` of the clips that are annotated for a task."""
    known = ~np.isnan(assessment.labels[:, t])
    return assessment.labels[known, t].astype(np.float64), assessment.probabilities[known, t].astype(np.float64)
