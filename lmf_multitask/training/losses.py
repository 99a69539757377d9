"""The loss of a batch: one term per task, combined by weights, and one term over all exclusive binary tasks together.

Shape letters: B batch, N clips of the training split, T tasks, O outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from lmf_multitask.errors import TrainingError
from lmf_multitask.evaluation.decisions import exclusive_rows
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.tasks import BinaryTask, Task
from lmf_multitask.training.config import TrainingConfig

with quiet_imports():
    import paddle
    from paddle import nn
    from paddle.nn import functional as F
    from paddle.nn.initializer import Constant

Part = tuple[list[Task], paddle.Tensor, paddle.Tensor]
"""Neighbouring tasks of one family, their outputs and their labels."""


class TaskLosses:
    """Computes each task's own loss; neighbouring tasks of one family are computed together."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Groups the T tasks."""
        self._groups = [list(group) for _, group in itertools.groupby(tasks, key=lambda task: task.family)]
        self._counts = [len(group) for group in self._groups]
        self._widths = [sum(task.outputs for task in group) for group in self._groups]

    def split(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> list[Part]:
        """Outputs `[B, O]`, labels float32 `[B, T]` -> those of each group."""
        if len(self._groups) == 1:
            return [(self._groups[0], outputs, labels)]
        return list(zip(self._groups, outputs.split(self._widths, axis=1), labels.split(self._counts, axis=1)))

    def __call__(self, parts: Sequence[Part]) -> paddle.Tensor:
        """Result of `split` -> losses, float32 `[B, T]`, 0 where not annotated."""
        found = [type(members[0]).losses(members, *part) for members, *part in parts]
        return found[0] if len(found) == 1 else paddle.concat(found, axis=1)


def _scales(tasks: Sequence[Task], labels: np.ndarray) -> np.ndarray:
    """Factors that balance the losses of kinds, float32 `[T]`; 1 for binary tasks, and for all where there are none.

    Args:
        tasks: the T tasks.
        labels: of the training split, float32 `[N, T]`, NaN = not annotated.
    """
    binary = np.array([isinstance(task, BinaryTask) for task in tasks])
    if binary.all() or not binary.any():
        return np.ones(len(tasks), np.float32)
    losses = np.array([_constant_loss(task, labels[:, t]) for t, task in enumerate(tasks)])
    level = losses[binary].mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(binary | (losses <= 0) | (level <= 0), 1.0, level / losses)
    return scales.astype(np.float32)


def _constant_loss(task: Task, labels: np.ndarray) -> float:
    """Mean loss of the best constant prediction for labels `[N]`; 0 without any."""
    known = labels[~np.isnan(labels)].astype(np.float32)
    if not len(known):
        return 0.0
    outputs = np.tile(task.constant(known), (len(known), 1))
    return float(task.loss(paddle.to_tensor(outputs), paddle.to_tensor(known)).mean())


class MultitaskLoss(nn.Layer):
    """The loss of a batch under the settings of `TrainingConfig`.

    - ``balance_kinds``: beside binary tasks, the loss of a task of another kind is divided by what the best constant
      prediction loses on train, and multiplied by the mean of that over the binary tasks. So every task starts with about
      the same loss whatever its unit and criterion, as the loss ratios of GradNorm do (Chen et al. 2018, section 3.2:
      losses in units of the initial loss). Tasks of one kind alone are left as they are.
    - ``joint_loss`` s: (1 - s) times the losses of binary tasks plus s times one cross entropy over all binary heads, a softmax of
      their logit differences. Only the difference of a head's two logits matters, so this is multinomial logistic
      regression over the same heads: they learn that exactly one emotion is present. It counts for clips where that is so.
    - ``class_weights`` balanced: a label counts N / (2 N_c) times, N_c being the training clips with the same label of that
      task (scikit-learn's rule, King and Zeng 2001).
    - ``focal_gamma`` g: a label counts (1 - p)^g times, p being its predicted probability (Lin et al. 2017, Focal Loss for
      Dense Object Detection).
    - ``task_weighting``: fixed weights; or uncertainty, exp(-s_t) L_t + s_t / 2 with a learned s_t per task (Kendall, Gal
      and Cipolla 2018, Multi-Task Learning Using Uncertainty to Weigh Losses, equation 10 with s = log sigma^2).

    The joint loss, class weights and focal loss concern binary tasks only.
    """

    def __init__(self, config: TrainingConfig, tasks: Sequence[Task], labels: np.ndarray | None = None) -> None:
        """Prepares weights.

        Args:
            config: the settings.
            tasks: the T tasks.
            labels: of the training split, float32 `[N, T]`, NaN = not annotated; the balance of kinds, class weights and the joint
                term need them.

        Raises:
            TrainingError: labels are needed but not given, or a weight is for an unknown task.
        """
        super().__init__()
        self.config, self._losses = config, TaskLosses(tasks)
        binary = self._binary = np.array([isinstance(task, BinaryTask) for task in tasks])
        self.joint_share = 0.0
        if labels is not None and binary.any() and exclusive_rows(labels[:, binary]) is not None:
            self.joint_share = float(config.joint_loss)
        scales = np.ones(len(tasks), np.float32)
        if config.balance_kinds and labels is not None:
            scales = _scales(tasks, labels)
        self._scales = _factors(scales)
        self._own_scales = _factors(scales * np.where(binary, 1.0 - self.joint_share, 1.0))
        self._absent_weights = self._present_weights = None
        if config.class_weights == "balanced":
            if labels is None:
                raise TrainingError(
                    "class_weights balanced must have the labels of the training split, but got None. Pass labels."
                )
            absent, present = np.ones([2, len(tasks)], np.float32)
            absent[binary], present[binary] = _balanced(labels[:, binary])
            self._absent_weights, self._present_weights = paddle.to_tensor(absent), paddle.to_tensor(present)
        if config.task_weighting == "fixed":
            self._task_weights = paddle.to_tensor(_fixed(config.task_weights or {}, [task.name for task in tasks]))
        if config.task_weighting == "uncertainty":
            self.log_variances = self.create_parameter([len(tasks)], default_initializer=Constant(0.0))

    def task_losses(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Outputs `[B, O]`, labels float32 `[B, T]` -> each task's own balanced loss, float32 `[B, T]`, 0 where not annotated."""
        return _scaled(self._losses(self._losses.split(outputs, labels)), self._scales)

    def forward(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Outputs `[B, O]`, labels float32 `[B, T]` -> weighted sum over annotated labels, and their number.

        The number is at least 1, so that a batch without labels has loss 0.
        """
        known = ~paddle.isnan(labels)
        parts = self._losses.split(outputs, labels)
        each = self._losses(parts)
        count = known.sum().astype(each.dtype).clip(min=1.0)
        if self.config.focal_gamma:
            focal = each * (1.0 - paddle.exp(-each)) ** self.config.focal_gamma
            each = focal if self._binary.all() else paddle.where(paddle.to_tensor(self._binary), focal, each)
        if self._present_weights is not None:
            each = each * paddle.where(labels == 1.0, self._present_weights, self._absent_weights)
        total = self._over_tasks(_scaled(each, self._own_scales), known)
        if self.joint_share:
            total = total + self.joint_share * self._joint(parts)
        return total, count

    def _over_tasks(self, each: paddle.Tensor, known: paddle.Tensor) -> paddle.Tensor:
        if self.config.task_weighting == "uniform":
            return each.sum()
        sums = each.sum(axis=0)
        if self.config.task_weighting == "fixed":
            return (sums * self._task_weights).sum()
        counts = known.sum(axis=0).astype(each.dtype)
        return (sums * paddle.exp(-self.log_variances) + counts * self.log_variances / 2).sum()

    def _joint(self, parts: Sequence[Part]) -> paddle.Tensor:
        """Sum over clips where one binary task is present and all others are absent."""
        chosen = [part[1:] for part in parts if isinstance(part[0][0], BinaryTask)]
        outputs, labels = chosen[0] if len(chosen) == 1 else (paddle.concat(one, axis=1) for one in zip(*chosen))
        logits = outputs.reshape([-1, labels.shape[1], 2])
        present = labels == 1.0
        exclusive = (present.sum(axis=1) == 1) & (present | (labels == 0.0)).all(axis=1)
        difference = logits[:, :, 1] - logits[:, :, 0]
        each = F.cross_entropy(difference, present.astype("int64").argmax(axis=1), reduction="none")
        if self._present_weights is not None:
            weights = self._present_weights[paddle.to_tensor(self._binary)]
            each = each * (present.astype(each.dtype) * weights).sum(axis=1)
        return (each * exclusive.astype(each.dtype)).sum()


def _factors(values: np.ndarray) -> paddle.Tensor | None:
    """Factors of T losses, float32 `[T]`; None if all are 1."""
    return None if (values == 1).all() else paddle.to_tensor(values.astype(np.float32))


def _scaled(each: paddle.Tensor, factors: paddle.Tensor | None) -> paddle.Tensor:
    return each if factors is None else each * factors


def _balanced(labels: np.ndarray) -> np.ndarray:
    """Labels `[N, T]` -> weights of absent and of present, float32 `[2, T]`; 1 for a label that never occurs."""
    counts = np.stack([(labels == value).sum(axis=0) for value in (0, 1)]).astype(np.float64)
    return np.where(counts > 0, counts.sum(axis=0) / (2 * np.maximum(counts, 1)), 1.0).astype(np.float32)


def _fixed(weights: Mapping[str, float], tasks: Sequence[str]) -> np.ndarray:
    unknown = sorted(set(weights) - set(tasks))
    if unknown:
        raise TrainingError(
            f"training.task_weights must name tasks of the data, {', '.join(tasks)}, but got {', '.join(unknown)}. "
            "Correct the name."
        )
    return np.array([weights.get(task, 1.0) for task in tasks], np.float32)
