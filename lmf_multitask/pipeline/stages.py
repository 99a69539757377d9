"""The stages of a run: load -> fit -> predict -> assess -> write.

Each stage takes and returns a small dataclass and repeats no work of an earlier one. Training, evaluation, report, search
and ablation are different beginnings and ends of this pipeline.

Shape letters: N rows (clips), T tasks (emotions).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmf_multitask.data.columns import Columns, column_arrays, match_inputs, missing_rows
from lmf_multitask.data.loading import SAMPLE_NOTE, LoadedData, missing_in_train
from lmf_multitask.data.loading import load as load_file
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.padding import RepaddedColumn, moved_note, sides_to_move
from lmf_multitask.errors import RunError, TrainingError
from lmf_multitask.evaluation.baselines import LinearBaseline
from lmf_multitask.evaluation.calibration import CALIBRATION_FILE, Calibration
from lmf_multitask.evaluation.decisions import task_kinds
from lmf_multitask.evaluation.metrics import EXCLUSIVE, METRICS, value_of
from lmf_multitask.models.config import ModelConfig
from lmf_multitask.pipeline.layout import MODEL_FOLDER
from lmf_multitask.pipeline.runs import Run, runs_in
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.runtime import quiet_imports, select_device
from lmf_multitask.tasks import BinaryTask, RegressionTask, Task, make_tasks
from lmf_multitask.training.config import TrainingConfig

with quiet_imports():
    from lmf_multitask.models.lmf import LMFModel, check_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Result of `load`.

    Attributes:
        config: the settings, with the names of the tasks, an absolute path, and no modality that train lacks.
        data: the checked and cleaned data.
        tasks: to learn.
    """

    config: ExperimentConfig
    data: LoadedData
    tasks: list[Task]


@dataclass(frozen=True)
class Trained:
    """Result of `fit` or `restore`: one trained model, or per-emotion models that together predict all tasks.

    Attributes:
        name: of the run, for tables of several.
        configs: settings of each model.
        models: the models, in evaluation mode; their tasks follow one another.
        data: what they predict.
        data_path: where it was read; None for the built-in sample.
        runs: their run directories.
        calibration: fitted on validation; None before that.
        own_data: whether the models were trained on this data, so that baselines can be fitted to it.
        linear: the linear model that was fitted to this data; None before that.
        history: of the training, one dict per epoch; empty if the models were read from files.
    """

    name: str
    configs: list[ExperimentConfig]
    models: list[LMFModel]
    data: LoadedData
    data_path: str | None
    runs: list[Run]
    calibration: Calibration | None = None
    own_data: bool = True
    linear: LinearBaseline | None = None
    history: Sequence[Mapping[str, float]] = ()

    @property
    def tasks(self) -> list[Task]:
        """The T tasks."""
        return [task for model in self.models for task in model.tasks]

    @property
    def modalities(self) -> list[str]:
        """Those that at least one model uses."""
        return [name for name in MODALITIES if any(name in model.config.modalities for model in self.models)]

    def split(self, wanted: str, otherwise: str) -> str:
        """The wanted split; the other one where other data lack it."""
        return wanted if wanted in self.data.dataset else otherwise

    def columns(self, split: str) -> Columns:
        """Features with the shapes that the models take, and labels.

        Raises:
            DataError: the features have other shapes.
        """
        columns = column_arrays(self.data.dataset[split])
        for model in self.models[1:]:
            match_inputs(columns, model.inputs, model.config.modalities, self.data_path)
        first = self.models[0]
        found = match_inputs(columns, first.inputs, first.config.modalities, self.data_path)
        return {**found, **{name: RepaddedColumn(found[name], side) for name, side in self.sides_to_move().items()}}

    def sides_to_move(self) -> dict[str, str]:
        """Modality -> the side to which the padding of its sequences is moved, see `data.padding`."""
        paddings = {name: one.padding for name, one in self.data.inputs.items()}
        return sides_to_move(self.models[0].inputs, paddings, self.modalities)

    @property
    def notes(self) -> list[str]:
        """What was decided about the data."""
        inputs = self.data.inputs
        return [
            *self.data.notes,
            *(moved_note(name, inputs[name].padding, side) for name, side in self.sides_to_move().items()),
        ]

    def predict(self, features: Columns) -> np.ndarray:
        """Features of N clips -> predictions float32 `[N, T]`."""
        return self.predict_both(features)[0]

    def predict_both(self, features: Columns) -> tuple[np.ndarray, np.ndarray]:
        """`predict`, and the predictions of the networks without their linear models, in one pass."""
        size = self.configs[0].training.eval_batch_size
        both, alone = zip(*(model.predict_both(features, size) for model in self.models))
        return np.concatenate(both, axis=1), np.concatenate(alone, axis=1)

    @property
    def stacked(self) -> bool:
        """Whether the networks are combined with a linear model."""
        return any(model.linear is not None for model in self.models)


@dataclass(frozen=True)
class Predicted:
    """Result of `predict`.

    Attributes:
        split: name of the split.
        ids: of its N rows.
        columns: features and labels of these rows.
        predictions: float32 `[N, T]`.
        alone: those of the network without the linear model.
    """

    split: str
    ids: list[str]
    columns: Columns
    predictions: np.ndarray
    alone: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Float32 `[N, T]`, NaN where not annotated."""
        return np.asarray(self.columns["labels"])


# -- load


def load(config: ExperimentConfig) -> Prepared:
    """Reads the data and checks that the settings can be trained on it; writes nothing but the cache of the data.

    Raises:
        UserError: the device, the data or the settings do not allow it.
    """
    select_device(config.device)
    data = read_data(config)
    config = config.resolved(data.targets)
    tasks = _check_labels(data, config.training)
    data.notes += _range_notes(tasks, data)
    config = without(config, missing_in_train(data.dataset, config.model.modalities))
    check_network(data, config.model)
    return Prepared(config, data, tasks)


def read_data(config: ExperimentConfig, only: str | None = None) -> LoadedData:
    """The data of an experiment; says so if that is the built-in sample.

    Args:
        config: the settings.
        only: see `lmf_multitask.data.loading.load`.

    Raises:
        DataError: see `lmf_multitask.data.loading.load`.
    """
    if config.data_path is None:
        logger.info("%s", SAMPLE_NOTE)
    return load_file(config.data_path, config.wanted, config.data, config.chosen_fold, only)


def _range_notes(tasks: Sequence[Task], data: LoadedData) -> list[str]:
    """What the range of train was taken for, one line per task."""
    return [
        f"{task.name}: predictions are clipped to {task.range[0]:g} to {task.range[1]:g}, the range of train"
        for task, target in zip(tasks, data.targets)
        if isinstance(task, RegressionTask) and task.range is not None and target.range_of_train
    ]


def check_network(data: LoadedData, config: ModelConfig) -> None:
    """Checks that a network for this data is not too large.

    Raises:
        ConfigError: it is.
    """
    check_size(data.inputs, make_tasks(data.targets), config)


def without(config: ExperimentConfig, absent: Sequence[str]) -> ExperimentConfig:
    """The same settings with a network that has no part for the absent modalities."""
    left = [name for name in config.model.modalities if name not in absent]
    return dataclasses.replace(config, model=dataclasses.replace(config.model, modalities=left))


def _make_tasks(data: LoadedData, train: np.ndarray, training: TrainingConfig) -> list[Task]:
    """The tasks of the data; of real-valued ones with mean, std and, where asked for, range of train's labels `[N, T]`.

    Raises:
        TrainingError: the labels of a real-valued task do not vary.
    """
    tasks = make_tasks(data.targets)
    for t, task in enumerate(tasks):
        if isinstance(task, RegressionTask):
            known = train[~np.isnan(train[:, t]), t].astype(np.float64)
            if not len(known) or np.ptp(known) == 0:
                raise TrainingError(
                    f"{task.name} must vary in train, but has {'one value' if len(known) else 'no label'}. "
                    "Leave it out of --tasks."
                )
            mean, std = (float(known.mean()), float(known.std())) if training.standardize_targets else (0.0, 1.0)
            tasks[t] = task = dataclasses.replace(task, criterion=training.regression_loss, mean=mean, std=std)
            if data.targets[t].range_of_train:
                tasks[t] = dataclasses.replace(task, range=(float(known.min()), float(known.max())))
    return tasks


def _check_labels(data: LoadedData, training: TrainingConfig) -> list[Task]:
    """Checks that every task can be learnt, and the best epoch be selected.

    Returns:
        The tasks.

    Raises:
        TrainingError: one cannot.
    """
    train, monitor = np.asarray(column_arrays(data.dataset["train"])["labels"]), training.monitor
    tasks = _make_tasks(data, train, training)
    binary = [isinstance(task, BinaryTask) for task in tasks]
    for t, name in enumerate(data.emotions):
        known = train[~np.isnan(train[:, t]), t]
        present = int((known == 1).sum())
        if binary[t] and present in (0, len(known)):
            raise TrainingError(
                f"{name} must be present in some clips of train and absent in others, but is present in {present} of "
                f"{len(known)}. Choose others with --emotions."
            )
    labels = np.asarray(column_arrays(data.dataset["validation"])["labels"])
    known = ~np.isnan(labels)
    if not known.any():
        raise TrainingError(
            "validation must have annotated clips to select the best epoch, but has none. Annotate some."
        )
    # whether a metric is defined depends on the labels alone
    probe = np.where(
        binary, 0.0, np.linspace(0, 1, len(labels))[:, None]
    )  # of real-valued tasks, predictions must vary
    if monitor != "loss" and value_of(monitor, labels, probe, tasks) is None:
        kinds = {METRICS[name].kind for name in (monitor,) if name in METRICS}
        reason = "each is present in all or in none of the clips, or has one value"
        if kinds and not kinds & {*task_kinds(tasks), EXCLUSIVE}:
            reason = f"it is for {kinds.pop()} tasks"
        raise TrainingError(
            f"training.monitor must be a metric that the labels of validation define, but {monitor} is undefined for every "
            f"task: {reason}. Choose --training.monitor loss, or other splits."
        )
    unlabelled = [name for t, name in enumerate(data.emotions) if not known[:, t].any()]
    if unlabelled:
        logger.warning("validation has no label for %s: the best epoch is selected without", ", ".join(unlabelled))
    unseen = [
        name
        for t, name in enumerate(data.emotions)
        if binary[t] and known[:, t].any() and not (labels[:, t] == 1).any()
    ]
    if unseen:
        logger.warning(
            "no clip of validation has %s: the best epoch is selected without, and no threshold is fitted",
            ", ".join(unseen),
        )
    return tasks


# -- predict


def predict(trained: Trained, split: str) -> Predicted:
    """Predicts one split.

    Raises:
        DataError: the data do not fit the models.
    """
    columns = trained.columns(split)
    gaps = missing_rows(columns)
    rows = trained.data.dataset[split]
    for name in trained.modalities:
        if gaps[name] == len(rows):
            logger.warning("%s is missing in every clip of %s: the model predicts without it", name, split)
    return Predicted(split, list(rows["id"]), columns, *trained.predict_both(columns))


# -- the way back: from a run directory to trained models


def restore(
    folder: str | Path,
    data_path: str | None = None,
    device: str = "auto",
    *,
    split: str | None = None,
    complete_only: bool = False,
    data: LoadedData | None = None,
) -> Trained:
    """Trained models from a run directory, or from the parent of per-emotion runs, and the data they predict.

    Args:
        folder: the run directory or parent.
        data_path: other data than that of the training; then there are no baselines.
        device: where to compute.
        split: the only one that other data must have; None: all.
        complete_only: skip runs whose training has not ended.
        data: the runs' own data, if the caller has loaded it.

    Raises:
        UserError: the folder is neither, the runs are of different data, or the data lack a task.
    """
    folder = Path(folder).expanduser()
    runs = [run for run in runs_in(folder) if run.is_complete() or not complete_only]
    configs = [run.load_config() for run in runs]
    first = configs[0]
    for run, config in zip(runs, configs):
        if _data_of(config) != _data_of(first):
            raise RunError(
                f"{run.folder}: must be trained on the data of {runs[0].folder}, but is not. Give one of them."
            )
    select_device(device)
    models = [run.load_model() for run in runs]
    tasks = [name for model in models for name in model.task_names]
    if len(set(tasks)) != len(tasks):
        raise RunError(f"{folder}: must hold one run per emotion, but has {', '.join(tasks)}. Give one run directory.")
    if data is None or data.emotions != tasks:
        wanted = [one for config in configs for one in config.wanted or ()]
        config = first if data_path is None else first.on_other_data(data_path, runs[0].label_column())
        only = None if data_path is None else split
        data = read_data(dataclasses.replace(config, emotions=None, tasks=wanted or tasks), only)
        data.notes += _range_notes([task for model in models for task in model.tasks], data)
    places = [run.folder / MODEL_FOLDER for run in runs]
    calibrated = all((place / CALIBRATION_FILE).is_file() for place in places)
    return Trained(
        folder.name or str(folder),
        configs,
        models,
        data,
        data_path or first.data_path,
        runs,
        Calibration.joined([Calibration.load(place) for place in places]) if calibrated else None,
        own_data=data_path is None,
    )


def _data_of(config: ExperimentConfig) -> tuple[object, ...]:
    return config.data_path, config.data, config.chosen_fold
