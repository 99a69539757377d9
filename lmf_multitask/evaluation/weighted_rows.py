"""Annotated rows of one task under several sets of row weights: what every metric is computed from.

Shape letters: N rows (clips), n annotated rows, R sets of row weights, C classes of a decision.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

ECE_BINS = 10
"""Equally wide bins of the expected calibration error and of reliability diagrams."""


class Confusion:
    """Weighted counts of decisions, and what metrics of decisions are computed from.

    Attributes:
        confusion: float64 `[R, C, C]`, true class by decided class. A binary task has the classes absent and present.
    """

    def __init__(self, confusion: np.ndarray) -> None:
        self.confusion = confusion

    def __len__(self) -> int:
        """R."""
        return len(self.confusion)

    @property
    def right(self) -> np.ndarray:
        """Rows decided correctly, `[R, C]` by class."""
        return np.diagonal(self.confusion, axis1=1, axis2=2)

    @property
    def true(self) -> np.ndarray:
        """Rows of each class, `[R, C]`."""
        return self.confusion.sum(axis=2)

    @property
    def decided(self) -> np.ndarray:
        """Rows decided as each class, `[R, C]`."""
        return self.confusion.sum(axis=1)

    @cached_property
    def f1(self) -> np.ndarray:
        """F1 of each class, `[R, C]`; 0 for a class that neither occurs nor is decided."""
        return ratio(2 * self.right, self.true + self.decided, otherwise=0.0)


class WeightedRows(Confusion):
    """The annotated rows of one task under R sets of row weights.

    Attributes:
        labels: float64 `[n]`, without NaN; of exclusive tasks the number of the task that is present.
        predictions: float64 `[n]`, probabilities of binary tasks.
        decisions: int64 `[n]`, decided classes.
        classes: number C of classes.
        weights: float `[R, n]`.
        range: lowest and highest value of a real-valued task; None: unknown, or another kind of task.
    """

    def __init__(
        self,
        labels: np.ndarray,
        predictions: np.ndarray,
        decisions: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        classes: int = 2,
        range: tuple[float, float] | None = None,
    ) -> None:
        """Takes N rows and drops those whose label is NaN.

        Args:
            labels: float `[N]`.
            predictions: float `[N]`.
            decisions: `[N]`; None: whether the prediction is above one half.
            weights: float `[R, N]`; None: one set of unit weights.
            classes: C.
            range: see above.
        """
        known = ~np.isnan(labels)
        decisions = predictions > 0.5 if decisions is None else decisions
        weights = np.ones((1, len(labels))) if weights is None else weights
        self.labels = np.asarray(labels, np.float64)[known]
        self.predictions = np.asarray(predictions, np.float64)[known]
        self.decisions = decisions[known].astype(np.int64)
        self.weights = weights if known.all() else weights[:, known]
        self.classes, self.range = classes, range

    def __len__(self) -> int:
        return len(self.weights)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Weighted sums over rows: values `[n, ...]` -> float64 `[R, ...]`, computed in the type of the weights."""
        return (self.weights @ values.astype(self.weights.dtype)).astype(np.float64)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Weighted means over rows: values `[n]` -> float64 `[R]`."""
        return ratio(self.sum(values), self.total)

    @cached_property
    def total(self) -> np.ndarray:
        """Sums of the weights, float64 `[R]`."""
        return self.weights.sum(axis=1).astype(np.float64)

    @cached_property
    def confusion(self) -> np.ndarray:  # type: ignore[override]
        """Weighted counts, computed when a metric asks for them."""
        cell = self.labels.astype(np.int64) * self.classes + self.decisions
        return self.sum(_one_hot(cell, self.classes**2)).reshape(-1, self.classes, self.classes)

    @cached_property
    def bins(self) -> np.ndarray:
        """Membership in equally wide bins of the probability, float64 `[n, ECE_BINS]`, one 1 per row.

        A probability on an edge belongs to the bin above it, 1 to the last bin.
        """
        return _one_hot(np.minimum((self.predictions * ECE_BINS).astype(int), ECE_BINS - 1), ECE_BINS)

    @cached_property
    def moments(self) -> tuple[np.ndarray, ...]:
        """Of labels and predictions: weighted mean of each, variance of each, covariance; float64 `[R]` each."""
        centre = [values.mean() if len(values) else 0.0 for values in (self.labels, self.predictions)]  # for precision
        x, y = self.labels - centre[0], self.predictions - centre[1]
        sums = self.sum(np.stack([x, y, x * x, y * y, x * y], axis=1))
        mx, my, xx, yy, xy = (ratio(column, self.total) for column in sums.T)
        return mx + centre[0], my + centre[1], np.maximum(xx - mx * mx, 0), np.maximum(yy - my * my, 0), xy - mx * my

    def average_ranks(self, values: np.ndarray) -> np.ndarray:
        """Ranks of values `[n]` among the weighted rows, ties in the middle: float64 `[n, R]`."""
        order = np.argsort(values, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(values[order])) + 1, len(values))
        cumulative = np.cumsum(self.weights[:, order].astype(np.float64), axis=1)[:, ends - 1]
        before = np.concatenate([np.zeros((len(self), 1)), cumulative[:, :-1]], axis=1)
        group = np.searchsorted(ends, np.arange(len(values)), side="right")
        ranks = np.empty((len(values), len(self)))
        ranks[order] = ((before + cumulative + 1) / 2).T[group]
        return ranks

    @cached_property
    def ranking(self) -> tuple[np.ndarray, np.ndarray]:
        """Area under the ROC curve and average precision, float64 `[R]` each; tied rows count half, NaN with one class."""
        from scipy.sparse import csr_matrix  # 0.1 s of import that a deployed model does not need

        present = self.labels == 1
        if not 0 < present.sum() < len(present):
            return np.full(len(self), np.nan), np.full(len(self), np.nan)
        order = np.argsort(-self.predictions, kind="stable")
        present, scores = present[order], self.predictions[order]
        # groups of equal scores, from the highest; neighbouring groups without a present row count as one
        starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
        some_present = np.logical_or.reduceat(present, starts)
        starts = starts[some_present | np.concatenate([[True], some_present[:-1]])]
        ends, shape = np.append(starts, len(order)), (len(starts), len(order))
        weights = np.ascontiguousarray(self.weights.T)
        every = csr_matrix((np.ones(len(order), weights.dtype), order, ends), shape) @ weights  # [groups, R]
        positive = csr_matrix((present.astype(weights.dtype), order, ends), shape) @ weights
        every_so_far, positive_so_far = every.cumsum(axis=0), positive.cumsum(axis=0)
        positives = positive_so_far[-1].astype(np.float64)
        negatives = every_so_far[-1] - positives
        pairs = ((every - positive) * (positive_so_far - positive / 2)).sum(axis=0, dtype=np.float64)
        precision = (positive * positive_so_far / np.maximum(every_so_far, 1)).sum(axis=0, dtype=np.float64)
        return ratio(pairs, positives * negatives), ratio(precision, positives)


def ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """Elementwise quotient in float64; `otherwise` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, np.float64), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, otherwise), where=denominator != 0)


def _one_hot(numbers: np.ndarray, count: int) -> np.ndarray:
    return (numbers[:, None] == np.arange(count)).astype(np.float64)
