"""Pickles of dialogues: the tuples of conv-emotion and its successors, and CORECT's lists of dicts.

A tuple has, in this order: ids, speakers, class numbers; one to four versions of the text features, audio, and video except
in MELD's nine parts; sentences; dialogues of train, dialogues of test; and MELD's sentiment at the end. All but the two lists
of names are dicts from the name of a dialogue to a list with one item per utterance. CORECT has ``{train, dev, test}``, each a
list of dicts with the keys ``vid``, ``labels``, ``text``, ``audio``, ``visual``.

Shape letters: N rows (utterances), n utterances of a dialogue, D features.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.data.schema import SPLITS, find_split, rename_modalities
from lmf_multitask.data.sources import Candidate, Reading
from lmf_multitask.data.sources.pickles import REGRESSION, SIX_WAY, PickleSource, draw_validation, kind_of, shown_keys
from lmf_multitask.data.stored_array import StoredArray

MELD_EMOTIONS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
_FEATURE_PARTS = {2: ("text", "audio"), 3: ("text", "audio", "video")}
_VERSIONS = 4  # of the text, in tuples of 12 and 13 parts
_FEWEST, _MOST = 8, 13
_UNUSED_KEYS = {"vid", "ids", "id", "labels", "label", "speakers", "speaker", "sentence", "sentences"}


@dataclass(frozen=True)
class Dialogue:
    """One dialogue or video.

    Attributes:
        name: of the dialogue.
        count: n, its number of utterances.
        features: modality -> n vectors: a list of arrays, or an array `[n, D]`; or `[n + padding, D]`.
        labels: float64 `[n]` or `[n, T]`.
        ids: of the utterances; None if the file has none.
    """

    name: str
    count: int
    features: Mapping[str, Any]
    labels: np.ndarray
    ids: Sequence[str] | None = None


class DialogueSource(PickleSource):
    """A source of dialogues; a subclass gives them to `_take`."""

    def _take(self, splits: Mapping[str, Sequence[Dialogue]]) -> None:
        """Takes the dialogues of each split; without validation, a tenth of train is drawn for it."""
        found = dict(splits)
        if "validation" not in found and "train" in found:
            drawn = set(draw_validation([one.name for one in found["train"]]))
            if len(drawn) == len(found["train"]):
                raise self.fail(
                    "train must have two dialogues at least, since one is taken for validation, but has one. Add some."
                )
            found["validation"] = [one for one in found["train"] if one.name in drawn]
            self.notes.append(
                f"no validation split: {len(drawn)} of the {len(found['train'])} training dialogues were drawn for it, whole "
                f"(seed 0): {shown_keys(sorted(drawn))}"
            )
            found["train"] = [one for one in found["train"] if one.name not in drawn]
        in_train = {one.name for one in found.get("train", ())} | {one.name for one in found.get("validation", ())}
        both = [one.name for one in found.get("test", ()) if one.name in in_train]
        if both and "train" in splits and "validation" not in splits:
            self.notes.append(
                f"{len(both)} dialogue(s) of test are also in train: results on test are too optimistic ({shown_keys(both)})"
            )
        self._set_split_names(found)
        self._dialogues = {split: [one for one in found[split] if one.count] for split in self.split_names}
        self._every = [one for dialogues in found.values() for one in dialogues if one.count]
        counts = Counter(clip for one in self._every for clip in one.ids or ())
        self._own_ids = bool(self._every) and all(one.ids for one in self._every) and max(counts.values()) == 1

    def scan(self) -> None:
        """See `Source.scan`."""
        self._set_splits({split: sum(one.count for one in found) for split, found in self._dialogues.items()})
        left = self._size
        shapes: dict[str, tuple[int, ...]] = {}
        types: dict[str, set[str]] = {}
        for one in (one for found in self._dialogues.values() for one in found):
            for modality, value in one.features.items():
                for shape, kind in self._vectors(one, modality, value):
                    if shapes.setdefault(modality, shape) != shape:
                        raise self.fail(
                            f"{modality} must have one size everywhere, but has {list(shapes[modality])} and, in the dialogue "
                            f"{ascii(one.name)[:60]}, {list(shape)}. Extract the features alike."
                        )
                    types.setdefault(modality, set()).add(kind)
                    left -= math.prod(shape)
                    if left < 0:
                        raise self.fail(f"{modality} repeats its parts too often. Check the file.")
        self.dtypes = {modality: " and ".join(sorted(kinds)) for modality, kinds in types.items()}
        self._set_shapes(shapes)

    def _vectors(self, one: Dialogue, modality: str, value: Any) -> Iterator[tuple[tuple[int, ...], str]]:
        """Shape and type of the features of each utterance."""
        if isinstance(value, StoredArray) and value.dtype.kind in "biuf" and _length(value) >= one.count:
            yield from [(tuple(value.shape[1:]), str(value.dtype))] * one.count
            return
        items = value.objects if isinstance(value, StoredArray) else value
        if not isinstance(items, (list, tuple)) or len(items) < one.count:
            raise self.fail(
                f"{modality} of the dialogue {ascii(one.name)[:60]} must have one vector for each of its {one.count} "
                f"utterances, but is {kind_of(value)}{f' of {len(items)}' if isinstance(items, list) else ''}. Check the file."
            )
        for item in items[: one.count]:
            if isinstance(item, StoredArray) and item.dtype.kind in "biuf":
                yield tuple(item.shape), str(item.dtype)
            else:
                array = self._array(item, f"{modality} of the dialogue {ascii(one.name)[:60]}")
                yield tuple(array.shape), str(array.dtype)

    # -- labels

    def _set_classes(self, values: np.ndarray, usual: Sequence[str] | None) -> None:
        """Sets `emotions` from the labels of all dialogues, and how they are read.

        Args:
            values: `[N]`, of all splits.
            usual: names of the classes in this layout; None: they are known by their number only.
        """
        known = values[np.isfinite(values)]
        self._class_names: list[str] | None = None
        if (known % 1).any() or (known < -1).any():
            self.emotions = self._names_of_columns(1, ("sentiment",))
            self.kinds.setdefault(self.emotions[0], REGRESSION)
        elif usual is None and len(known) and known.max() <= 1:
            self.emotions = self._names_of_columns(1, ("label",))
        else:
            count = self._count_classes(values, f"{self.path}: labels")
            if usual is None:
                usual = {len(SIX_WAY): SIX_WAY, len(MELD_EMOTIONS): MELD_EMOTIONS}.get(count)
            default = [] if usual is None or len(usual) < count else list(usual[:count])
            self.emotions = self._class_names = self._names_of_columns(count, default)
            if default == self.emotions:
                shown = ", ".join(f"{index} {name}" for index, name in enumerate(default))
                self.notes.append(f"classes are taken for {shown}")

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if not self.emotions:
            raise self._label_problem or self.fail("must have labels, but has none.")
        values = np.concatenate([one.labels for one in self._dialogues[split]])
        if values.ndim == 1 and self._class_names is not None:
            values = np.stack(list(self._classes(values, self._class_names).values()), axis=1)
        elif values.ndim == 1:
            values = values[:, None]
            if self.kinds.get(self.emotions[0]) != REGRESSION:
                values = np.where(values == -1, np.nan, values)
        return self._checked_labels(values, f"{self.path}: labels of {split},")

    # -- rows

    def groups(self, split: str) -> list[str] | None:
        """See `Source.groups`: the dialogue."""
        return [one.name for one in self._dialogues[split] for _ in range(one.count)]

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        for one in self._dialogues[split]:
            ids = one.ids if self._own_ids and one.ids else [f"{one.name}_{number:03d}" for number in range(one.count)]
            for start in range(0, one.count, rows):
                stop = min(start + rows, one.count)
                yield (
                    list(ids[start:stop]),
                    {name: self._rows_of(one, name, value, start, stop) for name, value in one.features.items()},
                )

    def _rows_of(self, one: Dialogue, modality: str, value: Any, start: int, stop: int) -> np.ndarray:
        if isinstance(value, StoredArray) and value.objects is None:
            return value.read_rows(start, stop)
        items = value.objects or [] if isinstance(value, StoredArray) else value
        found = self._array(list(items[start:stop]), f"{modality} of the dialogue {ascii(one.name)[:60]}")
        assert isinstance(found, np.ndarray)
        return found


class Dialogues(DialogueSource):
    """The checked content of one pickle of dialogues."""

    layout = "a pickle of dialogues (tuples of 9 to 13 parts, or lists of dicts per split)"

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Checks the structure."""
        super().__init__(candidate, reading)
        tree = candidate.tree
        self._meld = False
        splits = self._from_lists(tree) if isinstance(tree, Mapping) else self._from_tuple(list(tree))
        self._take(splits)
        with self._finding_labels():
            every = [one.labels for one in self._every]
            if not all(len(labels) for labels in every):
                raise self.fail("must have one label per utterance, but has none for some. Check the file.")
            names = [one.name for one in self._every]
            iemocap = all(re.fullmatch(r"Ses\d\d.*", name) for name in names)
            self._set_classes(np.concatenate(every), MELD_EMOTIONS if self._meld else SIX_WAY if iemocap else None)

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a pickle of a long tuple that begins with dicts, or of splits that are lists of dicts."""
        tree = candidate.tree
        if isinstance(tree, (tuple, list)):
            return _FEWEST <= len(tree) <= _MOST and all(isinstance(part, Mapping) for part in tree[:4])
        return isinstance(tree, Mapping) and any(
            find_split(key) and isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping)
            for key, value in tree.items()
        )

    # -- tuples

    def _from_tuple(self, parts: list[Any]) -> dict[str, list[Dialogue]]:
        lists = [index for index, part in enumerate(parts) if not isinstance(part, Mapping)]
        versions = lists[0] - 4 if lists else 0  # between the labels and the sentences
        if len(lists) != 2 or lists[1] != lists[0] + 1 or versions not in (2, 3, 2 + _VERSIONS):
            kinds = ", ".join("dict" if isinstance(part, Mapping) else kind_of(part)[2:] for part in parts)
            raise self.fail(
                "a tuple of dialogues must have ids, speakers, labels, 2, 3 or 6 parts of features, sentences, train and test, "
                f"but has {len(parts)} parts: {kinds}. Store {{split: {{feature: array}}}} instead."
            )
        modalities = list(_FEATURE_PARTS[3 if versions > 2 else 2])
        places = [3, *range(lists[0] - len(modalities), lists[0] - 1)]
        if versions > 3:
            self.notes.append(f"text has {_VERSIONS} versions: the first is used")
        self._meld = len(parts) > lists[1] + 1
        if self._meld:
            self.notes.append("MELD's classes of sentiment are not used")
        ids, labels = _by_name(parts[0]), _by_name(parts[2])
        features = {name: _by_name(parts[place]) for name, place in zip(modalities, places)}
        splits: dict[str, list[Dialogue]] = {}
        for split, part in zip(("train", "test"), parts[lists[0] : lists[1] + 1]):
            names = self._texts(part, part.shape[0] if isinstance(part, StoredArray) and part.shape else _length(part))
            if not names:
                raise self.fail(
                    f"{split} must be a list of names of dialogues, but is {kind_of(part)}. Check the file."
                )
            found = dict.fromkeys(name[0] for name in names)
            lacking = next(
                (name for name in found if any(name not in part for part in (labels, *features.values()))), None
            )
            if lacking is not None:
                raise self.fail(
                    f"the dialogue {ascii(lacking)[:60]} of {split} must have labels and features, but lacks some."
                )
            splits[split] = [
                self._dialogue(name, labels[name], {one: part[name] for one, part in features.items()}, ids.get(name))
                for name in found
            ]
        unused = [name for name in labels if not any(one.name == name for found in splits.values() for one in found)]
        if unused:
            self.notes.append(f"{len(unused)} dialogue(s) are in neither train nor test: {shown_keys(unused)}")
        return splits

    def _dialogue(self, name: str, labels: Any, features: Mapping[str, Any], ids: Any) -> Dialogue:
        where = f"labels of the dialogue {ascii(name)[:60]}"
        count = _length(labels)
        values = self._numbers(labels, where) if count else np.zeros(0)
        if count and values.shape not in ((count,), (count, 1)):
            raise self.fail(f"{where} must be one class number per utterance, but have the shape {list(values.shape)}.")
        texts = self._texts(ids, count) if count else None
        return Dialogue(
            name,
            count,
            features,
            values.reshape(count),
            None if texts is None else ["_".join(parts) for parts in texts],
        )

    # -- lists of dicts

    def _from_lists(self, tree: Mapping) -> dict[str, list[Dialogue]]:
        splits: dict[str, list[Dialogue]] = {}
        for split, content in self._named_splits(tree).items():
            if not isinstance(content, (list, tuple)):
                raise self.fail(
                    f"data[{split!r}] must be a list of dialogues, but is {kind_of(content)}. Check the file."
                )
            splits[split] = [self._from_dict(split, number, one) for number, one in enumerate(content)]
        return {split: splits[split] for split in SPLITS if split in splits}

    def _from_dict(self, split: str, number: int, content: Any) -> Dialogue:
        where = f"data[{split!r}][{number}]"
        if not isinstance(content, Mapping):
            raise self.fail(f"{where} must be a dict, but is {kind_of(content)}. Check the file.")
        names = [key for key in content if isinstance(key, str) and key not in _UNUSED_KEYS]
        features = {modality: content[key] for modality, key in rename_modalities(names, where).items()}
        labels = content.get("labels", content.get("label"))
        if labels is None:  # for inference
            count = max((_length(value) for value in features.values()), default=0)
            return Dialogue(f"{split}-{number:05d}", count, features, np.zeros(0))
        name = self._texts([content.get("vid", f"{split}-{number:05d}")], 1)
        if name is None:
            raise self.fail(f"{where}['vid'] must be the name of a dialogue, but is {kind_of(content['vid'])}.")
        return self._dialogue(name[0][0], labels, features, content.get("ids"))


def _by_name(part: Mapping) -> dict[str, Any]:
    return {str(name): value for name, value in part.items()}


def _length(value: Any) -> int:
    if isinstance(value, StoredArray):
        return value.shape[0] if value.shape else 0
    return len(value) if isinstance(value, (list, tuple)) else 0
