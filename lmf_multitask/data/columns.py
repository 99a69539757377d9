"""A column of rows that may be larger than memory: read in blocks, whatever pieces it is stored in.

Shape letters: N rows (clips).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

BLOCK_ROWS = 512
"""Rows in memory at a time when a whole column is passed over: 12 MB of IEMOCAP's text."""


class ChunkedColumn:
    """A numeric column `[N, ...]` in several chunks, read row by row like an array.

    The chunks are views into memory-mapped files as a rule, so that only the rows that are asked for are read.
    ``column[3:9]`` and ``column[[5, 2, 5]]`` are arrays; ``np.asarray(column)`` reads everything into memory.

    Attributes:
        shape: of the whole column, N first.
        dtype: of its numbers.
    """

    def __init__(self, chunks: Sequence[np.ndarray], order: np.ndarray | None = None) -> None:
        """Takes the chunks, one after the other.

        Args:
            chunks: one or more arrays `[n, ...]`, alike but for n.
            order: int `[N]`, which of the rows in the chunks the column consists of; None takes all as they stand.
        """
        self._chunks = [chunk for chunk in chunks if len(chunk)] or list(chunks[:1])
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        self._order = order
        count = int(self._starts[-1]) if order is None else len(order)
        self.shape = (count, *self._chunks[0].shape[1:])
        self.dtype = self._chunks[0].dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Some rows, `[n, ...]`; a view where they lie side by side in one chunk.

        Raises:
            IndexError: there is no such row.
            TypeError: `rows` is not a slice or row numbers.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if self._order is None and step == 1:
                return self._side_by_side(start, max(start, stop))
            rows = np.arange(start, stop, step)
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
            raise TypeError(f"rows must be a slice or a list of row numbers, but got {rows!r}.")
        numbers = numbers.astype(np.int64)
        if numbers.size and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"row numbers must be below {len(self)}, but got {numbers.min()} to {numbers.max()}.")
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if self._order is not None:
            numbers = self._order[numbers]
        if len(self._chunks) == 1:
            return self._chunks[0][numbers]
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        chunk_of = np.searchsorted(self._starts, numbers, side="right") - 1
        for index in np.unique(chunk_of):
            places = np.flatnonzero(chunk_of == index)
            found[places] = self._chunks[index][numbers[places] - self._starts[index]]
        return found

    def _side_by_side(self, start: int, stop: int) -> np.ndarray:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for chunk, begin in zip(self._chunks[first:], self._starts[first:]):
            if begin >= stop and parts:
                break
            parts.append(chunk[max(start - begin, 0) : stop - begin])
        if not parts:  # start is the end
            return self._chunks[0][:0]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)


Column = np.ndarray | ChunkedColumn
Columns = Mapping[str, Column]


def row_blocks(column: Column, rows: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
    """A column from front to back, at most `rows` of it at a time: `[n, ...]`.

    The blocks begin at the same rows however the column is stored, so that sums over them have the same bits.
    """
    for start in range(0, len(column), rows):
        yield column[start : start + rows]
