"""``.npz`` files: arrays ``audio``, ``video``, ``text``; optionally ``id``, ``split`` and labels.

An ``.npz`` file is a zip archive of ``.npy`` files. It is read in pieces, without pickles and without trusting its sizes:
numpy's own loader reads whole arrays, and the sizes that an archive declares may be wrong (a zip bomb). No array is built
before its header has been checked, and no more is unpacked than the header announces and the limit allows.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from lmf_multitask.data.label_columns import ID_COLUMNS, NUMBER, OTHER, TEXT, ColumnSource
from lmf_multitask.data.npy import Header, exactly, pieces, read_header
from lmf_multitask.data.schema import find_split, rename_modalities
from lmf_multitask.data.sources import ALL, Candidate, Reading
from lmf_multitask.errors import DataError

_DAMAGES = (
    zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError, TypeError
)  # fmt: skip
_MOST_MEMBERS = 300
_MOST_CLASS_ROWS = 10_000_000
_MOST_TEXT = 4096  # bytes per row of texts


class NpzSource(ColumnSource):
    """The clips of one ``.npz`` file.

    Labels are ``labels`` `[N, T]` with their names in ``emotions`` `[T]`, or arrays `[N]` as `label_columns` finds them. ``split``
    is one name of a split per row.
    """

    layout = "an .npz file with audio, video or text"
    parts = "arrays"

    def __init__(self, candidate: Candidate, reading: Reading, limit: int | None = None) -> None:
        """Reads and checks the headers.

        Args:
            candidate: the file.
            reading: what the user said.
            limit: most bytes of features when unpacked; None: any number.
        """
        super().__init__(candidate, reading)
        assert candidate.file is not None
        try:
            self._archive = zipfile.ZipFile(candidate.file)
        except _DAMAGES:
            raise self.fail("must be an .npz file, but is not a zip archive. Write it with numpy.savez.") from None
        members = self._archive.infolist()
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise self.fail("must be stored or deflated, but is compressed in another way. Write it with numpy.savez.")
        if len(members) > _MOST_MEMBERS:
            raise self.fail(f"must hold at most {_MOST_MEMBERS} arrays, but holds {len(members)}.")
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        self._names = rename_modalities(list(self._members), str(self.path), reading.config.chosen)
        self._headers = {modality: self._number_header(name) for modality, name in self._names.items()}
        self._set_shapes({modality: header.shape[1:] for modality, header in self._headers.items()})
        counts = {modality: header.shape[0] for modality, header in self._headers.items()}
        if len(set(counts.values())) > 1:
            raise self.fail(f"audio, video and text must have the same number of rows, but have {counts}.")
        self._rows = next(iter(counts.values()))
        size = sum(header.bytes for header in self._headers.values())
        if limit is not None and size > limit:
            raise self.fail(f"must hold at most {limit:,} bytes of numbers, but holds {size:,}. Send fewer rows.")
        by_name = {name.lower(): name for name in self._members}
        ids = [by_name[name] for name in ID_COLUMNS if name in by_name]
        self._id_name = next((name for name in ids if name == "id" or self._kind(name) == TEXT), None)
        self._ids = None if self._id_name is None else self._texts(self._id_name)
        self._split = self._split_of_rows()
        self._set_split_names([ALL] if self._split is None else dict.fromkeys(self._split))
        used = {
            *self._names.values(),
            self._id_name,
            reading.config.split_column or "split",
            *self.group_columns,
            "emotions",
        }
        self._find_labels({name: self._kind(name) for name in self._members if name not in used})

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
        except _DAMAGES:
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
        if self._kind(name) == NUMBER:
            texts = next(self._pieces(name, self._number_header(name), self._rows)).reshape(-1).astype(str)
        else:
            texts = np.array(self._texts(name))
        return (texts if self._split is None else texts[self._split == split]).tolist()

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if self._label_problem is not None:
            raise self._label_problem
        if self._classes is not None:
            labels = self._classes.labels(self._class_values(self._label_columns[0]))
        else:
            labels = np.concatenate([self._label_values(name) for name in self._label_columns], axis=1)
        labels = labels if self._split is None else labels[self._split == split]
        return self._named_labels(labels, f"{self.path}: labels of")

    def _label_values(self, name: str) -> np.ndarray:
        header = self._number_header(name)
        if header.shape[:1] != (self._rows,) or len(header.shape) > 2:
            raise self.fail(f"{name} must have one row per clip, but has the shape {list(header.shape)}.")
        return next(self._pieces(name, header, self._rows)).reshape(self._rows, -1)

    def _kind(self, name: str) -> str:
        """What an array holds, see `label_columns`."""
        try:
            with self._archive.open(self._members[name]) as file:
                header = read_header(file)
        except _DAMAGES:
            return OTHER
        if header.shape not in ((self._rows,), (self._rows, 1)):
            return OTHER
        return NUMBER if header.dtype.kind in "fiub" else TEXT if header.dtype.kind == "U" else OTHER

    def _nested_names(self, kinds: Mapping[str, str]) -> Sequence[str] | None:
        named = self._texts("emotions", rows=None) if "labels" in kinds else None
        return named or self.reading.emotions or () if named or kinds.get("labels") == OTHER else None

    def _classes_in(self, column: str) -> tuple[list[object], None]:
        return self._class_values(column).tolist(), None

    def _class_values(self, name: str) -> np.ndarray:
        if self._rows > _MOST_CLASS_ROWS:
            raise self.fail(
                f"{name} must have at most {_MOST_CLASS_ROWS:,} rows, but has {self._rows:,}. Check the file."
            )
        if self._kind(name) == TEXT:
            return np.array(self._texts(name), object)
        return next(self._pieces(name, self._number_header(name), self._rows)).reshape(self._rows)

    def _split_of_rows(self) -> np.ndarray | None:
        chosen = self.reading.config.split_column
        if chosen is not None and chosen not in self._members:
            raise self.fail(
                f"must have the array {chosen!r} of data.split_column, but has {', '.join(self._members)[:200]}."
            )
        names = self._texts(chosen or "split")
        if names is None:
            return None
        splits = [find_split(name) for name in names]
        if None in splits:
            raise self.fail(
                f"{chosen or 'split'} must be train, validation or test in every row, but is {ascii(names[splits.index(None)])[:60]}."
            )
        return np.array(splits)

    def _texts(self, name: str, rows: int | None = -1) -> list[str] | None:
        """An array of short texts, one per row (or any number, for None); None if the file has no such array."""
        if name not in self._members:
            return None
        with self._reading(name), self._archive.open(self._members[name]) as file:
            header = read_header(file)
            expected = self._rows if rows == -1 else header.shape[0] if header.shape else -1
            if header.dtype.kind != "U" or header.shape != (expected,) or not 0 < header.dtype.itemsize <= _MOST_TEXT:
                raise self.fail(
                    f"{name} must be one short text per row, but is {header.dtype} {list(header.shape)}. Leave it out."
                )
            return np.frombuffer(exactly(file, header.bytes), header.dtype).tolist()

    # -- one member of the archive

    def _number_header(self, name: str) -> Header:
        with self._reading(name), self._archive.open(self._members[name]) as file:
            header = read_header(file)
        if header.dtype.kind not in "fiub":
            raise self.fail(f"{name} must be an array of numbers, but holds {header.dtype}. Save it as float32.")
        return header

    def _pieces(self, name: str, header: Header, rows: int) -> Iterator[np.ndarray]:
        with self._reading(name), self._archive.open(self._members[name]) as file:
            read_header(file)
            yield from pieces(file, header, rows)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turns the exceptions of zipfile and numpy about a damaged archive into one line."""
        try:
            yield
        except DataError:
            raise
        except _DAMAGES as error:
            reason = " ".join(str(error).split()).rstrip(".")[:120] or type(error).__name__
            raise self.fail(f"{what} must be a whole .npy array of numbers, but {reason}.") from None
