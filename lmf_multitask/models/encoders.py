"""Encoders: one hidden vector per modality and clip (Liu, Shen et al. 2018, section 4.2: unimodal networks).

An encoder is a subclass of `Encoder` with its settings as ``Settings``; `ENCODERS` names them.

Shape letters: B batch, N clips, L steps, D feature dimensions, S what an LSTM gives per step, H hidden size.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from lmf_multitask.config import setting, settings
from lmf_multitask.data.columns import Column, row_blocks
from lmf_multitask.data.modality import Input, present_steps
from lmf_multitask.data.quality import BEYOND, ordinary_range, usable_std
from lmf_multitask.errors import ConfigError
from lmf_multitask.models.base import F, Layer, fixed_parameter, nn, paddle

CLIP_AT = 5.0
"""Standardised features are clipped at so many standard deviations from the mean: recordings hold a few absurd values."""

_SAMPLE_ROWS = 4096
"""Training clips from which it is seen what an ordinary number is."""

_LARGEST_STEP = 100.0
"""Scaled steps are clipped there: one absurd number must not spoil the gradient of a batch."""

_MASKED = -1e4
"""Added to the attention score of a padding step: its weight is then zero in float32."""

_HUGE = 1e38
"""Subtracted from a padding step, so that the maximum is of another one."""


class Encoder(Layer):
    """Base of encoders.

    Attributes:
        Settings: settings class.
        input: the features that it takes.
        size: H.
        any_length: whether sequences may have another length than in training; an export keeps the length free then.
    """

    any_length = True
    Settings: Any
    input: Input
    size: int

    def __init__(self, input: Input, settings: Any) -> None:
        """Notes input and width (the setting ``hidden``)."""
        super().__init__()
        self.input, self.size = input, settings.hidden

    def fit(self, features: Column) -> None:
        """Takes statistics from training features, float32 `[N, D]` or `[N, L, D]`; by default none."""

    def forward(self, features: paddle.Tensor, present: paddle.Tensor | None = None) -> paddle.Tensor:
        """Float32 `[B, D]` or `[B, L, D]`, and for sequences the present steps, bool `[B, L]`, if known -> float32 `[B, H]`."""
        raise NotImplementedError

    def flops(self, length: int) -> int:
        """Floating-point operations per clip of matrix products; a multiplication with its addition counts as two.

        By default the trainable parameters, each used once per step.
        """
        return sum(2 * length * math.prod(weight.shape) for weight in self.parameters() if not weight.stop_gradient)


class Standardisation(Layer):
    """Subtracts the training mean and divides by the training standard deviation; the result is clipped at 5.

    Unlike batch normalisation, a clip's result does not depend on its batch, and nothing is estimated while training. Single
    absurd numbers (`data.quality.ordinary_range`) do not count.
    """

    def __init__(self, features: int) -> None:
        """Starts with mean 0 and standard deviation 1 of D features."""
        super().__init__()
        self.mean = fixed_parameter(self, [features], 0.0)
        self.std = fixed_parameter(self, [features], 1.0)

    def fit(self, features: Column) -> None:
        """Takes both from float `[N, D]`; all-zero rows (missing) do not count; a constant feature has std 1."""
        ordinary = _ordinary_range(features)
        total, count = _sum_of_present(features, ordinary)
        if not count.all():
            return
        mean = total / count
        std = np.sqrt(_sum_of_present(features, ordinary, mean)[0] / count)
        self.mean.set_value(mean.astype(np.float32))
        self.std.set_value(usable_std(mean, std).astype(np.float32))

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """Float32 `[B, D]` -> float32 `[B, D]`."""
        return paddle.clip((features - self.mean) / self.std, -CLIP_AT, CLIP_AT)


class MLPEncoder(Encoder):
    """Normalisation, dropout, three ReLU layers of one width; a sequence is pooled over its present steps first."""

    @settings
    class Settings:
        """Of `MLPEncoder`."""

        hidden: int = setting(default=32, help="width of the three layers", ge=1, le=65536)
        dropout: float = setting(default=0.2, help="dropout of the features", ge=0, lt=1)
        norm: Literal["standard", "batch"] = setting(
            default="standard",
            help="normalisation of features: by the training mean and std, or batch normalisation (the paper's)",
        )
        pooling: Literal["mean", "mean_std", "max", "last"] = setting(
            default="mean", help="how the present steps of a sequence become one vector"
        )

    def __init__(self, input: Input, settings: Settings) -> None:
        """Builds the layers."""
        super().__init__(input, settings)
        self.pooling = settings.pooling
        features = input.features * (2 if input.is_sequence and settings.pooling == "mean_std" else 1)
        self.norm = nn.BatchNorm1D(features) if settings.norm == "batch" else Standardisation(features)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear_1 = nn.Linear(features, settings.hidden)
        self.linear_2 = nn.Linear(settings.hidden, settings.hidden)
        self.linear_3 = nn.Linear(settings.hidden, settings.hidden)

    def fit(self, features: Column) -> None:
        """Takes mean and std of the (pooled) features, where they are what normalises."""
        if not isinstance(self.norm, Standardisation):
            return
        if self.input.is_sequence:
            with paddle.no_grad():
                blocks = [self._pooled(paddle.to_tensor(block), None).numpy() for block in row_blocks(features)]
            features = np.concatenate(blocks)
        self.norm.fit(features)

    def forward(self, features: paddle.Tensor, present: paddle.Tensor | None = None) -> paddle.Tensor:
        """See `Encoder.forward`."""
        if self.input.is_sequence:
            features = self._pooled(features, present)
        x = self.dropout(self.norm(features))
        x = F.relu(self.linear_1(x))
        x = F.relu(self.linear_2(x))
        return F.relu(self.linear_3(x))

    def _pooled(self, features: paddle.Tensor, present: paddle.Tensor | None) -> paddle.Tensor:
        """Float32 `[B, L, D]` -> `[B, D]` (``mean_std``: `[B, 2 D]`) over the present steps; zeros without any."""
        if present is None:
            present = step_mask(features)
        if self.pooling == "last":
            return _last_present(features, present)
        known = present.astype(features.dtype).unsqueeze(2)  # [B, L, 1]
        count = known.sum(axis=1)  # [B, 1]
        if self.pooling == "max":
            return (features - _HUGE * (1.0 - known)).max(axis=1) * (count > 0).astype(features.dtype)
        count = count.clip(min=1.0)
        mean = features.sum(axis=1) / count  # padding steps are zeros
        if self.pooling == "mean":
            return mean
        squares = (paddle.square(features - mean.unsqueeze(1)) * known).sum(axis=1)
        return paddle.concat([mean, paddle.sqrt(squares / count)], axis=1)

    def flops(self, length: int) -> int:
        """See `Encoder.flops`."""
        return 2 * self.linear_1.weight.shape[0] * self.size + 2 * 2 * self.size * self.size


class LSTMEncoder(Encoder):
    """An LSTM over all L steps, pooling of its states, dropout, a linear layer.

    Poolings:

    - ``last_step``: the last state, padding included, as in the reference codes.
    - ``last_present``: the state after the last present step. Padding behind it has no influence; padding in front or between
      steps is passed over by the LSTM as any step, and a clip without any present step has the state after its first step.
    - ``attention``: two vectors side by side, over the present steps: their mean weighted by attention (Yang et al. 2016,
      Hierarchical Attention Networks, equations 5 to 7, without the hidden layer), and their plain mean.

    All steps are computed in any case: batches of clips of one length were measured to be slower than the steps that they save.
    """

    @settings
    class Settings:
        """Of `LSTMEncoder`."""

        hidden: int = setting(default=64, help="width of the output", ge=1, le=65536)
        state: int = setting(default=64, help="width of the LSTM state", ge=1, le=65536)
        projection: int | None = setting(
            default=64,
            help="features per step after a linear layer in front of the LSTM; null: no such layer",
            ge=1,
            le=65536,
        )
        bidirectional: bool = setting(default=False, help="a second LSTM reads the steps backwards")
        pooling: Literal["attention", "last_step", "last_present"] = setting(
            default="attention",
            help="of the states: attention and mean over present steps, the last (the paper's) or the last present",
        )
        dropout: float = setting(default=0.5, help="dropout of the pooled states", ge=0, lt=1)
        step_dropout: float = setting(default=0.2, help="dropout of whole steps", ge=0, lt=1)
        norm: Literal["standard", "none"] = setting(
            default="standard",
            help="normalisation of steps: divided by the training root mean square, or none (the paper's)",
        )

    def __init__(self, input: Input, settings: Settings) -> None:
        """Builds the layers.

        Raises:
            ConfigError: the input is no sequence.
        """
        super().__init__(input, settings)
        if not input.is_sequence:
            raise ConfigError(
                f"the encoder lstm must be given sequences [L, D], but the features have the shape {list(input.shape)}. "
                "Choose the kind mlp."
            )
        self.pooling, self.step_dropout = settings.pooling, settings.step_dropout
        self.scaled = settings.norm == "standard"
        if self.scaled:
            self.scale = fixed_parameter(self, [1], 1.0)
        seen = settings.projection or input.features
        self.projection = None if settings.projection is None else nn.Linear(input.features, seen)
        self.lstm = nn.LSTM(seen, settings.state, direction="bidirect" if settings.bidirectional else "forward")
        states = settings.state * (2 if settings.bidirectional else 1)
        attends = settings.pooling == "attention"
        self.attention: Any = nn.Linear(states, 1, bias_attr=False) if attends else None
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(states * (2 if attends else 1), settings.hidden)

    def fit(self, features: Column) -> None:
        """Takes the root mean square of the present steps, where steps are divided by it."""
        if not self.scaled:
            return
        total, count, largest = 0.0, 0, self._largest(features)
        for block in row_blocks(features):
            known = block[present_steps(block)]
            if known.size and max(known.max(), -known.min()) > largest:
                known = known[np.abs(known) <= largest]
            total, count = total + np.square(known, dtype=np.float64).sum(), count + known.size
        if count:
            self.scale.set_value(np.sqrt([total / count]).astype(np.float32))

    def _largest(self, features: Column) -> float:
        """Magnitude of the largest number that is no outlier, from some clips."""
        size = math.prod(features.shape[1:])
        rows = features[_spread(len(features), int(np.clip((1 << 22) // size, 8, 512)))]
        known = np.abs(rows[present_steps(rows)])
        return BEYOND * float(np.quantile(known, 0.95)) or np.inf if known.size else np.inf

    def forward(self, features: paddle.Tensor, present: paddle.Tensor | None = None) -> paddle.Tensor:
        """See `Encoder.forward`."""
        if present is None and self.pooling != "last_step":
            present = step_mask(features)
        weight = None if self.projection is None else self.projection.weight
        factor = None  # of each step; it commutes with the projection, whose result is smaller
        if self.step_dropout and self.training:
            factor = F.dropout(paddle.ones([*features.shape[:2], 1], features.dtype), self.step_dropout)
        if self.scaled:
            factor = (1.0 if factor is None else factor) / self.scale
        if weight is not None and factor is not None and not self.training:  # one for all steps
            weight, factor = weight * factor, None
        if weight is not None:
            features = paddle.matmul(features, weight)
        if factor is not None:
            features = features * factor
        if self.projection is not None:
            features = features + self.projection.bias
        if self.scaled:
            features = paddle.clip(features, -_LARGEST_STEP, _LARGEST_STEP)
        states, (last_state, _) = self.lstm(features)
        if self.pooling == "attention":
            pooled = self._attended(states, present)
        elif self.pooling == "last_present":
            pooled = _last_present(states, present)
        elif last_state.shape[0] == 1:
            pooled = last_state.squeeze(0)
        else:
            pooled = paddle.concat([last_state[0], last_state[1]], 1)
        return self.linear(self.dropout(pooled))

    def _attended(self, states: paddle.Tensor, present: Any) -> paddle.Tensor:
        """States `[B, L, S]`, bool `[B, L]` -> `[B, 2 S]`."""
        known = present.astype(states.dtype).unsqueeze(2)
        attention = F.softmax(self.attention(states) + _MASKED * (1.0 - known), axis=1)
        mean = known / known.sum(axis=1, keepdim=True).clip(min=1.0)
        weights = paddle.concat([attention, mean], axis=2)  # [B, L, 2]
        return paddle.matmul(weights, states, transpose_x=True).flatten(1)

    def flops(self, length: int) -> int:
        """See `Encoder.flops`."""
        directions = 2 if self.lstm.num_directions == 2 else 1
        state = self.lstm.hidden_size
        seen = self.input.features if self.projection is None else self.projection.weight.shape[1]
        total = 0 if self.projection is None else length * 2 * self.input.features * seen
        total += directions * length * 2 * (seen + state) * 4 * state
        if self.attention is not None:
            total += length * 2 * directions * state * 3
        return total + 2 * self.linear.weight.shape[0] * self.size


ENCODERS: dict[str, type[Encoder]] = {"mlp": MLPEncoder, "lstm": LSTMEncoder}


def step_mask(features: paddle.Tensor) -> paddle.Tensor:
    """`data.modality.present_steps` of a tensor `[B, L, D]`, bool `[B, L]`.

    A sum of magnitudes by a matrix product: on a CPU Paddle compares and reduces a batch of steps five times slower.
    """
    ones = paddle.ones([features.shape[2], 1], features.dtype)
    return (paddle.matmul(paddle.abs(features), ones) != 0).squeeze(2)


def _last_present(states: paddle.Tensor, present: Any) -> paddle.Tensor:
    """States `[B, L, S]`, bool `[B, L]` -> the state at each clip's last present step, at step 0 without any, `[B, S]`."""
    last = (present.astype("int64") * paddle.arange(present.shape[1])).max(axis=1)
    return paddle.gather_nd(states, paddle.stack([paddle.arange(present.shape[0]), last], axis=1))


def _sum_of_present(
    features: Column, ordinary: tuple[np.ndarray, np.ndarray], mean: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the rows of `[N, D]` that are not all zeros, or of their squared distances from a mean; and how many count, `[D]`.

    Numbers out of the ordinary do not count. Rows are added one after the other, as numpy does it for a whole array, so that
    the bits do not depend on the blocks.
    """
    total, count = np.zeros((1, features.shape[1])), np.zeros(features.shape[1], np.int64)
    for block in row_blocks(features):
        known = block[(block != 0).any(axis=1)].astype(np.float64)
        outside = (known < ordinary[0]) | (known > ordinary[1])
        count += len(known) - outside.sum(axis=0)
        if mean is not None:
            known = np.square(known - mean)
        known[outside] = 0
        total = np.concatenate([total, known]).sum(axis=0, keepdims=True)
    return total[0], count


def _ordinary_range(features: Column) -> tuple[np.ndarray, np.ndarray]:
    """`ordinary_range` of the clips that have the features, or of some of them."""
    rows = features[_spread(len(features), _SAMPLE_ROWS)]
    return ordinary_range(rows[(rows != 0).any(axis=1)])


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many row numbers, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
