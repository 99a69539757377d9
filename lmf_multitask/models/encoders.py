"""One hidden vector per modality (Liu, Shen et al. 2018, section 4.2: unimodal networks), and what was added to that.

Shape letters: B batch, L words, D feature dimensions, S what the LSTM gives per word, H hidden size, N clips.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.nn.initializer import Constant

from lmf_multitask.data.columns import Column, row_blocks

LIMIT = 5.0
"""Standardised features are cut off so many standard deviations from the mean: recordings hold a few absurd values."""

_NEVER = -1e4
"""Added to the score of a step that is no word: its share of attention is then zero in float32."""


class Standardisation(nn.Layer):
    """Subtracts train's mean and divides by train's standard deviation; the result is cut off at 5 of them.

    Unlike batch normalisation, a clip's result does not depend on its batch, and there is nothing to estimate while training.
    """

    def __init__(self, features: int) -> None:
        """Starts with mean 0 and deviation 1.

        Args:
            features: D, numbers per clip.
        """
        super().__init__()
        self.mean = _fixed(self, [features], 0.0)
        self.deviation = _fixed(self, [features], 1.0)

    def fit(self, features: Column) -> None:
        """Takes both from float `[N, D]`; rows of zeros (nothing recorded) do not count, a constant feature has deviation 1."""
        total, count = _sum_of_known(features)
        if not count:
            return
        mean = total / count
        deviation = np.sqrt(_sum_of_known(features, mean)[0] / count)
        # a constant's deviation is rounding of its mean
        constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
        self.mean.set_value(mean.astype(np.float32))
        self.deviation.set_value(np.where(constant, 1.0, deviation).astype(np.float32))

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, D]` -> float32 `[B, D]`."""
        return paddle.clip((features - self.mean) / self.deviation, -LIMIT, LIMIT)


class FeatureEncoder(nn.Layer):
    """Audio or video: normalisation, dropout, three ReLU layers of one width."""

    def __init__(
        self, features: int, hidden: int, dropout: float, input_norm: Literal["batch", "standard"] = "batch"
    ) -> None:
        """Builds the layers.

        Args:
            features: D, numbers per clip.
            hidden: H, width of the three layers.
            dropout: probability that a feature is dropped in training.
            input_norm: batch normalisation, or standardisation by train's statistics (see `fit`).
        """
        super().__init__()
        self.norm = nn.BatchNorm1D(features) if input_norm == "batch" else Standardisation(features)
        self.dropout = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(features, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def fit(self, features: Column) -> None:
        """Takes the statistics of train's features, float `[N, D]`, where they are what normalises."""
        if isinstance(self.norm, Standardisation):
            self.norm.fit(features)

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, D]` -> hidden, float32 `[B, H]`."""
        x = self.dropout(self.norm(features))
        x = F.relu(self.linear_1(x))
        x = F.relu(self.linear_2(x))
        return F.relu(self.linear_3(x))


class TextEncoder(nn.Layer):
    """Text: an LSTM over all L steps, something of its states, dropout, a linear layer.

    What is taken of the states:

    - ``last_step``: the last one, padding included, as the reference codes have it.
    - ``last_word``: the one after the clip's last word, a word being a vector that is not all zeros. Padding behind the last
      word then has no influence; padding in front of it or between words is passed over as before, and a clip without any
      word has the state after its first step.
    - ``attention``: two vectors side by side, over the steps that are words: their mean weighted by attention (Yang et al.
      2016, Hierarchical Attention Networks, equations 5 to 7, without the hidden layer), and their plain mean.

    All steps are computed in any case: batches of clips of one length, or shorter halves of a batch, were measured to be
    slower than the steps that they save.
    """

    def __init__(
        self,
        features: int,
        lstm: int,
        hidden: int,
        dropout: float,
        pooling: Literal["last_step", "last_word", "attention"] = "last_step",
        *,
        projection: int | None = None,
        bidirectional: bool = False,
        word_dropout: float = 0.0,
        scaled: bool = False,
    ) -> None:
        """Builds the layers.

        Args:
            features: D, numbers per word.
            lstm: width of the LSTM's state.
            hidden: H, width of the output.
            dropout: probability that a number of what is taken of the states is dropped in training.
            pooling: what is taken.
            projection: numbers per word after a linear layer in front of the LSTM; None has none.
            bidirectional: a second LSTM reads from the last step to the first; S is then twice as much.
            word_dropout: probability that a word is dropped in training (the others grow accordingly).
            scaled: divide words by the root mean square of train's (see `fit`).
        """
        super().__init__()
        if scaled:
            self.scale = _fixed(self, [1], 1.0)
        self.scaled, self.word_dropout = scaled, word_dropout
        self.projection = None if projection is None else nn.Linear(features, projection)
        direction = "bidirect" if bidirectional else "forward"
        self.lstm = nn.LSTM(projection or features, lstm, direction=direction)
        states = lstm * (2 if bidirectional else 1)
        self.attention = nn.Linear(states, 1, bias_attr=False) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(states * (2 if pooling == "attention" else 1), hidden)
        self.pooling = pooling

    def fit(self, words: Column) -> None:
        """Takes the root mean square of train's words, float `[N, L, D]`; padding does not count."""
        if not self.scaled:
            return
        total, count = 0.0, 0
        for block in row_blocks(words):
            known = block[(block != 0).any(axis=2)]
            total, count = total + np.square(known, dtype=np.float64).sum(), count + known.size
        if count:
            self.scale.set_value(np.sqrt([total / count]).astype(np.float32))

    def forward(self, words: paddle.Tensor, is_word: paddle.Tensor | None = None) -> paddle.Tensor:
        """Float32 `[B, L, D]`, and `words_there` of it if that is known -> hidden, float32 `[B, H]`."""
        if is_word is None and self.pooling != "last_step":
            is_word = words_there(words)
        factor = None  # of each word; it commutes with the projection, whose result is smaller
        if self.word_dropout and self.training:
            factor = F.dropout(paddle.ones([*words.shape[:2], 1], words.dtype), self.word_dropout)
        if self.scaled:
            factor = (1.0 if factor is None else factor) / self.scale
        if self.projection is not None:
            words = paddle.matmul(words, self.projection.weight)
        if factor is not None:
            words = words * factor
        if self.projection is not None:
            words = words + self.projection.bias
        states, (last_state, _) = self.lstm(words)
        if self.pooling == "attention":
            taken = self._attended(states, is_word)
        elif self.pooling == "last_word":
            taken = _states_of_last_words(states, is_word)
        else:
            taken = (
                last_state.squeeze(0) if last_state.shape[0] == 1 else paddle.concat([last_state[0], last_state[1]], 1)
            )
        return self.linear(self.dropout(taken))

    def _attended(self, states: paddle.Tensor, is_word: paddle.Tensor) -> paddle.Tensor:
        """States `[B, L, S]`, bool `[B, L]` -> `[B, 2 S]`."""
        known = is_word.astype(states.dtype).unsqueeze(2)
        attention = F.softmax(self.attention(states) + _NEVER * (1.0 - known), axis=1)
        mean = known / known.sum(axis=1, keepdim=True).clip(min=1.0)
        weights = paddle.concat([attention, mean], axis=2)  # [B, L, 2]
        return paddle.matmul(weights, states, transpose_x=True).flatten(1)


def _sum_of_known(features: Column, mean: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Sum of the rows of `[N, D]` that are not all zeros, or of their squared distances from a mean; and their number.

    Rows are added one after the other, as numpy does it for a whole array, so that the bits do not depend on the blocks.
    """
    total, count = np.zeros((1, features.shape[1])), 0
    for block in row_blocks(features):
        known = block[(block != 0).any(axis=1)].astype(np.float64)
        count += len(known)
        if mean is not None:
            known = np.square(known - mean)
        total = np.concatenate([total, known]).sum(axis=0, keepdims=True)
    return total[0], count


def words_there(words: paddle.Tensor) -> paddle.Tensor:
    """Which of the words `[B, L, D]` are not all zeros, bool `[B, L]`.

    A sum of magnitudes by a matrix product: on a CPU Paddle compares and reduces a batch's words five times slower.
    """
    ones = paddle.ones([words.shape[2], 1], words.dtype)
    return (paddle.matmul(paddle.abs(words), ones) != 0).squeeze(2)


def _states_of_last_words(states: paddle.Tensor, is_word: paddle.Tensor) -> paddle.Tensor:
    """States `[B, L, S]`, bool `[B, L]` -> the state at each clip's last word, at step 0 without any, `[B, S]`."""
    last = (is_word.astype("int64") * paddle.arange(is_word.shape[1])).max(axis=1)
    return paddle.gather_nd(states, paddle.stack([paddle.arange(is_word.shape[0]), last], axis=1))


def _fixed(layer: nn.Layer, shape: list[int], value: float) -> paddle.Tensor:
    """A number that belongs to the weights but is not trained."""
    weight = layer.create_parameter(shape, default_initializer=Constant(value))
    weight.stop_gradient, weight.trainable = True, False
    return weight
