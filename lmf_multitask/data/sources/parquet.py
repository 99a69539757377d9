"""Parquet: one file, or a folder with one or more files per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmf_multitask.data.sources import Candidate
from lmf_multitask.data.sources.table_files import TableFiles
from lmf_multitask.data.sources.tables import DAMAGES, Table
from lmf_multitask.errors import DataError, first_line


class ParquetSource(TableFiles):
    """``train.parquet``, ``train-00000-of-00001.parquet`` and so on in a folder, or one Parquet file."""

    layout = "a folder with train.parquet, validation.parquet and test.parquet, or one Parquet file"
    suffixes = (".parquet",)

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a Parquet file, or a folder with some and no saved data set."""
        return candidate.start.startswith(b"PAR1") or cls.in_folder(candidate)

    def _table(self, path: Path) -> Table:
        file = self._open(path)

        def open_parquet() -> pq.ParquetFile:
            # so that iter_batches holds a batch; by default it holds a row group, which may be the whole file
            return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)

        try:
            with_metadata = open_parquet()
            schema, metadata = with_metadata.schema_arrow, with_metadata.metadata
        except DAMAGES as error:
            raise DataError(f"{path}: must be a Parquet file, but {first_line(error)}. Write it again.") from None
        self._check_size(path, metadata)

        def read(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
            return (
                pa.Table.from_batches([batch]) for batch in open_parquet().iter_batches(rows, columns=list(columns))
            )

        return Table(str(path), metadata.num_rows, schema, read)

    def _check_size(self, path: Path, metadata: Any) -> None:
        """Checks that a repeated value, which needs no space in a Parquet file, does not fill the memory."""
        size = path.stat().st_size
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
        if values > max(1 << 24, 100 * size):
            raise DataError(
                f"{path}: must hold at most 100 values per byte, but holds {values:,} in {size:,}. Check the file."
            )
