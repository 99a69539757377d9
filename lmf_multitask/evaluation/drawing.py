"""Style of all plots, and the parts that they are made of.

Colours are those of Okabe and Ito, which can be told apart with every common colour blindness, and never the only sign:
lines also differ in dash, points in form. A plot is drawn once, in light colours; on a page a style sheet inside the SVG
makes them dark.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lmf_multitask.errors import printable
from lmf_multitask.files import atomic_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

INK, MUTED, GRID = "#1b1f24", "#5f6873", "#d3d8de"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9")
DARK = dict(
    zip(
        (INK, MUTED, GRID, *SERIES),
        ("#e7eaee", "#a4adb8", "#3b434d", "#58b0ec", "#ff8b3d", "#35cc9b", "#eba4cb", "#f2c14e", "#b7e0fb"),
    )
)
"""Colour of a plot -> its colour on a dark page."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
DOTTED = (0, (1, 2))
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 5.4  # inches; text stays readable when a phone or a column on paper scales the plot down
LONGEST_LABEL = 40
PLOTS_FOLDER = "plots"
CJK_FONT_FILES = r"CJK.*\.|SourceHanSans|wqy|msyh|simhei|PingFang|Hiragino|DroidSansFallback"

_STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "figure.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
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
    "svg.hashsalt": "lmf",  # the same plot gives the same file
    "pdf.fonttype": 42,  # TrueType: letters stay letters, and publishers accept it
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "backend": "agg",
}


@dataclass(frozen=True)
class Plot:
    """One finished plot.

    Attributes:
        name: of its files.
        title: what it shows.
        alternative: the sentence that replaces it.
        svg: in light colours, without a background; letters are outlines, so that it needs no font.
        figure: what it was rendered from.
    """

    name: str
    title: str
    alternative: str
    svg: str
    figure: Figure

    def svg_of_both_themes(self) -> str:
        """The SVG that follows the page between light and dark."""
        names = {colour: f"--c{index}" for index, colour in enumerate(DARK)}
        light = "".join(f"{name}:{colour};" for colour, name in names.items())
        dark = "".join(f"{names[colour]}:{other};" for colour, other in DARK.items())
        text = self.svg
        for colour, name in names.items():
            text = text.replace(colour, f"var({name})")
        style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
        end = text.index(">", text.index("<svg")) + 1
        return text[:end] + style + text[end:]


@contextmanager
def drawing() -> Iterator[None]:
    """Sets the style of all plots. Characters that no font has are boxes; `label` warns once of the common case."""
    settings: dict[Any, Any] = {
        **matplotlib.rcParamsDefault,
        **_STYLE,
        "font.family": ["DejaVu Sans", *_cjk_families()],
    }
    with matplotlib.rc_context(rc=settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield


@functools.cache
def _cjk_families() -> list[str]:
    """The family of an installed font for Chinese, Japanese and Korean, which matplotlib's list of fonts may not have yet."""
    paths = [
        path for path in font_manager.findSystemFonts() if re.search(CJK_FONT_FILES, Path(path).name, re.IGNORECASE)
    ]
    fonts, known = font_manager.fontManager, len(font_manager.fontManager.ttflist)
    for path in sorted(paths, key=lambda path: ("Sans" not in path, "Regular" not in path, path))[:1]:
        fonts.addfont(path)
    return [font.name for font in fonts.ttflist[known : known + 1]]


@functools.cache
def _warn_of_boxes() -> None:
    logger.warning(
        "plots show boxes for some characters, because no font for Chinese, Japanese and Korean is installed. "
        "Install one, for example Noto Sans CJK."
    )


def label(name: str) -> str:
    """A user's name as a label: without control characters, not too long, and never hidden from the legend."""
    text = printable(name)
    if any(character > "\u2e80" for character in text) and not _cjk_families():
        _warn_of_boxes()
    text = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves labels that begin with _ out of a legend


def style(index: int, *, marker: bool = True) -> dict[str, Any]:
    """Colour, dash and marker of a series; when a colour is used again, it has another dash and marker."""
    place = index + index // len(SERIES)
    found = {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[place % len(DASHES)]}
    return {**found, "marker": MARKERS[place % len(MARKERS)]} if marker else found


def panels_of(
    count: int, height: float, columns: int = 2, width: float | None = None, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with panels in rows of `columns`, each row `height` inches high."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width or WIDTH, height * rows))
    panels = list(np.atleast_1d(figure.subplots(rows, columns, **shared)).ravel())
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def rows_axis(panel: Axes, names: Sequence[str]) -> np.ndarray:
    """Makes the vertical axis one of names, the first at the top; returns their places."""
    places = np.arange(len(names))
    panel.set(yticks=places, ylim=(len(names) - 0.5, -0.5))
    panel.set_yticklabels([label(name) for name in names])
    panel.grid(axis="y", visible=False)
    return places


def interval_points(
    panel: Axes, places: np.ndarray, entries: Sequence[tuple[Any, Any]], index: int = 0, **options: Any
) -> None:
    """Values (None: undefined) with their intervals (or None), as points on horizontal lines."""
    values = [np.nan if value is None else value for value, _ in entries]
    low, high = np.array([[np.nan, np.nan] if bounds is None else bounds for _, bounds in entries]).T
    panel.hlines(places, low, high, color=style(index)["color"], linewidth=2.4)
    panel.plot(values, places, **{**style(index), "linestyle": "none"}, **options)


def or_nan(value: float | None) -> float:
    """NaN for an undefined value, which matplotlib leaves out."""
    return float("nan") if value is None else value


def unit_axis(panel: Axes) -> None:
    """Makes the horizontal axis one from 0 to 1."""
    panel.set(xlim=(-0.02, 1.02), xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "", "0.5", "", "1"])


def whole_numbers(panel: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers only."""
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def legend_below(figure: Figure, panels: Axes | Sequence[Axes], columns: int = 3) -> None:
    """The legend of one or several panels below the whole figure, each label once."""
    entries: dict[str, Any] = {}
    for panel in panels if isinstance(panels, Sequence) else [panels]:
        entries.update(zip(*reversed(panel.get_legend_handles_labels())))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=min(columns, len(entries)))


def finish(figure: Figure, name: str, title: str, alternative: str) -> Plot:
    """Renders a figure as SVG."""
    svg, layout = io.StringIO(), figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")  # everything has its place now; otherwise savefig draws twice
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = svg.getvalue()
    return Plot(name, title, printable(alternative), text[text.index("<svg") :], figure)


def write_plots(folder: Path, plots: Sequence[Plot], pdf: bool) -> None:
    """Writes ``plots/NAME.svg`` and, if wanted, ``plots/NAME.pdf`` with its fonts inside; replaces an earlier ``plots/``."""
    with atomic_folder(folder / PLOTS_FOLDER) as place, drawing():
        for plot in plots:
            (place / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
            if pdf:
                plot.figure.savefig(place / f"{plot.name}.pdf", metadata={"CreationDate": None, "Title": plot.title})
