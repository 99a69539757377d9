"""Reads a data pickle without running code from it: arrays, numbers, text and plain containers, and nothing else.

A pickle is a program for a small stack machine, and Python's own machine lets it call what it likes. Handing out the
real ``numpy.ndarray`` and ``numpy.dtype`` through an allow-list is not enough: a crafted dtype makes numpy follow
pointers that the file chooses. So this is a machine of our own (opcodes: `pickletools`, PEP 307, 3154, 574), in which
every admitted global is an inert name with one fixed meaning; no object of numpy's is built before its type, shape and
length have been checked. Large payloads stay in the file until they are read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from lmf_multitask.data.file_kinds import advice_on_class, check_kind_of_file, is_text
from lmf_multitask.data.pickle_values import Name, PickleValues
from lmf_multitask.data.stored_array import Content, DType, Refused, StoredArray, bytes_of, text_of
from lmf_multitask.errors import DataError
from lmf_multitask.files import open_regular


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
    content = Content(path, open_regular(path) if file is None else file)
    check_kind_of_file(content, content.file.read(24))
    content.file.seek(0)
    try:
        return Machine(content).run()
    except OSError as error:
        raise DataError(f"{content}: must be a readable file, but {error.strerror}. Check the path.") from None


class _ForeignName(Refused):
    """The pickle names something that is not admitted."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"names {module[:60]}.{name[:60]}")
        self.module, self.name = module, name


class JoblibArray:
    """Where joblib's wrapper of an array stands in a pickle; the bytes of the array follow the wrapper's state."""


class Machine(PickleValues):
    """Runs one pickle."""

    def __init__(self, content: Content) -> None:
        super().__init__(content)
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._nested = False

    def run(self) -> Any:
        """The pickle's value."""
        file = self._file
        try:
            value = self._program()
            if any(array._payload is None for array in self._arrays):
                raise Refused("leaves an array without content")
            return value
        except Refused as error:
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
                    raise Refused("ends too early")
                raise Refused(f"has the byte {code[0]:#04x}, which is not an instruction of a pickle")
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
            raise Refused("appends to something that is not a list")
        self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or len(items) % 2:
            raise Refused("sets items of something that is not a dict")
        self._fill(self._stack[-1], zip(items[::2], items[1::2]))

    # globals

    def _find(self, module: Any, name: Any) -> None:
        module, name = text_of(module), text_of(name)
        found = self._names.get((module, name))
        if found is None:
            if not re.fullmatch(r"[\w.]+\n[\w.]+", f"{module}\n{name}", re.ASCII):
                raise ValueError  # not a name: this is text that is not a pickle
            raise _ForeignName(module, name)
        self._push(found)

    def _call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise Refused("calls something that is not a function")
        self._push(function.call(*arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, DType):
            target.build(state)
        elif isinstance(target, StoredArray):
            if not isinstance(state, tuple) or len(state) not in (4, 5):
                raise Refused("describes an array wrongly")
            target._set(*state[-4:])
        elif isinstance(target, JoblibArray):
            self._stack[-1] = self._joblib_array(state)
        else:
            raise Refused("sets the state of something that has none")

    def _new_object(self) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if kind is not self._joblib_wrapper or arguments != ():
            raise Refused("holds an object that is not plain data")
        self._push(JoblibArray())

    def _joblib_array(self, state: Any) -> StoredArray:
        """An array of joblib: its bytes follow in the file, or another pickle if it holds objects."""
        if not isinstance(state, dict) or not isinstance(state.get("dtype"), DType):
            raise Refused("describes an array wrongly")
        if state.get("subclass") not in (self._names["numpy", "ndarray"], self._names["numpy", "memmap"]):
            raise Refused("holds a special kind of array")
        if self._file.tell() < self._frame_end:
            raise Refused("has an array inside a frame")
        dtype, shape = state["dtype"], state.get("shape")
        if dtype.dtype.kind == "O":
            return self._nested_array()
        if state.get("numpy_array_alignment_bytes") is not None:
            self._take(self._number("B"))
        array = self._new_array(plain=True)
        array._set(shape, dtype, state.get("order") == "F", self._payload(bytes_of(shape, dtype.dtype)))
        return array

    def _nested_array(self) -> StoredArray:
        """The pickle of an array that stands in this one."""
        if self._nested:
            raise Refused("holds a pickle in a pickle in a pickle")
        outside = self._stack, self._marks, self._memo
        self._stack, self._marks, self._memo, self._nested = [], [], {}, True
        value = self._program()
        (self._stack, self._marks, self._memo), self._nested = outside, False
        if not isinstance(value, StoredArray):
            raise Refused("describes an array wrongly")
        return value

    def _outside(self) -> None:
        _no_outside(self)


def _whole_number(line: bytes) -> bool | int:
    if line in (b"00", b"01"):
        return line == b"01"
    if not re.fullmatch(rb"[+-]?(0|[1-9]\d{0,399})L?", line):  # Python takes 050 for an octal number
        raise Refused("has a malformed number")
    return int(line.rstrip(b"L"))


def _protocol(machine: Machine) -> None:
    version = machine._number("B")
    if version > 5:
        raise Refused(f"has the protocol {version}, which is unknown")


def _refuse(what: str) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        raise Refused(what)

    return step


def _instance(machine: Machine) -> None:
    machine._find(machine._line(), machine._line())
    raise Refused("holds an object that is not plain data")


def _call_with_top(machine: Machine) -> None:
    arguments = machine._stack.pop()
    machine._call(machine._stack.pop(), arguments)


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        items = machine._stack[-count:]
        if len(items) < count:
            raise IndexError
        machine._stack[-count:] = [tuple(items)]

    return step


def _stack_global(machine: Machine) -> None:
    name = machine._stack.pop()
    machine._find(machine._stack.pop(), name)


_no_objects = _refuse("holds an object that is not plain data")
_no_outside = _refuse("refers to data outside the file")

_STEPS: dict[bytes, Callable[[Machine], object]] = {
    # frame
    b"\x80": _protocol,
    b"\x95": Machine._begin_frame,
    # stack and memo
    b"(": Machine._mark,
    b"0": Machine._pop,
    b"1": Machine._to_mark,
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
    b"F": lambda m: m._push(float(m._line())),
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
    b"\x81": Machine._new_object,
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
        raise Refused("has a dict item without a value")
    return list(zip(items[::2], items[1::2]))
