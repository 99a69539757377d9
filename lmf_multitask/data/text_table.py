"""Tables as text, CSV and JSON lines, as Arrow tables.

A file is parsed once; lists of numbers (in CSV as JSON text: ``"[0.1, 0.2]"``) go to a temporary file without a name that is
mapped into memory.

Shape letters: L steps, D features.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from lmf_multitask.data.arrow import fixed_lists
from lmf_multitask.data.columns import BLOCK_ROWS
from lmf_multitask.data.label_columns import ID_COLUMNS
from lmf_multitask.data.modality import as_float32, find_modality
from lmf_multitask.errors import DataError, first_line

_LONGEST_LINE = 1 << 27
_LONGEST_TEXT = 4096  # the rest of a longer one, a transcript for instance, is not kept
_MOST_COLUMNS = 4096
_EMPTY = ("", "nan", "na", "n/a", "null", "none")


def parse_table(file: BinaryIO, path: Path, lists: Collection[str] = ()) -> pa.Table:
    """The content of a text table; lists of numbers are mapped from a temporary file.

    Raises:
        DataError: it is no such table.
    """
    lines = path.suffix.lower() in (".jsonl", ".ndjson")
    columns: dict[str, _Column] = {}
    count = 0
    try:
        rows = _json_rows(file) if lines else _csv_rows(file, path)
        while block := list(islice(rows, BLOCK_ROWS)):
            for name in dict.fromkeys(key for row in block for key in row):
                if name not in columns:
                    columns[name] = _Column(name, name in lists or find_modality(name.lower()) is not None, count)
            if len(columns) > _MOST_COLUMNS:
                raise ValueError(f"it has more than {_MOST_COLUMNS:,} columns")
            for name, column in columns.items():
                column.take([row.get(name) for row in block])
            count += len(block)
        return pa.table({name: column.finished(typed=lines) for name, column in columns.items()})
    except (ValueError, TypeError, RecursionError, csv.Error, pa.ArrowException) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        what = "JSON lines" if lines else "CSV"
        raise DataError(f"{path}: must be {what} in UTF-8, but {reason}. Write it again.") from None
    finally:
        for column in columns.values():
            column.close()


class _Column:
    """One column while a file is parsed: single values in memory, lists of numbers in a temporary file."""

    def __init__(self, name: str, may_hold_lists: bool, before: int) -> None:
        """Starts after `before` rows that lack the column."""
        self._name, self._may_hold_lists = name, may_hold_lists
        self._values: list[Any] = [None] * before
        self._lists: _Lists | None = None
        self._other = False

    def take(self, values: list[Any]) -> None:
        """The next rows."""
        if self._lists is None and not self._other:
            first = next((value for value in values if value is not None and value != ""), None)
            is_list = isinstance(first, list) or (isinstance(first, str) and first.lstrip().startswith("["))
            if is_list and self._may_hold_lists:
                self._lists = _Lists(self._name, len(self._values))
            elif isinstance(first, list):  # of another column: tokens, for instance
                self._other = True
        if self._lists is not None:
            self._lists.take(values)
        else:
            kept = (value[:_LONGEST_TEXT] if isinstance(value, str) else value for value in values)
            self._values += [None] * len(values) if self._other else kept

    def finished(self, typed: bool) -> pa.Array | pa.ChunkedArray:
        """All rows."""
        if self._lists is not None:
            return self._lists.finished()
        if self._other:
            return pa.nulls(len(self._values), pa.list_(pa.null()))
        values = self._values if typed or self._name.lower() in ID_COLUMNS else _typed(self._values)
        try:
            return pa.array(values)
        except pa.ArrowException:
            raise ValueError(f"the column {self._name!r} mixes types of values") from None

    def close(self) -> None:
        """Closes the temporary file; what is mapped stays."""
        if self._lists is not None:
            self._lists.file.close()


class _Lists:
    """Lists of numbers, `[D]` or `[L, D]`, in a temporary Arrow file."""

    def __init__(self, name: str, before: int) -> None:
        """Starts after `before` rows without values."""
        self._name, self._before = name, before
        self._shape: tuple[int, ...] | None = None
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the table
        self._writer: Any = None
        self._rows = before

    def take(self, values: Iterable[Any]) -> None:
        """The next rows."""
        arrays = []
        for value in values:
            self._rows += 1
            array = None if value is None or value == "" else self._array(value)
            arrays.append(array)
            if array is None or not array.size:
                continue
            self._shape = self._shape or array.shape
            if array.ndim != len(self._shape):
                self._refuse("a list of another depth")
            if array.shape[-1] != self._shape[-1]:
                self._refuse(f"{array.shape[-1]} numbers where others have {self._shape[-1]}")
        self._write(arrays)

    def _array(self, value: Any) -> np.ndarray:
        try:
            numbers = np.asarray(json.loads(value) if isinstance(value, str) else value, np.float64)
        except (ValueError, TypeError) as error:
            self._refuse(first_line(error))
        if numbers.ndim not in (1, 2):
            self._refuse(f"a list of the depth {numbers.ndim}")
        return as_float32(numbers)

    def _refuse(self, what: str) -> Any:
        raise ValueError(
            f"the column {self._name!r} must hold lists of numbers of one size, and row {self._rows:,} has {what}"
        )

    def _write(self, arrays: Sequence[np.ndarray | None]) -> None:
        width = (self._shape or (1,))[-1] or 1
        two = self._shape is not None and len(self._shape) == 2
        parts = [array.reshape(-1, width) for array in arrays if array is not None]
        flat = np.concatenate(parts) if parts else np.zeros((0, width), np.float32)
        rows = np.array([0 if array is None else math.prod(array.shape) // width for array in arrays], np.int64)
        values = fixed_lists(flat) if two else pa.array(flat.reshape(-1))
        offsets = np.concatenate([[0], np.cumsum(rows if two else rows * width)])
        gaps = pa.array([array is None for array in arrays])
        column = pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=gaps)
        if self._writer is None:
            self._writer = pa.ipc.new_stream(self.file, pa.schema({"x": column.type}))
            if self._before:
                self._writer.write_batch(pa.record_batch({"x": pa.nulls(self._before, column.type)}))
        self._writer.write_batch(pa.record_batch({"x": column}))

    def finished(self) -> pa.ChunkedArray:
        """All rows, mapped into memory."""
        self._writer.close()
        self.file.flush()
        return pa.ipc.open_stream(pa.memory_map(f"/dev/fd/{self.file.fileno()}")).read_all().column("x")


def _csv_rows(file: BinaryIO, path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_LINE)
    file.seek(0)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        head = text.readline(_LONGEST_LINE)
        separator = (
            "\t" if path.suffix.lower() == ".tsv" or "\t" in head else ";" if ";" in head and "," not in head else ","
        )
        text.seek(0)
        rows = csv.reader(text, delimiter=separator, strict=True)
        names = next(rows, [])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"it has two columns named {twice[:40]!r}")
        for number, row in enumerate(rows, 2):
            if row and len(row) != len(names):
                raise ValueError(f"line {number:,} has {len(row)} cells for {len(names)} columns")
            if row:
                yield dict(zip(names, row))
    finally:
        text.detach()


def _json_rows(file: BinaryIO) -> Iterator[dict[str, Any]]:
    file.seek(0)
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number:,} is no object {{...}}")
            yield row


def _typed(values: Sequence[str | None]) -> list[Any]:
    """Texts as whole numbers, numbers or truth values, if all of them are; empty ones as None."""
    filled = [None if value is None or value.strip().lower() in _EMPTY else value.strip() for value in values]
    for convert in (int, float, _truth):
        try:
            return [None if value is None else convert(value) for value in filled]
        except (ValueError, KeyError):
            continue
    return [None if value is None or value == "" else value for value in values]


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]
