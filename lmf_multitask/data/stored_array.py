"""Numpy arrays in pickles: described and checked now, read from the file when they are wanted.

No object of numpy's is built before its type, shape and length have been checked.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import warnings
from typing import Any, BinaryIO

import numpy as np

from lmf_multitask.errors import DataError

_MOST_DIMENSIONS = 32


class Refused(Exception):
    """What is wrong with the pickle, as the end of "must be plain data, but ..."."""


class Content:
    """An open file and its name in messages; every array that was left in the file reads through this one handle."""

    def __init__(self, name: object, file: BinaryIO) -> None:
        self._name, self.file = str(name), file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def __str__(self) -> str:
        return self._name


def to_array(value: Any, limit: int) -> np.ndarray:
    """Turns nested lists of numbers, or lists of arrays of one shape, into one array.

    Raises:
        ValueError: it is something else; the text says what, as the end of "must be an array, but ...".
    """
    return _stacked(value, limit, depth=0)[0]


def _stacked(value: Any, limit: int, depth: int) -> tuple[np.ndarray, int]:
    if isinstance(value, StoredArray):
        limit -= math.prod(value.shape)
        if limit < 0:
            raise ValueError("repeats its parts too often")
        if depth and value.dtype.kind not in "biufcO":  # checked before it is read: a short list can repeat a long text
            raise ValueError("holds text")
        if value.objects is not None:
            part, limit = _stacked(value.objects, limit, depth + 1)
            return part.reshape(value.shape + part.shape[1:]), limit
        return value.read(), limit
    if not isinstance(value, (list, tuple)) or depth >= 4:
        raise ValueError(f"holds {_in_words(value)}")
    limit -= len(value)
    if limit < 0:
        raise ValueError("repeats its parts too often")
    if all(isinstance(item, (bool, int, float)) for item in value):
        try:
            kind = np.float64 if any(isinstance(item, float) for item in value) else np.int64
            return np.array(value, dtype=kind), limit
        except OverflowError:
            raise ValueError("holds a number that is too large") from None
    parts = []
    for item in value:
        part, limit = _stacked(item, limit, depth + 1)
        parts.append(part)
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"its rows differ in shape, {' and '.join(str(list(s)) for s in sorted(shapes)[:2])}")
    return np.stack(parts), limit


def _in_words(value: Any) -> str:
    names = {bytes: "bytes", str: "text", dict: "a dict", type(None): "None", complex: "complex numbers"}
    return names.get(type(value), "lists nested too deep" if isinstance(value, (list, tuple)) else "something else")


class StoredArray:
    """A numpy array in a pickle: its shape and type now, its numbers when `read` is called.

    Attributes:
        shape: its dimensions.
        dtype: its plain type: bool, (unsigned) integer, float, complex, bytes or text; or object.
        objects: of an array of Python objects, what it holds, in C order: parts of what `read_pickle` returned. None for
            all other arrays; only these can be read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self) -> None:
        """Describes nothing yet: the pickle gives shape, type and content later."""
        self._payload: Any = None  # bytes or a Span, or a list of objects
        self.objects: list[Any] | None = None
        self._axes: tuple[int, ...] | None = None

    def _set(self, shape: Any, dtype: Any, fortran: Any, payload: Any) -> None:
        if self._payload is not None:
            raise Refused("sets the content of an array twice")
        holds_objects = isinstance(dtype, DType) and dtype.dtype.kind == "O"
        if not isinstance(dtype, DType) or not isinstance(payload, list if holds_objects else (bytes, Span)):
            raise Refused("describes an array wrongly")
        if isinstance(payload, Span) and payload.coding in ("utf-8", "raw-unicode-escape"):
            raise Refused("describes an array wrongly")
        stored = dtype.dtype
        size = bytes_of(shape, stored)
        if isinstance(payload, list):
            if len(payload) != math.prod(shape):
                raise Refused(f"gives an array of the shape {list(shape)} {len(payload):,} objects")
            self.objects, self.shape, self.dtype, self._payload = payload, shape, stored, payload
            return
        if not stored.itemsize and math.prod(shape) > 1:  # takes no bytes in the file, but some in memory
            raise Refused("has an array of an unusual type")
        exact = isinstance(payload, bytes) or payload.coding is None
        if (len(payload) != size) if exact else (len(payload) < size):
            raise Refused(f"gives an array of the shape {list(shape)} {len(payload):,} bytes, where it takes {size:,}")
        self.shape, self.dtype = shape, stored.newbyteorder("=")
        self._stored, self._fortran, self._payload = stored, bool(fortran), payload

    def _permute(self, axes: Any) -> None:
        """Orders the axes as ``numpy.transpose`` does: numpy 2.3 and newer store a permuted array by its memory."""
        ints = isinstance(axes, tuple) and all(type(n) is int for n in axes)
        if not ints or sorted(axes) != list(range(len(self.shape))):
            raise Refused("describes an array wrongly")
        self._axes = axes
        self.shape = tuple(self.shape[axis] for axis in axes)

    def read(self) -> np.ndarray:
        """The numbers: a fresh array of this machine's byte order, in C order, writable.

        Raises:
            DataError: the file has changed since it was opened, or the numbers are damaged.
            TypeError: it holds Python objects, see `objects`.
        """
        if self.objects is not None:
            raise TypeError("an array of Python objects has no numbers")
        if self._axes is None:
            return self._decoded(self._payload, self.shape, "F" if self._fortran else "C")
        stored = [self.shape[self._axes.index(axis)] for axis in range(len(self.shape))]
        return np.ascontiguousarray(self._decoded(self._payload, tuple(stored), "C").transpose(self._axes))

    @property
    def has_rows(self) -> bool:
        """Whether `read_rows` can read some rows without reading all of them."""
        if self.objects is not None:
            return False
        plain = isinstance(self._payload, bytes) or self._payload.coding is None
        in_order = self._axes is None and (not self._fortran or len(self.shape) == 1)
        return bool(self.shape) and plain and in_order and self._stored.itemsize > 0

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Some rows, as ``read()[start:stop]`` gives them; only these are read if `has_rows` is true.

        Raises:
            DataError: the file has changed since it was opened, or the numbers are damaged.
        """
        if not self.has_rows:
            return self.read()[start:stop]
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        shape = (max(stop - start, 0), *self.shape[1:])
        row = math.prod(self.shape[1:]) * self._stored.itemsize
        begin, size = start * row, shape[0] * row
        payload = self._payload
        part = payload[begin : begin + size] if isinstance(payload, bytes) else payload.part(begin, size)
        return self._decoded(part, shape, "C")

    def _decoded(self, payload: bytes | Span, shape: tuple[int, ...], order: str) -> np.ndarray:
        raw = np.empty(math.prod(shape) * self._stored.itemsize, np.uint8)
        if isinstance(payload, Span):
            payload.read_into(raw)
        else:
            raw[:] = np.frombuffer(payload, np.uint8)
        # a bool of another byte than 0 and 1 would be undefined
        flat = raw != 0 if self._stored.kind == "b" else raw.view(self._stored) if self._stored.itemsize else raw
        if not self._stored.itemsize:
            return np.zeros(shape, self.dtype)
        shaped = flat.reshape(shape, order="F" if order == "F" else "C")
        return np.ascontiguousarray(shaped.astype(self.dtype, copy=False)).reshape(shape)


def bytes_of(shape: Any, dtype: np.dtype) -> int:
    """Size of an array whose shape comes from the file."""
    ints = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in shape)
    if not ints or len(shape) > _MOST_DIMENSIONS:
        raise Refused("gives an array an impossible shape")
    if math.prod(max(n, 1) for n in shape) * max(dtype.itemsize, 1) >= 2**62:
        raise Refused("gives an array an impossible shape")
    return math.prod(shape) * dtype.itemsize


class Span:
    """A payload that was left in the file; `coding` says how its bytes are written there."""

    def __init__(self, content: Content, offset: int, size: int, coding: str | None = None) -> None:
        self._content, self._offset, self._size, self.coding = content, offset, size, coding

    def __len__(self) -> int:
        return self._size

    def encoded(self) -> Span:
        """Text that stands for bytes, one character each (Python 3 writes bytes this way under protocols 0 to 2)."""
        return Span(self._content, self._offset, self._size, f"latin-1 in {self.coding}")

    def part(self, begin: int, size: int) -> Span:
        """Some of the bytes of a payload that is stored as it is."""
        return Span(self._content, self._offset + begin, size)

    def read_into(self, out: np.ndarray) -> None:
        """Fills `out`, uint8, with the decoded bytes."""
        file = self._content.file
        try:
            file.seek(self._offset)
            if self.coding is None:
                count = file.readinto(out.data)  # type: ignore[attr-defined]
            else:
                decoded = np.frombuffer(_decode(file.read(self._size), self.coding), np.uint8)
                count = len(decoded)
                if count == len(out):
                    out[:] = decoded
        except OSError as error:
            raise DataError(f"{self._content}: must stay readable, but {error.strerror}. Load it again.") from None
        except (UnicodeError, ValueError):
            raise DataError(f"{self._content}: must hold complete arrays, but one is damaged.") from None
        if count != len(out):
            raise DataError(
                f"{self._content}: must hold {len(out):,} bytes for an array, but has {count:,}. Get the file again."
            )


def _decode(raw: bytes, coding: str) -> bytes:
    if coding == "repr":
        return unescape(raw)
    return raw.decode(coding.removeprefix("latin-1 in ")).encode("latin-1")


def unescape(raw: bytes) -> bytes:
    """The bytes that Python 2 wrote as a string literal, without the quotes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # unknown escapes stand for themselves
        return codecs.escape_decode(raw)[0]


class DType:
    """A numpy dtype under construction; it can only become a plain type."""

    _SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "O": (0, 4, 8)}

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if align or not copy:  # numpy would give a type that takes no state, or another layout
            raise Refused("describes a type wrongly")
        code = text_of(code)
        match = re.fullmatch(r"[<>|=]?([a-zA-Z])(\d{0,7})", code)
        if match is None or match[1] not in "biufcSUOMmV":
            raise Refused(f"has an array of the type {shown(code)}")
        kind, self._size = match[1], int(match[2] or 0)
        if kind not in "SU" and self._size not in self._SIZES.get(kind, ()):
            raise Refused(f"has an array of the type {shown(code)}")
        self._kind, self._built = kind, False
        self.dtype = np.dtype("O" if kind == "O" else f"{kind}{self._size}")

    def build(self, state: Any) -> None:
        """Takes numpy's dtype state: version, byte order, and for text the size; refuses parts, fields and flags."""
        if self._built or not isinstance(state, tuple) or not 6 <= len(state) <= 9:
            raise Refused("describes a type wrongly")
        order = text_of(state[1])
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise Refused("has an array of a structured type")
        if self._kind in "SU":
            size = state[5] if type(state[5]) is int else -1
            unit = 4 if self._kind == "U" else 1
            if not 0 <= size < 2**24 or size % unit or self._size not in (0, size // unit):
                raise Refused("describes a type wrongly")
            self._size = size // unit
        if len(state) >= 8 and state[7] not in {"U": (0, 8), "O": (63,)}.get(self._kind, (0,)):
            raise Refused("has an array of an unusual type")
        if len(state) == 9 and state[8] is not None:
            raise Refused("has an array of a type with metadata")
        self._built = True
        if self._kind != "O":
            self.dtype = np.dtype(f"{order}{self._kind}{self._size}")


def text_of(value: Any) -> str:
    """A name in the pickle: text, or Python 2's bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise Refused("has no name where one is required")


def shown(text: str) -> str:
    """A name in the pickle for a message."""
    return text[:60] if re.fullmatch(r"[\w.]*", text[:60], re.ASCII) else ascii(text[:60])
