"""``predictions.csv``, of our own runs and of anybody's model, read strictly and joined by clip.

Columns: ``id``; per emotion ``EMOTION_probability`` and, where labels are known, ``EMOTION_label`` (1, 0 or -100).
``EMOTION_prediction`` is ignored: decisions are made at one half.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import DataError

PREDICTIONS_FILE = "predictions.csv"
_PROBABILITY, _LABEL, _PREDICTION = "_probability", "_label", "_prediction"


@dataclass(frozen=True)
class Predictions:
    """What one model says of some clips.

    Attributes:
        name: of the model, in tables.
        source: where they were read.
        ids: names of the N clips, all different.
        emotions: names of the T tasks.
        labels: int64 `[N, T]`, -100 where unknown.
        labelled: whether the file has labels at all.
        probabilities: float64 `[N, T]`.
    """

    name: str
    source: Path
    ids: list[str]
    emotions: list[str]
    labels: np.ndarray
    labelled: bool
    probabilities: np.ndarray

    def select(self, ids: Sequence[str], emotions: Sequence[str]) -> Predictions:
        """The same for some clips and emotions, in the given order."""
        row_of = {name: row for row, name in enumerate(self.ids)}
        rows = np.array([row_of[name] for name in ids], np.int64)
        columns = [self.emotions.index(name) for name in emotions]
        return dataclasses.replace(
            self,
            ids=list(ids),
            emotions=list(emotions),
            labels=self.labels[rows][:, columns],
            probabilities=self.probabilities[rows][:, columns],
        )


def read_predictions(path: str | Path, name: str | None = None) -> Predictions:
    """Reads one ``predictions.csv``.

    Raises:
        DataError: the file is missing, or not of the form above.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            heads = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise DataError(
            f"{path}: must be there, but is missing. Let the training finish, or give a predictions.csv."
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: must be a CSV file in UTF-8, but {error}.") from None
    emotions = [head.removesuffix(_PROBABILITY) for head in heads if head.endswith(_PROBABILITY)]
    if "id" not in heads or not emotions:
        raise DataError(
            f"{path}: must have the columns id and EMOTION{_PROBABILITY}, but has {', '.join(heads)[:200] or 'none'}. "
            "Add a header."
        )
    if len(set(heads)) != len(heads):
        raise DataError(f"{path}: columns must have different names, but {', '.join(heads)[:200]} has one twice.")
    if not rows:
        raise DataError(f"{path}: must have at least one row, but has none. Check the file.")
    short = next(((line, row) for line, row in rows if len(row) != len(heads)), None)
    if short is not None:
        raise DataError(
            f"{path}: line {short[0]} must have {len(heads)} values, but has {len(short[1])}. Check the file."
        )
    place = {head: column for column, head in enumerate(heads)}
    ids = [row[place["id"]] for _, row in rows]
    seen: set[str] = set()
    for clip in ids:
        if clip in seen:
            raise DataError(
                f"{path}: every id must stand in one row, but {clip!r} stands in several. Remove the others."
            )
        seen.add(clip)
    known = [emotion for emotion in emotions if emotion + _LABEL in place]
    probabilities = np.empty((len(rows), len(emotions)))
    labels = np.full((len(rows), len(emotions)), NOT_ANNOTATED, np.int64)
    for t, emotion in enumerate(emotions):
        for number, (line, row) in enumerate(rows):
            probabilities[number, t] = _probability(path, line, emotion, row[place[emotion + _PROBABILITY]])
            if emotion in known:
                labels[number, t] = _label(path, line, emotion, row[place[emotion + _LABEL]])
    return Predictions(name or path.parent.name, path, ids, emotions, labels, bool(known), probabilities)


def _probability(path: Path, line: int, emotion: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise DataError(f"{path}: {emotion}{_PROBABILITY} in line {line} must be from 0 to 1, but is {text!r}.")
    return value


def _label(path: Path, line: int, emotion: str, text: str) -> int:
    if text not in ("0", "1", str(NOT_ANNOTATED), ""):
        raise DataError(
            f"{path}: {emotion}{_LABEL} in line {line} must be 1, 0, -100 or empty (not annotated), but is {text!r}."
        )
    return int(text) if text else NOT_ANNOTATED


def join_emotions(parts: Sequence[Predictions], name: str, source: Path) -> Predictions:
    """Per-emotion predictions as one model's, for the clips that all parts have.

    Raises:
        DataError: two parts have the same emotion, or there is no common clip.
    """
    emotions = [emotion for part in parts for emotion in part.emotions]
    if len(set(emotions)) != len(emotions):
        raise DataError(
            f"{source}: must hold one run per emotion, but has {', '.join(emotions)}. Give one run directory."
        )
    ids = shared_ids(parts)
    chosen = [part.select(ids, part.emotions) for part in parts]
    return Predictions(
        name,
        source,
        ids,
        emotions,
        np.concatenate([part.labels for part in chosen], axis=1),
        all(part.labelled for part in parts),
        np.concatenate([part.probabilities for part in chosen], axis=1),
    )


def shared_ids(parts: Sequence[Predictions]) -> list[str]:
    """The clips that all have, in the order of the first.

    Raises:
        DataError: there is none.
    """
    others = [set(part.ids) for part in parts[1:]]
    ids = [clip for clip in parts[0].ids if all(clip in other for other in others)]
    if not ids:
        raise DataError(
            f"{parts[0].source} and {', '.join(str(part.source) for part in parts[1:])}: must have common ids, but have none. "
            "Compare predictions for the same rows."
        )
    return ids
