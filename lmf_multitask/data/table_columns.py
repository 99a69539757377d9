"""Columns of tables with one value per clip: texts, ids, classes.

Shape letters: N rows (clips).
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from lmf_multitask.data.arrow import is_number, value_type
from lmf_multitask.data.label_columns import ID_COLUMNS, NUMBER, OTHER, TEXT
from lmf_multitask.data.schema import LONGEST_ID
from lmf_multitask.errors import DataError

_MOST_METADATA = 1 << 22


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds one text per row."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def kind_of(kind: pa.DataType) -> str:
    """What a column holds, see `label_columns`."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return NUMBER if is_number(kind) or pa.types.is_null(kind) else TEXT if is_text(kind) else OTHER


def holds_lists(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists of numbers."""
    inner = value_type(kind)
    return inner != kind and (is_number(inner) or pa.types.is_null(inner))


def decoded(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column of categories as the values that they stand for."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names of the classes 0, 1, ... that `datasets` has noted for a column of whole numbers."""
    noted = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        if len(noted) > _MOST_METADATA or not pa.types.is_integer(schema.field(column).type):
            return None
        names = json.loads(noted)["info"]["features"][column]["names"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def id_column(schema: pa.Schema, where: str) -> str | None:
    """The column with the ids. They are read as they are stored: a type that would be decoded is refused.

    Raises:
        DataError: a column ``id`` holds something else than text or whole numbers.
    """
    by_name = {field.name.lower(): field for field in schema}
    for name in ID_COLUMNS:
        field = by_name.get(name)
        if field is not None and (is_text(field.type) or pa.types.is_integer(field.type)):
            return field.name
        if name == "id" and field is not None:
            raise DataError(
                f"column 'id' of {where} must hold text or whole numbers, but holds {field.type}. Convert it."
            )
    return None


def _texts_once(chunk: pa.Array) -> pa.Array:
    """The texts of a column, each one once where they are stored as categories."""
    return chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk


def texts(column: pa.Array | pa.ChunkedArray, what: str, most: int = LONGEST_ID) -> list[str | None]:
    """A column of text or whole numbers as texts."""
    if is_text(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        longest = max((pc.max(pc.binary_length(_texts_once(chunk))).as_py() or 0 for chunk in chunks), default=0)
        if longest > most:
            raise DataError(f"{what} must have at most {most:,} bytes, but one has {longest:,}. Shorten it.")
    column = decoded(column)
    return [None if value is None else str(value) for value in column.to_pylist()]


def single_values(column: pa.Array | pa.ChunkedArray, what: str) -> list[object]:
    """A column with one number or one short text per row; null is None."""
    return list(texts(column, what)) if is_text(column.type) else decoded(column).to_pylist()


def ids(part: pa.Table, column: str) -> list[str]:
    """The ids of some rows."""
    return list(map(str, texts(part.column(column), "ids")))
