"""One training from settings to a complete run directory."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.schema import MODALITIES, NOT_ANNOTATED, column_array, column_arrays, emotion_names, fingerprint
from lmf_multitask.errors import DataError, RunError, TrainingError
from lmf_multitask.evaluation.metrics import multitask_figures, present_probability
from lmf_multitask.evaluation.predictions import Predictions, join_predictions
from lmf_multitask.models.lmf import LMFModel, check_size
from lmf_multitask.runs import Run, runs_in
from lmf_multitask.runtime import seed_everything, select_device, surroundings
from lmf_multitask.training.module import LMFModule
from lmf_multitask.training.trainer import LMFTrainer, VisualDLLogs, training_arguments

from lmf_multitask.data.loading import load_data  # isort: skip - paddlenlp must be imported before datasets

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
        The content of ``metrics.json``.

    Raises:
        UserError: the data, the settings or the directory do not allow it; nothing has been written then.
        TrainingError: the training broke down; the run directory is left unfinished.
    """
    run = Run(config.run_directory())
    run.check_free(overwrite, resume)
    select_device(config.device)
    dataset = load_data(config)
    emotions = emotion_names(dataset["train"])
    _check_labels(dataset, emotions)
    check_size(_feature_sizes(dataset["train"]), len(emotions), config.model)
    config = config.resolved(emotions)
    origin = {"data": fingerprint(dataset), **surroundings()}
    with run.locked():
        resume = resume and run.is_run()
        if resume:
            _check_resumable(run, config, origin, force)
        run.start(config, origin, keep=resume)
        with run.logging_to_file(), _told_how_to_go_on(run):
            return _train_and_test(config, run, dataset, resume)


def _train_and_test(config: ExperimentConfig, run: Run, dataset: datasets.DatasetDict, resume: bool) -> dict[str, Any]:
    for line in dataset["train"].info.description.splitlines():
        logger.debug(line)
    logger.debug("settings:\n%s", config.to_yaml())
    started = time.monotonic()
    with paddle.utils.unique_name.guard():  # names that a resumed optimiser finds again
        trainer = _fit(config, run, dataset, resume)
    model = trainer.model.model
    predictions = predict(model, dataset["test"], config.training.eval_batch_size)
    metrics = predictions.metrics("test", config.seed)
    run.check_still_there()
    run.write_history(trainer.history)
    model.save_pretrained(run.folder / "model")
    run.write_predictions(predictions)
    run.write_metrics(metrics)
    logger.debug("done in %.1f seconds", time.monotonic() - started)
    return metrics


@contextmanager
def _told_how_to_go_on(run: Run) -> Iterator[None]:
    """Says what is left when the user or the system stops the training; SIGTERM ends it with status 143."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:  # Paddle has put a handler of its own there, which just ends the process
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        logger.warning(
            "stopped; finished epochs are saved. To go on, give the same command with --resume: %s", run.folder
        )
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def predict(model: LMFModel, rows: datasets.Dataset, batch_size: int) -> Predictions:
    """A model's probabilities for every clip of a split, beside its labels."""
    columns = column_arrays(rows)
    probabilities = model.predict_probabilities({name: columns[name] for name in MODALITIES}, batch_size)
    return Predictions(list(rows["id"]), model.emotions, columns["labels"], probabilities)


def evaluate_runs(
    folder: str | Path, data_path: str | None = None, split: str = "test", device: str = "auto"
) -> tuple[dict[str, Any], Path]:
    """Figures of a trained run, or of the per-emotion runs in a folder, on any data with their emotions and feature sizes.

    Writes ``metrics_SPLIT.json`` into each run directory, and into the parent of per-emotion runs.

    Returns:
        The figures, and the file that holds them.

    Raises:
        UserError: the folder holds no trained run, or the data do not fit the model.
    """
    select_device(device)
    name, parent, parts, seeds = f"metrics_{split}.json", Run(folder), [], set()
    for run in runs_in(folder):
        config = run.load_config()
        predictions = _evaluate_run(run, dataclasses.replace(config, data_path=data_path or config.data_path), split)
        metrics = predictions.metrics(split, config.seed)
        path = run.write_metrics(metrics, name)
        parts.append(predictions)
        seeds.add(config.seed)
    if run.folder == parent.folder:
        return metrics, path
    joined = join_predictions(parts).metrics(split, seeds.pop() if len(seeds) == 1 else None)
    metrics = {"mode": "per_emotion", **joined}
    return metrics, parent.write_metrics(metrics, name)


def _evaluate_run(run: Run, config: ExperimentConfig, split: str) -> Predictions:
    model = run.load_model()
    rows = load_data(dataclasses.replace(config, emotions=model.emotions))[split]
    sizes = _feature_sizes(rows)
    if sizes != model.feature_sizes:
        raise DataError(
            f"{config.data_path}: must have the feature sizes of the model, {model.feature_sizes}, but has {sizes}."
        )
    return predict(model, rows, config.training.eval_batch_size)


def _feature_sizes(rows: datasets.Dataset) -> dict[str, int]:
    types = rows.features
    return {"audio": types["audio"].length, "video": types["video"].length, "text": types["text"].feature.length}


def _fit(config: ExperimentConfig, run: Run, dataset: datasets.DatasetDict, resume: bool) -> LMFTrainer:
    emotions = config.emotions
    seed_everything(config.seed)
    model = LMFModel(_feature_sizes(dataset["train"]), emotions, config.model)
    trainable = sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient)
    count = "1 emotion" if len(emotions) == 1 else f"{len(emotions)} emotions"
    clips = " / ".join(f"{len(rows):,} {split}" for split, rows in dataset.items())
    logger.info("%s (%s), %s clips, %s parameters", count, ", ".join(emotions), clips, f"{trainable:,}")
    training = config.training
    lines = EpochLines(training.epochs, training.monitor)

    def on_epoch(row: dict[str, float]) -> None:
        lines(row)
        run.check_still_there()

    logs = {"logging_dir": str(run.folder / "visualdl")} if training.visualdl else {}
    trainer = LMFTrainer(
        LMFModule(model, training),
        training_arguments(run.folder / "checkpoints", training, seed=config.seed % 2**32, **logs),
        train_dataset=dataset["train"],
        validation_dataset=dataset["validation"],
        compute_metrics=lambda logits, labels: _validation_figures(logits, labels, emotions),
        patience=training.patience,
        row_order=training.row_order,
        on_epoch=on_epoch,
        callbacks=[VisualDLLogs()] if training.visualdl else [],
    )
    with lines:
        trainer.fit(resume=resume)
    return trainer


def _validation_figures(logits: np.ndarray, labels: np.ndarray, emotions: list[str]) -> dict[str, float]:
    """Means over emotions under their plain names, and each emotion's weighted F1."""
    figures = multitask_figures(labels, present_probability(logits), emotions)
    found = {name: value for name, value in figures["mean"].items() if value is not None}
    for emotion, values in figures["emotions"].items():
        if values["weighted_f1"] is not None:
            found[f"{emotion}_weighted_f1"] = values["weighted_f1"]
    return found


def _check_labels(dataset: datasets.DatasetDict, emotions: list[str]) -> None:
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
    if not (validation != NOT_ANNOTATED).any(axis=0).all():
        lacking = [e for t, e in enumerate(emotions) if not (validation[:, t] != NOT_ANNOTATED).any()]
        logger.warning("validation has no label for %s: the best epoch is chosen without", ", ".join(lacking))


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
