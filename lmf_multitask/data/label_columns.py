"""Which columns of a table, or arrays of an archive, are labels; and one task per class of a column of classes.

A column is a label column by its name or because the user chose it; everything else is listed as ignored.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lmf_multitask.data.schema import emotion_of, is_known, sort_emotions
from lmf_multitask.data.sources import Candidate, Reading, Source
from lmf_multitask.errors import DataError, suggestion

NUMBER, TEXT, OTHER = "number", "text", "other"

ID_COLUMNS = ("id", "clip", "clip_id", "name", "filename", "file", "utterance_id", "segment")
"""Names of a column with the names of the clips; the first that is there."""

_CLASS_COLUMNS = ("emotion", "emotions", "label", "labels", "class", "discrete", "sentiment")
"""Names of a column with one class per clip that need not be chosen; the first that is there."""

_MOST_CLASSES = 64
_UNANNOTATED = ("", "nan", "none", "null")


@dataclass(frozen=True)
class Choice:
    """The columns with labels.

    Attributes:
        labels: task -> column of numbers.
        classes: the column with one class per clip, if labels come from one.
        ignored: all other columns.
    """

    labels: dict[str, str]
    classes: str | None
    ignored: list[str]


def choose(kinds: Mapping[str, str], reading: Reading, where: str) -> Choice:
    """Finds the label columns.

    Args:
        kinds: column -> `NUMBER`, `TEXT` or `OTHER`, without features, ids and splits.
        reading: what the user said.
        where: the file, for messages.

    Raises:
        DataError: a chosen column is missing or of another kind, or two tasks have one name.
    """
    config = reading.config
    if config.labels and config.class_column:
        raise DataError(f"{where} must have one kind of labels, but got data.labels and data.class_column. Choose one.")
    if config.class_column is not None:
        column = _existing(config.class_column, kinds, where, "data.class_column")
        if kinds[column] == OTHER:
            raise DataError(f"{where}: column {column!r} must hold a class per clip, but holds lists. Choose another.")
        return Choice({}, column, [name for name in kinds if name != column])
    if config.labels is not None:
        chosen = [_existing(name, kinds, where, "data.labels") for name in config.labels]
    else:
        wanted = reading.emotions or ()
        chosen = [
            name
            for name, kind in kinds.items()
            if (is_known(name) or name in wanted) and not (kind == TEXT and name.lower() in _CLASS_COLUMNS)
        ]
    for name in chosen:
        if kinds[name] != NUMBER:
            raise DataError(
                f"{where}: label column {name!r} must hold numbers, but holds {kinds[name]}. Store 0 and 1, or choose other "
                "columns with --data.labels."
            )
    labels = {emotion_of(name): name for name in chosen}
    if len(labels) != len(chosen):
        raise DataError(f"{where}: emotions must be different, but got {', '.join(chosen)[:80]}. Rename one.")
    classes = None
    if not labels and config.labels is None:
        by_name = {name.lower(): name for name in kinds if kinds[name] != OTHER}
        classes = next((by_name[name] for name in _CLASS_COLUMNS if name in by_name), None)
    return Choice(labels, classes, [name for name in kinds if name not in chosen and name != classes])


class Classes:
    """The tasks that one column of classes stands for."""

    def __init__(
        self, column: str, values: Iterable[object], names: Sequence[str] | None = None, *, where: str
    ) -> None:
        """Takes the different values of a column.

        Args:
            column: its name.
            values: texts or numbers; empty texts, NaN, None and numbers below zero are clips that nobody annotated.
            names: of the classes 0, 1, ..., where the file states them.
            where: the file, for messages.

        Raises:
            DataError: they are no classes: too many, or numbers that are not whole.
        """
        self._where = f"{where}: column {column!r}"
        found: set[Any] = {value for value in values if not _unannotated(value)}
        if len(found) > _MOST_CLASSES:
            raise DataError(
                f"{self._where} must hold at most {_MOST_CLASSES} classes, but holds {len(found):,} different values. Choose the "
                "column with --data.class_column, or label columns with --data.labels."
            )
        numbers = sorted(value for value in found if not isinstance(value, str))
        fractional = next((value for value in numbers if value != int(value)), None)
        if fractional is not None:
            raise DataError(
                f"{self._where} must hold classes, but holds {fractional:g}. Choose label columns with --data.labels."
            )
        self.binary = names is None and bool(numbers) and set(numbers) <= {0, 1} and len(numbers) == len(found)
        self._task: dict[Any, str] = {}
        for value in numbers:
            if names is not None and not value < len(names):
                raise DataError(
                    f"{self._where} must hold classes below {len(names)}, but holds {value:g}. Check the file."
                )
            text = names[int(value)] if names is not None else f"{column}_{int(value)}"
            self._task[value] = emotion_of(text)
        texts = sorted(value for value in found if isinstance(value, str))
        self._task.update({value: emotion_of(value.strip()) for value in texts})
        if self.binary:
            self.tasks = [emotion_of(column)]
        else:
            tasks = dict.fromkeys(self._task.values())
            self.tasks = list(tasks) if names or numbers else sort_emotions(tasks)

    @property
    def note(self) -> str:
        """What was decided."""
        if self.binary:
            return f"{self._where} holds 0 and 1: one task"
        return f"{self._where} holds one class per clip: one task for each of {', '.join(self.tasks)}"

    def labels(self, values: np.ndarray) -> np.ndarray:
        """Values `[N]` of the column -> labels float64 `[N, T]`: 1 for the class of a clip, NaN without one."""
        found = np.full((len(values), len(self.tasks)), np.nan)
        for row, value in enumerate(values.tolist()):
            if _unannotated(value):
                continue
            if self.binary:
                found[row] = value
            else:
                found[row] = 0
                found[row, self.tasks.index(self._task[value])] = 1
        return found


class ColumnSource(Source):
    """A source whose labels are columns of a table, or arrays of an archive."""

    parts: ClassVar[str] = "columns"
    """What it consists of."""

    def __init__(self, candidate: Candidate, reading: Reading) -> None:
        """Starts without labels: subclasses call `_find_labels`."""
        super().__init__(candidate, reading)
        self._label_problem: DataError | None = None
        self._label_columns: list[str] = []
        self._classes: Classes | None = None

    @abstractmethod
    def _nested_names(self, kinds: Mapping[str, str]) -> Sequence[str] | None:
        """Names of the tasks whose labels are together in a column ``labels``; None without such a column."""

    @abstractmethod
    def _classes_in(self, column: str) -> tuple[Iterable[object], Sequence[str] | None]:
        """The different values of a column of classes, and the names of classes 0, 1, ... where they are stated."""

    def _find_labels(self, kinds: Mapping[str, str]) -> None:
        """Sets `emotions`, and what their labels are made of; files without usable labels can be predicted.

        Args:
            kinds: see `choose`.
        """
        try:
            nested = self._nested_names(kinds)
            if nested is not None and not (self.reading.config.labels or self.reading.config.class_column):
                self.emotions, self._label_columns = list(map(emotion_of, nested)), ["labels"]
                if len(set(self.emotions)) != len(self.emotions):
                    raise self.fail(
                        f"emotions must be different, but got {', '.join(self.emotions)[:80]}. Rename them."
                    )
                self._note_ignored([name for name in kinds if name != "labels"])
                if not self.emotions:
                    raise self.fail(
                        "the label columns must have names, but the file has none. Give them in their order with --emotions."
                    )
                return
            choice = choose(kinds, self.reading, str(self.path))
            self._label_columns, self.emotions = list(choice.labels.values()), list(choice.labels)
            if choice.classes is not None:
                self._label_columns = [choice.classes]
                self._classes = Classes(choice.classes, *self._classes_in(choice.classes), where=str(self.path))
                self.emotions = self._classes.tasks
                self.notes.append(self._classes.note.removeprefix(f"{self.path}: "))
            self._note_ignored(choice.ignored)
            if not self.emotions:
                columns = [name[:40] for name, kind in kinds.items() if kind != OTHER]
                raise self.fail(
                    "must have labels: a column 'labels' or 'emotion', or columns of 0 and 1 named like emotions, but has "
                    f"{', '.join(columns[:12]) or 'no other column'}. Choose them with --data.labels, or with --data.class_column "
                    "one column that names the class of each clip."
                )
        except DataError as error:
            self._label_problem = error if str(self.path) in str(error) else self.fail(str(error))
            self.emotions = []

    def _note_ignored(self, names: Sequence[str]) -> None:
        if names:
            shown = ", ".join(ascii(name)[1:-1][:40] for name in names[:12])
            self.notes.append(f"ignored {self.parts}: {shown}" + (" and more" if len(names) > 12 else ""))

    def _named_labels(self, values: np.ndarray, where: str) -> np.ndarray:
        """Checks `[N, T]` against the names, and as `_checked_labels`."""
        if values.shape[1] != len(self.emotions):
            raise self.fail(
                f"labels must have one column per emotion, but have {values.shape[1]} for {len(self.emotions)} names. Name all of "
                "them, in their order, with --emotions."
            )
        return self._checked_labels(values, where)


def _unannotated(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _UNANNOTATED
    return value is None or value != value or value < 0


def _existing(name: str, kinds: Mapping[str, str], where: str, option: str) -> str:
    if name not in kinds:
        shown = ", ".join(one[:40] for one in list(kinds)[:12]) or "none"
        hint = suggestion(name, list(kinds)) or " Choose among these."
        raise DataError(f"{where} must have the column {name!r} of {option}, but has {shown}.{hint}")
    return name
