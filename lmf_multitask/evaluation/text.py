"""Numbers, and tables of text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmf_multitask.errors import printable


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: line above the table.
        heads: column heads.
        rows: cells of each row.
        bold_last: whether the last row sums up the others.
        note: lines below the table; may be empty.
        left: indices of the columns that are aligned to the left; the others hold numbers.
        sortable: whether a click on a head sorts the rows, on a page; on a phone each row is a card then.
        filters: indices of the columns by whose values the rows can be filtered, on a page.
    """

    title: str
    heads: list[str]
    rows: list[list[str]]
    bold_last: bool = False
    note: str = ""
    left: Sequence[int] = (0,)
    sortable: bool = False
    filters: Sequence[int] = ()

    def as_text(self) -> str:
        """The table for a terminal; names may hold anything, since markup and control characters have no effect."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column, head in enumerate(self.heads):
            table.add_column(Text(printable(head)), justify="left" if column in self.left else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        buffer = io.StringIO()
        Console(file=buffer, width=10_000, color_system=None, force_terminal=False).print(table)
        lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
        return "\n".join([printable(self.title), *lines, *map(printable, self.note.splitlines())])


def number(value: float | None) -> str:
    """Three decimals; ``-`` for an undefined metric."""
    return "-" if value is None else f"{value:.3f}"


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """``0.858 [0.832, 0.883]``; only the value where it has no interval."""
    return number(value) if interval is None or value is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def difference(value: float | None, interval: Sequence[float] | None) -> str:
    """``+0.017 [-0.010, +0.044]``; only the difference where it has no interval."""
    if value is None:
        return number(None)
    return f"{value:+.3f}" if interval is None else f"{value:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
