"""Every table of metrics as rows of text, and the sentences that sum them up, for a terminal and for the HTML page.

Titles, order and direction of metrics come from `METRICS`: a metric that is registered in it appears in the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmf_multitask.errors import printable
from lmf_multitask.evaluation.comparison import Comparison, Difference, Pair
from lmf_multitask.evaluation.metrics import EXCLUSIVE, METRICS, Metric, metrics_for
from lmf_multitask.evaluation.published import LMF_PADDLE, LMF_PAPER, PUBLISHED, is_lmf_split
from lmf_multitask.evaluation.statistics import FEWEST_ROWS, LEVEL
from lmf_multitask.evaluation.text import TextTable, difference, number, with_interval

VERDICT_METRICS = ("weighted_f1", "auroc", "weighted_accuracy", "unweighted_accuracy")
"""Metrics that a verdict between two models is based on."""

PAIRED_METRICS = ("weighted_f1", "positive_f1", "auroc")
"""Metrics whose paired differences are shown per emotion."""

Content = Mapping[str, Any]
"""Metrics with ``emotions`` (name -> metrics of one) and ``mean``, as in ``metrics.json``."""


# -- metrics of one model


def results_table(metrics: Content) -> str:
    """The headline metrics as text.

    Args:
        metrics: the content of ``metrics.json``; parts that are missing are left out. Published metrics are added if the
            clips are IEMOCAP's in LMF's split, under ``mode`` per_emotion with the difference to them.
    """
    if metrics.get("folds"):
        return folds_table(metrics).as_text()
    shown, emotions = shown_metrics(metrics, headline=True), metrics["emotions"]
    baseline = metrics.get("always_absent")
    published = (LMF_PAPER, LMF_PADDLE) if is_lmf_split(emotions) else ()
    separate = metrics.get("mode") == "per_emotion"

    def cells(name: str | None, found: Content, absent: Content | None = None) -> list[str]:
        row = [
            "" if name is None else f"{found.get('support', '-')}/{found['annotated']}",
            *(number(found.get(m.key)) for m in shown),
        ]
        if absent is not None:
            row.append(number(absent.get("weighted_f1")))
        for source in published:
            value = None if name is None else source[name]
            row.append("" if value is None else number(value))
            if separate and value is not None:
                row[-1] += f" ({found['weighted_f1'] - value:+.3f})"
        return row

    heads = ["emotion", "present", *(metric.title for metric in shown)]
    notes = []
    if baseline:
        heads.append("always absent*")
        notes.append("*  weighted F1 of never predicting the emotion, on these clips")
    if published:
        heads += ["LMF paper**", "LMF_Paddle**"]
        difference = " (in brackets: this model minus that)" if separate else ""
        notes.append(
            f"** weighted F1 published for IEMOCAP's 938 test clips, one model per emotion; not measured here{difference}"
        )
    notes += [line for line in (why_not_published(metrics), verdict_on_linear(metrics)) if line]
    rows = _rows(cells, *[metrics, *([baseline] if baseline else [])])
    title = f"{metrics['split']}, {metrics['samples']} clips"
    return TextTable(title, heads, rows, len(rows) > 1, "\n".join(notes)).as_text()


def full_tables(metrics: Content, *, calibrated: bool = False, threshold: str = "0.5") -> str:
    """`results_table` and everything else that ``metrics.json`` holds, as text.

    Args:
        metrics: the content of ``metrics.json``; parts that are missing are left out.
        calibrated: whether to show the metrics of the calibrated probabilities too.
        threshold: ``positive_f1`` or ``uar`` for the metrics at the thresholds fitted for them too; ``0.5`` for none.
    """
    found: list[TextTable | None] = []
    if metrics.get("intervals"):
        found += [intervals_table(metrics), further_table(metrics)]
    if calibrated and metrics.get("calibrated"):
        found.append(calibrated_table(metrics))
    if threshold != "0.5" and metrics.get("thresholds"):
        found.append(thresholds_table(metrics, threshold))
    found += [exclusive_table(metrics), baseline_table(metrics), published_table({"this model": metrics})]
    first = {name: value for name, value in metrics.items() if name != "baselines"}  # they have their own table
    parts = [results_table(first), *(one.as_text() for one in found if one is not None), undefined_lines(metrics)]
    return "\n\n".join(part for part in parts if part)


def folds_table(metrics: Content) -> TextTable:
    """Of a cross-validation, metrics of the pooled predictions with their intervals, and mean ± std over folds."""
    shown, folds = shown_metrics(metrics, headline=True), metrics["folds"]
    over = _rows(
        lambda name, found: [_spread(found.get(m.key)) for m in shown], {**folds, "emotions": folds["emotions"]}
    )
    rows = []
    for (name, *pooled), (_, *spread) in zip(_rows(_with_intervals(shown), metrics, metrics["intervals"]), over):
        rows += [[name, "pooled", *pooled], ["", "folds", *spread]]
    exclusive, decision = metrics.get("exclusive"), ""
    if exclusive:
        own, intervals = list(metrics_for(EXCLUSIVE).values()), metrics["intervals"].get("exclusive", {})
        together = "  ".join(f"{m.title} {with_interval(exclusive[m.key], intervals.get(m.key))}" for m in own)
        apart = "  ".join(f"{m.title} {_spread((folds.get('exclusive') or {}).get(m.key))}" for m in own)
        decision = f"one of {len(metrics['emotions'])}: pooled {together}; folds {apart}"
    by = f"one per {folds['by']}" if isinstance(folds["by"], str) else "stratified"
    notes = [
        "pooled: all out-of-fold predictions together, 95% intervals over clips; folds: mean ± std over folds",
        decision,
        verdict_on_linear(metrics),
    ]
    return TextTable(
        f"{metrics['samples']:,} clips, each predicted by the fold that was not trained on it; {len(folds['runs'])} folds ({by})",
        ["emotion", "", *(metric.title for metric in shown)],
        rows,
        note="\n".join(note for note in notes if note),
        left=(0, 1),
    )


def each_fold_table(metrics: Content) -> TextTable:
    """The means over emotions of every fold of a cross-validation."""
    shown = shown_metrics(metrics, headline=True)
    rows = [
        [
            one["name"],
            ", ".join(one["groups"][:4]) + (" ..." if len(one["groups"]) > 4 else "") or "-",
            f"{one['samples']:,}",
            *(number(one["mean"].get(metric.key)) for metric in shown),
        ]
        for one in metrics["folds"]["runs"]
    ]
    heads = ["fold", "test groups", "clips", *(metric.title for metric in shown)]
    return TextTable("means over emotions of each fold", heads, rows, left=(0, 1))


def intervals_table(metrics: Content) -> TextTable:
    """Headline metrics with their 95% intervals."""
    shown, intervals = shown_metrics(metrics, headline=True), metrics["intervals"]
    rows = _rows(_with_intervals(shown), metrics, intervals)
    title = f"headline metrics with 95% intervals over {metrics['split']} clips ({intervals['resamples']:,} bootstrap resamples)"
    return TextTable(title, ["emotion", *(metric.title for metric in shown)], rows, len(rows) > 1)


def further_table(metrics: Content) -> TextTable:
    """All metrics that are not in the headline, and the confusion counts."""
    shown = shown_metrics(metrics, headline=False)

    def cells(name: str | None, found: Content) -> list[str]:
        counts = found.get("confusion", {})
        parts = [counts.get(key) for key in ("true_positive", "false_positive", "false_negative", "true_negative")]
        return [*(number(found.get(m.key)) for m in shown), "" if None in parts else "/".join(map(str, parts))]

    rows = _rows(cells, metrics)
    heads = ["emotion", *(metric.title for metric in shown), "TP/FP/FN/TN"]
    return TextTable("uncalibrated probabilities, present above one half", heads, rows, len(rows) > 1)


def calibrated_table(metrics: Content) -> TextTable:
    """Errors of the probabilities before and after calibration."""
    after, fitted = metrics["calibrated"], metrics["calibration"]["emotions"]
    shown = [metric for metric in shown_metrics(after) if not metric.greater_is_better]
    rows = [
        [
            name,
            f"{fitted[name]['temperature']:.2f}",
            *(f"{number(metrics['emotions'][name].get(m.key))} -> {number(found.get(m.key))}" for m in shown),
        ]
        for name, found in after["emotions"].items()
    ]
    heads = ["emotion", "temperature", *(metric.title for metric in shown)]
    title = "probabilities before -> after calibration (temperatures from validation)"
    return TextTable(title, heads, rows, note=_fitted_here(metrics))


def thresholds_table(metrics: Content, threshold: str) -> TextTable:
    """Metrics of the decisions at the thresholds that maximise a metric on validation."""
    content, fitted = metrics["thresholds"][threshold], metrics["calibration"]["emotions"]
    shown = [metric for metric in shown_metrics(content) if metric.needs == "decision"]

    def cells(name: str | None, found: Content) -> list[str]:
        value = "" if name is None else f"{fitted[name]['thresholds'][threshold]:.3f}"
        return [value, *(number(found.get(m.key)) for m in shown)]

    rows = _rows(cells, content)
    title = f"at the thresholds with the best {METRICS[threshold].title} on validation"
    heads = ["emotion", "threshold", *(metric.title for metric in shown)]
    return TextTable(title, heads, rows, len(rows) > 1, _fitted_here(metrics))


def _fitted_here(metrics: Content) -> str:
    """A warning where calibration was fitted on the clips that it is evaluated on; empty otherwise."""
    if metrics["calibration"]["fitted_on"] != metrics["split"]:
        return ""
    return f"Fitted on these same {metrics['split']} clips: too optimistic. Use the test split to judge them."


def exclusive_table(metrics: Content) -> TextTable | None:
    """The decision among all emotions; None where labels are not exclusive."""
    found = metrics.get("exclusive")
    if not found:
        return None
    intervals = metrics.get("intervals", {}).get("exclusive", {})
    values = "  ".join(
        f"{metric.title} {with_interval(found[metric.key], intervals.get(metric.key))}"
        for metric in metrics_for(EXCLUSIVE).values()
    )
    heads, names = found["heads"], found["emotions"]
    note = (
        f"Heads at one half: exactly one predicts present in {heads['one_present']:.0%} of clips, "
        f"none in {heads['none_present']:.0%}, several in {heads['several_present']:.0%}."
    )
    if found["probabilities"] == "calibrated" and _fitted_here(metrics):
        note += f"\nCalibration: {_fitted_here(metrics)}"
    return TextTable(
        f"one of {len(names)} (highest {found['probabilities']} probability): {values}",
        ["true \\ decided", *names],
        [[name, *map(str, row)] for name, row in zip(names, found["confusion"])],
        note=note,
    )


def baseline_table(metrics: Content) -> TextTable | None:
    """Every metric of the baselines and of the model, with the verdict on logistic regression; None without baselines."""
    baselines = metrics.get("baselines") or {}
    if not baselines:
        return None
    columns = {"always_absent": metrics["always_absent"], **baselines, "this model": metrics}
    rows = [
        [metric.title, *(number(one["mean"].get(metric.key)) for one in columns.values())]
        for metric in shown_metrics(metrics)
    ]
    if metrics.get("exclusive"):
        decisions = [one.get("exclusive") or {} for one in columns.values()]
        rows += [
            [f"{metric.title} (one of {len(metrics['emotions'])})", *(number(one.get(key)) for one in decisions)]
            for key, metric in metrics_for(EXCLUSIVE).items()
        ]
    heads = ["mean over emotions", *(name.replace("_", " ") for name in columns)]
    return TextTable("comparison with baselines", heads, rows, note=verdict_on_linear(metrics))


def published_table(models: Mapping[str, Content]) -> TextTable | None:
    """Weighted F1 published for IEMOCAP's test clips, and of models measured here; None for any other clips.

    Args:
        models: name -> metrics.
    """
    if not all(is_lmf_split(metrics["emotions"]) for metrics in models.values()):
        return None
    chosen = list(dict.fromkeys(name for metrics in models.values() for name in metrics["emotions"]))
    rows = [
        [row.name + (" (second-hand)" if row.second_hand else ""), *(number(row.weighted_f1[e]) for e in chosen)]
        for row in PUBLISHED
    ]
    for name, metrics in models.items():
        rows.append([name, *(number(metrics["emotions"].get(e, {}).get("weighted_f1")) for e in chosen)])
    return TextTable(
        "weighted F1 published for IEMOCAP's 938 test clips, one model per emotion",
        ["model", *chosen],
        rows,
        len(models) == 1,
        f"Second-hand: quoted from memory, not checked against the papers' tables. Measured here: {', '.join(models)}.",
    )


def why_not_published(metrics: Content) -> str:
    """Why `published_table` is None for IEMOCAP's emotions; empty for others, and where it is not None."""
    emotions = metrics["emotions"]
    if is_lmf_split(emotions) or any(name not in LMF_PAPER for name in emotions):
        return ""
    return "Published metrics are not shown: these clips are not IEMOCAP's 938 test clips of LMF's split."


def undefined_lines(metrics: Content) -> str:
    """Which metrics are undefined, and why; empty if all are defined."""
    lines = []
    for name, found in metrics["emotions"].items():
        undefined = found.get("undefined", {})
        for reason in dict.fromkeys(undefined.values()):
            which = ", ".join(METRICS[key].title for key, why in undefined.items() if why == reason and key in METRICS)
            lines.append(f"{name}: {which} undefined because {reason}")
    return printable("\n".join(lines), keep="\n")


def seed_table(summary: Content, title: str = "") -> TextTable:
    """`statistics.seed_summary` as a table: mean ± std over seeds, and the interval of the mean.

    Args:
        summary: of several seeds.
        title: text in front of the title.
    """
    shown = shown_metrics(summary, headline=True)
    rows = _rows(lambda name, found: [_spread(found.get(m.key)) for m in shown], summary)
    exclusive = summary.get("exclusive") or {}
    parts = [f"{m.title} {_spread(exclusive[m.key])}" for m in metrics_for(EXCLUSIVE).values() if m.key in exclusive]
    return TextTable(
        f"{title}{summary['split']}, {summary['samples']:,} clips, {len(summary['seeds'])} seeds: "
        "mean ± std [95% t-interval of the mean]",
        ["emotion", *(metric.title for metric in shown)],
        rows,
        len(rows) > 1,
        f"one of {len(summary['emotions'])}: {'  '.join(parts)}" if parts else "",
    )


def robustness_table(found: Content) -> TextTable:
    """Subsets of modalities and, where curves were measured, some of their points.

    Args:
        found: the content of ``robustness.json``.
    """
    first = found["subsets"][0]
    shown, names = shown_metrics(first), list(first["emotions"]) if len(first["emotions"]) > 1 else []

    def row(label: str, one: Content) -> list[str]:
        return [
            label,
            *(number(one["mean"].get(metric.key)) for metric in shown),
            *(number(one["emotions"][name].get("weighted_f1")) for name in names),
        ]

    rows = [row(" + ".join(one["modalities"]), one) for one in found["subsets"]]
    for modality, points in (found["noise"] or {}).items():
        rows += [row(f"noise of {p['strength']:g} std on {modality}", p) for p in points if p["strength"] in (1, 4)]
    for modality, points in (found["missing"] or {}).items():
        rows += [row(f"no {modality} in {p['share']:.0%} of clips", p) for p in points if p["share"] == 0.5]
    absent = found["always_absent"]
    rows.append(
        ["always absent", *(number(absent[m.key]) if m.key in absent else "" for m in shown), *("" for _ in names)]
    )
    notes = ["*  weighted F1 of the emotion."] if names else []
    if found["noise"] is not None:
        notes.append(f"Noise and missing rows: mean of {found['draws']} draws; std is that of the feature over train.")
    gaps = [f"{modality} {count}" for modality, count in found["rows_without"].items() if count]
    if gaps:
        notes.append(f"Clips that lack a modality in the data: {', '.join(gaps)}.")
    heads = [*(f"{'mean ' if names else ''}{metric.title}" for metric in shown), *(f"{name}*" for name in names)]
    title = f"with modalities removed or disturbed, {found['split']}, {found['samples']:,} clips"
    return TextTable(title, ["present modalities", *heads], rows, note=" ".join(notes))


# -- several models


def comparison_text(comparison: Comparison) -> str:
    """All tables of a comparison and its verdict, as text."""
    tables = [table.as_text() for table in comparison_tables(comparison)]
    return "\n\n".join([*tables, printable("\n".join([*comparison.notes, comparison_verdict(comparison)]), keep="\n")])


def comparison_tables(comparison: Comparison) -> list[TextTable]:
    """The metrics of all models, and a table of differences for each pair."""
    contents = comparison.metrics
    shown = shown_metrics(next(iter(contents.values())), headline=True)
    rows = []
    for name, found in contents.items():
        own = _rows(_with_intervals(shown), found, found["intervals"])
        rows += [[emotion, name, *cells] for emotion, *cells in own]
    order = [*comparison.emotions, "mean"]
    rows.sort(key=lambda row: order.index(row[0]))  # stable: models stay in their order
    heads = ["emotion", "model", *(metric.title for metric in shown)]
    first = TextTable(f"{comparison.rows:,} common clips, 95% intervals", heads, rows, left=(0, 1))
    return [first, *map(pair_table, comparison.pairs)]


def pair_table(pair: Pair) -> TextTable:
    """Paired differences with intervals, McNemar's test and the verdict, per emotion and of the means."""
    shown = [METRICS[key] for key in PAIRED_METRICS]
    entries = {**pair.emotions, **({"mean": pair.mean} if len(pair.emotions) > 1 else {})}
    rows = []
    for name, one in entries.items():
        tests = ["", "", ""]
        if one.p is not None:
            tests = [f"{one.only_first} : {one.only_second}", _probability(one.p), _probability(one.corrected)]
        differences = [difference(one.differences.get(m.key), one.intervals.get(m.key)) for m in shown]
        rows.append([name, *differences, *tests, verdict(one, pair)])
    note = f"Right alone: clips that only {pair.first} : only {pair.second} predicts correctly."
    if pair.decision is not None:
        one = pair.decision
        note += (
            f"\nOne of {len(pair.emotions)} (highest uncalibrated probability): {_differences(one)}"
            + (
                f", right alone {one.only_first} : {one.only_second}, McNemar p {_probability(one.p)}"
                if one.p is not None
                else ""
            )
            + f": {verdict(one, pair)}."
        )
    heads = ["emotion", *(metric.title for metric in shown), "right alone", "McNemar p", "Holm", "verdict"]
    title = f"{pair.second} minus {pair.first}, 95% intervals of the paired difference"
    return TextTable(title, heads, rows, len(entries) > 1, note, left=(0, len(heads) - 1))


def comparison_verdict(comparison: Comparison) -> str:
    """The outcome, in a sentence per pair."""
    return " ".join(map(_pair_verdict, comparison.pairs))


def verdict_on_linear(metrics: Content) -> str:
    """Whether the network is better than logistic regression on the same features; empty where that was not measured."""
    ahead = (metrics.get("baselines") or {}).get("logistic_regression", {}).get("network_ahead")
    if not ahead:
        return ""

    def measured(entry: Content, rows: int) -> Difference:
        return Difference(
            rows,
            {key: one["difference"] for key, one in entry.items()},
            {key: one["interval"] for key, one in entry.items()},
        )

    emotions = {name: measured(one, metrics["emotions"][name]["annotated"]) for name, one in ahead["emotions"].items()}
    exclusive = ahead.get("exclusive")
    decision = measured(exclusive, metrics["exclusive"]["rows"]) if exclusive else None
    mean = measured(ahead["mean"], metrics["samples"])
    text = _pair_verdict(Pair("logistic regression", "the network", emotions, mean, decision))
    return f"{text[0].upper()}{text[1:]}"


def verdict(one: Difference, pair: Pair) -> str:
    """What the intervals of `VERDICT_METRICS` and McNemar's test show, and in which direction each points."""
    if one.rows < FEWEST_ROWS:
        return f"no verdict is possible on {one.rows} clips (at least {FEWEST_ROWS} are needed)"
    better: dict[str, list[str]] = {pair.second: [], pair.first: []}
    for key in VERDICT_METRICS:
        sign = _direction(METRICS[key], one.intervals.get(key))
        if sign:
            better[pair.second if sign > 0 else pair.first].append(METRICS[key].title)
    p = one.p if one.corrected is None else one.corrected
    if p is not None and p < 1 - LEVEL:
        better[pair.second if (one.only_second or 0) > (one.only_first or 0) else pair.first].append("number of errors")
    found = [f"{name} is better on {', '.join(titles)}" for name, titles in better.items() if titles]
    return ", but ".join(found) or f"no difference that {one.rows} clips can show"


def _pair_verdict(pair: Pair) -> str:
    """`verdict` on the means and on the decision among all emotions, then on each emotion."""
    overall, decision = pair.mean, pair.decision
    if decision is not None and decision.rows >= FEWEST_ROWS:
        overall = dataclasses.replace(
            decision,
            rows=overall.rows,
            differences={**overall.differences, **decision.differences},
            intervals={**overall.intervals, **decision.intervals},
        )
    several = len(pair.emotions) > 1
    if not several and pair.emotions:
        (overall,) = pair.emotions.values()
    text = f"{pair.second} against {pair.first}: {verdict(overall, pair)}"
    if overall.rows >= FEWEST_ROWS:
        text += f" ({'means over emotions: ' if several else ''}{_differences(overall)})"
        if several:
            grouped: dict[str, list[str]] = {}
            for name, one in pair.emotions.items():
                grouped.setdefault(verdict(one, pair), []).append(name)
            text += ". By emotion: " + "; ".join(f"{found} ({', '.join(names)})" for found, names in grouped.items())
    return f"{text}."


def _direction(metric: Metric, interval: Sequence[float] | None) -> int:
    """1 if an interval of the difference is on the better side of zero, -1 on the worse; 0 if it shows neither."""
    if interval is None or interval[0] == interval[1] or interval[0] <= 0 <= interval[1]:
        return 0
    return 1 if (interval[0] > 0) == metric.greater_is_better else -1


# -- parts


def shown_metrics(content: Content, headline: bool | None = None) -> list[Metric]:
    """The metrics of tasks that a content has, in the order of `METRICS`.

    Args:
        content: metrics.
        headline: only those in the headline, or only the others; None for all.
    """
    return [
        metric
        for metric in METRICS.values()
        if metric.kind != EXCLUSIVE
        and headline in (None, metric.headline)
        and any(metric.key in found for found in content["emotions"].values())
    ]


def _rows(cells: Callable[..., list[str]], *contents: Content) -> list[list[str]]:
    """A row per emotion, and of the means if there are several.

    Args:
        cells: called with the emotion's name (None for the means) and its entry in each content.
        contents: of the same emotions.
    """
    names = list(contents[0]["emotions"])
    rows = [[name, *cells(name, *(one["emotions"][name] for one in contents))] for name in names]
    return [*rows, ["mean", *cells(None, *(one["mean"] for one in contents))]] if len(names) > 1 else rows


def _with_intervals(shown: Sequence[Metric]) -> Callable[..., list[str]]:
    return lambda name, found, intervals: [with_interval(found.get(m.key), intervals.get(m.key)) for m in shown]


def _differences(one: Difference) -> str:
    return ", ".join(
        f"{METRICS[key].title} {difference(one.differences[key], one.intervals.get(key))}"
        for key in VERDICT_METRICS
        if one.differences.get(key) is not None
    )


def _spread(found: Content | None) -> str:
    if found is None:
        return "-"
    if found["sd"] is None:
        return number(found["mean"])
    text = f"{found['mean']:.3f} ± {found['sd']:.3f}"
    return text if found.get("interval") is None else f"{text} [{found['interval'][0]:.3f}, {found['interval'][1]:.3f}]"


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
