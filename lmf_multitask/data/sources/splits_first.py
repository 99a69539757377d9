"""Pickles ``data[split][feature]``: MulT, MultiBench, MMSA and CH-SIMS, LMF's mosi.pkl and pom.pkl; or features alone.

| origin | features | labels |
|---|---|---|
| MulT, IEMOCAP | ``text``, ``audio``, ``vision`` | ``labels [N, 4, 2]``: one-hot pairs of neutral, happy, sad, angry |
| MulT, MultiBench | the same | ``labels [N, 1, 1]``: sentiment from -3 to 3; humor and sarcasm as 0/1 or -1/1 |
| MMSA, CH-SIMS | the same, ``text_bert`` (token ids) | ``regression_labels [N]``; ``annotations``, ``classification_labels`` |
| LMF | ``covarep``, ``facet``, ``glove`` | ``label [N, 1]`` sentiment, ``[N, 16]`` traits |

Shape letters: N rows (clips), T tasks, L steps, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lmf_multitask.data.description import RELEASED_ROWS
from lmf_multitask.data.modality import find_modality
from lmf_multitask.data.schema import KNOWN_EMOTIONS, LMF_SPLIT, POM_TRAITS, emotion_of, find_split, sort_emotions
from lmf_multitask.data.sources import ALL, Candidate, Reading
from lmf_multitask.data.sources.pickles import REGRESSION, Array, PickleSource, group_of, row_reader, shown_keys
from lmf_multitask.data.stored_array import StoredArray
from lmf_multitask.errors import DataError

LABEL_KEYS = ("labels", "label", "y")
MULT_EMOTIONS = ("neutral", "happy", "sad", "angry")
MMSA_CLASSES = ("negative", "neutral", "positive")
_MODALITY_LABELS = tuple(f"{kind}_labels_{one}" for kind in ("regression", "classification") for one in "TAV")


class SplitsFirst(PickleSource):
    """The checked content of one pickle: features stay in the file until they are read."""

    layout = "a pickle data[split][feature], or of features without splits"

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Checks the structure; labels that cannot be used are no error before they are asked for."""
        super().__init__(candidate, reading)
        contents = self._find_splits(candidate.tree)
        self._used = {"id", "ids"}
        self._arrays: dict[str, dict[str, Array]] = {}
        self._rows: dict[str, int] = {}
        for split, content in contents.items():
            self._arrays[split] = self._find_features(split, content)
            self._rows[split] = next(iter(self._arrays[split].values())).shape[0]
        self._check_features()
        self._contents = contents
        self._ids = {split: self._find_ids(split) for split in contents}
        self._labels: dict[str, dict[str, np.ndarray]] = {split: {} for split in contents}
        with self._finding_labels():
            self._find_labels()
        self._note_ignored()

    @classmethod
    def recognises(cls, candidate: Candidate) -> bool:
        """Whether it is a pickle of a dict of splits that are dicts, or of a dict with arrays of features."""
        tree = candidate.tree
        return isinstance(tree, Mapping) and (
            _is_flat(tree) or any(find_split(key) and isinstance(value, Mapping) for key, value in tree.items())
        )

    def scan(self) -> None:
        """See `Source.scan`."""
        self._set_splits(self._rows)
        if tuple(self._rows.values()) == RELEASED_ROWS:
            test = self._labels["test"]
            same = all(np.nansum(test[name]) == count for name, count in LMF_SPLIT.items() if name in test)
            self.notes.append(
                "the same 2717/798/938 clips as LMF's iemocap.pkl, judged by the number of clips"
                + (" and the test counts of the emotions" if same and set(LMF_SPLIT) <= set(test) else "")
            )

    # -- structure

    def _find_splits(self, tree: Mapping) -> dict[str, Mapping]:
        if _is_flat(tree):
            self._set_split_names([ALL])
            return {ALL: tree}
        found = self._named_splits(tree)
        self._set_split_names(found)
        return {split: found[split] for split in self.split_names}

    def _find_features(self, split: str, content: object) -> dict[str, Array]:
        where = "data" if split == ALL else f"data[{split!r}]"
        found = self._features(content, where, (*LABEL_KEYS, "text_bert", "raw_text"))
        self._used.update(key for key, _ in found.values())
        return {modality: array for modality, (_, array) in found.items()}

    def _check_features(self) -> None:
        """Checks and sets the shapes; a split may lack a modality."""
        self._check_shapes(self._arrays)
        for modality in self.shapes:
            lacking = [split for split, arrays in self._arrays.items() if modality not in arrays]
            if lacking:
                self.notes.append(f"{modality} is missing in {' and '.join(lacking)}")

    def _find_ids(self, split: str) -> list[list[str]] | None:
        content = self._contents[split]
        key = next((key for key in ("id", "ids") if key in content), None)
        found = None if key is None else self._texts(content[key], self._rows[split])
        if key is not None and found is None:
            self.notes.append(f"{key} of {split} is not one short text per row: the rows are numbered")
        return found

    def _note_ignored(self) -> None:
        keys = {str(key) for content in self._contents.values() for key in content}
        left = keys - self._used - set(_MODALITY_LABELS)
        if left:
            self.notes.append(f"ignored keys: {shown_keys(sorted(left))}")
        single = sorted(keys & set(_MODALITY_LABELS) - self._used)
        if single:
            self.notes.append(f"labels of single modalities, not tasks unless named: {shown_keys(single)}")

    # -- labels

    def _find_labels(self) -> None:
        """Sets `emotions`, `kinds` and the labels of every opened split."""
        first = next(iter(self._contents.values()))
        if "regression_labels" in first:
            self._add_column("sentiment", "regression_labels", REGRESSION)
        for key in LABEL_KEYS:
            if key in first and not self.emotions:
                self._add_labels(key)
        for key in ("annotations", "classification_labels"):
            if key in first and not set(MMSA_CLASSES) & set(self.emotions):
                try:
                    self._add_classes(key)
                except DataError as error:
                    self.notes.append(f"{key} are not used: {error}")
        for key in self.reading.emotions or ():
            if key in first and key not in self.emotions and find_modality(key) is None and key not in self._used:
                self._add_column(key, key)
        if not self.emotions:
            raise self.fail(
                f"must have labels ({', '.join((*LABEL_KEYS, 'regression_labels'))}), but has {shown_keys(first)}."
            )

    def _values(self, key: str) -> dict[str, np.ndarray]:
        """Split -> numbers `[N, ...]` of a key, without dimensions of one at the end."""
        found = {}
        for split, content in self._contents.items():
            where, rows = f"data[{split!r}][{key!r}]", self._rows[split]
            if key not in content:
                raise self.fail(
                    f"data[{split!r}] must have {key!r}, as other splits have, but has {shown_keys(content)}."
                )
            array = self._array(content[key], where)
            if array.shape[:1] != (rows,) or len(array.shape) > 3:
                raise self.fail(f"{where} must have one row per clip, {rows:,}, but has the shape {list(array.shape)}.")
            values = self._numbers(array, where) if isinstance(array, StoredArray) else array.astype(np.float64)
            while values.ndim > 1 and values.shape[-1] == 1:
                values = values[..., 0]
            found[split] = values
        if len({values.shape[1:] for values in found.values()}) > 1:
            raise self.fail(
                f"{key} must have one shape in all splits, but has {[list(v.shape) for v in found.values()]}."
            )
        self._used.add(key)
        return found

    def _add(self, name: str, values: Mapping[str, np.ndarray], kind: str | None = None) -> None:
        name = emotion_of(name)
        if name in self.emotions:
            raise self.fail(f"emotions must be different, but {name!r} occurs twice. Rename one.")
        self.emotions.append(name)
        if kind is not None:
            self.kinds.setdefault(name, kind)
        for split, column in values.items():
            self._labels[split][name] = column

    def _add_column(self, name: str, key: str, kind: str | None = None) -> None:
        """One column, which holds real numbers unless all are 0 and 1."""
        values = self._values(key)
        if any(column.ndim > 1 for column in values.values()):
            raise self.fail(f"{key} must hold one number per clip, but holds several. Choose another column.")
        self._add(name, values, kind or (None if _within(values, (0, 1, -100)) else REGRESSION))

    def _add_labels(self, key: str) -> None:
        """``labels`` in any of their forms, told from their shape and values."""
        value = next(iter(self._contents.values()))[key]
        if isinstance(value, (list, tuple)) or (isinstance(value, StoredArray) and value.dtype.kind in "SUO"):
            texts = self._texts(value, next(iter(self._rows.values())))
            if texts and not _is_number(texts[0][0]):
                self._add_classes(key)
                if not self.emotions:
                    raise self.fail(f"{key} must be numbers, or the names of 2 to 50 classes, but is other text.")
                return
        values = self._values(key)
        every = np.concatenate(list(values.values()))
        if every.ndim == 1:
            self._add_single(key, values, integers=self._holds_integers(key))
        elif every.ndim == 3 and every.shape[2] == 2 or every.shape[1:] == (2,) and _is_one_hot(every):
            pairs = every.reshape(len(every), -1, 2)
            count = pairs.shape[1]
            default = MULT_EMOTIONS if count == 4 else (self._usual_name(),) if count == 1 else ()
            names = self._names_of_columns(count, default)
            if count == 4 and names == list(MULT_EMOTIONS):
                self.notes.append(f"the {count} labels are taken for {', '.join(names)}, MulT's order")
            columns = self._present(pairs, key)
            for index, name in enumerate(names):
                self._add(name, self._split_up(columns[:, index]))
        elif every.ndim == 2:
            traits = every.shape[1] == len(POM_TRAITS) and not _within(values, (0, 1, -100))
            names = self._names_of_columns(every.shape[1], POM_TRAITS if traits else ())
            if names == list(POM_TRAITS):
                self.notes.append("the 16 labels are taken for POM's traits, in the order of the LMF paper")
            for index, name in enumerate(names):
                column = {split: rows[:, index] for split, rows in values.items()}
                self._add(name, column, None if _within(column, (0, 1, -100)) else REGRESSION)
        else:
            raise self.fail(
                f"{key} must have the shape [rows], [rows, tasks] or [rows, tasks, 2], but has {every.shape}."
            )

    def _add_single(self, key: str, values: dict[str, np.ndarray], integers: bool) -> None:
        """One number per clip: 0/1, -1/1, class numbers, or real."""
        every = np.concatenate(list(values.values()))
        known = every[np.isfinite(every)]
        if _within(values, (0, 1, -100)) or _within(values, (-1, 1)):
            if (known == -1).any():
                values = {split: np.where(column == -1, 0, column) for split, column in values.items()}
                self.notes.append(f"{key}: -1 is absent, 1 is present")
            (name,) = self._names_of_columns(1, (self._usual_name(),))
            self._add(name, values)
        elif integers and len(known) and known.min() >= 0:
            count = self._count_classes(every, f"{self.path}: {key}")
            names = self._names_of_columns(count)
            for name, column in self._classes(every, names).items():
                self._add(name, self._split_up(column))
        else:
            (name,) = self._names_of_columns(1, ("sentiment",), taken=MMSA_CLASSES)
            self._add(name, values, REGRESSION)

    def _add_classes(self, key: str) -> None:
        """MMSA's classes: as text, or as numbers whose names are known if there are three."""
        classes: dict[str, list[str | None]] = {}
        if key != "classification_labels":
            for split, content in self._contents.items():
                texts = self._texts(content.get(key), self._rows[split])
                if texts is None:
                    return
                classes[split] = [parts[0] or None for parts in texts]
            spellings = {name for column in classes.values() for name in column if name is not None}
            if not 2 <= len(spellings) <= 50:
                return
            classes = {
                split: [None if name is None else emotion_of(name.replace(" ", "_")) for name in column]
                for split, column in classes.items()
            }
        else:
            values = self._values(key)
            if not _within(values, (0, 1, 2)):
                self._used.discard(key)
                return
            self.notes.append(f"{key}: 0, 1, 2 are taken for {', '.join(MMSA_CLASSES)}")
            classes = {
                split: [None if np.isnan(one) else MMSA_CLASSES[int(one)] for one in column]
                for split, column in values.items()
            }
        self._used.add(key)
        for emotion in sort_emotions({name for column in classes.values() for name in column if name is not None}):
            columns = {
                split: np.array([np.nan if one is None else float(one == emotion) for one in column])
                for split, column in classes.items()
            }
            self._add(emotion, columns)

    def _split_up(self, column: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum(list(self._rows.values()))[:-1]
        return dict(zip(self._rows, np.split(column, ends)))

    def _holds_integers(self, key: str) -> bool:
        return all(
            self._array(content[key], f"data[{split!r}][{key!r}]").dtype.kind in "biu"
            for split, content in self._contents.items()
        )

    def _usual_name(self) -> str:
        """Name of the only binary task: that of the file, if it is one of an emotion (humor.pkl, sarcasm.pkl)."""
        stem = self.path.name.split(".")[0].lower()
        return stem if stem in KNOWN_EMOTIONS else "label"

    def labels(self, split: str) -> np.ndarray:
        """See `Source.labels`."""
        if self._label_problem is not None:
            raise self._label_problem
        columns = np.stack([self._labels[split][name] for name in self.emotions], axis=1)
        return self._checked_labels(columns, f"{self.path}: labels of {split},")

    # -- rows

    def groups(self, split: str) -> list[str] | None:
        """See `Source.groups`: the video, where ids have one of the usual forms."""
        found = [group_of(parts) for parts in self._ids[split] or ()]
        return [name for name in found if name is not None] if found and None not in found else None

    def column_texts(self, split: str, name: str) -> list[str] | None:
        """See `Source.column_texts`."""
        found = self._texts(self._contents[split].get(name), self._rows[split])
        return None if found is None else ["_".join(parts) for parts in found]

    def _read(self, split: str, rows: int) -> Iterator[tuple[list[str] | None, Mapping[str, np.ndarray]]]:
        readers = {modality: row_reader(array) for modality, array in self._arrays[split].items()}
        ids = self._ids[split]
        for start in range(0, self._rows[split], rows):
            stop = min(start + rows, self._rows[split])
            names = None if ids is None else ["_".join(parts) for parts in ids[start:stop]]
            yield names, {modality: read(start, stop) for modality, read in readers.items()}


def _is_flat(tree: Mapping) -> bool:
    """Whether a dict holds features itself."""
    keys = [key for key in tree if isinstance(key, str) and find_modality(key.lower()) is not None]
    return any(isinstance(tree[key], (StoredArray, list)) for key in keys)


def _within(values: Mapping[str, np.ndarray], allowed: tuple[float, ...]) -> bool:
    return all(bool((np.isnan(column) | np.isin(column, allowed)).all()) for column in values.values())


def _is_one_hot(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all() and (values.sum(axis=-1) == 1).all())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
