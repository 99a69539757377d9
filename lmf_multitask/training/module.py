"""How a network is trained, in the style of Lightning: steps, optimiser, and what is logged.

Shape letters: B batch, T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from lmf_multitask.config import TrainingConfig
from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training import parallel

Batch = Mapping[str, paddle.Tensor]


class TrainingModule(nn.Layer):
    """Base of what `LMFTrainer` trains: subclass it, give it layers, and say what a step is.

    A batch is a dict of tensors, one per numeric column of the data set.
    """

    trainer: Any = None

    def training_step(self, batch: Batch) -> paddle.Tensor:
        """Returns the loss to minimise, a scalar."""
        raise NotImplementedError

    def validation_step(self, batch: Batch) -> dict[str, paddle.Tensor]:
        """Returns ``loss``, a mean over the batch, and optionally ``logits`` `[B, ...]` for the metrics.

        Losses of several batches are averaged by the number of rows, or by ``weight`` if that is returned too: a scalar,
        how many things the mean is over.
        """
        raise NotImplementedError

    def predict_step(self, batch: Batch) -> paddle.Tensor:
        """Returns the predictions `[B, ...]`; by default the ``logits`` of `validation_step`."""
        return self.validation_step(batch)["logits"]

    def configure_optimizers(self) -> Any:
        """Returns a Paddle optimiser, or a pair of it and a learning-rate scheduler that is advanced after every step."""
        raise NotImplementedError

    def log(self, name: str, value: float | paddle.Tensor, rows: int = 1) -> None:
        """Notes a figure of this training step; its mean over the epoch, weighted by `rows`, goes to the history."""
        if self.trainer is not None:
            self.trainer.log_value(name, value, rows)

    def forward(self, batch: Batch) -> Any:
        """The step of the current mode, so that wrappers which call the layer (data parallelism) reach it."""
        return self.training_step(batch) if self.training else self.validation_step(batch)


class LMFModule(TrainingModule):
    """Trains an `LMFModel` with one cross entropy per emotion, leaving out labels that are not annotated (-100)."""

    def __init__(self, model: LMFModel, config: TrainingConfig | None = None) -> None:
        """Takes the network and how it is trained."""
        super().__init__()
        self.model = model
        self.config = config or TrainingConfig()

    def training_step(self, batch: Batch) -> paddle.Tensor:
        """Cross entropy over the batch's annotated labels: their mean, or their sum as the reference has it."""
        labels = batch["labels"]
        total, count = self._cross_entropy(self._logits(batch), labels)
        self.log("train_loss", _mean(total, count), rows=labels.shape[0])
        if parallel.count() > 1:  # the gradients' mean over processes is then that of the whole batch's loss
            total, count = total * parallel.count(), parallel.summed(count)
        return total if self.config.loss_reduction == "sum" else total / count

    def validation_step(self, batch: Batch) -> dict[str, paddle.Tensor]:
        """Mean cross entropy over annotated labels, their number as its weight, and logits `[B, T, 2]`."""
        logits = self._logits(batch)
        total, count = self._cross_entropy(logits, batch["labels"])
        weight = (batch["labels"] != NOT_ANNOTATED).sum()
        return {"loss": _mean(total, count), "logits": logits, "weight": weight}

    def predict_step(self, batch: Batch) -> paddle.Tensor:
        """Logits `[B, T, 2]`; needs no labels."""
        return self._logits(batch)

    def configure_optimizers(self) -> paddle.optimizer.Optimizer:
        """Adam with coupled L2; the fusion's factors may learn at their own rate.

        Paddle reads a group's ``learning_rate`` as a multiplier of the optimiser's, so that with 1.0 there the groups'
        rates are absolute. (A group key ``lr`` would be ignored without a word.)
        """
        config = self.config
        rate, factor_rate = config.learning_rate, config.factor_learning_rate or config.learning_rate
        named = [(name, weight) for name, weight in self.named_parameters() if not weight.stop_gradient]
        groups = [
            {"params": [w for name, w in named if ".factors." in name], "learning_rate": factor_rate},
            {"params": [w for name, w in named if ".factors." not in name], "learning_rate": rate},
        ]
        groups = [group for group in groups if group["params"]]  # only low-rank fusion has factors
        clip = None if config.max_grad_norm is None else nn.ClipGradByGlobalNorm(config.max_grad_norm)
        return paddle.optimizer.Adam(1.0, parameters=groups, weight_decay=float(config.weight_decay), grad_clip=clip)

    def _logits(self, batch: Batch) -> paddle.Tensor:
        return self.model(*(batch[name] for name in MODALITIES))

    @staticmethod
    def _cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Sum over annotated labels, and how many there are (at least 1, so that a batch without any has loss 0)."""
        total = F.cross_entropy(
            logits.reshape([-1, 2]), labels.reshape([-1]), ignore_index=NOT_ANNOTATED, reduction="sum"
        )
        return total, (labels != NOT_ANNOTATED).sum().astype(total.dtype).clip(min=1.0)


def _mean(total: paddle.Tensor, count: paddle.Tensor) -> paddle.Tensor:
    """In float64: what is told of a loss should be as exact as the loss."""
    return total.detach().astype("float64") / count.astype("float64")
