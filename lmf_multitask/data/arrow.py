"""Arrow columns as numpy arrays, and numpy arrays as Arrow columns, over the same memory where possible.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from lmf_multitask.data.cleaning import shorten
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.schema import dataset_features
from lmf_multitask.errors import DataError

Shape = tuple[int, ...]


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds a list per row."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one number, or true or false, per row."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def numbers(chunk: pa.Array, name: str) -> np.ndarray:
    """Rows of one shape, none of them null, as a view `[N, ...]` (booleans, which Arrow packs, are copied).

    Raises:
        DataError: the rows differ in length, hold nulls, or hold anything but numbers.
    """
    sizes, chunk = [len(chunk)], _storage(chunk)
    while is_list(chunk.type):
        _check_no_nulls(chunk, name)
        low, high = _lengths(chunk)
        if low != high:
            raise _different_lengths(name, f"lengths from {low} to {high}")
        flat = chunk.flatten()
        sizes.append(len(flat) // max(len(chunk), 1))
        chunk = flat
    if not is_number(chunk.type):
        raise DataError(f"column {name!r} must hold numbers, but holds {chunk.type}. Convert it.")
    _check_no_nulls(chunk, name)
    return chunk.to_numpy(zero_copy_only=not pa.types.is_boolean(chunk.type)).reshape(sizes)


def row_shape(tables: Iterable[pa.Table], name: str, known: Shape | None = None) -> Shape | None:
    """Shape of a clip in a column of features; sequences of unequal length get the length of the longest.

    Args:
        tables: the rows, in pieces. They are only read as far as the type of the column leaves sizes open.
        name: of the column.
        known: shape in other tables, with which this one must agree.

    Returns:
        `(D,)` or `(L, D)`; `known` if every row is null.

    Raises:
        DataError: the rows differ in rank or in D, or hold anything but numbers.
    """
    for table in tables:
        for chunk in table.column(name).chunks:
            chunk = _storage(chunk).drop_null()
            if len(chunk) == 0:
                continue
            shape = _shape(chunk, name)
            if (
                known is not None
                and len(known) == len(shape) == 2
                and (known[1] == shape[1] or 0 in (known[1], shape[1]))
            ):
                shape = (max(known[0], shape[0]), max(known[1], shape[1]))
            elif known not in (None, shape):
                raise _different_lengths(name, f"{known} and {shape}")
            known = shape
            if _has_fixed_size(chunk.type):
                return known
    return known


def _shape(chunk: pa.Array, name: str) -> Shape:
    """Shape of the rows of a chunk, none of them null; sequences may differ in length."""
    if not is_list(chunk.type):
        if not is_number(chunk.type):
            raise DataError(f"column {name!r} must hold numbers, but holds {chunk.type}. Convert it.")
        return ()
    low, high = _lengths(chunk)
    values = chunk.flatten()
    if is_list(values.type):
        _check_no_nulls(values, name)
        return (high, *_shape(values, name)) if len(values) else (0, 0)
    if low != high:
        raise _different_lengths(name, f"lengths from {low} to {high}")
    if not is_number(values.type):
        raise DataError(f"column {name!r} must hold numbers, but holds {values.type}. Convert it.")
    return (low,)


def feature_rows(table: pa.Table, name: str, shape: Shape) -> tuple[np.ndarray, int]:
    """A column of features as `[N, *shape]`: null rows are zeros, short sequences are padded with zeros at the end.

    Args:
        table: the rows.
        name: of the column.
        shape: of one clip, see `row_shape`. Sequences that are longer are cut at the end.

    Returns:
        The array (a view where every row is complete), and how many clips were cut.

    Raises:
        DataError: a row has another shape, or holds nulls or anything but numbers.
    """
    parts, cut = [], 0
    for chunk in table.column(name).chunks:
        chunk = _storage(chunk)
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        complete = chunk.drop_null() if chunk.null_count else chunk
        if len(complete) == 0:
            values = np.zeros((0, *shape), np.float32)
        elif len(shape) == 2 and is_list(complete.type):
            values, too_long = _padded(complete, name, shape[0])
            cut += too_long
        else:
            values = numbers(complete, name)
        if values.shape[1:] != shape and values.size:
            raise _different_lengths(name, f"{shape} and {values.shape[1:]}")
        if not valid.all():
            whole = np.zeros((len(chunk), *shape), values.dtype)
            whole[valid] = values
            values = whole
        parts.append(values)
    return parts[0] if len(parts) == 1 else np.concatenate(parts), cut


def label_rows(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A column with one number per row as float64 `[N]`; null is NaN.

    Raises:
        DataError: it holds anything but numbers.
    """
    if not is_number(column.type) and not pa.types.is_null(column.type):
        raise DataError(f"label column {name!r} must hold numbers, but holds {column.type}. Store 0 and 1.")
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)


def fixed_lists(values: np.ndarray) -> pa.Array:
    """`[N, ...]` as nested fixed-size lists over the same memory."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in values.shape[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def label_struct(labels: np.ndarray, emotions: Sequence[str]) -> pa.Array:
    """Labels `[N, T]` as a struct with one float32 field per emotion; NaN stays NaN."""
    columns = [pa.array(np.ascontiguousarray(labels[:, index], np.float32)) for index in range(len(emotions))]
    return pa.StructArray.from_arrays(columns, names=list(emotions))


def feature_table(
    ids: Sequence[str], features: Mapping[str, np.ndarray], labels: np.ndarray, emotions: Sequence[str]
) -> pa.Table:
    """N rows as an Arrow table with the columns id, audio, video, text and labels.

    Args:
        ids: of the clips.
        features: modality -> float32 `[N, ...]`, all three.
        labels: `[N, T]`, NaN = not annotated.
        emotions: names of the T label columns.
    """
    columns = {
        "id": pa.array(ids, pa.string()),
        **{name: fixed_lists(features[name]) for name in MODALITIES},
        "labels": label_struct(labels, emotions),
    }
    types = dataset_features({name: features[name].shape[1:] for name in MODALITIES}, emotions)
    return pa.table(columns).cast(types.arrow_schema)


def value_type(kind: pa.DataType) -> pa.DataType:
    """Type of the values in lists of lists."""
    kind = kind.storage_type if isinstance(kind, pa.ExtensionType) else kind
    while is_list(kind):
        kind = kind.value_type
    return kind


def _storage(chunk: pa.Array) -> pa.Array:
    return chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk


def _has_fixed_size(kind: pa.DataType) -> bool:
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return not is_list(kind)


def _lengths(chunk: pa.Array) -> tuple[int, int]:
    """Shortest and longest list of a chunk."""
    if pa.types.is_fixed_size_list(chunk.type):
        return chunk.type.list_size, chunk.type.list_size
    if not len(chunk):
        return 0, 0
    lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
    return int(lengths.min()), int(lengths.max())


def _padded(chunk: pa.Array, name: str, length: int) -> tuple[np.ndarray, int]:
    """Sequences, none of them null, with `length` steps; and how many were cut."""
    low, high = _lengths(chunk)
    if low == high and low >= length:
        return shorten(numbers(chunk, name), length)
    steps = numbers(chunk.flatten(), name)
    lengths = np.full(len(chunk), low) if low == high else chunk.value_lengths().to_numpy(zero_copy_only=False)
    clip = np.repeat(np.arange(len(chunk)), lengths)
    step = np.arange(len(clip)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    values = np.zeros((len(chunk), length, *steps.shape[1:]), steps.dtype)
    kept = step < length
    values[clip[kept], step[kept]] = steps[kept]
    return values, int((lengths > length).sum())


def _different_lengths(name: str, what: str) -> DataError:
    return DataError(f"column {name!r} must have rows of one length, but got {what}. Pad them to the same length.")


def _check_no_nulls(values: pa.Array, name: str) -> None:
    if values.null_count:
        raise DataError(f"column {name!r} must have no empty values, but got {values.null_count}. Fill or drop them.")
