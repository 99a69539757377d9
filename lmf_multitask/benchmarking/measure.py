"""Measurements in one process: everything side by side, in turn, so that a busy machine disturbs all alike.

Shape letters: B batch, L words, R fusion rank, K fusion dim, T tasks.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmf_multitask.benchmarking.cost import Cost, cost_of, order_of_growth
from lmf_multitask.config import ModelConfig, TrainingConfig, recipe_config
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS
from lmf_multitask.models.fusion import LowRankFusion, TensorFusion
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.runs import settings_from
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.training.module import LMFModule

with quiet_imports():
    import paddle

SIZES = {"audio": 74, "video": 35, "text": 300}
WORDS = 20
TEST_CLIPS = 938  # IEMOCAP's


@dataclass(frozen=True)
class Spread:
    """The middle of several measurements and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and quartiles."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: measurements of everything, in turn; one more before them warms up.
        steps: training steps per measurement.
        clips: rows of the made-up data.
        growth: how many points of each growth curve, from the smallest.
        shortest: seconds that a measurement takes at least.
    """

    rounds: int = 11
    steps: int = 8
    clips: int = 1024
    growth: int | None = None
    shortest: float = 0.02


QUICK = Effort(rounds=2, steps=1, clips=128, growth=2, shortest=0.0)


@dataclass(frozen=True)
class Contender:
    """What is compared: one network, or several that together recognise the same emotions.

    Attributes:
        name: to show.
        parts: emotions, network, and training of each.
    """

    name: str
    parts: tuple[tuple[tuple[str, ...], ModelConfig, TrainingConfig], ...]

    def cost(self) -> Cost:
        """Of one clip through all of its networks."""
        costs = [cost_of(SIZES, WORDS, len(emotions), model) for emotions, model, _ in self.parts]
        total = costs[0]
        for cost in costs[1:]:
            total = total + cost
        return total


def contenders() -> list[Contender]:
    """The multitask model, the paper's four, and the multitask model with other fusions and fewer modalities."""
    recipes = [settings_from(recipe_config("lmf_paddle", emotion)) for emotion in IEMOCAP_EMOTIONS]
    separate = tuple(((e,), recipe.model, recipe.training) for e, recipe in zip(IEMOCAP_EMOTIONS, recipes))

    def multitask(name: str, **settings: object) -> Contender:
        return Contender(name, ((IEMOCAP_EMOTIONS, ModelConfig(**settings), TrainingConfig()),))

    return [
        multitask("LMF multitask"),
        Contender("LMF per emotion (4 networks)", separate),
        multitask("full tensor fusion", fusion="tfn"),
        multitask("early fusion (concatenation)", fusion="concat"),
        multitask("late fusion", fusion="late"),
        multitask("audio alone", fusion="concat", modalities=["audio"]),
        multitask("video alone", fusion="concat", modalities=["video"]),
        multitask("text alone", fusion="concat", modalities=["text"]),
    ]


def made_up_clips(clips: int, tasks: int, words: int = WORDS, seed: int = 0) -> dict[str, np.ndarray]:
    """Random features in IEMOCAP's sizes, text of 2 to L words with zeros behind, random labels."""
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((clips, words, SIZES["text"]), dtype=np.float32)
    lengths = rng.integers(2, words + 1, clips) if words > 2 else np.full(clips, words)
    text[np.arange(words) >= lengths[:, None]] = 0
    return {
        "audio": rng.standard_normal((clips, SIZES["audio"]), dtype=np.float32),
        "video": rng.standard_normal((clips, SIZES["video"]), dtype=np.float32),
        "text": text,
        "labels": rng.integers(0, 2, (clips, tasks)),
    }


class Loop:
    """A bare training loop over one network: gather a batch, forward, backward, update."""

    def __init__(
        self, tasks: int, model: ModelConfig, training: TrainingConfig, data: Mapping[str, np.ndarray]
    ) -> None:
        """Builds network and optimiser."""
        paddle.seed(1)
        self._data = {**data, "labels": data["labels"][:, :tasks]}
        self.module = LMFModule(LMFModel(SIZES, [f"emotion{t}" for t in range(tasks)], model), training)
        self._optimizer = self.module.configure_optimizers()
        self._batch = training.batch_size
        self._rng = np.random.default_rng(1)

    def train(self, steps: int) -> int:
        """Makes some steps; returns the number of clips."""
        self.module.train()
        for _ in range(steps):
            rows = self._rng.integers(0, len(self._data["labels"]), self._batch)
            loss = self.module.training_step({name: paddle.to_tensor(v[rows]) for name, v in self._data.items()})
            loss.backward()
            self._optimizer.step()
            self._optimizer.clear_grad()
        loss.item()
        return steps * self._batch

    def infer(self, clips: int) -> int:
        """Probabilities of the first clips, in batches of the default size; returns their number."""
        self.module.model.predict_probabilities({name: values[:clips] for name, values in self._data.items()})
        return clips


def in_turn(tasks: Mapping[str, Callable[[], int]], effort: Effort) -> dict[str, list[float]]:
    """Seconds per unit of each task, which returns how many units it did: A B C, A B C, ...

    A first round warms up, and tells how often a short task must be repeated to take `effort.shortest`; such a task is
    done once more before its time is taken, since the one before it has emptied the processor's caches.
    """
    found: dict[str, list[float]] = {name: [] for name in tasks}
    repeats: dict[str, int] = {}
    for name, task in tasks.items():
        start = time.perf_counter()
        task()
        repeats[name] = min(max(1, round(effort.shortest / (time.perf_counter() - start))), 100)
    for _ in range(effort.rounds):
        for name, task in tasks.items():
            if repeats[name] > 1:
                task()
            start = time.perf_counter()
            units = sum(task() for _ in range(repeats[name]))
            found[name].append((time.perf_counter() - start) / units)
    return found


def tensor_memory(work: Callable[[], object]) -> int:
    """Bytes that Paddle holds in tensors at most while `work` builds and does something, beyond what it held before."""
    core = paddle.base.core
    gc.collect()  # what earlier work left is not given back meanwhile
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    work()
    return core.host_memory_stat_peak_value("Allocated", 0) - before


@dataclass(frozen=True)
class Result:
    """Of one contender: seconds per clip in training and inference, per single clip, bytes of tensors in training."""

    cost: Cost
    training: Spread
    inference: Spread
    latency: Spread
    memory: int


@dataclass(frozen=True)
class Comparison:
    """All contenders, and the rates of matrix products measured among them (operations per second).

    Attributes:
        results: by the contender's name.
        large: a product of the shape of the LSTM's input projection, `[64 x 20, 300] x [300, 512]`.
        small: one of the shape of a step of its recurrence, `[64, 128] x [128, 512]`.
    """

    results: dict[str, Result]
    large: Spread
    small: Spread

    def share(self, name: str) -> float:
        """Part of the large product's rate that the arithmetic of a training step reaches."""
        result = self.results[name]
        return result.cost.training / result.training.median / self.large.median

    def share_of_shapes(self, name: str) -> float:
        """The same, where the recurrence is granted the rate of its own small products."""
        result, cost = self.results[name], self.results[name].cost
        fast = (2 * cost.projection + 3 * cost.rest) / self.large.median
        return (fast + 3 * cost.recurrence / self.small.median) / result.training.median


def compare(effort: Effort, on_round: Callable[[str], None] = lambda text: None) -> Comparison:
    """Measures all contenders and the matrix products, side by side."""
    data = made_up_clips(max(effort.clips, TEST_CLIPS if effort.growth is None else 0), len(IEMOCAP_EMOTIONS))
    clips = min(TEST_CLIPS, len(data["labels"]))
    found, memory = contenders(), {}
    loops: dict[str, list[Loop]] = {}
    for contender in found:
        on_round(contender.name)

        def build(contender: Contender = contender) -> None:
            loops[contender.name] = [Loop(len(e), m, t, data) for e, m, t in contender.parts]
            for loop in loops[contender.name]:
                loop.train(2)

        memory[contender.name] = tensor_memory(build)

    # several networks: every clip goes through each, so that the times per clip add up
    training: dict[str, Callable[[], int]] = {}
    inference: dict[str, Callable[[], int]] = {}
    latency: dict[str, Callable[[], int]] = {}
    for name, parts in loops.items():
        for number, loop in enumerate(parts):
            training[f"{name}/{number}"] = lambda loop=loop: loop.train(effort.steps)
            inference[f"{name}/{number}"] = lambda loop=loop: loop.infer(clips)
            latency[f"{name}/{number}"] = lambda loop=loop: sum(loop.infer(1) for _ in range(effort.steps))
    products = {"large": _product(64 * WORDS, 300, 512), "small": _product(64, 128, 512)}
    on_round("training")
    trained = in_turn({**training, **products}, effort)
    on_round("inference")
    inferred, waited = in_turn(inference, effort), in_turn(latency, effort)

    def spread(values: dict[str, list[float]], name: str) -> Spread:
        return Spread.of(np.sum([values[f"{name}/{n}"] for n in range(len(loops[name]))], axis=0))

    results = {
        c.name: Result(
            c.cost(), spread(trained, c.name), spread(inferred, c.name), spread(waited, c.name), memory[c.name]
        )
        for c in found
    }
    rates = {name: Spread.of([1 / value for value in trained[name]]) for name in products}
    return Comparison(results, rates["large"], rates["small"])


def _product(rows: int, inner: int, columns: int) -> Callable[[], int]:
    """A task that does matrix products for some milliseconds; its units are operations."""
    left, right = paddle.rand([rows, inner]), paddle.rand([inner, columns])
    operations = 2 * rows * inner * columns
    count = max(1, 2_000_000_000 // operations)

    def task() -> int:
        with paddle.no_grad():
            for _ in range(count):
                out = paddle.matmul(left, right)
            float(out[0, 0])
        return count * operations

    return task


# -- growth


@dataclass
class Curve:
    """One quantity that grows: measured seconds and bytes, and the paper's order of growth where it has one.

    Attributes:
        label: what is measured.
        x: the values of the quantity.
        seconds: per clip, forward and backward.
        bytes: of tensors, at most.
        order: proportional to what the paper says; None where it says nothing.
    """

    label: str
    x: list[int] = field(default_factory=list)
    seconds: list[Spread] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    order: list[int] | None = None


_DIM, _RANK, _BATCH = 64, 8, 64


def growth(effort: Effort, on_round: Callable[[str], None] = lambda text: None) -> dict[str, list[Curve]]:
    """Curves over rank, hidden size and number of modalities (the fusion alone), and emotions, batch and words (a step)."""
    model = ModelConfig()
    hidden = [model.audio_hidden, model.video_hidden, model.text_hidden]
    cut = slice(effort.growth)
    found: dict[str, list[Curve]] = {}
    on_round("fusion rank")
    ranks = [1, 2, 4, 8, 16, 32, 64][cut]
    points = {("lmf", rank): (hidden, rank) for rank in ranks}
    points |= {("tfn", rank): (hidden, rank) for rank in ranks}
    found["fusion rank R"] = _fusion_curves(points, effort)
    on_round("hidden size")
    points = {("lmf", size): ([size] * 3, _RANK) for size in [4, 8, 16, 32, 64, 128, 256][cut]}
    points |= {("tfn", size): ([size] * 3, _RANK) for size in [4, 8, 16, 32, 64][cut]}
    found["hidden size of each of 3 modalities"] = _fusion_curves(points, effort)
    on_round("modalities")
    points = {("lmf", count): ([16] * count, _RANK) for count in [1, 2, 3, 4, 5, 6][cut]}
    points |= {("tfn", count): ([16] * count, _RANK) for count in [1, 2, 3, 4][cut]}
    found["modalities of hidden size 16"] = _fusion_curves(points, effort)
    on_round("emotions")
    found["emotions"] = [_step_curve({tasks: (tasks, _BATCH, WORDS) for tasks in [1, 2, 4, 8, 16, 32][cut]}, effort)]
    on_round("batch size")
    found["batch size"] = [_step_curve({b: (4, b, WORDS) for b in [16, 32, 64, 128, 256, 512, 1024][cut]}, effort)]
    on_round("words")
    found["words of a clip"] = [_step_curve({w: (4, _BATCH, w) for w in [5, 10, 20, 40, 80][cut]}, effort)]
    return found


def _fusion_curves(points: Mapping[tuple[str, int], tuple[list[int], int]], effort: Effort) -> list[Curve]:
    """Low-rank and full tensor fusion alone, batch 64, fusion dim 64, forward and backward."""
    labels = {"lmf": "low-rank fusion", "tfn": "full tensor fusion"}
    curves = {fusion: Curve(label, order=[]) for fusion, label in labels.items()}
    tasks, memory = {}, {}
    for (fusion, x), (hidden, rank) in points.items():
        paddle.seed(1)
        vectors = [paddle.randn([_BATCH, size]) for size in hidden]
        for vector in vectors:
            vector.stop_gradient = False
        made: list[Callable[[], int]] = []

        def build(
            fusion: str = fusion,
            hidden: list[int] = hidden,
            rank: int = rank,
            vectors: list = vectors,
            made: list = made,
        ) -> None:
            layer = LowRankFusion(hidden, rank, _DIM) if fusion == "lmf" else TensorFusion(hidden, _DIM)

            def task() -> int:
                layer(vectors).sum().backward()
                layer.clear_gradients()
                return _BATCH

            made.append(task)
            task()

        memory[fusion, x] = tensor_memory(build)
        tasks[f"{fusion}/{x}"] = made[0]
    seconds = in_turn(tasks, effort)
    for (fusion, x), (hidden, rank) in points.items():
        curve = curves[fusion]
        curve.x.append(x)
        curve.seconds.append(Spread.of(seconds[f"{fusion}/{x}"]))
        curve.bytes.append(memory[fusion, x])
        curve.order.append(order_of_growth(fusion, hidden, rank, _DIM))
    return list(curves.values())


def _step_curve(points: Mapping[int, tuple[int, int, int]], effort: Effort) -> Curve:
    """A whole multitask training step for (tasks, batch size, words)."""
    curve, tasks = Curve("multitask training step"), {}
    for x, (count, batch, words) in points.items():
        made: list[Loop] = []

        def build(count: int = count, batch: int = batch, words: int = words, made: list = made) -> None:
            data = made_up_clips(max(batch, 64), count, words)
            made.append(Loop(count, ModelConfig(), TrainingConfig(batch_size=batch), data))
            made[0].train(2)

        curve.x.append(x)
        curve.bytes.append(tensor_memory(build))
        tasks[str(x)] = lambda loop=made[0]: loop.train(1)
    curve.seconds = [Spread.of(values) for values in in_turn(tasks, effort).values()]
    return curve
