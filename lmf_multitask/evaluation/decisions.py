"""What tasks decide from predictions, and the rows that metrics are computed from.

Shape letters: N rows (clips), T tasks (emotions), R sets of row weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.errors import DataError
from lmf_multitask.evaluation.weighted_rows import WeightedRows
from lmf_multitask.tasks import log_odds


def task_names(tasks: Sequence[Any]) -> list[str]:
    """Names of tasks, which are `tasks.Task` objects or, where they are binary, plain names."""
    return [getattr(task, "name", task) for task in tasks]


def task_kinds(tasks: Sequence[Any]) -> list[str]:
    """Kinds of tasks; that of a plain name is ``binary``."""
    return [kind_of(task) for task in tasks]


def tasks_of_kind(tasks: Sequence[Any], kind: str) -> list[Any]:
    """Those of a kind."""
    return [task for task in tasks if kind_of(task) == kind]


def kind_of(task: Any) -> str:
    """Kind of a task; that of a plain name is ``binary``."""
    return getattr(task, "kind", "binary")


def threshold_of(task: Any) -> float:
    """The probability above which a task counts as present; one half of a plain name and of other than binary tasks."""
    return getattr(task, "threshold", 0.5)


@dataclass(frozen=True)
class Decisions:
    """What a model decides.

    Attributes:
        present: whether each task counts as present, bool `[N, T]`; of real-valued tasks without meaning.
        chosen: of each row, the number of the one task where exactly one is to be chosen, int64 `[N]`: of the binary ones, that
            with the highest probability as a multiple of its threshold.
    """

    present: np.ndarray
    chosen: np.ndarray

    def select(self, columns: Sequence[int]) -> Decisions:
        """Those of some tasks; where the chosen one is not among them, -1 is chosen."""
        place = np.full(self.present.shape[1] + 1, -1)  # the last is that of -1
        place[columns] = np.arange(len(columns))
        return Decisions(self.present[:, columns], place[self.chosen])

    @staticmethod
    def joined(parts: Sequence[Decisions]) -> Decisions:
        """Those of several groups of rows."""
        return Decisions(np.concatenate([one.present for one in parts]), np.concatenate([one.chosen for one in parts]))


def decisions_of(predictions: np.ndarray, tasks: Sequence[Any]) -> Decisions:
    """Decisions at the thresholds of the tasks, for predictions `[N, T]`."""
    return decide(predictions, list(map(threshold_of, tasks)), tasks)


def decide(
    predictions: np.ndarray, thresholds: float | Sequence[float] | np.ndarray, tasks: Sequence[Any]
) -> Decisions:
    """Decisions at one threshold, or at thresholds `[T]`, for predictions `[N, T]`."""
    limits = np.broadcast_to(np.asarray(thresholds).astype(predictions.dtype), len(tasks))
    binary = np.flatnonzero(np.array(task_kinds(tasks)) == "binary")
    if not len(binary):
        return Decisions(predictions > limits, np.full(len(predictions), -1))
    multiples = predictions[:, binary] / np.maximum(limits[binary], np.finfo(predictions.dtype).tiny)
    return Decisions(predictions > limits, binary[multiples.argmax(axis=1)])


def confidence_of(probabilities: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How probable the chosen of exclusive tasks is.

    Args:
        probabilities: float `[N, T]`, of binary heads.
        chosen: int `[N]`.

    Returns:
        float64 `[N]`: its odds as a share of the odds of all tasks (softmax over the heads' logit differences, which
        `training.joint_loss` fits).
    """
    odds = np.exp(log_odds(probabilities))
    return odds[np.arange(len(odds)), chosen] / odds.sum(axis=1)


def checked_predictions(
    labels: np.ndarray, predictions: np.ndarray, tasks: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels float64 and predictions as arrays `[N, T]`.

    Raises:
        DataError: the shapes differ, or a binary task has a label other than 1, 0 and NaN or a probability outside 0 to 1.
    """
    labels, predictions = np.asarray(labels, np.float64), np.asarray(predictions)
    if labels.ndim != 2 or labels.shape != predictions.shape or labels.shape[1] != len(tasks):
        raise DataError(
            f"labels and predictions must have the shape [rows, {len(tasks)}], "
            f"but got {list(labels.shape)} and {list(predictions.shape)}."
        )
    if not np.isfinite(predictions).all():
        raise DataError("predictions must be finite, but some are NaN or infinite. Check the features and the model.")
    binary = np.array(task_kinds(tasks)) == "binary"
    probabilities, given = predictions[:, binary], labels[:, binary]
    wrong = probabilities[(probabilities < 0) | (probabilities > 1)]
    if wrong.size:
        raise DataError(f"probabilities must be from 0 to 1, but got {wrong[0]:.6g}. Give probabilities, not logits.")
    odd = given[~(np.isnan(given) | (given == 0) | (given == 1))]
    if odd.size:
        raise DataError(f"labels must be 1, 0 or NaN (not annotated), but got {odd[0]:g}.")
    if np.isinf(labels).any():
        raise DataError("labels must be finite or NaN (not annotated), but some are infinite. Check the data.")
    return labels, predictions


def task_rows(
    labels: np.ndarray,
    predictions: np.ndarray,
    tasks: Sequence[Any],
    *,
    decisions: Decisions | None = None,
    weights: np.ndarray | None = None,
) -> list[WeightedRows]:
    """One `WeightedRows` per task; without decisions, those of `decisions_of`."""
    present = (decisions or decisions_of(predictions, tasks)).present
    return [
        WeightedRows(labels[:, t], predictions[:, t], present[:, t], weights, range=getattr(task, "range", None))
        for t, task in enumerate(tasks)
    ]


def exclusive_rows(labels: np.ndarray) -> np.ndarray | None:
    """Which rows of binary labels `[N, T]` are annotated for all tasks, bool `[N]`.

    None unless there are such rows and each has exactly one task present (exclusive tasks).
    """
    annotated = ~np.isnan(labels).any(axis=1)
    if labels.shape[1] < 2 or not annotated.any() or ((labels[annotated] == 1).sum(axis=1) != 1).any():
        return None
    return annotated


def exclusive_decision(
    labels: np.ndarray,
    predictions: np.ndarray,
    tasks: Sequence[Any],
    decisions: Decisions | None = None,
    weights: np.ndarray | None = None,
) -> WeightedRows | None:
    """The one decision among all binary tasks; None unless labels are exclusive."""
    binary = np.flatnonzero(np.array(task_kinds(tasks)) == "binary")
    labels, probabilities = labels[:, binary], predictions[:, binary]
    rows = exclusive_rows(labels)
    if rows is None:
        return None
    chosen = (decisions or decisions_of(predictions, tasks)).chosen
    if (chosen < 0).any():  # of other tasks, too
        chosen = binary[probabilities.argmax(axis=1)]
    truth = np.where(rows, np.nan_to_num(labels).argmax(axis=1), np.nan)
    return WeightedRows(truth, probabilities.max(axis=1), np.searchsorted(binary, chosen), weights, labels.shape[1])
