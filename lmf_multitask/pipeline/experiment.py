"""One training from settings to a complete run directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.evaluation.decisions import exclusive_rows
from lmf_multitask.evaluation.metrics import METRICS, all_tasks, metrics_of, value_of
from lmf_multitask.pipeline.assessing import assess_predictions, calibrate, write_run
from lmf_multitask.pipeline.layout import CHECKPOINTS_FOLDER, LABEL_COLUMN, LOG_FILE, VISUALDL_FOLDER
from lmf_multitask.pipeline.progress import Progress, epoch_line, logging_to_file
from lmf_multitask.pipeline.reporting import write_report_of
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.pipeline.stages import Prepared, Trained, load, predict, restore
from lmf_multitask.runtime import log_to_stderr, quiet_imports, seed_everything, surroundings
from lmf_multitask.tasks import predictions
from lmf_multitask.training import parallel
from lmf_multitask.training.arguments import training_arguments
from lmf_multitask.training.callbacks import OnEpoch, VisualDLLogs, resume_hint, save_when_stopped
from lmf_multitask.training.module import LMFModule
from lmf_multitask.training.trainer import LMFTrainer

with quiet_imports():
    import paddle

    from lmf_multitask.models.lmf import LMFModel

logger = logging.getLogger(__name__)

START, RESUME, COMPLETE = "start", "resume", "complete"
EpochFunction = Callable[[dict[str, float]], None]


def run_experiment(
    config: ExperimentConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    force: bool = False,
    report: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains one model on several tasks, tests its best epoch, and writes the run directory.

    Args:
        config: every setting.
        overwrite: replace a run that is already in the directory.
        resume: continue an unfinished run from its last complete checkpoint; with the same settings and data the result is
            that of an uninterrupted run. Start it if it does not exist; write a missing report if it is complete.
        force: resume although the data or the versions changed.
        report: also write report.html and plots/.
        quiet: show no progress on stderr; warnings are shown.

    Returns:
        The content of ``metrics.json``; empty in all but the first of several processes.

    Raises:
        UserError: the data, the settings or the directory do not allow it; nothing has been written then.
        TrainingError: the training failed; the run directory is left unfinished.
    """
    run = Run(config.run_directory())
    first = parallel.rank() == 0
    with log_to_stderr(logging.WARNING if quiet or not first else logging.INFO):
        if first:
            run.check_free(overwrite, resume)
        prepared = load(config)
        if parallel.world_size() > 1:
            # refuses settings that several processes cannot use
            training_arguments(run.folder / CHECKPOINTS_FOLDER, prepared.config.training)
            parallel.initialize()
        if not first:
            plan = parallel.broadcast(None)
            if plan != COMPLETE:
                _fit(prepared, run, plan == RESUME)
            return {}
        with run.locked():
            plan = _plan(prepared, run, resume, force)
            if plan == COMPLETE:
                parallel.broadcast(plan)
                return _finish(prepared, run, report)
            with logging_to_file(run.folder / LOG_FILE), resume_hint(run.folder):
                parallel.broadcast(plan)
                return _train(prepared, run, plan == RESUME, report)


def validate_experiment(config: ExperimentConfig, folder: Path, on_epoch: EpochFunction) -> Sequence[dict[str, float]]:
    """Trains and validates as `run_experiment` does, to the bit, and stops there.

    The test split is dropped before anything reads it; no model and no metrics are written.

    Args:
        config: every setting; its ``output_dir`` is not used.
        folder: where PaddleNLP may write.
        on_epoch: called with the row of the history after each epoch.

    Returns:
        The history, one dict per epoch.

    Raises:
        UserError: the data or the settings do not allow it.
        TrainingError: the training failed.
    """
    prepared = load(config)
    del prepared.data.dataset["test"]
    # the weights are not needed: neither those of the best epoch, nor for resuming
    return _trainer(prepared, folder, on_epoch, save_strategy="no", load_best_model_at_end=False).fit()


def _plan(prepared: Prepared, run: Run, resume: bool, force: bool) -> str:
    """Starts, continues or keeps the run in the folder."""
    config = prepared.config
    origin = {
        "data": prepared.data.fingerprint,
        LABEL_COLUMN: str(prepared.data.label_column),
        **surroundings(),
        "processes": str(parallel.world_size()),
    }
    plan = START
    if resume and run.exists():
        longer = run.check_resumable(config, origin, force)
        if run.is_complete() and not longer:
            return COMPLETE
        plan = RESUME
    run.start(config, origin, resume=plan == RESUME)
    return plan


def _finish(prepared: Prepared, run: Run, report: bool) -> dict[str, Any]:
    """Writes what a complete run lacks."""
    metrics = run.metrics()
    assert metrics is not None
    if report and not run.has_report():
        trained = restore(run.folder, device=prepared.config.device, data=prepared.data)
        write_report_of(trained, assess_predictions(trained, predict(trained, "test")), run.folder)
    else:
        logger.info("%s is complete already: nothing is left to do", run.folder)
    return metrics


def _train(prepared: Prepared, run: Run, resume: bool, report: bool) -> dict[str, Any]:
    for note in prepared.data.notes:
        logger.info("data: %s", note)
    for line in prepared.data.report.splitlines():
        logger.debug(line)
    logger.debug("settings:\n%s", prepared.config.to_yaml())
    started = time.monotonic()
    trained = _fit(prepared, run, resume)
    trained, validation = calibrate(trained, predict(trained, "validation"))
    found = assess_predictions(trained, predict(trained, "test"))
    write_run(run, trained, found)
    if report:
        write_report_of(trained, found, run.folder, validation=validation)
    logger.debug("done in %.1f seconds", time.monotonic() - started)
    return found.metrics


# -- fit


def _fit(prepared: Prepared, run: Run, resume: bool) -> Trained:
    training = prepared.config.training

    def on_epoch(row: dict[str, float]) -> None:
        progress.say(epoch_line(row, training.epochs, training.monitor))
        progress.move_to(int(row["epoch"]))
        if parallel.rank() == 0:  # which has locked the folder
            run.check_not_removed()

    logs: dict[str, Any] = {"logging_dir": str(run.folder / VISUALDL_FOLDER)} if training.visualdl else {}
    with Progress(training.epochs, "epoch") as progress:
        trainer = _trainer(
            prepared, run.folder / CHECKPOINTS_FOLDER, on_epoch, [VisualDLLogs()] if training.visualdl else [], **logs
        )
        if parallel.rank() > 0:  # other random numbers for dropout in every process
            paddle.seed((prepared.config.seed + parallel.rank()) % 2**63)
        with save_when_stopped(trainer):
            history = trainer.fit(resume=resume)
    model = trainer.module.trained
    labels = np.asarray(column_arrays(prepared.data.dataset["train"])["labels"])
    binary = [task.kind == "binary" for task in prepared.tasks]
    model.exclusive = exclusive_rows(labels[:, binary]) is not None
    model.non_finite = prepared.config.data.non_finite
    return Trained(
        run.folder.name or str(run.folder),
        [prepared.config],
        [model],
        prepared.data,
        prepared.config.data_path,
        [run],
        history=history,
    )


def _trainer(
    prepared: Prepared, checkpoints: Path, on_epoch: EpochFunction, callbacks: Sequence[Any] = (), **arguments: Any
) -> LMFTrainer:
    """Seeds, and builds the model and its trainer; `arguments` are PaddleNLP's."""
    config, data, training = prepared.config, prepared.data, prepared.config.training
    seed_everything(config.seed)
    model = LMFModel(data.inputs, prepared.tasks, config.model)
    trainable = sum(int(np.prod(w.shape)) for w in model.weights().values() if not w.stop_gradient)
    what = "emotion" if all(task.kind == "binary" for task in prepared.tasks) else "task"
    count = f"1 {what}" if len(data.emotions) == 1 else f"{len(data.emotions)} {what}s"
    clips = " / ".join(f"{len(rows):,} {split}" for split, rows in data.dataset.items())
    logger.info("%s (%s), %s clips, %s parameters", count, ", ".join(data.emotions), clips, f"{trainable:,}")
    columns = column_arrays(data.dataset["train"])
    model.fit_statistics(columns)
    return LMFTrainer(
        LMFModule(model, training, np.asarray(columns["labels"])),
        training_arguments(checkpoints, training, seed=config.seed % 2**32, **arguments),
        train_dataset=data.dataset["train"],
        validation_dataset=data.dataset["validation"],
        compute_metrics=lambda outputs, labels: validation_metrics(model, outputs, labels, training.monitor),
        callbacks=[OnEpoch(on_epoch), *callbacks],
    )


def validation_metrics(model: LMFModel, outputs: np.ndarray, labels: np.ndarray, monitor: str) -> dict[str, float]:
    """Means of the headline metrics, the monitored one, and those of each task that `Metric.per_epoch` marks, where defined."""
    predicted = predictions(outputs, model.tasks)
    found = metrics_of(labels, predicted, model.tasks)
    shown = {key: value for key, value in found["mean"].items() if METRICS[key].headline}
    if monitor != "loss":
        shown[monitor] = value_of(monitor, labels, predicted, model.tasks)
    for name, values in all_tasks(found).items():
        shown.update({f"{name}_{key}": values[key] for key in values if key in METRICS and METRICS[key].per_epoch})
    return {name: value for name, value in shown.items() if value is not None}
