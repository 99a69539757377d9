"""The tables of an assessment, as rows of text: shown on a terminal by `report`, on the page by `page`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from lmf_multitask.evaluation.published import LMF_PAPER, PUBLISHED

HEADS = {
    "weighted_f1": "weighted F1",
    "accuracy": "accuracy",
    "positive_f1": "present F1",
    "uar": "UAR",
    "precision": "precision",
    "recall": "recall",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "avg. precision",
    "brier": "Brier",
    "ece": "ECE",
    "log_loss": "log loss",
    "weighted_accuracy": "WA",
    "unweighted_accuracy": "UA",
}
"""What tables call each figure of ``metrics.json``."""

WORDS = ("verdict", "model", "emotion", "truth", "state")
"""Heads of columns that hold words; so does every first column."""

BASELINE_NAMES = {
    "always_absent": "always absent",
    "prevalence": "prevalence",
    "logistic_regression": "logistic regression",
}


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: one line above it.
        heads: of the columns.
        rows: as many cells each.
        bold_last: the last row sums up the others.
        note: a sentence below it; empty for none.
    """

    title: str
    heads: list[str]
    rows: list[list[str]]
    bold_last: bool = False
    note: str = ""

    def as_text(self) -> str:
        """For a terminal: words left, numbers right."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column, head in enumerate(self.heads):
            table.add_column(head, justify="left" if column == 0 or head in WORDS else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        buffer = io.StringIO()
        Console(file=buffer, width=1000, no_color=True).print(table)
        lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])])


def intervals_table(metrics: Mapping[str, Any]) -> TextTable:
    """Headline figures with their 95% intervals."""
    intervals = metrics["intervals"]
    shown = ("weighted_f1", "positive_f1", "uar", "auroc")
    title = f"with 95% intervals over {metrics['split']} rows ({intervals['resamples']:,} bootstrap resamples)"
    rows = [
        [name, *(with_interval(figures.get(f), intervals["emotions"][name].get(f)) for f in shown)]
        for name, figures in metrics["emotions"].items()
    ]
    if len(rows) > 1:
        means = [with_interval(metrics["mean"].get(f), intervals["mean"].get(f)) for f in shown]
        rows.append(["mean", *means])
    return TextTable(title, ["emotion", *(HEADS[f] for f in shown)], rows, bold_last=len(rows) > 1)


def further_table(metrics: Mapping[str, Any]) -> TextTable:
    """Precision, recall, probabilities' errors and confusion counts."""
    shown = ("precision", "recall", "macro_f1", "average_precision", "brier", "ece", "log_loss")
    rows = []
    for name, figures in metrics["emotions"].items():
        counts = figures["confusion"]
        cells = "/".join(
            str(counts[key]) for key in ("true_positive", "false_positive", "false_negative", "true_negative")
        )
        rows.append([name, *(number(figures[f]) for f in shown), cells])
    if len(rows) > 1:
        rows.append(["mean", *(number(metrics["mean"][f]) for f in shown), ""])
    heads = ["emotion", *(HEADS[f] for f in shown), "TP/FP/FN/TN"]
    return TextTable("plain probabilities, present above one half", heads, rows, bold_last=len(rows) > 1)


def calibrated_table(metrics: Mapping[str, Any]) -> TextTable:
    """Errors of the probabilities before and after calibration."""
    shown = ("brier", "ece", "log_loss")
    rows = []
    for name, after in metrics["calibrated"]["emotions"].items():
        before, fitted = metrics["emotions"][name], metrics["calibration"]["emotions"][name]
        rows.append([name, f"{fitted['temperature']:.2f}", *(_arrow(before[f], after[f]) for f in shown)])
    heads = ["emotion", "temperature", *(HEADS[f] for f in shown)]
    return TextTable("probabilities before -> after calibration (temperatures from validation)", heads, rows)


def thresholds_table(metrics: Mapping[str, Any], threshold: str) -> TextTable:
    """Decisions at the thresholds that validation chose for a figure."""
    shown = ("weighted_f1", "accuracy", "positive_f1", "uar", "precision", "recall")
    rows = []
    for name, figures in metrics["thresholds"][threshold]["emotions"].items():
        value = metrics["calibration"]["emotions"][name]["thresholds"][threshold]
        rows.append([name, f"{value:.3f}", *(number(figures[f]) for f in shown)])
    if len(rows) > 1:
        rows.append(["mean", "", *(number(metrics["thresholds"][threshold]["mean"][f]) for f in shown)])
    title = f"at the thresholds that give the best {HEADS[threshold]} on validation"
    return TextTable(title, ["emotion", "threshold", *(HEADS[f] for f in shown)], rows, bold_last=len(rows) > 1)


def exclusive_table(metrics: Mapping[str, Any]) -> TextTable | None:
    """The decision among all emotions; None where labels are not exclusive."""
    found = metrics.get("exclusive")
    if not found:
        return None
    intervals = metrics.get("intervals", {}).get("exclusive", {})
    figures = "  ".join(
        f"{HEADS[f]} {with_interval(found[f], intervals.get(f))}"
        for f in ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
    )
    heads, names = found["heads"], found["emotions"]
    note = (
        f"Heads at one half: exactly one says present in {heads['one_present']:.0%} of clips, "
        f"none in {heads['none_present']:.0%}, several in {heads['several_present']:.0%}."
    )
    return TextTable(
        f"one of {len(names)} (highest {found['probabilities']} probability): {figures}",
        ["true \\ decided", *names],
        [[name, *map(str, row)] for name, row in zip(names, found["confusion"])],
        note=note,
    )


def baseline_table(metrics: Mapping[str, Any]) -> TextTable | None:
    """The baselines' means, and plainly whether the network is better than a logistic regression; None without any."""
    baselines = metrics.get("baselines") or {}
    if not baselines:
        return None
    shown = ("weighted_f1", "positive_f1", "uar", "auroc", "brier")
    absent = [number(metrics["always_absent"]["mean"].get(f)) for f in shown]
    rows = [[BASELINE_NAMES["always_absent"], *absent]]
    rows += [[BASELINE_NAMES.get(name, name), *(number(b["mean"][f]) for f in shown)] for name, b in baselines.items()]
    rows.append(["this model", *(number(metrics["mean"][f]) for f in shown)])
    note = verdict_on_linear(metrics) if "logistic_regression" in baselines else ""
    return TextTable("beside baselines (means over emotions)", ["", *(HEADS[f] for f in shown)], rows, True, note)


def verdict_on_linear(metrics: Mapping[str, Any]) -> str:
    """Whether the network beats a logistic regression on the same features, in one sentence."""
    ahead = metrics["baselines"]["logistic_regression"]["network_ahead"]
    better, worse, open_ = [], [], []
    for name, figures in ahead["emotions"].items():
        found = figures["weighted_f1"]["interval"]
        (open_ if found is None or found[0] <= 0 <= found[1] else better if found[0] > 0 else worse).append(name)
    mean = ahead["mean"]["weighted_f1"]
    parts = []
    if mean["difference"] is not None and mean["interval"] is not None:
        low, high = mean["interval"]
        word = "ahead of" if low > 0 else "behind" if high < 0 else "not shown to beat"
        which = "weighted F1" if len(ahead["emotions"]) == 1 else "the mean weighted F1"
        parts.append(
            f"The network is {word} logistic regression on {which} "
            f"(difference {mean['difference']:+.3f} [{low:+.3f}, {high:+.3f}])"
        )
    if len(ahead["emotions"]) == 1 and parts:
        better, worse, open_ = [], [], []  # said already
    if better:
        parts.append(f"better on {', '.join(better)}")
    if worse:
        parts.append(f"WORSE on {', '.join(worse)}")
    if open_:
        parts.append(f"no difference that {metrics['samples']} rows can show on {', '.join(open_)}")
    return "; ".join(parts) + "."


def published_table(ours: Mapping[str, Mapping[str, Any]]) -> TextTable | None:
    """Weighted F1 that others published for IEMOCAP's emotions, and ours; None unless all are.

    Args:
        ours: name of a model -> its figures.
    """
    chosen = list(dict.fromkeys(name for figures in ours.values() for name in figures["emotions"]))
    if any(name not in LMF_PAPER for name in chosen):
        return None
    rows = [
        [row.name + (" (second-hand)" if row.second_hand else ""), *(number(row.weighted_f1[e]) for e in chosen)]
        for row in PUBLISHED
    ]
    for name, figures in ours.items():
        rows.append([name, *(number(figures["emotions"].get(e, {}).get("weighted_f1")) for e in chosen)])
    return TextTable(
        "weighted F1 published for IEMOCAP's 938 test clips, one model per emotion",
        ["model", *chosen],
        rows,
        len(ours) == 1,
        f"Second-hand: recalled from the papers' tables, not seen. Measured here: {', '.join(ours)}. "
        "Figures compare only on the same 938 clips.",
    )


def undefined_lines(metrics: Mapping[str, Any]) -> str:
    """Which figures are undefined, and why; empty if none is."""
    lines = []
    for name, figures in metrics["emotions"].items():
        undefined = figures.get("undefined", {})
        for reason in dict.fromkeys(undefined.values()):
            which = ", ".join(HEADS[figure] for figure, why in undefined.items() if why == reason)
            lines.append(f"{name}: undefined are {which}: {reason}")
    return "\n".join(lines)


def seed_table(summary: Mapping[str, Any]) -> str:
    """What `statistics.seed_summary` found, as text: mean ± standard deviation, and the interval of the mean."""
    heads, rows = seed_rows(summary)
    title = (
        f"{summary['split']}, {summary['samples']} clips, {len(summary['seeds'])} seeds: "
        "mean ± standard deviation [95% t-interval of the mean]"
    )
    note = ""
    if summary.get("exclusive"):
        of_all = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
        parts = [f"{HEADS[f]} {_spread(summary['exclusive'].get(f))}" for f in of_all]
        note = f"one of {len(summary['emotions'])}: " + "  ".join(parts)
    return TextTable(title, heads, rows, len(rows) > 1, note).as_text()


def seed_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of `seed_table`."""
    shown = ("weighted_f1", "accuracy", "positive_f1", "uar", "auroc")
    rows = []
    for name in [*summary["emotions"], *(["mean"] if len(summary["emotions"]) > 1 else [])]:
        figures = summary["mean"] if name == "mean" else summary["emotions"][name]
        rows.append([name, *(_spread(figures.get(f)) for f in shown)])
    return ["emotion", *(HEADS[f] for f in shown)], rows


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """``0.858 [0.832, 0.883]``; without an interval just the figure, ``-`` where there is none."""
    return number(value) if interval is None or value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _arrow(before: float | None, after: float | None) -> str:
    return f"{number(before)} -> {number(after)}"


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["sd"] is None:
        return f"{found['mean']:.3f}"
    low, high = found["interval"]
    return f"{found['mean']:.3f} ± {found['sd']:.3f} [{low:.3f}, {high:.3f}]"


def number(value: float | None) -> str:
    """Three decimals; ``-`` for an undefined figure."""
    return "-" if value is None else f"{value:.3f}"
