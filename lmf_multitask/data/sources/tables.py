"""What the layouts of tables have in common: columns with features, ids and labels, however they are stored.

Columns: ``audio``, ``video``, ``text`` (lists of numbers, or lists of such lists; null where a clip lacks the modality),
``id``, and labels: a column ``labels`` with one field per emotion, a column ``labels`` with one list of numbers (then the
user names the emotions), or one column of numbers per emotion.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmf_multitask.data.arrow import feature_rows, is_list, is_number, label_rows, numbers, row_shape, value_type
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.schema import KNOWN_EMOTIONS, emotion_of, rename_modalities
from lmf_multitask.data.sources import Source, binary_labels
from lmf_multitask.errors import DataError

_LABEL_ROWS = 1 << 16  # read at a time: labels are small
_PROBED_ROWS = 64  # read at a time while the length of sequences is unknown
_LONGEST_ID = 1000
DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, pa.ArrowException)
"""What `datasets` and pyarrow raise on files that are not what they expect."""


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
    read: Callable[[Sequence[str], int], Iterator[pa.Table]]


class TableSource(Source):
    """A source of one Arrow table per split."""

    def _set_tables(self, tables: Mapping[str, Table]) -> None:
        """Checks the columns of all splits, and sets the attributes."""
        self._tables = {split: tables[split] for split in self.split_names}
        first, *others = self._tables.values()
        for table in self._tables.values():
            names = table.schema.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"{table.where} must have different columns, but has two named {twice[:40]!r}.")
            _check_ids(table)
        self._names = self._find_features(first)
        for table in others:
            if self._find_features(table) != self._names:
                columns = ", ".join(name[:40] for name in table.schema.names)
                raise DataError(
                    f"{table.where} must have the columns {', '.join(self._names.values())}, as {first.where} has, but has "
                    f"{columns}. Store nulls for clips that have none."
                )
        self._find_labels(first)

    def scan(self) -> None:
        """See `Source.scan`; lists of any length must be read to know the longest."""
        self._set_splits({split: table.count for split, table in self._tables.items()})
        shapes: dict[str, tuple[int, ...]] = {}
        for modality, name in self._names.items():
            shape = None
            for table in self._tables.values():
                with self._table_errors(table):
                    shape = row_shape(table.read([name], _PROBED_ROWS), name, shape)
            if shape is not None:
                shapes[modality] = shape
                self.dtypes[modality] = self._type(name)
        self._set_shapes(shapes)
        longest = self.reading.max_length
        self._stored_shapes = {
            modality: (min(shape[0], longest), shape[1]) if len(shape) == 2 and longest is not None else shape
            for modality, shape in shapes.items()
        }

    def _find_features(self, table: Table) -> dict[str, str]:
        lists = [
            field.name
            for field in table.schema
            if field.name in MODALITIES or (value_type(field.type) != field.type and is_number(value_type(field.type)))
        ]
        return rename_modalities([name for name in lists if name != "labels"] or table.schema.names, table.where)

    def _type(self, name: str) -> str:
        """Type of the numbers in a column, in numpy's words."""
        kind = str(value_type(next(iter(self._tables.values())).schema.field(name).type))
        return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(kind, kind)

    def _find_labels(self, table: Table) -> None:
        """Sets `emotions`, and the names of the label columns."""
        schema, chosen = table.schema, self.reading.emotions or ()
        rest = [name for name in schema.names if name not in {*self._names.values(), "id", "labels"}]
        if "labels" in schema.names:
            kind = schema.field("labels").type
            self._label_columns = ["labels"]
            names = [field.name for field in kind] if pa.types.is_struct(kind) else chosen
        else:
            self._label_columns = [
                name
                for name in rest
                if is_number(schema.field(name).type) and (name.lower() in KNOWN_EMOTIONS or name in chosen)
            ]
            names = self._label_columns
        self.emotions = [emotion_of(name) for name in names]
        if len(set(self.emotions)) != len(self.emotions):
            raise self.fail(f"emotions must be different, but got {', '.join(self.emotions)[:80]}. Rename them.")
        ignored = [ascii(name)[1:-1][:40] for name in rest if name not in self._label_columns]
        if ignored:
            self.notes.append(
                f"ignored columns: {', '.join(ignored[:12])}" + (" and more" if len(ignored) > 12 else "")
            )

    # -- rows

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        table = self._tables[split]
        has_ids = "id" in table.schema.names
        columns = [*(["id"] if has_ids else []), *self._names.values()]
        with self._table_errors(table):
            for part in table.read(columns, rows):
                features = {}
                for modality, shape in self._stored_shapes.items():
                    features[modality], cut = feature_rows(part, self._names[modality], shape)
                    self.cut[split][modality] += cut
                yield _ids(part) if has_ids else None, features

    def column_texts(self, split: str, name: str) -> list[str] | None:
        """See `Source.column_texts`."""
        table = self._tables[split]
        if name not in table.schema.names:
            return None
        kind = table.schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            raise DataError(f"column {name!r} of {table.where} must hold text or whole numbers, but holds {kind}.")
        with self._table_errors(table):
            parts = [part.column(name).to_pylist() for part in table.read([name], _LABEL_ROWS)]
        return ["" if value is None else str(value) for part in parts for value in part]

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        table = self._tables[split]
        if not self.emotions or (self._label_columns == ["labels"] and "labels" not in table.schema.names):
            raise self._no_labels(table)
        lacking = [name for name in self._label_columns if name not in table.schema.names]
        if lacking:
            raise DataError(
                f"{table.where} must have the label columns of the other splits, but lacks {', '.join(lacking)}."
            )
        with self._table_errors(table):
            values = np.concatenate([self._label_values(part) for part in table.read(self._label_columns, _LABEL_ROWS)])
        if values.shape[1] != len(self.emotions):
            raise DataError(
                f"labels of {table.where} must have one column per emotion, but have {values.shape[1]} columns for "
                f"{len(self.emotions)} names. Name all of them, in their order, with --emotions."
            )
        columns = [
            binary_labels(values[:, index], f"{table.where}: labels of {emotion!r}")
            for index, emotion in enumerate(self.emotions)
        ]
        return np.stack(columns, axis=1)

    def _label_values(self, part: pa.Table) -> np.ndarray:
        """Labels of some rows as they are stored, `[n, T]`."""
        columns = [part.column(name) for name in self._label_columns]
        kind = columns[0].type
        if is_list(kind):
            return np.concatenate([numbers(chunk, "labels") for chunk in columns[0].chunks])
        if pa.types.is_struct(kind):
            names = [field.name for field in kind]
            if [emotion_of(name) for name in names] != self.emotions:
                raise DataError(f"labels must have the fields {', '.join(self.emotions)}, but have {', '.join(names)}.")
            columns = columns[0].flatten()
        return np.stack([label_rows(column, emotion) for column, emotion in zip(columns, self.emotions)], axis=1)

    def _no_labels(self, table: Table) -> DataError:
        if "labels" in table.schema.names:
            return self.fail(
                "the label columns must have names, but the file has none. Give them in their order with --emotions."
            )
        found = [field.name for field in table.schema if is_number(field.type) and field.name != "id"]
        shown = ", ".join(name[:40] for name in found[:12]) or "no other column of numbers"
        return self.fail(
            f"must have a column 'labels', or columns of 0 and 1 named like emotions, but has {shown}. Choose the columns with "
            "--emotions."
        )

    @contextmanager
    def _table_errors(self, table: Table) -> Iterator[None]:
        """Puts the name of the file before what is wrong with it."""
        try:
            yield
        except DataError as error:
            raise DataError(str(error) if str(self.path) in str(error) else f"{table.where}: {error}") from None
        except DAMAGES as error:
            raise DataError(f"{table.where}: must be a whole table, but {first_line(error)}. Write it again.") from None


def _check_ids(table: Table) -> None:
    """Ids are read as they are stored: a type that would be decoded (an image is fetched from its address) is refused."""
    if "id" in table.schema.names:
        kind = table.schema.field("id").type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            raise DataError(
                f"column 'id' of {table.where} must hold text or whole numbers, but holds {kind}. Convert it."
            )


def _ids(part: pa.Table) -> list[str]:
    column = part.column("id")
    if not pa.types.is_integer(column.type):
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        if longest > _LONGEST_ID:
            raise DataError(f"ids must have at most {_LONGEST_ID:,} bytes, but one has {longest:,}. Shorten it.")
    return list(map(str, column.to_pylist()))


def first_line(error: BaseException) -> str:
    """The message of an error, short enough for one line of ours."""
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")[:200]
