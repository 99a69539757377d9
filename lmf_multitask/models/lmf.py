"""The whole network: three encoders, low-rank fusion, one head per emotion; and its files.

Shape letters: B batch, L words, H_m hidden size, R fusion rank, K fusion dim, T tasks (emotions).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.nn.initializer import Constant, XavierUniform
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from lmf_multitask.config import ModelConfig
from lmf_multitask.data.schema import check_emotion_name
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.files import atomic_folder
from lmf_multitask.models.encoders import FeatureEncoder, TextEncoder, words_there
from lmf_multitask.models.fusion import ConcatFusion, LateFusion, LowRankFusion, TensorFusion
from lmf_multitask.models.sizes import check_shapes, check_size, weight_shapes

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class EmotionHeads(nn.Layer):
    """One head per emotion, all of them in one matrix product: head t is ``weight[t]``, ``bias[t]``.

    With a hidden layer, head t is relu(x ``hidden_weight[t]`` + ``hidden_bias[t]``) ``weight[t]`` + ``bias[t]``.
    """

    def __init__(self, tasks: int, fusion_dim: int, hidden: int | None = None) -> None:
        """Creates the weights of T heads that take K numbers each.

        Args:
            tasks: T.
            fusion_dim: K.
            hidden: width of each head's hidden layer; None has none.
        """
        super().__init__()
        size = hidden or fusion_dim
        if hidden:
            uniform = XavierUniform(fan_in=fusion_dim, fan_out=hidden)
            self.hidden_weight = self.create_parameter([tasks, fusion_dim, hidden], default_initializer=uniform)
            self.hidden_bias = self.create_parameter([tasks, 1, hidden], default_initializer=Constant(0.0))
        self.has_hidden = hidden is not None
        uniform = XavierUniform(fan_in=size, fan_out=2)
        self.weight = self.create_parameter([tasks, size, 2], default_initializer=uniform)
        self.bias = self.create_parameter([tasks, 1, 2], default_initializer=Constant(0.0))

    def forward(self, fused: paddle.Tensor) -> paddle.Tensor:
        """Fused, float32 `[B, K]` for all heads or `[T, B, K]` for each -> logits, float32 `[B, T, 2]`."""
        if self.has_hidden:
            fused = nn.functional.relu(paddle.matmul(fused, self.hidden_weight) + self.hidden_bias)
        return paddle.transpose(paddle.matmul(fused, self.weight) + self.bias, [1, 0, 2])


class LMFModel(nn.Layer):
    """Audio, video and text features -> two logits per emotion.

    Several emotions share the encoders and the fusion, and each has a head of its own. With ``sharing`` gates, each emotion
    also weighs the modalities' hidden vectors by numbers of its own before the one fusion (task-specific gates as in Ma et al.
    2018, Multi-gate Mixture-of-Experts, but constant per emotion); with encoders, each has fusion factors of its own.

    With ``fusion_dim`` null there are no heads: the fusion gives the logits itself, which for one emotion is the paper's model
    exactly. Late fusion never has heads: there each modality decides by itself. A network of fewer modalities is given all
    three features, too, and does not look at the others.

    Unless ``modality_dropout`` is null, a modality counts as missing in a clip where all its features are zero: its hidden
    vector is then zeros, so that only the constant 1 of the fusion is left of it. Training takes modalities away at random
    (never all of a clip's), so that the network learns to do without (modality dropout, Neverova et al. 2016, ModDrop).

    Attributes:
        emotions: names of the T tasks, in the order of the logits.
        feature_sizes: numbers per clip of audio and video, per word of text.
        config: sizes of the network.
    """

    def __init__(
        self, feature_sizes: Mapping[str, int], emotions: Sequence[str], config: ModelConfig | None = None
    ) -> None:
        """Builds the network with random weights from Paddle's generator.

        Args:
            feature_sizes: ``audio``, ``video`` and ``text``: the features' last dimension (IEMOCAP: 74, 35, 300).
            emotions: names of the tasks.
            config: sizes of the network; None takes the defaults.

        Raises:
            UserError: the emotions are not one or more different names, a size is missing or no whole number, or full tensor
                fusion would be too large.
        """
        super().__init__()
        _check_tasks(feature_sizes, emotions)
        config = config or ModelConfig()
        self.feature_sizes = {name: int(feature_sizes[name]) for name in ("audio", "video", "text")}
        self.emotions = list(emotions)
        self.config = config
        sizes, tasks = self.feature_sizes, len(self.emotions)
        check_size(sizes, tasks, config)
        if "audio" in config.modalities:
            self.audio_encoder = FeatureEncoder(
                sizes["audio"], config.audio_hidden, config.audio_dropout, config.input_norm
            )
        if "video" in config.modalities:
            self.video_encoder = FeatureEncoder(
                sizes["video"], config.video_hidden, config.video_dropout, config.input_norm
            )
        if "text" in config.modalities:
            self.text_encoder = TextEncoder(
                sizes["text"],
                config.text_lstm,
                config.text_hidden,
                config.text_dropout,
                config.text_pooling,
                projection=config.text_projection,
                bidirectional=config.text_bidirectional,
                word_dropout=config.word_dropout,
                scaled=config.input_norm == "standard",
            )
        hidden = [getattr(config, f"{name}_hidden") for name in config.modalities]
        if config.sharing == "gates":  # twice their sigmoid is the gate, 1 at first
            self.gates = self.create_parameter([tasks, len(hidden)], default_initializer=Constant(0.0))
        self.fusion = _fusion(config, hidden, tasks)
        has_heads = config.fusion_dim and config.fusion != "late"
        self.heads = EmotionHeads(tasks, config.fusion_dim, config.head_hidden) if has_heads else None

    def fit_inputs(self, features: Mapping[str, np.ndarray]) -> None:
        """Takes the features' means and deviations from train, where the network normalises by them.

        Args:
            features: of train: ``audio`` float32 `[N, 74]`, ``video`` `[N, 35]`, ``text`` `[N, L, 300]` (IEMOCAP's sizes).
        """
        for name in self.config.modalities:
            encoder = getattr(self, f"{name}_encoder")
            encoder.fit(features[name])

    def forward(
        self,
        audio: paddle.Tensor | None = None,
        video: paddle.Tensor | None = None,
        text: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Audio `[B, 74]`, video `[B, 35]`, text `[B, L, 300]` (float32, IEMOCAP's sizes) -> logits, float32 `[B, T, 2]`.

        What the network has no part for is not looked at and may be None (in a static export it must be).
        """
        hidden, there = [], []  # of each modality: what its encoder gives, and which clips have it
        masked = self.config.modality_dropout is not None
        for name, features in (("audio", audio), ("video", video)):
            if name in self.config.modalities:
                hidden.append(getattr(self, f"{name}_encoder")(features))
                if masked:
                    there.append((features != 0).any(axis=1))
        if "text" in self.config.modalities:
            is_word = words_there(text) if masked else None
            hidden.append(self.text_encoder(text, is_word))
            if masked:
                there.append(is_word.any(axis=1))
        if masked:
            hidden = self._without_missing(hidden, paddle.stack(there, axis=1))
        if self.heads is None:
            return self.fusion(hidden).reshape([-1, len(self.emotions), 2])
        return self.heads(self._fused(hidden))

    def _fused(self, hidden: list[paddle.Tensor]) -> paddle.Tensor:
        """M hidden vectors -> fused, `[B, K]`, or `[T, B, K]` where emotions share less than the fusion."""
        tasks, sharing = len(self.emotions), self.config.sharing
        if sharing == "fusion":
            return self.fusion(hidden)
        if sharing == "encoders":
            return paddle.transpose(self.fusion(hidden).reshape([-1, tasks, self.config.fusion_dim]), [1, 0, 2])
        gates = 2.0 * nn.functional.sigmoid(self.gates)  # [T, M]
        weighed = [
            (vector.unsqueeze(0) * gates[:, m].reshape([tasks, 1, 1])).flatten(0, 1) for m, vector in enumerate(hidden)
        ]
        return self.fusion(weighed).reshape([tasks, -1, self.config.fusion_dim])

    def _without_missing(self, hidden: list[paddle.Tensor], there: paddle.Tensor) -> list[paddle.Tensor]:
        """M hidden vectors, bool `[B, M]` -> zeros for what is missing and, in training, for what is taken away."""
        there = there.astype(hidden[0].dtype)
        if self.training and self.config.modality_dropout and len(hidden) > 1:
            kept = there * (paddle.rand(there.shape) >= self.config.modality_dropout).astype(there.dtype)
            there = paddle.where(kept.sum(axis=1, keepdim=True) > 0, kept, there)
        return [vector * there[:, m : m + 1] for m, vector in enumerate(hidden)]

    def weights(self) -> dict[str, paddle.Tensor]:
        """Every weight and running statistic once, by name (``state_dict`` lists the LSTM's twice)."""
        return dict(self.named_parameters())

    def predict_probabilities(self, features: Mapping[str, np.ndarray], batch_size: int = 256) -> np.ndarray:
        """Probability that each emotion is present, in evaluation mode.

        Args:
            features: ``audio`` float32 `[N, 74]`, ``video`` `[N, 35]`, ``text`` `[N, L, 300]` (IEMOCAP's sizes).
            batch_size: clips per forward pass; much larger ones no longer fit into a processor's caches and are slower.

        Returns:
            float32 `[N, T]`.
        """
        was_training = self.training
        self.eval()
        found = []
        with paddle.no_grad():
            for start in range(0, len(features["audio"]), batch_size):
                chosen = slice(start, start + batch_size)
                batch = [
                    paddle.to_tensor(np.ascontiguousarray(features[name][chosen]))
                    for name in ("audio", "video", "text")
                ]
                found.append(nn.functional.softmax(self(*batch), axis=-1)[:, :, 1].numpy())
        if was_training:
            self.train()
        return np.concatenate(found)

    # -- files

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``; the folder is complete or left as it was."""
        about = {
            "model_type": "lmf",
            "emotions": self.emotions,
            "feature_sizes": self.feature_sizes,
            "model": dataclasses.asdict(self.config),
        }
        weights = {name: np.ascontiguousarray(value.numpy()) for name, value in self.weights().items()}
        with atomic_folder(Path(folder)) as temporary:
            (temporary / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            save_file(weights, temporary / WEIGHTS_FILE, metadata={"format": "np"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LMFModel:
        """Loads what `save_pretrained` wrote, in evaluation mode.

        Raises:
            RunError: a file is missing or damaged, or the weights are not exactly those of the model.
        """
        folder = Path(folder)
        about = _read_config(folder / CONFIG_FILE)
        path = folder / WEIGHTS_FILE
        try:
            sizes, emotions, config = about["feature_sizes"], about["emotions"], ModelConfig(**about["model"])
            _check_tasks(sizes, emotions)
            _check_header(path, weight_shapes(sizes, len(emotions), config))  # before what may be huge is built
            model = cls(sizes, emotions, config)
        except RunError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{folder / CONFIG_FILE}: must describe an LMF model, but {type(error).__name__}: {str(error).rstrip('.')}."
            ) from None
        try:
            stored = load_file(path)
        except FileNotFoundError:
            raise RunError(f"{path}: must be there, but is missing. Save the model again.") from None
        except (SafetensorError, OSError, ValueError, TypeError) as error:  # TypeError: bfloat16, which numpy has not
            raise RunError(f"{path}: must be a complete safetensors file, but {error}. Save the model again.") from None
        try:
            model.load_weights(stored)
        except RunError as error:
            raise RunError(f"{path}: {error}") from None
        model.eval()
        return model

    def load_weights(self, stored: Mapping[str, np.ndarray]) -> None:
        """Takes over all weights, or none.

        Args:
            stored: one array for each name in `weights`, of its shape.

        Raises:
            RunError: a weight is missing, foreign, of another shape, or not finite.
        """
        own = self.weights()
        missing, foreign = sorted(set(own) - set(stored)), sorted(set(stored) - set(own))
        if missing or foreign:
            raise RunError(
                f"weights must be those of the model, but {missing or 'none'} are missing and {foreign or 'none'} are foreign."
            )
        for name, value in own.items():
            array = stored[name]
            if list(array.shape) != list(value.shape) or array.dtype != np.float32:
                raise RunError(f"{name} must be float32 {list(value.shape)}, but is {array.dtype} {list(array.shape)}.")
            if not np.isfinite(array).all():
                raise RunError(f"{name} must be finite, but holds NaN or infinity.")
        for name, value in own.items():
            value.set_value(stored[name])


def _fusion(config: ModelConfig, hidden: Sequence[int], tasks: int) -> nn.Layer:
    dim = (config.fusion_dim or 2 * tasks) * (tasks if config.sharing == "encoders" else 1)
    if config.fusion == "tfn":
        return TensorFusion(hidden, dim)
    if config.fusion == "concat":
        return ConcatFusion(hidden, dim, relu=config.fusion_dim is not None)
    if config.fusion == "late":
        return LateFusion(hidden, tasks)
    return LowRankFusion(hidden, config.fusion_rank, dim, config.factor_init)


def _check_tasks(feature_sizes: Mapping[str, int], emotions: Sequence[str]) -> None:
    if set(feature_sizes) != {"audio", "video", "text"}:
        raise ConfigError(f"feature_sizes must have audio, video and text, but got {sorted(feature_sizes)}.")
    for name, size in feature_sizes.items():
        if not isinstance(size, (int, np.integer)) or not 1 <= size <= 65536:
            raise ConfigError(f"feature_sizes must be whole numbers from 1 to 65536, but {name} is {size!r}.")
    if not isinstance(emotions, (list, tuple)) or len(set(map(str, emotions))) != len(emotions):
        raise ConfigError(f"emotions must be a list of different names, but got {str(emotions)[:80]!r}.")
    if not emotions:
        raise ConfigError("emotions must name at least one task, but got none.")
    for name in emotions:
        check_emotion_name(name)


def _check_header(path: Path, wanted: Mapping[str, Sequence[int]]) -> None:
    """Whether the file's header has the shapes of the network; what cannot be told is left to loading."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            stored = {n: (s.get_dtype().replace("F32", "float32"), s.get_shape()) for n, s in slices.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return
    try:
        check_shapes(stored, wanted)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None


def _read_config(path: Path) -> dict:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: must be there, but is missing. Is this the folder of a saved model?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: must be JSON, but {error}.") from None
    if not isinstance(about, dict) or about.get("model_type") != "lmf":
        raise RunError(f"{path}: must describe a model of the type lmf, but does not.")
    return about
