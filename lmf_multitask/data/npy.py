"""``.npy`` arrays from outside: no pickles, and no size is believed before it has been checked.

numpy's own parser evaluates the header as Python, which is not safe in threads.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from lmf_multitask.errors import DataError
from lmf_multitask.files import open_regular

_LONGEST_HEADER = 10_000
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[a-zA-Z]\d*)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d, ]*)\),?\s*\}\s*"
)


@dataclass(frozen=True)
class Header:
    """What an ``.npy`` header announces."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Size of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Reads the header of an array; the file is then at its first number.

    Raises:
        ValueError: it is no array of plain numbers or texts.
    """
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("it is not a .npy array")
    length = int.from_bytes(file.read(2 if magic[6] == 1 else 4), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header has {length:,} bytes")
    text = file.read(length).decode("latin-1")
    if "|O" in text:
        raise ValueError("it holds Python objects. Save it as float32")
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError(f"its type is not a plain one: {ascii(text.strip())[:80]}")
    shape = tuple(int(size) for size in match[3].replace(",", " ").split())
    if any(size >= 2**40 for size in shape) or math.prod(shape) >= 2**48 or len(shape) > 4:
        raise ValueError(f"its shape is {str(shape)[:80]}")
    return Header(shape, match[2] == "True", np.dtype(match[1]))


def read_whole(file: IO[bytes], header: Header) -> np.ndarray:
    """The array behind a header.

    Raises:
        ValueError: the file ends too early.
    """
    flat = np.frombuffer(exactly(file, header.bytes), header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def pieces(file: IO[bytes], header: Header, rows: int) -> Iterator[np.ndarray]:
    """The array behind a header, at most `rows` rows at a time.

    Raises:
        ValueError: the file ends too early.
    """
    count, row = header.shape[0], math.prod(header.shape[1:]) * header.dtype.itemsize
    # in Fortran's order the bytes of a row are not adjacent: only the whole array can be read
    whole = read_whole(file, header) if header.fortran else None
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        if whole is not None:
            yield whole[start:stop]
        else:
            raw = exactly(file, (stop - start) * row)
            yield np.frombuffer(raw, header.dtype).reshape((stop - start, *header.shape[1:]))


def exactly(file: IO[bytes], size: int) -> bytes:
    """The next bytes of a file.

    Raises:
        ValueError: there are fewer.
    """
    raw = file.read(size)
    if len(raw) != size:
        raise ValueError(f"it announces {size:,} bytes and ends after {len(raw):,}")
    return raw


def read_features(path: Path) -> tuple[np.ndarray, os.stat_result]:
    """The numbers of a small file, `[D]` or `[L, D]`, and what the file was when it was read.

    Raises:
        DataError: it is missing, damaged, or holds anything but numbers of these shapes.
    """
    with open_regular(path) as file:
        about = os.fstat(file.fileno())
        try:
            header = read_header(file)
            if header.bytes > about.st_size:  # before the memory is taken
                raise ValueError(f"it announces {header.bytes:,} bytes and has {about.st_size:,}")
            if header.dtype.kind not in "fiub" or len(header.shape) not in (1, 2) or 0 in header.shape:
                raise ValueError(f"it is {header.dtype} {list(header.shape)}")
            return read_whole(file, header), about
        except (ValueError, TypeError) as error:
            reason = str(error).rstrip(".")
            raise DataError(
                f"{path}: must be an .npy array of numbers [features] or [steps, features], but {reason}."
            ) from None
