"""One training from settings to a complete run directory."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.columns import Column
from lmf_multitask.data.schema import (
    MODALITIES,
    NOT_ANNOTATED,
    as_model_takes,
    column_array,
    column_arrays,
    emotion_names,
    fingerprint,
    missing_rows,
)
from lmf_multitask.errors import RunError, TrainingError
from lmf_multitask.evaluation.assessment import assess
from lmf_multitask.evaluation.baselines import fit_linear_baseline, prevalence
from lmf_multitask.evaluation.calibration import CALIBRATION_FILE, Calibration, fit_calibration
from lmf_multitask.evaluation.metrics import (
    FIGURES,
    PROBABILITY_FIGURES,
    all_figures,
    multitask_figures,
    present_probability,
)
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.models.sizes import check_size
from lmf_multitask.runs import Run
from lmf_multitask.runtime import seed_everything, select_device, surroundings
from lmf_multitask.training import parallel
from lmf_multitask.training.module import LMFModule
from lmf_multitask.training.callbacks import OnEpoch, VisualDLLogs, resume_hint, save_when_stopped
from lmf_multitask.training.trainer import LMFTrainer, training_arguments

from lmf_multitask.data.loading import load_data, missing_in_train, without  # isort: skip - paddlenlp must be imported before datasets

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


def run_experiment(
    config: ExperimentConfig, *, overwrite: bool = False, resume: bool = False, force: bool = False
) -> dict[str, Any]:
    """Trains one model on several emotions, tests its best epoch, and writes the run directory.

    Args:
        config: every setting.
        overwrite: replace a run that is already in the directory.
        resume: go on with an unfinished run from its last complete checkpoint; with the same settings and data the
            result is that of a run without a break.
        force: go on although the data or the versions are not those that the run was started with.

    Returns:
        The content of ``metrics.json``; empty in all but the first of several processes.

    Raises:
        UserError: the data, the settings or the directory do not allow it; nothing has been written then.
        TrainingError: the training broke down; the run directory is left unfinished.
    """
    run = Run(config.run_directory())
    if parallel.rank() == 0:
        run.check_free(overwrite, resume)
    config, dataset = prepare_experiment(config)
    origin = {"data": fingerprint(dataset), **surroundings(), "processes": str(parallel.world_size())}
    if parallel.world_size() > 1:
        training_arguments(run.folder / "checkpoints", config.training)  # refuses what several processes cannot do
        parallel.initialize()
    if parallel.rank() != 0:
        return _train_along(config, run, dataset)
    with run.locked():
        resume = resume and run.is_run()
        if resume:
            _check_resumable(run, config, origin, force)
        run.start(config, origin, keep=resume)
        with run.logging_to_file(), resume_hint(run.folder):
            parallel.broadcast(resume)
            return _train_and_test(config, run, dataset, resume)


def prepare_experiment(config: ExperimentConfig) -> tuple[ExperimentConfig, datasets.DatasetDict]:
    """What comes before anything is written: the device, the data, and whether train and validation can be trained on.

    Returns:
        The settings, with the emotions' names and an absolute path; and the data.

    Raises:
        UserError: the data or the settings do not allow it.
    """
    select_device(config.device)
    dataset = load_data(config)
    emotions = emotion_names(dataset["train"])
    _check_labels(dataset, emotions, config.training.monitor)
    config = without(config, missing_in_train(dataset, config.model.modalities))
    check_size(_feature_sizes(dataset["train"]), len(emotions), config.model)
    return config.resolved(emotions), dataset


def _train_along(config: ExperimentConfig, run: Run, dataset: datasets.DatasetDict) -> dict[str, Any]:
    """What the other processes of a training do: everything but speaking, testing and writing."""
    logging.getLogger("lmf_multitask").setLevel(logging.WARNING)
    resume = parallel.broadcast(None)
    with paddle.utils.unique_name.guard():
        _fit(config, run, dataset, resume)
    return {}


def _train_and_test(config: ExperimentConfig, run: Run, dataset: datasets.DatasetDict, resume: bool) -> dict[str, Any]:
    for line in dataset["train"].info.description.splitlines():
        logger.debug(line)
    logger.debug("settings:\n%s", config.to_yaml())
    started = time.monotonic()
    with paddle.utils.unique_name.guard():  # names that a resumed optimiser finds again
        trainer = _fit(config, run, dataset, resume)
    model = trainer.module.trained
    batch_size, test = config.training.eval_batch_size, dataset["test"]
    calibration = calibrate_model(model, dataset["validation"], batch_size)
    baselines = baseline_probabilities(dataset, "test", model.emotions)
    metrics = evaluate_model(model, test, "test", config.seed, batch_size, calibration=calibration, baselines=baselines)
    probabilities = metrics.pop("probabilities")
    run.check_still_there()
    run.write_history(trainer.history)
    model.save_pretrained(run.folder / "model")
    calibration.save(run.folder / "model")
    run.write_predictions(test["id"], column_array(test, "labels"), probabilities, model.emotions)
    run.write_metrics(metrics)
    logger.debug("done in %.1f seconds", time.monotonic() - started)
    return metrics


def validate_experiment(
    config: ExperimentConfig, folder: Path, on_epoch: Callable[[dict[str, float]], None]
) -> list[dict[str, float]]:
    """Trains on train and validates after every epoch, as `run_experiment` does to the bit, and stops there.

    The test split is let go of without having been looked at; no model and no figures are written.

    Args:
        config: every setting; its ``output_dir`` is not used.
        folder: where PaddleNLP may put what it wants to.
        on_epoch: called with the epoch's row of the history as soon as it is there.

    Returns:
        The history, one dict per epoch.

    Raises:
        UserError: the data or the settings do not allow it.
        TrainingError: the training broke down.
    """
    config, dataset = prepare_experiment(config)
    del dataset["test"]
    with paddle.utils.unique_name.guard():
        # nobody needs the weights: neither of the best epoch, nor to go on
        trainer = _trainer(config, dataset, folder, on_epoch, save_strategy="no", load_best_model_at_end=False)
        return trainer.fit()


def evaluate_model(
    model: LMFModel,
    rows: datasets.Dataset,
    split: str,
    seed: int,
    batch_size: int,
    *,
    calibration: Calibration | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Figures of a model on one split, in the form of ``metrics.json``, and the ``probabilities`` `[N, T]` behind them.

    Args:
        model: the trained model.
        rows: the split.
        split: its name.
        seed: of the training.
        batch_size: clips per forward pass.
        calibration: fitted on validation; its figures stand beside the plain ones.
        baselines: name -> probabilities `[N, T]` on the same rows.
    """
    columns = _columns_for(model, rows, split)
    probabilities = model.predict_probabilities({name: columns[name] for name in MODALITIES}, batch_size)
    figures = assess(
        columns["labels"],
        probabilities,
        model.emotions,
        split=split,
        seed=seed,
        calibration=calibration,
        baselines=baselines,
    )
    return {**figures, "probabilities": probabilities}


def calibrate_model(model: LMFModel, validation: datasets.Dataset, batch_size: int) -> Calibration:
    """Temperatures and thresholds of a model's heads, from validation rows."""
    columns = column_arrays(validation)
    probabilities = model.predict_probabilities({name: columns[name] for name in MODALITIES}, batch_size)
    return fit_calibration(columns["labels"], probabilities, model.emotions)


def baseline_probabilities(dataset: datasets.DatasetDict, split: str, emotions: Sequence[str]) -> dict[str, np.ndarray]:
    """What the baselines of `evaluation.baselines`, fitted on train and validation, say of a split: name -> `[N, T]`.

    Fitting takes less than a second with IEMOCAP's clips, so that nothing is kept.
    """
    columns = {name: column_arrays(dataset[name]) for name in {"train", "validation", split}}
    share = prevalence(columns["train"]["labels"])
    linear = fit_linear_baseline(columns["train"], columns["validation"], emotions)
    return {
        "prevalence": np.tile(share, (len(dataset[split]), 1)),
        "logistic_regression": linear.predict_probabilities(columns[split]),
    }


def evaluate_run(
    folder: str | Path,
    data_path: str | None = None,
    split: str = "test",
    device: str = "auto",
    *,
    need_calibration: bool = False,
) -> tuple[dict, Path]:
    """Figures of a trained run on any data that have its emotions and feature sizes; writes ``metrics_SPLIT.json``.

    Baselines stand beside them only on the data that the run was trained on.

    Args:
        folder: the run directory.
        data_path: other data than the run's own.
        split: of the data.
        device: where to compute.
        need_calibration: refuse a run that has none.

    Returns:
        The figures, and the file that holds them.

    Raises:
        UserError: the folder is no trained run, or the data do not fit the model.
    """
    run = Run(folder)
    config = run.load_config()
    select_device(device)
    model = run.load_model()
    calibration = None
    if need_calibration or (run.folder / "model" / CALIBRATION_FILE).exists():
        calibration = Calibration.load(run.folder / "model")
    config = dataclasses.replace(config, data_path=data_path or config.data_path, emotions=model.emotions)
    dataset = load_data(config)
    rows = dataset[split]
    gaps = missing_rows(_columns_for(model, rows, config.data_path))
    for modality in model.config.modalities:
        if gaps[modality] == len(rows):
            logger.warning("%s is missing in every clip of %s: the model does without it", modality, split)
    metrics = evaluate_model(
        model,
        rows,
        split,
        config.seed,
        config.training.eval_batch_size,
        calibration=calibration,
        baselines=None if data_path else baseline_probabilities(dataset, split, model.emotions),
    )
    del metrics["probabilities"]
    return metrics, run.write_metrics(metrics, f"metrics_{split}.json")


def _columns_for(model: LMFModel, rows: datasets.Dataset, where: object) -> dict[str, Column]:
    return as_model_takes(column_arrays(rows), model.feature_sizes, model.config.modalities, where)


def _feature_sizes(rows: datasets.Dataset) -> dict[str, int]:
    types = rows.features
    return {"audio": types["audio"].length, "video": types["video"].length, "text": types["text"].feature.length}


def _fit(config: ExperimentConfig, run: Run, dataset: datasets.DatasetDict, resume: bool) -> LMFTrainer:
    training = config.training
    lines = EpochLines(training.epochs, training.monitor)

    def on_epoch(row: dict[str, float]) -> None:
        lines(row)
        if parallel.rank() == 0:  # which holds the folder
            run.check_still_there()

    logs = {"logging_dir": str(run.folder / "visualdl")} if training.visualdl else {}
    trainer = _trainer(
        config, dataset, run.folder / "checkpoints", on_epoch, [VisualDLLogs()] if training.visualdl else [], **logs
    )
    if parallel.rank() != 0:  # other numbers for dropout in every process
        paddle.seed((config.seed + parallel.rank()) % 2**63)
    with lines, save_when_stopped(trainer):
        trainer.fit(resume=resume)
    return trainer


def _trainer(
    config: ExperimentConfig,
    dataset: datasets.DatasetDict,
    checkpoints: Path,
    on_epoch: Callable[[dict[str, float]], None],
    callbacks: Sequence[Any] = (),
    **arguments: Any,
) -> LMFTrainer:
    """Seeds, builds the model, and what trains it; further arguments are PaddleNLP's."""
    emotions, training = config.emotions, config.training
    seed_everything(config.seed)
    model = LMFModel(_feature_sizes(dataset["train"]), emotions, config.model)
    trainable = sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient)
    count = "1 emotion" if len(emotions) == 1 else f"{len(emotions)} emotions"
    clips = " / ".join(f"{len(rows):,} {split}" for split, rows in dataset.items())
    logger.info("%s (%s), %s clips, %s parameters", count, ", ".join(emotions), clips, f"{trainable:,}")
    columns = column_arrays(dataset["train"])
    model.fit_inputs(columns)
    return LMFTrainer(
        LMFModule(model, training, columns["labels"]),
        training_arguments(checkpoints, training, seed=config.seed % 2**32, **arguments),
        train_dataset=dataset["train"],
        validation_dataset=dataset["validation"],
        compute_metrics=lambda logits, labels: _validation_figures(logits, labels, emotions, training.monitor),
        callbacks=[OnEpoch(on_epoch), *callbacks],
    )


def _validation_figures(logits: np.ndarray, labels: np.ndarray, emotions: list[str], monitor: str) -> dict[str, float]:
    """Means over emotions under their plain names, the monitored one among them, and each emotion's weighted F1."""
    # those of probabilities take longer, and are only looked at where one is monitored
    compute = all_figures if monitor in PROBABILITY_FIGURES else multitask_figures
    figures = compute(labels, present_probability(logits), emotions)
    shown = {name: figures["mean"][name] for name in dict.fromkeys([*FIGURES, monitor]) if name in figures["mean"]}
    found = {name: value for name, value in shown.items() if value is not None}
    for emotion, values in figures["emotions"].items():
        if values["weighted_f1"] is not None:
            found[f"{emotion}_weighted_f1"] = values["weighted_f1"]
    return found


def _check_labels(dataset: datasets.DatasetDict, emotions: list[str], monitor: str) -> None:
    labels = column_array(dataset["train"], "labels")
    for t, emotion in enumerate(emotions):
        known = labels[:, t][labels[:, t] != NOT_ANNOTATED]
        present = int((known == 1).sum())
        if present in (0, len(known)):
            raise TrainingError(
                f"{emotion} must be present in some clips of train and absent in others, but is present in {present} of {len(known)}. "
                "Choose others with --emotions."
            )
    validation = column_array(dataset["validation"], "labels")
    if not (validation != NOT_ANNOTATED).any():
        raise TrainingError(
            "validation must have annotated clips, so that the best epoch can be chosen, but has none. Annotate some."
        )
    figures = all_figures(validation, np.zeros(validation.shape), emotions)["mean"]
    if figures.get(monitor, 0) is None:  # the labels alone decide what is defined
        raise TrainingError(
            f"training.monitor must be a figure that the labels of validation define, but {monitor} is undefined for every emotion: "
            "each is present in all or in none of the clips. Choose --training.monitor loss, or other splits."
        )
    if not (validation != NOT_ANNOTATED).any(axis=0).all():
        lacking = [e for t, e in enumerate(emotions) if not (validation[:, t] != NOT_ANNOTATED).any()]
        logger.warning("validation has no label for %s: the best epoch is chosen without", ", ".join(lacking))
    unseen = [e for t, e in enumerate(emotions) if (validation[:, t] == 0).any() and not (validation[:, t] == 1).any()]
    if unseen:
        logger.warning(
            "%s in no clip of validation: the best epoch is chosen without knowing whether it is found, and nothing is calibrated",
            f"{', '.join(unseen)} {'is' if len(unseen) == 1 else 'are'} present",
        )


def _check_resumable(run: Run, config: ExperimentConfig, origin: dict[str, str], force: bool) -> None:
    if run.is_complete():
        raise RunError(
            f"{run.folder}: must be an unfinished run to resume, but is complete. Evaluate it, or --overwrite it."
        )
    run.check_same_settings(config)
    if not force:
        run.check_origin(origin)


class EpochLines:
    """One line per epoch; on a terminal, with a bar that shows the time left."""

    def __init__(self, epochs: int, monitor: str) -> None:
        """Takes the number of epochs and the figure that picks the best one."""
        self._epochs, self._monitor = epochs, monitor
        self._bar: Any = None

    def __enter__(self) -> EpochLines:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._epochs, unit="epoch", leave=False, dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, row: dict[str, float]) -> None:
        """Prints the history's newest row."""
        parts = [f"epoch {row['epoch']:>3}/{self._epochs}"]
        shown = {
            "train_loss": "train loss",
            "validation_loss": "validation loss",
            "validation_weighted_f1": "weighted F1",
        }
        shown.setdefault(f"validation_{self._monitor}", self._monitor)
        parts += [f"{text} {row[name]:.4f}" for name, text in shown.items() if name in row]
        if self._bar is not None:
            self._bar.clear()
        logger.info("  ".join(parts) + ("  best" if row.get("best") else ""))
        if self._bar is not None:
            self._bar.n = row["epoch"]
            self._bar.refresh()
