"""Figures as a table for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lmf_multitask.evaluation.metrics import FIGURES
from lmf_multitask.evaluation.published import LMF_PADDLE, LMF_PAPER, PUBLISHED

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

BASELINE_NAMES = {
    "always_absent": "always absent",
    "prevalence": "prevalence",
    "logistic_regression": "logistic regression",
}


def results_table(metrics: dict[str, Any]) -> str:
    """The figures of ``metrics.json`` as text, at most 100 columns wide.

    Args:
        metrics: as `multitask_figures` gives them, with ``split``, ``samples`` and optionally ``always_absent`` (the
            baseline's figures). The paper's figures are added where an emotion is one of the paper's.
    """
    per_emotion = metrics["emotions"]
    baseline = metrics.get("always_absent", {}).get("emotions", {})
    published = any(name in LMF_PAPER for name in per_emotion)
    table = Table(
        title=f"{metrics['split']}, {metrics['samples']} clips",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("emotion")
    table.add_column("present", justify="right")
    for figure in FIGURES:
        table.add_column(HEADS[figure], justify="right")
    if baseline:
        table.add_column("always absent*", justify="right")
    if published:
        table.add_column("LMF paper**", justify="right")
        table.add_column("LMF_Paddle**", justify="right")
    for name, figures in per_emotion.items():
        row = [name, f"{figures['support']}/{figures['annotated']}", *(_number(figures[figure]) for figure in FIGURES)]
        if baseline:
            row.append(_number(baseline[name]["weighted_f1"]))
        if published:
            row += [_number(LMF_PAPER.get(name)), _number(LMF_PADDLE.get(name))]
        table.add_row(*row)
    if len(per_emotion) > 1:
        row = ["mean", "", *(_number(metrics["mean"][figure]) for figure in FIGURES)]
        row += [_number(metrics["always_absent"]["mean"]["weighted_f1"])] if baseline else []
        table.add_row(*row, style="bold")
    notes = ["*  weighted F1 of never seeing the emotion, on these clips"] if baseline else []
    notes += (
        ["** weighted F1 published for IEMOCAP's 938 test clips, one model per emotion; not measured here"]
        if published
        else []
    )
    buffer = io.StringIO()
    Console(file=buffer, width=120, no_color=True).print(table)
    return "\n".join([line.rstrip() for line in buffer.getvalue().splitlines()] + notes)


def full_tables(metrics: Mapping[str, Any], *, calibrated: bool = False, threshold: str = "0.5") -> str:
    """`results_table` and everything else that ``metrics.json`` holds, as text for a terminal.

    Args:
        metrics: as `assessment.assess` gives them; what is absent is left out.
        calibrated: also the figures of the calibrated probabilities.
        threshold: ``positive_f1`` or ``uar`` for the figures at the thresholds fitted for them too; ``0.5`` for none.
    """
    parts = [results_table(dict(metrics))]
    if metrics.get("intervals"):
        parts.append(intervals_table(metrics))
        parts.append(_further_table(metrics))
    if calibrated and metrics.get("calibrated"):
        parts.append(_calibrated_table(metrics))
    if threshold != "0.5" and metrics.get("thresholds"):
        parts.append(_thresholds_table(metrics, threshold))
    parts.append(exclusive_lines(metrics))
    parts.append(baseline_lines(metrics))
    parts.append(published_table(list(metrics["emotions"])))
    undefined = [
        f"{name}: {figure} is undefined, {reason}"
        for name, figures in metrics["emotions"].items()
        for reason in dict.fromkeys(figures.get("undefined", {}).values())
        for figure in [", ".join(f for f, why in figures["undefined"].items() if why == reason)]
    ]
    parts.append("\n".join(undefined))
    return "\n\n".join(part for part in parts if part)


def intervals_table(metrics: Mapping[str, Any]) -> str:
    """Headline figures with their 95% intervals."""
    intervals = metrics["intervals"]
    shown = ("weighted_f1", "positive_f1", "uar", "auroc")
    title = f"with 95% intervals over {metrics['split']} rows ({intervals['resamples']:,} bootstrap resamples)"
    rows = [
        [name, *(_with_interval(figures.get(f), intervals["emotions"][name].get(f)) for f in shown)]
        for name, figures in metrics["emotions"].items()
    ]
    if len(rows) > 1:
        means = [_with_interval(metrics["mean"].get(f), intervals["mean"].get(f)) for f in shown]
        rows.append(["mean", *means])
    return text_table(title, ["emotion", *(HEADS[f] for f in shown)], rows, last_bold=len(rows) > 1)


def _further_table(metrics: Mapping[str, Any]) -> str:
    shown = ("precision", "recall", "macro_f1", "average_precision", "brier", "ece", "log_loss")
    rows = []
    for name, figures in metrics["emotions"].items():
        counts = figures["confusion"]
        cells = "/".join(
            str(counts[key]) for key in ("true_positive", "false_positive", "false_negative", "true_negative")
        )
        rows.append([name, *(_number(figures[f]) for f in shown), cells])
    if len(rows) > 1:
        rows.append(["mean", *(_number(metrics["mean"][f]) for f in shown), ""])
    heads = ["emotion", *(HEADS[f] for f in shown), "TP/FP/FN/TN"]
    return text_table("plain probabilities, present above one half", heads, rows, last_bold=len(rows) > 1)


def _calibrated_table(metrics: Mapping[str, Any]) -> str:
    shown = ("brier", "ece", "log_loss")
    rows = []
    for name, after in metrics["calibrated"]["emotions"].items():
        before, fitted = metrics["emotions"][name], metrics["calibration"]["emotions"][name]
        rows.append([name, f"{fitted['temperature']:.2f}", *(_arrow(before[f], after[f]) for f in shown)])
    heads = ["emotion", "temperature", *(HEADS[f] for f in shown)]
    return text_table("probabilities before -> after calibration (temperatures from validation)", heads, rows)


def _thresholds_table(metrics: Mapping[str, Any], threshold: str) -> str:
    shown = ("weighted_f1", "accuracy", "positive_f1", "uar", "precision", "recall")
    rows = []
    for name, figures in metrics["thresholds"][threshold]["emotions"].items():
        value = metrics["calibration"]["emotions"][name]["thresholds"][threshold]
        rows.append([name, f"{value:.3f}", *(_number(figures[f]) for f in shown)])
    if len(rows) > 1:
        rows.append(["mean", "", *(_number(metrics["thresholds"][threshold]["mean"][f]) for f in shown)])
    title = f"at the thresholds that give the best {HEADS[threshold]} on validation"
    return text_table(title, ["emotion", "threshold", *(HEADS[f] for f in shown)], rows, last_bold=len(rows) > 1)


def exclusive_lines(metrics: Mapping[str, Any]) -> str:
    """The decision among all emotions in a few lines; empty where labels are not exclusive."""
    found = metrics.get("exclusive")
    if not found:
        return ""
    intervals = metrics.get("intervals", {}).get("exclusive", {})
    figures = "  ".join(
        f"{HEADS[f]} {_with_interval(found[f], intervals.get(f))}"
        for f in ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
    )
    heads = found["heads"]
    names = found["emotions"]
    table = text_table(
        f"one of {len(names)} (highest {found['probabilities']} probability): {figures}",
        ["true \\ decided", *names],
        [[name, *map(str, row)] for name, row in zip(names, found["confusion"])],
    )
    return (
        f"{table}\nheads at one half: exactly one says present in {heads['one_present']:.0%} of clips, "
        f"none in {heads['none_present']:.0%}, several in {heads['several_present']:.0%}"
    )


def baseline_lines(metrics: Mapping[str, Any]) -> str:
    """The baselines' means, and plainly whether the network is better than a logistic regression."""
    baselines = metrics.get("baselines") or {}
    if not baselines:
        return ""
    shown = ("weighted_f1", "positive_f1", "uar", "auroc", "brier")
    rows = [[BASELINE_NAMES.get(name, name), *(_number(b["mean"][f]) for f in shown)] for name, b in baselines.items()]
    rows.append(["this model", *(_number(metrics["mean"][f]) for f in shown)])
    text = text_table("beside baselines (means over emotions)", ["", *(HEADS[f] for f in shown)], rows, last_bold=True)
    linear = baselines.get("logistic_regression")
    return text if linear is None else f"{text}\n{verdict_on_linear(metrics)}"


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
        parts.append(
            f"The network is {word} logistic regression on the mean weighted F1 "
            f"(difference {mean['difference']:+.3f} [{low:+.3f}, {high:+.3f}])"
        )
    if better:
        parts.append(f"better on {', '.join(better)}")
    if worse:
        parts.append(f"WORSE on {', '.join(worse)}")
    if open_:
        parts.append(f"no difference that {metrics['samples']} rows can show on {', '.join(open_)}")
    return "; ".join(parts) + "."


def published_table(emotions: Sequence[str]) -> str:
    """Weighted F1 that others published for IEMOCAP's emotions; empty where none of `emotions` is one."""
    chosen = [name for name in emotions if name in LMF_PAPER]
    if not chosen:
        return ""
    rows = [
        [row.name + (" (second-hand)" if row.second_hand else ""), *(_number(row.weighted_f1[e]) for e in chosen)]
        for row in PUBLISHED
    ]
    return text_table("published weighted F1 on IEMOCAP's 938 test clips; not measured here", ["model", *chosen], rows)


def seed_table(summary: Mapping[str, Any]) -> str:
    """What `statistics.seed_summary` found, as text: mean ± standard deviation, and the interval of the mean."""
    shown = ("weighted_f1", "accuracy", "positive_f1", "uar", "auroc")
    names = [*summary["emotions"], "mean"]
    rows = []
    for name in names:
        figures = summary["mean"] if name == "mean" else summary["emotions"][name]
        rows.append([name, *(_spread(figures.get(f)) for f in shown)])
    title = (
        f"{summary['split']}, {summary['samples']} clips, {len(summary['seeds'])} seeds: "
        "mean ± standard deviation [95% t-interval of the mean]"
    )
    text = text_table(title, ["emotion", *(HEADS[f] for f in shown)], rows, last_bold=True)
    if summary.get("exclusive"):
        shown = ("weighted_accuracy", "unweighted_accuracy", "macro_f1")
        parts = [f"{HEADS[f]} {_spread(summary['exclusive'].get(f))}" for f in shown]
        text += f"\none of {len(summary['emotions'])}: " + "  ".join(parts)
    return text


def text_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], last_bold: bool = False) -> str:
    """A plain table: first column left, the others right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if last_bold and number == len(rows) - 1 else None)
    buffer = io.StringIO()
    Console(file=buffer, width=max(160, len(title) + 1), no_color=True).print(table)
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    # a title longer than the table would be wrapped to its width
    body = lines[len(lines) - len(rows) - 1 :]
    return "\n".join([title, *body])


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    return (
        _number(value) if interval is None or value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
    )


def _arrow(before: float | None, after: float | None) -> str:
    return f"{_number(before)} -> {_number(after)}"


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["sd"] is None:
        return f"{found['mean']:.3f}"
    low, high = found["interval"]
    return f"{found['mean']:.3f} ± {found['sd']:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
