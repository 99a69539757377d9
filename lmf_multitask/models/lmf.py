"""The whole network: one encoder per modality, a fusion, one head per task; and its files.

Shape letters: B batch, N clips, L steps, D feature dimensions, H_m hidden size, M modalities, K fusion dim, T tasks, O outputs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lmf_multitask.config import build, kind_of, to_dict
from lmf_multitask.data.columns import Columns
from lmf_multitask.data.modality import MODALITIES, Input, checked_inputs
from lmf_multitask.errors import ConfigError, RunError, UserError
from lmf_multitask.files import MANIFEST, atomic_folder, damage, read_bytes, read_json
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.models.encoders import ENCODERS, step_mask
from lmf_multitask.models.fusion import FUSIONS, Fusion
from lmf_multitask.models.linear import LinearPart
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.tasks import Task, make_tasks, predictions, task_from

with quiet_imports():
    import paddle
    from paddle import nn
    from paddle.nn import functional as F
    from paddle.nn.initializer import Constant, XavierUniform

MODEL_FOLDER, CONFIG_FILE, WEIGHTS_FILE = "model", "config.json", "model.safetensors"

LARGEST = 1 << 28
"""A network of more parameters, 1 GiB, is refused: it is a typing error or a damaged file."""

_LARGEST_HEADER = 1 << 20  # bytes, of the weights' file


class Heads(nn.Layer):
    """Dropout and one linear head per task.

    The heads are one matrix product, with each head's outputs as neighbouring columns.
    """

    def __init__(self, tasks: Sequence[Task], fusion_dim: int, dropout: float = 0.0) -> None:
        """Creates the weights of T heads that take K numbers each."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        outputs = [task.outputs for task in tasks]
        uniform = XavierUniform(fan_in=fusion_dim, fan_out=max(outputs))  # those of a head, not of all together
        self.weight = self.create_parameter([fusion_dim, sum(outputs)], default_initializer=uniform)
        self.bias = self.create_parameter([sum(outputs)], default_initializer=Constant(0.0))

    def forward(self, fused: paddle.Tensor) -> paddle.Tensor:
        """Fused, float32 `[B, K]` -> outputs, float32 `[B, O]`."""
        return F.linear(self.dropout(fused), self.weight, self.bias)

    def flops(self) -> int:
        """Floating-point operations per clip."""
        return 2 * math.prod(self.weight.shape)


class LMFModel(nn.Layer):
    """Audio, video and text features -> the outputs of every task.

    All tasks share the encoders and the fusion; each has a head of its own. A fusion without heads (``dim: null``) gives the
    outputs itself, which for one binary task is the paper's model exactly. A network of fewer modalities takes all three
    features, too, and ignores the others.

    Unless ``modality_dropout`` is null, a modality counts as missing in a clip where all its features are zero: its hidden
    vector is then zeros, so that only the constant 1 of the fusion is left of it. Training drops modalities at random (never
    all of a clip), so that the network learns to do without (modality dropout, Neverova et al. 2016, ModDrop).

    With the setting ``linear``, a linear model of the averaged features is added in evaluation mode (`LinearPart`); until it is
    fitted, after the training, it adds nothing.

    Attributes:
        inputs: modality -> shape of a clip's features, with the padding of the training data.
        tasks: the T tasks, in the order of the outputs.
        config: parts and sizes of the network.
        exclusive: whether exactly one binary task was present in every training clip, so that one decision among them makes sense.
        non_finite: what becomes of NaN and infinities in features: ``zero`` or ``error``.
    """

    exclusive = False
    non_finite = "zero"
    _checks_size = True

    def __init__(
        self,
        inputs: Mapping[str, Input | Sequence[int]],
        tasks: Sequence[Task | str],
        config: ModelConfig | None = None,
    ) -> None:
        """Builds the network with random weights from Paddle's generator.

        Args:
            inputs: ``audio``, ``video`` and ``text``: shape of one clip's features, ``(D,)`` or ``(L, D)``
                (IEMOCAP: ``(74,)``, ``(35,)``, ``(20, 300)``).
            tasks: the tasks, or names of binary ones.
            config: parts and sizes; None takes the defaults.

        Raises:
            UserError: the tasks or shapes are not possible, or the network would be too large.
        """
        super().__init__()
        self.inputs, self.tasks, self.config = checked_inputs(inputs), make_tasks(tasks), config or ModelConfig()
        if self._checks_size:
            check_size(self.inputs, self.tasks, self.config)
        self.encoders = nn.LayerDict()
        for name in self.config.modalities:
            chosen = getattr(self.config.encoders, name)
            try:
                self.encoders[name] = ENCODERS[kind_of(ENCODERS, chosen)](self.inputs[name], chosen)
            except ConfigError as error:
                raise ConfigError(f"model.encoders.{name}: {error}") from None
        outputs = sum(task.outputs for task in self.tasks)
        kind = FUSIONS[kind_of(FUSIONS, self.config.fusion)]
        if kind.binary_only and any(task.kind != "binary" for task in self.tasks):
            raise ConfigError(
                "model.fusion.kind must be one for tasks of every kind, but this one is for binary ones only."
            )
        hidden = [encoder.size for encoder in self.encoders.values()]
        self.fusion: Fusion = kind(hidden, outputs, self.config.fusion)
        self.heads = Heads(self.tasks, self.fusion.size, self.config.head_dropout) if self.fusion.heads else None
        used: dict[str, Input] = {name: self.inputs[name] for name in self.config.modalities}
        self.linear = LinearPart(used, self.tasks) if self.config.linear else None

    @property
    def task_names(self) -> list[str]:
        """Names of the T tasks."""
        return [task.name for task in self.tasks]

    def fit_statistics(self, features: Columns) -> None:
        """Lets the encoders take what they need from training features.

        Args:
            features: ``audio``, ``video``, ``text``: float32 `[N, D]` or `[N, L, D]`.
        """
        for name, encoder in self.encoders.items():
            encoder.fit(features[name])

    def forward(
        self,
        audio: paddle.Tensor | None = None,
        video: paddle.Tensor | None = None,
        text: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Features of each modality, float32 `[B, D]` or `[B, L, D]` -> outputs, float32 `[B, O]`.

        A modality that the network has no part for is ignored and may be None (in a static export it must be).
        """
        outputs = self.network_alone(audio, video, text)
        if self.linear is None or self.training:
            return outputs
        return self.linear(outputs, {"audio": audio, "video": video, "text": text})

    def network_alone(self, audio: Any, video: Any, text: Any) -> paddle.Tensor:
        """See `forward`: the outputs without the linear model."""
        given: Any = (("audio", audio), ("video", video), ("text", text))
        hidden: list[paddle.Tensor] = []
        present: list[Any] = []  # of each modality: which clips have it
        masked = self.config.modality_dropout is not None
        for name, features in given:
            if name in self.config.modalities:
                steps = step_mask(features) if masked and self.inputs[name].is_sequence else None
                hidden.append(self.encoders[name](features, steps))
                if masked:
                    present.append((features != 0).any(axis=1) if steps is None else steps.any(axis=1))
        if masked:
            hidden = self._masked(hidden, paddle.stack(present, axis=1))
        fused = self.fusion(hidden)
        return fused if self.heads is None else self.heads(fused)

    def _masked(self, hidden: list[paddle.Tensor], present: paddle.Tensor) -> list[paddle.Tensor]:
        """M hidden vectors, bool `[B, M]` -> zeros for missing modalities and, in training, for dropped ones."""
        kept = present.astype(hidden[0].dtype)
        if self.training and self.config.modality_dropout and len(hidden) > 1:
            drawn = kept * (paddle.rand(kept.shape) >= self.config.modality_dropout).astype(kept.dtype)
            kept = paddle.where(drawn.sum(axis=1, keepdim=True) > 0, drawn, kept)
        return [vector * kept[:, m : m + 1] for m, vector in enumerate(hidden)]

    def flops(self, lengths: Mapping[str, int] | None = None) -> dict[str, int]:
        """Floating-point operations per clip, forward, of matrix products and the products of the fusion, by part.

        Args:
            lengths: modality -> steps of a sequence; None takes those of `inputs`.
        """
        steps = {name: (lengths or {}).get(name) or one.length or 1 for name, one in self.inputs.items()}
        found = {name: encoder.flops(steps[name]) for name, encoder in self.encoders.items()}
        found["fusion"] = self.fusion.flops()
        if self.heads is not None:
            found["heads"] = self.heads.flops()
        if self.linear is not None:
            found["linear"] = self.linear.flops()
        return found

    def weights(self) -> dict[str, paddle.Tensor]:
        """Every parameter and running statistic once, by name (``state_dict`` lists those of an LSTM twice)."""
        return dict(self.named_parameters())

    def predict(self, features: Columns, batch_size: int = 256) -> np.ndarray:
        """Predictions in evaluation mode; of a binary task, the probability of present.

        Args:
            features: ``audio``, ``video``, ``text``: float32 `[N, D]` or `[N, L, D]`.
            batch_size: clips per forward pass; much larger ones no longer fit into a processor's caches and are slower.

        Returns:
            float32 `[N, T]`.
        """
        return self.predict_both(features, batch_size)[0]

    def predict_both(self, features: Columns, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """`predict`, and the predictions of the network without the linear model, in one pass."""
        was_training = self.training
        self.eval()
        both, alone = [], []
        with paddle.no_grad():
            for start in range(0, len(features["audio"]), batch_size):
                chosen = slice(start, start + batch_size)
                batch = {name: paddle.to_tensor(np.ascontiguousarray(features[name][chosen])) for name in MODALITIES}
                outputs = self.network_alone(**batch)
                alone.append(predictions(outputs.numpy(), self.tasks))
                if self.linear is not None:
                    both.append(predictions(self.linear(outputs, batch).numpy(), self.tasks))
        if was_training:
            self.train()
        network = np.concatenate(alone)
        return (np.concatenate(both) if both else network), network

    # -- files

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``; the folder is complete or left as it was."""
        about = {
            "model_type": "lmf",
            "tasks": [task.to_dict() for task in self.tasks],
            "inputs": {name: dataclasses.asdict(one) for name, one in self.inputs.items()},
            "model": to_dict(self.config),
            "exclusive": self.exclusive,
            "non_finite": self.non_finite,
        }
        weights = {name: np.ascontiguousarray(value.numpy()) for name, value in self.weights().items()}
        with atomic_folder(Path(folder)) as temporary:
            (temporary / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            (temporary / WEIGHTS_FILE).write_bytes(save(weights, metadata={"format": "np"}))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LMFModel:
        """Loads what `save_pretrained` wrote, in evaluation mode.

        Raises:
            RunError: a file is missing or damaged, or the weights are not exactly those of the model.
        """
        folder = Path(folder)
        problem = damage(folder) if (folder / MANIFEST).exists() else None
        if problem is not None:
            raise RunError(f"{folder}: must be as it was written, but {problem}. Restore it, or train again.")
        about, path = read_json(folder / CONFIG_FILE, error=RunError), folder / WEIGHTS_FILE
        if not isinstance(about, dict) or about.get("model_type") != "lmf":
            raise RunError(f"{folder / CONFIG_FILE}: must describe a model of the type lmf, but does not.")
        try:
            inputs = {name: Input(tuple(one["shape"]), one["padding"]) for name, one in about["inputs"].items()}
            tasks = make_tasks([task_from(one) for one in about["tasks"]])
            config = build(ModelConfig, about["model"], "model")
            if type(about["exclusive"]) is not bool or about["non_finite"] not in ("zero", "error"):
                raise ValueError(f"exclusive is {about['exclusive']!r} and non_finite {about['non_finite']!r}")
            shapes = weight_shapes(inputs, tasks, config)  # before anything large is built
        except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}."
            raise RunError(f"{folder / CONFIG_FILE}: must describe an LMF model, but {reason}") from None
        stored = _read_weights(path, shapes)
        model = cls(inputs, tasks, config)
        try:
            model.load_weights(stored)
        except RunError as error:
            raise RunError(f"{path}: {error}") from None
        model.exclusive, model.non_finite = about["exclusive"], about["non_finite"]
        model.eval()
        return model

    def load_weights(self, stored: Mapping[str, np.ndarray]) -> None:
        """Takes over all weights, or none.

        Args:
            stored: one array for each name in `weights`, of its shape.

        Raises:
            RunError: a weight is missing, foreign, of another shape or type, or not finite.
        """
        own = self.weights()
        check_shapes({name: value.shape for name, value in stored.items()}, {n: tuple(v.shape) for n, v in own.items()})
        for name, array in stored.items():
            if array.dtype != np.float32:
                raise RunError(f"{name} must be float32, but is {array.dtype}.")
            if not np.isfinite(array).all():
                raise RunError(f"{name} must be finite, but holds NaN or infinity.")
        for name, value in own.items():
            value.set_value(stored[name])


def model_folders(path: str | Path) -> list[Path]:
    """Folders of the models of a run: its own, or those of the per-task runs inside a parent, by name; empty without any."""
    path = Path(path)
    if (path / MODEL_FOLDER / CONFIG_FILE).is_file():
        return [path / MODEL_FOLDER]
    return sorted(file.parent for file in path.glob(f"*/{MODEL_FOLDER}/{CONFIG_FILE}"))


# -- the network without its memory


class _Blueprint(LMFModel):
    """A network that is only asked for its shapes, however large they are."""

    _checks_size = False


def weight_shapes(
    inputs: Mapping[str, Input | Sequence[int]],
    tasks: Sequence[Task | str],
    config: ModelConfig,
    trained_only: bool = False,
) -> dict[str, tuple[int, ...]]:
    """The shape of every weight (or trained weight) of an `LMFModel`, by name, without the memory that it would take."""
    with _without_memory():
        weights = _Blueprint(inputs, tasks, config).weights()
    return {name: tuple(one.shape) for name, one in weights.items() if not (trained_only and one.stop_gradient)}


@contextmanager
def _without_memory() -> Iterator[None]:
    """Layers that are made inside have no memory; random numbers and names of parameters go on as if there were none."""
    generator = paddle.get_rng_state()
    lstm: Any = nn.layer.rnn.RNNBase
    flatten = lstm.flatten_parameters  # it copies the weights
    lstm.flatten_parameters = lambda self: None
    try:
        with paddle.LazyGuard(), paddle.utils.unique_name.guard():
            yield
    finally:
        lstm.flatten_parameters = flatten
        paddle.set_rng_state(generator)


def check_size(inputs: Mapping[str, Input], tasks: Sequence[Task], config: ModelConfig) -> None:
    """Makes sure that a network of these sizes has at most `LARGEST` parameters.

    Raises:
        ConfigError: it has more.
    """
    count = sum(math.prod(shape) for shape in weight_shapes(inputs, tasks, config).values())
    if count > LARGEST:
        raise ConfigError(
            f"a network must have at most {LARGEST:,} parameters, but these sizes make {count:,}. Choose smaller ones."
        )


def check_shapes(stored: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Compares names and shapes of stored weights with those of a network.

    Raises:
        RunError: a weight is missing, foreign, or of another shape.
    """
    missing, foreign = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    if missing or foreign:
        shown = [", ".join(name[:60] for name in names[:5]) or "none" for names in (missing, foreign)]
        raise RunError(
            f"the weights must be those of the model, but missing are {shown[0]} and foreign are {shown[1]}."
        )
    for name, shape in wanted.items():
        if list(stored[name]) != list(shape):
            raise RunError(f"{name} must have the shape {list(shape)}, but has {list(stored[name])}.")


def _read_weights(path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    largest = _LARGEST_HEADER + 4 * sum(map(math.prod, shapes.values()))
    content = read_bytes(path, largest, RunError)
    try:
        stored = load(content)
        check_shapes({name: array.shape for name, array in stored.items()}, shapes)
        return stored
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise RunError(f"{path}: must be a complete safetensors file, but {reason}. Save the model again.") from None
