"""The settings of an experiment, the configs that the package ships, and published recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from lmf_multitask.config import (
    build,
    check_name,
    find_config,
    merged,
    options,
    setting,
    settings,
    to_dict,
)
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.folds import MOST_FOLDS, Fold
from lmf_multitask.data.targets import BINARY, Target, parse_target
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.evaluation.metrics import TASK_METRIC
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.strict_yaml import read_settings
from lmf_multitask.tasks import TASKS, check_kind
from lmf_multitask.training.config import TrainingConfig

RECIPES = ("lmf_paddle", "paper", "paper/mosi", "paper/pom")
"""Published trainings of separate models: the Paddle reproduction's, and the paper authors' for IEMOCAP, MOSI and POM."""


def _path(text: str) -> str:
    """A path that can name a file and stand in YAML; an empty shell variable must not train on the built-in sample."""
    try:
        usable = bool(text.encode()) and "\0" not in text
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise ValueError(f"must be a path in UTF-8 that is not empty, but got {text!r}. Is a variable not set?")
    return text


def _folds(value: int | str | None) -> int | str | None:
    value = int(value) if isinstance(value, str) and value.isdecimal() else value
    if value == "" or (isinstance(value, int) and not 2 <= value <= MOST_FOLDS):
        raise ValueError(
            f"must be a number from 2 to {MOST_FOLDS}, or the name of groups such as session, but got {value!r}."
        )
    return value


_Path = Annotated[str, AfterValidator(_path)]


def _tasks(given: list[str] | None) -> list[str] | None:
    try:
        for one in map(parse_target, given or ()):
            check_kind(one.name, one.kind or BINARY)
    except ConfigError as error:
        raise ValueError(f"must be a list of tasks, but {error}") from None
    return given


@settings
class ExperimentConfig:
    """One training, from data to metrics."""

    data_path: _Path | None = setting(
        default=None, help="data file or folder (see lmf data inspect); null: the built-in sample"
    )
    emotions: list[str] | None = setting(default=None, help="emotions to learn; null: all in the data", min_length=1)
    tasks: Annotated[list[str] | None, AfterValidator(_tasks)] = setting(
        default=None,
        help="instead of emotions, tasks of any kind: NAME, NAME:regression[:LOW:HIGH or :train], NAME:above:COLUMN[:NUMBER]",
        min_length=1,
    )
    seed: int = setting(default=1, help="seed of all random numbers", ge=0, lt=2**63)
    output_dir: _Path | None = setting(default=None, help="run directory to write; null: runs/DATA-seedN")
    folds: Annotated[int | str | None, AfterValidator(_folds)] = setting(
        default=None,
        help="cross-validation over all clips: number of folds, or the name of groups of which each is left out once (a column, "
        "or session, speaker, dialogue of IEMOCAP ids); null: the splits of the data",
    )
    fold: int | None = setting(default=None, help="train this fold only, from 1; null: all", ge=1)
    fold_seed: int = setting(default=0, help="seed of the draws of folds and their validation clips", ge=0, lt=2**32)
    stratify: list[str] | None = setting(
        default=None, help="label columns whose shares folds keep; null: the emotions", min_length=1
    )
    device: str = setting(default="auto", help="auto, cpu, gpu or gpu:NUMBER (not tested on a GPU)")
    data: DataConfig = setting(default=DataConfig, help="how the data file is read")
    model: ModelConfig = setting(default=ModelConfig, help="parts and sizes of the network")
    training: TrainingConfig = setting(default=TrainingConfig, help="how the network is trained")

    @model_validator(mode="after")
    def _protocol(self) -> ExperimentConfig:
        if self.fold is not None and self.folds is None:
            raise ValueError(f"must have folds beside fold, but have fold {self.fold} alone. Add --folds.")
        if isinstance(self.folds, int) and self.fold is not None and self.fold > self.folds:
            raise ValueError(f"must have a fold from 1 to {self.folds}, but have {self.fold}. Choose another --fold.")
        if isinstance(self.folds, str):
            named = self.data.group_column
            if named not in (None, self.folds):
                raise ValueError(
                    f"must have the same groups in folds and data.group_column, but have {self.folds!r} and {named!r}. "
                    "Remove one."
                )
            self.data = dataclasses.replace(self.data, group_column=self.folds)
        return self

    @property
    def chosen_fold(self) -> Fold | None:
        """The fold of the cross-validation; None for the splits of the data.

        Raises:
            ConfigError: there are several.
        """
        if self.folds is None:
            return None
        if self.fold is None:
            raise ConfigError(
                "fold must be a number where folds are set, since one training is of one fold, but is null. Set fold (of a "
                "search or an ablation: --experiment.fold 1), or cross-validate with lmf train."
            )
        return Fold(self.folds, self.fold, self.fold_seed, self.stratify)

    def on_other_data(self, path: str, label_column: int | None = None) -> ExperimentConfig:
        """The same settings for a file that the model was not trained on, with its own splits.

        Args:
            path: the file.
            label_column: which column of one-hot labels the training took for present, where the settings leave it open.
        """
        column: Any = label_column if self.data.label_column is None else self.data.label_column
        data = dataclasses.replace(self.data, group_column=None, label_column=column)
        return dataclasses.replace(self, data_path=path, data=data, folds=None, fold=None, stratify=None)

    @property
    def data_name(self) -> str:
        """What the data are called in names of folders."""
        return "sample" if self.data_path is None else Path(self.data_path).expanduser().resolve().stem

    def run_directory(self) -> Path:
        """Where the run goes."""
        fold = "" if self.fold is None else f"-folds{self.folds}-fold{self.fold}"
        return Path(self.output_dir or f"runs/{self.data_name}{fold}-seed{self.seed}").expanduser()

    @model_validator(mode="after")
    def _one_list(self) -> ExperimentConfig:
        if self.emotions is not None and self.tasks is not None:
            raise ValueError(
                "must have tasks or emotions, but have both. Name all as tasks, and add --emotions null if a config sets emotions."
            )
        return self

    @property
    def wanted(self) -> list[str] | None:
        """The tasks to learn, as `data.targets.parse_target` reads them; None: all in the data."""
        return self.tasks or self.emotions

    def resolved(self, targets: Sequence[str | Target]) -> ExperimentConfig:
        """The same experiment from whatever folder it is run, with the names and kinds of the tasks, and their monitor."""
        path, root = (
            name and str(Path(name).expanduser().resolve()) for name in (self.data_path, self.data.feature_root)
        )
        data = dataclasses.replace(self.data, feature_root=root)
        tasks = [parse_target(one) for one in targets]
        monitors = {TASKS[one.kind or BINARY].monitor for one in tasks}
        training = self.training
        if training.monitor == TASK_METRIC and len(monitors) == 1:
            training = dataclasses.replace(training, monitor=monitors.pop())
        texts = list(map(str, tasks))
        plain = all(text == one.name for text, one in zip(texts, tasks))
        lists: dict[str, Any] = {"emotions": texts, "tasks": None} if plain else {"emotions": None, "tasks": texts}
        return dataclasses.replace(self, data_path=path, data=data, training=training, **lists)

    def to_yaml(self) -> str:
        """All settings, defaults included, as YAML that ``--config`` reads."""
        import yaml

        text = yaml.safe_dump(to_dict(self), sort_keys=False, allow_unicode=True)
        return "# Every setting of one run; python -m lmf_multitask.train --config THIS_FILE runs it again.\n" + text


def varied_settings() -> list[str]:
    """Dotted names of the settings that a search or an ablation may vary: all that change a result."""
    names = [option.name for option in options(ExperimentConfig)]
    without = ("training.eval_batch_size", "training.visualdl")
    return [name for name in names if name.startswith(("model.", "training.")) and name not in without]


def settings_from(path: Path) -> ExperimentConfig:
    """The settings of a run from its YAML file.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return build(ExperimentConfig, read_settings(path))
    except (OSError, ConfigError) as error:
        text = " ".join(str(error).split()).removeprefix(f"{path}: ")
        raise RunError(f"{path}: must hold the settings of a run, but {text}") from None


def recipe_config(recipe: str, emotion: str) -> dict[str, Any]:
    """The settings of a published training for one emotion: the recipe's default, and what differs for this emotion."""
    path = find_config(f"per_emotion/{recipe}/default")
    own = path.with_name(f"{check_name(emotion).lower()}.yaml")
    return merged(read_settings(path), read_settings(own)) if own.is_file() else read_settings(path)


def first_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: Sequence[str] = (), leaves: Sequence[str] = ()
) -> tuple[str, Any, Any] | None:
    """The first setting, by dotted name, that differs between two nested mappings.

    Args:
        before: nested settings.
        now: the same of another time.
        ignored: dotted names that may differ.
        leaves: names of mappings that are not settings themselves but are compared value by value, as a whole each.

    Returns:
        Name, value before, value now; a missing value is the text ``nothing``. None if nothing differs.
    """
    old, new = dict(_flat(before, leaves)), dict(_flat(now, leaves))
    for name in dict.fromkeys([*old, *new]):
        pair = old.get(name, "nothing"), new.get(name, "nothing")
        if name not in ignored and pair[0] != pair[1]:
            return name, *pair
    return None


def _flat(tree: Mapping[str, Any], leaves: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value and prefix.rstrip(".") not in leaves:
            yield from _flat(value, leaves, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
