"""Every table of metrics as rows of text, and the sentences that sum them up, for a terminal and for the HTML page.

Titles, order and direction of metrics come from `METRICS`: a metric that is registered in it appears in the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lmf_multitask.errors import printable
from lmf_multitask.evaluation import value_tables
from lmf_multitask.evaluation.comparison import Comparison, Difference, Pair
from lmf_multitask.evaluation.fold_tables import pooled_tables
from lmf_multitask.evaluation.metrics import (
    BASELINES,
    EXCLUSIVE,
    METRICS,
    PLACES,
    REGRESSION,
    Metric,
    all_tasks,
    metrics_for,
)
from lmf_multitask.evaluation.published import LMF_PADDLE, LMF_PAPER, PUBLISHED, is_lmf_split
from lmf_multitask.evaluation.statistics import FEWEST_ROWS, LEVEL
from lmf_multitask.evaluation.table_parts import (
    TASK_WORDS,
    Content,
    cells_with_intervals,
    rows_of,
    shown_metrics,
    spread,
)
from lmf_multitask.evaluation.text import TextTable, difference, number, with_interval

VERDICT_METRICS = ("weighted_f1", "auroc", "weighted_accuracy", "unweighted_accuracy", "mae", "pearson")
"""Metrics that a verdict between two models is based on."""

PAIRED_METRICS = {"emotions": ("weighted_f1", "positive_f1", "auroc"), "regression": ("mae", "pearson", "ccc")}
"""Where tasks stand in ``metrics.json`` -> metrics whose paired differences are shown per task."""

# -- metrics of one model


def results_table(metrics: Content) -> str:
    """The headline metrics of all tasks as text, and the verdicts on the linear baselines."""
    values = value_tables.headline_table(metrics)
    parts = [_emotions_table(metrics) if metrics["emotions"] else "", "" if values is None else values.as_text()]
    if metrics.get("folds"):
        parts = [table.as_text() for table in pooled_tables(metrics)]
    verdicts = printable(verdict_on_linear(metrics))
    # of emotions alone, the verdict is a note of their table
    return "\n\n".join(part for part in parts if part) + (f"\n{verdicts}" if verdicts else "")


def _emotions_table(metrics: Content) -> str:
    """The headline metrics of emotions as text.

    Args:
        metrics: the content of ``metrics.json``; parts that are missing are left out. Published metrics are added if the
            clips are IEMOCAP's in LMF's split, under ``mode`` per_emotion with the difference to them.
    """
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
    notes += [line for line in (why_not_published(metrics),) if line]
    rows = rows_of(cells, *[metrics, *([baseline] if baseline else [])])
    title = f"{metrics['split']}, {metrics['samples']} clips"
    return TextTable(title, heads, rows, len(rows) > 1, "\n".join(notes)).as_text()


def full_tables(metrics: Content, *, threshold: str | None = None) -> str:
    """`results_table` and everything else that ``metrics.json`` holds, as text.

    Args:
        metrics: the content of ``metrics.json``; parts that are missing are left out.
        threshold: ``half``, or a metric that thresholds are fitted for, to show the metrics at these thresholds too.
    """
    found: list[TextTable | None] = []
    if metrics.get("intervals"):
        found += [intervals_table(metrics), further_table(metrics)] if metrics["emotions"] else []
        found += [value_tables.intervals_table(metrics), value_tables.further_table(metrics)]
    found += [value_tables.prediction_intervals_table(metrics), value_tables.published_table(metrics)]
    if threshold is not None and metrics.get("thresholds"):
        found.append(thresholds_table(metrics, threshold))
    found += [exclusive_table(metrics), baseline_table(metrics), published_table({"this model": metrics})]
    first = {name: value for name, value in metrics.items() if name != "baselines"}  # they have their own table
    parts = [results_table(first), *(one.as_text() for one in found if one is not None), undefined_lines(metrics)]
    return "\n\n".join(part for part in parts if part)


def intervals_table(metrics: Content) -> TextTable:
    """Headline metrics with their 95% intervals."""
    shown, intervals = shown_metrics(metrics, headline=True), metrics["intervals"]
    rows = rows_of(cells_with_intervals(shown), metrics, intervals)
    title = f"headline metrics with 95% intervals over {metrics['split']} clips ({intervals['resamples']:,} bootstrap resamples)"
    return TextTable(title, ["emotion", *(metric.title for metric in shown)], rows, len(rows) > 1)


def further_table(metrics: Content) -> TextTable:
    """All metrics that are not in the headline, and the confusion counts."""
    shown = shown_metrics(metrics, headline=False)

    def cells(name: str | None, found: Content) -> list[str]:
        counts = found.get("confusion", {})
        parts = [counts.get(key) for key in ("true_positive", "false_positive", "false_negative", "true_negative")]
        return [*(number(found.get(m.key)) for m in shown), "" if None in parts else "/".join(map(str, parts))]

    rows = rows_of(cells, metrics)
    heads = ["emotion", *(metric.title for metric in shown), "TP/FP/FN/TN"]
    return TextTable("further metrics", heads, rows, len(rows) > 1)


def thresholds_table(metrics: Content, threshold: str) -> TextTable:
    """Metrics of the decisions at the thresholds that maximise a metric on validation."""
    content, fitted = metrics["thresholds"][threshold], metrics["calibration"]["emotions"]
    shown = [metric for metric in shown_metrics(content) if metric.needs == "decision"]

    def cells(name: str | None, found: Content) -> list[str]:
        value = "" if name is None else f"{fitted[name]['thresholds'].get(threshold, 0.5):.3f}"
        return [value, *(number(found.get(m.key)) for m in shown)]

    rows = rows_of(cells, content)
    best = threshold in METRICS
    title = f"at the thresholds with the best {METRICS[threshold].title} on validation" if best else "at one half"
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
        f"Each by itself: exactly one predicts present in {heads['one_present']:.0%} of clips, "
        f"none in {heads['none_present']:.0%}, several in {heads['several_present']:.0%}."
    )
    return TextTable(
        f"one of {len(names)} (highest probability): {values}",
        ["true \\ decided", *names],
        [[name, *map(str, row)] for name, row in zip(names, found["confusion"])],
        note=note,
    )


def baseline_table(metrics: Content) -> TextTable | None:
    """Every metric of the baselines and of the model, with the verdict on logistic regression; None without baselines."""
    others = BASELINES[REGRESSION]  # beside which real-valued tasks have their own table
    baselines = {name: one for name, one in (metrics.get("baselines") or {}).items() if name not in others}
    if not baselines or not metrics["emotions"]:
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
    return TextTable("comparison with baselines", heads, rows, note=verdict_on_linear(metrics, "binary"))


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
    for name, found in all_tasks(metrics).items():
        undefined = found.get("undefined", {})
        for reason in dict.fromkeys(undefined.values()):
            which = ", ".join(METRICS[key].title for key, why in undefined.items() if why == reason and key in METRICS)
            lines.append(f"{name}: {which} undefined because {reason}")
    return printable("\n".join(lines), keep="\n")


def seed_tables(summary: Content, title: str = "") -> list[TextTable]:
    """`statistics.seed_summary` as tables of emotions and of real-valued tasks.

    Args:
        summary: of several seeds.
        title: text in front of the titles.
    """
    found = [_seed_table(summary, title) if summary["emotions"] else None, value_tables.seed_table(summary, title)]
    return [table for table in found if table is not None]


def _seed_table(summary: Content, title: str) -> TextTable:
    """`statistics.seed_summary` as a table: mean ± std over seeds, and the interval of the mean.

    Args:
        summary: of several seeds.
        title: text in front of the title.
    """
    shown = shown_metrics(summary, headline=True)
    rows = rows_of(lambda name, found: [spread(found.get(m.key)) for m in shown], summary)
    exclusive = summary.get("exclusive") or {}
    parts = [f"{m.title} {spread(exclusive[m.key])}" for m in metrics_for(EXCLUSIVE).values() if m.key in exclusive]
    return TextTable(
        f"{title}{summary['split']}, {summary['samples']:,} clips, {len(summary['seeds'])} seeds: "
        "mean ± std [95% t-interval of the mean]",
        ["emotion", *(metric.title for metric in shown)],
        rows,
        len(rows) > 1,
        f"one of {len(summary['emotions'])}: {'  '.join(parts)}" if parts else "",
    )


def robustness_tables(found: Content) -> list[TextTable]:
    """Emotions and real-valued tasks with modalities removed or disturbed.

    Args:
        found: the content of ``robustness.json``.
    """
    tables = [
        _robustness_table(found) if found["subsets"][0]["emotions"] else None,
        value_tables.robustness_table(found),
    ]
    return [table for table in tables if table is not None]


def _robustness_table(found: Content) -> TextTable:
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
    places = [place for place in PLACES.values() if next(iter(comparison.metrics.values())).get(place)]
    found = [_side_by_side(comparison, place) for place in places]
    for pair in comparison.pairs:
        found += [pair_table(pair, place) for place in places]
    return found


def _side_by_side(comparison: Comparison, place: str) -> TextTable:
    contents, rows = comparison.metrics, []
    shown = shown_metrics(next(iter(contents.values())), True, place)
    for name, found in contents.items():
        own = rows_of(cells_with_intervals(shown), found, found["intervals"], place=place)
        rows += [[task, name, *cells] for task, *cells in own]
    order = [*comparison.emotions, "mean"]
    rows.sort(key=lambda row: order.index(row[0]))  # stable: models stay in their order
    heads = [TASK_WORDS[place], "model", *(metric.title for metric in shown)]
    return TextTable(f"{comparison.rows:,} common clips, 95% intervals", heads, rows, left=(0, 1))


def pair_table(pair: Pair, place: str = "emotions") -> TextTable:
    """Paired differences with intervals, a test and the verdict, per task and of the means.

    Args:
        pair: two models.
        place: ``emotions``, with McNemar's test of the decisions; or ``regression``, with Wilcoxon's of the absolute errors.
    """
    pair, shown = _part(pair, place), [METRICS[key] for key in PAIRED_METRICS[place]]
    entries = {**pair.emotions, **({"mean": pair.mean} if len(pair.emotions) > 1 else {})}
    rows = []
    for name, one in entries.items():
        tests = ["", "", ""]
        if one.p is not None:
            tests = [f"{one.only_first} : {one.only_second}", _probability(one.p), _probability(one.corrected)]
        differences = [difference(one.differences.get(m.key), one.intervals.get(m.key)) for m in shown]
        rows.append([name, *differences, *tests, verdict(one, pair)])
    note = f"Right alone: clips that only {pair.first} : only {pair.second} predicts correctly."
    tests = ["right alone", "McNemar p"]
    if place != "emotions":
        note, tests = f"Closer: clips to whose label {pair.first} : {pair.second} is closer.", ["closer", "Wilcoxon p"]
    if pair.decision is not None:
        one = pair.decision
        note += (
            f"\nOne of {len(pair.emotions)} (highest probability): {_differences(one)}"
            + (
                f", right alone {one.only_first} : {one.only_second}, McNemar p {_probability(one.p)}"
                if one.p is not None
                else ""
            )
            + f": {verdict(one, pair)}."
        )
    heads = [TASK_WORDS[place], *(metric.title for metric in shown), *tests, "Holm", "verdict"]
    title = f"{pair.second} minus {pair.first}, 95% intervals of the paired difference"
    return TextTable(title, heads, rows, len(entries) > 1, note, left=(0, len(heads) - 1))


def _part(pair: Pair, place: str) -> Pair:
    """A pair restricted to the tasks, and the means of the metrics, of one place; they become its ``emotions``."""
    others = {metric.key for metric in METRICS.values() if PLACES.get(metric.kind, place) != place}
    mean = dataclasses.replace(
        pair.mean,
        differences={key: value for key, value in pair.mean.differences.items() if key not in others},
        intervals={key: value for key, value in pair.mean.intervals.items() if key not in others},
    )
    if place == "emotions":
        return dataclasses.replace(pair, mean=mean, values={})
    return Pair(pair.first, pair.second, pair.values, mean)


def comparison_verdict(comparison: Comparison) -> str:
    """The outcome, in a sentence per pair and kind of task."""
    parts = [(_part(pair, place), TASK_WORDS[place]) for pair in comparison.pairs for place in PLACES.values()]
    return " ".join(_pair_verdict(part, word) for part, word in parts if part.emotions)


def verdict_on_linear(metrics: Content, *kinds: str) -> str:
    """Whether the network is better than a linear model of the same features; empty where that was not measured.

    Args:
        metrics: the content of ``metrics.json``.
        kinds: of tasks; none: all.
    """
    return " ".join(filter(None, (_verdict_on_linear(metrics, kind) for kind in kinds or BASELINES)))


def _verdict_on_linear(metrics: Content, kind: str) -> str:
    name, place = BASELINES[kind][-1], PLACES[kind]
    ahead = (metrics.get("baselines") or {}).get(name, {}).get("network_ahead")
    if not ahead:
        return ""

    def measured(entry: Content, rows: int) -> Difference:
        return Difference(
            rows,
            {key: one["difference"] for key, one in entry.items()},
            {key: one["interval"] for key, one in entry.items()},
        )

    found = {task: measured(one, metrics[place][task]["annotated"]) for task, one in ahead[place].items()}
    exclusive = ahead.get("exclusive")
    decision = measured(exclusive, metrics["exclusive"]["rows"]) if exclusive else None
    mean = measured(ahead["mean"], metrics["samples"])
    text = _pair_verdict(Pair(name.replace("_", " "), "the network", found, mean, decision), TASK_WORDS[place])
    return f"{text[0].upper()}{text[1:]}"


def verdict(one: Difference, pair: Pair) -> str:
    """What the intervals of `VERDICT_METRICS` and the test of the pair show, and in which direction each points."""
    if one.rows < FEWEST_ROWS:
        return f"no verdict is possible on {one.rows} clips (at least {FEWEST_ROWS} are needed)"
    better: dict[str, list[str]] = {pair.second: [], pair.first: []}
    for key in VERDICT_METRICS:
        sign = _direction(METRICS[key], one.intervals.get(key))
        if sign:
            better[pair.second if sign > 0 else pair.first].append(METRICS[key].title)
    p = one.p if one.corrected is None else one.corrected
    if p is not None and p < 1 - LEVEL:
        winner = pair.second if (one.only_second or 0) > (one.only_first or 0) else pair.first
        better[winner].append("absolute errors" if "mae" in one.differences else "number of errors")
    found = [f"{name} is better on {', '.join(titles)}" for name, titles in better.items() if titles]
    return ", but ".join(found) or f"no difference that {one.rows} clips can show"


def _pair_verdict(pair: Pair, word: str = "emotion") -> str:
    """`verdict` on the means and on the decision among all emotions, then on each task, which is called `word`."""
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
        text += f" ({f'means over {word}s: ' if several else ''}{_differences(overall)})"
        if several:
            grouped: dict[str, list[str]] = {}
            for name, one in pair.emotions.items():
                grouped.setdefault(verdict(one, pair), []).append(name)
            text += f". By {word}: " + "; ".join(f"{found} ({', '.join(names)})" for found, names in grouped.items())
    return f"{text}."


def _direction(metric: Metric, interval: Sequence[float] | None) -> int:
    """1 if an interval of the difference is on the better side of zero, -1 on the worse; 0 if it shows neither."""
    if interval is None or interval[0] == interval[1] or interval[0] <= 0 <= interval[1]:
        return 0
    return 1 if (interval[0] > 0) == metric.greater_is_better else -1


# -- parts


def _differences(one: Difference) -> str:
    return ", ".join(
        f"{METRICS[key].title} {difference(one.differences[key], one.intervals.get(key))}"
        for key in VERDICT_METRICS
        if one.differences.get(key) is not None
    )


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
