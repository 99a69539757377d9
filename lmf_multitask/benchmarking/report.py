"""Measurements as a table, as JSON, and as a figure."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmf_multitask.files import atomic_write

if TYPE_CHECKING:
    from lmf_multitask.benchmarking.measure import Comparison, Curve, Spread
    from lmf_multitask.benchmarking.reference import Timing


def comparison_table(comparison: Comparison) -> str:
    """All contenders as text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("network", no_wrap=True)
    for head in (
        "parameters",
        "MFLOP/clip\nforward",
        "MFLOP/clip\ntraining",
        "training\nclips/s",
        "inference\nclips/s",
        "1 clip\nms",
        "tensors\nMB",
        "share of\nmatmul rate",
        "of its\nshapes'",
    ):
        table.add_column(head, justify="right")
    for name, result in comparison.results.items():
        table.add_row(
            name,
            f"{result.cost.parameters:,}",
            f"{result.cost.forward / 1e6:.2f}",
            f"{result.cost.training / 1e6:.2f}",
            _rate(result.training),
            _rate(result.inference),
            f"{result.latency.median * 1e3:.2f}",
            f"{result.memory / 1e6:.1f}",
            f"{comparison.share(name):.0%}",
            f"{comparison.share_of_shapes(name):.0%}",
        )
    notes = [
        "Medians (and quartiles) of measurements in turn. A clip counts once however many networks it passes through.",
        f"Matrix products: {comparison.large.median / 1e9:.0f} GFLOP/s for [1280, 300] x [300, 512] (the LSTM's words), "
        f"{comparison.small.median / 1e9:.0f} for [64, 128] x [128, 512] (a step of its recurrence).",
        "Shares: arithmetic of a training step (matrix products and fusion, by formula) per second of the whole step, of the",
        "first rate; and with the recurrence at the second. Tensors: the most that Paddle holds in training, batch 64.",
    ]
    return "\n".join([_as_text(table), *notes])


def growth_table(curves: dict[str, list[Curve]]) -> str:
    """The growth curves' numbers as text."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in (
        "growing",
        "measured",
        "from",
        "to",
        "microseconds/clip",
        "tensors MB",
        "time grows",
        "paper's order grows",
    ):
        table.add_column(head, justify="left" if head in ("growing", "measured") else "right", no_wrap=True)
    for title, lines in curves.items():
        for curve in lines:
            times = [spread.median * 1e6 for spread in curve.seconds]
            order = f"{curve.order[-1] / curve.order[0]:,.1f} times" if curve.order else "-"
            table.add_row(
                title,
                curve.label,
                str(curve.x[0]),
                str(curve.x[-1]),
                f"{times[0]:,.1f} - {times[-1]:,.1f}",
                f"{curve.bytes[0] / 1e6:,.1f} - {curve.bytes[-1] / 1e6:,.1f}",
                f"{times[-1] / times[0]:,.1f} times",
                order,
            )
    return _as_text(table)


def reference_table(timings: list[Timing], epochs: int) -> str:
    """LMF_Paddle's script beside ours."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("training", "seconds per epoch", f"seconds in all, {epochs} epochs", "seconds in all, 40 epochs*"):
        table.add_column(head, justify="left" if head == "training" else "right")
    for timing in timings:
        table.add_row(timing.name, f"{timing.epoch:.2f}", f"{timing.whole:.1f}", f"{timing.whole_at(40):.1f}")
    lines = [_as_text(table), "* what was measured, with each further epoch at the median of those seen"]
    by_name = {timing.name: timing for timing in timings}
    theirs = [timing for timing in timings if timing.theirs]
    separate = [by_name[timing.name.replace("LMF_Paddle", "ours, per emotion")] for timing in theirs]
    ratios = ", ".join(
        f"{timing.name.rpartition(' ')[2]} {timing.epoch / own.epoch:.1f}" for timing, own in zip(theirs, separate)
    )
    whole = sum(timing.whole_at(40) for timing in theirs)
    one_by_one = whole / sum(timing.whole_at(40) for timing in separate)
    lines += [
        f"An epoch of theirs takes, in epochs of ours with the same network and settings: {ratios}.",
        f"All emotions one after the other, 40 epochs each: theirs takes {one_by_one:.1f} times as long as ours, per emotion,",
        f"and {whole / by_name['ours, multitask'].whole_at(40):.1f} times as long as our one multitask model.",
    ]
    return "\n".join(lines)


def as_json(**parts: Any) -> dict[str, Any]:
    """Dataclasses, in dicts and lists, as plain data."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {str(name): plain(inner) for name, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    return plain(parts)


def draw(comparison: Comparison, curves: dict[str, list[Curve]], title: str, path: Path) -> None:
    """Writes the figure: bars of the contenders, and time and memory of the growth curves, with the paper's orders."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(22, 13), constrained_layout=True)
    figure.suptitle(title)
    grid = figure.add_gridspec(3, 12, height_ratios=[1.15, 1, 1])
    _draw_bars([figure.add_subplot(grid[0, start : start + 3]) for start in (0, 3, 6, 9)], comparison)
    for row, what in ((1, "microseconds per clip"), (2, "MB of tensors")):
        for column, (label, lines) in enumerate(curves.items()):
            axis = figure.add_subplot(grid[row, 2 * column : 2 * column + 2])
            for curve in lines:
                _draw_curve(axis, curve, what)
            _set_log_axes(axis, lines[0].x, what)
            axis.set_xlabel(label)
            axis.set_ylabel(what if column == 0 else "")
            axis.legend(fontsize=8, loc="best")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=100)
    plt.close(figure)


_COLOURS = {"low-rank fusion": "#1f77b4", "full tensor fusion": "#d62728", "multitask training step": "#2ca02c"}


def _draw_bars(axes: list[Any], comparison: Comparison) -> None:
    """One bar per contender; on logarithmic axes only the ends mean anything, so that their values are written there."""
    names = list(comparison.results)[::-1]
    results = [comparison.results[name] for name in names]
    colours = ["#1f77b4" if name.startswith("LMF") else "#b0b0b0" for name in names]
    panels = {
        "training, clips per second": [1 / result.training.median for result in results],
        "inference, clips per second": [1 / result.inference.median for result in results],
        "trainable parameters": [result.cost.parameters for result in results],
        f"a training step's share of {comparison.large.median / 1e9:.0f} GFLOP/s": [comparison.share(n) for n in names],
    }
    for number, (axis, (label, values)) in enumerate(zip(axes, panels.items())):
        bars = axis.barh(names, values, color=colours)
        last = number == len(axes) - 1
        axis.bar_label(bars, [f"{value:.0%}" if last else f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        axis.set_title(label)
        if last:
            axis.set_xlim(0, 1.15 * max([*values, 0.9]))
            axis.axvline(1, color="0.3", linestyle=":")
        else:
            axis.set_xscale("log")
            axis.set_xlim(min(values) / 3, max(values) * 6)
        axis.tick_params(labelleft=number == 0)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)


def _draw_curve(axis: Any, curve: Curve, what: str) -> None:
    colour = _COLOURS[curve.label]
    if what == "MB of tensors":
        values = [value / 1e6 for value in curve.bytes]
    else:
        values = [spread.median * 1e6 for spread in curve.seconds]
        low, high = ([getattr(s, part) * 1e6 for s in curve.seconds] for part in ("low", "high"))
        axis.fill_between(curve.x, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.plot(curve.x, values, "o-", color=colour, label=curve.label)
    if curve.order:  # through the last point, where the arithmetic is most of it
        formula = "O(K R sum d)" if curve.label == "low-rank fusion" else "O(K prod d)"
        scaled = [values[-1] * order / curve.order[-1] for order in curve.order]
        axis.plot(curve.x, scaled, "--", color=colour, linewidth=1, label=f"paper's {formula}")


def _set_log_axes(axis: Any, x: list[int], what: str) -> None:
    """Logarithmic, with plain numbers, and never so narrow that noise looks like growth."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log", base=2)
    axis.set_xticks(x, [str(value) for value in x])
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high / low < 10:
        middle = (low * high) ** 0.5
        axis.set_ylim(middle / 10**0.5, middle * 10**0.5)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def _rate(spread: Spread) -> str:
    return f"{1 / spread.median:,.0f} ({1 / spread.high:,.0f}-{1 / spread.low:,.0f})"


def _as_text(table: Any) -> str:
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=170, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
