"""Weights of the network and of the linear model in the predictions of both together, fitted on validation.

Stacking (Wolpert 1992): the log-odds of present (of real-valued tasks, the standardised values) of the two are added,

    score = a * score of the network + b * score of the linear model,

with one a >= 0 and one b >= 0 for all tasks of a kind, so that few validation clips are enough. They minimise the log loss
(squared error) on validation, so that they also calibrate: a network that is too sure gets a smaller a, as temperature scaling
has it (Guo et al. 2017).

Shape letters: N rows (clips), T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmf_multitask.config import setting, settings
from lmf_multitask.evaluation.decisions import task_kinds
from lmf_multitask.tasks import sigmoid

PRIOR, STRENGTH = 0.5, 10.0
"""The weights are drawn towards this value, as strongly as so many clips would; without validation labels they are this value."""


@settings
class Weights:
    """Weights of one kind of task."""

    network: float = setting(default=1.0, help="a, of the network's score", ge=0)
    linear: float = setting(default=0.0, help="b, of the linear model's score", ge=0)
    labels: int = setting(default=0, help="validation labels that they were fitted on", ge=0)


def fit_weights(
    labels: np.ndarray, network: np.ndarray, linear: np.ndarray, tasks: Sequence[Any]
) -> Mapping[str, Weights]:
    """Kind -> weights, of the kinds of tasks that have a score.

    Args:
        labels: float `[N, T]` of validation, NaN not annotated.
        network: predictions `[N, T]` of the network.
        linear: predictions `[N, T]` of the linear model.
        tasks: the T tasks, `tasks.Task` objects.
    """
    kinds = np.array(task_kinds(tasks))
    found = {}
    for kind in dict.fromkeys(kinds.tolist()):
        chosen = np.flatnonzero(kinds == kind)
        if tasks[chosen[0]].direction is None:
            continue
        scores = np.stack(
            [np.stack([tasks[t].score(values[:, t]) for t in chosen], axis=1) for values in (network, linear)], axis=-1
        )
        known = ~np.isnan(labels[:, chosen])
        binary = kind == "binary"
        targets = labels[:, chosen] if binary else np.stack([tasks[t].score(labels[:, t]) for t in chosen], axis=1)
        a, b = _minimum(scores[known], targets[known].astype(np.float64), binary, len(chosen))
        found[kind] = Weights(network=a, linear=b, labels=int(known.sum()))
    return found


def _minimum(scores: np.ndarray, targets: np.ndarray, binary: bool, tasks: int) -> list[float]:
    """The two weights for scores `[n, 2]` and targets `[n]`."""
    from scipy.optimize import minimize  # 0.2 s of import that a deployed model does not need

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score, off = scores @ weights, weights - PRIOR
        if binary:
            each, slope = np.logaddexp(0.0, score) - targets * score, sigmoid(score) - targets
        else:
            slope = score - targets
            each = slope**2 / 2
        penalty = STRENGTH * tasks
        return each.sum() + penalty * off @ off, slope @ scores + 2 * penalty * off

    start = np.full(2, PRIOR)
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2).x.tolist()
