"""Tables as text, CSV and JSON lines: one file, or a folder with a file per split.

Features are lists of numbers (in CSV as JSON text: ``"[0.1, 0.2]"``) or paths of ``.npy`` files.
"""

from __future__ import annotations

from pathlib import Path

from lmf_multitask.data.sources import Candidate
from lmf_multitask.data.sources.table_files import TableFiles
from lmf_multitask.data.sources.tables import Table
from lmf_multitask.data.text_table import parse_table


class TextTables(TableFiles):
    """``train.csv`` and so on in a folder, or one file: CSV, tab-separated values or JSON lines."""

    layout = "a table as text (.csv, .tsv, .jsonl), or a folder with train.csv, validation.csv and test.csv"
    suffixes = (".csv", ".tsv", ".jsonl", ".ndjson")

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether the name ends like that of a text table, or it is a folder with some and no saved data set."""
        return (candidate.file is not None and candidate.path.suffix.lower() in cls.suffixes) or cls.in_folder(
            candidate
        )

    def _table(self, path: Path) -> Table:
        return Table.of(
            str(path), parse_table(self._open(path), path, {"labels", *self.reading.config.chosen.values()})
        )
