"""A linear model of the averaged features inside the network, and the weight of each in the outputs.

Wolpert 1992, "Stacked Generalization": the log-odds of the network and those of a logistic regression are added with weights
that are fitted on validation (real values: the values of the network and of a ridge regression).

Shape letters: B batch, L steps, D_m features of modality m, D their sum, T tasks, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmf_multitask.data.modality import Input
from lmf_multitask.models.base import Layer, fixed_parameter, nn, paddle
from lmf_multitask.models.encoders import Standardisation, step_mask

if TYPE_CHECKING:
    from lmf_multitask.evaluation.baselines import LinearBaseline
    from lmf_multitask.evaluation.stacking import Weights
    from lmf_multitask.tasks import Task


class LinearPart(Layer):
    """outputs = scale * outputs of the network + weight . standardised averaged features + bias.

    Until `fit`, the outputs are those of the network. Nothing here is trained with the network.
    """

    def __init__(self, inputs: Mapping[str, Input], tasks: Sequence[Task]) -> None:
        """Starts with scale 1 and zeros.

        Args:
            inputs: modality -> features, of the modalities that the network uses.
            tasks: the T tasks.
        """
        super().__init__()
        self.tasks, outputs = list(tasks), sum(task.outputs for task in tasks)
        self.norms = nn.LayerDict({name: Standardisation(one.features) for name, one in inputs.items()})
        self.weight = fixed_parameter(self, [sum(one.features for one in inputs.values()), outputs], 0.0)
        self.bias = fixed_parameter(self, [outputs], 0.0)
        self.scale = fixed_parameter(self, [outputs], 1.0)

    def forward(self, outputs: paddle.Tensor, features: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        """Outputs of the network float32 `[B, O]`, features `[B, D_m]` or `[B, L, D_m]` -> outputs `[B, O]`."""
        rows = []
        for name, norm in self.norms.items():
            values = features[name]
            if values.ndim == 3:
                known = step_mask(values).astype(values.dtype).unsqueeze(1)  # [B, 1, L]
                present = known.sum(axis=2)  # steps, [B, 1]
                values = paddle.matmul(known, values).squeeze(1) / present.clip(min=1.0)
            else:
                present = step_mask(values.unsqueeze(1)).astype(values.dtype)
            rows.append(norm(values) * present.clip(max=1.0))  # a missing modality counts as its mean
        return self.scale * outputs + paddle.matmul(paddle.concat(rows, axis=1), self.weight) + self.bias

    def fit(self, linear: LinearBaseline, weights: Mapping[str, Weights]) -> None:
        """Takes the linear model, and the weights of both.

        Args:
            linear: fitted on train for the same modalities and tasks.
            weights: by kind of task; outputs of other kinds stay those of the network.
        """
        ends = np.cumsum([norm.mean.shape[0] for norm in self.norms.values()])[:-1]
        for norm, mean, std in zip(self.norms.values(), np.split(linear.mean, ends), np.split(linear.std, ends)):
            norm.mean.set_value(mean.astype(np.float32))
            norm.std.set_value(std.astype(np.float32))
        columns, biases, scales = [], [], []
        for t, task in enumerate(self.tasks):
            one, unit = weights.get(task.kind), linear.weights[:, t : t + 1]
            share = 0.0 if one is None else one.linear / task.std  # the linear model predicts in the unit of the labels
            direction = np.array(task.direction or [0.0] * task.outputs)
            columns.append(share * unit * direction)
            biases.append(share * (linear.intercepts[t] - task.mean) * direction)
            scales.append(np.full(task.outputs, 1.0 if one is None else one.network))
        for parameter, parts in ((self.weight, columns), (self.bias, biases), (self.scale, scales)):
            parameter.set_value(np.concatenate(parts, axis=-1).astype(np.float32))

    def flops(self) -> int:
        """Floating-point operations per clip of the matrix product."""
        return 2 * self.weight.shape[0] * self.weight.shape[1]
