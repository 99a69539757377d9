"""What a Parquet file announces, read from its footer and its pages before one is unpacked.

(At some damaged footers pyarrow ends the process when it is asked for the metadata of a column.)

Format: https://parquet.apache.org/docs/file-format, in Thrift's compact protocol.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_LEAST_STRUCT = 8  # bytes of a row group or a column

# numbers of the fields that are read; everything else is passed over
_COLUMN = {5: None, 7: None, 9: None, 11: None}
_VALUES, _PACKED, _DATA, _DICTIONARY = _COLUMN
_FOOTER = {4: {1: {3: _COLUMN}}}
_PAGE = {2: None, 3: None, 5: {1: None}, 7: {1: None}, 8: {1: None}}
_UNPACKED_SIZE, _PACKED_SIZE = 2, 3


def announced(file: BinaryIO) -> tuple[int, int]:
    """Values in the columns of a file, and bytes of its pages when unpacked.

    Raises:
        ValueError: the footer or a page is damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    if length > size - 12:
        raise ValueError("its footer is damaged")
    file.seek(size - 8 - length)
    footer = _read_struct(io.BytesIO(file.read(length)), _FOOTER)
    values = total = 0
    for group in footer.get(4, ()):
        for column in group.get(1, ()):
            about = column.get(3, {})
            start = about.get(_DICTIONARY) or about[_DATA]
            end = start + about[_PACKED]
            if not 0 <= start <= end <= size:
                raise ValueError("a column is outside of the file")
            in_pages = 0
            file.seek(start)
            while (place := file.tell()) < end:
                page = _read_struct(file, _PAGE)
                if min(page[_UNPACKED_SIZE], page[_PACKED_SIZE]) < 0 or file.tell() == place:
                    raise ValueError("a page is damaged")
                total += page[_UNPACKED_SIZE]
                in_pages += sum(page[kind][1] for kind in (5, 7, 8) if kind in page)
                file.seek(page[_PACKED_SIZE], io.SEEK_CUR)
            values += max(in_pages, about[_VALUES])
    return values, total


def _read_struct(file: BinaryIO, wanted: dict[int, Any]) -> dict[int, Any]:
    """Number -> value of the wanted fields; those of `wanted` that are dicts are structs, or lists of them."""
    found: dict[int, Any] = {}
    number = 0
    while (head := _byte(file)) & 15 != _STOP:
        number = number + (head >> 4) if head >> 4 else _integer(file)
        kind = head & 15
        if number not in wanted:
            _skip(file, kind)
        elif number in found:  # other readers may take the other one
            raise ValueError("a field occurs twice")
        else:
            found[number] = _read(file, kind, wanted[number])
    return found


def _read(file: BinaryIO, kind: int, wanted: Any) -> Any:
    if kind == _STRUCT and wanted:
        return _read_struct(file, wanted)
    if kind == _LIST and wanted:
        count, inner = _list_head(file)
        left = len(file.getbuffer()) if isinstance(file, io.BytesIO) else 0
        if inner != _STRUCT or count * _LEAST_STRUCT > left:
            raise ValueError("a list is damaged")
        return [_read_struct(file, wanted) for _ in range(count)]
    if _BYTE < kind < _DOUBLE and wanted is None:
        return _integer(file)
    raise ValueError("a field is of another type")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind in (_LIST, _SET):
        count, inner = _list_head(file)
        for _ in range(count):
            _skip(file, _BYTE if inner in (_TRUE, _FALSE) else inner)
    elif kind == _MAP:
        count = _varint(file)
        kinds = _byte(file) if count else 0
        for _ in range(count):
            _skip(file, kinds >> 4)
            _skip(file, kinds & 15)
    elif kind == _STRUCT:
        _read_struct(file, {})
    elif kind == _BINARY:
        file.seek(_varint(file), io.SEEK_CUR)
    elif _BYTE < kind < _DOUBLE:
        _varint(file)
    elif kind in (_BYTE, _DOUBLE):
        file.seek(1 if kind == _BYTE else 8, io.SEEK_CUR)
    elif kind not in (_TRUE, _FALSE):
        raise ValueError("a field is of an unknown type")


def _list_head(file: BinaryIO) -> tuple[int, int]:
    head = _byte(file)
    return (head >> 4 if head >> 4 < 15 else _varint(file)), head & 15


def _integer(file: BinaryIO) -> int:
    number = _varint(file)
    return number >> 1 ^ -(number & 1)


def _varint(file: BinaryIO) -> int:
    number = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
    raise ValueError("a number is damaged")


def _byte(file: BinaryIO) -> int:
    found = file.read(1)
    if not found:
        raise ValueError("it ends too early")
    return found[0]
