"""Parameters and floating-point operations of a network, by formula.

Letters: D_m features of modality m (text: per word), H_m hidden size, S state of the LSTM, L words, R fusion rank, K fusion
dim, T tasks, M modalities. A multiplication with its addition counts as two operations. Counted are the matrix products and
the products of the fusion; gates, normalisation, dropout, loss and optimiser are not: they are what a step costs beyond its
arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lmf_multitask.config import ModelConfig


@dataclass(frozen=True)
class Cost:
    """What one network is made of.

    Attributes:
        parameters: trainable numbers.
        projection: operations per clip, forward, of the LSTM's input projection: one large product for all words.
        recurrence: operations per clip, forward, of the LSTM's recurrence: one small product after the other.
        rest: operations per clip, forward, of everything else.
    """

    parameters: int
    projection: int
    recurrence: int
    rest: int

    @property
    def forward(self) -> int:
        """Operations per clip in inference."""
        return self.projection + self.recurrence + self.rest

    @property
    def training(self) -> int:
        """Operations per clip and step: forward, and backward to weights and inputs (words need no gradient)."""
        return 2 * self.projection + 3 * (self.recurrence + self.rest)

    def __add__(self, other: Cost) -> Cost:
        names = ("parameters", "projection", "recurrence", "rest")
        return Cost(*(getattr(self, name) + getattr(other, name) for name in names))


def cost_of(sizes: Mapping[str, int], words: int, tasks: int, config: ModelConfig) -> Cost:
    """Counts one network.

    Args:
        sizes: D_m of ``audio``, ``video``, ``text``.
        words: L.
        tasks: T.
        config: the network.
    """
    parameters = projection = recurrence = rest = 0
    for name in config.modalities:
        features, hidden = sizes[name], getattr(config, f"{name}_hidden")
        if name == "text":
            state, ends = config.text_lstm, 2 if config.text_bidirectional else 1
            seen = config.text_projection or features
            if config.text_projection:
                parameters += (features + 1) * seen
                projection += words * 2 * features * seen
            parameters += ends * 4 * state * (seen + state + 2)
            inputs = ends * words * 2 * seen * 4 * state
            if config.text_projection:  # whose backward pass needs the gradient of what the LSTM sees
                rest += inputs
            else:
                projection += inputs
            recurrence += ends * words * 2 * state * 4 * state
            taken = ends * state
            if config.text_pooling == "attention":
                parameters += taken
                rest += words * 2 * taken + 2 * words * 2 * taken
                taken *= 2
            parameters += (taken + 1) * hidden
            rest += 2 * taken * hidden
        else:
            parameters += 2 * features * (config.input_norm == "batch")
            parameters += (features + 1) * hidden + 2 * (hidden + 1) * hidden
            rest += 2 * features * hidden + 2 * 2 * hidden * hidden
    hidden_sizes = [getattr(config, f"{name}_hidden") for name in config.modalities]
    dim = (config.fusion_dim or 2 * tasks) * (tasks if config.sharing == "encoders" else 1)
    weights, operations = fusion_cost(config.fusion, hidden_sizes, config.fusion_rank, dim, tasks)
    if config.sharing == "gates":
        weights += tasks * len(hidden_sizes)
        operations *= tasks
    if config.fusion_dim and config.fusion != "late":
        size = config.fusion_dim
        if config.head_hidden:
            weights += tasks * (size + 1) * config.head_hidden
            operations += 2 * size * config.head_hidden * tasks
            size = config.head_hidden
        weights += tasks * (size + 1) * 2
        operations += 2 * size * 2 * tasks
    return Cost(parameters + weights, projection, recurrence, rest + operations)


def fusion_cost(fusion: str, hidden: list[int], rank: int, dim: int, tasks: int) -> tuple[int, int]:
    """Parameters of a fusion, and its operations per clip, forward.

    Low-rank: R K sum_m (H_m + 1) weights (equation 6 of the paper); full tensor: K prod_m (H_m + 1).
    """
    extended = [size + 1 for size in hidden]
    if fusion == "lmf":
        products = (len(hidden) - 1) * rank * dim
        return rank * dim * sum(extended) + rank + dim, 2 * rank * dim * sum(extended) + products + 2 * rank * dim
    if fusion == "tfn":
        built = sum(math.prod(extended[: count + 1]) for count in range(1, len(extended)))
        return dim * math.prod(extended) + dim, 2 * dim * math.prod(extended) + built
    if fusion == "concat":
        return dim * (sum(hidden) + 1), 2 * dim * sum(hidden)
    return 2 * tasks * sum(extended), 2 * 2 * tasks * sum(hidden)


def order_of_growth(fusion: str, hidden: list[int], rank: int, dim: int) -> int:
    """The paper's O(d_y r sum_m d_m) of low-rank and O(d_y prod_m d_m) of full tensor fusion, with d_m = H_m + 1."""
    extended = [size + 1 for size in hidden]
    return dim * rank * sum(extended) if fusion == "lmf" else dim * math.prod(extended)
