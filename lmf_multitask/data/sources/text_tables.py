"""Tables as text, CSV and JSON lines: one file, or a folder with a file per split.

Features are lists of numbers (in CSV as JSON text: ``"[0.1, 0.2]"``) or paths of ``.npy`` files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from lmf_multitask.data.modality import MODALITIES
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
        chosen = [getattr(self.reading.config, name) for name in MODALITIES]
        table = parse_table(self._open(path), path, {"labels", *filter(None, chosen)})

        def read(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
            wanted = table.select(list(columns))
            return (wanted.slice(start, rows) for start in range(0, len(table), rows))

        return Table(str(path), len(table), table.schema, read)
