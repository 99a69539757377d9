"""What a model says of the clips of a split, and what they were labelled: one model's, or several models' joined by clip.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.evaluation.metrics import always_absent, multitask_figures


@dataclass(frozen=True)
class Predictions:
    """Labels and probabilities of one split.

    Attributes:
        ids: names of the N clips.
        emotions: names of the T columns.
        labels: int64 `[N, T]`, 1 present, 0 absent, -100 not annotated.
        probabilities: float32 `[N, T]`, of being present.
    """

    ids: list[str]
    emotions: list[str]
    labels: np.ndarray
    probabilities: np.ndarray

    def metrics(self, split: str, seed: int | None) -> dict[str, Any]:
        """The content of ``metrics.json``.

        Args:
            split: whose clips these are.
            seed: of the training; None for several trainings with different seeds.
        """
        return {
            "split": split,
            "samples": len(self.ids),
            "seed": seed,
            **multitask_figures(self.labels, self.probabilities, self.emotions),
            "always_absent": always_absent(self.labels, self.emotions),
        }


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Puts the columns of several models side by side, clip by clip.

    A clip that one of them has not predicted is not annotated there (-100, probability 0), so that no figure counts it.
    """
    ids = sorted({clip for part in parts for clip in part.ids})
    place = {clip: row for row, clip in enumerate(ids)}
    emotions = [emotion for part in parts for emotion in part.emotions]
    labels = np.full((len(ids), len(emotions)), NOT_ANNOTATED, np.int64)
    probabilities = np.zeros((len(ids), len(emotions)), np.float32)
    first = 0
    for part in parts:
        rows = [place[clip] for clip in part.ids]
        columns = slice(first, first + len(part.emotions))
        labels[rows, columns] = part.labels
        probabilities[rows, columns] = part.probabilities
        first += len(part.emotions)
    return Predictions(ids, emotions, labels, probabilities)
