"""How a network is trained, in the style of Lightning: steps, optimiser, and what is logged.

Shape letters: B batch, N clips of the training split, T tasks, O outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.errors import TrainingError
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.training import parallel
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.flat import flatten
from lmf_multitask.training.losses import MultitaskLoss

with quiet_imports():
    import paddle
    from paddle import nn

Batch = Mapping[str, paddle.Tensor]


class TrainingModule(nn.Layer):
    """Base class of what `LMFTrainer` trains: subclass it, give it layers, and define its steps and its optimiser.

    A batch is a dict of tensors, one per numeric column of the data set.
    """

    trainer: Any = None

    def training_step(self, batch: Batch) -> paddle.Tensor:
        """Returns the loss to minimise, a scalar."""
        raise NotImplementedError

    def validation_step(self, batch: Batch) -> dict[str, paddle.Tensor]:
        """Returns ``loss``, a mean over the batch, and optionally ``outputs`` `[B, ...]` for the metrics.

        Losses of several batches are averaged by the number of rows, or by ``weight`` if that is returned too: a scalar,
        the number of terms in the mean.
        """
        raise NotImplementedError

    def predict_step(self, batch: Batch) -> paddle.Tensor:
        """Returns the predictions `[B, ...]`; by default the ``outputs`` of `validation_step`."""
        return self.validation_step(batch)["outputs"]

    def configure_optimizers(self) -> Any:
        """Returns a Paddle optimiser, or a pair of it and a learning-rate scheduler that is stepped after every update."""
        raise NotImplementedError

    def on_train_batch_end(self, step: int) -> None:
        """Called after each optimiser update; `step` counts them from 1, over all epochs."""

    def on_train_epoch_end(self) -> None:
        """Called after an epoch's last step, before validation."""

    def optimized_parameters(self) -> dict[str, paddle.Tensor]:
        """What the optimiser may update, by name: the parameters, or buffers that hold many of them."""
        return dict(self.named_parameters())

    def watched_parameters(self) -> list[tuple[str, paddle.Tensor]]:
        """Parameters that are checked in every step: the gradients of trained ones, the values of the others."""
        return list(self.named_parameters())

    def log(self, name: str, value: float | paddle.Tensor, rows: int = 1) -> None:
        """Logs a value of this training step; its mean over the epoch, weighted by `rows`, goes into the history."""
        if self.trainer is not None:
            self.trainer.log_value(name, value, rows)

    def forward(self, batch: Batch) -> Any:
        """The step of the current mode, so that wrappers which call the layer (data parallelism) reach it."""
        return self.training_step(batch) if self.training else self.validation_step(batch)


class LMFModule(TrainingModule):
    """Trains an `LMFModel` with the loss of each task; labels that are not annotated do not count.

    With ``ema_epochs``, a copy of the network holds the exponential moving average of the weights, with a horizon of about
    that many epochs (after Polyak and Juditsky 1992; the decay starts at 2/11 and grows as in TensorFlow's
    ExponentialMovingAverage, so that the first weights are soon forgotten). The copy is what is validated and kept.
    """

    def __init__(self, model: LMFModel, config: TrainingConfig | None = None, labels: np.ndarray | None = None) -> None:
        """Stores the network and how it is trained.

        Args:
            model: the network.
            config: how it is trained; None takes the defaults.
            labels: of the training split, float32 `[N, T]`, NaN = not annotated; the joint loss and class weights need them.

        Raises:
            TrainingError: the settings need labels that are not given.
        """
        super().__init__()
        self.model = model
        self.config = config or TrainingConfig()
        self.loss = MultitaskLoss(self.config, model.tasks, labels)
        self.ema_model = None
        if self.config.ema_epochs is not None:
            self.ema_model = copy.deepcopy(model)
            for weight in self.ema_model.parameters():
                weight.stop_gradient = True
            self._pairs = list(zip(self.ema_model.parameters(), model.parameters()))
            self._averaged = [pair for pair in self._pairs if not pair[1].stop_gradient]
        self._flat: dict[str, paddle.Tensor] = {}

    @property
    def trained(self) -> LMFModel:
        """The network to keep: the one with averaged weights where the settings ask for it."""
        return self.model if self.ema_model is None else self.ema_model

    def training_step(self, batch: Batch) -> paddle.Tensor:
        """The loss over the batch's annotated labels: their mean, or their sum as LMF_Paddle has it."""
        labels = batch["labels"]
        total, count = self.loss(self.model(*_features(batch)), labels)
        self.log("train_loss", _mean(total, count), rows=labels.shape[0])
        if parallel.world_size() > 1:  # the gradients' mean over processes is then that of the whole batch's loss
            total, count = total * parallel.world_size(), parallel.summed(count)
        return total if self.config.loss_reduction == "sum" else total / count

    def validation_step(self, batch: Batch) -> dict[str, paddle.Tensor]:
        """Mean of the tasks' own losses over annotated labels, their number as its weight, and outputs `[B, O]`.

        Of the network alone: the linear model is combined with it after the training.
        """
        outputs, labels = self.trained.network_alone(*_features(batch)), batch["labels"]
        total, weight = self.loss.task_losses(outputs, labels).sum(), (~paddle.isnan(labels)).sum()
        return {"loss": _mean(total, weight.clip(min=1)), "outputs": outputs, "weight": weight}

    def predict_step(self, batch: Batch) -> paddle.Tensor:
        """Outputs `[B, O]`; needs no labels."""
        return self.trained(*_features(batch))

    def on_train_batch_end(self, step: int) -> None:
        """Updates the moving average."""
        if self.config.ema_epochs is None:
            return
        horizon = self.config.ema_epochs * self._steps_per_epoch()
        decay = min(1.0 - 1.0 / max(horizon, 1.0), (1 + step) / (10 + step))
        share = paddle.to_tensor(1.0 - decay, dtype="float32")
        with paddle.no_grad():
            for average, weight in self._averaged:
                average.lerp_(weight.detach(), share)

    def on_train_epoch_end(self) -> None:
        """Gives the moving average the statistics of the inputs as they are."""
        if self.config.ema_epochs is not None:
            for average, weight in self._pairs:
                if weight.stop_gradient:
                    paddle.assign(weight, average)

    def optimized_parameters(self) -> dict[str, paddle.Tensor]:
        """See `TrainingModule.optimized_parameters`."""
        return self._flat or super().optimized_parameters()

    def watched_parameters(self) -> list[tuple[str, paddle.Tensor]]:
        """All but the moving average, which follows the others, and what a step does not change."""
        return [
            (name, weight)
            for name, weight in self.named_parameters()
            if not name.startswith("ema_model.") and not getattr(weight, "fixed", False)
        ]

    def configure_optimizers(self) -> Any:
        """Adam with coupled L2; the fusion's factors may have their own learning rate.

        Paddle multiplies a group's ``learning_rate`` by the optimiser's, so with 1.0 there the groups' rates are absolute.
        (Paddle ignores a group key ``lr``.)

        Raises:
            TrainingError: the network has been edited since its moving average was begun.
        """
        self._check_pairs()
        config = self.config
        rate, factor_rate = config.learning_rate, config.factor_learning_rate or config.learning_rate
        together: dict[tuple[bool, float], list[paddle.Tensor]] = {}
        for name, weight in self.named_parameters():
            if not weight.stop_gradient:
                own = factor_rate if ".factors." in name else rate  # only low-rank fusion has factors
                together.setdefault((name.startswith("model."), own), []).append(weight)
        groups: Any = [{"params": weights, "learning_rate": own} for (_, own), weights in together.items()]
        if paddle.get_device() == "cpu":  # not tried elsewhere
            self._flatten(groups)
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

    def _flatten(self, groups: list[dict[str, Any]]) -> None:
        """Moves the weights of each group into one buffer, and their moving averages into another."""
        average_of = {} if self.ema_model is None else {id(weight): average for average, weight in self._pairs}
        averaged = []
        for number, group in enumerate(groups):
            weights = group["params"]
            buffer = flatten(weights, gradients=True)
            if id(weights[0]) in average_of:  # else they are of the loss
                averaged.append((flatten([average_of[id(weight)] for weight in weights]), buffer))
            self._flat[f"buffer_{number}"], group["params"] = buffer, [buffer]
        self._averaged = averaged

    def _check_pairs(self) -> None:
        if self.ema_model is None:
            return
        now = [weight for model in (self.ema_model, self.model) for weight in model.parameters()]
        paired = [weight for pair in zip(*self._pairs) for weight in pair]
        if list(map(id, now)) != list(map(id, paired)):
            raise TrainingError(
                "the network must keep its parameters after LMFModule was built, since ema_epochs averages them, but they have "
                "changed. Edit the network first and build LMFModule then, or set ema_epochs to None."
            )

    def _steps_per_epoch(self) -> int:
        if self.trainer is None:
            raise TrainingError(
                "schedule cosine and ema_epochs must know the steps of an epoch, but the module has no trainer. "
                "Pass the module to LMFTrainer, or switch them off."
            )
        return self.trainer.steps_per_epoch


def _features(batch: Batch) -> list[paddle.Tensor]:
    return [batch[name] for name in MODALITIES]


def _mean(total: paddle.Tensor, count: paddle.Tensor) -> paddle.Tensor:
    """In float64, so that logged losses are as exact as the losses."""
    return total.detach().astype("float64") / count.astype("float64")
