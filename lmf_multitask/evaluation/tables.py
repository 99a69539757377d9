"""The tables of one model's metrics, for a terminal and for the HTML page.

Titles, order and direction of metrics come from `METRICS`: a metric that is registered in it appears in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmf_multitask.errors import printable
from lmf_multitask.evaluation.metrics import BASELINES, EXCLUSIVE, METRICS, PLACES, REGRESSION, all_tasks, metrics_for
from lmf_multitask.evaluation.published import (
    LMF_PADDLE,
    LMF_PAPER,
    PUBLISHED,
    PUBLISHED_VALUES,
    VALUE_KEYS,
    is_lmf_split,
    published_data_set,
)
from lmf_multitask.evaluation.run_tables import pooled_tables
from lmf_multitask.evaluation.table_parts import (
    PREFIX,
    TASK_WORDS,
    Cell,
    Content,
    bounded,
    exclusive_metrics_line,
    plain,
    shown_metrics,
    task_table,
)
from lmf_multitask.evaluation.text import TextTable, number
from lmf_multitask.evaluation.verdicts import verdict_on_linear

VALUES = PLACES[REGRESSION]


def results_table(metrics: Content) -> str:
    """The headline metrics of all tasks as text, and the verdicts on the linear baselines."""
    found = pooled_tables(metrics) if metrics.get("folds") else [_emotions_table(metrics), _values_table(metrics)]
    text = "\n\n".join(table.as_text() for table in found if table is not None)
    verdicts = printable(verdict_on_linear(metrics))
    return text + (f"\n{verdicts}" if verdicts else "")


def _emotions_table(metrics: Content) -> TextTable | None:
    """The headline metrics of emotions.

    Args:
        metrics: the content of ``metrics.json``; parts that are missing are left out. Published metrics are added if the
            clips are IEMOCAP's in LMF's split, under ``mode`` per_emotion with the difference to them.
    """
    baseline, separate = metrics.get("always_absent"), metrics.get("mode") == "per_emotion"
    published = {"LMF paper**": LMF_PAPER, "LMF_Paddle**": LMF_PADDLE} if is_lmf_split(metrics["emotions"]) else {}

    def clips(name: str | None, found: Content, *others: Content) -> str:
        return "" if name is None else f"{found.get('support', '-')}/{found['annotated']}"

    def of_source(source: Mapping[str, float]) -> Cell:
        def cell(name: str | None, found: Content, *others: Content) -> str:
            if name is None:
                return ""
            return number(source[name]) + (f" ({found['weighted_f1'] - source[name]:+.3f})" if separate else "")

        return cell

    last: dict[str, Cell] = {}
    notes = []
    if baseline:
        last["always absent*"] = lambda name, found, absent: number(absent.get("weighted_f1"))
        notes.append("*  weighted F1 of never predicting the emotion, on these clips")
    if published:
        last.update({head: of_source(source) for head, source in published.items()})
        notes.append(
            "** weighted F1 published for IEMOCAP's 938 test clips, one model per emotion; not measured here"
            + (" (in brackets: this model minus that)" if separate else "")
        )
    return task_table(
        f"{metrics['split']}, {metrics['samples']} clips",
        shown_metrics(metrics, headline=True),
        lambda metric, found, *others: plain(metric, found),
        *[metrics, *([baseline] if baseline else [])],
        first={"present": clips},
        last=last,
        note="\n".join(filter(None, [*notes, thresholds_line(metrics), why_not_published(metrics)])),
    )


def thresholds_line(metrics: Content) -> str:
    """The probability above which each emotion counts as present; empty without emotions."""
    above = metrics.get("decided_above") or {}
    values = dict.fromkeys(above.values())
    if len(values) == 1:
        return f"An emotion counts as present above {number(*values)}."
    return f"Present above: {', '.join(f'{name} {number(value)}' for name, value in above.items())}." if above else ""


def _values_table(metrics: Content) -> TextTable | None:
    """The headline metrics of real-valued tasks, and below them those of the baselines where these were measured."""
    shown, title = (
        shown_metrics(metrics, True, VALUES),
        f"real-valued tasks, {metrics['split']}, {metrics['samples']} clips",
    )
    annotated: dict[str, Cell] = {"annotated": lambda name, found: "" if name is None else str(found["annotated"])}
    found = task_table(title, shown, plain, metrics, place=VALUES, first=annotated)
    for name in BASELINES[REGRESSION] if found is not None else ():
        other = task_table(
            "", shown, plain, (metrics.get("baselines") or {}).get(name, {}), place=VALUES, first=annotated
        )
        if found is not None and other is not None:
            found.rows.extend([f"{task}: {name.replace('_', ' ')}", *cells] for task, *cells in other.rows)
            found = TextTable(title, found.heads, found.rows, note=found.note)
    return found


def full_tables(metrics: Content, *, threshold: str | None = None) -> str:
    """`results_table` and everything else that ``metrics.json`` holds, as text.

    Args:
        metrics: the content of ``metrics.json``; parts that are missing are left out.
        threshold: ``half``, or a metric that thresholds are fitted for, to show the metrics at these thresholds too.
    """
    found: list[TextTable | None] = []
    if metrics.get("intervals"):
        for place in PLACES.values():
            found += [intervals_table(metrics, place), further_table(metrics, place)]
    found += [prediction_intervals_table(metrics), published_values_table(metrics)]
    if threshold is not None and metrics.get("thresholds"):
        found.append(thresholds_table(metrics, threshold))
    found += [exclusive_table(metrics), *(baseline_table(metrics, kind) for kind in BASELINES)]
    found.append(published_table({"this model": metrics}))
    first = {name: value for name, value in metrics.items() if name != "baselines"}  # they have their own table
    parts = [results_table(first), *(one.as_text() for one in found if one is not None), undefined_lines(metrics)]
    return "\n\n".join(part for part in parts if part)


def intervals_table(metrics: Content, place: str = "emotions") -> TextTable | None:
    """Headline metrics with their 95% intervals."""
    title = (
        f"{PREFIX.get(place, '')}headline metrics with 95% intervals over {metrics['split']} clips "
        f"({metrics['intervals']['resamples']:,} bootstrap resamples)"
    )
    return task_table(title, shown_metrics(metrics, True, place), bounded, metrics, metrics["intervals"], place=place)


def further_table(metrics: Content, place: str = "emotions", counts: bool = True) -> TextTable | None:
    """All metrics that are not in the headline."""

    def confusion(name: str | None, found: Content) -> str:
        keys = ("true_positive", "false_positive", "false_negative", "true_negative")
        return "/".join(str(found["confusion"][key]) for key in keys) if "confusion" in found else ""

    emotions = place not in PREFIX
    return task_table(
        "further metrics" if emotions else "real-valued tasks, further metrics",
        shown_metrics(metrics, False, place),
        plain,
        metrics,
        place=place,
        last={"TP/FP/FN/TN": confusion} if emotions and counts else None,
    )


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


def published_values_table(metrics: Content) -> TextTable | None:
    """Published results next to the own ones; None for anything but the test splits of MOSI and POM."""
    name = published_data_set(metrics.get(VALUES, {}))
    if name is None:
        return None
    keys = VALUE_KEYS[name]
    rows = [[model, *map(number, values)] for model, values in PUBLISHED_VALUES[name].items()]
    rows.append(["this model", *(number(metrics["mean"].get(key)) for key in keys)])
    heads = ["model", *(METRICS[key].title for key in keys)]
    note = "Second-hand: quoted from memory, not checked against the papers' tables. The convention of Acc-2 and F1 is assumed."
    return TextTable(f"published for the test split of {name}", heads, rows, True, note)


def thresholds_table(metrics: Content, threshold: str) -> TextTable | None:
    """Metrics of the decisions at one half, or at the thresholds that maximise a metric on validation."""
    content, fitted = metrics["thresholds"][threshold], metrics["calibration"]["emotions"]
    return task_table(
        f"at the thresholds with the best {METRICS[threshold].title} on validation"
        if threshold in METRICS
        else "at one half",
        [metric for metric in shown_metrics(content) if metric.needs == "decision"],
        plain,
        content,
        first={
            "threshold": lambda name, found: (
                "" if name is None else number(fitted[name]["thresholds"].get(threshold, 0.5))
            )
        },
        note=_fitted_here(metrics),
    )


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
    values = exclusive_metrics_line(found, bounded, metrics.get("intervals", {}).get("exclusive", {}))
    heads, names = found["heads"], found["emotions"]
    note = (
        f"Each by itself: exactly one predicts present in {heads['one_present']:.0%} of clips, "
        f"none in {heads['none_present']:.0%}, several in {heads['several_present']:.0%}."
    )
    return TextTable(
        f"one of {len(names)} (highest probability as a multiple of its threshold): {values}",
        ["true \\ decided", *names],
        [[name, *map(str, row)] for name, row in zip(names, found["confusion"])],
        note=note,
    )


def baseline_table(metrics: Content, kind: str = "binary") -> TextTable | None:
    """Means of every metric of the baselines of a kind of task and of the model, with the verdict; None without baselines."""
    place, baselines = PLACES[kind], metrics.get("baselines") or {}
    columns = {name: baselines[name] for name in BASELINES[kind] if name in baselines}
    if not columns or not metrics.get(place):
        return None
    if kind == "binary":
        columns = {"always absent": metrics["always_absent"], **columns}
    columns["this model"] = metrics
    rows = [
        [metric.title, *(plain(metric, one["mean"]) for one in columns.values())]
        for metric in shown_metrics(metrics, place=place)
    ]
    if kind == "binary" and metrics.get("exclusive"):
        rows += [
            [
                f"{metric.title} (one of {len(metrics[place])})",
                *(plain(metric, one.get("exclusive") or {}) for one in columns.values()),
            ]
            for metric in metrics_for(EXCLUSIVE).values()
        ]
    heads = [f"mean over {TASK_WORDS[place]}s", *(name.replace("_", " ") for name in columns)]
    return TextTable(
        f"{PREFIX.get(place, '')}comparison with baselines", heads, rows, note=verdict_on_linear(metrics, kind)
    )


def published_table(models: Mapping[str, Content]) -> TextTable | None:
    """Weighted F1 published for IEMOCAP's test clips, and of models measured here; None for any other clips.

    Args:
        models: name -> metrics.
    """
    if not all(is_lmf_split(metrics["emotions"]) for metrics in models.values()):
        return None
    chosen = list(dict.fromkeys(name for metrics in models.values() for name in metrics["emotions"]))
    rows = [[name, *(number(values[e]) for e in chosen)] for name, values in PUBLISHED.items()]
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
