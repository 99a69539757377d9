"""``.npz`` files: arrays ``audio``, ``video``, ``text``; optionally ``id``, ``split`` and labels.

An ``.npz`` file is a zip archive of ``.npy`` files. It is read in pieces, without pickles and without trusting its sizes:
numpy's own loader reads whole arrays, and the sizes that an archive declares may be wrong (a zip bomb). No array is built
before its header has been checked, and no more is unpacked than the header announces and the limit allows.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO

import numpy as np

from lmf_multitask.data.schema import GROUP_COLUMNS, KNOWN_EMOTIONS, emotion_of, find_split, rename_modalities
from lmf_multitask.data.sources import ALL, Candidate, Reading, Source, binary_labels, texts_of
from lmf_multitask.errors import DataError

_MOST_MEMBERS = 300
_MOST_TEXT = 4096  # bytes per row of id, split and emotions
_LONGEST_HEADER = 10_000
_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[a-zA-Z]\d*)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([\d, ]*)\),?\s*\}\s*"
)


@dataclass(frozen=True)
class _Header:
    """What an ``.npy`` header announces."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NpzSource(Source):
    """The clips of one ``.npz`` file.

    Labels are ``labels`` `[N, T]` with their names in ``emotions`` `[T]`, or one 0/1 array `[N]` per emotion. ``split`` is one
    name of a split per row.
    """

    layout = "an .npz file with audio, video or text"

    def __init__(self, candidate: Candidate, reading: Reading, limit: int | None = None) -> None:
        """Reads and checks the headers.

        Args:
            candidate: the file.
            reading: what the user said.
            limit: most bytes of features when unpacked; None: any number.

        Raises:
            DataError: it is damaged, has no modality, holds Python objects, or is over the limit.
        """
        super().__init__(candidate, reading)
        assert candidate.file is not None
        try:
            self._archive = zipfile.ZipFile(candidate.file)
        except (zipfile.BadZipFile, EOFError, ValueError, OSError):
            raise self.fail("must be an .npz file, but is not a zip archive. Write it with numpy.savez.") from None
        members = self._archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise self.fail(f"must hold at most {_MOST_MEMBERS} arrays, but holds {len(members)}.")
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        self._names = rename_modalities(list(self._members), str(self.path))
        self._headers = {modality: self._number_header(name) for modality, name in self._names.items()}
        self._set_shapes({modality: header.shape[1:] for modality, header in self._headers.items()})
        counts = {modality: header.shape[0] for modality, header in self._headers.items()}
        if len(set(counts.values())) > 1:
            raise self.fail(f"audio, video and text must have the same number of rows, but have {counts}.")
        self._rows = next(iter(counts.values()))
        size = sum(header.bytes for header in self._headers.values())
        if limit is not None and size > limit:
            raise self.fail(f"must hold at most {limit:,} bytes of numbers, but holds {size:,}. Send fewer rows.")
        self._ids = self._texts("id")
        self._split = self._split_of_rows()
        self._set_split_names([ALL] if self._split is None else dict.fromkeys(self._split))
        self._label_names = self._find_labels()

    @classmethod
    def from_bytes(cls, file: BinaryIO, name: str, limit: int | None = None) -> NpzSource:
        """The clips in an open file.

        Args:
            file: its content.
            name: what to call it in messages.
            limit: most bytes of features when unpacked; None: any number.

        Raises:
            DataError: see above.
        """
        source = cls(Candidate(name, file), Reading(), limit)
        source.scan()
        return source

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a zip archive with ``.npy`` files."""
        if not candidate.start.startswith(b"PK\x03\x04") or candidate.file is None:
            return False
        try:
            names = zipfile.ZipFile(candidate.file).namelist()
        except (zipfile.BadZipFile, EOFError, ValueError, OSError):
            return True  # opening it says what is wrong
        return any(name.endswith(".npy") for name in names)

    def scan(self) -> None:
        """See `Source.scan`."""
        self.dtypes = {modality: str(header.dtype) for modality, header in self._headers.items()}
        self._set_splits(
            {name: self._rows if self._split is None else int((self._split == name).sum()) for name in self.split_names}
        )

    # -- rows

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        pieces = {modality: self._pieces(name, self._headers[modality], rows) for modality, name in self._names.items()}
        for start in range(0, self._rows, rows):
            features = {modality: next(piece) for modality, piece in pieces.items()}
            chosen = slice(start, start + rows)
            names = None if self._ids is None else self._ids[chosen]
            if self._split is not None:
                kept = np.flatnonzero(self._split[chosen] == split)
                if not len(kept):
                    continue
                features = {modality: values[kept] for modality, values in features.items()}
                names = names and [names[row] for row in kept]
            yield names, features

    def column_texts(self, split: str, name: str) -> list[str] | None:
        """See `Source.column_texts`."""
        if name not in self._members:
            return None
        with self._reading(name), self._archive.open(self._members[name]) as file:
            header = self._header(file)
        if header.dtype.kind in "iu":
            whole = next(self._pieces(name, header, self._rows))
            texts = np.array(texts_of(whole, self._rows, f"{self.path}: {name}"))
        else:
            texts = np.array(self._texts(name))
        return (texts if self._split is None else texts[self._split == split]).tolist()

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if not self.emotions:
            arrays = ", ".join(sorted(self._members)[:12])
            raise self.fail(
                f"must have the arrays 'labels' and 'emotions', or one 0/1 array per emotion, but has {arrays}."
            )
        columns = []
        for name in self._label_names:
            header = self._number_header(name)
            if header.shape[:1] != (self._rows,) or len(header.shape) > 2:
                raise self.fail(f"{name} must have one row per clip, but has the shape {list(header.shape)}.")
            whole = next(self._pieces(name, header, self._rows)).reshape(self._rows, -1)
            columns.append(binary_labels(whole, f"{self.path}: {name}"))
        labels = np.concatenate(columns, axis=1)
        if labels.shape[1] != len(self.emotions):
            raise self.fail(
                f"labels must have one column per emotion, but have {labels.shape[1]} for {len(self.emotions)} names."
            )
        return labels if self._split is None else labels[self._split == split]

    def _find_labels(self) -> list[str]:
        """Names of the arrays with labels; sets `emotions`."""
        group_names = GROUP_COLUMNS if self.reading.group_column is None else (self.reading.group_column,)
        others = [
            name
            for name in self._members
            if name not in {*self._names.values(), "id", "split", "emotions", "labels", *group_names}
        ]
        if "labels" in self._members:
            names = self._texts("emotions", rows=None) or self.reading.emotions
            self.emotions = [emotion_of(name) for name in names or ()]
            label_names = ["labels"]
        else:
            wanted = {*KNOWN_EMOTIONS, *(self.reading.emotions or ())}
            label_names = [name for name in others if name.lower() in KNOWN_EMOTIONS or name in wanted]
            self.emotions = [emotion_of(name) for name in label_names]
        if len(set(self.emotions)) != len(self.emotions):
            raise self.fail(f"emotions must be different, but got {', '.join(self.emotions)[:80]}. Rename them.")
        ignored = [name for name in others if name not in label_names]
        if ignored:
            self.notes.append(f"ignored arrays: {', '.join(map(ascii, sorted(ignored)[:12]))}")
        return label_names

    def _split_of_rows(self) -> np.ndarray | None:
        names = self._texts("split")
        if names is None:
            return None
        splits = [find_split(name) for name in names]
        if None in splits:
            raise self.fail(
                f"split must be train, validation or test in every row, but is {ascii(names[splits.index(None)])[:60]}."
            )
        return np.array(splits)

    def _texts(self, name: str, rows: int | None = -1) -> list[str] | None:
        """An array of short texts, one per row (or any number, for None); None if the file has no such array."""
        if name not in self._members:
            return None
        with self._reading(name), self._archive.open(self._members[name]) as file:
            header = self._header(file)
            expected = self._rows if rows == -1 else header.shape[0] if header.shape else -1
            if header.dtype.kind != "U" or header.shape != (expected,) or not 0 < header.dtype.itemsize <= _MOST_TEXT:
                raise self.fail(
                    f"{name} must be one short text per row, but is {header.dtype} {list(header.shape)}. Leave it out."
                )
            return np.frombuffer(self._exactly(file, header.bytes, name), header.dtype).tolist()

    # -- one member of the archive

    def _number_header(self, name: str) -> _Header:
        with self._reading(name), self._archive.open(self._members[name]) as file:
            header = self._header(file)
        if header.dtype.kind not in "fiub":
            raise self.fail(f"{name} must be an array of numbers, but holds {header.dtype}. Save it as float32.")
        return header

    @staticmethod
    def _header(file: IO[bytes]) -> _Header:
        """Reads an ``.npy`` header; numpy's own parser evaluates it as Python, which is not safe in threads."""
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
        dtype = np.dtype(match[1])
        if any(size >= 2**40 for size in shape) or math.prod(shape) >= 2**48 or len(shape) > 4:
            raise ValueError(f"its shape is {str(shape)[:80]}")
        return _Header(shape, match[2] == "True", dtype)

    def _pieces(self, name: str, header: _Header, rows: int) -> Iterator[np.ndarray]:
        with self._reading(name), self._archive.open(self._members[name]) as file:
            self._header(file)
            count, row = header.shape[0], math.prod(header.shape[1:]) * header.dtype.itemsize
            whole = None
            if header.fortran:  # the bytes of a row are not adjacent: only the whole array can be read
                whole = np.frombuffer(self._exactly(file, header.bytes, name), header.dtype).reshape(
                    header.shape, order="F"
                )
            for start in range(0, count, rows):
                stop = min(start + rows, count)
                if whole is not None:
                    yield whole[start:stop]
                else:
                    raw = self._exactly(file, (stop - start) * row, name)
                    yield np.frombuffer(raw, header.dtype).reshape((stop - start, *header.shape[1:]))

    def _exactly(self, file: IO[bytes], size: int, what: str) -> bytes:
        raw = file.read(size)
        if len(raw) != size:
            raise self.fail(f"{what} must have the {size:,} bytes that it announces, but ends after {len(raw):,}.")
        return raw

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turns the exceptions of zipfile and numpy about a damaged archive into one line."""
        try:
            yield
        except DataError:
            raise
        except (
            zipfile.BadZipFile,
            zlib.error,
            ValueError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
            TypeError,
        ) as error:
            reason = " ".join(str(error).split()).rstrip(".")[:120] or type(error).__name__
            raise self.fail(f"{what} must be a whole .npy array of numbers, but {reason}.") from None
