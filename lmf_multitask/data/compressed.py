"""Compressed files: their content in an unnamed temporary file, of bounded size.

What is read from a pickle stays in the file until it is wanted, so the file must be one in which any place can be read.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from lmf_multitask.errors import DataError
from lmf_multitask.files import unnamed_file

_LEAST_LIMIT, _MOST_TIMES = 1 << 28, 100
"""The content may have as many bytes, or as many bytes per byte of the compressed file, whichever is more."""

_PIECE = 1 << 20
_MOST_MEMORY = 1 << 28  # that an xz file may ask for; `xz -9` takes 65 MiB


class _Zlib:
    """zlib's decompressor with the interface of those of bz2 and lzma."""

    def __init__(self, format_bits: int) -> None:
        self._machine = zlib.decompressobj(format_bits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    @property
    def needs_input(self) -> bool:
        return not self._machine.unconsumed_tail

    def decompress(self, raw: bytes, most: int) -> bytes:
        return self._machine.decompress(self._machine.unconsumed_tail + raw, most)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_MOST_MEMORY)


_FORMATS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: _Zlib(31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": _xz,
    b"\x5d\x00\x00": _xz,
    **dict.fromkeys((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"), lambda: _Zlib(15)),
}
"""First bytes of gzip, bzip2, xz, lzma and zlib (which joblib writes); none of them begins a pickle."""


def is_compressed(start: bytes) -> bool:
    """Whether a file that begins with these bytes is compressed in a way that `unpacked` reads."""
    return start.startswith(tuple(_FORMATS))


def unpacked(file: BinaryIO) -> BinaryIO:
    """The content of a compressed file, as a temporary file that has no name and vanishes when it is closed.

    Raises:
        DataError: it is damaged, its content is too large, or there is no space for it.
    """
    file.seek(0, os.SEEK_END)
    limit = max(_LEAST_LIMIT, _MOST_TIMES * file.tell())
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    new = next(new for beginning, new in _FORMATS.items() if start.startswith(beginning))
    try:
        return unnamed_file(_limited(_pieces(file, new), limit))
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"must be unpacked to the temporary folder, but {error.strerror}. Unpack it yourself, or set TMPDIR."
            ) from None
        reason = str(error).rstrip(".").lower()[:80]
        raise DataError(f"must be a whole compressed file, but is damaged ({reason}). Get it again.") from None


def _limited(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            raise DataError(
                f"a compressed file must unpack to at most {_LEAST_LIMIT:,} bytes or {_MOST_TIMES} times its own size, but has "
                "more. Unpack it yourself, if you trust it."
            )
        yield piece


def _pieces(file: BinaryIO, new: Callable[[], Any]) -> Iterator[bytes]:
    """The content, piece by piece; a file may consist of several compressed ones."""
    machine = new()
    while True:
        raw = file.read(_PIECE) if machine.needs_input else b""
        piece = machine.decompress(raw, _PIECE)
        yield piece
        if machine.eof:
            raw = machine.unused_data or file.read(_PIECE)
            if not raw:
                return
            file.seek(-len(raw), 1)
            machine = new()
        elif not raw and not piece:
            raise EOFError("it ends too early")
