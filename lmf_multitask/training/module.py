"""How a network is trained, in the style of Lightning: steps, optimiser, and what is logged.

Shape letters: B batch, N clips of train, T tasks (emotions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from lmf_multitask.config import TrainingConfig
from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED
from lmf_multitask.errors import TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.training import parallel
from lmf_multitask.training.losses import EmotionLoss, cross_entropies

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

    def on_train_batch_end(self, step: int) -> None:
        """Called after each optimiser update; `step` counts them from 1, over all epochs."""

    def on_train_epoch_end(self) -> None:
        """Called after an epoch's last step, before validation."""

    def watched_parameters(self) -> list[tuple[str, paddle.Tensor]]:
        """What must stay finite at every step: the gradients of these, and the values of those that are not trained."""
        return list(self.named_parameters())

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
    """Trains an `LMFModel` with one cross entropy per emotion, leaving out labels that are not annotated (-100).

    With ``weight_averaging``, a second network holds the exponential running mean of the weights over about so many epochs
    (after Polyak and Juditsky 1992; the decay grows from 2/11 on as in TensorFlow's ExponentialMovingAverage, so that the first
    weights are soon forgotten). That is the one that is validated and kept.
    """

    def __init__(self, model: LMFModel, config: TrainingConfig | None = None, labels: np.ndarray | None = None) -> None:
        """Takes the network and how it is trained.

        Args:
            model: the network.
            config: how it is trained; None takes the defaults.
            labels: of train, int `[N, T]`; the joint loss and class weights need them.

        Raises:
            TrainingError: the settings need labels that are not given.
        """
        super().__init__()
        self.model = model
        self.config = config or TrainingConfig()
        self.loss = EmotionLoss(self.config, model.emotions, labels)
        self.averaged = None
        self._pairs: list[tuple[paddle.Tensor, paddle.Tensor]] = []
        if self.config.weight_averaging is not None:
            self.averaged = _copy(model)
            self._pairs = list(zip(self.averaged.parameters(), model.parameters()))

    @property
    def trained(self) -> LMFModel:
        """The network to keep: of averaged weights where the settings say so."""
        return self.model if self.averaged is None else self.averaged

    def training_step(self, batch: Batch) -> paddle.Tensor:
        """The loss over the batch's annotated labels: their mean, or their sum as the reference has it."""
        labels = batch["labels"]
        total, count = self.loss(self._logits(self.model, batch), labels)
        self.log("train_loss", _mean(total, count), rows=labels.shape[0])
        if parallel.world_size() > 1:  # the gradients' mean over processes is then that of the whole batch's loss
            total, count = total * parallel.world_size(), parallel.summed(count)
        return total if self.config.loss_reduction == "sum" else total / count

    def validation_step(self, batch: Batch) -> dict[str, paddle.Tensor]:
        """Mean plain cross entropy over annotated labels, their number as its weight, and logits `[B, T, 2]`."""
        logits = self._logits(self.trained, batch)
        total, weight = cross_entropies(logits, batch["labels"]).sum(), (batch["labels"] != NOT_ANNOTATED).sum()
        return {"loss": _mean(total, weight.clip(min=1)), "logits": logits, "weight": weight}

    def predict_step(self, batch: Batch) -> paddle.Tensor:
        """Logits `[B, T, 2]`; needs no labels."""
        return self._logits(self.trained, batch)

    def on_train_batch_end(self, step: int) -> None:
        """Brings the running mean of the weights up to date."""
        if self.averaged is None:
            return
        length = self.config.weight_averaging * self._steps_per_epoch()
        decay = min(1.0 - 1.0 / max(length, 1.0), (1 + step) / (10 + step))
        share = paddle.to_tensor(1.0 - decay, dtype="float32")
        with paddle.no_grad():
            for average, weight in self._pairs:
                if weight.stop_gradient:  # statistics of the inputs
                    paddle.assign(weight, average)
                else:
                    average.lerp_(weight.detach(), share)

    def watched_parameters(self) -> list[tuple[str, paddle.Tensor]]:
        """All but the running mean, which is of what is watched."""
        return [(name, weight) for name, weight in self.named_parameters() if not name.startswith("averaged.")]

    def on_train_epoch_end(self) -> None:
        """Lets the loss know."""
        self.loss.end_epoch()

    def configure_optimizers(self) -> Any:
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
        scheduler = None
        if config.schedule == "cosine":
            # Paddle 3.3's own CosineAnnealingDecay leaves the cosine with its first step
            steps = config.epochs * self._steps_per_epoch()
            scheduler = paddle.optimizer.lr.LambdaDecay(1.0, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
        optimizer = paddle.optimizer.Adam(
            scheduler or 1.0, parameters=groups, weight_decay=float(config.weight_decay), grad_clip=clip
        )
        return (optimizer, scheduler) if scheduler else optimizer

    def _steps_per_epoch(self) -> int:
        if self.trainer is None:
            raise TrainingError(
                "schedule cosine and weight_averaging must know the steps of an epoch, but there is no trainer. "
                "Give the module to LMFTrainer, or switch them off."
            )
        return self.trainer.steps_per_epoch

    @staticmethod
    def _logits(model: LMFModel, batch: Batch) -> paddle.Tensor:
        return model(*(batch[name] for name in MODALITIES))


def _copy(model: LMFModel) -> LMFModel:
    """The same network with weights of its own that no optimiser sees; Paddle's generator is left as it is."""
    state = paddle.get_rng_state()
    copy = LMFModel(model.feature_sizes, model.emotions, model.config)
    paddle.set_rng_state(state)
    for own, weight in zip(copy.parameters(), model.parameters()):
        own.set_value(weight)
        own.stop_gradient = True
    return copy


def _mean(total: paddle.Tensor, count: paddle.Tensor) -> paddle.Tensor:
    """In float64: what is told of a loss should be as exact as the loss."""
    return total.detach().astype("float64") / count.astype("float64")
