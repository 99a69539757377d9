"""What a head predicts: outputs, loss and prediction of each kind of task.

Shape letters: B batch, N clips, T tasks, O outputs of all tasks together.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmf_multitask.config import check_name
from lmf_multitask.data.targets import Target, parse_target
from lmf_multitask.errors import ConfigError, suggestion

if TYPE_CHECKING:
    import paddle


CLOSEST_TO_CERTAIN = 1e-7
"""Probabilities are clipped to this distance from 0 and 1 before logarithms: about the resolution of float32 near 1."""


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Logarithm of p / (1 - p), in nats, float64 of the same shape."""
    kept = np.clip(np.asarray(probabilities, np.float64), CLOSEST_TO_CERTAIN, 1 - CLOSEST_TO_CERTAIN)
    return np.log(kept) - np.log1p(-kept)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """The inverse of `log_odds`: 1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * scores))


@dataclass(frozen=True)
class Task:
    """Base of all kinds of tasks.

    Attributes:
        name: of the task, usually an emotion.
        kind: name of the kind, a key of `TASKS`.
        outputs: numbers that its head gives per clip.
        monitor: key of the metric that rates it where nothing else is asked for; greater is better.
        direction: how the outputs change with the `score`, `outputs` numbers; None: it has no score.
        mean: value that the score 0 stands for, for kinds whose predictions are values.
        std: value of a difference of 1 in the score.
    """

    name: str
    kind: ClassVar[str]
    outputs: ClassVar[int]
    monitor: ClassVar[str]
    direction: ClassVar[tuple[float, ...] | None] = None
    mean = 0.0
    std = 1.0

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

    @classmethod
    def losses(cls, tasks: Sequence[Any], outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """`loss` of T tasks of one `family`: outputs float32 `[B, T * outputs]`, labels `[B, T]` -> `[B, T]`."""
        return tasks[0].loss(outputs.reshape([-1, cls.outputs]), labels.reshape([-1])).reshape(labels.shape)

    @property
    def family(self) -> Task:
        """Equal for tasks whose losses can be computed together."""
        return dataclasses.replace(self, name="any")

    def constant(self, labels: np.ndarray) -> np.ndarray:
        """The outputs `[outputs]` that are best for labels `[N]` (without NaN) if every clip gets the same; by default zeros."""
        return np.zeros(self.outputs, np.float32)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs `[N, outputs]` -> predictions float64 `[N]`."""
        raise NotImplementedError

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions `[N]` -> what models are combined in, float64 `[N]`; only of kinds with a `direction`."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The task as plain values; `task_from` takes them back."""
        return {"name": self.name, "kind": self.kind, **dataclasses.asdict(self)}

    def exported(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """What an exported model gives for outputs `[B, outputs]`; its last column is the prediction."""
        return outputs


@dataclass(frozen=True)
class BinaryTask(Task):
    """Present or absent: two logits (absent, present), cross entropy in nats; the prediction is the probability of present.

    Attributes:
        threshold: the probability above which it counts as present.
    """

    threshold: float = 0.5

    kind = "binary"
    outputs = 2
    monitor = "average_precision"
    direction = (-0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.threshold, bool) or not 0 <= self.threshold <= 1:
            raise ConfigError(f"the threshold of {self.name} must be from 0 to 1, but got {self.threshold}.")

    @property
    def family(self) -> BinaryTask:
        """See `Task.family`: thresholds may differ."""
        return BinaryTask("any")

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task.score`: the log-odds of present, in nats."""
        return log_odds(predictions)

    def loss(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """See `Task.loss`."""
        import paddle
        from paddle.nn import functional as F

        known = ~paddle.isnan(labels)
        index = paddle.where(known, labels, paddle.full_like(labels, -1.0)).astype("int64")
        return F.cross_entropy(outputs, index, ignore_index=-1, reduction="none").reshape(labels.shape)

    def constant(self, labels: np.ndarray) -> np.ndarray:
        """The logits of the share of present."""
        share = np.clip(np.mean(labels == 1), 1e-7, 1 - 1e-7)
        return np.array([0.0, math.log(share / (1 - share))], np.float32)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """See `Task.predict`; a softmax over two logits is a sigmoid of their difference."""
        difference = np.asarray(outputs[..., 1], np.float64) - outputs[..., 0]
        return sigmoid(difference)

    def exported(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """Probabilities of absent and present, float32 `[B, 2]`."""
        from paddle.nn import functional as F

        return F.softmax(outputs, axis=-1)


CRITERIA = ("l1", "mse", "huber", "ccc")
"""Losses of regression tasks."""


@dataclass(frozen=True)
class RegressionTask(Task):
    """A real number: one output, in units of the std of train around its mean.

    Losses of the difference d of output and standardised target: ``l1`` |d|; ``mse`` d^2; ``huber`` d^2 / 2 up to 1, |d| - 1/2
    beyond (Huber 1964); ``ccc`` 1 minus the concordance correlation coefficient over the annotated clips of the batch (Lin
    1989; as a loss e.g. Weninger et al. 2016), the same number for each of them.

    Attributes:
        criterion: the loss, one of `CRITERIA`.
        mean: of the targets in train, in their unit.
        std: likewise.
        range: lowest and highest value that the target can have, to which predictions are clipped; None: unknown.
    """

    criterion: str = "l1"
    mean: float = 0.0
    std: float = 1.0
    range: tuple[float, float] | None = None

    kind = "regression"
    outputs = 1
    monitor = "ccc"
    direction = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion not in CRITERIA:
            raise ConfigError(
                f"the loss of {self.name} must be one of {', '.join(CRITERIA)}, but got {self.criterion!r}."
            )
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(
                f"mean and std of {self.name} must be finite, and std above 0, but got {self.mean}, {self.std}."
            )
        if self.range is not None:
            low, high = map(float, self.range)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"the range of {self.name} must be two numbers, the lower first, but got {self.range}."
                )
            object.__setattr__(self, "range", (low, high))

    @property
    def family(self) -> RegressionTask:
        """See `Task.family`: mean, std and range may differ."""
        return RegressionTask("any", self.criterion)

    def loss(self, outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """See `Task.loss`."""
        return self.losses([self], outputs, labels.unsqueeze(1)).squeeze(1)

    @classmethod
    def losses(cls, tasks: Sequence[Any], outputs: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """See `Task.losses`."""
        import paddle

        mean, scale = _constants(tuple((task.mean, task.std) for task in tasks), paddle.get_device())
        known = ~paddle.isnan(labels)
        # a clip that is not annotated has its output for a target: neither loss nor gradient
        target = paddle.where(known, (labels - mean) * scale, outputs.detach())
        criterion = tasks[0].criterion
        if criterion == "ccc":
            weight = known.astype(outputs.dtype)
            return (1.0 - _concordance(outputs, target, weight)) * weight
        difference = outputs - target
        if criterion == "mse":
            return difference**2
        size = paddle.abs(difference)
        return size if criterion == "l1" else _huber(size)

    def score(self, predictions: np.ndarray) -> np.ndarray:
        """See `Task.score`: standardised as the targets are."""
        return (np.asarray(predictions, np.float64) - self.mean) / self.std

    def constant(self, labels: np.ndarray) -> np.ndarray:
        """The standardised median for losses of absolute differences, otherwise the mean."""
        centre = np.median(labels) if self.criterion in ("l1", "huber") else np.mean(labels)
        return np.array([(centre - self.mean) / self.std], np.float32)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """See `Task.predict`: in the unit of the targets, inside the range where it is known."""
        values = np.asarray(outputs[..., 0], np.float64) * self.std + self.mean
        return values if self.range is None else np.clip(values, *self.range)

    def exported(self, outputs: paddle.Tensor) -> paddle.Tensor:
        """The prediction, float32 `[B, 1]`."""
        values = outputs * self.std + self.mean
        return values if self.range is None else values.clip(*self.range)


@functools.lru_cache(maxsize=64)
def _constants(values: tuple[tuple[float, float], ...], device: str) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Means and reciprocals of the stds of T tasks, float32 `[T]`, made once."""
    import paddle

    mean, scale = zip(*((mean, 1.0 / std) for mean, std in values))
    return paddle.to_tensor(mean, dtype="float32"), paddle.to_tensor(scale, dtype="float32")


def _huber(size: paddle.Tensor) -> paddle.Tensor:
    small = size.clip(max=1.0)
    return small * (size - small / 2)


def _concordance(outputs: paddle.Tensor, target: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Concordance correlation over annotated rows: three times float32 `[B, T]` -> `[1, T]`; 0 where nothing varies."""
    count = weight.sum(axis=0, keepdim=True).clip(min=1.0)
    centre, aim = ((values * weight).sum(axis=0, keepdim=True) / count for values in (outputs, target))
    off, wanted = (outputs - centre) * weight, (target - aim) * weight
    spread = ((off**2 + wanted**2).sum(axis=0, keepdim=True)) / count + (centre - aim) ** 2
    return 2.0 * (off * wanted).sum(axis=0, keepdim=True) / count / (spread + 1e-8)


TASKS: dict[str, type[Task]] = {"binary": BinaryTask, "regression": RegressionTask}


def make_tasks(names: Sequence[Task | Target | str]) -> list[Task]:
    """Tasks from names; ``NAME:KIND`` names the kind, which is binary where it is left out (see `data.targets`).

    Raises:
        ConfigError: there is none, a name is not allowed or occurs twice, or a kind is unknown.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"tasks must be a list of names, but got {str(names)[:80]!r}.")
    found = [one if isinstance(one, Task) else _make(parse_target(one)) for one in names]
    if not found or len({task.name for task in found}) < len(found):
        raise ConfigError(f"tasks must be one or more different names, but got {str(list(map(str, names)))[:80]}.")
    return found


def _make(target: Target) -> Task:
    kind = check_kind(target.name, target.kind or "binary")
    return TASKS[kind](target.name, **({} if target.range is None else {"range": target.range}))


def check_kind(name: str, kind: str) -> str:
    """Returns the kind of a task if there is such a kind.

    Raises:
        ConfigError: there is none.
    """
    if kind not in TASKS:
        raise ConfigError(
            f"the kind of task {name} must be one of {', '.join(TASKS)}, but got {kind!r}.{suggestion(kind, list(TASKS))}"
        )
    return kind


def task_from(values: Mapping[str, Any]) -> Task:
    """The task that `Task.to_dict` described.

    Raises:
        KeyError: name or kind is missing.
        ConfigError: a value is missing, unknown or not allowed.
    """
    name, kind = check_name(values["name"]), str(values["kind"])
    given = {key: value for key, value in values.items() if key not in ("name", "kind")}
    cls = TASKS[check_kind(name, kind)]
    known = {field.name for field in dataclasses.fields(cls)} - {"name"}
    if set(given) != known:
        raise ConfigError(
            f"the task {name} must have {', '.join(sorted(known)) or 'nothing else'}, but has {', '.join(given)}."
        )
    try:
        return cls(name, **given)
    except ConfigError:
        raise
    except (TypeError, ValueError):
        raise ConfigError(f"the task {name} must have values of the right types, but has {str(given)[:80]}.") from None


def output_slices(tasks: Sequence[Task]) -> list[slice]:
    """Of the O outputs, those of each task."""
    ends = np.cumsum([task.outputs for task in tasks]).tolist()
    return [slice(end - task.outputs, end) for task, end in zip(tasks, ends)]


def predictions(outputs: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """Outputs float `[N, O]` -> predictions float32 `[N, T]`."""
    columns = [task.predict(outputs[:, part]) for task, part in zip(tasks, output_slices(tasks))]
    return np.stack(columns, axis=1).astype(np.float32)
