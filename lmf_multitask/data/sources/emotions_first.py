"""Pickles ``data[emotion][split][feature]``, the layout of the released IEMOCAP file.

The file stores every clip once per emotion, and does not say that the rows are the same clips in the same order. They are
matched by content: two rows are the same clip if all their features are equal as float32.

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lmf_multitask.data.schema import KNOWN_EMOTIONS, SPLITS, emotion_of, find_split, sort_emotions
from lmf_multitask.data.sources import Candidate, Reading, binary_labels
from lmf_multitask.data.sources.pickles import Array, PickleSource, kind_of, present_column, row_reader
from lmf_multitask.data.stored_array import StoredArray
from lmf_multitask.errors import DataError, suggestion

LABEL_KEYS = ("label", "labels", "y")

MOST_EMOTIONS, MOST_LABELS = 256, 5_000_000
"""More emotions, or more labels (clips times emotions) in a split, are refused: a pickle can name one array repeatedly."""

_DIGEST_ROWS = 512

Arrays = dict[str, Array]


@dataclass(frozen=True)
class _Join:
    """The clips of one split, united over the emotions.

    Attributes:
        emotion: int `[N]`, index of the emotion whose arrays hold the clip.
        position: int `[N]`, the clip's row in these arrays.
        positions: int32 `[N, T]`, the clip's row in each emotion's own arrays, -1 if that emotion lacks it.
    """

    emotion: np.ndarray
    position: np.ndarray
    positions: np.ndarray

    @property
    def shared(self) -> int:
        """Number of clips that every emotion has."""
        return int((self.positions >= 0).all(axis=1).sum())

    @property
    def same_order(self) -> bool:
        """Whether every emotion has the same clips in the same order."""
        return bool((self.positions == np.arange(len(self.positions))[:, None]).all())


class EmotionsFirst(PickleSource):
    """The checked content of one pickle: features stay in the file until they are read."""

    layout = "a pickle data[emotion][split][feature]"

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Checks the structure."""
        super().__init__(candidate, reading)
        emotions = self._find_emotions(candidate.tree)
        self._owners = sort_emotions(emotions)
        self._contents = self._find_splits(emotions)
        contents = [content for splits in self._contents.values() for content in splits.values()]
        if all(isinstance(content, Mapping) and any(key in content for key in LABEL_KEYS) for content in contents):
            self.emotions = self._owners
        self._arrays = {
            emotion: {split: self._checked_arrays(emotion, split, content) for split, content in splits.items()}
            for emotion, splits in self._contents.items()
        }
        self._check_modalities()
        for split in self.split_names:
            self._check_count(split, sum(_count(splits[split]) for splits in self._arrays.values()))
        self._one_hot = False
        self._column: int | None = None

    def scan(self) -> None:
        """See `Source.scan`: matches the rows of the emotions."""
        self._joined = {split: self._join(split) for split in self.split_names}
        self._set_splits({split: len(join.position) for split, join in self._joined.items()})
        self._note_join()

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a pickle of a dict of dicts that have splits."""
        tree = candidate.tree
        return isinstance(tree, Mapping) and any(_has_splits(value) for value in tree.values())

    # -- structure

    def _find_emotions(self, tree: Mapping) -> dict[str, Mapping]:
        found: dict[str, Mapping] = {}
        ignored = []
        for key, value in tree.items():
            if not _has_splits(value):
                if isinstance(key, str) and key.lower() in KNOWN_EMOTIONS:
                    raise self.fail(
                        f"data[{key!r}] must be a dict of splits ({', '.join(SPLITS)}), but is {kind_of(value)}. "
                        "Store its splits under these names, or remove it."
                    )
                ignored.append(ascii(str(key))[1:-1][:40])
                continue
            try:
                emotion = emotion_of(key)
            except DataError as error:
                raise self.fail(str(error)) from None
            if emotion in found:
                raise self.fail(f"emotions must be different, but {emotion!r} is spelt in two ways. Rename one.")
            found[emotion] = value
        if len(found) > MOST_EMOTIONS:
            raise self.fail(f"must hold at most {MOST_EMOTIONS} emotions, but holds {len(found):,}. Check the file.")
        if ignored:
            self.notes.append(f"ignored keys: {', '.join(ignored[:12])}")
        return found

    def _find_splits(self, emotions: Mapping[str, Mapping]) -> dict[str, dict[str, Mapping]]:
        """Emotion -> split -> its features, of the wanted splits that every emotion has."""
        found = {emotion: self._named_splits(splits, f"data[{emotion!r}]") for emotion, splits in emotions.items()}
        for split in SPLITS:
            lacking = [emotion for emotion, named in found.items() if split not in named]
            if 0 < len(lacking) < len(found) and self.reading.split in (None, split):
                keys = [str(key)[:40] for key in list(emotions[lacking[0]])[:9]]
                hint = suggestion(SPLITS[split][0], keys) or " Choose a split with --split, or add it."
                raise self.fail(f"data[{lacking[0]!r}] must have the split {split}, but has {keys}.{hint}")
        self._set_split_names(found[self._owners[0]])
        return {emotion: {split: found[emotion][split] for split in self.split_names} for emotion in self._owners}

    def _checked_arrays(self, emotion: str, split: str, content: object) -> Arrays:
        found = self._features(content, f"data[{emotion!r}][{split!r}]", LABEL_KEYS)
        return {modality: array for modality, (_, array) in found.items()}

    def _check_modalities(self) -> None:
        """Checks and sets the shapes; every emotion and split has the same modalities."""
        parts = {
            f"{emotion}/{split}": part for emotion, splits in self._arrays.items() for split, part in splits.items()
        }
        self._check_shapes(parts)
        for modality in self.shapes:
            having, lacking = (
                [where for where, part in parts.items() if (modality in part) is one] for one in (True, False)
            )
            if lacking:
                raise self.fail(
                    f"{modality} must be in every emotion and split, or in none, but is in {having[0]} and not in {lacking[0]}. "
                    "Store zeros for clips that have none."
                )

    def _check_count(self, split: str, labels: int) -> None:
        if labels > MOST_LABELS:
            raise self.fail(
                f"must hold at most {MOST_LABELS:,} labels in {split}, but holds {labels:,}. Check the file."
            )

    # -- the join

    def _join(self, split: str) -> _Join:
        """Unites the emotions' rows by content, in the order of first appearance."""
        digests = self._digests(split)
        numbers: dict[tuple[bytes, int], int] = {}
        origins: list[tuple[int, int]] = []
        rows_of = []
        for index, emotion in enumerate(self._owners):
            repeats: dict[bytes, int] = {}
            rows = []
            for position, digest in enumerate(digests[emotion]):
                repeats[digest] = repeats.get(digest, 0) + 1  # identical clips within one emotion pair up in order
                number = numbers.setdefault((digest, repeats[digest]), len(origins))
                if number == len(origins):
                    origins.append((index, position))
                rows.append(number)
            rows_of.append(rows)
        self._check_count(split, len(origins) * len(self._owners))
        positions = np.full((len(origins), len(self._owners)), -1, np.int32)
        for index, rows in enumerate(rows_of):
            positions[rows, index] = np.arange(len(rows))
        emotion_of_row, position_of_row = np.array(origins).T
        return _Join(emotion_of_row, position_of_row, positions)

    def _digests(self, split: str) -> dict[str, list[bytes]]:
        """One hash per emotion and clip, over all modalities; some rows are in memory at a time."""
        found: dict[str, list[list[bytes]]] = {emotion: [] for emotion in self._owners}
        for modality in self.shapes:
            known: dict[int, list[bytes]] = {}
            for emotion in self._owners:
                stored = self._arrays[emotion][split][modality]
                if id(stored) not in known:  # arrays that the pickle shares between emotions are read once
                    read, starts = row_reader(stored), range(0, stored.shape[0], _DIGEST_ROWS)
                    known[id(stored)] = [
                        digest for start in starts for digest in _row_digests(read(start, start + _DIGEST_ROWS))
                    ]
                found[emotion].append(known[id(stored)])
        return {
            emotion: [hashlib.sha256(b"".join(parts)).digest()[:16] for parts in zip(*lists)]
            for emotion, lists in found.items()
        }

    def _note_join(self) -> None:
        joins = self._joined.values()
        total, shared = self.count, sum(join.shared for join in joins)
        if len(self._owners) == 1:
            return
        if all(join.same_order for join in joins):
            text = f"{total} clips, the same ones in the same order under every emotion (matched by content)"
        elif shared == total:
            text = f"{total} clips, the same ones under every emotion but in another order (matched by content)"
        else:
            text = f"{total} different clips, {shared} of them under every emotion (matched by content)"
        self.notes.append(text)
        for split, join in self._joined.items():
            if join.shared == 0:
                self.notes.append(
                    f"no clip of {split} is shared by all emotions: their features differ, or they annotate different clips"
                )

    # -- rows

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        """Only some rows are in memory, unless the pickle stores an array as text or in Fortran order."""
        join = self._joined[split]
        readers = {
            (index, modality): row_reader(self._arrays[self._owners[index]][split][modality])
            for index in np.unique(join.emotion)
            for modality in self.shapes
        }
        for start in range(0, len(join.position), rows):
            emotion, position = join.emotion[start : start + rows], join.position[start : start + rows]
            breaks = np.flatnonzero((np.diff(emotion) != 0) | (np.diff(position) != 1)) + 1
            runs = [
                (emotion[run[0]], position[run[0]], position[run[-1]] + 1)
                for run in np.split(np.arange(len(emotion)), breaks)
            ]
            parts = {
                modality: [readers[index, modality](begin, end) for index, begin, end in runs]
                for modality in self.shapes
            }
            yield None, {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in parts.items()}

    def positions(self, split: str) -> np.ndarray | None:
        """See `Source.positions`."""
        return None if all(join.same_order for join in self._joined.values()) else self._joined[split].positions

    def column_texts(self, split: str, name: str) -> list[str] | None:
        """See `Source.column_texts`."""
        contents = [self._contents[emotion][split] for emotion in self._owners]
        if not all(name in content for content in contents):
            return None
        columns = []
        for emotion, content in zip(self._owners, contents):
            texts = self._texts(content[name], _count(self._arrays[emotion][split]))
            if texts is None:
                raise self.fail(f"data[{emotion!r}][{split!r}][{name!r}] must hold one text or whole number per clip.")
            columns.append(["_".join(parts) for parts in texts])
        join = self._joined[split]
        return [columns[index][row] for index, row in zip(join.emotion, join.position)]

    # -- labels

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if self._column is None:
            every = np.concatenate([self._both_columns(name) for name in self.splits])
            if self._one_hot:
                self._column, reason = present_column(every, self.reading.config.label_column)
                self.label_column = self._column
            else:
                self._column, reason = 1, "stored as 0 and 1"
            self.notes.append(f"labels: {reason}")
        return np.ascontiguousarray(self._both_columns(split)[:, :, self._column])

    def _both_columns(self, split: str) -> np.ndarray:
        """Float32 `[N, T, 2]`: column c is 1 where label column c is set; plain 0/1 labels are in column 1."""
        positions = self._joined[split].positions
        found = np.full((*positions.shape, 2), np.nan, np.float32)
        for index, emotion in enumerate(self._owners):
            own = positions[:, index]
            found[own >= 0, index] = self._stored_labels(emotion, split)[own[own >= 0]]
        return found

    def _stored_labels(self, emotion: str, split: str) -> np.ndarray:
        """Labels of one emotion in its own order, float32 `[n, 2]`."""
        content, where = self._contents[emotion][split], f"data[{emotion!r}][{split!r}]"
        key = next((key for key in LABEL_KEYS if key in content), None)
        if key is None:
            keys = [str(key)[:40] for key in list(content)[:9]]
            raise self.fail(f"{where} must have labels ({' or '.join(map(repr, LABEL_KEYS))}), but has {keys}.")
        where += f"[{key!r}]"
        stored = self._array(content[key], where)
        count = _count(self._arrays[emotion][split])
        if stored.shape not in ((count,), (count, 1), (count, 2)):
            raise self.fail(f"{where} must have the shape [{count}, 2] or [{count}], but has {list(stored.shape)}.")
        values = (stored.read() if isinstance(stored, StoredArray) else stored).reshape(count, -1)
        if values.shape[1] == 1:
            labels = binary_labels(values, f"{self.path}: {where}")
            return np.concatenate([1 - labels, labels], axis=1)
        self._one_hot = True
        return self._one_hot_pairs(values, where)


def _has_splits(value: object) -> bool:
    return isinstance(value, Mapping) and any(find_split(key) is not None for key in value)


def _count(arrays: Arrays) -> int:
    return next(iter(arrays.values())).shape[0]


def _row_digests(features: np.ndarray) -> list[bytes]:
    features += 0.0  # -0.0 and 0.0 are the same number
    features[np.isnan(features)] = np.nan  # as are all NaN
    rows = features.reshape(len(features), -1).view(np.uint8)
    return [hashlib.sha256(row).digest() for row in rows]
