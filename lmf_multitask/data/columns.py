"""The columns of a data set as arrays that may be larger than memory.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lmf_multitask.data.modality import MODALITIES, Input, missing_clips
from lmf_multitask.errors import DataError

if TYPE_CHECKING:
    import datasets

BLOCK_ROWS = 512
"""Rows in memory at a time when a whole column is read: 12 MB of IEMOCAP's text."""


class ChunkedColumn:
    """A numeric column `[N, ...]` in several chunks, read row by row like an array.

    The chunks are usually views into memory-mapped files, so that only the requested rows are read.
    ``column[3:9]`` and ``column[[5, 2, 5]]`` are arrays; ``np.asarray(column)`` reads everything into memory.

    Attributes:
        shape: of the whole column, N first.
        dtype: of its numbers.
    """

    def __init__(self, chunks: Sequence[np.ndarray], order: np.ndarray | None = None) -> None:
        """Takes the chunks, one after the other.

        Args:
            chunks: one or more arrays `[n, ...]` that differ in n only.
            order: int `[N]`, row numbers in the chunks; None takes all rows in their order.
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
        """Some rows, `[n, ...]`.

        Raises:
            IndexError: there is no such row.
            TypeError: `rows` is not a slice or row numbers.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)


Column = np.ndarray | ChunkedColumn
Columns = Mapping[str, Column]


def row_blocks(column: Column, rows: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
    """A column from its first to its last row, at most `rows` at a time: `[n, ...]`.

    The blocks begin at the same rows however the column is stored, so that sums over them have the same bits.
    """
    for start in range(0, len(column), rows):
        yield column[start : start + rows]


def emotion_names(rows: datasets.Dataset) -> list[str]:
    """The emotions of a data set, in the order of its label columns.

    Raises:
        DataError: it has no ``labels`` column with one field per emotion.
    """
    labels = rows.features.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError(
            "the data set must have a column 'labels' with one field per emotion, as load_iemocap returns it, but has "
            f"{', '.join(rows.column_names)}."
        )
    return list(labels)


def column_arrays(rows: datasets.Dataset) -> dict[str, Column]:
    """The columns audio, video, text and labels as arrays; features are not read before they are used.

    Features that are stored as one block (as `load` writes them) are read-only numpy arrays, views into the memory-mapped
    file. Features in several blocks, or of chosen rows (after ``select``, ``filter`` or ``shuffle``), are a
    `ChunkedColumn` over such views.

    Args:
        rows: a split as `load` returns it.

    Returns:
        Modality -> float32 `[N, ...]`, and ``labels`` -> float32 `[N, T]`, NaN = not annotated.

    Raises:
        DataError: a column is missing, has no rows, or has rows of different lengths.
    """
    if len(rows) == 0:
        raise DataError("a split must have at least one row, but is empty.")
    names = emotion_names(rows)
    chosen = None if rows._indices is None else rows._indices.column(0).to_numpy().astype(np.int64)
    found: dict[str, Column] = {modality: _column(rows, modality, chosen) for modality in MODALITIES}
    fields = rows.data.column("labels").combine_chunks().flatten()
    labels = np.stack([field.to_numpy(zero_copy_only=False) for field in fields], axis=1).astype(np.float32, copy=False)
    order = [rows.data.schema.field("labels").type.get_field_index(name) for name in names]
    labels = np.ascontiguousarray(labels[:, order])
    return {**found, "labels": labels if chosen is None else labels[chosen]}


def _column(rows: datasets.Dataset, name: str, chosen: np.ndarray | None) -> Column:
    from lmf_multitask.data.arrow import numbers  # needs pyarrow, which importing this module does not

    if name not in rows.column_names:
        raise DataError(f"the data set must have the column {name!r}, but has {', '.join(rows.column_names)}.")
    chunks = [numbers(chunk, name) for chunk in rows.data.column(name).chunks if len(chunk)]
    if len({chunk.shape[1:] for chunk in chunks}) > 1:
        raise DataError(f"column {name!r} must have rows of one length. Pad them to the same length.")
    return chunks[0] if len(chunks) == 1 and chosen is None else ChunkedColumn(chunks, chosen)


def missing_rows(columns: Columns) -> dict[str, int]:
    """Modality -> number of rows in which it is missing."""
    return {name: sum(int(missing_clips(block).sum()) for block in row_blocks(columns[name])) for name in MODALITIES}


def match_inputs(
    columns: Columns, inputs: Mapping[str, Input], modalities: Sequence[str], where: object
) -> dict[str, Column]:
    """Columns in the shapes that a model takes.

    A modality that the model does not use, or that is missing in every row, becomes zeros of the model's shape. Sequences
    may differ from the model's in length.

    Args:
        columns: modality -> `[N, D]` or `[N, L, D]`; other columns are passed on.
        inputs: the model's inputs.
        modalities: those that the model uses.
        where: the file, for the message.

    Raises:
        DataError: a modality that the model uses has another shape.
    """
    found = dict(columns)
    for name, expected in inputs.items():
        values = columns[name]
        if values.shape[-1] == expected.features and values.ndim == len(expected.shape) + 1:
            continue
        if name in modalities and any(block.any() for block in row_blocks(values)):
            shown = "a sequence of {} numbers per step", "{} numbers per clip"
            sizes = [shown[len(shape) == 1].format(shape[-1]) for shape in (expected.shape, values.shape[1:])]
            raise DataError(
                f"{where}: {name} must be {sizes[0]}, as in the model, but is {sizes[1]}. Extract the features alike."
            )
        found[name] = np.broadcast_to(np.float32(0), (len(values), *expected.shape))
    return found


def fingerprint(splits: Mapping[str, datasets.Dataset]) -> str:
    """SHA-256 of everything that training uses of a data set: splits, emotions, ids and numbers."""
    digest = hashlib.sha256()
    for split, rows in splits.items():
        digest.update(repr((split, emotion_names(rows), list(rows["id"]))).encode())
        for name, values in column_arrays(rows).items():
            digest.update(repr((name, values.dtype.str, values.shape)).encode())
            for block in row_blocks(values):
                digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
