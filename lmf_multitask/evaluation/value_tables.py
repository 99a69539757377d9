"""Tables of real-valued tasks, for a terminal and for the HTML page; those of emotions are in `tables`."""

from __future__ import annotations

from collections.abc import Sequence

from lmf_multitask.evaluation.metrics import BASELINES, METRICS, PLACES, REGRESSION, Metric
from lmf_multitask.evaluation.published import PUBLISHED_VALUES, VALUE_KEYS, published_data_set
from lmf_multitask.evaluation.table_parts import Content, cells_with_intervals, rows_of, shown_metrics, spread
from lmf_multitask.evaluation.text import TextTable, number

PLACE = PLACES[REGRESSION]
CONVENTIONS = (
    "Acc-2 and F1 neg/non-neg: negative against non-negative over all clips; neg/pos: negative against positive, without clips "
    "whose label is 0."
)


def headline_table(metrics: Content) -> TextTable | None:
    """The headline metrics, beside those of the baselines where these were measured; None without real-valued tasks."""
    if not metrics.get(PLACE):
        return None
    shown = shown_metrics(metrics, headline=True, place=PLACE)

    def cells(name: str | None, found: Content) -> list[str]:
        return ["" if name is None else str(found["annotated"]), *(number(found.get(m.key)) for m in shown)]

    rows = rows_of(cells, metrics, place=PLACE)
    for name in BASELINES[REGRESSION]:
        if name in (metrics.get("baselines") or {}):
            others = rows_of(cells, metrics["baselines"][name], place=PLACE)
            rows += [[f"{row[0]}: {name.replace('_', ' ')}", *row[1:]] for row in others]
    title = f"real-valued tasks, {metrics['split']}, {metrics['samples']} clips"
    return TextTable(title, ["task", "annotated", *(m.title for m in shown)], rows, note=_conventions(shown))


def intervals_table(metrics: Content) -> TextTable | None:
    """Headline metrics with their 95% intervals; None without real-valued tasks."""
    if not metrics.get(PLACE):
        return None
    shown, intervals = shown_metrics(metrics, headline=True, place=PLACE), metrics["intervals"]
    rows = rows_of(cells_with_intervals(shown), metrics, intervals, place=PLACE)
    title = f"real-valued tasks with 95% intervals over {metrics['split']} clips ({intervals['resamples']:,} resamples)"
    return TextTable(title, ["task", *(metric.title for metric in shown)], rows, len(rows) > 1)


def further_table(metrics: Content) -> TextTable | None:
    """All metrics that are not in the headline; None without any."""
    shown = shown_metrics(metrics, headline=False, place=PLACE)
    if not shown:
        return None
    rows = rows_of(lambda name, found: [number(found.get(m.key)) for m in shown], metrics, place=PLACE)
    heads = ["task", *(metric.title for metric in shown)]
    return TextTable("real-valued tasks, further metrics", heads, rows, len(rows) > 1, _conventions(shown))


def prediction_intervals_table(metrics: Content) -> TextTable | None:
    """Split-conformal prediction intervals and the share of clips that they cover; None where none was fitted."""
    found = metrics.get("prediction_intervals")
    if not found:
        return None
    rows = [
        [name, f"± {one['half_width']:.3f}", f"{one['coverage']:.0%}", str(one["rows"]), number(one["covered"])]
        for name, one in found.items()
    ]
    heads = ["task", "interval", "wanted", "fitted on clips", f"covered in {metrics['split']}"]
    note = "Prediction ± a quantile of the absolute errors on validation (split-conformal)."
    if metrics["calibration"]["fitted_on"] == metrics["split"]:
        note += f" Fitted on these same {metrics['split']} clips: too optimistic."
    return TextTable("prediction intervals", heads, rows, note=note)


def published_table(metrics: Content) -> TextTable | None:
    """Published results next to the own ones; None for anything but the test splits of MOSI and POM."""
    name = published_data_set(metrics.get(PLACE, {}))
    if name is None:
        return None
    keys = VALUE_KEYS[name]
    rows = [[model, *map(number, values)] for model, values in PUBLISHED_VALUES[name].items()]
    rows.append(["this model", *(number(metrics["mean"].get(key)) for key in keys)])
    heads = ["model", *(METRICS[key].title for key in keys)]
    note = "Second-hand: quoted from memory, not checked against the papers' tables. The convention of Acc-2 and F1 is assumed."
    return TextTable(f"published for the test split of {name}", heads, rows, True, note)


def seed_table(summary: Content, title: str = "") -> TextTable | None:
    """`statistics.seed_summary` of real-valued tasks: mean ± std over seeds, and the interval of the mean; None without any."""
    if not summary.get(PLACE):
        return None
    shown = shown_metrics(summary, headline=True, place=PLACE)
    rows = rows_of(lambda name, found: [spread(found.get(m.key)) for m in shown], summary, place=PLACE)
    return TextTable(
        f"{title}real-valued tasks, {summary['split']}, {summary['samples']:,} clips, {len(summary['seeds'])} seeds: "
        "mean ± std [95% t-interval of the mean]",
        ["task", *(metric.title for metric in shown)],
        rows,
        len(rows) > 1,
        _conventions(shown),
    )


def robustness_table(found: Content) -> TextTable | None:
    """Real-valued tasks with subsets of modalities and, where curves were measured, at the strongest disturbance."""
    first = found["subsets"][0]
    if PLACE not in first:
        return None
    keys = [key for key in METRICS if any(key in one for one in first[PLACE].values())]

    def row(label: str, one: Content) -> list[str]:
        return [label, *(number(one[PLACE][name].get(key)) for name in first[PLACE] for key in keys)]

    rows = [row(" + ".join(one["modalities"]), one) for one in found["subsets"]]
    for modality, points in (found["noise"] or {}).items():
        rows += [row(f"noise of {p['strength']:g} std on {modality}", p) for p in points if p["strength"] in (1, 4)]
    for modality, points in (found["missing"] or {}).items():
        rows += [row(f"no {modality} in {p['share']:.0%} of clips", p) for p in points if p["share"] == 0.5]
    heads = [f"{name} {METRICS[key].title}" for name in first[PLACE] for key in keys]
    title = f"real-valued tasks with modalities removed or disturbed, {found['split']}, {found['samples']:,} clips"
    return TextTable(title, ["present modalities", *heads], rows)


def _conventions(shown: Sequence[Metric]) -> str:
    return CONVENTIONS if any("neg/" in metric.title for metric in shown) else ""
