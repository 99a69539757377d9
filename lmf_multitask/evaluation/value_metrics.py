"""Functions of weighted rows that rate real-valued predictions; `metrics.METRICS` names them.

Shape letters: R sets of row weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lmf_multitask.evaluation.weighted_rows import Confusion, WeightedRows, ratio


def mean_absolute_error(rows: WeightedRows) -> np.ndarray:
    """MAE, in the unit of the labels."""
    return rows.mean(np.abs(rows.predictions - rows.labels))


def root_mean_squared_error(rows: WeightedRows) -> np.ndarray:
    """RMSE, in the unit of the labels."""
    return np.sqrt(rows.mean((rows.predictions - rows.labels) ** 2))


def pearson(rows: WeightedRows) -> np.ndarray:
    """Pearson's correlation r; undefined where labels or predictions do not vary."""
    *_, x, y, both = rows.moments
    return _correlation(x, y, both, rows)


def spearman(rows: WeightedRows) -> np.ndarray:
    """Spearman's rank correlation; undefined where labels or predictions do not vary."""
    if not len(rows.labels):
        return np.full(len(rows), np.nan)
    weights = rows.weights.astype(np.float64).T
    x, y = rows.average_ranks(rows.labels), rows.average_ranks(rows.predictions)
    x, y = x - ratio((x * weights).sum(axis=0), rows.total), y - ratio((y * weights).sum(axis=0), rows.total)
    xx, yy, xy = (ratio((one * weights).sum(axis=0), rows.total) for one in (x * x, y * y, x * y))
    return _correlation(xx, yy, xy, rows)


def _correlation(x: np.ndarray, y: np.ndarray, both: np.ndarray, rows: WeightedRows) -> np.ndarray:
    """Covariance over the root of two variances; NaN where a variance is zero up to rounding."""
    varies = len(rows.labels) > 1 and np.ptp(rows.labels) > 0 and np.ptp(rows.predictions) > 0
    return np.clip(ratio(both, np.sqrt(x * y)), -1, 1) if varies else np.full(len(rows), np.nan)


def concordance(rows: WeightedRows) -> np.ndarray:
    """Concordance correlation coefficient (CCC, Lin 1989): 1 only if predictions equal labels; undefined if labels do not vary."""
    if not len(rows.labels) or np.ptp(rows.labels) == 0:
        return np.full(len(rows), np.nan)
    if np.ptp(rows.predictions) == 0:
        return np.zeros(len(rows))
    first, second, x, y, both = rows.moments
    return ratio(2 * both, x + y + (first - second) ** 2)


def same_integer(most: int) -> Callable[[WeightedRows], np.ndarray]:
    """Accuracy of rounded values in `most` classes around the middle of the range."""

    def accuracy(rows: WeightedRows) -> np.ndarray:
        """Share of predictions that round to the same integer as the label, both limited to the classes."""
        low, high = rows.range or (-np.inf, np.inf)
        middle = (low + high) / 2
        low, high = max(low, middle - most // 2), min(high, middle + most // 2)
        return rows.mean(np.round(np.clip(rows.predictions, low, high)) == np.round(np.clip(rows.labels, low, high)))

    return accuracy


def two_classes(metric: Callable[[Confusion], np.ndarray], zeros: bool) -> Callable[[WeightedRows], np.ndarray]:
    """A metric of signs: zero counts as not negative, or clips whose label is zero are left out."""

    def function(rows: WeightedRows) -> np.ndarray:
        labels, predictions = rows.labels, rows.predictions
        kept = np.ones(len(labels), bool) if zeros else labels != 0
        truth, decided = (values >= 0 if zeros else values > 0 for values in (labels, predictions))
        return metric(WeightedRows(truth[kept].astype(float), predictions[kept], decided[kept], rows.weights[:, kept]))

    return function
