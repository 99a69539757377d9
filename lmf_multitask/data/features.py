"""Clips to predict, from any file: read in pieces, in order, without labels; memory stays flat however long it is.

Shape letters: N rows (clips), L words, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.data.corpus import PickledCorpus
from lmf_multitask.data.npz import NpzRows
from lmf_multitask.data.schema import MODALITIES, SPLITS, present_modalities
from lmf_multitask.errors import DataError

_PROBED_ROWS = 64  # read at a time until every modality's size is known: its first rows may be null

Block = tuple[list[str], dict[str, np.ndarray]]
"""Ids of n clips, and modality -> float32 `[n, D]`, or `[n, L, D]` for text; without those that the file has not."""


@dataclass
class FeatureRows:
    """Clips that can be read piece by piece.

    Attributes:
        count: N.
        shapes: size of one clip's modality: `(D,)`, or `(L, D)` for text; without those that the file has not.
        splits: names of the splits that the clips are of; empty where the file has none.
    """

    count: int
    shapes: dict[str, tuple[int, ...]]
    splits: tuple[str, ...]
    _read: Callable[[int], Iterator[Block]]

    def blocks(self, rows: int) -> Iterator[Block]:
        """The clips in order, at most `rows` at a time."""
        return self._read(rows)


def open_features(path: str | Path, split: str | None = "test") -> FeatureRows:
    """Opens a file of clips; their labels, if any, are not looked at.

    Args:
        path: a pickle ``data[emotion][split][feature]``, a folder of ``save_to_disk``, a folder with
            ``SPLIT.parquet`` files, one Parquet file, or an ``.npz`` file with ``audio``, ``video`` and ``text``
            (and, optionally, ``id``). The last two have no splits: all their clips are taken.
        split: ``train``, ``validation`` or ``test``; None takes all that are there.

    Raises:
        DataError: the file is missing, damaged, hostile or of another layout, or lacks the split.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        return _saved(path, split) if saved else _parquet_folder(path, split)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: must be a readable file, but {error.strerror}. Check the path.") from None
    if magic == b"PK\x03\x04":
        return _npz(path)
    if magic == b"PAR1":
        return _joined([_parquet(path, "row")], ())
    return _pickle(path, split)


def _ids(split: str, start: int, count: int) -> list[str]:
    return [f"{split}-{number:05d}" for number in range(start, start + count)]


def _joined(parts: Sequence[FeatureRows], splits: tuple[str, ...]) -> FeatureRows:
    for part in parts:
        if part.shapes != parts[0].shapes:
            raise DataError(
                f"every split must have the sizes of the first, {parts[0].shapes}, but one has {part.shapes}."
            )

    def read(rows: int) -> Iterator[Block]:
        for part in parts:
            yield from part.blocks(rows)

    return FeatureRows(sum(part.count for part in parts), parts[0].shapes, splits, read)


def _pickle(path: Path, split: str | None) -> FeatureRows:
    corpus = PickledCorpus(path, splits=None if split is None else (split,), with_labels=False)
    shapes = {modality: corpus.width(modality) for modality in MODALITIES if modality not in corpus.absent}

    def read(rows: int) -> Iterator[Block]:
        for name in corpus.splits:
            start = 0
            for block in corpus.blocks(name, rows):
                count = len(next(iter(block.values())))
                yield _ids(name, start, count), block
                start += count

    return FeatureRows(sum(len(corpus.rows[name]) for name in corpus.splits), shapes, corpus.splits, read)


def _npz(path: Path) -> FeatureRows:
    source = NpzRows(path)
    names = source.ids()

    def read(rows: int) -> Iterator[Block]:
        start = 0
        for block in source.blocks(rows):
            count = len(next(iter(block.values())))
            yield _ids("row", start, count) if names is None else names[start : start + count], block
            start += count

    return FeatureRows(source.count, {name: shape[1:] for name, shape in source.shapes.items()}, (), read)


# -- tables


def _saved(folder: Path, split: str | None) -> FeatureRows:
    if not (folder / "dataset_dict.json").is_file():
        return _joined([_saved_part(folder, folder, "row")], ())
    wanted = _wanted(folder, [name for name in SPLITS if (folder / name).is_dir()], split)
    return _joined([_saved_part(folder, folder / name, name) for name in wanted], wanted)


def _saved_part(folder: Path, source: Path, split: str) -> FeatureRows:
    from lmf_multitask.data.tables import open_saved  # needs pyarrow, other files do not

    table = open_saved(source)[0].data  # save_to_disk wrote a selection as rows of its own

    def read(rows: int) -> Iterator[Any]:
        return (table.slice(start, rows) for start in range(0, len(table), rows))

    return _table_rows(f"{folder}: {split}", len(table), table.column_names, read, split)


def _parquet_folder(folder: Path, split: str | None) -> FeatureRows:
    there = [name for name in SPLITS if (folder / f"{name}.parquet").is_file()]
    if not there:
        raise DataError(
            f"{folder}: must be a pickle, an .npz or Parquet file, a folder of save_to_disk, or a folder with "
            "train.parquet, validation.parquet or test.parquet, but has none of these. Check the path."
        )
    wanted = _wanted(folder, there, split)
    return _joined([_parquet(folder / f"{name}.parquet", name) for name in wanted], wanted)


def _parquet(path: Path, split: str) -> FeatureRows:
    import pyarrow

    from lmf_multitask.data.tables import open_parquet

    try:
        file = open_parquet(path)
        columns = [name for name in ("id", *MODALITIES) if name in file.schema_arrow.names]
        count, names = file.metadata.num_rows, file.schema_arrow.names
    except (OSError, ValueError, pyarrow.ArrowInvalid) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise DataError(f"{path}: must be a Parquet file, but {reason}. Write it again.") from None

    def read(rows: int) -> Iterator[Any]:
        return (pyarrow.Table.from_batches([batch]) for batch in file.iter_batches(rows, columns=columns))

    return _table_rows(str(path), count, names, read, split)


def _table_rows(
    where: str, count: int, names: Sequence[str], tables: Callable[[int], Iterator[Any]], split: str
) -> FeatureRows:
    named = present_modalities(names, where)
    if count == 0:
        raise DataError(f"{where} must have at least one row, but is empty.")
    shapes: dict[str, tuple[int, ...]] = {}
    for table in tables(_PROBED_ROWS):
        for modality in set(named) - set(shapes):
            column = table.column(modality)
            if column.null_count < len(column):
                shapes[modality] = _modality_column(where, table, modality).shape[1:]
        if len(shapes) == len(named):
            break
    if not shapes:
        raise DataError(f"{where} must have {' or '.join(named)} in some row, but all are null.")
    there = [modality for modality in named if modality in shapes]

    def read(rows: int) -> Iterator[Block]:
        start = 0
        for table in tables(rows):
            block = {}
            for modality in there:
                with np.errstate(over="ignore"):
                    values = _modality_column(where, table, modality, shapes[modality])
                    block[modality] = np.ascontiguousarray(values, np.float32)
            count = len(table)
            ids = list(map(str, table.column("id").to_pylist())) if "id" in names else _ids(split, start, count)
            yield ids, block
            start += count

    return FeatureRows(count, {modality: shapes[modality] for modality in there}, (), read)


def _modality_column(where: str, table: Any, modality: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    values = _column(where, table, modality, shape)
    if values.ndim != (3 if modality == "text" else 2):
        rule = "a list of word vectors" if modality == "text" else "a list of numbers"
        raise DataError(f"{where}: {modality} must be {rule} in every row, but has the shape {values.shape[1:]}.")
    return values


def _column(where: str, table: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    from lmf_multitask.data.schema import table_column

    try:
        return table_column(table, name, shape)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _wanted(folder: Path, there: Sequence[str], split: str | None) -> tuple[str, ...]:
    if split is not None and split not in there:
        found = ", ".join(there) or "none"
        raise DataError(
            f"{folder}: must have the split {split}, but has {found}. Choose one with --split, or take --all."
        )
    if not there:
        raise DataError(f"{folder}: must have a split among {', '.join(SPLITS)}, but has none.")
    return tuple(there) if split is None else (split,)
