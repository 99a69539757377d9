"""What is minimised: one cross entropy per emotion, and how they are weighed against each other.

Shape letters: B batch, N clips of train, T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.nn.initializer import Constant

from lmf_multitask.config import TrainingConfig
from lmf_multitask.data.schema import NOT_ANNOTATED
from lmf_multitask.errors import TrainingError
from lmf_multitask.evaluation.metrics import exclusive_rows
from lmf_multitask.training import parallel

DYNAMIC_TEMPERATURE = 2.0
"""Of dynamic weight averaging; the paper's."""


def cross_entropies(logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
    """Logits `[B, T, 2]`, labels int64 `[B, T]` -> cross entropy in nats, float32 `[B, T]`, 0 where not annotated."""
    each = F.cross_entropy(logits.reshape([-1, 2]), labels.reshape([-1]), ignore_index=NOT_ANNOTATED, reduction="none")
    return each.reshape(labels.shape)


class EmotionLoss(nn.Layer):
    """The loss of a batch under the settings of `TrainingConfig`.

    - ``joint_loss`` s: (1 - s) times the emotions' cross entropies plus s times one cross entropy over all heads, a softmax of
      their logit differences. Of a head's two logits only the difference matters, so that this is multinomial logistic
      regression over the same heads: they learn that exactly one emotion is present. It counts in clips where that is so.
    - ``class_weights`` balanced: a label counts N / (2 N_c) times, N_c being the clips of train with the same label of that
      emotion (scikit-learn's rule, King and Zeng 2001).
    - ``focal_gamma`` g: a label counts (1 - p)^g times, p being the probability that it is given (Lin et al. 2017, Focal Loss
      for Dense Object Detection).
    - ``task_weighting``: fixed weights; or uncertainty, exp(-s_t) L_t + s_t / 2 with a learned s_t per emotion (Kendall, Gal
      and Cipolla 2018, Multi-Task Learning Using Uncertainty to Weigh Losses, equation 10 with s = log sigma^2); or dynamic,
      T softmax(r_t / 2) with r_t the last epoch's loss over that of the one before (Liu, Johns and Davison 2019, End-to-End
      Multi-Task Learning with Attention, equation 7).
    """

    def __init__(self, config: TrainingConfig, emotions: Sequence[str], labels: np.ndarray | None = None) -> None:
        """Prepares weights.

        Args:
            config: the settings.
            emotions: names of the T tasks.
            labels: of train, int `[N, T]`; class weights and the joint term need them.

        Raises:
            TrainingError: train's labels are needed and not given, or a weight is for an unknown emotion.
        """
        super().__init__()
        self.config, tasks = config, len(emotions)
        self.joint_share = 0.0
        if labels is not None and exclusive_rows(labels) is not None:
            self.joint_share = float(config.joint_loss)
        self._class_weights = None
        if config.class_weights == "balanced":
            if labels is None:
                raise TrainingError("class_weights balanced must be given train's labels, but got none. Pass labels.")
            self._class_weights = paddle.to_tensor(_balanced(labels))
        self._task_weights = None
        if config.task_weighting == "fixed":
            self._task_weights = paddle.to_tensor(_fixed(config.task_weights or {}, emotions))
        if config.task_weighting == "uncertainty":
            self.log_variances = self.create_parameter([tasks], default_initializer=Constant(0.0))
        if config.task_weighting == "dynamic":
            # the emotions' losses of this epoch so far, their labels, and the two epochs before: saved with the weights
            self.progress = self.create_parameter([4, tasks], default_initializer=Constant(0.0))
            self.progress.stop_gradient, self.progress.trainable = True, False

    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Logits `[B, T, 2]`, labels int64 `[B, T]` -> the weighed sum over annotated labels, and how many there are.

        Their number is at least 1, so that a batch without any has loss 0.
        """
        config, known = self.config, labels != NOT_ANNOTATED
        each = cross_entropies(logits, labels)
        count = known.sum().astype(each.dtype).clip(min=1.0)
        if config.focal_gamma:
            each = each * (1.0 - paddle.exp(-each)) ** config.focal_gamma
        if self._class_weights is not None:
            chosen = F.one_hot(labels.clip(min=0), 2)  # [B, T, 2]
            each = each * (chosen * self._class_weights).sum(axis=2)
        total = each.sum() if config.task_weighting == "uniform" else self._weighed(each, known)
        if self.joint_share:
            total = (1.0 - self.joint_share) * total + self.joint_share * self._joint(logits, labels)
        return total, count

    def _weighed(self, each: paddle.Tensor, known: paddle.Tensor) -> paddle.Tensor:
        sums, counts = each.sum(axis=0), known.sum(axis=0).astype(each.dtype)
        if self.config.task_weighting == "fixed":
            return (sums * self._task_weights).sum()
        if self.config.task_weighting == "uncertainty":
            return (sums * paddle.exp(-self.log_variances) + counts * self.log_variances / 2).sum()
        if self.training:
            with paddle.no_grad():
                self.progress[0] = self.progress[0] + sums.detach()
                self.progress[1] = self.progress[1] + counts
        return (sums * self._dynamic_weights()).sum()

    def _dynamic_weights(self) -> paddle.Tensor:
        last, before = self.progress[2], self.progress[3]
        known = (before > 0).all().astype(last.dtype)  # equal weights for the first two epochs
        ratio = last / before.clip(min=1e-12) * known
        return F.softmax(ratio / DYNAMIC_TEMPERATURE) * len(last)

    def end_epoch(self) -> None:
        """Makes this epoch's losses the last epoch's; to be called after its last step."""
        if self.config.task_weighting != "dynamic":
            return
        with paddle.no_grad():
            now = parallel.summed(self.progress)
            mean = now[0] / now[1].clip(min=1.0)
            self.progress.set_value(
                paddle.stack([paddle.zeros_like(mean), paddle.zeros_like(mean), mean, self.progress[2]])
            )

    def _joint(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Sum over clips where one emotion is present and all others are absent."""
        counts = ((labels == 1).sum(axis=1) == 1) & (labels != NOT_ANNOTATED).all(axis=1)
        difference = logits[:, :, 1] - logits[:, :, 0]
        each = F.cross_entropy(difference, labels.argmax(axis=1), reduction="none")
        if self._class_weights is not None:
            present = (labels == 1).astype(each.dtype) * self._class_weights[:, 1]
            each = each * present.sum(axis=1)
        return (each * counts.astype(each.dtype)).sum()


def _balanced(labels: np.ndarray) -> np.ndarray:
    """Labels int `[N, T]` -> weights of absent and present, float32 `[T, 2]`; 1 for a label that never occurs."""
    counts = np.stack([(labels == value).sum(axis=0) for value in (0, 1)], axis=1).astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(counts > 0, total / (2 * np.maximum(counts, 1)), 1.0).astype(np.float32)


def _fixed(weights: Mapping[str, float], emotions: Sequence[str]) -> np.ndarray:
    unknown = sorted(set(weights) - set(emotions))
    if unknown:
        raise TrainingError(
            f"training.task_weights must name emotions of the data, {', '.join(emotions)}, but got {', '.join(unknown)}. "
            "Correct the name."
        )
    return np.array([weights.get(emotion, 1.0) for emotion in emotions], np.float32)
