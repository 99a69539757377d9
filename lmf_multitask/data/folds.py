"""Cross-validation: which clips are train, validation and test of a fold, computed anew from labels and groups each time.

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.errors import DataError

MOST_FOLDS = 100
VALIDATION_PART = 8
"""One in so many clips that are not test clips of a fold is drawn for validation; of fewer groups, one group."""


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation.

    Attributes:
        by: number of folds, or the name of the groups of which each is left out once.
        number: of this fold, from 1.
        seed: of all draws.
        stratify: label columns whose shares the folds keep; None for the tasks to learn.
    """

    by: int | str
    number: int
    seed: int = 0
    stratify: Sequence[str] | None = None


def describe_folds(folds: Sequence[Sequence[str]]) -> str:
    """What a cross-validation does with groups, given the test groups of every fold."""
    groups = sum(map(len, folds))
    if not groups:
        return (
            f"{len(folds)} folds without groups, so that clips of one speaker may be in train and test; name the speakers, "
            "sessions or dialogues with --data.group_column"
        )
    return f"{len(folds)} folds of {groups:,} groups, none of which is in two splits"


def assign_folds(labels: np.ndarray, groups: np.ndarray | None, by: int | str, seed: int) -> np.ndarray:
    """Number of the fold, from 0, in which each clip is a test clip: int `[N]`.

    Args:
        labels: float `[N, T]`, NaN not annotated. Folds keep the shares of their combinations, as far as groups allow.
        groups: text `[N]`; clips of one group are in one fold. None: every clip by itself.
        by: number of folds, or the name of the groups: then there is a fold for each, in alphabetical order.
        seed: of the draw.

    Raises:
        DataError: there are too few clips or groups, or too many folds.
    """
    if groups is not None:
        names, numbers = np.unique(groups, return_inverse=True)
        if len(names) < 3:
            raise DataError(
                f"cross-validation by group must have at least 3 groups, for train, validation and test, but has "
                f"{', '.join(names)}. Choose others with --data.group_column."
            )
    if isinstance(by, str):
        if groups is None:
            raise DataError(f"folds must be a number, or name groups that the data have, but is {by!r}.")
        if len(names) > MOST_FOLDS:
            raise DataError(
                f"folds must be at most {MOST_FOLDS}, but {by!r} has {len(names):,} groups. Take a number: --folds 5 "
                f"--data.group_column {by}."
            )
        return numbers
    most, what = (len(labels), "clips") if groups is None else (len(names), "groups")
    if by > most:
        raise DataError(f"folds must be at most the number of {what}, {most}, but got {by}. Take fewer.")
    found = np.empty(len(labels), np.int64)
    for fold, rows in enumerate(_parts(labels, groups, by, seed)):
        if not len(rows):
            raise DataError(f"folds must have test clips each, but fold {fold + 1} of {by} has none. Take fewer folds.")
        found[rows] = fold
    return found


def split_of_rows(labels: np.ndarray, groups: np.ndarray | None, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """The split of each clip in a fold.

    Args:
        labels: float `[N, T]`, see `assign_folds`.
        groups: text `[N]`, or None.
        fold: which one.

    Returns:
        ``train``, ``validation`` or ``test``, text `[N]`; and `assign_folds`.

    Raises:
        DataError: see `assign_folds`, or there is no such fold.
    """
    folds = assign_folds(labels, groups, fold.by, fold.seed)
    count = int(folds.max()) + 1
    if fold.number > count:
        raise DataError(f"fold must be from 1 to {count}, but got {fold.number}. Choose another --fold.")
    split = np.where(folds == fold.number - 1, "test", "train").astype("<U10")
    rest = np.flatnonzero(split == "train")
    own = None if groups is None else groups[rest]
    parts = min(VALIDATION_PART, len(rest) if own is None else len(np.unique(own)))
    if parts < 2:
        raise DataError(f"fold {fold.number} must leave clips for train and validation, but leaves {len(rest)}.")
    chosen = np.random.default_rng((fold.seed, fold.number)).integers(parts)
    split[rest[_parts(labels[rest], own, parts, fold.seed)[chosen]]] = "validation"
    return split, folds


def _parts(labels: np.ndarray, groups: np.ndarray | None, count: int, seed: int) -> list[np.ndarray]:
    """Rows of each of `count` parts with like shares of labels, groups whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind: Any = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(count, shuffle=True, random_state=seed)
    return [rows for _, rows in splitter.split(np.empty(len(labels)), _strata(labels, count), groups)]


def _strata(labels: np.ndarray, fewest: int) -> np.ndarray:
    """Combinations of labels as numbers `[N]`; real values by quartile, and rare combinations with the most frequent one."""
    columns = []
    for values in labels.T:
        known = values[~np.isnan(values)]
        if not np.isin(known, (0, 1)).all():
            values = np.where(np.isnan(values), np.nan, np.digitize(values, np.quantile(known, (0.25, 0.5, 0.75))))
        columns.append(np.nan_to_num(values, nan=-1))
    _, strata, counts = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True, return_counts=True)
    strata = strata.ravel()
    return np.where(counts[strata] < fewest, counts.argmax(), strata)
