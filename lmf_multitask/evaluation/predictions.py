"""``predictions.csv``, of this package's runs or of any other model: written, read strictly, and joined by clip.

Columns that are read: ``id``; per emotion ``EMOTION_probability``, per real-valued task ``TASK_value``, and, where labels are
known, ``TASK_label`` (of an emotion 1 or 0; empty where the clip is not annotated; -100 of an emotion is read as empty);
``EMOTION_prediction``, the decision, 1 or 0 (without it: 1 where the probability is above one half). An id that a spreadsheet
would take for a formula is written behind an apostrophe, which is removed when it is read.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.errors import ConfigError, DataError
from lmf_multitask.evaluation.decisions import (
    Decisions,
    confidence_of,
    decisions_of,
    exclusive_rows,
    task_kinds,
    task_names,
)
from lmf_multitask.evaluation.metrics import REGRESSION
from lmf_multitask.files import read_text, write_text
from lmf_multitask.tasks import RegressionTask

PREDICTIONS_FILE = "predictions.csv"
MOST_BYTES = 1 << 30
"""Largest file that is read: about ten million clips."""

_PROBABILITY, _VALUE, _LABEL, _PREDICTION = "_probability", "_value", "_label", "_prediction"
_DECIDED = "decided"
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")  # also behind apostrophes, so that removing one is never ambiguous


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for some clips.

    Attributes:
        name: of the model, in tables.
        source: the file that they were read from.
        ids: names of the N clips, all different.
        tasks: the T tasks, `tasks.Task` objects or names of binary ones.
        labels: float64 `[N, T]`, NaN where unknown.
        probabilities: float64 `[N, T]`; of real-valued tasks the predictions.
        given: decisions of the model; None: those at the thresholds of the tasks.
    """

    name: str
    source: Path
    ids: list[str]
    tasks: list[Any]
    labels: np.ndarray
    probabilities: np.ndarray
    given: Decisions | None = None

    @property
    def decisions(self) -> Decisions:
        """Decisions of the model."""
        return self.given or decisions_of(self.probabilities, self.tasks)

    @property
    def emotions(self) -> list[str]:
        """Names of the T tasks."""
        return task_names(self.tasks)

    def select(self, ids: Sequence[str], emotions: Sequence[str]) -> Predictions:
        """Those for some clips and emotions, in the given order."""
        row_of = {name: row for row, name in enumerate(self.ids)}
        rows = np.array([row_of[name] for name in ids], np.int64)
        columns = [self.emotions.index(name) for name in emotions]
        return dataclasses.replace(
            self,
            ids=list(ids),
            tasks=[self.tasks[column] for column in columns],
            labels=self.labels[rows][:, columns],
            probabilities=self.probabilities[rows][:, columns],
            given=Decisions(self.decisions.present[rows], self.decisions.chosen[rows]).select(columns),
        )


def read_predictions(path: str | Path, name: str | None = None) -> Predictions:
    """Reads one ``predictions.csv``.

    Raises:
        DataError: the file is missing, or not of the form above.
    """
    path = Path(path)
    try:
        reader = csv.reader(io.StringIO(read_text(path, MOST_BYTES).removeprefix("\ufeff"), newline=""))
        heads = next(reader, [])
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path}: must be a CSV file, but {error}. Check the file.") from None
    columns = {head: suffix for head in heads for suffix in (_PROBABILITY, _VALUE) if head.endswith(suffix)}
    shown = ", ".join(heads)[:200] or "none"
    if "id" not in heads or not columns:
        raise DataError(
            f"{path}: must have the columns id and EMOTION{_PROBABILITY} (or TASK{_VALUE}), but has {shown}. Add a header."
        )
    if len(set(heads)) != len(heads):
        raise DataError(f"{path}: columns must have different names, but {shown} has one twice.")
    if not rows:
        raise DataError(f"{path}: must have at least one row, but has none. Check the file.")
    try:
        tasks: list[Any] = [
            RegressionTask(head.removesuffix(_VALUE)) if suffix == _VALUE else head.removesuffix(_PROBABILITY)
            for head, suffix in columns.items()
        ]
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from None
    column_of = {head: column for column, head in enumerate(heads)}
    ids: dict[str, int] = {}
    probabilities = np.empty((len(rows), len(tasks)))
    labels = np.full(probabilities.shape, np.nan)
    present, chosen = np.zeros(probabilities.shape, bool), np.full(len(rows), -1)
    names = task_names(tasks)
    for number, (line, row) in enumerate(rows):
        if len(row) != len(heads):
            raise DataError(f"{path}: line {line} must have {len(heads)} values, but has {len(row)}. Check the file.")
        clip = row[column_of["id"]]
        clip = clip[1:] if clip.startswith("'") and _FORMULA.match(clip) else clip
        if clip in ids:
            raise DataError(f"{path}: every id must be in one row, but {clip!r} is in several. Remove the others.")
        ids[clip] = number
        for t, (name_of_task, (head, kind)) in enumerate(zip(names, columns.items())):
            probabilities[number, t] = _cell(path, line, head, row[column_of[head]], kind)
            label, decision = name_of_task + _LABEL, name_of_task + _PREDICTION
            if label in column_of and row[column_of[label]]:
                value = _cell(path, line, label, row[column_of[label]], _VALUE if kind == _VALUE else _LABEL)
                labels[number, t] = np.nan if kind != _VALUE and value == -100 else value
            if decision in column_of and kind == _PROBABILITY:
                present[number, t] = _cell(path, line, decision, row[column_of[decision]], _PREDICTION)
            else:
                present[number, t] = probabilities[number, t] > 0.5
        if _DECIDED in column_of:
            text = row[column_of[_DECIDED]]
            if text not in names:
                raise DataError(
                    f"{path}: {_DECIDED} in line {line} must be one of {', '.join(names)}, but is {text!r}."
                )
            chosen[number] = names.index(text)
    decisions = Decisions(present, chosen if _DECIDED in column_of else decisions_of(probabilities, tasks).chosen)
    return Predictions(name or path.parent.name, path, list(ids), tasks, labels, probabilities, decisions)


_VALID: dict[str, tuple[str, Callable[[float], bool]]] = {
    _VALUE: ("a number", math.isfinite),
    _PROBABILITY: ("from 0 to 1", lambda value: 0 <= value <= 1),
    _LABEL: ("1, 0 or empty (not annotated)", lambda value: value in (0, 1, -100) or math.isnan(value)),
    _PREDICTION: ("1 or 0", lambda value: value in (0, 1)),
}
"""Kind of column -> what a cell must be."""


def _cell(path: Path, line: int, head: str, text: str, kind: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    rule, valid = _VALID[kind]
    if not valid(value):
        raise DataError(f"{path}: {head} in line {line} must be {rule}, but is {text!r}.")
    return value


def predictions_csv(
    ids: Sequence[str],
    probabilities: np.ndarray,
    tasks: Sequence[Any],
    *,
    labels: np.ndarray | None = None,
    missing: Sequence[str] | None = None,
    decisions: Decisions | None = None,
    exclusive: bool = False,
    head: bool = True,
) -> str:
    """Text of a ``predictions.csv``, or of some rows of it.

    Args:
        ids: names of the N clips.
        probabilities: float `[N, T]`; of real-valued tasks the predictions.
        tasks: the T tasks, `tasks.Task` objects or names of binary ones.
        labels: float `[N, T]`, NaN not annotated; None writes no label columns.
        missing: names of the missing modalities of each clip; None writes no such column.
        decisions: of the model; None: `decisions.decisions_of`.
        exclusive: add the columns ``decided`` and ``confidence``, see `decisions.Decisions`.
        head: write the names of the columns first.
    """
    columns = {"id": _safe_ids(ids)}
    if missing is not None:
        columns["missing"] = list(missing)
    decisions = decisions or decisions_of(probabilities, tasks)
    binary = [t for t, kind in enumerate(task_kinds(tasks)) if kind != REGRESSION]
    for t, name in enumerate(task_names(tasks)):
        if t not in binary:
            if labels is not None:
                columns[name + _LABEL] = ["" if one != one else f"{one:.9g}" for one in labels[:, t].tolist()]
            columns[name + _VALUE] = [f"{value:.9g}" for value in probabilities[:, t].tolist()]
            continue
        if labels is not None:
            columns[name + _LABEL] = ["" if label != label else str(int(label)) for label in labels[:, t].tolist()]
        columns[name + _PROBABILITY] = [f"{value:.9g}" for value in probabilities[:, t].tolist()]
        columns[name + _PREDICTION] = [str(int(one)) for one in decisions.present[:, t]]
    if exclusive:
        columns[_DECIDED] = [task_names(tasks)[t] for t in decisions.chosen]
        confidence = confidence_of(probabilities[:, binary], np.searchsorted(binary, decisions.chosen))
        columns["confidence"] = [f"{value:.9g}" for value in confidence.tolist()]
    return _csv(columns, head)


def _safe_ids(ids: Sequence[str]) -> list[str]:
    return ["'" + clip if _FORMULA.match(clip) else clip for clip in ids]


def _csv(columns: Mapping[str, Sequence[str]], head: bool = True) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if head:
        writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    return buffer.getvalue()


def changes_csv(ids: Sequence[str], tasks: Sequence[str], changes: Mapping[str, np.ndarray]) -> str:
    """Text of a ``without.csv``: the columns ``TASK_without_MODALITY``, prediction without it minus prediction with all.

    Args:
        ids: names of the N clips.
        tasks: names of the T tasks.
        changes: modality -> float `[N, T]`.
    """
    columns = {"id": _safe_ids(ids)}
    for t, task in enumerate(tasks):
        for modality, values in changes.items():
            columns[f"{task}_without_{modality}"] = [f"{value:.6g}" for value in values[:, t].tolist()]
    return _csv(columns)


def write_predictions(
    path: Path,
    ids: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    tasks: Sequence[Any],
    decisions: Decisions | None = None,
) -> None:
    """Writes one ``predictions.csv`` with labels; see `predictions_csv`."""
    binary = [t for t, kind in enumerate(task_kinds(tasks)) if kind != REGRESSION]
    exclusive = exclusive_rows(labels[:, binary]) is not None
    write_text(
        path, predictions_csv(ids, probabilities, tasks, labels=labels, decisions=decisions, exclusive=exclusive)
    )


def shared_ids(parts: Sequence[Predictions]) -> list[str]:
    """The clips that all parts have, in the order of the first.

    Raises:
        DataError: there is none.
    """
    others = [set(part.ids) for part in parts[1:]]
    ids = [clip for clip in parts[0].ids if all(clip in other for other in others)]
    if not ids:
        raise DataError(
            f"{parts[0].source} and {', '.join(str(part.source) for part in parts[1:])}: must have common ids, but have "
            "none. Compare predictions for the same rows."
        )
    return ids
