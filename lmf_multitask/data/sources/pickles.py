"""What the layouts of pickles have in common: arrays and texts of a parsed pickle, and labels in all their forms.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lmf_multitask.data.modality import as_float32
from lmf_multitask.data.schema import LONGEST_ID, emotion_of, find_split, rename_modalities
from lmf_multitask.data.sources import Candidate, Reading, Source, binary_labels
from lmf_multitask.data.stored_array import StoredArray, to_array
from lmf_multitask.errors import DataError

REGRESSION = "regression"
SIX_WAY = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
"""Classes 0 to 5 of IEMOCAP in conv-emotion and what followed it; its four-way files have the first four."""

_MOST_CLASSES = 50

Array = StoredArray | np.ndarray


class PickleSource(Source):
    """A source of one pickle."""

    _label_problem: DataError | None = None

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Remembers the size of the content, which bounds everything that is made of it."""
        super().__init__(candidate, reading)
        self._size = candidate.size

    # -- parts of the pickle

    def _array(self, value: object, where: str) -> Array:
        """A part of the pickle as an array of numbers, which stays in the file if it is one there."""
        if not isinstance(value, StoredArray) or value.objects is not None:
            try:
                value = to_array(value, limit=self._size)
            except ValueError as error:
                raise self.fail(
                    f"{where} must be an array of numbers, but {error}. Store it as a numpy array."
                ) from None
        if value.dtype.kind not in "biuf":
            kind = {"S": "bytes", "U": "text", "c": "complex numbers"}[value.dtype.kind]
            raise self.fail(f"{where} must be an array of numbers, but holds {kind} ({value.dtype}). Convert it.")
        return value

    def _named_splits(self, tree: Mapping, where: str = "the file") -> dict[str, Any]:
        """Split -> what a dict holds under one of its names; other keys are noted."""
        found: dict[str, Any] = {}
        ignored = []
        for key, content in tree.items():
            split = find_split(key)
            if split is None:
                ignored.append(key)
            elif split in found:
                raise self.fail(f"{where} must have each split once, but has {split} twice. Remove one.")
            else:
                found[split] = content
        note = f"ignored keys: {shown_keys(ignored)}"
        if ignored and note not in self.notes:
            self.notes.append(note)
        return found

    def _features(self, content: object, where: str, others: Collection[str]) -> dict[str, tuple[str, Array]]:
        """Modality -> key and array `[N, D]` or `[N, L, D]`, of one split."""
        if not isinstance(content, Mapping):
            raise self.fail(f"{where} must be a dict of features, but is {kind_of(content)}. Check the file.")
        names = [key for key in content if isinstance(key, str) and key not in others]
        found = {
            modality: (key, self._array(content[key], f"{where}[{key!r}]"))
            for modality, key in rename_modalities(names, where).items()
        }
        for key, array in found.values():
            if len(array.shape) not in (2, 3) or 0 in array.shape[1:]:
                raise self.fail(
                    f"{where}[{key!r}] must have the shape [rows, features] or [rows, steps, features], but has "
                    f"{list(array.shape)}. Check the features."
                )
        counts = {key: array.shape[0] for key, array in found.values()}
        if len(set(counts.values())) > 1:
            raise self.fail(f"{where} must have the same number of rows in every feature, but has {counts}.")
        if 0 in counts.values():
            raise self.fail(f"{where} must have at least one row, but is empty. Give every split some clips.")
        return found

    def _check_shapes(self, parts: Mapping[str, Mapping[str, Array]]) -> None:
        """Checks that a modality has one shape in all parts of the file that have it; sets shapes and types.

        Args:
            parts: name of a part -> modality -> its array.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        types: dict[str, set[str]] = {}
        origin: dict[str, str] = {}
        for where, arrays in parts.items():
            for modality, array in arrays.items():
                shape = tuple(array.shape[1:])
                if shapes.setdefault(modality, shape) != shape:
                    raise self.fail(
                        f"{modality} must have one size everywhere, but has {list(shapes[modality])} in {origin[modality]} and "
                        f"{list(shape)} in {where}. Extract the features alike."
                    )
                origin.setdefault(modality, where)
                types.setdefault(modality, set()).add(str(array.dtype))
        self.dtypes = {modality: " and ".join(sorted(kinds)) for modality, kinds in types.items()}
        self._set_shapes(shapes)

    def _numbers(self, value: object, where: str) -> np.ndarray:
        """A small part of the pickle as numbers in memory, float64."""
        array = self._array(value, where)
        return (array.read() if isinstance(array, StoredArray) else array).astype(np.float64)

    def _texts(self, value: object, rows: int) -> list[list[str]] | None:
        """A part of the pickle as short texts, one or several per row; None if it is something else.

        Numbers become text; bytes are decoded.
        """
        if isinstance(value, StoredArray):
            if value.shape[:1] != (rows,) or 0 in value.shape or math.prod(value.shape) > 8 * rows:
                return None
            shape, flat = value.shape, value.objects
            if flat is None:
                flat = value.read().ravel().tolist()
            width = math.prod(shape[1:])
            value = [flat[row * width : (row + 1) * width] for row in range(rows)]
        if not isinstance(value, (list, tuple)) or len(value) != rows:
            return None
        found, left = [], max(self._size, 1 << 20)
        for row in value:
            if isinstance(row, StoredArray):
                row = row.read().ravel()[:8].tolist() if row.objects is None else row.objects
            parts = row if isinstance(row, (list, tuple)) else [row]
            texts = [_text(part) for part in parts[:8]]
            if not texts or None in texts:
                return None
            left -= sum(len(text) for text in texts if text is not None)
            if left < 0:  # a short pickle can name a long text repeatedly
                return None
            found.append([text for text in texts if text is not None])
        return found

    # -- labels

    @contextmanager
    def _finding_labels(self) -> Iterator[None]:
        """Labels that cannot be used are no error before they are asked for."""
        try:
            yield
        except DataError as error:
            self._label_problem, self.emotions = error, []
            self.notes.append(f"labels cannot be used: {str(error).removeprefix(f'{self.path}: ')}")

    def _names_of_columns(self, count: int, default: Sequence[str] = (), taken: Iterable[str] = ()) -> list[str]:
        """Names of `count` label columns that the file does not name: the user's, else the layout's."""
        wanted = [name for name in self.reading.emotions or () if name not in taken]
        if len(wanted) == count and not set(wanted) <= set(default):
            return [emotion_of(name) for name in wanted]
        if not default:
            raise self.fail(
                f"the {count} label columns must have names, but the file has none. Give them in their order with --emotions."
            )
        return [emotion_of(name) for name in default]

    def _classes(self, values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Class numbers `[N]` as one binary task per class; numbers below 0 and NaN are not annotated."""
        known = np.isfinite(values) & (values >= 0)
        return {name: np.where(known, (values == index).astype(np.float64), np.nan) for index, name in enumerate(names)}

    def _count_classes(self, values: np.ndarray, where: str) -> int:
        known = values[np.isfinite(values)]
        if (known % 1).any() or not len(known) or known.max() < 0 or known.max() >= _MOST_CLASSES:
            raise self.fail(
                f"{where} must be class numbers from 0 to {_MOST_CLASSES - 1}, but are not. Check the file."
            )
        return int(known.max()) + 1

    def _present(self, labels: np.ndarray, where: str) -> np.ndarray:
        """One-hot pairs `[N, T, 2]` as `[N, T]`, 1 where the column that means "present" is set; notes which one that is."""
        labels = self._one_hot_pairs(labels, where)
        self.label_column, reason = present_column(labels, self.reading.config.label_column)
        self.notes.append(f"labels: {reason}")
        return labels[:, :, self.label_column]

    def _one_hot_pairs(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Checks one-hot pairs `[N, ..., 2]`, and gives them as float32, NaN where not annotated."""
        labels = binary_labels(labels, f"{self.path}: {where}")
        wrong = np.argwhere(~np.isnan(labels).any(axis=-1) & (labels.sum(axis=-1) != 1))
        if len(wrong):
            row = labels[tuple(wrong[0])].astype(int).tolist()
            raise self.fail(f"{where} must be one-hot in every row, but row {wrong[0][0]} is {row}. Check the labels.")
        return labels


def present_column(labels: np.ndarray, given: int | None) -> tuple[int, str]:
    """Which of the two columns of one-hot labels means "present", and why.

    Args:
        labels: `[N, T, 2]`, 0 and 1, NaN = not annotated.
        given: what the user says.
    """
    if given is not None:
        return given, f"column {given} = present, as set by label_column"
    full, count = labels[~np.isnan(labels).any(axis=(1, 2))], labels.shape[1]
    if count >= 3 and len(full):
        exclusive = [bool((full[:, :, column].sum(axis=1) == 1).all()) for column in (0, 1)]
        if exclusive[0] != exclusive[1]:
            column = exclusive.index(True)
            return column, f"column {column} = present: in every clip it is set for exactly one of the {count} emotions"
    return 1, (
        "column 1 = present, by convention: nothing in the file proves it. Set --data.label_column 0 if it means absent"
    )


def draw_validation(groups: Sequence[str]) -> list[str]:
    """A tenth of the groups (one at least), drawn by their names: the same on every machine and in any order."""
    drawn = sorted(groups, key=lambda name: hashlib.sha256(f"0:{name}".encode()).digest())
    return drawn[: max(1, round(len(groups) / 10))]


def row_reader(stored: Array) -> Callable[[int, int], np.ndarray]:
    """(start, stop) -> float32 rows; an array that can only be read as a whole is read once."""
    if isinstance(stored, StoredArray) and not stored.has_rows:
        stored = stored.read()

    def read(start: int, stop: int) -> np.ndarray:
        rows = stored.read_rows(start, stop) if isinstance(stored, StoredArray) else stored[start:stop]
        return as_float32(rows)

    return read


def kind_of(value: object) -> str:
    """What a part of a pickle is, for a message."""
    return "an array" if isinstance(value, StoredArray) else f"a {type(value).__name__}"


def shown_keys(keys: Iterable[object]) -> str:
    """Keys of a file for one line."""
    found = [ascii(str(key))[1:-1][:40] for key in keys]
    return ", ".join(found[:12]) + (" and more" if len(found) > 12 else "")


def group_of(parts: Sequence[str]) -> str | None:
    """The video in the id of a clip, where the id has one of the usual forms: several parts, VIDEO$_$CLIP, VIDEO[CLIP]."""
    if len(parts) > 1:
        return parts[0]
    match = re.fullmatch(r"(.+?)(?:\$_\$\d+|\[\d+\])", parts[0])
    return match and match[1]


def _text(value: Any) -> str | None:
    """A name, number or nothing (null) as text; None for anything else, or a long text."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18:
        value = f"{value:g}" if isinstance(value, float) else str(value)
    return value if isinstance(value, str) and len(value) <= LONGEST_ID else None
