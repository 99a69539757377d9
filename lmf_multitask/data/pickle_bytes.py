"""The bytes of a pickle: numbers, lines and payloads, inside the limits of the file and of its frames.

Payloads above `LARGE` bytes stay in the file until they are read.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from lmf_multitask.data.stored_array import Content, Refused, Span, unescape

LARGE = 1 << 16
"""Payloads above this many bytes are left in the file."""

MOST_OBJECTS = 5_000_000
"""More single objects than this are refused: large data must be in arrays."""


class PickleBytes:
    """Reads the arguments of a pickle's instructions."""

    def __init__(self, content: Content) -> None:
        self._content, self._file, self._size = content, content.file, content.size
        self._frame_end = 0
        self._objects = 0
        self._made_bytes = 0

    def _count(self, objects: int) -> None:
        self._objects += objects
        if self._objects > MOST_OBJECTS:
            raise Refused(f"holds more than {MOST_OBJECTS:,} single objects; store the features as numpy arrays")

    def _make_bytes(self, count: int) -> None:
        self._made_bytes += count
        if self._made_bytes > self._size:
            raise Refused("repeats its parts too often")

    def _take(self, count: int) -> bytes:
        self._check_left(count)
        return self._file.read(count)

    def _check_left(self, count: int) -> None:
        start = self._file.tell()
        if count < 0 or count > self._size - start:
            raise Refused(f"ends too early: {count:,} bytes are announced, {self._size - start:,} are left")
        self._check_frame(start, start + count)

    def _check_frame(self, start: int, end: int) -> None:
        """Python's unpicklers disagree on an argument that crosses the end of its frame: no pickler writes one."""
        if start < self._frame_end < end:
            raise Refused("has an argument that crosses the end of a frame")

    def _begin_frame(self) -> None:
        size = self._number("<Q")
        if self._file.tell() < self._frame_end:
            raise Refused("begins a frame inside another one")
        self._frame_end = 0
        self._check_left(size)
        self._frame_end = self._file.tell() + size

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        start = self._file.tell()
        line = self._file.readline(400)
        if not line.endswith(b"\n"):
            raise Refused("ends too early" if len(line) < 400 else "has a line that is too long")
        self._check_frame(start, start + len(line))
        return line[:-1]

    def _payload(self, count: int, coding: str | None = None) -> bytes | str | Span:
        """The next bytes (or text): left in the file if they are many."""
        if count <= LARGE:
            raw = self._take(count)
            return raw.decode(coding, "surrogatepass") if coding else raw
        self._check_left(count)
        span = Span(self._content, self._file.tell(), count, coding)
        self._file.seek(count, os.SEEK_CUR)
        return span

    def _payload_line(self, coding: str, quoted: bool) -> bytes | str | Span:
        """The rest of the line, as protocol 0 writes bytes and text."""
        start = self._file.tell()
        line = self._file.readline(LARGE + 3)  # two quotes and the line's end
        size, end = len(line), line[-2:]
        while not end.endswith(b"\n"):
            more = self._file.readline(1 << 20)
            if not more:
                raise Refused("ends too early")
            size, end = size + len(more), (end + more)[-2:]
        self._check_frame(start, start + size)
        size -= 1
        if quoted:
            self._file.seek(start)
            quote = self._file.read(1)
            self._file.seek(start + size + 1)
            if size < 2 or quote not in (b"'", b'"') or end[:1] != quote:
                raise Refused("has text without quotes")
            start, size = start + 1, size - 2
        if size > LARGE:
            return Span(self._content, start, size, coding)
        raw = line[1 : size + 1] if quoted else line[:size]
        return unescape(raw) if coding == "repr" else raw.decode(coding)
