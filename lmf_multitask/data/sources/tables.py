"""What the layouts of tables have in common: columns with features, ids, splits and labels, however they are stored.

Features are columns ``audio``, ``video``, ``text`` of numbers (lists, or lists of lists; null where a clip lacks the modality)
or of paths of ``.npy`` files, or folders of such files beside the table. `label_columns` says which columns are labels; a column
``labels`` may also hold one field per emotion, or one list of numbers (then the user names the emotions).

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmf_multitask.data.arrow import feature_rows, label_rows, numbers, row_shape, value_type
from lmf_multitask.data.label_columns import OTHER, ColumnSource
from lmf_multitask.data.modality import MODALITIES, modality_of_extractor
from lmf_multitask.data.schema import SPLITS, emotion_of, find_split, guess_modalities, rename_modalities
from lmf_multitask.data.sources import ALL, Candidate, Reading
from lmf_multitask.data.sources.array_files import ArrayFiles
from lmf_multitask.data.table_columns import (
    class_names,
    holds_lists,
    id_column,
    ids,
    is_text,
    kind_of,
    single_values,
    texts,
)
from lmf_multitask.errors import DataError, first_line, suggestion

_SMALL_ROWS = 1 << 16  # read at a time of columns with one value per clip
_PROBED_ROWS = 64  # read at a time while the length of sequences is unknown
DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, pa.ArrowException)
"""What `datasets` and pyarrow raise on files that are not what they expect."""

Reader = Callable[[Sequence[str], int], Iterator[pa.Table]]


@dataclass
class Table:
    """One split as it is stored.

    Attributes:
        where: its name in messages.
        count: N.
        schema: its columns.
        read: (columns, rows) -> all rows of these columns in order, at most so many at a time.
    """

    where: str
    count: int
    schema: pa.Schema
    read: Reader

    @classmethod
    def of(cls, where: str, table: pa.Table) -> Table:
        """A table in memory, or mapped into it."""

        def read(columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
            chosen = table.select(list(columns))
            return (chosen.slice(start, rows) for start in range(0, len(chosen), rows))

        return cls(where, len(table), table.schema, read)

    def texts(self, column: str) -> list[str | None]:
        """The values of a column of text or whole numbers."""
        found: list[str | None] = []
        for part in self.read([column], _SMALL_ROWS):
            found += texts(part.column(column), column)
        return found

    def only(self, rows: np.ndarray, name: str) -> Table:
        """The rows of one split, given as bool `[N]`."""

        def read(columns: Sequence[str], most: int) -> Iterator[pa.Table]:
            start = 0
            for part in self.read(columns, most):
                kept = rows[start : start + len(part)]
                start += len(part)
                if kept.any():
                    yield part.filter(pa.array(kept))

        return Table(f"{self.where}: {name}", int(rows.sum()), self.schema, read)


class TableSource(ColumnSource):
    """A source of one Arrow table per split."""

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Starts without tables: subclasses call `_set_tables`."""
        super().__init__(candidate, reading)
        folder = self.path if self.path.is_dir() else self.path.parent
        root = reading.config.feature_root
        self._array_files = ArrayFiles(folder if root is None else Path(root).expanduser())

    def _set_tables(self, tables: Mapping[str, Table]) -> None:
        """Checks the columns, and sets the attributes; one table without splits is divided if a column names them."""
        for table in tables.values():
            names = table.schema.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"{table.where} must have different columns, but has two named {twice[:40]!r}.")
        tables = self._divided(tables) if list(tables) == [ALL] else tables
        self._set_split_names(tables)
        self._tables = {split: tables[split] for split in self.split_names}
        first, *others = self._tables.values()
        self._id_column = id_column(first.schema, first.where)
        self._names = self._find_features(first)
        for table in others:
            if id_column(table.schema, table.where) != self._id_column or self._find_features(table) != self._names:
                columns = ", ".join(name[:40] for name in table.schema.names)
                needed = ", ".join(filter(None, [self._id_column, *self._names.values()]))
                raise DataError(
                    f"{table.where} must have the columns {needed}, as {first.where} has, but has {columns}. Store nulls for "
                    "clips that have none."
                )
        if self._id_column not in (None, "id"):
            self.notes.append(f"ids from the column {self._id_column!r}")
        folders = [f"{modality} {name!r}" for modality, name in self._names.items() if name not in first.schema.names]
        if folders:
            self.notes.append(f"features from the folders {', '.join(folders)}, a file for each id")
        used = {*self._names.values(), self._id_column, self._split_column(first), *self.group_columns}
        kinds = {name: kind_of(first.schema.field(name).type) for name in first.schema.names if name not in used}
        self._find_labels(kinds)

    def _divided(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        (table,) = tables.values()
        column = self._split_column(table)
        if column is None:
            return tables
        with self._table_errors(table):
            names = table.texts(column)
        splits = np.array([find_split(name) or "" for name in names])
        if (splits == "").any():
            odd = names[int((splits == "").argmax())]
            raise self.fail(
                f"column {column!r} must name a split among {', '.join(SPLITS)} in every row, but has {ascii(odd)[:60]}."
            )
        self.notes.append(f"splits from the column {column!r}")
        return {split: table.only(splits == split, split) for split in SPLITS if (splits == split).any()}

    def _split_column(self, table: Table) -> str | None:
        chosen = self.reading.config.split_column
        names = table.schema.names
        if chosen is not None and chosen not in names:
            hint = suggestion(chosen, names) or f" Choose one of {', '.join(name[:40] for name in names[:12])}."
            raise self.fail(f"must have the column {chosen!r} of data.split_column, but has not.{hint}")
        by_name = {name.lower(): name for name in names}
        return chosen or by_name.get("split")

    def scan(self) -> None:
        """See `Source.scan`; lists of any length must be read to know the longest."""
        self._set_splits({split: table.count for split, table in self._tables.items()})
        shapes: dict[str, tuple[int, ...]] = {}
        for modality in self._names:
            shape = None
            for table in self._tables.values():
                with self._table_errors(table):
                    shape = self._shape(table, modality, shape)
            if shape is not None:
                shapes[modality] = shape
        self._set_shapes(shapes)
        longest = self.reading.config.max_length
        self._stored_shapes = {
            modality: (min(shape[0], longest), shape[1]) if len(shape) == 2 and longest is not None else shape
            for modality, shape in shapes.items()
        }

    def _find_features(self, table: Table) -> dict[str, str]:
        """Modality -> the column with its features, or the folder beside the table with one file per clip."""
        chosen, schema = self.reading.config.chosen, table.schema
        columns = [
            field.name
            for field in schema
            if self._holds_paths(table, field.name)
            or (field.name in MODALITIES and not is_text(field.type))
            or (holds_lists(field.type) and field.name != "labels")
        ]
        if not columns and self._id_column and not set(chosen.values()) & set(schema.names):
            folders = [
                path.name for path in sorted(self._folder.iterdir()) if path.is_dir() and path.name[0] not in "._"
            ]
            if chosen or any(map(modality_of_extractor, folders)):
                return guess_modalities(folders, f"{table.where}: the folders beside it", chosen)
        found = rename_modalities(columns or schema.names, table.where, chosen, schema.names)
        for name in found.values():
            if is_text(schema.field(name).type) and name not in columns:
                raise DataError(
                    f"{table.where}: column {name!r} must hold numbers, or paths of .npy files, but holds text. Choose another."
                )
        return found

    @property
    def _folder(self) -> Path:
        return self._array_files.root

    def _holds_paths(self, table: Table, name: str) -> bool:
        if not is_text(table.schema.field(name).type):
            return False
        with self._table_errors(table):
            for part in table.read([name], _PROBED_ROWS):
                values = part.column(name).drop_null()
                if len(values):
                    return str(values[0].as_py())[-4:].lower() == ".npy"
        return False

    def _paths(self, part: pa.Table, name: str) -> list[Path | None] | None:
        """The feature files of some rows; None if the column holds the numbers itself."""
        if name in part.schema.names:
            if not is_text(part.schema.field(name).type):
                return None
            return [
                None if text is None else self._array_files.path(text) for text in texts(part.column(name), name, 4096)
            ]
        folder, found = self._folder / name, []
        for clip in ids(part, self._id_column or ""):
            if Path(f"{clip}.npy").name != f"{clip}.npy":
                raise DataError(f"ids must be names of files in {folder}, but got {ascii(clip)[:60]}. Use plain names.")
            path = self._array_files.path(f"{name}/{clip}.npy")
            found.append(path if path.exists() else None)
        return found

    def _columns(self, table: Table, names: Iterable[str]) -> list[str]:
        """The columns that must be read for some features; a folder needs the ids."""
        found = [name if name in table.schema.names else self._id_column for name in names]
        return list(dict.fromkeys(filter(None, found)))

    def _shape(self, table: Table, modality: str, known: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """Shape of a clip's features in one table, given that in others; the same if no clip has any."""
        name = self._names[modality]
        if name in table.schema.names and not is_text(table.schema.field(name).type):
            kind = str(value_type(table.schema.field(name).type))
            self.dtypes[modality] = {"float": "float32", "double": "float64", "halffloat": "float16"}.get(kind, kind)
            return row_shape(table.read([name], _PROBED_ROWS), name, known)
        self.dtypes[modality] = ".npy files"
        found, without = known, 0
        for part in table.read(self._columns(table, [name]), _SMALL_ROWS):
            paths = self._paths(part, name) or []
            without += paths.count(None)
            found = self._array_files.shape(paths, found)
        if name not in table.schema.names and without:
            self.notes.append(
                f"{name} has no file for {without} of {table.count} clip(s) of {table.where}: missing there"
            )
        return found

    # -- rows

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        table, id_name = self._tables[split], self._id_column
        columns = self._columns(table, [*([id_name] if id_name else []), *self._names.values()])
        with self._table_errors(table):
            for part in table.read(columns, rows):
                features = {}
                for modality, shape in self._stored_shapes.items():
                    name = self._names[modality]
                    paths = self._paths(part, name)
                    if paths is None:
                        features[modality], cut = feature_rows(part, name, shape)
                    else:
                        features[modality], cut = self._array_files.rows(paths, shape)
                    self.cut[split][modality] += cut
                yield ids(part, id_name) if id_name else None, features

    # -- labels

    def _nested_names(self, kinds: Mapping[str, str]) -> Sequence[str] | None:
        if kinds.get("labels") != OTHER:
            return None
        kind = next(iter(self._tables.values())).schema.field("labels").type
        return [one.name for one in kind] if pa.types.is_struct(kind) else self.reading.emotions or ()

    def _classes_in(self, column: str) -> tuple[set[object], list[str] | None]:
        values: set[object] = set()
        for table in self._tables.values():
            for part in self._small_parts(table, [column]):
                values |= set(single_values(pc.unique(part.column(column)), column))
        return values, class_names(next(iter(self._tables.values())).schema, column)

    def column_texts(self, split: str, name: str) -> list[str] | None:
        """See `Source.column_texts`."""
        table = self._tables[split]
        if name not in table.schema.names:
            return None
        if kind_of(table.schema.field(name).type) == OTHER:
            raise self.fail(
                f"column {name!r} must name a group in every row, but holds {table.schema.field(name).type}."
            )
        with self._table_errors(table):
            return [value or "" for value in table.texts(name)]

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        table = self._tables[split]
        if self._label_problem is not None:
            raise self._label_problem
        values = np.concatenate([self._label_values(part) for part in self._small_parts(table, self._label_columns)])
        return self._named_labels(values, f"{table.where}: labels of")

    def _label_values(self, part: pa.Table) -> np.ndarray:
        """The labels of some rows, `[n, T]`."""
        if self._classes is not None:
            (name,) = self._label_columns
            return self._classes.labels(np.array(single_values(part.column(name), name), object))
        if kind_of(part.column(self._label_columns[0]).type) == OTHER:
            return self._nested_labels(part)
        return np.stack([label_rows(part.column(name), name) for name in self._label_columns], axis=1)

    def _nested_labels(self, part: pa.Table) -> np.ndarray:
        """The column ``labels`` of some rows, a struct or a list, as `[n, T]`."""
        column = part.column("labels").combine_chunks()
        if not pa.types.is_struct(column.type):
            found = numbers(column, "labels")
            return found.reshape(len(found), -1)
        fields = {field.name: values for field, values in zip(column.type, column.flatten())}
        if [emotion_of(name) for name in fields] != self.emotions:
            raise DataError(f"labels must have the fields {', '.join(self.emotions)}, but have {', '.join(fields)}.")
        return np.stack([label_rows(values, name) for name, values in fields.items()], axis=1)

    def _small_parts(self, table: Table, columns: Sequence[str]) -> Iterator[pa.Table]:
        missing = [name for name in columns if name not in table.schema.names]
        if missing:
            raise DataError(
                f"{table.where} must have the label columns of the other splits, but lacks {', '.join(missing)}."
            )
        with self._table_errors(table):
            yield from table.read(columns, _SMALL_ROWS)

    # -- files

    @property
    def size(self) -> int:
        """See `Source.size`; feature files are counted when they have been read."""
        return super().size + self._array_files.size

    @cached_property
    def hashes(self) -> dict[str, str]:
        """See `Source.hashes`; the feature files count as one."""
        paths: set[Path] = set()
        for table in self._tables.values():
            for name in self._names.values():
                if name in table.schema.names and not is_text(table.schema.field(name).type):
                    continue
                with self._table_errors(table):
                    for part in table.read(self._columns(table, [name]), _SMALL_ROWS):
                        paths |= {path for path in self._paths(part, name) or () if path is not None}
        with self._table_errors(next(iter(self._tables.values()))):
            return {**self._file_hashes(), **({"*.npy": self._array_files.digest(paths)} if paths else {})}

    def check_unchanged(self) -> None:
        """See `Source.check_unchanged`."""
        super().check_unchanged()
        path = self._array_files.changed()
        if path is not None:
            raise DataError(f"{path}: must not change while it is read, but did. Start again when it is complete.")

    @contextmanager
    def _table_errors(self, table: Table) -> Iterator[None]:
        """Puts the name of the file before what is wrong with it."""
        try:
            yield
        except DataError as error:
            raise DataError(str(error) if str(self.path) in str(error) else f"{table.where}: {error}") from None
        except DAMAGES as error:
            raise DataError(f"{table.where}: must be a whole table, but {first_line(error)}. Write it again.") from None
