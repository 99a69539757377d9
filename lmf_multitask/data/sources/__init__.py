"""File layouts: each module of this folder reads one, and every command opens data through `open_source`.

To add a layout, add a module with a subclass of `Source`; nothing else names it.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from lmf_multitask.data.candidate import Candidate, Reading, naming
from lmf_multitask.data.cleaning import shorten
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.modality import MODALITIES, as_float32
from lmf_multitask.data.schema import GROUP_COLUMNS, KNOWN_TARGETS, LONGEST_ID, SPLITS
from lmf_multitask.data.targets import BINARY
from lmf_multitask.errors import DataError
from lmf_multitask.files import open_regular, sha256_of

Block = tuple[list[str], dict[str, np.ndarray]]
"""Ids of n clips, and modality -> float32 `[n, D]` or `[n, L, D]`."""

SOURCES: dict[str, type[Source]] = {}
"""Name of a layout -> the class that reads it; complete once `open_source` has been called."""

ALL = "all"
"""The one split of a file that has no splits."""


class Source(ABC):
    """A data file or folder whose structure has been checked; features and labels are read when asked for.

    A subclass checks the structure in `__init__` and sets `emotions`; it sets the sizes in `scan`. It implements
    `recognises`, `_read` and `labels`.

    Attributes:
        path: of the file or folder.
        reading: what the user said.
        emotions: names of the T label columns; empty if the file has no labels.
        kinds: name of a label column -> kind of its task, where the user or the layout says so; the values decide about others.
        ranges: name of a real-valued label column -> its smallest and largest possible value, where they are known.
        split_names: names of the opened splits.
        splits: the same -> N; a file without splits has ``all``.
        shapes: modality -> shape of one clip, `(D,)` or `(L, D)`; without modalities that the file does not have.
        dtypes: modality -> the type in which it is stored.
        notes: what was decided about the file, one sentence each.
        label_column: which of the two columns of one-hot labels means "present"; None for other kinds of labels. May be
            set by `labels`.
        cut: split -> modality -> number of clips that `blocks` has shortened to ``max_length``.
    """

    layout: ClassVar[str]
    """What the file is, as the end of "must be ..."."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "layout" in cls.__dict__:
            SOURCES[cls.__module__.rpartition(".")[2]] = cls

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Remembers the path; subclasses do the rest."""
        self.path, self.reading = candidate.path, reading
        self.emotions: list[str] = []
        self.split_names: list[str] = []
        self.splits: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.notes: list[str] = []
        self.label_column: int | None = None
        self.kinds = dict(reading.kinds)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.cut: dict[str, Counter[str]] = {}
        self._files: dict[Path, tuple[BinaryIO, os.stat_result]] = {}
        if candidate.file is not None and candidate.on_disk:
            self._files[self.path] = (candidate.file, os.fstat(candidate.file.fileno()))

    @classmethod
    @abstractmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether a file or folder has this layout; the content is checked later.

        Raises:
            DataError: it nearly has, and the message says what to change.
        """

    @abstractmethod
    def scan(self) -> None:
        """Sets `splits`, `shapes` and `dtypes`; this may have to read the whole file, and is not needed for cached data.

        Raises:
            DataError: sizes differ, or the file is damaged.
        """

    @abstractmethod
    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        """A split in order, at most `rows` clips at a time: ids, if the file has them, and features of any type of number."""

    @abstractmethod
    def labels(self, split: str) -> np.ndarray:
        """Labels of one split: float32 `[N, T]`, 1 present, 0 absent, or real values (see `kinds`); NaN not annotated.

        Raises:
            DataError: the file has no labels, or they are of another kind.
        """

    def groups(self, split: str) -> list[str] | None:
        """Name of the dialogue, video or speaker of each clip of a split, in order; None if the file names none."""
        return None

    @property
    def group_columns(self) -> Sequence[str]:
        """Names of a column, array or key that holds groups."""
        chosen = self.reading.config.group_column
        return GROUP_COLUMNS if chosen is None else (chosen,)

    def column_texts(self, split: str, name: str) -> list[str] | None:
        """A column, array or key of a split as one text per clip, in order; None if there is none of that name."""
        return None

    def positions(self, split: str) -> np.ndarray | None:
        """Row number of each clip in each emotion's own order, int32 `[N, T]`, -1 if it lacks the clip; None: one order."""
        return None

    @property
    def count(self) -> int:
        """Number of clips in the opened splits."""
        return sum(self.splits.values())

    def blocks(self, split: str, rows: int) -> Iterator[Block]:
        """The clips of a split in order, at most `rows` at a time.

        Every modality in `shapes` is in every block: zeros where a split does not have it.

        Raises:
            DataError: the file is damaged.
        """
        done, self.cut[split] = 0, Counter()
        for ids, found in self._read(split, rows):
            if "text" in found and _are_token_ids(found["text"]):
                raise self.fail(
                    "text must be features, such as word vectors, but is BERT's token ids, masks and segments. Compute its "
                    "hidden states, and store them."
                )
            longest = max(map(len, ids or ()), default=0)
            if longest > LONGEST_ID:
                raise self.fail(
                    f"ids must have at most {LONGEST_ID:,} characters, but one has {longest:,}. Shorten it."
                )
            try:
                "".join(ids or ()).encode()
            except UnicodeEncodeError:
                raise self.fail("ids must be text that UTF-8 can express, but one has half a character.") from None
            count = len(next(iter(found.values())))
            features = {
                modality: self._fitted(split, modality, found[modality])
                if modality in found
                else np.zeros((count, *shape), np.float32)
                for modality, shape in self.shapes.items()
            }
            name = "row" if split == ALL else split
            yield ids or [f"{name}-{number:05d}" for number in range(done, done + count)], features
            done += count
        if done != self.splits[split]:
            raise self.fail(f"{split} must have {self.splits[split]:,} rows, but has {done:,}. Check the file.")

    def all_blocks(self, rows: int) -> Iterator[Block]:
        """The clips of all opened splits in order, at most `rows` at a time."""
        for split in self.splits:
            yield from self.blocks(split, rows)

    @property
    def files(self) -> list[Path]:
        """Everything that was opened."""
        return sorted(self._files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(about.st_size for _, about in self._files.values())

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Name of each file (empty for a single one) -> SHA-256 of its content, read through its only handle."""
        return self._file_hashes()

    def _file_hashes(self) -> dict[str, str]:
        found = {}
        for path in self.files:
            file = self._files[path][0]
            file.seek(0)
            found["" if path == self.path else path.relative_to(self.path).as_posix()] = sha256_of(file)
        return found

    def check_unchanged(self) -> None:
        """Compares the files with what they were when they were opened.

        Raises:
            DataError: one of them was written to or replaced.
        """
        for path, (file, before) in self._files.items():
            for now in (os.fstat(file.fileno()), path.stat() if path.exists() else None):
                if now is None or _identity(now) != _identity(before):
                    raise self.fail("must not change while it is read, but did. Start again when it is complete.")

    def fail(self, message: str) -> DataError:
        """An error about this file."""
        return DataError(f"{self.path}: {message}")

    # -- for subclasses

    def _checked_labels(self, values: np.ndarray, where: str) -> np.ndarray:
        """Labels `[N, T]` of `emotions` as float32: real numbers where the kind is stated, or the name is a known target's."""
        found = values.astype(np.float32)
        for t, name in enumerate(self.emotions):
            kind = self.kinds.get(name, None if name in KNOWN_TARGETS else BINARY)
            if kind == BINARY:
                found[:, t] = binary_labels(values[:, t], f"{where} {name!r}")
            elif np.isinf(found[:, t]).any():
                raise DataError(f"{where} {name!r} must be finite, or NaN where not annotated, but has infinities.")
        return found

    def _open(self, path: Path) -> BinaryIO:
        """Opens a file of a folder, once; it must not be a link."""
        if path not in self._files:
            if path.is_symlink():
                raise self.fail(
                    f"must not refer to files outside of it, but {path.name} is a link. Put the file itself there."
                )
            file = open_regular(path)
            self._files[path] = (file, os.fstat(file.fileno()))
        return self._files[path][0]

    def _set_split_names(self, found: Iterable[str]) -> None:
        """Sets `split_names`, in their order, and checks that the wanted one is among those of the file."""
        found, wanted = list(found), self.reading.split
        if not found:
            raise self.fail(f"must have a split among {', '.join(SPLITS)}, but has none. Give its splits these names.")
        if found != [ALL] and wanted is not None and wanted not in found:
            raise self.fail(
                f"must have the split {wanted}, but has {', '.join(found)}. Choose one with --split, or take --all."
            )
        self.split_names = [
            name for name in (*SPLITS, ALL) if name in found and (wanted in (None, name) or name == ALL)
        ]

    def _set_splits(self, counts: Mapping[str, int]) -> None:
        """Sets the number of rows of each split."""
        self.splits = {name: counts[name] for name in self.split_names}
        for name, count in self.splits.items():
            if count == 0:
                what = "the file" if name == ALL else name
                raise self.fail(f"{what} must have at least one row, but is empty. Give every split some clips.")

    def _set_shapes(self, found: Mapping[str, tuple[int, ...]]) -> None:
        """Sets `shapes` from the shapes of one clip as they are stored: a text vector is a sequence of length one."""
        if not found:
            raise self.fail(f"must have {' or '.join(MODALITIES)} in some row, but has none of them. Check the file.")
        for modality in MODALITIES:
            if modality not in found:
                continue
            shape = tuple(found[modality])
            if len(shape) not in (1, 2) or 0 in shape:
                raise self.fail(
                    f"{modality} must have the shape [rows, features] or [rows, steps, features], but has rows of the shape "
                    f"{list(shape)}. Check the features."
                )
            if len(shape) == 1 and MODALITIES[modality].sequence:
                shape = (1, *shape)
            longest = self.reading.config.max_length
            if len(shape) == 2 and longest is not None:
                shape = (min(shape[0], longest), shape[1])
            self.shapes[modality] = shape

    def _fitted(self, split: str, modality: str, values: np.ndarray) -> np.ndarray:
        shape = self.shapes[modality]
        values = as_float32(values)
        if values.ndim < len(shape) + 1:
            values = values[:, None]
        values, cut = shorten(values, shape[0])
        self.cut[split][modality] += cut
        return values


def open_source(
    path: str | Path,
    split: str | None = None,
    *,
    emotions: Sequence[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    config: DataConfig | None = None,
    scan: bool = True,
) -> Source:
    """Opens a data file or folder of any known layout, and checks its structure.

    Args:
        path: the file or folder.
        split: ``train``, ``validation`` or ``test`` opens only this split; None opens all. A file without splits is always
            opened as a whole, as the split ``all``.
        emotions: see `Reading`.
        kinds: see `Reading`.
        config: see `Reading`.
        scan: False leaves out `Source.scan`.

    Raises:
        DataError: it is missing, damaged, hostile or of an unknown layout, or lacks the split.
    """
    candidate = Candidate(path)
    reading = Reading(split, None if emotions is None else tuple(emotions), kinds or {}, config or DataConfig())
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    with naming(candidate.path):
        for layout in SOURCES.values():
            if layout.recognises(candidate):
                source = layout(candidate, reading)
                if scan:
                    source.scan()
                return source
    found = "is a folder with none of these files" if candidate.file is None else _described(candidate.tree)
    if candidate.problem is not None:
        raise candidate.problem
    layouts = "; ".join(layout.layout for layout in SOURCES.values())
    raise DataError(f"{candidate.path}: must be one of the known layouts ({layouts}), but {found}.")


def binary_labels(values: np.ndarray, where: str) -> np.ndarray:
    """Labels of any type of number as float32; -100 becomes NaN.

    Raises:
        DataError: one of them is not 0, 1, -100 or NaN.
    """
    labels = values.astype(np.float64)
    labels[labels == -100] = np.nan
    odd = labels[~(np.isnan(labels) | np.isin(labels, (0.0, 1.0)))].ravel()
    if len(odd):
        raise DataError(
            f"{where} must be 0 or 1, or NaN where not annotated, but holds {odd[0]:g}. Store one binary label per clip. "
            "For real numbers, name the task NAME:regression in --tasks."
        )
    return labels.astype(np.float32)


def _are_token_ids(text: np.ndarray) -> bool:
    """Whether `[n, 3, L]` is what BERT takes (in MMSA ``text_bert``): token ids, a mask of 0 and 1, segments 0 and 1."""
    if text.ndim != 3 or text.shape[1] != 3:
        return False
    flags = text[:, 1:]
    return bool((flags[:, 0, 0] == 1).all() and ((flags == 0) | (flags == 1)).all() and (text[:, 0] % 1 == 0).all())


def _identity(about: os.stat_result) -> tuple[int, int, int, int]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _described(tree: Any) -> str:
    if isinstance(tree, Mapping):
        keys = ", ".join(repr(str(key)[:40]) for key in list(tree)[:9]) or "nothing"
        return f"is a pickle of a dict that holds {keys}"
    return f"is a pickle of a {type(tree).__name__}"
