"""How large a network is, told from its settings alone: before anything of a damaged or careless one is built.

Shape letters: H_m hidden size, R fusion rank, K fusion dim, T tasks (emotions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lmf_multitask.config import ModelConfig
from lmf_multitask.errors import ConfigError, RunError

MOST_WEIGHTS = 1 << 28
"""A larger network, 1 GiB of weights, is refused: it is a slip of the keyboard or a damaged file."""

Shapes = dict[str, tuple[int, ...]]


def weight_shapes(feature_sizes: Mapping[str, int], tasks: int, config: ModelConfig) -> Shapes:
    """The shape of every weight of an `LMFModel`, by name, without building it.

    Args:
        feature_sizes: ``audio``, ``video`` and ``text``: the features' last dimension.
        tasks: T.
        config: sizes of the network.
    """
    shapes: Shapes = {}
    for name in config.modalities:
        if name == "text":
            shapes.update(_text_encoder(feature_sizes["text"], config))
        else:
            shapes.update(_feature_encoder(name, feature_sizes[name], config))
    if config.sharing == "gates":
        shapes["gates"] = (tasks, len(config.modalities))
    shapes.update(_fusion(config, tasks))
    if config.fusion_dim and config.fusion != "late":
        size, hidden = config.fusion_dim, config.head_hidden
        if hidden:
            shapes["heads.hidden_weight"], shapes["heads.hidden_bias"] = (tasks, size, hidden), (tasks, 1, hidden)
        shapes["heads.weight"], shapes["heads.bias"] = (tasks, hidden or size, 2), (tasks, 1, 2)
    return shapes


def _feature_encoder(name: str, size: int, config: ModelConfig) -> Shapes:
    hidden = getattr(config, f"{name}_hidden")
    norm = ("weight", "bias", "_mean", "_variance") if config.input_norm == "batch" else ("mean", "deviation")
    shapes: Shapes = {f"{name}_encoder.norm.{part}": (size,) for part in norm}
    for number, width in ((1, size), (2, hidden), (3, hidden)):
        shapes[f"{name}_encoder.linear_{number}.weight"] = (width, hidden)
        shapes[f"{name}_encoder.linear_{number}.bias"] = (hidden,)
    return shapes


def _text_encoder(size: int, config: ModelConfig) -> Shapes:
    shapes: Shapes = {}
    if config.input_norm == "standard":
        shapes["text_encoder.scale"] = (1,)
    if config.text_projection:
        shapes["text_encoder.projection.weight"] = (size, config.text_projection)
        shapes["text_encoder.projection.bias"] = (config.text_projection,)
    for end in ("", "_reverse") if config.text_bidirectional else ("",):
        for kind, width in (("ih", config.text_projection or size), ("hh", config.text_lstm)):
            shapes[f"text_encoder.lstm.weight_{kind}_l0{end}"] = (4 * config.text_lstm, width)
            shapes[f"text_encoder.lstm.bias_{kind}_l0{end}"] = (4 * config.text_lstm,)
    states = config.text_lstm * (2 if config.text_bidirectional else 1)
    if config.text_pooling == "attention":
        shapes["text_encoder.attention.weight"] = (states, 1)
        states *= 2
    shapes["text_encoder.linear.weight"] = (states, config.text_hidden)
    shapes["text_encoder.linear.bias"] = (config.text_hidden,)
    return shapes


def _fusion(config: ModelConfig, tasks: int) -> Shapes:
    hidden = [getattr(config, f"{name}_hidden") for name in config.modalities]
    dim = (config.fusion_dim or 2 * tasks) * (tasks if config.sharing == "encoders" else 1)
    if config.fusion == "tfn":
        return {"fusion.weight": (math.prod(size + 1 for size in hidden), dim), "fusion.bias": (1, dim)}
    if config.fusion == "concat":
        return {"fusion.linear.weight": (sum(hidden), dim), "fusion.linear.bias": (dim,)}
    if config.fusion == "late":
        weights: Shapes = {f"fusion.linears.{number}.weight": (size, 2 * tasks) for number, size in enumerate(hidden)}
        return weights | {f"fusion.linears.{number}.bias": (2 * tasks,) for number in range(len(hidden))}
    factors: Shapes = {
        f"fusion.factors.{number}": (config.fusion_rank, size + 1, dim) for number, size in enumerate(hidden)
    }
    return factors | {"fusion.rank_weights": (1, config.fusion_rank), "fusion.bias": (1, dim)}


def check_size(feature_sizes: Mapping[str, int], tasks: int, config: ModelConfig) -> None:
    """Makes sure that a network of these sizes is no larger than `MOST_WEIGHTS`.

    Raises:
        ConfigError: it is.
    """
    count = sum(math.prod(shape) for shape in weight_shapes(feature_sizes, tasks, config).values())
    if count > MOST_WEIGHTS:
        raise ConfigError(
            f"a network must have at most {MOST_WEIGHTS:,} weights, but these sizes make {count:,}. Choose smaller ones."
        )


def check_shapes(stored: Mapping[str, tuple[str, Sequence[int]]], wanted: Mapping[str, Sequence[int]]) -> None:
    """Compares the shapes in a file with those of a network.

    Args:
        stored: name -> type and shape.
        wanted: name -> shape, see `weight_shapes`.

    Raises:
        RunError: a weight is missing, foreign, or of another shape.
    """
    missing, foreign = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
    if missing or foreign:
        told = [[name[:60] for name in names[:5]] or "none" for names in (missing, foreign)]
        raise RunError(f"weights must be those of the model, but {told[0]} are missing and {told[1]} are foreign.")
    for name, shape in wanted.items():
        kind, found = stored[name]
        if list(found) != list(shape):
            raise RunError(f"{name} must be float32 {list(shape)}, but is {kind} {list(found)}.")
