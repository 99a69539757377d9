"""The paper's separate models: one training per emotion, each with that emotion's published settings, and one result."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.loading import load_data
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS, emotion_names
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.predictions import join_predictions
from lmf_multitask.launcher import train_all
from lmf_multitask.runs import CONFIG_FILE, Run, runs_in

logger = logging.getLogger(__name__)


def train_per_emotion(
    base: ExperimentConfig,
    settings_for: Callable[[str], ExperimentConfig],
    folder: Path,
    jobs: int | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """Trains a model for each emotion in ``folder/EMOTION`` and joins their figures in ``folder/metrics.json``.

    What is complete already is kept, what is unfinished is gone on with, and the failure of one does not stop the others.

    Args:
        base: which data, and which emotions (None: all in the data).
        settings_for: an emotion's name -> the settings of its training.
        folder: the parent of the run directories.
        jobs: how many trainings run at a time; None takes one per core.
        overwrite: train anew what is already there.

    Returns:
        The joined figures of all complete runs in the folder (None if there is none), and what failed: emotion -> reason.

    Raises:
        UserError: the data, the settings or the folder do not allow it; nothing has been started then.
    """
    emotions = emotion_names(load_data(base)["train"])
    lacking = [emotion for emotion in IEMOCAP_EMOTIONS if emotion not in emotions]
    if base.emotions is None and lacking and len(lacking) < len(IEMOCAP_EMOTIONS):
        logger.info("left out, since the data have no labels for them: %s", ", ".join(lacking))
    _check_parent(folder)
    experiments = {
        emotion: dataclasses.replace(settings_for(emotion), output_dir=str(folder / emotion)).resolved([emotion])
        for emotion in emotions
    }
    failures = train_all(experiments, jobs, overwrite)
    return join_runs(folder), failures


def join_runs(folder: Path) -> dict[str, Any] | None:
    """Joins the complete runs in a folder: writes metrics.json and predictions.csv there and returns the figures."""
    started = any(folder.glob(f"*/{CONFIG_FILE}"))
    complete = [run for run in runs_in(folder) if run.is_complete()] if started else []
    if not complete:
        return None
    seeds = {run.load_config().seed for run in complete}
    predictions = join_predictions([run.load_predictions() for run in complete])
    metrics = {"mode": "per_emotion", **predictions.metrics("test", seeds.pop() if len(seeds) == 1 else None)}
    parent = Run(folder)
    parent.write_predictions(predictions)
    parent.write_metrics(metrics)
    return metrics


def _check_parent(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    if Run(folder).is_run():
        raise RunError(
            f"{folder}: must be a folder for one run per emotion, but is a run itself. Choose another --output_dir."
        )
