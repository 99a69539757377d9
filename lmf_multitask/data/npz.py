"""Reads ``audio``, ``video`` and ``text`` from an ``.npz`` file in pieces, without pickles and without trusting its sizes.

An ``.npz`` file is a zip archive of ``.npy`` files. Neither numpy's loader (whole arrays at once) nor the sizes that the
archive declares (a zip bomb lies) would do for what strangers send. Here no array is built before its header has
been checked, and no more is unpacked than the header announces and the limit allows.

Shape letters: N rows, L words, D feature dimensions.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lmf_multitask.data.schema import present_modalities
from lmf_multitask.errors import DataError

_MOST_MEMBERS = 64


class NpzRows:
    """The clips of one ``.npz`` file.

    Attributes:
        count: N.
        shapes: modality -> shape of its array; without those that the file has not.
    """

    def __init__(self, source: str | Path | BinaryIO, name: str | None = None, limit: int | None = None) -> None:
        """Reads and checks the headers.

        Args:
            source: the file, or its open bytes.
            name: what to call it in messages; None takes the path.
            limit: so many bytes at most in the three arrays together when unpacked; None: any number.

        Raises:
            DataError: it is no such file, has no modality, holds Python objects, or is over the limit.
        """
        self._name = str(source) if name is None else name
        self._source = source
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, EOFError, ValueError):
            raise self._fail("must be an .npz file, but is no zip archive. Write it with numpy.savez.") from None
        except OSError as error:
            raise self._fail(f"must be a readable file, but {error.strerror}. Check the path.") from None
        self._archive = archive
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise self._fail(f"must hold audio, video and text, but holds {len(members)} arrays.")
        self._members = {m.filename.removesuffix(".npy"): m for m in members}
        headers = {modality: self._header(modality) for modality in present_modalities(list(self._members), self._name)}
        self.shapes = {modality: header[0] for modality, header in headers.items()}
        for modality, shape in self.shapes.items():
            rule = "[rows, words, dimensions]" if modality == "text" else "[rows, dimensions]"
            if len(shape) != (3 if modality == "text" else 2) or 0 in shape:
                raise self._fail(f"{modality} must have the shape {rule}, but has {list(shape)}.")
        counts = {modality: shape[0] for modality, shape in self.shapes.items()}
        if len(set(counts.values())) > 1:
            raise self._fail(f"audio, video and text must have the same number of rows, but have {counts}.")
        self.count = next(iter(counts.values()))
        size = sum(math.prod(shape) * dtype.itemsize for shape, _, dtype in headers.values())
        if limit is not None and size > limit:
            raise self._fail(f"must hold at most {limit:,} bytes of numbers, but holds {size:,}. Send fewer rows.")
        self._headers = headers

    def blocks(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Pieces of at most `count` clips: modality -> float32 `[n, D]`, or `[n, L, D]` for text.

        Raises:
            DataError: the archive ends early or is damaged.
        """
        readers = {modality: self._pieces(modality, count) for modality in self.shapes}
        for _ in range(0, self.count, count):
            yield {modality: next(pieces) for modality, pieces in readers.items()}

    def ids(self) -> list[str] | None:
        """The array ``id`` where there is one of as many texts, otherwise None."""
        member = self._members.get("id")
        if member is None:
            return None
        with self._reading("id"), self._archive.open(member) as file:
            shape, _, dtype = self._npy_header(file)
            if dtype.kind != "U" or shape != (self.count,) or not 0 < dtype.itemsize <= 4096:
                raise self._fail(f"id must be one short text per row, but is {dtype} {list(shape)}. Leave it out.")
            raw = self._exactly(file, self.count * dtype.itemsize, "id")
            return np.frombuffer(raw, dtype).tolist()

    # -- one member

    def _fail(self, message: str) -> DataError:
        return DataError(f"{self._name}: {message}")

    def _reading(self, what: str) -> _Damage:
        return _Damage(self._name, what)

    def _header(self, modality: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        with self._reading(modality), self._archive.open(self._members[modality]) as file:
            shape, fortran, dtype = self._npy_header(file)
        if dtype.kind not in "fiu":
            kind = "Python objects" if dtype.hasobject else str(dtype)
            raise self._fail(f"{modality} must be an array of numbers, but holds {kind}. Save it as float32.")
        if any(type(n) is not int or not 0 <= n < 2**40 for n in shape) or math.prod(shape) >= 2**48:
            raise self._fail(f"{modality} must have a possible shape, but has {str(shape)[:80]}.")
        return shape, fortran, dtype

    @staticmethod
    def _npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)  # refuses what it does not know

    def _pieces(self, modality: str, count: int) -> Iterator[np.ndarray]:
        shape, fortran, dtype = self._headers[modality]
        with self._reading(modality), self._archive.open(self._members[modality]) as file:
            self._npy_header(file)
            row = math.prod(shape[1:]) * dtype.itemsize
            if fortran:  # rows are not together: nothing but the whole can be read
                raw = self._exactly(file, shape[0] * row, modality)
                whole = np.frombuffer(raw, dtype).reshape(shape, order="F")
            for start in range(0, shape[0], count):
                rows = min(count, shape[0] - start)
                if fortran:
                    piece = whole[start : start + rows]
                else:
                    raw = self._exactly(file, rows * row, modality)
                    piece = np.frombuffer(raw, dtype).reshape((rows, *shape[1:]))
                with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is cleaned
                    yield np.ascontiguousarray(piece, np.float32)

    def _exactly(self, file: BinaryIO, size: int, what: str) -> bytes:
        raw = file.read(size)
        if len(raw) != size:
            raise self._fail(f"{what} must have the {size:,} bytes that it announces, but ends after {len(raw):,}.")
        return raw


class _Damage:
    """Turns what zip and numpy say of a damaged archive into one line."""

    def __init__(self, name: str, what: str) -> None:
        self._name, self._what = name, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        known = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError)
        if isinstance(error, known) and not isinstance(error, DataError):
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise DataError(f"{self._name}: {self._what} must be a whole .npy array, but {reason}.") from None
