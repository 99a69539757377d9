"""Low-rank Multimodal Fusion, and the fusions that it is compared with.

Liu, Shen et al. 2018, "Efficient Low-rank Multimodal Fusion with Modality-Specific Factors".

Shape letters: B batch, M modalities, H_m hidden size of modality m, R fusion rank, K fusion dim, T tasks (emotions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.nn.initializer import Constant, Normal, XavierNormal

FactorInit = Literal["variance", "xavier"]


class LowRankFusion(nn.Layer):
    """Fuses M hidden vectors with factors of rank R instead of one weight for every product of their numbers.

    Tensor fusion (Zadeh et al. 2017) multiplies every number of one modality with every number of the others and weighs
    each product: with z_m = [1; hidden_m],

        fused = W . (z_1 (x) ... (x) z_M) + b,        W of size K x prod_m (H_m + 1).

    Here W = sum_r w_r F_1^r (x) ... (x) F_M^r (equation 4 of the paper, with a learned weight per term), so that the
    product of all modalities is never built (equation 6):

        fused = sum_r w_r  prod_m (z_m F_m^r) + b,    R sum_m (H_m + 1) K weights instead.
    """

    def __init__(
        self, hidden_sizes: Sequence[int], fusion_rank: int, fusion_dim: int, factor_init: FactorInit = "variance"
    ) -> None:
        """Creates the factors and, after them, the weights of the terms and the bias.

        Args:
            hidden_sizes: H_m of each modality, in order.
            fusion_rank: R, number of rank-1 terms.
            fusion_dim: K, numbers in the output.
            factor_init: ``variance``: normal with variance 1 / (H_m + 1), so that each projection is about as large as
                its input and the product of several does not vanish. ``xavier``: Paddle's XavierNormal on the factor as
                it is, which takes a 3-D weight for a convolution; the smaller K is, the better that works (it is what
                LMF_Paddle does, with K = 2).
        """
        super().__init__()
        spread = {"variance": lambda size: Normal(0.0, size**-0.5), "xavier": lambda size: XavierNormal()}[factor_init]
        self.factors = nn.ParameterList(
            [
                self.create_parameter([fusion_rank, hidden + 1, fusion_dim], default_initializer=spread(hidden + 1))
                for hidden in hidden_sizes
            ]
        )
        self.rank_weights = self.create_parameter([1, fusion_rank], default_initializer=spread(fusion_rank))
        self.bias = self.create_parameter([1, fusion_dim], default_initializer=Constant(0.0))

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """M hidden vectors, float32 `[B, H_m]` each -> fused, float32 `[B, K]`."""
        product = None
        for vector, factor in zip(hidden, self.factors):
            one = paddle.ones([vector.shape[0], 1], dtype=vector.dtype)
            projected = paddle.matmul(paddle.concat([one, vector], axis=1), factor)  # [R, B, K]
            product = projected if product is None else product * projected
        terms = paddle.transpose(product, [1, 0, 2])  # [B, R, K]
        return paddle.matmul(self.rank_weights, terms).squeeze(1) + self.bias


class TensorFusion(nn.Layer):
    """Full tensor fusion (Zadeh et al. 2017, section 4.2): one weight for every product of the modalities' numbers.

    With z_m = [1; hidden_m]: fused = W . (z_1 (x) ... (x) z_M) + b, W of size prod_m (H_m + 1) x K. The product is built,
    `[B, prod_m (H_m + 1)]`: that is the cost that low-rank fusion avoids.
    """

    def __init__(self, hidden_sizes: Sequence[int], fusion_dim: int) -> None:
        """Creates W (normal, variance 1 / prod_m (H_m + 1)) and b (zeros).

        Args:
            hidden_sizes: H_m of each modality, in order.
            fusion_dim: K, numbers in the output.
        """
        super().__init__()
        products = math.prod(hidden + 1 for hidden in hidden_sizes)
        self.weight = self.create_parameter([products, fusion_dim], default_initializer=Normal(0.0, products**-0.5))
        self.bias = self.create_parameter([1, fusion_dim], default_initializer=Constant(0.0))

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """M hidden vectors, float32 `[B, H_m]` each -> fused, float32 `[B, K]`."""
        products = None
        for vector in hidden:
            one = paddle.ones([vector.shape[0], 1], dtype=vector.dtype)
            extended = paddle.concat([one, vector], axis=1)
            if products is None:
                products = extended
            else:
                products = (products.unsqueeze(2) * extended.unsqueeze(1)).flatten(1)
        return paddle.matmul(products, self.weight) + self.bias


class ConcatFusion(nn.Layer):
    """Fusion by concatenation: fused = ReLU(W [hidden_1; ...; hidden_M] + b), no products between modalities.

    Without the ReLU (and heads after it) the modalities would only be added up, so that nothing could depend on two of
    them together.
    """

    def __init__(self, hidden_sizes: Sequence[int], fusion_dim: int, relu: bool = True) -> None:
        """Creates W and b (Paddle's defaults for a linear layer).

        Args:
            hidden_sizes: H_m of each modality, in order.
            fusion_dim: K, numbers in the output.
            relu: apply it; not where the output is the logits.
        """
        super().__init__()
        self.linear = nn.Linear(sum(hidden_sizes), fusion_dim)
        self.relu = relu

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """M hidden vectors, float32 `[B, H_m]` each -> fused, float32 `[B, K]`."""
        fused = self.linear(paddle.concat(list(hidden), axis=1))
        return F.relu(fused) if self.relu else fused


class LateFusion(nn.Layer):
    """Each modality decides by itself; the mean of their probabilities counts.

    The logits are log(1/M sum_m softmax(W_m hidden_m + b_m)), so that the softmax of them is that mean.
    """

    def __init__(self, hidden_sizes: Sequence[int], tasks: int) -> None:
        """Creates W_m and b_m of each modality (Paddle's defaults for a linear layer).

        Args:
            hidden_sizes: H_m of each modality, in order.
            tasks: T, number of binary decisions.
        """
        super().__init__()
        self.linears = nn.LayerList([nn.Linear(hidden, 2 * tasks) for hidden in hidden_sizes])
        self.tasks = tasks

    def forward(self, hidden: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """M hidden vectors, float32 `[B, H_m]` each -> logits, float32 `[B, T, 2]`."""
        decided = [linear(vector).reshape([-1, self.tasks, 2]) for vector, linear in zip(hidden, self.linears)]
        each = F.log_softmax(paddle.stack(decided), axis=-1)  # [M, B, T, 2]
        return paddle.logsumexp(each, axis=0) - math.log(len(decided))
