"""What a search is: the settings that all trials share, those that vary, and what is compared. Optuna is not used here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lmf_multitask.config import build, options, replaced, setting, settings, to_dict, type_parts
from lmf_multitask.errors import ConfigError, RunError, suggestion
from lmf_multitask.evaluation.metrics import METRICS, TASK_METRIC
from lmf_multitask.pipeline.settings import ExperimentConfig, first_difference, varied_settings
from lmf_multitask.strict_yaml import read_settings

# a study may be continued on another device, and with data and caches that were moved
_FREE = ("experiment.device", "experiment.data_path", "experiment.data.cache_dir")


@settings
class PruningConfig:
    """Which trials are ended early."""

    method: Literal["median", "none"] = setting(
        "median", "median: end a trial whose best metric so far is below the median of the earlier trials at that epoch"
    )
    startup_trials: int = setting(
        5, "trials that must have passed an epoch before another one can be ended there", ge=1
    )
    warmup_epochs: int = setting(5, "epochs that every trial has", ge=1)


@settings
class SearchConfig:
    """One search: many trainings that differ in some settings, compared on validation."""

    experiment: ExperimentConfig = setting(ExperimentConfig, "settings that all trials share")
    space: dict[str, Any] = setting(
        dict,
        "what varies: setting -> {choices: [...]} or {low: A, high: B, log: true}; names with a comma vary together",
    )
    objective: str = setting(
        "weighted_f1",
        "validation metric of the network alone, deciding at one half, in the epoch that a trial keeps (mean over emotions), or loss",
    )
    per_emotion: bool = setting(False, "one search per emotion, each with models of that emotion alone")
    sampler: Literal["tpe", "random"] = setting("tpe", "tpe learns from earlier trials (Bergstra et al. 2011)")
    seed: int = setting(1, "of the sampler; that of all trainings is experiment.seed", ge=0, lt=2**32)
    pruning: PruningConfig = setting(PruningConfig, "which trials are ended early")

    def __post_init__(self) -> None:
        """Checks what the types cannot."""
        known = ("loss", TASK_METRIC, *METRICS)
        if self.objective not in known:
            hint = suggestion(self.objective, known)
            raise ConfigError(f"objective must be one of {', '.join(known)}, but got {self.objective!r}.{hint}")
        if self.experiment.output_dir is not None:
            raise ConfigError(
                "experiment.output_dir must not be set, since every trial would be written there. Give --output_dir."
            )
        for dimension in self.dimensions():
            dimension.check(self.experiment)

    @property
    def maximise(self) -> bool:
        """Whether a larger objective is better."""
        return self.objective == TASK_METRIC or (self.objective != "loss" and METRICS[self.objective].greater_is_better)

    @property
    def column(self) -> str:
        """Name of the objective in the history of a training."""
        return f"validation_{self.objective}"

    def dimensions(self) -> list[Dimension]:
        """The space, parsed.

        Raises:
            ConfigError: it is empty, names an unknown setting, or does not give values.
        """
        if not self.space:
            raise ConfigError(
                "space must name at least one setting that varies, but is empty. See configs/search/multitask.yaml."
            )
        found = [_dimension(name, values) for name, values in self.space.items()]
        names = [name for dimension in found for name in dimension.settings]
        twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
        if twice is not None:
            raise ConfigError(f"space must name each setting once, but names {twice} twice. Remove one.")
        return found

    def to_yaml(self) -> str:
        """Everything, defaults included."""
        text = yaml.safe_dump(to_dict(self), sort_keys=False, allow_unicode=True)
        return (
            "# Every setting of the search in this folder; the search can be continued only with the same settings.\n"
            + text
        )

    def difference(self, before: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
        """The first setting that differs from `before`, the content of a `to_yaml`: name, value there, value here."""
        return first_difference(before, to_dict(self), _FREE, leaves=("space",))


@dataclass(frozen=True)
class Dimension:
    """One thing that varies.

    Attributes:
        name: as it is written in the space.
        settings: dotted names of the settings that get its value; several of them get one value each.
        choices: the values; empty for a range.
        low: smallest value of a range.
        high: largest value of a range.
        log: whether the range is sampled on a logarithmic scale.
        whole: whether its values are whole numbers.
    """

    name: str
    settings: tuple[str, ...]
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    def stored_choices(self) -> list[Any]:
        """The choices as a study can keep them: plain values as they are, others as JSON."""
        return [json.dumps(value) if isinstance(value, (list, dict)) else value for value in self.choices]

    def value(self, stored: Any) -> Any:
        """The value of what a study keeps."""
        return self.choices[self.stored_choices().index(stored)] if self.choices else stored

    def assigned(self, value: Any) -> dict[str, Any]:
        """Setting -> its part of a value of this dimension."""
        return dict(zip(self.settings, value if len(self.settings) > 1 else [value]))

    def check(self, base: ExperimentConfig) -> None:
        """Checks that every choice, or both ends of the range, makes valid settings.

        Raises:
            ConfigError: one does not.
        """
        for value in self.choices or (self.low, self.high):
            try:
                replaced(base, self.assigned(value))
            except ConfigError as error:
                raise ConfigError(f"space: {error}") from None


@settings
class _Values:
    """What the space says of one dimension."""

    choices: list[Any] | None = setting(None, "the values", min_length=1)
    low: int | float | None = setting(None, "smallest value")
    high: int | float | None = setting(None, "largest value")
    log: bool = setting(False, "sample on a logarithmic scale")


def _dimension(name: str, given: Any) -> Dimension:
    names = tuple(part.strip() for part in name.split(","))
    known = varied_settings()
    for one in names:
        if one not in known and not any(other.startswith(f"{one}.") for other in known):
            hint = suggestion(one, known) or f" Choose among {', '.join(known)}."
            raise ConfigError(f"space must name settings of model or training, but names {one!r}.{hint}")
    try:
        values = build(_Values, given)
    except ConfigError as error:
        raise ConfigError(f"space: {name}: {error}") from None
    low, high = values.low, values.high
    if (values.choices is None) == (low is None or high is None) or (values.choices is not None and values.log):
        raise ConfigError(f"space: {name} must have choices, or low, high and log, but got {given!r}.")
    if values.choices is not None:
        if len({json.dumps(value, default=str) for value in values.choices}) < len(values.choices):
            raise ConfigError(f"space: {name} must have different choices, but got {values.choices!r}. Remove one.")
        wrong = [v for v in values.choices if len(names) > 1 and (not isinstance(v, list) or len(v) != len(names))]
        if wrong:
            raise ConfigError(
                f"space: {name} must have choices of {len(names)} values each, but got {wrong[0]!r}. Write [[a, b], [c, d]]."
            )
        return Dimension(name, names, choices=tuple(values.choices))
    assert low is not None and high is not None
    if len(names) > 1:
        raise ConfigError(f"space: {name} must have choices, since it names several settings. Write [[a, b], [c, d]].")
    if not low < high:
        raise ConfigError(f"space: {name} must have low below high, but got {low!r} and {high!r}.")
    if values.log and low <= 0:
        raise ConfigError(f"space: {name}.low must be above 0 where log is true, but got {low!r}.")
    kinds = {option.name: type_parts(option.type) for option in options(ExperimentConfig)}
    if float in kinds.get(names[0], ()):
        return Dimension(name, names, low=float(low), high=float(high), log=values.log)
    return Dimension(name, names, low=low, high=high, log=values.log, whole=True)


def read_search(path: Path) -> dict[str, Any]:
    """The content of a `SearchConfig.to_yaml`.

    Raises:
        RunError: the file is damaged.
    """
    try:
        content = read_settings(path)
    except (OSError, ConfigError) as error:
        text = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise RunError(f"{path}: must hold the settings of a search, but {text}") from None
    if not {field.name for field in dataclasses.fields(SearchConfig)} <= set(content):
        raise RunError(f"{path}: must hold the settings of a search, but does not. Choose another --output_dir.")
    return content
