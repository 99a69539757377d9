"""A pickle ``data[emotion][split][feature]`` -> checked, its emotions' rows joined; the features stay in the file.

The released IEMOCAP file stores every clip once per emotion. Nothing says that the rows are the same clips in the same
order, so they are matched by content: a clip is its audio, video and text features, byte for byte (as float32).

Shape letters: N rows (clips), T emotions, L words, D feature dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from lmf_multitask.data.safe_pickle import StoredArray, read_pickle, to_array
from lmf_multitask.data.schema import (
    IEMOCAP_EMOTIONS,
    MODALITIES,
    NOT_ANNOTATED,
    OTHER_NAMES,
    SPLITS,
    check_emotion_name,
    sort_emotions,
)
from lmf_multitask.errors import DataError

FEATURE_KEYS = {
    **{modality: (others[0], modality, *others[1:]) for modality, others in OTHER_NAMES.items()},
    "labels": ("label", "labels", "y"),
}
"""Names under which files of this family store a modality; the first is that of the released IEMOCAP file."""

SPLIT_KEYS = {"train": ("train",), "validation": ("valid", "validation", "dev", "val"), "test": ("test",)}

MOST_EMOTIONS, MOST_LABELS = 256, 5_000_000
"""More emotions, or more labels (clips times emotions) in a split, are refused: a pickle can name one array again and again."""

_MINORITY_EMOTIONS = (*IEMOCAP_EMOTIONS, "excited", "frustrated", "surprised", "fearful", "disgusted", "disgust")
"""IEMOCAP's emotions, each present in fewer than half of the clips."""


_DIGEST_ROWS = 512


@dataclass(frozen=True)
class JoinedRows:
    """One split's clips after the join: where each is stored, and its labels.

    Attributes:
        emotion: int `[N]`, index of the emotion whose arrays hold the clip.
        position: int `[N]`, the clip's row in those arrays.
        labels: int64 `[N, T]`, 1 present, 0 absent, -100 not annotated.
        shared: number of clips that every emotion has.
        same_order: every emotion has the same clips in the same order.
        digests: one fingerprint per clip, in row order.
        positions: int32 `[N, T]`, the clip's row in each emotion's own arrays, -1 where that emotion lacks it.
    """

    emotion: np.ndarray
    position: np.ndarray
    labels: np.ndarray
    shared: int
    same_order: bool
    digests: list[bytes]
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class PickledCorpus:
    """The checked content of one pickle: labels in memory, features read from the file when asked for.

    Attributes:
        emotions: every emotion in the file.
        rows: the joined clips of each split.
        label_column: which of the two label columns means "present"; None where the file stores plain 0 and 1.
        label_reason: the evidence for that, in words.
        stored_dtypes: what each modality is stored as.
        splits: the splits that were read.
        absent: the modalities that the file has nowhere in these splits.
    """

    def __init__(
        self,
        path: str | Path,
        label_column: int | None = None,
        *,
        splits: Sequence[str] | None = SPLITS,
        with_labels: bool = True,
    ) -> None:
        """Reads the structure and the labels, checks both, and joins the emotions' rows.

        Args:
            path: the pickle.
            label_column: 0 or 1 forces which column of one-hot labels means "present"; None decides by evidence.
            splits: which splits must be there and are read; None takes those that every emotion has.
            with_labels: False does without labels (they may be missing): all clips count as not annotated.

        Raises:
            DataError: the file is missing, hostile, damaged, or not of this layout.
        """
        self.path = Path(path)
        self._with_labels = with_labels
        self._arrays = self._checked_structure(read_pickle(self.path), splits)
        self.splits = tuple(next(iter(self._arrays.values())))
        self.emotions = sort_emotions(list(self._arrays))
        first = self._arrays[self.emotions[0]][self.splits[0]]
        self.absent = tuple(modality for modality in MODALITIES if modality not in first)
        self._there = [modality for modality in MODALITIES if modality in first]
        self.stored_dtypes = {
            modality: " and ".join(
                sorted({str(splits[s][modality].dtype) for splits in self._arrays.values() for s in self.splits})
            )
            for modality in self._there
        }
        labels = {e: {s: self._labels(e, s) for s in self.splits} for e in self.emotions}
        joined = {s: self._join(s, {e: labels[e][s] for e in self.emotions}) for s in self.splits}
        self.label_column, self.label_reason = self._find_label_column(
            [j.labels for j in joined.values()], label_column
        )
        self.rows = {s: self._decide(j) for s, j in joined.items()}

    def width(self, modality: str) -> tuple[int, ...]:
        """Size of one clip's features: `(D,)`, or `(L, D)` for text; of an absent modality all ones."""
        if modality in self.absent:
            return (1, 1) if modality == "text" else (1,)
        return tuple(self._arrays[self.emotions[0]][self.splits[0]][modality].shape[1:])

    def features(self, split: str, modality: str) -> np.ndarray:
        """Reads one modality of one split: float32 `[N, D]`, or `[N, L, D]` for text, a fresh array; zeros if it is absent."""
        rows = self.rows[split]
        if modality in self.absent:
            return np.zeros((len(rows), *self.width(modality)), np.float32)
        used = np.unique(rows.emotion)
        whole = self._read(self.emotions[used[0]], split, modality)
        if len(used) == 1 and np.array_equal(rows.position, np.arange(len(whole))):
            return whole
        out = np.empty((len(rows), *whole.shape[1:]), np.float32)
        for index in used:
            chosen = rows.emotion == index
            source = whole if index == used[0] else self._read(self.emotions[index], split, modality)
            out[chosen] = source[rows.position[chosen]]
        return out

    def blocks(self, split: str, count: int) -> Iterator[dict[str, np.ndarray]]:
        """Reads a split in pieces of at most `count` clips: modality -> float32 `[n, D]`, or `[n, L, D]` for text.

        Absent modalities are left out.
        Only the piece is in memory, unless the pickle stores an array as text (protocol 0, and Python 3 up to protocol 2)
        or in Fortran's order.
        """
        rows = self.rows[split]
        rows_of = {
            (index, modality): self._row_reader(self.emotions[index], split, modality)
            for index in np.unique(rows.emotion)
            for modality in self._there
        }
        for start in range(0, len(rows), count):
            emotion, position = rows.emotion[start : start + count], rows.position[start : start + count]
            breaks = np.flatnonzero((np.diff(emotion) != 0) | (np.diff(position) != 1)) + 1
            runs = [(emotion[run[0]], position[run[0]], position[run[-1]] + 1) for run in _split(len(emotion), breaks)]
            parts = {m: [rows_of[index, m](begin, end) for index, begin, end in runs] for m in self._there}
            yield {m: found[0] if len(found) == 1 else np.concatenate(found) for m, found in parts.items()}

    # -- structure

    def _fail(self, message: str) -> DataError:
        return DataError(f"{self.path}: {message}")

    def _checked_structure(
        self, tree: object, wanted: Sequence[str] | None
    ) -> dict[str, dict[str, dict[str, StoredArray | np.ndarray]]]:
        if not isinstance(tree, Mapping):
            raise self._fail(
                f"must hold data[emotion][split][feature], but holds a {type(tree).__name__}. Check the file."
            )
        splits_on_top = [key for key in tree if any(key in keys for keys in SPLIT_KEYS.values())]
        if splits_on_top:
            raise self._fail(
                f"must hold data[emotion][split][feature], but its first level is the split {splits_on_top[0]!r}. "
                "Put each emotion's splits under the emotion's name."
            )
        emotions = {
            key: value
            for key, value in tree.items()
            if isinstance(value, Mapping) and any(name in value for keys in SPLIT_KEYS.values() for name in keys)
        }
        if not emotions:
            keys = ", ".join(repr(str(key)[:40]) for key in list(tree)[:9]) or "nothing"
            raise self._fail(
                f"must hold data[emotion][split][feature], but no emotion is in it (found {keys}). Check the file."
            )
        if len(emotions) > MOST_EMOTIONS:
            raise self._fail(
                f"must hold at most {MOST_EMOTIONS} emotions, but holds {len(emotions):,}. Check the file."
            )
        if wanted is None:
            wanted = [s for s in SPLITS if all(any(n in value for n in SPLIT_KEYS[s]) for value in emotions.values())]
            if not wanted:
                raise self._fail(f"must have a split that every emotion has ({', '.join(SPLITS)}), but has none.")
        found = {}
        for emotion, splits in emotions.items():
            try:
                check_emotion_name(emotion)
            except DataError as error:
                raise self._fail(str(error)) from None
            found[emotion] = {
                split: self._checked_split(emotion, split, self._pick(splits, names, f"[{emotion!r}]", "split"))
                for split, names in SPLIT_KEYS.items()
                if split in wanted
            }
        self._check_equal_widths(found)
        for split in wanted:
            self._check_count(split, sum(_count(arrays[split]) for arrays in found.values()))
        return found

    def _check_count(self, split: str, labels: int) -> None:
        if labels > MOST_LABELS:
            raise self._fail(
                f"must hold at most {MOST_LABELS:,} labels in {split}, but holds {labels:,}. Check the file."
            )

    def _pick(self, mapping: Mapping, names: tuple[str, ...], where: str, what: str) -> object:
        present = [name for name in names if name in mapping]
        if not present:
            keys = [str(key)[:40] for key in list(mapping)[:9]]
            close = get_close_matches(names[0], keys, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise self._fail(f"data{where} must have the {what} {' or '.join(map(repr, names))}, but has {keys}.{hint}")
        return mapping[present[0]]

    def _checked_split(self, emotion: str, split: str, content: object) -> dict[str, StoredArray | np.ndarray]:
        where = f"[{emotion!r}][{split!r}]"
        if not isinstance(content, Mapping):
            raise self._fail(
                f"data{where} must be a dict of features, but is a {type(content).__name__}. Check the file."
            )
        arrays = {}
        for name, keys in FEATURE_KEYS.items():
            if name == "labels" and not self._with_labels:
                continue
            if name in MODALITIES and not any(key in content for key in keys):
                self._check_not_misspelt(content, keys, where)
                continue
            value = self._pick(content, keys, where, "feature")
            here = f"data{where}[{name!r}]"
            if not isinstance(value, StoredArray):
                try:
                    value = to_array(value, limit=self.path.stat().st_size)
                except ValueError as error:
                    raise self._fail(
                        f"{here} must be an array of numbers, but {error}. Store it as a numpy array."
                    ) from None
            if value.dtype.kind not in "biuf":
                raise self._fail(f"{here} must be an array of numbers, but holds {_kind(value.dtype)} ({value.dtype}).")
            arrays[name] = value
            if name == "labels":
                continue
            dimensions = 3 if name == "text" else 2
            if len(value.shape) != dimensions or 0 in value.shape[1:]:
                rule = "[rows, words, dimensions]" if name == "text" else "[rows, dimensions]"
                raise self._fail(f"{here} must have the shape {rule}, but has {list(value.shape)}. Check the features.")
        if not any(modality in arrays for modality in MODALITIES):
            found = [str(key)[:40] for key in list(content)[:9]]
            raise self._fail(f"data{where} must have features of audio, video or text, but has {found}.")
        counts = {name: value.shape[0] if value.shape else 0 for name, value in arrays.items()}
        if len(set(counts.values())) > 1:
            raise self._fail(f"data{where} must have the same number of rows in every feature, but has {counts}.")
        if _count(arrays) == 0:
            raise self._fail(f"data{where} must have at least one row, but is empty. Give every split some clips.")
        return arrays

    def _check_not_misspelt(self, content: Mapping, keys: tuple[str, ...], where: str) -> None:
        """A modality may be absent, but not for a slip of the keyboard."""
        known = {key for names in FEATURE_KEYS.values() for key in names}
        others = [key for key in content if isinstance(key, str) and key not in known]
        close = [match for key in keys for match in get_close_matches(key, others, n=1, cutoff=0.75)]
        if close:
            raise self._fail(
                f"data{where} must have the feature {' or '.join(map(repr, keys))}, or nothing like it, but has {close[0]!r}. "
                f"Did you mean {keys[0]!r}?"
            )

    def _check_equal_widths(self, arrays: dict[str, dict[str, dict[str, StoredArray | np.ndarray]]]) -> None:
        for modality in MODALITIES:
            first = None
            having = [(e, s) for e, splits in arrays.items() for s, content in splits.items() if modality in content]
            lacking = [(e, s) for e, splits in arrays.items() for s in splits if (e, s) not in having]
            if having and lacking:
                raise self._fail(
                    f"{modality} must be in every emotion and split, or in none, but is in {'/'.join(having[0])} and not in "
                    f"{'/'.join(lacking[0])}. Store zeros for clips that have none."
                )
            for emotion, splits in arrays.items() if having else ():
                for split, content in splits.items():
                    width = content[modality].shape[1:]
                    first = first or (width, emotion, split)
                    if width != first[0]:
                        raise self._fail(
                            f"{modality} must have one size everywhere, but has {list(first[0])} in {first[1]}/{first[2]} "
                            f"and {list(width)} in {emotion}/{split}. Extract the features alike."
                        )

    def _array(self, emotion: str, split: str, name: str) -> np.ndarray:
        value = self._arrays[emotion][split][name]
        return value.read() if isinstance(value, StoredArray) else value

    def _read(self, emotion: str, split: str, modality: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is counted with the others
            return self._array(emotion, split, modality).astype(np.float32)

    def _row_reader(self, emotion: str, split: str, modality: str) -> Callable[[int, int], np.ndarray]:
        """(start, stop) -> float32 rows; an array that can only be read as a whole is read once."""
        stored = self._arrays[emotion][split][modality]
        if isinstance(stored, StoredArray) and not stored.has_rows:
            stored = stored.read()

        def read(start: int, stop: int) -> np.ndarray:
            rows = stored.read_rows(start, stop) if isinstance(stored, StoredArray) else stored[start:stop]
            with np.errstate(over="ignore"):
                return rows.astype(np.float32)

        return read

    # -- labels

    def _labels(self, emotion: str, split: str) -> np.ndarray:
        """Int64 `[N, 2]`: column c is 1 where label column c is set (a plain 0/1 label stands in column 1)."""
        if not self._with_labels:
            return np.full((_count(self._arrays[emotion][split]), 2), NOT_ANNOTATED, np.int64)
        here = f"data[{emotion!r}][{split!r}]['labels']"
        stored = self._array(emotion, split, "labels")
        values = stored.astype(np.float64)
        if not np.isin(values, (0.0, 1.0)).all():
            odd = values[~np.isin(values, (0.0, 1.0))].ravel()[0]
            raise self._fail(f"{here} must be 0 or 1 everywhere, but holds {odd:g}. Store one binary label per clip.")
        labels = values.astype(np.int64)
        if labels.ndim == 2 and labels.shape[1] == 2:
            wrong = np.flatnonzero(labels.sum(axis=1) != 1)
            if len(wrong):
                raise self._fail(
                    f"{here} must be one-hot in every row, but row {wrong[0]} is {labels[wrong[0]].tolist()}."
                )
            return labels
        if labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
            labels = labels.reshape(-1)
            return np.stack([1 - labels, labels], axis=1)
        raise self._fail(f"{here} must have the shape [rows, 2] or [rows], but has {list(stored.shape)}.")

    def _find_label_column(self, labels: list[np.ndarray], forced: int | None) -> tuple[int | None, str]:
        """Decides which one-hot column means "present", from int64 `[N, T, 2]` arrays (-100 where not annotated)."""
        if not self._with_labels:
            return None, "labels were not read"
        widths = {len(self._arrays[e][s]["labels"].shape) for e in self.emotions for s in self.splits}
        last = {self._arrays[e][s]["labels"].shape[-1] for e in self.emotions for s in self.splits}
        if widths == {1} or last == {1}:
            return None, "labels are stored as 0 and 1"
        if forced is not None:
            return forced, f"column {forced} = present, as you said"
        every = np.concatenate(labels)
        every = every[(every != NOT_ANNOTATED).all(axis=(1, 2))]
        count = len(self.emotions)
        if count >= 3 and len(every):
            exclusive = [bool((every[:, :, column].sum(axis=1) == 1).all()) for column in (0, 1)]
            if exclusive[0] != exclusive[1]:
                column = exclusive.index(True)
                return (
                    column,
                    f"column {column} = present: in every clip it is set for exactly one of the {count} emotions",
                )
        known = [index for index, emotion in enumerate(self.emotions) if emotion in _MINORITY_EMOTIONS]
        set_in = np.concatenate(labels)[:, known]
        share = float((set_in == 1)[..., 1].sum() / max((set_in != NOT_ANNOTATED)[..., 1].sum(), 1)) if known else 0.5
        if share != 0.5:
            column = int(share < 0.5)
            return column, f"column {column} = present: the rarer side ({min(share, 1 - share):.0%} of the labels)"
        return (
            1,
            "column 1 = present, by the convention of these files: nothing in this one proves it (force it with --data.label_column)",
        )

    def _decide(self, joined: JoinedRows) -> JoinedRows:
        column = 1 if self.label_column is None else self.label_column
        return JoinedRows(**{**joined.__dict__, "labels": np.ascontiguousarray(joined.labels[:, :, column])})

    # -- the join

    def _join(self, split: str, labels: dict[str, np.ndarray]) -> JoinedRows:
        """Unites the emotions' rows by content, in the order of first appearance; labels int64 `[N, T, 2]`."""
        per_emotion = self._digests(split)
        numbers: dict[tuple[bytes, int], int] = {}
        sources: list[tuple[int, int]] = []
        table = [np.full(len(labels[e]), -1) for e in self.emotions]
        for index, emotion in enumerate(self.emotions):
            repeats: dict[bytes, int] = {}
            for position, digest in enumerate(per_emotion[emotion]):
                repeats[digest] = repeats.get(digest, 0) + 1  # identical clips within one emotion pair up in order
                number = numbers.setdefault((digest, repeats[digest]), len(sources))
                if number == len(sources):
                    sources.append((index, position))
                table[index][position] = number
        self._check_count(split, len(sources) * len(self.emotions))
        joined = np.full((len(sources), len(self.emotions), 2), NOT_ANNOTATED, np.int64)
        positions = np.full((len(sources), len(self.emotions)), -1, np.int32)
        for index, emotion in enumerate(self.emotions):
            joined[table[index], index] = labels[emotion]
            positions[table[index], index] = np.arange(len(table[index]))
        emotion_of, position_of = np.array(sources).T
        return JoinedRows(
            emotion=emotion_of,
            position=position_of,
            labels=joined,
            shared=int((joined != NOT_ANNOTATED).all(axis=(1, 2)).sum()),
            same_order=all(np.array_equal(numbers_of, np.arange(len(sources))) for numbers_of in table),
            digests=[key for key, _ in numbers],
            positions=positions,
        )

    def _digests(self, split: str) -> dict[str, list[bytes]]:
        """One fingerprint per clip and emotion, over all modalities; some rows in memory at a time."""
        found: dict[str, list[list[bytes]]] = {emotion: [] for emotion in self.emotions}
        for modality in self._there:
            known: dict[int, list[bytes]] = {}
            for emotion in self.emotions:
                stored = self._arrays[emotion][split][modality]
                if id(stored) not in known:  # arrays shared inside the pickle are read once
                    read, count = self._row_reader(emotion, split, modality), stored.shape[0]
                    starts = range(0, count, _DIGEST_ROWS)
                    known[id(stored)] = [d for n in starts for d in _row_digests(read(n, n + _DIGEST_ROWS))]
                found[emotion].append(known[id(stored)])
        return {
            e: [hashlib.sha256(b"".join(parts)).digest()[:16] for parts in zip(*lists)] for e, lists in found.items()
        }


def _count(arrays: Mapping[str, StoredArray | np.ndarray]) -> int:
    """Rows of a split that has been checked."""
    return next(iter(arrays.values())).shape[0]


def _split(count: int, breaks: np.ndarray) -> list[np.ndarray]:
    """0 ... count - 1 in runs that begin at the breaks."""
    return np.split(np.arange(count), breaks)


def _row_digests(features: np.ndarray) -> list[bytes]:
    features += 0.0  # -0.0 and 0.0 are the same number
    features[np.isnan(features)] = np.nan  # as are all NaN
    rows = features.reshape(len(features), -1).view(np.uint8)
    return [hashlib.sha256(row).digest() for row in rows]


def _kind(dtype: np.dtype) -> str:
    """What the reader of pickles lets through beside plain numbers."""
    return {"S": "bytes", "U": "text", "c": "complex numbers"}[dtype.kind]
