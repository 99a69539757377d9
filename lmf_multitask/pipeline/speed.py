"""Measurements in one process, in turns (A B C, A B C, ...), so that a busy machine disturbs all alike."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lmf_multitask.config import build, replaced
from lmf_multitask.data.modality import Input
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS
from lmf_multitask.evaluation.text import TextTable
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.models.fusion import FUSIONS
from lmf_multitask.pipeline.settings import ExperimentConfig, recipe_config
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.training.config import TrainingConfig

with quiet_imports():
    import paddle

    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.training.module import LMFModule

INPUTS = {"audio": Input((74,)), "video": Input((35,)), "text": Input((20, 300))}
CLIPS = 938  # IEMOCAP's test split
TRAIN_CLIPS = 2717  # and its train split: one epoch
_SHORTEST = 0.02  # seconds of one measurement


@dataclass(frozen=True)
class Part:
    """One network: the tasks it learns, and how."""

    tasks: tuple[str, ...]
    model: ModelConfig
    training: TrainingConfig


@dataclass(frozen=True)
class Result:
    """Measurements of one contender; a clip counts once, however many networks it passes.

    Attributes:
        parameters: trainable numbers.
        forward: floating-point operations per clip in inference, as the layers state them.
        training: seconds per clip of a training step: median, lower and upper quartile.
        inference: seconds per clip in batches of 256.
        latency: seconds of a single clip.
    """

    parameters: int
    forward: int
    training: tuple[float, float, float]
    inference: tuple[float, float, float]
    latency: tuple[float, float, float]


def contenders() -> dict[str, list[Part]]:
    """The multitask model, the paper's four models, and the multitask model with each other fusion."""

    def multitask(changes: Mapping[str, Any]) -> list[Part]:
        return [Part(IEMOCAP_EMOTIONS, replaced(ModelConfig(), changes), TrainingConfig())]

    recipes = {name: build(ExperimentConfig, recipe_config("lmf_paddle", name)) for name in IEMOCAP_EMOTIONS}
    separate = [Part((name,), recipe.model, recipe.training) for name, recipe in recipes.items()]
    others = {f"multitask, fusion {kind}": multitask({"fusion.kind": kind}) for kind in FUSIONS if kind != "lmf"}
    return {"multitask, fusion lmf": multitask({}), "per emotion (4 networks)": separate, **others}


def random_clips(clips: int, tasks: int) -> dict[str, np.ndarray]:
    """Random features of `INPUTS`, text padded with zeros at the end, random labels float32 `[clips, tasks]`."""
    rng = np.random.default_rng(0)
    found = {name: rng.standard_normal((clips, *one.shape), dtype=np.float32) for name, one in INPUTS.items()}
    length = INPUTS["text"].shape[0]
    found["text"][np.arange(length) >= rng.integers(2, length + 1, clips)[:, None]] = 0
    found["labels"] = rng.integers(0, 2, (clips, tasks)).astype(np.float32)
    return found


class Loop:
    """A bare training loop: gather a batch, forward, backward, update."""

    def __init__(self, part: Part, data: Mapping[str, np.ndarray]) -> None:
        """Builds network and optimiser; the settings that need a trainer (moving average, schedule) are off."""
        paddle.seed(1)
        training = dataclasses.replace(part.training, ema_epochs=None, schedule="constant")
        self._data = {**data, "labels": data["labels"][:, : len(part.tasks)]}
        self.model = LMFModel(INPUTS, part.tasks, part.model)
        self._module = LMFModule(self.model, training, self._data["labels"])
        self._optimizer = self._module.configure_optimizers()
        self._batch = training.batch_size
        self._rng = np.random.default_rng(1)

    def train(self, steps: int) -> int:
        """Makes some steps; returns the number of clips."""
        self._module.train()
        for _ in range(steps):
            rows = self._rng.integers(0, len(self._data["labels"]), self._batch)
            loss = self._module.training_step({name: paddle.to_tensor(v[rows]) for name, v in self._data.items()})
            loss.backward()
            self._optimizer.step()
            self._optimizer.clear_grad()
        return steps * self._batch

    def predict(self, clips: int) -> int:
        """Predicts the first clips; returns their number."""
        self.model.predict({name: values[:clips] for name, values in self._data.items()})
        return clips


def in_turn(tasks: Mapping[str, Callable[[], int]], rounds: int, shortest: float = _SHORTEST) -> dict[str, list[float]]:
    """Seconds per unit of each task, which returns how many units it did: A B C, A B C, ...

    A first round warms up, and determines how often a short task is repeated to take `shortest` seconds; such a task runs
    once before its time is taken, since other tasks have emptied the processor's caches.
    """
    found: dict[str, list[float]] = {name: [] for name in tasks}
    repeats: dict[str, int] = {}
    for name, task in tasks.items():
        start = time.perf_counter()
        task()
        repeats[name] = min(max(1, round(shortest / (time.perf_counter() - start))), 100)
    for _ in range(rounds):
        for name, task in tasks.items():
            if repeats[name] > 1:
                task()
            start = time.perf_counter()
            units = sum(task() for _ in range(repeats[name]))
            found[name].append((time.perf_counter() - start) / units)
    return found


def measure(rounds: int, quick: bool = False) -> tuple[dict[str, Result], float]:
    """Measures all contenders, and the rate of a matrix product.

    Returns:
        Name -> result; and operations per second of a product `[1280, 300] x [300, 512]`, the largest of a batch.
    """
    clips, steps, shortest = (64, 1, 0.0) if quick else (CLIPS, 8, _SHORTEST)
    data = random_clips(clips, len(IEMOCAP_EMOTIONS))
    loops = {name: [Loop(part, data) for part in parts] for name, parts in contenders().items()}
    left, right = paddle.randn([1280, 300]), paddle.randn([300, 512])

    def product() -> int:
        paddle.matmul(left, right)
        return 2 * 1280 * 300 * 512

    tasks: dict[str, Callable[[], int]] = {"product": product}
    for name, own in loops.items():
        for number, loop in enumerate(own):
            tasks[f"training/{name}/{number}"] = partial(loop.train, steps)
            tasks[f"inference/{name}/{number}"] = partial(loop.predict, clips)
            tasks[f"latency/{name}/{number}"] = partial(loop.predict, 1)
    seconds = in_turn(tasks, rounds, shortest)

    def of(what: str, name: str) -> tuple[float, float, float]:
        """Every clip passes each of several networks, so that their times per clip add up."""
        return _quartiles(
            np.sum([values for key, values in seconds.items() if key.startswith(f"{what}/{name}/")], axis=0)
        )

    results = {
        name: Result(
            sum(math.prod(w.shape) for loop in own for w in loop.model.weights().values() if not w.stop_gradient),
            sum(sum(loop.model.flops().values()) for loop in own),
            *(of(what, name) for what in ("training", "inference", "latency")),
        )
        for name, own in loops.items()
    }
    return results, 1 / _quartiles(seconds["product"])[0]


def table(results: Mapping[str, Result], rate: float) -> TextTable:
    """The results as a table."""
    rows = [
        [
            name,
            f"{one.parameters:,}",
            f"{one.forward / 1e6:.2f}",
            _per_second(one.training),
            f"{one.training[0] * TRAIN_CLIPS:.2f}",
            _per_second(one.inference),
            f"{one.latency[0] * 1e3:.2f}",
            f"{3 * one.forward / one.training[0] / rate:.0%}",
        ]
        for name, one in results.items()
    ]
    heads = [
        "network",
        "parameters",
        "MFLOP/clip",
        "training, clips/s",
        "epoch, s",
        "inference, clips/s",
        "1 clip, ms",
        "of limit",
    ]
    note = (
        "Medians (and quartiles), in turns. Epoch: IEMOCAP's 2,717 clips, without validation. Of limit: arithmetic of a "
        f"training step, three times the forward pass, beside a matrix product at {rate / 1e9:.0f} GFLOP/s."
    )
    return TextTable("random clips of IEMOCAP's sizes", heads, rows, note=note)


def _quartiles(values: Any) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(median), float(low), float(high)


def _per_second(seconds: tuple[float, float, float]) -> str:
    median, low, high = seconds
    return f"{1 / median:,.0f} ({1 / high:,.0f}-{1 / low:,.0f})"
