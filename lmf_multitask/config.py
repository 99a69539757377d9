"""The settings of one experiment: dataclasses that check themselves, and their strict YAML.

Every number's unit stands in its description. Descriptions are shown by ``--help``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmf_multitask.errors import ConfigError


class _Rules:
    """Collects the broken rules of one dataclass, so that all of them are told at once."""

    def __init__(self) -> None:
        self._broken: list[str] = []

    def check(self, holds: bool, name: str, rule: str, value: object) -> None:
        if not holds:
            self._broken.append(f"{name} must be {rule}, but got {value!r}")

    def raise_if_broken(self) -> None:
        if self._broken:
            raise ConfigError("; ".join(self._broken) + ".")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _is_weight(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1000


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= 65536


def _is_path(value: object) -> bool:
    """Whether it can name a file, and be noted in the run's YAML."""
    try:
        return isinstance(value, str) and "\0" not in value and bool(value.encode())
    except UnicodeEncodeError:
        return False


@dataclass
class DataConfig:
    """How the data file is read.

    Args:
        label_column: which column of one-hot labels means "present" (0 or 1); null decides by evidence
        non_finite: what becomes of NaN and infinities in the features: zero, or error to refuse them
        cache_dir: folder of the Arrow cache; null takes that of `datasets`
    """

    label_column: int | None = None
    non_finite: Literal["zero", "error"] = "zero"
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        rules = _Rules()
        rules.check(self.label_column in (None, 0, 1), "data.label_column", "0, 1 or null", self.label_column)
        rules.check(self.non_finite in ("zero", "error"), "data.non_finite", "zero or error", self.non_finite)
        cache = self.cache_dir
        rules.check(cache is None or _is_path(cache), "data.cache_dir", "a path in UTF-8 or null", cache)
        rules.raise_if_broken()


_MODALITIES = ("audio", "video", "text")


@dataclass(kw_only=True)
class ModelConfig:
    """Sizes and parts of the network; the sizes of the features come from the data.

    Args:
        input_norm: of audio and video: batch normalisation (the papers' way), or standard: by train's mean and deviation
        audio_hidden: width of the three audio layers, numbers per clip
        video_hidden: width of the three video layers, numbers per clip
        text_projection: numbers per word that the LSTM sees, after a linear layer; null gives it the features as they are
        text_lstm: width of the LSTM's state, numbers per word
        text_bidirectional: a second LSTM reads the words from last to first
        text_pooling: what is taken of the LSTM's states: last_step (padding included, the papers' way), last_word, or attention
        text_hidden: width of the text encoder's output, numbers per clip
        audio_dropout: probability that an audio feature is dropped in training
        video_dropout: probability that a video feature is dropped in training
        text_dropout: probability that a number of what is taken of the LSTM's states is dropped in training
        word_dropout: probability that a word is dropped as a whole in training
        modality_dropout: probability that a clip loses a modality in training; null: zeros pass as features (the papers' way)
        fusion: lmf low-rank; tfn full tensor; concat hidden vectors side by side; late mean of the modalities' own probabilities
        fusion_rank: number R of rank-1 terms of the fusion lmf; the others have none
        fusion_dim: numbers K that the fusion gives to the heads; null: no heads, the fusion gives the logits (the paper's model)
        factor_init: first values of the fusion's factors: variance keeps the size of what passes, xavier is LMF_Paddle's
        sharing: what the emotions share: fusion all but the heads; gates the same, each weighing the modalities; encoders only
        head_hidden: width of a hidden layer in each head; null: heads are linear
        modalities: one or more of audio, video, text; the network has no part for the others
    """

    input_norm: Literal["batch", "standard"] = "standard"
    audio_hidden: int = 32
    video_hidden: int = 16
    text_projection: int | None = 64
    text_lstm: int = 64
    text_bidirectional: bool = False
    text_pooling: Literal["last_step", "last_word", "attention"] = "attention"
    text_hidden: int = 64
    audio_dropout: float = 0.2
    video_dropout: float = 0.2
    text_dropout: float = 0.5
    word_dropout: float = 0.2
    modality_dropout: float | None = 0.1
    fusion: Literal["lmf", "tfn", "concat", "late"] = "lmf"
    fusion_rank: int = 8
    fusion_dim: int | None = 64
    factor_init: Literal["variance", "xavier"] = "variance"
    sharing: Literal["fusion", "gates", "encoders"] = "fusion"
    head_hidden: int | None = None
    modalities: list[str] = field(default_factory=lambda: list(_MODALITIES))

    def __post_init__(self) -> None:
        rules = _Rules()
        chosen = self.modalities
        known = isinstance(chosen, (list, tuple)) and len(chosen) > 0 and all(name in _MODALITIES for name in chosen)
        rule = f"one or more of {', '.join(_MODALITIES)}, each once"
        rules.check(known and len(set(chosen)) == len(chosen), "model.modalities", rule, chosen)
        if known:
            self.modalities = [name for name in _MODALITIES if name in chosen]
        choices = {
            "input_norm": ("batch", "standard"),
            "text_pooling": ("last_step", "last_word", "attention"),
            "fusion": ("lmf", "tfn", "concat", "late"),
            "factor_init": ("variance", "xavier"),
            "sharing": ("fusion", "gates", "encoders"),
        }
        for name, values in choices.items():
            value = getattr(self, name)
            rules.check(value in values, f"model.{name}", f"{', '.join(values[:-1])} or {values[-1]}", value)
        for name in ("audio_hidden", "video_hidden", "text_lstm", "text_hidden", "fusion_rank"):
            value = getattr(self, name)
            rules.check(_is_size(value), f"model.{name}", "a whole number from 1 to 65536", value)
        for name in ("text_projection", "fusion_dim", "head_hidden"):
            value = getattr(self, name)
            valid = value is None or _is_size(value)
            rules.check(valid, f"model.{name}", "a whole number from 1 to 65536 or null", value)
        value = self.text_bidirectional
        rules.check(type(value) is bool, "model.text_bidirectional", "true or false", value)
        for name in ("audio_dropout", "video_dropout", "text_dropout", "word_dropout", "modality_dropout"):
            value = getattr(self, name)
            if value is None and name == "modality_dropout":
                continue
            rules.check(_is_number(value) and 0 <= value < 1, f"model.{name}", "at least 0 and below 1", value)
        alone = self.fusion_dim is None or self.fusion == "late"
        if alone and (self.sharing != "fusion" or self.head_hidden is not None):
            why = "fusion late" if self.fusion == "late" else "fusion_dim null"
            got = self.head_hidden if self.sharing == "fusion" else self.sharing
            name, rule = ("head_hidden", "null") if self.sharing == "fusion" else ("sharing", "fusion")
            rules.check(False, f"model.{name}", f"{rule} with {why}, which has no heads", got)
        rules.raise_if_broken()


MONITORS = ("loss", "weighted_f1", "positive_f1", "accuracy", "uar", "auroc", "average_precision")
"""Validation figures that can pick the best epoch."""


@dataclass
class TrainingConfig:
    """How the network is trained.

    Args:
        epochs: at most so many passes over train
        batch_size: clips per step
        eval_batch_size: clips per forward pass in evaluation; no effect on results beyond rounding
        learning_rate: Adam's step size, absolute
        factor_learning_rate: step size of the fusion's factors; null takes learning_rate
        schedule: of both step sizes: constant, or cosine: down to zero over all epochs (Loshchilov and Hutter 2017)
        weight_decay: strength of the L2 penalty, coupled (added to the gradient, so that it weighs more beside a mean than a sum)
        row_order: seeded draws the order of the rows from seed and epoch alone; lmf_paddle as LMF_Paddle does, to the digit
        loss_reduction: cross entropy over a batch's annotated labels as their mean or their sum
        joint_loss: share, 0 to 1, of one cross entropy over all heads together; without effect unless train's labels are exclusive
        class_weights: balanced weighs present and absent of an emotion as if both were as frequent; none leaves them
        focal_gamma: the focal loss's exponent, which makes clear clips count less; 0 is plain cross entropy
        task_weighting: of the emotions' losses: uniform; fixed (task_weights); uncertainty, learned; dynamic, by their progress
        task_weights: emotion: weight, for task_weighting fixed; emotions that are not named have 1
        weight_averaging: epochs over which the running mean of all weights goes, which is what is kept; null: the weights themselves
        max_grad_norm: gradients are scaled down to this length together; null leaves them
        monitor: validation figure that picks the best epoch and stops early; the mean over emotions, or the loss
        patience: epochs without a better figure before training stops; null never stops early
        visualdl: also write VisualDL logs into the run directory
    """

    epochs: int = 40
    batch_size: int = 64
    eval_batch_size: int = 256
    learning_rate: float = 0.001
    factor_learning_rate: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.00001
    row_order: Literal["seeded", "lmf_paddle"] = "seeded"
    loss_reduction: Literal["mean", "sum"] = "mean"
    joint_loss: float = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    focal_gamma: float = 0.0
    task_weighting: Literal["uniform", "fixed", "uncertainty", "dynamic"] = "uniform"
    task_weights: dict[str, float] | None = None
    weight_averaging: float | None = 1.0
    max_grad_norm: float | None = None
    monitor: Literal["loss", "weighted_f1", "positive_f1", "accuracy", "uar", "auroc", "average_precision"] = (
        "average_precision"
    )
    patience: int | None = 10
    visualdl: bool = False

    def __post_init__(self) -> None:
        rules = _Rules()
        for name in ("epochs", "batch_size", "eval_batch_size"):
            value = getattr(self, name)
            lowest = 2 if name == "batch_size" else 1
            rules.check(
                type(value) is int and value >= lowest,
                f"training.{name}",
                f"a whole number of at least {lowest}",
                value,
            )
        rates = {"learning_rate": self.learning_rate, "factor_learning_rate": self.factor_learning_rate}
        for name, value in rates.items():
            if value is None and name == "factor_learning_rate":
                continue
            rules.check(_is_number(value) and 0 < value <= 10, f"training.{name}", "above 0 and at most 10", value)
        decay, norm = self.weight_decay, self.max_grad_norm
        rules.check(_is_number(decay) and 0 <= decay <= 10, "training.weight_decay", "from 0 to 10", decay)
        rules.check(norm is None or (_is_number(norm) and norm > 0), "training.max_grad_norm", "above 0 or null", norm)
        patience = self.patience
        valid = patience is None or (type(patience) is int and patience >= 1)
        rules.check(valid, "training.patience", "a whole number of at least 1 or null", patience)
        share, gamma, length = self.joint_loss, self.focal_gamma, self.weight_averaging
        rules.check(_is_number(share) and 0 <= share <= 1, "training.joint_loss", "from 0 to 1", share)
        rules.check(_is_number(gamma) and 0 <= gamma <= 10, "training.focal_gamma", "from 0 to 10", gamma)
        valid = length is None or (_is_number(length) and 0 < length <= 1000)
        rules.check(valid, "training.weight_averaging", "above 0 and at most 1000, or null", length)
        weights = self.task_weights
        valid = weights is None or (isinstance(weights, dict) and all(_is_weight(w) for w in weights.values()))
        rules.check(valid, "training.task_weights", "emotion: number from 0 to 1000, or null", weights)
        if valid and bool(weights) != (self.task_weighting == "fixed"):
            rules.check(False, "training.task_weights", "given with task_weighting fixed, and only then", weights)
        choices = {
            "schedule": ("constant", "cosine"),
            "loss_reduction": ("mean", "sum"),
            "class_weights": ("none", "balanced"),
            "task_weighting": ("uniform", "fixed", "uncertainty", "dynamic"),
            "monitor": MONITORS,
            "visualdl": (True, False),
        }
        for name, values in choices.items():
            value = getattr(self, name)
            wanted = "one of " + ", ".join(str(choice).lower() for choice in values)
            rules.check(type(value) is type(values[0]) and value in values, f"training.{name}", wanted, value)
        rules.raise_if_broken()


@dataclass
class ExperimentConfig:
    """One training from data to figures.

    Args:
        data_path: pickle, folder of save_to_disk, or folder of Parquet files; null trains on the built-in sample
        emotions: names of the emotions to learn; null takes all in the data
        seed: of all random numbers, 0 or more
        output_dir: the run directory to write; null makes runs/multitask-seedN
        device: auto, cpu, gpu or gpu:NUMBER (no GPU has been tried by the authors)
        data: how the data file is read
        model: sizes of the network
        training: how it is trained
    """

    data_path: str | None = None
    emotions: list[str] | None = None
    seed: int = 1
    output_dir: str | None = None
    device: str = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        rules = _Rules()
        rules.check(
            type(self.seed) is int and 0 <= self.seed < 2**63, "seed", "a whole number from 0 to 2^63 - 1", self.seed
        )
        names = self.emotions
        valid = names is None or (isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names))
        rules.check(bool(valid), "emotions", "a list of one or more names, or null", names)
        for name in ("data_path", "output_dir"):
            # an empty shell variable must not train on the built-in sample
            value = getattr(self, name)
            rules.check(value is None or _is_path(value), name, "a path in UTF-8 or null", value)
        rules.check(isinstance(self.device, str), "device", "auto, cpu, gpu or gpu:NUMBER", self.device)
        rules.raise_if_broken()

    def run_directory(self) -> Path:
        """Where the run goes."""
        return Path(self.output_dir or f"runs/multitask-seed{self.seed}").expanduser()

    def resolved(self, emotions: list[str]) -> ExperimentConfig:
        """The same experiment wherever it is run from, and with the emotions' names."""
        path = self.data_path and str(Path(self.data_path).expanduser().resolve())
        return dataclasses.replace(self, data_path=path, emotions=list(emotions))

    def with_settings(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """The same experiment with some of `SETTINGS`, given by their dotted names, replaced.

        Raises:
            ConfigError: they are out of range.
        """
        changes: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
        for name, value in values.items():
            group, _, setting = name.partition(".")
            changes[group][setting] = value
        return dataclasses.replace(
            self, **{group: dataclasses.replace(getattr(self, group), **changed) for group, changed in changes.items()}
        )

    def to_yaml(self) -> str:
        """All settings, defaults included, as YAML that ``--config`` takes back."""
        import yaml

        text = yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)
        return "# Every setting of one run; python -m lmf_multitask.train --config THIS_FILE runs it again.\n" + text


SETTINGS = tuple(
    f"{group}.{one.name}"
    for group, kind in (("model", ModelConfig), ("training", TrainingConfig))
    for one in dataclasses.fields(kind)
    if one.name not in ("eval_batch_size", "visualdl")  # which change no result
)
"""What a search or an ablation may vary, by dotted name."""


def find_config(name: str) -> Path:
    """A config by path, or a shipped one by name: ``multitask``, ``multitask.yaml`` or ``configs/multitask.yaml``.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    # shipped configs lie inside an installed package, beside the package in a source checkout
    package = Path(__file__).parent
    shipped = next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())
    wanted = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for candidate in (shipped / wanted, shipped / f"{wanted}.yaml"):
        if not path.is_absolute() and ".." not in path.parts and candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(shipped).with_suffix("")) for file in shipped.rglob("*.yaml"))
    raise ConfigError(f"--config must be a YAML file, but {name} is none. Shipped ones are {', '.join(names)}.")


RECIPES = ("lmf_paddle", "paper")


def recipe_config(recipe: str, emotion: str) -> Path:
    """The settings of a published training for one emotion; the recipe's default for emotions that it has none for."""
    path = find_config(f"per_emotion/{recipe}/default")
    own = path.with_name(f"{emotion}.yaml")
    return own if own.is_file() else path
