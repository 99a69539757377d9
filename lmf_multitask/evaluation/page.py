"""The writer of HTML pages: a summary box, sections of plots and tables, facts. Each page is one self-contained file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from lmf_multitask.errors import printable
from lmf_multitask.evaluation.drawing import Plot, write_plots
from lmf_multitask.evaluation.text import TextTable
from lmf_multitask.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Tile:
    """One number of the summary box.

    Attributes:
        label: what it is.
        value: the number.
        note: its interval, or what it is compared with; may be empty.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        heading: of the part.
        text: a sentence or two on how to read it.
        plots: side by side on a wide page; None for a plot that could not be drawn.
        tables: below them; None likewise.
        verbatim: preformatted text; empty for none.
    """

    heading: str
    text: str = ""
    plots: Sequence[Plot | None] = ()
    tables: Sequence[TextTable | None] = ()
    verbatim: str = ""


def write_page(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, str],
    sections: Sequence[Section],
    tiles: Sequence[Tile] = (),
    caption: str = "",
    facts: Mapping[str, str] | None = None,
    pdf: bool = False,
) -> Path:
    """Writes a page, and ``plots/`` with its plots beside it.

    Args:
        path: of the page.
        title: heading.
        summary: heading -> a sentence each, in the box on top; empty ones are left out.
        sections: its parts.
        tiles: the numbers above them.
        caption: what the tiles are.
        facts: heading -> text, at the end; ``Settings`` can be unfolded.
        pdf: write the plots as PDF, too.

    Returns:
        The page.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value), keep="\n\t\u00a0"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=_data_uri, unbroken=_unbroken)
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html.j2").render(
        title=title,
        summary={name: text for name, text in summary.items() if text},
        sections=sections,
        tiles=tiles,
        caption=caption,
        facts=facts or {},
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_plots(path.parent, [plot for section in sections for plot in section.plots if plot], pdf)
    write_text(path, page)
    return path


def _data_uri(plot: Plot) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(plot.svg_of_both_themes().encode()).decode()


def _unbroken(cell: str) -> str:
    """A cell whose lines break between a value and its interval only."""
    return re.sub(r"\[[^\]]*\]| ± | -> ", lambda found: found[0].replace(" ", "\u00a0"), cell)
