"""What a search is: the settings that all trials share, those that vary, and what is compared. It knows no Optuna."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from lmf_multitask.config import SETTINGS, ExperimentConfig, ModelConfig, TrainingConfig
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.strict_yaml import read_yaml

OBJECTIVES = get_args(get_type_hints(TrainingConfig)["monitor"])
"""Validation figures that an epoch, and so a trial, has in any case."""

_GROUPS = {"model": ModelConfig, "training": TrainingConfig}
_FREE = ("experiment.device",)  # does not make it another search


@dataclass
class PruningConfig:
    """Which trials are ended early.

    Args:
        method: median ends a trial whose best figure so far is below the median of the earlier ones' at that epoch; none ends no trial
        startup_trials: so many trials must have passed an epoch before another one can be ended there
        warmup_epochs: no trial is ended before it has had so many
    """

    method: Literal["median", "none"] = "median"
    startup_trials: int = 5
    warmup_epochs: int = 5

    def __post_init__(self) -> None:
        broken = []
        if self.method not in ("median", "none"):
            broken.append(f"pruning.method must be median or none, but got {self.method!r}")
        for name in ("startup_trials", "warmup_epochs"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                broken.append(f"pruning.{name} must be a whole number of at least 1, but got {value!r}")
        if broken:
            raise ConfigError("; ".join(broken) + ".")


@dataclass
class SearchConfig:
    """One search: many trainings that differ in some settings, compared on validation.

    Args:
        experiment: what all trials have in common: any settings of a training
        space: what varies: a setting -> {choices: [...]} or {low: A, high: B, log: true}; names with a comma between vary together
        objective: validation figure of the epoch that a trial keeps; the mean over emotions, or the loss
        per_emotion: a search for each emotion by itself, each with models of that emotion alone
        sampler: tpe learns from the trials before (Bergstra et al. 2011); random does not
        seed: of the sampler, 0 or more; that of all trainings is experiment.seed
        pruning: which trials are ended early
    """

    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    space: dict[str, Any] = field(default_factory=dict)
    objective: str = "weighted_f1"
    per_emotion: bool = False
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 1
    pruning: PruningConfig = field(default_factory=PruningConfig)

    def __post_init__(self) -> None:
        broken = []
        if self.objective not in OBJECTIVES:
            close = difflib.get_close_matches(str(self.objective), OBJECTIVES, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            broken.append(f"objective must be one of {', '.join(OBJECTIVES)}, but got {self.objective!r}.{hint}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            broken.append(f"seed must be a whole number from 0 to 2^32 - 1, but got {self.seed!r}.")
        if self.experiment.output_dir is not None:
            broken.append(
                "experiment.output_dir must be left out, since every trial would go there. Give --output_dir."
            )
        if broken:
            raise ConfigError(" ".join(broken))
        for dimension in self.dimensions():
            dimension.check(self.experiment)

    @property
    def maximise(self) -> bool:
        """Whether more of the objective is better."""
        return self.objective != "loss"

    @property
    def column(self) -> str:
        """The objective's name in a training's history."""
        return f"validation_{self.objective}"

    def dimensions(self) -> list[Dimension]:
        """The space, read.

        Raises:
            ConfigError: it is empty, names what is no setting, or does not say what values there are.
        """
        if not isinstance(self.space, Mapping) or not self.space:
            raise ConfigError(
                f"space must name at least one setting that varies, but got {self.space!r}. See configs/search/multitask.yaml."
            )
        found = [_dimension(str(name), values) for name, values in self.space.items()]
        names = [name for dimension in found for name in dimension.settings]
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            raise ConfigError(f"space must name each setting once, but names {twice} twice. Leave one out.")
        return found

    def to_yaml(self) -> str:
        """Everything, defaults included."""
        text = yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)
        return "# Every setting of the search in this folder; what is gone on with must agree with it.\n" + text

    def difference(self, before: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
        """Where this search is another one than `before`, the content of a `to_yaml`: name, value there, value here."""
        old, new = dict(_leaves(before)), dict(_leaves(dataclasses.asdict(self)))
        absent = "nothing"
        for name in dict.fromkeys([*old, *new]):
            if name not in _FREE and old.get(name, absent) != new.get(name, absent):
                return name, old.get(name, absent), new.get(name, absent)
        return None


@dataclass(frozen=True)
class Dimension:
    """One thing that varies.

    Attributes:
        name: as it is written in the space.
        settings: dotted names of the settings that get its value; several of them get one value each.
        choices: the values; empty for a range.
        low: least value of a range.
        high: largest value of a range, included.
        log: a range is drawn evenly on a logarithmic scale.
        whole: a range of whole numbers.
    """

    name: str
    settings: tuple[str, ...]
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    def stored_choices(self) -> list[Any]:
        """The choices as a study can keep them: plain values as they are, lists as JSON."""
        return [json.dumps(value) if isinstance(value, list) else value for value in self.choices]

    def value(self, stored: Any) -> Any:
        """The value behind what a study keeps."""
        return self.choices[self.stored_choices().index(stored)] if self.choices else stored

    def assigned(self, value: Any) -> dict[str, Any]:
        """Setting -> what a value of this dimension makes it."""
        return dict(zip(self.settings, value if len(self.settings) > 1 else [value]))

    def check(self, base: ExperimentConfig) -> None:
        """Makes sure that every choice, or both ends of the range, makes valid settings.

        Raises:
            ConfigError: one does not.
        """
        for value in self.choices or (self.low, self.high):
            try:
                base.with_settings(self.assigned(value))
            except ConfigError as error:
                raise ConfigError(f"space: {error}") from None
            except TypeError:
                raise ConfigError(
                    f"space: {self.name} must be given plain values, but got {value!r}. Write another one."
                ) from None


def _dimension(name: str, values: Any) -> Dimension:
    settings = tuple(part.strip() for part in name.split(","))
    for setting in settings:
        if setting not in SETTINGS:
            raise ConfigError(f"space must name settings of model or training, but names {setting!r}.{_near(setting)}")
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"space: {name} must have choices, or low and high, but got {values!r}. Write {{choices: [...]}}."
        )
    keys = set(values)
    for key in values:
        if key not in ("choices", "low", "high", "log"):
            close = difflib.get_close_matches(str(key), ("choices", "low", "high", "log"), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"space: {name} must have choices, or low, high and log, but has {key!r}.{hint}")
    if keys == {"choices"}:
        choices = values["choices"]
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"space: {name} must have a list of choices, but got {choices!r}. Write [a, b].")
        if len({json.dumps(value, default=str) for value in choices}) < len(choices):
            raise ConfigError(f"space: {name} must have different choices, but got {choices!r}. Leave one out.")
        if len(settings) > 1:
            wrong = [v for v in choices if not isinstance(v, list) or len(v) != len(settings)]
            if wrong:
                raise ConfigError(
                    f"space: {name} must have choices of {len(settings)} values each, but got {wrong[0]!r}. Write [[a, b], [c, d]]."
                )
        return Dimension(name, settings, choices=tuple(choices))
    if not {"low", "high"} <= keys or "choices" in keys or len(settings) > 1:
        raise ConfigError(f"space: {name} must have choices, or low and high, but has {', '.join(map(str, values))}.")
    low, high, log = values["low"], values["high"], values.get("log", False)
    for key in ("low", "high"):
        if type(values[key]) not in (int, float):
            raise ConfigError(f"space: {name}.{key} must be a number, but got {values[key]!r}.")
    if not low < high:
        raise ConfigError(f"space: {name} must have low below high, but got {low!r} and {high!r}.")
    if type(log) is not bool:
        raise ConfigError(f"space: {name}.log must be true or false, but got {log!r}.")
    if log and low <= 0:
        raise ConfigError(f"space: {name}.low must be above 0 where log is true, but got {low!r}.")
    group, _, field_name = settings[0].partition(".")
    kind = get_type_hints(_GROUPS[group])[field_name]
    if kind is float or float in get_args(kind):
        return Dimension(name, settings, low=float(low), high=float(high), log=log)
    return Dimension(name, settings, low=low, high=high, log=log, whole=True)


def read_search(path: Path) -> dict[str, Any]:
    """What `SearchConfig.to_yaml` wrote.

    Raises:
        RunError: the file is damaged.
    """
    try:
        content = read_yaml(path)
    except (OSError, yaml.YAMLError) as error:
        raise RunError(
            f"{path}: must hold the settings of a search, but {' '.join(str(error).split()).rstrip('.')[:200]}."
        ) from None
    if not isinstance(content, dict) or not {"experiment", "space", "objective"} <= set(content):
        raise RunError(f"{path}: must hold the settings of a search, but does not. Choose another --output_dir.")
    return content


def _near(setting: str) -> str:
    by_end = [name for name in SETTINGS if name.rpartition(".")[2] == setting.rpartition(".")[2]]
    close = by_end or difflib.get_close_matches(setting, SETTINGS, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Choose among {', '.join(SETTINGS)}."


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name -> value; what a dimension of the space may be is one value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and path != "space.":
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
