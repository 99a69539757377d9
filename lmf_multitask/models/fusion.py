"""Low-rank Multimodal Fusion, and the fusions that it is compared with.

Liu, Shen et al. 2018, "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors".

A fusion is a subclass of `Fusion` with its settings as ``Settings``; `FUSIONS` names them.

Shape letters: B batch, M modalities, H_m hidden size of modality m, R fusion rank, K fusion dim, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from lmf_multitask.config import setting, settings
from lmf_multitask.models.base import F, Layer, initializer, nn, paddle


class Fusion(Layer):
    """Base of fusions.

    Attributes:
        Settings: settings class; a setting ``dim`` is the width K of what the heads take, null for no heads.
        size: width of what it gives.
        heads: whether heads come after it; otherwise it gives the outputs.
        binary_only: whether it is defined for binary tasks only.
    """

    Settings: Any
    size: int
    heads: bool
    binary_only = False

    def __init__(self, hidden_sizes: Sequence[int], outputs: int, settings: Any) -> None:
        """Notes the width: K (the setting ``dim``) for a fusion with heads, otherwise O.

        Args:
            hidden_sizes: H_m of each modality, in order.
            outputs: O.
            settings: of the class's ``Settings``.
        """
        super().__init__()
        dim = getattr(settings, "dim", None)
        self.size, self.heads = dim or outputs, dim is not None

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """M hidden vectors, float32 `[B, H_m]` each -> float32 `[B, size]`."""
        raise NotImplementedError

    def flops(self) -> int:
        """Floating-point operations per clip of products; a multiplication with its addition counts as two.

        By default the trainable parameters, each used once.
        """
        return sum(2 * math.prod(weight.shape) for weight in self.parameters())


def _dim_setting() -> Any:
    return setting(
        default=64,
        help="width K of the fused vector; null: no heads, the fusion gives the outputs (the paper's)",
        ge=1,
        le=65536,
    )


def _with_one(vector: paddle.Tensor) -> paddle.Tensor:
    """Float32 `[B, H]` -> `[1; vector]`, `[B, H + 1]`."""
    return paddle.concat([paddle.ones([vector.shape[0], 1], dtype=vector.dtype), vector], axis=1)


class LowRankFusion(Fusion):
    """Low-rank fusion: factors of rank R instead of one weight for every product of the modalities' numbers.

    Tensor fusion (Zadeh et al. 2017) multiplies every number of one modality with every number of the others and weighs
    each product: with z_m = [1; hidden_m],

        fused = W . (z_1 (x) ... (x) z_M) + b,        W of size K x prod_m (H_m + 1).

    Here W = sum_r w_r F_1^r (x) ... (x) F_M^r (equation 4 of the paper, with a learned weight per term), so that the
    product of all modalities is never built (equation 6):

        fused = sum_r w_r  prod_m (z_m F_m^r) + b,    R sum_m (H_m + 1) K weights instead.

    With ``skip``, ReLU(W_s [hidden_1; ...; hidden_M] + b_s), which is `ConcatFusion`, is added: what a modality says by itself
    need not pass through the product, whose gradient is small or noisy where another modality is noise.
    """

    @settings
    class Settings:
        """Of `LowRankFusion`."""

        rank: int = setting(default=8, help="number R of rank-1 terms", ge=1, le=65536)
        dim: int | None = _dim_setting()
        init: Literal["variance", "xavier"] = setting(
            default="variance",
            help="first values of the factors: normal with variance 1 / (H_m + 1), so that the product of projections keeps its "
            "size, or Paddle's XavierNormal (LMF_Paddle's)",
        )
        skip: bool = setting(default=True, help="add a ReLU layer of all hidden vectors; false: the paper's")

    def __init__(self, hidden_sizes: Sequence[int], outputs: int, settings: Settings) -> None:
        """Creates the factors and, after them, the weights of the terms and the bias."""
        super().__init__(hidden_sizes, outputs, settings)

        def spread(size: int) -> Any:
            return initializer.XavierNormal() if settings.init == "xavier" else initializer.Normal(0.0, size**-0.5)

        self.factors = nn.ParameterList(
            [
                self.create_parameter([settings.rank, hidden + 1, self.size], default_initializer=spread(hidden + 1))
                for hidden in hidden_sizes
            ]
        )
        self.rank_weights = self.create_parameter([1, settings.rank], default_initializer=spread(settings.rank))
        self.bias = self.create_parameter([1, self.size], default_initializer=initializer.Constant(0.0))
        self.skip = nn.Linear(sum(hidden_sizes), self.size) if settings.skip else None

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """See `Fusion.forward`."""
        product = paddle.matmul(_with_one(hidden[0]), self.factors[0])  # [R, B, K]
        for m in range(1, len(hidden)):
            product = product * paddle.matmul(_with_one(hidden[m]), self.factors[m])
        terms = paddle.transpose(product, [1, 0, 2])  # [B, R, K]
        fused = paddle.matmul(self.rank_weights, terms).squeeze(1) + self.bias
        return fused if self.skip is None else fused + F.relu(self.skip(paddle.concat(list(hidden), axis=1)))

    def flops(self) -> int:
        """See `Fusion.flops`."""
        skip = 0 if self.skip is None else 2 * math.prod(self.skip.weight.shape)
        rank, extended = self.rank_weights.shape[1], sum(factor.shape[1] for factor in self.factors)
        return rank * self.size * (2 * extended + len(self.factors) - 1 + 2) + skip


class TensorFusion(Fusion):
    """Full tensor fusion (Zadeh et al. 2017, section 4.2): one weight for every product of the modalities' numbers.

    With z_m = [1; hidden_m]: fused = W . (z_1 (x) ... (x) z_M) + b, W of size prod_m (H_m + 1) x K. The product is built,
    `[B, prod_m (H_m + 1)]`: that is the cost that low-rank fusion avoids.
    """

    @settings
    class Settings:
        """Of `TensorFusion`."""

        dim: int | None = _dim_setting()

    def __init__(self, hidden_sizes: Sequence[int], outputs: int, settings: Settings) -> None:
        """Creates W (normal, variance 1 / prod_m (H_m + 1)) and b (zeros)."""
        super().__init__(hidden_sizes, outputs, settings)
        self._extended = [hidden + 1 for hidden in hidden_sizes]
        products = math.prod(self._extended)
        normal = initializer.Normal(0.0, products**-0.5)
        self.weight = self.create_parameter([products, self.size], default_initializer=normal)
        self.bias = self.create_parameter([1, self.size], default_initializer=initializer.Constant(0.0))

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """See `Fusion.forward`."""
        products = _with_one(hidden[0])
        for vector in hidden[1:]:
            products = (products.unsqueeze(2) * _with_one(vector).unsqueeze(1)).flatten(1)
        return paddle.matmul(products, self.weight) + self.bias

    def flops(self) -> int:
        """See `Fusion.flops`."""
        built = sum(math.prod(self._extended[: count + 1]) for count in range(1, len(self._extended)))
        return 2 * self.size * math.prod(self._extended) + built


class ConcatFusion(Fusion):
    """Fusion by concatenation: ReLU(W [hidden_1; ...; hidden_M] + b), no products between modalities.

    Without heads there is no ReLU: the output is the outputs themselves.
    """

    @settings
    class Settings:
        """Of `ConcatFusion`."""

        dim: int | None = _dim_setting()

    def __init__(self, hidden_sizes: Sequence[int], outputs: int, settings: Settings) -> None:
        """Creates W and b (Paddle's defaults of a linear layer)."""
        super().__init__(hidden_sizes, outputs, settings)
        self.linear = nn.Linear(sum(hidden_sizes), self.size)

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """See `Fusion.forward`."""
        fused = self.linear(paddle.concat(list(hidden), axis=1))
        return F.relu(fused) if self.heads else fused

    def flops(self) -> int:
        """See `Fusion.flops`."""
        return 2 * self.linear.weight.shape[0] * self.size


class LateFusion(Fusion):
    """Late fusion: each modality predicts by itself, and the probabilities are averaged; no heads.

    The logits are log(1/M sum_m softmax(W_m hidden_m + b_m)), so that the softmax of them is that mean.
    """

    binary_only = True

    @settings
    class Settings:
        """Of `LateFusion`: none."""

    def __init__(self, hidden_sizes: Sequence[int], outputs: int, settings: Settings) -> None:
        """Creates W_m and b_m of each modality (Paddle's defaults of a linear layer)."""
        super().__init__(hidden_sizes, outputs, settings)
        self.linears = nn.LayerList([nn.Linear(hidden, outputs) for hidden in hidden_sizes])

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """See `Fusion.forward`."""
        logits = [linear(vector).reshape([-1, self.size // 2, 2]) for vector, linear in zip(hidden, self.linears)]
        each = F.log_softmax(paddle.stack(logits), axis=-1)  # [M, B, T, 2]
        return (paddle.logsumexp(each, axis=0) - math.log(len(logits))).flatten(1)

    def flops(self) -> int:
        """See `Fusion.flops`."""
        return sum(2 * linear.weight.shape[0] * self.size for linear in self.linears)


FUSIONS: dict[str, type[Fusion]] = {
    "lmf": LowRankFusion,
    "tfn": TensorFusion,
    "concat": ConcatFusion,
    "late": LateFusion,
}
