"""bc-LSTM's pickles, one per modality: videos padded to one length, in a folder with files named by their modality.

Each is the tuple (train data `[V, L, D]`, train labels, test data, test labels, L, lengths of train, lengths of test), V being
the number of videos, L the most utterances of one, and labels `[V, L]` class numbers or `[V, L, C]` one-hot. A single file is
read as well: its name tells the modality.

Shape letters: V videos, L utterances of the longest, C classes, D features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.data.modality import MODALITIES, find_modality
from lmf_multitask.data.sources import Candidate, Reading
from lmf_multitask.data.sources.dialogues import Dialogue, DialogueSource
from lmf_multitask.data.sources.pickles import SIX_WAY, Array, kind_of
from lmf_multitask.data.stored_array import StoredArray

_PARTS = 7
_SUFFIXES = (".pickle", ".pkl", ".p")


class PaddedVideos(DialogueSource):
    """The checked content of up to three pickles of padded videos."""

    layout = "bc-LSTM's pickles of 7 parts, one per modality (a folder with text_2way.pickle and so on)"

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Checks the structure of every file, and that they are of the same videos."""
        super().__init__(candidate, reading)
        self._arrays: dict[str, dict[str, Array]] = {"train": {}, "test": {}}
        self._lengths: dict[str, np.ndarray] = {}
        labels: dict[str, Any] = {}
        for modality, path in self._paths(candidate).items():
            part = candidate if candidate.file is not None else Candidate(path, self._open(path))
            if part.tree is None:
                raise part.problem or self.fail(f"{path.name} must be a pickle of 7 parts.")
            self._size = max(self._size, part.size)
            self._take_file(modality, path.name, part.tree, labels)
        self._take({split: self._videos(split, labels[split]) for split in ("train", "test")})
        with self._finding_labels():
            self._find_labels()

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a pickle of 7 such parts, or a folder of pickles named by modalities."""
        if candidate.file is None:
            return candidate.path.is_dir() and bool(_named_files(candidate.path))
        return _is_padded(candidate.tree)

    def _paths(self, candidate: Candidate) -> dict[str, Path]:
        if candidate.file is not None:
            modality = _modality_of(candidate.path)
            if modality is None:
                raise self.fail(
                    f"a pickle of one modality must have {', '.join(MODALITIES)} in its name, but is {self.path.name[:60]}. "
                    "Rename it."
                )
            self.notes.append(f"{modality} only, as the file's name says: give the folder to read all modalities")
            return {modality: candidate.path}
        found: dict[str, Path] = {}
        for modality, path in _named_files(candidate.path):
            if modality in found:
                raise self.fail(f"must have one file for {modality}, but has {found[modality].name} and {path.name}.")
            found[modality] = path
        return found

    def _take_file(self, modality: str, name: str, tree: Any, labels: dict[str, Any]) -> None:
        if not _is_padded(tree):
            raise self.fail(
                f"{name} must be a tuple of 7 parts (train data, train labels, test data, test labels, length, lengths of "
                f"train, lengths of test), but is {kind_of(tree)}. Remove it, or give one file."
            )
        for split, data, own, lengths in (("train", tree[0], tree[1], tree[5]), ("test", tree[2], tree[3], tree[6])):
            array = self._array(data, f"{name}: {split}")
            if len(array.shape) != 3 or 0 in array.shape:
                raise self.fail(
                    f"{name}: {split} must have the shape [videos, utterances, features], but has {list(array.shape)}."
                )
            values = self._numbers(own, f"{name}: labels of {split}")
            counts = self._numbers(lengths, f"{name}: lengths of {split}")
            if (
                counts.shape != array.shape[:1]
                or (counts % 1).any()
                or not ((counts >= 0) & (counts <= array.shape[1])).all()
            ):
                raise self.fail(
                    f"{name}: lengths of {split} must be one number of utterances, at most {array.shape[1]}, for each of the "
                    f"{array.shape[0]} videos."
                )
            if values.shape[:2] != array.shape[:2]:
                raise self.fail(
                    f"{name}: labels of {split} must have the shape [videos, utterances], as the data have."
                )
            known, here = labels.setdefault(split, values), self._lengths.setdefault(split, counts)
            if known.shape != values.shape or not np.array_equal(known, values) or not np.array_equal(here, counts):
                raise self.fail(f"{name}: {split} must have the videos and labels of the other files, but has others.")
            self._arrays[split][modality] = array

    def _videos(self, split: str, labels: np.ndarray) -> list[Dialogue]:
        return [
            Dialogue(
                f"{split}-video-{number:04d}",
                int(length),
                {modality: _Video(array, number) for modality, array in self._arrays[split].items()},
                labels[number, : int(length)],
            )
            for number, length in enumerate(self._lengths[split])
        ]

    def _vectors(self, one: Dialogue, modality: str, value: Any) -> Iterator[tuple[tuple[int, ...], str]]:
        yield from [(tuple(value.array.shape[2:]), str(value.array.dtype))] * one.count

    def _rows_of(self, one: Dialogue, modality: str, value: Any, start: int, stop: int) -> np.ndarray:
        return value.rows()[0, start:stop]

    def _find_labels(self) -> None:
        values = np.concatenate([one.labels for one in self._every])
        if values.ndim == 1:
            self._set_classes(values, None)
            return
        count = values.shape[1]
        self._class_names = None
        if count == 2:
            self.emotions = self._names_of_columns(1, ("label",))
            self.notes.append("labels: the second of the two classes is taken for present")
        else:
            self.emotions = self._class_names = self._names_of_columns(count, SIX_WAY if count == len(SIX_WAY) else ())
            if self.emotions == list(SIX_WAY):
                self.notes.append(f"classes are taken for {', '.join(SIX_WAY)}")
        if not ((values == 0) | (values == 1)).all() or not (values.sum(axis=1) == 1).all():
            raise self.fail("labels must be one-hot for every utterance, but are not. Check the file.")
        self._dialogues = {
            split: [replace(one, labels=one.labels.argmax(axis=1).astype(np.float64)) for one in found]
            for split, found in self._dialogues.items()
        }


class _Video:
    """The features of one video of an array `[V, L, D]`, read when asked for."""

    def __init__(self, array: Array, number: int) -> None:
        self.array, self.number = array, number

    def rows(self) -> np.ndarray:
        """`[1, L, D]`."""
        if isinstance(self.array, StoredArray):
            return self.array.read_rows(self.number, self.number + 1)
        return self.array[self.number : self.number + 1]


def _is_padded(tree: Any) -> bool:
    return (
        isinstance(tree, (tuple, list))
        and len(tree) == _PARTS
        and not isinstance(tree[0], Mapping)
        and isinstance(tree[4], int)
    )


def _modality_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((found for word in words if (found := find_modality(word)) is not None), None)


def _named_files(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    return [(modality, path) for path in paths if (modality := _modality_of(path)) is not None]
