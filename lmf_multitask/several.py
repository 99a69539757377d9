"""Trainings that belong together: one per emotion (the paper's separate models), one per seed, or both; and their results."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.loading import load_data, missing_in_train, without
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS, emotion_names
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.launcher import train_all
from lmf_multitask.runs import CONFIG_FILE, REPORT_FILE, ROBUSTNESS_FILE, ROBUSTNESS_PICTURE, Run

logger = logging.getLogger(__name__)

SEEDS_FILE = "seeds.json"
Mode = Literal["multitask", "per_emotion"]


@dataclass(frozen=True)
class Outcome:
    """What came of several trainings.

    Attributes:
        results: content of ``metrics.json`` of each seed (under None where no seeds were given); of complete runs only.
        failures: name -> reason, in one line.
        summary: what the seeds say together, see `statistics.seed_summary`; None without seeds, or while none is complete.
        reports: the pages that were written.
    """

    results: dict[int | None, dict[str, Any]]
    failures: dict[str, str]
    summary: dict[str, Any] | None
    reports: list[Path]


def train_several(
    mode: Mode,
    base: ExperimentConfig,
    settings_for: Callable[[str], ExperimentConfig],
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    report: bool = True,
) -> Outcome:
    """Trains in ``folder/EMOTION``, ``folder/seedN`` or ``folder/seedN/EMOTION``, each in a process of its own.

    What is complete already is kept, what is unfinished is gone on with, and the failure of one does not stop the others.
    The models of the emotions are joined in ``metrics.json`` and ``predictions.csv`` beside them; seeds are summed up in
    ``seeds.json``.

    Args:
        mode: one model for all emotions, or one for each.
        base: which data, and which emotions (None: all in the data); in ``multitask`` all settings.
        settings_for: an emotion's name -> the settings of its training, in ``per_emotion``.
        folder: the parent of the run directories.
        seeds: instead of the settings' own; None takes those.
        jobs: how many trainings run at a time; None takes one per core.
        overwrite: train anew what is already there.
        report: also write the pages.

    Raises:
        UserError: the data, the settings or the folder do not allow it; nothing has been started then.
    """
    dataset = load_data(base)
    emotions, absent = emotion_names(dataset["train"]), missing_in_train(dataset, base.model.modalities)
    _check_parent(folder)
    places = {seed: folder if seed is None else folder / f"seed{seed}" for seed in seeds or [None]}
    experiments: dict[str, ExperimentConfig] = {}
    if mode == "per_emotion":
        _tell_left_out(base, emotions)
        for seed, place in places.items():
            for emotion in emotions:
                config = without(settings_for(emotion), absent)
                config = dataclasses.replace(config, seed=config.seed if seed is None else seed)
                _add(experiments, folder, place / emotion, config, [emotion])
    else:
        for seed, place in places.items():
            config = dataclasses.replace(without(base, absent), seed=base.seed if seed is None else seed)
            _add(experiments, folder, place, config, emotions)
    # separate models get one page together
    failures = train_all(experiments, jobs, overwrite, report=report and mode == "multitask")
    if mode == "per_emotion":
        results = {seed: join_runs(place, report) for seed, place in places.items()}
    else:
        results = {seed: Run(place).finished_metrics() for seed, place in places.items()}
    results = {seed: metrics for seed, metrics in results.items() if metrics is not None}
    pages = [places[seed] / REPORT_FILE for seed in results if (places[seed] / REPORT_FILE).is_file()]
    complete = [metrics for metrics in results.values() if len(metrics["emotions"]) == len(emotions)]
    summary = write_seed_summary(folder, complete) if seeds and complete else None
    return Outcome(results, failures, summary, pages)


def join_runs(folder: Path, report: bool = False) -> dict[str, Any] | None:
    """Joins the complete per-emotion runs in a folder: writes metrics.json, predictions.csv and, if asked, the page there.

    Returns:
        The content of metrics.json; None if no run is complete.
    """
    if not any(Run(path.parent).is_complete() for path in folder.glob(f"*/{CONFIG_FILE}")):
        return None
    from lmf_multitask.reporting import assess_runs, write_page

    found, parent = assess_runs(folder, complete_only=True, page=report), Run(folder)
    for name in (ROBUSTNESS_FILE, ROBUSTNESS_PICTURE):  # of the runs that were here before
        (folder / name).unlink(missing_ok=True)
    parent.write_predictions(found.ids, found.labels, found.probabilities, found.emotions)
    parent.write_metrics(found.metrics)
    if report:
        write_page(found, folder)
    return found.metrics


def write_seed_summary(folder: Path, results: Sequence[dict[str, Any]], name: str = SEEDS_FILE) -> dict[str, Any]:
    """Sums up the figures of several seeds; writes seeds.json into their parent and returns its content."""
    summary = seed_summary(results)
    Run(folder).write_metrics(summary, name)
    return summary


def _add(
    experiments: dict[str, ExperimentConfig], parent: Path, folder: Path, config: ExperimentConfig, emotions: list[str]
) -> None:
    name = str(folder.relative_to(parent))
    experiments[name] = dataclasses.replace(config, output_dir=str(folder)).resolved(emotions)


def _tell_left_out(base: ExperimentConfig, emotions: list[str]) -> None:
    lacking = [emotion for emotion in IEMOCAP_EMOTIONS if emotion not in emotions]
    if base.emotions is None and 0 < len(lacking) < len(IEMOCAP_EMOTIONS):
        logger.info("left out, since the data have no labels for them: %s", ", ".join(lacking))


def _check_parent(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    if Run(folder).is_run():
        raise RunError(
            f"{folder}: must be a folder for several runs, but is a run itself. Choose another --output_dir."
        )
