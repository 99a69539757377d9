"""Reads a data pickle without running code from it: arrays, numbers, text and plain containers, and nothing else.

A pickle is a program for a small stack machine, and Python's own machine lets it call what it likes. Handing out the
real ``numpy.ndarray`` and ``numpy.dtype`` through an allow-list is not enough: a crafted dtype makes numpy follow
pointers that the file chooses. So this is a machine of our own (opcodes: `pickletools`, PEP 307, 3154, 574), in which
every admitted global is an inert name with one fixed meaning; no object of numpy's is built before its type, shape and
length have been checked. Large payloads stay in the file until they are read.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lmf_multitask.data.file_kinds import advice_on_class, check_kind_of_file, is_text
from lmf_multitask.errors import DataError
from lmf_multitask.files import open_regular

LARGE = 1 << 16
"""Payloads above this many bytes are left in the file."""

MOST_OBJECTS = 5_000_000
"""More single objects than this are refused: large data must be in arrays."""

_MOST_DIMENSIONS = 32
_LONGEST_KEY = 1000


def read_pickle(path: str | Path, file: BinaryIO | None = None) -> Any:
    """Reads a pickle of any protocol, from Python 2 or 3, numpy 1 or 2.

    Args:
        path: the file.
        file: the same, if it is open already; it must stay open as long as arrays are read.

    Returns:
        Its content: dicts (bytes keys decoded), lists (also for sets), tuples, numbers, text, bytes, None, and a
        `StoredArray` for each numpy array (the same one wherever the pickle shares it). Files of joblib are read as well.

    Raises:
        DataError: the file is missing, is not a pickle, is damaged, or names anything but plain data; no code of it was run.
    """
    content = _Content(path, open_regular(path) if file is None else file)
    check_kind_of_file(content, content.file.read(24))
    content.file.seek(0)
    try:
        return _Machine(content).run()
    except OSError as error:
        raise DataError(f"{content}: must be a readable file, but {error.strerror}. Check the path.") from None


class _Content:
    """An open file and its name in messages; every array that was left in the file reads through this one handle."""

    def __init__(self, name: object, file: BinaryIO) -> None:
        self._name, self.file = str(name), file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def __str__(self) -> str:
        return self._name


def to_array(value: Any, limit: int) -> np.ndarray:
    """Turns nested lists of numbers, or lists of arrays of one shape, into one array.

    Args:
        value: a part of what `read_pickle` returned.
        limit: how many numbers the result may have.

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
        self._payload: Any = None  # bytes or a _Span, or a list of objects
        self.objects: list[Any] | None = None
        self._axes: tuple[int, ...] | None = None

    def _set(self, shape: Any, dtype: Any, fortran: Any, payload: Any) -> None:
        if self._payload is not None:
            raise _Refused("sets the content of an array twice")
        holds_objects = isinstance(dtype, _DType) and dtype.dtype.kind == "O"
        if not isinstance(dtype, _DType) or not isinstance(payload, list if holds_objects else (bytes, _Span)):
            raise _Refused("describes an array wrongly")
        if isinstance(payload, _Span) and payload.coding in ("utf-8", "raw-unicode-escape"):
            raise _Refused("describes an array wrongly")
        stored = dtype.dtype
        size = _bytes_of(shape, stored)
        if isinstance(payload, list):
            if len(payload) != math.prod(shape):
                raise _Refused(f"gives an array of the shape {list(shape)} {len(payload):,} objects")
            self.objects, self.shape, self.dtype, self._payload = payload, shape, stored, payload
            return
        if not stored.itemsize and math.prod(shape) > 1:  # takes no bytes in the file, but some in memory
            raise _Refused("has an array of an unusual type")
        exact = isinstance(payload, bytes) or payload.coding is None
        if (len(payload) != size) if exact else (len(payload) < size):
            raise _Refused(f"gives an array of the shape {list(shape)} {len(payload):,} bytes, where it takes {size:,}")
        self.shape, self.dtype = shape, stored.newbyteorder("=")
        self._stored, self._fortran, self._payload = stored, bool(fortran), payload

    def _permute(self, axes: Any) -> None:
        """Orders the axes as ``numpy.transpose`` does: numpy 2.3 and newer store a permuted array by its memory."""
        ints = isinstance(axes, tuple) and all(type(n) is int for n in axes)
        if not ints or sorted(axes) != list(range(len(self.shape))):
            raise _Refused("describes an array wrongly")
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

    def _decoded(self, payload: bytes | _Span, shape: tuple[int, ...], order: str) -> np.ndarray:
        raw = np.empty(math.prod(shape) * self._stored.itemsize, np.uint8)
        if isinstance(payload, _Span):
            payload.read_into(raw)
        else:
            raw[:] = np.frombuffer(payload, np.uint8)
        # a bool of another byte than 0 and 1 would be undefined
        flat = raw != 0 if self._stored.kind == "b" else raw.view(self._stored) if self._stored.itemsize else raw
        if not self._stored.itemsize:
            return np.zeros(shape, self.dtype)
        shaped = flat.reshape(shape, order="F" if order == "F" else "C")
        return np.ascontiguousarray(shaped.astype(self.dtype, copy=False)).reshape(shape)


def _bytes_of(shape: Any, dtype: np.dtype) -> int:
    """Size of an array whose shape comes from the file."""
    ints = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in shape)
    if not ints or len(shape) > _MOST_DIMENSIONS:
        raise _Refused("gives an array an impossible shape")
    if math.prod(max(n, 1) for n in shape) * max(dtype.itemsize, 1) >= 2**62:
        raise _Refused("gives an array an impossible shape")
    return math.prod(shape) * dtype.itemsize


# -- the machine


class _Refused(Exception):
    """What is wrong with the pickle, as the end of "must be plain data, but ..."."""


class _ForeignName(_Refused):
    """The pickle names something that is not admitted."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"names {module[:60]}.{name[:60]}")
        self.module, self.name = module, name


class _Span:
    """A payload that was left in the file; `coding` says how its bytes are written there."""

    def __init__(self, content: _Content, offset: int, size: int, coding: str | None = None) -> None:
        self._content, self._offset, self._size, self.coding = content, offset, size, coding

    def __len__(self) -> int:
        return self._size

    def encoded(self) -> _Span:
        """Text that stands for bytes, one character each (Python 3 writes bytes this way under protocols 0 to 2)."""
        return _Span(self._content, self._offset, self._size, f"latin-1 in {self.coding}")

    def part(self, begin: int, size: int) -> _Span:
        """Some of the bytes of a payload that is stored as it is."""
        return _Span(self._content, self._offset + begin, size)

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
        return _unescape(raw)
    return raw.decode(coding.removeprefix("latin-1 in ")).encode("latin-1")


def _unescape(raw: bytes) -> bytes:
    """The bytes that Python 2 wrote as a string literal, without the quotes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # unknown escapes stand for themselves
        return codecs.escape_decode(raw)[0]


class _Name:
    """An admitted global: a name whose call has one fixed meaning here; it is not the real object."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


class _DType:
    """A numpy dtype under construction; it can only become a plain type."""

    _SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16), "O": (0, 4, 8)}

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if align or not copy:  # numpy would give a type that takes no state, or another layout
            raise _Refused("describes a type wrongly")
        code = _text(code)
        match = re.fullmatch(r"[<>|=]?([a-zA-Z])(\d{0,7})", code)
        if match is None or match[1] not in "biufcSUOMmV":
            raise _Refused(f"has an array of the type {_printable(code)}")
        kind, self._size = match[1], int(match[2] or 0)
        if kind not in "SU" and self._size not in self._SIZES.get(kind, ()):
            raise _Refused(f"has an array of the type {_printable(code)}")
        self._kind, self._built = kind, False
        self.dtype = np.dtype("O" if kind == "O" else f"{kind}{self._size}")

    def build(self, state: Any) -> None:
        """Takes numpy's dtype state: version, byte order, and for text the size; refuses parts, fields and flags."""
        if self._built or not isinstance(state, tuple) or not 6 <= len(state) <= 9:
            raise _Refused("describes a type wrongly")
        order = _text(state[1])
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _Refused("has an array of a structured type")
        if self._kind in "SU":
            size = state[5] if type(state[5]) is int else -1
            unit = 4 if self._kind == "U" else 1
            if not 0 <= size < 2**24 or size % unit or self._size not in (0, size // unit):
                raise _Refused("describes a type wrongly")
            self._size = size // unit
        if len(state) >= 8 and state[7] not in {"U": (0, 8), "O": (63,)}.get(self._kind, (0,)):
            raise _Refused("has an array of an unusual type")
        if len(state) == 9 and state[8] is not None:
            raise _Refused("has an array of a type with metadata")
        self._built = True
        if self._kind != "O":
            self.dtype = np.dtype(f"{order}{self._kind}{self._size}")


class _JoblibArray:
    """Where joblib's wrapper of an array stands in a pickle; the bytes of the array follow the wrapper's state."""


class _Machine:
    """Runs one pickle."""

    def __init__(self, content: _Content) -> None:
        self._content, self._file, self._size = content, content.file, content.size
        self._frame_end = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._keys: dict[bytes, str] = {}
        self._arrays: list[StoredArray] = []
        self._objects = 0
        self._made_bytes = 0
        self._nested = False
        self._joblib_wrapper = _Name(self._no_call)
        self._names = self._admitted_names()

    def run(self) -> Any:
        """The pickle's value."""
        file = self._file
        try:
            value = self._program()
            if any(array._payload is None for array in self._arrays):
                raise _Refused("leaves an array without content")
            return value
        except _Refused as error:
            place = f"(at byte {file.tell():,})"
            if isinstance(error, _ForeignName):
                raise DataError(
                    f"{self._content}: must be plain data (arrays, numbers, text, dicts, lists), but {error} {place}. "
                    f"{advice_on_class(error.module, error.name)}"
                ) from None
            self._check_no_text()
            raise DataError(f"{self._content}: must be a whole pickle of plain data, but {error} {place}.") from None
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error):
            place = f"(at byte {file.tell():,})"
            self._check_no_text()
            raise DataError(
                f"{self._content}: must be a pickle, but is damaged or something else {place}. Check the file."
            ) from None

    def _program(self) -> Any:
        steps, file = _STEPS, self._file
        while True:
            code = file.read(1)
            if code == b".":
                return self._stack.pop()
            step = steps.get(code)
            if step is None:
                if not code:
                    raise _Refused("ends too early")
                raise _Refused(f"has the byte {code[0]:#04x}, which is not an instruction of a pickle")
            self._count(1)
            step(self)

    def _check_no_text(self) -> None:
        """Says so if the file is a table or other text."""
        self._file.seek(0)
        if is_text(self._file.read(4096)):
            raise DataError(
                f"{self._content}: must be a pickle, but is text (a table, JSON or source code). Give it the name that its "
                "kind of file has, such as .csv."
            ) from None

    # limits

    def _count(self, objects: int) -> None:
        self._objects += objects
        if self._objects > MOST_OBJECTS:
            raise _Refused(f"holds more than {MOST_OBJECTS:,} single objects; store the features as numpy arrays")

    def _make_bytes(self, count: int) -> None:
        self._made_bytes += count
        if self._made_bytes > self._size:
            raise _Refused("repeats its parts too often")

    # reading

    def _take(self, count: int) -> bytes:
        self._check_left(count)
        return self._file.read(count)

    def _check_left(self, count: int) -> None:
        start = self._file.tell()
        if count < 0 or count > self._size - start:
            raise _Refused(f"ends too early: {count:,} bytes are announced, {self._size - start:,} are left")
        self._check_frame(start, start + count)

    def _check_frame(self, start: int, end: int) -> None:
        """Python's unpicklers disagree on an argument that crosses the end of its frame: no pickler writes one."""
        if start < self._frame_end < end:
            raise _Refused("has an argument that crosses the end of a frame")

    def _begin_frame(self) -> None:
        size = self._number("<Q")
        if self._file.tell() < self._frame_end:
            raise _Refused("begins a frame inside another one")
        self._frame_end = 0
        self._check_left(size)
        self._frame_end = self._file.tell() + size

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        start = self._file.tell()
        line = self._file.readline(400)
        if not line.endswith(b"\n"):
            raise _Refused("ends too early" if len(line) < 400 else "has a line that is too long")
        self._check_frame(start, start + len(line))
        return line[:-1]

    def _payload(self, count: int, coding: str | None = None) -> bytes | str | _Span:
        """The next bytes (or text): left in the file if they are many."""
        if count <= LARGE:
            raw = self._take(count)
            return raw.decode(coding, "surrogatepass") if coding else raw
        self._check_left(count)
        span = _Span(self._content, self._file.tell(), count, coding)
        self._file.seek(count, os.SEEK_CUR)
        return span

    def _payload_line(self, coding: str, quoted: bool) -> bytes | str | _Span:
        """The rest of the line, as protocol 0 writes bytes and text."""
        start = self._file.tell()
        line = self._file.readline(LARGE + 3)  # two quotes and the line's end
        size, end = len(line), line[-2:]
        while not end.endswith(b"\n"):
            more = self._file.readline(1 << 20)
            if not more:
                raise _Refused("ends too early")
            size, end = size + len(more), (end + more)[-2:]
        self._check_frame(start, start + size)
        size -= 1
        if quoted:
            self._file.seek(start)
            quote = self._file.read(1)
            self._file.seek(start + size + 1)
            if size < 2 or quote not in (b"'", b'"') or end[:1] != quote:
                raise _Refused("has text without quotes")
            start, size = start + 1, size - 2
        if size > LARGE:
            return _Span(self._content, start, size, coding)
        raw = line[1 : size + 1] if quoted else line[:size]
        return _unescape(raw) if coding == "repr" else raw.decode(coding)

    # the stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._to_mark()

    def _remember(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    # containers

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise _Refused("appends to something that is not a list")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or len(items) % 2:
            raise _Refused("sets items of something that is not a dict")
        self._fill(self._stack[-1], zip(items[::2], items[1::2]))

    def _fill(self, target: dict[Any, Any], items: Iterable[tuple[Any, Any]]) -> None:
        for key, value in items:
            name = self._key(key)
            if name in target:  # no pickle of a dict has one twice; b"a" and "a" would become one
                raise _Refused(f"has the key {ascii(name)[:80]} twice, perhaps as text and as bytes")
            target[name] = value

    def _key(self, key: Any) -> Any:
        """A dict's key: bytes become text, once; keys that make a dict slow or large, or that cannot be printed, are refused."""
        if isinstance(key, (bytes, str)) and len(key) > _LONGEST_KEY:
            raise _Refused(f"has a key of {len(key):,} characters")
        if isinstance(key, bytes):
            if key not in self._keys:  # decoded again for every dict, a key would take memory beyond the file's size
                self._keys[key] = _decoded_key(key)
            return self._keys[key]
        if isinstance(key, str) or key is None:
            return key
        if isinstance(key, (bool, int, float)) and abs(key) < (2**53 if isinstance(key, float) else 2**64):
            return key  # larger ones could all have the same hash
        raise _Refused("has a key that is neither text nor a number")

    # globals

    def _find(self, module: Any, name: Any) -> None:
        module, name = _text(module), _text(name)
        found = self._names.get((module, name))
        if found is None:
            if not re.fullmatch(r"[\w.]+\n[\w.]+", f"{module}\n{name}", re.ASCII):
                raise ValueError  # not a name: this is text that is not a pickle
            raise _ForeignName(module, name)
        self._push(found)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _Refused("calls something that is not a function")
        self._push(function.call(*arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, _DType):
            target.build(state)
        elif isinstance(target, StoredArray):
            if not isinstance(state, tuple) or len(state) not in (4, 5):
                raise _Refused("describes an array wrongly")
            target._set(*state[-4:])
        elif isinstance(target, _JoblibArray):
            self._stack[-1] = self._joblib_array(state)
        else:
            raise _Refused("sets the state of something that has none")

    def _new_object(self) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if kind is not self._joblib_wrapper or arguments != ():
            raise _Refused("holds an object that is not plain data")
        self._push(_JoblibArray())

    def _joblib_array(self, state: Any) -> StoredArray:
        """An array of joblib: its bytes follow in the file, or another pickle if it holds objects."""
        if not isinstance(state, dict) or not isinstance(state.get("dtype"), _DType):
            raise _Refused("describes an array wrongly")
        if state.get("subclass") not in (self._names["numpy", "ndarray"], self._names["numpy", "memmap"]):
            raise _Refused("holds a special kind of array")
        if self._file.tell() < self._frame_end:
            raise _Refused("has an array inside a frame")
        dtype, shape = state["dtype"], state.get("shape")
        if dtype.dtype.kind == "O":
            return self._nested_array()
        if state.get("numpy_array_alignment_bytes") is not None:
            self._take(self._number("B"))
        array = self._new_array(plain=True)
        array._set(shape, dtype, state.get("order") == "F", self._payload(_bytes_of(shape, dtype.dtype)))
        return array

    def _nested_array(self) -> StoredArray:
        """The pickle of an array that stands in this one."""
        if self._nested:
            raise _Refused("holds a pickle in a pickle in a pickle")
        outside = self._stack, self._marks, self._memo
        self._stack, self._marks, self._memo, self._nested = [], [], {}, True
        value = self._program()
        (self._stack, self._marks, self._memo), self._nested = outside, False
        if not isinstance(value, StoredArray):
            raise _Refused("describes an array wrongly")
        return value

    def _outside(self) -> None:
        _no_outside(self)

    def _admitted_names(self) -> dict[tuple[str, str], _Name]:
        ndarray, memmap, factory = _Name(self._no_call), _Name(self._no_call), _Name(self._no_call)
        reconstruct = _Name(lambda kind, shape, code: self._new_array(kind in (ndarray, memmap)))
        from_buffer = _Name(self._array_from_buffer)
        containers = {
            "dict": self._new_dict,
            "list": self._new_list,
            "set": self._new_list,
            "frozenset": self._new_list,
            "tuple": lambda *items: tuple(self._new_list(*items)),
        }
        names = {
            ("numpy", "ndarray"): ndarray,
            ("numpy", "memmap"): memmap,
            ("numpy", "dtype"): _Name(_DType),
            ("joblib.numpy_pickle", "NumpyArrayWrapper"): self._joblib_wrapper,
            ("_codecs", "encode"): _Name(self._encode),
            ("collections", "OrderedDict"): _Name(self._new_dict),
            ("collections", "defaultdict"): _Name(lambda factory=None, *items: self._new_dict(*items)),
        }
        for module in ("numpy.core", "numpy._core"):
            names[f"{module}.multiarray", "_reconstruct"] = reconstruct
            names[f"{module}.multiarray", "scalar"] = _Name(self._scalar)
            names[f"{module}.numeric", "_frombuffer"] = from_buffer
            names[f"{module}.memmap", "memmap"] = memmap
        for module in ("builtins", "__builtin__"):
            names.update({(module, name): _Name(call) for name, call in containers.items()})
            names[module, "bytes"] = names[module, "bytearray"] = _Name(self._new_bytes)
            names.update({(module, name): factory for name in ("int", "long", "float", "bool", "str")})
        return names

    @staticmethod
    def _no_call(*arguments: Any) -> Any:
        raise _Refused("calls a type")

    def _new_array(self, plain: bool) -> StoredArray:
        if not plain:
            raise _Refused("holds a special kind of array")
        array = StoredArray()
        self._arrays.append(array)
        return array

    def _array_from_buffer(self, payload: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> StoredArray:
        array = self._new_array(plain=True)
        order = _text(order)
        if order not in (("C", "F") if axes is None else ("K",)):
            raise _Refused("describes an array wrongly")
        array._set(shape, dtype, order == "F", payload)
        if axes is not None:
            array._permute(axes)
        return array

    def _scalar(self, dtype: Any, payload: Any) -> Any:
        array = self._array_from_buffer(payload, dtype, (), "C")
        self._make_bytes(len(payload))
        return array.read().item()

    def _encode(self, text: Any, coding: Any = "latin1") -> bytes | _Span:
        if _text(coding) not in ("latin1", "latin-1"):
            raise _Refused(f"encodes text as {_printable(_text(coding))}")
        if isinstance(text, _Span) and text.coding in ("utf-8", "raw-unicode-escape"):
            return text.encoded()
        if not isinstance(text, str):
            raise _Refused("encodes something that is not text")
        self._make_bytes(len(text))
        return text.encode("latin-1")

    def _new_bytes(self, content: Any = b"", coding: Any = "latin1") -> bytes | _Span:
        if isinstance(content, str):
            return self._encode(content, coding)
        if not isinstance(content, (bytes, _Span)):
            raise _Refused("makes bytes of something else")
        return content

    def _new_list(self, items: Any = ()) -> list[Any]:
        if not isinstance(items, (list, tuple)):
            raise _Refused("makes a list of something else")
        self._count(len(items))
        return list(items)

    def _new_dict(self, items: Any = ()) -> dict[Any, Any]:
        if isinstance(items, dict):
            self._count(len(items))
            return dict(items)
        found: dict[Any, Any] = {}
        self._fill(found, self._new_list(items))
        return found


def _text(value: Any) -> str:
    """A name in the pickle: text, or Python 2's bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise _Refused("has no name where one is required")


def _decoded_key(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        return key.decode("latin-1")


def _printable(text: str) -> str:
    return text[:60] if re.fullmatch(r"[\w.]*", text[:60], re.ASCII) else ascii(text[:60])


def _whole_number(line: bytes) -> bool | int:
    if line in (b"00", b"01"):
        return line == b"01"
    if not re.fullmatch(rb"[+-]?(0|[1-9]\d{0,399})L?", line):  # Python takes 050 for an octal number
        raise _Refused("has a malformed number")
    return int(line.rstrip(b"L"))


def _float(line: bytes) -> float:
    return float(line.decode("ascii"))


def _protocol(machine: _Machine) -> None:
    version = machine._number("B")
    if version > 5:
        raise _Refused(f"has the protocol {version}, which is unknown")


def _refuse(what: str) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        raise _Refused(what)

    return step


def _instance(machine: _Machine) -> None:
    machine._find(machine._line(), machine._line())
    raise _Refused("holds an object that is not plain data")


def _call_with_top(machine: _Machine) -> None:
    arguments = machine._stack.pop()
    machine._call(machine._stack.pop(), arguments)


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        items = machine._stack[-count:]
        if len(items) < count:
            raise IndexError
        machine._stack[-count:] = [tuple(items)]

    return step


def _stack_global(machine: _Machine) -> None:
    name = machine._stack.pop()
    machine._find(machine._stack.pop(), name)


_no_objects = _refuse("holds an object that is not plain data")
_no_outside = _refuse("refers to data outside the file")

_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    # frame
    b"\x80": _protocol,
    b"\x95": _Machine._begin_frame,
    # stack and memo
    b"(": _Machine._mark,
    b"0": _Machine._pop,
    b"1": _Machine._to_mark,
    b"2": lambda m: m._push(m._stack[-1]),
    b"g": lambda m: m._push(m._memo[int(m._line())]),
    b"h": lambda m: m._push(m._memo[m._number("B")]),
    b"j": lambda m: m._push(m._memo[m._number("<I")]),
    b"p": lambda m: m._remember(int(m._line())),
    b"q": lambda m: m._remember(m._number("B")),
    b"r": lambda m: m._remember(m._number("<I")),
    b"\x94": lambda m: m._remember(len(m._memo)),
    # constants and numbers
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"I": lambda m: m._push(_whole_number(m._line())),
    b"L": lambda m: m._push(_whole_number(m._line())),
    b"J": lambda m: m._push(m._number("<i")),
    b"K": lambda m: m._push(m._number("B")),
    b"M": lambda m: m._push(m._number("<H")),
    b"\x8a": lambda m: m._push(int.from_bytes(m._take(m._number("B")), "little", signed=True)),
    b"\x8b": _refuse("has a number that is too long"),
    b"F": lambda m: m._push(_float(m._line())),
    b"G": lambda m: m._push(m._number(">d")),
    # bytes and text
    b"S": lambda m: m._push(m._payload_line("repr", quoted=True)),
    b"T": lambda m: m._push(m._payload(m._number("<i"))),
    b"U": lambda m: m._push(m._payload(m._number("B"))),
    b"B": lambda m: m._push(m._payload(m._number("<I"))),
    b"C": lambda m: m._push(m._payload(m._number("B"))),
    b"\x8e": lambda m: m._push(m._payload(m._number("<Q"))),
    b"\x96": lambda m: m._push(m._payload(m._number("<Q"))),
    b"V": lambda m: m._push(m._payload_line("raw-unicode-escape", quoted=False)),
    b"X": lambda m: m._push(m._payload(m._number("<I"), "utf-8")),
    b"\x8c": lambda m: m._push(m._payload(m._number("B"), "utf-8")),
    b"\x8d": lambda m: m._push(m._payload(m._number("<Q"), "utf-8")),
    # containers
    b")": lambda m: m._push(()),
    b"t": lambda m: m._push(tuple(m._to_mark())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"]": lambda m: m._push([]),
    b"l": lambda m: m._push(m._to_mark()),
    b"a": lambda m: m._extend([m._stack.pop()]),
    b"e": lambda m: m._extend(m._to_mark()),
    b"}": lambda m: m._push({}),
    b"d": lambda m: m._push(m._new_dict(_pairs(m._to_mark()))),
    b"s": lambda m: m._set_items([m._stack.pop(-2), m._stack.pop()]),
    b"u": lambda m: m._set_items(m._to_mark()),
    b"\x8f": lambda m: m._push([]),
    b"\x90": lambda m: m._extend(m._to_mark()),
    b"\x91": lambda m: m._push(m._to_mark()),
    # globals
    b"c": lambda m: m._find(m._line(), m._line()),
    b"\x93": _stack_global,
    b"R": _call_with_top,
    b"b": lambda m: m._build(),
    b"i": _instance,
    b"o": _no_objects,
    b"\x81": _Machine._new_object,
    b"\x92": _no_objects,
    b"P": _no_outside,
    b"Q": lambda m: m._outside(),
    b"\x97": _no_outside,
    b"\x98": _no_outside,
    b"\x82": _refuse("names an extension of the copyreg module"),
    b"\x83": _refuse("names an extension of the copyreg module"),
    b"\x84": _refuse("names an extension of the copyreg module"),
}


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise _Refused("has a dict item without a value")
    return list(zip(items[::2], items[1::2]))
