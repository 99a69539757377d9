"""What a head predicts: outputs, loss and prediction of each kind of task.

Shape letters: B batch, N clips, T tasks, O outputs of all tasks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lmf_multitask.config import check_name
from lmf_multitask.errors import ConfigError

if TYPE_CHECKING:
    import paddle


@dataclass(frozen=True)
class Task:
    """Base of all kinds of tasks.

    Attributes:
        name: of the task, usually an emotion.
        kind: name of the kind, a key of `TASKS`.
        outputs: numbers that its head gives per clip.
        monitor: key of the metric that rates it where nothing else is asked for.
    """

    name: str
    kind: ClassVar[str]
    outputs: ClassVar[int]
    monitor: ClassVar[str]

    def __post_init__(self) -> None:
        check_name(self.name)

    def loss(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Loss of each clip.

        Args:
            outputs: float32 `[B, outputs]` of its head.
            labels: float32 `[B]`, NaN = not annotated.

        Returns:
            float32 `[B]`, 0 where not annotated.
        """
        raise NotImplementedError

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs `[N, outputs]` -> predictions float64 `[N]`."""
        raise NotImplementedError

    def exported(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """What an exported model gives for outputs `[B, outputs]`; its last column is the prediction."""
        return outputs


class BinaryTask(Task):
    """Present or absent: two logits (absent, present), cross entropy in nats; the prediction is the probability of present."""

    kind = "binary"
    outputs = 2
    monitor = "average_precision"

    def loss(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """See `Task.loss`."""
        import paddle
        from paddle.nn import functional as F

        known = ~paddle.isnan(labels)
        index = paddle.where(known, labels, paddle.full_like(labels, -1.0)).astype("int64")
        return F.cross_entropy(outputs, index, ignore_index=-1, reduction="none").reshape(labels.shape)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """See `Task.predict`; a softmax over two logits is a sigmoid of their difference."""
        difference = np.asarray(outputs[..., 1], np.float64) - outputs[..., 0]
        return 0.5 * (1.0 + np.tanh(0.5 * difference))

    def exported(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """Probabilities of absent and present, float32 `[B, 2]`."""
        from paddle.nn import functional as F

        return F.softmax(outputs, axis=-1)


TASKS: dict[str, type[Task]] = {"binary": BinaryTask}


def make_tasks(names: Sequence[Task | str]) -> list[Task]:
    """Tasks from names; ``NAME:KIND`` names the kind, which is binary where it is left out.

    Raises:
        ConfigError: there is none, a name is not allowed or occurs twice, or a kind is unknown.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"tasks must be a list of names, but got {str(names)[:80]!r}.")
    found = []
    for one in names:
        if not isinstance(one, Task):
            name, _, kind = str(one).partition(":")
            if (kind or "binary") not in TASKS:
                raise ConfigError(f"the kind of task {name} must be one of {', '.join(TASKS)}, but got {kind!r}.")
            one = TASKS[kind or "binary"](name if isinstance(one, str) else check_name(one))
        found.append(one)
    if not found or len({task.name for task in found}) < len(found):
        raise ConfigError(f"tasks must be one or more different names, but got {str(list(names))[:80]}.")
    return found


def output_slices(tasks: Sequence[Task]) -> list[slice]:
    """Of the O outputs, those of each task."""
    ends = np.cumsum([task.outputs for task in tasks]).tolist()
    return [slice(end - task.outputs, end) for task, end in zip(tasks, ends)]


def predictions(outputs: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """Outputs float `[N, O]` -> predictions float32 `[N, T]`."""
    columns = [task.predict(outputs[:, part]) for task, part in zip(tasks, output_slices(tasks))]
    return np.stack(columns, axis=1).astype(np.float32)
