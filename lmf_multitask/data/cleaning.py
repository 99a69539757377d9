"""Cleaning of features, block by block: numbers that are not finite, sequences that are too long; and their statistics.

Shape letters: n rows (clips), L steps, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lmf_multitask.data.modality import missing_clips, present_steps
from lmf_multitask.data.quality import Extremes
from lmf_multitask.errors import DataError

NonFinitePolicy = Literal["zero", "error"]


@dataclass
class ModalityFacts:
    """Statistics of one modality of one split.

    Attributes:
        shape: of the whole column, rows first.
        nan: number of NaN.
        infinite: number of infinities.
        missing: number of clips that lack the modality.
        smallest: smallest number, after cleaning.
        largest: largest number, after cleaning.
        constant_columns: features that have the same value in every clip (vectors only).
        lengths: shortest, median and longest number of steps of a clip that has the modality (sequences only).
        padded_clips: clips padded in front, at the end, and with missing steps in between (sequences only).
    """

    shape: tuple[int, ...]
    nan: int
    infinite: int
    missing: int
    smallest: float
    largest: float
    constant_columns: list[int] = field(default_factory=list)
    lengths: tuple[int, int, int] | None = None
    padded_clips: tuple[int, int, int] | None = None


class Cleaning:
    """Cleans one modality of one split block by block, and collects its statistics.

    Attributes:
        extremes: finds outliers.
    """

    def __init__(self, modality: str, policy: NonFinitePolicy = "zero") -> None:
        """Starts without rows.

        Args:
            modality: its name, for the message.
            policy: ``zero`` replaces numbers that are not finite by 0; ``error`` refuses them, at the end.
        """
        self._modality, self._policy = modality, policy
        self._rows = self._nan = self._infinite = self._missing = 0
        self._smallest, self._largest = np.inf, -np.inf
        self._first: np.ndarray | None = None
        self._constant: np.ndarray | None = None
        self._lengths: list[np.ndarray] = []  # two bytes per clip: the median needs all of them
        self._padded = np.zeros(3, np.int64)
        self._shape: tuple[int, ...] = ()
        self.extremes = Extremes()

    def take(self, features: np.ndarray, ids: Sequence[str] | None = None) -> np.ndarray:
        """Cleans the next rows.

        Args:
            features: float32 `[n, D]` or `[n, L, D]`, one row at least.
            ids: of the rows; None searches for no outliers.

        Returns:
            The same array if it is finite, otherwise a copy with zeros in place of NaN and infinities.
        """
        finite = np.isfinite(features)
        if not finite.all():
            nan = int(np.isnan(features).sum())
            self._nan, self._infinite = self._nan + nan, self._infinite + int((~finite).sum()) - nan
            features = np.where(finite, features, np.float32(0))
        self._smallest = min(self._smallest, float(features.min()))
        self._largest = max(self._largest, float(features.max()))
        self._missing += int(missing_clips(features).sum())
        if ids is not None:
            self.extremes.take(features, ids)
        if features.ndim == 2:
            self._first = features[0].copy() if self._first is None else self._first
            same = (features == self._first).all(axis=0)
            self._constant = same if self._constant is None else self._constant & same
        else:
            steps = present_steps(features)
            self._measure_padding(steps[steps.any(axis=1)])
        self._rows, self._shape = self._rows + len(features), features.shape[1:]
        return features

    def _measure_padding(self, steps: np.ndarray) -> None:
        if not len(steps):
            return
        first = steps.argmax(axis=1)
        last = steps.shape[1] - 1 - steps[:, ::-1].argmax(axis=1)
        lengths = last - first + 1
        self._lengths.append(lengths.astype(np.min_scalar_type(steps.shape[1])))
        gaps = lengths != steps.sum(axis=1)
        self._padded += [(first > 0).sum(), (last < steps.shape[1] - 1).sum(), gaps.sum()]

    def facts(self) -> ModalityFacts:
        """Statistics of all rows so far, one at least.

        Raises:
            DataError: the policy is ``error`` and a number was not finite.
        """
        if self._policy == "error" and (self._nan or self._infinite):
            raise DataError(
                f"{self._modality} must be finite, but has {self._nan} NaN and {self._infinite} infinite values. "
                "Use --data.non_finite zero."
            )
        facts = ModalityFacts(
            (self._rows, *self._shape), self._nan, self._infinite, self._missing, self._smallest, self._largest
        )
        if self._constant is not None:
            facts.constant_columns = np.flatnonzero(self._constant).tolist()
        if self._lengths:
            lengths = np.concatenate(self._lengths)
            facts.lengths = (int(lengths.min()), int(np.median(lengths)), int(lengths.max()))
            front, end, gaps = self._padded.tolist()
            facts.padded_clips = (front, end, gaps)
        return facts


def shorten(values: np.ndarray, length: int) -> tuple[np.ndarray, int]:
    """Cuts sequences `[n, L, D]` to `length` steps, from their first present step on.

    Returns:
        The sequences `[n, length, D]`, and how many of them lost present steps.
    """
    if values.ndim != 3 or values.shape[1] <= length:
        return values, 0
    present = present_steps(values)
    start = np.minimum(present.argmax(axis=1), values.shape[1] - length)
    steps = start[:, None] + np.arange(length)
    rows = np.arange(len(values))[:, None]
    return values[rows, steps], int((present.sum(axis=1) > present[rows, steps].sum(axis=1)).sum())


def padding_side(facts: Iterable[ModalityFacts]) -> str:
    """Where sequences are padded: ``end``, ``front``, ``both`` or ``none``; up to one clip in twenty may be an exception."""
    counts = [one.padded_clips for one in facts if one.padded_clips]
    front, end = sum(count[0] for count in counts), sum(count[1] for count in counts)
    if front == end == 0:
        return "none"
    if min(front, end) > 0.05 * max(front, end):
        return "both"
    return "end" if end > front else "front"
