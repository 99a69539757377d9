"""Parquet: one file, or a folder with one or more files per split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lmf_multitask.data.parquet_pages import announced
from lmf_multitask.data.sources import Candidate
from lmf_multitask.data.sources.table_files import TableFiles
from lmf_multitask.data.sources.tables import DAMAGES, Table
from lmf_multitask.data.table_columns import is_text
from lmf_multitask.errors import DataError, first_line

_MOST_TIMES = 100


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

        try:
            values, unpacked = announced(file)
            most = max(1 << 24, _MOST_TIMES * path.stat().st_size)
            if max(values, unpacked) > most:
                raise DataError(
                    f"{path}: must hold at most {_MOST_TIMES} values or bytes per byte, but holds {values:,} values and "
                    f"{unpacked:,} bytes in {path.stat().st_size:,}. Check the file."
                )
            schema = pq.ParquetFile(file).schema_arrow
            # a text that a page repeats is kept once
            repeated = [field.name for field in schema if is_text(field.type)]

            def open_parquet() -> pq.ParquetFile:
                # so that iter_batches holds a batch; by default it holds a row group, which may be the whole file
                return pq.ParquetFile(file, read_dictionary=repeated, buffer_size=1 << 20, pre_buffer=False)

            with_metadata = open_parquet()
            schema, count = with_metadata.schema_arrow, with_metadata.metadata.num_rows
        except DAMAGES as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: must be a Parquet file, but {first_line(error)}. Write it again.") from None

        def read(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
            return (
                pa.Table.from_batches([batch]) for batch in open_parquet().iter_batches(rows, columns=list(columns))
            )

        return Table(str(path), count, schema, read)
