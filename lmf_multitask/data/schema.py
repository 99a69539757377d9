"""The words of the data: modalities, splits, labels, and how a `datasets` column tells which emotions it holds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from collections.abc import Sequence as Names
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from lmf_multitask.data.columns import ChunkedColumn, Column, Columns, row_blocks
from lmf_multitask.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

MODALITIES = ("audio", "video", "text")
OTHER_NAMES = {
    "audio": ("covarep", "acoustic"),
    "video": ("facet", "visual", "vision"),
    "text": ("glove", "words", "language"),
}
"""What pickles of the family may call a modality beside its name."""

SPLITS = ("train", "validation", "test")
IEMOCAP_EMOTIONS = ("happy", "sad", "angry", "neutral")
"""The four emotions of the LMF paper, in its order."""

NOT_ANNOTATED = -100
"""Label of a clip that an emotion has no annotation for; left out of losses and metrics."""

_EMOTION_NAME = re.compile(r"[^\W_][\w-]{0,63}")
_ABSENT, _PRESENT = "absent", "present: "


def check_emotion_name(name: object) -> str:
    """Returns `name` when it can safely name a column, a file and a folder.

    Raises:
        DataError: it holds anything but letters, digits, ``_`` and ``-``, or is longer than 64 characters.
    """
    if not isinstance(name, str) or not _EMOTION_NAME.fullmatch(name):
        shown = repr(name)[:80] if isinstance(name, str) else type(name).__name__
        raise DataError(
            f"an emotion's name must consist of at most 64 letters, digits, '_' and '-', but got {shown}. Rename it in the data."
        )
    return name


def sort_emotions(emotions: Names[str]) -> list[str]:
    """The paper's four first and in its order, the others behind them alphabetically (a Python 2 pickle has no order)."""
    known = [e for e in IEMOCAP_EMOTIONS if e in emotions]
    return known + sorted(e for e in emotions if e not in IEMOCAP_EMOTIONS)


def labels_feature(emotions: Names[str]) -> datasets.Sequence:
    """Column type of labels: one number per emotion, which are named in their order.

    They stand in the name of class 1, because that is the one place which `datasets` carries through slicing,
    ``save_to_disk`` and Parquet alike; `emotion_names` reads them back.
    """
    from datasets import ClassLabel, Sequence

    return Sequence(ClassLabel(names=[_ABSENT, _PRESENT + ", ".join(emotions)]), length=len(emotions))


def dataset_features(audio: int, video: int, words: int, text: int, emotions: Names[str]) -> datasets.Features:
    """Column types of a data set: all sizes fixed, so that a column is one block of memory."""
    from datasets import Features, Sequence, Value

    number = Value("float32")
    return Features(
        {
            "id": Value("string"),
            "audio": Sequence(number, length=audio),
            "video": Sequence(number, length=video),
            "text": Sequence(Sequence(number, length=text), length=words),
            "labels": labels_feature(emotions),
        }
    )


def emotion_names(dataset: datasets.Dataset) -> list[str] | None:
    """The emotions of the ``labels`` columns in order, or None if the data set does not name them."""
    label = getattr(dataset.features.get("labels"), "feature", None)
    names = getattr(label, "names", None) or []
    if len(names) == 2 and names[1].startswith(_PRESENT):
        return names[1].removeprefix(_PRESENT).split(", ")
    return None


def column_arrays(dataset: datasets.Dataset) -> dict[str, Column]:
    """Every numeric column as something that gives rows `[n, ...]` as numpy arrays; nothing is read before it is used.

    A column that is stored as one block (as `load_iemocap` has it from a pickle) is a read-only numpy array, a view into the
    memory-mapped file. Features in several blocks, or of chosen rows (after ``select``, ``filter`` or ``shuffle``), are a
    `ChunkedColumn` over such views. Labels and columns of single numbers are always arrays.
    """
    found: dict[str, Column] = {}
    for name in dataset.column_names:
        if _is_numeric(dataset.features[name]):
            small = name == "labels" or not hasattr(dataset.features[name], "feature")
            found[name] = column_array(dataset, name) if small else _column(dataset, name)
    return found


def column_array(dataset: datasets.Dataset, name: str) -> np.ndarray:
    """One column as one numpy array `[rows, ...]`; copied into memory unless it is stored as one block.

    Raises:
        DataError: the column's rows differ in length, or hold something else than numbers.
    """
    return np.asarray(_column(dataset, name))


def _column(dataset: datasets.Dataset, name: str) -> Column:
    if len(dataset) == 0:
        raise DataError(f"column {name!r} must have at least one row, but the data set is empty. Check the split.")
    table = dataset.data
    if table.column(name).null_count:
        chunks = [table_column(table, name)]
    else:
        chunks = _same_shape(name, [_numbers(chunk, name) for chunk in table.column(name).chunks if len(chunk)])
    if dataset._indices is not None:
        return ChunkedColumn(chunks, dataset._indices.column(0).to_numpy().astype(np.int64))
    return chunks[0] if len(chunks) == 1 else ChunkedColumn(chunks)


def table_column(table: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """One column of an Arrow table that is not empty, as a numpy array `[rows, ...]`; see `column_array`.

    Args:
        table: the table.
        name: of the column. Rows of a modality may be null: it is missing there, and they are zeros.
        shape: of one row; None takes that of the rows, and ones where all are null.
    """
    parts, there = [], []
    for chunk in table.column(name).chunks:
        rows = np.ones(len(chunk), bool)
        if name in MODALITIES and chunk.null_count and _may_be_null(chunk):
            rows = chunk.is_valid().to_numpy(zero_copy_only=False)
            chunk = chunk.drop_null()
        there.append(rows)
        if len(chunk):
            parts.append(_numbers(chunk, name))
    parts = _same_shape(name, parts, shape)
    if parts:
        shape = parts[0].shape[1:]
    elif shape is None:
        shape = (1, 1) if name == "text" else (1,)
    rows = np.concatenate(there)
    if rows.all():
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    found = np.zeros((len(table), *shape), parts[0].dtype if parts else np.float32)
    if parts:
        found[rows] = np.concatenate(parts)
    return found


def _may_be_null(chunk: pa.Array) -> bool:
    import pyarrow as pa

    kind = chunk.type.storage_type if isinstance(chunk, pa.ExtensionArray) else chunk.type
    return pa.types.is_null(kind) or pa.types.is_nested(kind)


def _numbers(chunk: pa.Array, name: str) -> np.ndarray:
    """Rows of an Arrow column, none of them null, as a view `[n, ...]` (a copy of booleans, which Arrow packs)."""
    import pyarrow as pa

    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    sizes = [len(chunk)]
    while pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type) or pa.types.is_fixed_size_list(chunk.type):
        _check_no_nulls(chunk, name)
        if not pa.types.is_fixed_size_list(chunk.type):
            lengths = np.unique(chunk.value_lengths().to_numpy())
            if len(lengths) > 1:
                raise DataError(
                    f"column {name!r} must have rows of one length, but got lengths from {lengths[0]} to {lengths[-1]}. "
                    "Pad them to the same length."
                )
        flat = chunk.flatten()
        sizes.append(len(flat) // max(len(chunk), 1))
        chunk = flat
    if not (pa.types.is_integer(chunk.type) or pa.types.is_floating(chunk.type) or pa.types.is_boolean(chunk.type)):
        raise DataError(f"column {name!r} must hold numbers, but holds {chunk.type}. Convert it.")
    _check_no_nulls(chunk, name)
    return chunk.to_numpy(zero_copy_only=not pa.types.is_boolean(chunk.type)).reshape(sizes)


def _same_shape(name: str, parts: list[np.ndarray], shape: tuple[int, ...] | None = None) -> list[np.ndarray]:
    """The parts, after a look whether their rows have one shape."""
    for part in parts:
        shape = part.shape[1:] if shape is None else shape
        if part.shape[1:] != shape:
            raise DataError(f"column {name!r} must have rows of one length, but got {shape} and {part.shape[1:]}.")
    return parts


def present_modalities(names: Names[str], where: str) -> list[str]:
    """The modalities among the names of a table's columns or of a file's arrays; the others are absent.

    Raises:
        DataError: there is none, or one is spelt in another way.
    """
    found = [name for name in MODALITIES if name in names]
    others = [name for name in names if name not in MODALITIES]
    for modality in MODALITIES:
        like = [
            name for name in others if name in OTHER_NAMES[modality] or get_close_matches(modality, [name], cutoff=0.75)
        ]
        if modality not in found and like:
            raise DataError(
                f"{where} must call its features audio, video and text, but has {like[0][:40]!r}. Did you mean {modality!r}?"
            )
    if not found:
        shown = ", ".join(sorted(name[:40] for name in names)[:12]) or "nothing"
        raise DataError(f"{where} must have at least one of audio, video and text, but has {shown}.")
    return found


def missing_rows(columns: Columns) -> dict[str, int]:
    """Modality -> in how many of the rows it is missing: all its numbers are zero there."""
    return {
        name: sum(int((~(block.reshape(len(block), -1) != 0).any(axis=1)).sum()) for block in row_blocks(columns[name]))
        for name in MODALITIES
    }


def as_model_takes(
    columns: Columns, sizes: Mapping[str, int], looked_at: Names[str], where: object
) -> dict[str, Column]:
    """Columns in a model's sizes: zeros for a modality of another size that no row has, or that the model does not look at.

    Args:
        columns: ``audio`` `[N, D]`, ``video``, ``text`` `[N, L, D]`, and others, which are passed on.
        sizes: D of each modality in the model.
        looked_at: the modalities that the model has a part for.
        where: the file, for the message.

    Raises:
        DataError: a modality that the model looks at has another size.
    """
    found = dict(columns)
    for name in MODALITIES:
        values = columns[name]
        if values.shape[-1] == sizes[name]:
            continue
        if name in looked_at and any(block.any() for block in row_blocks(values)):
            given = {modality: int(columns[modality].shape[-1]) for modality in MODALITIES}
            raise DataError(
                f"{where}: must have the feature sizes of the model, {dict(sizes)}, but has {given}. Extract the features alike."
            )
        found[name] = np.broadcast_to(np.float32(0), (*values.shape[:-1], sizes[name]))
    return found


def fingerprint(splits: Mapping[str, datasets.Dataset]) -> str:
    """SHA-256 over everything that a training sees of a data set: its splits, emotions, ids and numbers."""
    digest = hashlib.sha256()
    for split, rows in splits.items():
        digest.update(repr((split, emotion_names(rows), list(rows["id"]))).encode())
        for name, values in column_arrays(rows).items():
            digest.update(repr((name, values.dtype.str, values.shape)).encode())
            for block in row_blocks(values):
                digest.update(np.ascontiguousarray(block).view(np.uint8).reshape(-1))
    return digest.hexdigest()


def _is_numeric(feature: object) -> bool:
    while hasattr(feature, "feature"):
        feature = feature.feature
    dtype = getattr(feature, "dtype", None)
    return isinstance(dtype, str) and re.match(r"(u?int|float|bool)", dtype) is not None


def _check_no_nulls(values: Any, name: str) -> None:
    if values.null_count:
        raise DataError(f"column {name!r} must have no empty values, but got {values.null_count}. Fill or drop them.")
