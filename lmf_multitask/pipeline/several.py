"""Trainings that belong together: one per emotion (the paper's separate models), per fold, per seed, or all of these."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lmf_multitask.data.loading import LoadedData, missing_in_train
from lmf_multitask.data.schema import IEMOCAP_EMOTIONS
from lmf_multitask.data.targets import Target
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.metrics import all_tasks
from lmf_multitask.evaluation.statistics import seed_summary
from lmf_multitask.files import write_json
from lmf_multitask.pipeline.assessing import assess_predictions, write_joined
from lmf_multitask.pipeline.cross_validation import join_folds
from lmf_multitask.pipeline.launcher import train_all
from lmf_multitask.pipeline.layout import (
    CONFIG_FILE,
    REPORT_FILE,
    ROBUSTNESS_FILE,
    ROBUSTNESS_PLOT,
    check_no_links,
    check_run_names,
    fold_folders,
    seed_folders,
)
from lmf_multitask.pipeline.reporting import config_facts, write_report_of
from lmf_multitask.pipeline.runs import Run, runs_in
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.pipeline.stages import predict, read_data, restore, without

logger = logging.getLogger(__name__)

SEEDS_FILE = "seeds.json"
Mode = Literal["multitask", "per_emotion"]


@dataclass(frozen=True)
class Outcome:
    """Results of several trainings.

    Attributes:
        results: content of ``metrics.json`` per seed (under None if no seeds were given); of complete runs only.
        failures: name -> reason, in one line.
        summary: statistics over seeds, see `statistics.seed_summary`; None without seeds, or while none is complete.
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
    """Trains in ``folder/EMOTION``, ``folder/foldN``, ``folder/seedN`` or, of several of these, ``folder/seedN/foldN/EMOTION``.

    Each training is a process of its own. Complete runs are kept, unfinished ones are resumed, and a failure does not stop the
    others. Per-emotion models are joined, and folds pooled, in ``metrics.json`` and ``predictions.csv`` of their parent; seeds
    are summarised in ``seeds.json``.

    Args:
        mode: one model for all emotions, or one for each.
        base: the data, the emotions (None: all in the data) and the folds (``fold`` is None: all of them); in ``multitask``
            all settings.
        settings_for: name of an emotion -> settings of its training, in ``per_emotion``.
        folder: the parent of the run directories.
        seeds: instead of the settings' own; None uses those.
        jobs: how many trainings run at a time; None starts one per core.
        overwrite: replace the runs that exist.
        report: also write the reports.

    Raises:
        UserError: the data, the settings or the folder do not allow it; nothing has been started then.
    """
    _check_parent(folder)
    in_folds = base.folds is not None and base.fold is None
    data = read_data(dataclasses.replace(base, fold=1) if in_folds else base)
    numbers: list[int | None] = [*range(1, len(data.folds or ()) + 1)] if in_folds else [None]
    absent = missing_in_train(data.dataset, base.model.modalities)
    places: dict[int | None, Path] = {seed: folder / f"seed{seed}" for seed in seeds or ()} or {None: folder}
    for place in places.values():
        outdated = [path.name for number, path in fold_folders(place).items() if number not in numbers]
        if outdated:
            raise RunError(
                f"{place}: must hold the folds of this cross-validation only, but holds {outdated[0]}. Remove it, or choose "
                "another --output_dir."
            )
    experiments: dict[str, ExperimentConfig] = {}

    def add(
        place: Path, config: ExperimentConfig, seed: int | None, fold: int | None, targets: Sequence[Target]
    ) -> None:
        check_no_links(folder, place)
        config = without(dataclasses.replace(config, output_dir=str(place)), absent)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        if in_folds:  # the same folds, whatever emotions a model learns
            config = dataclasses.replace(config, fold=fold, stratify=base.stratify or list(map(str, data.targets)))
        experiments[str(place.relative_to(folder))] = config.resolved(targets)

    if mode == "per_emotion":
        check_run_names(data.emotions)
        _log_unlabelled(base, data.emotions)
    for seed, place in places.items():
        for fold, part in _parts(place, numbers):
            if mode == "per_emotion":
                for target in data.targets:
                    add(part / target.name, settings_for(target.name), seed, fold, [target])
            else:
                add(part, base, seed, fold, data.targets)
    # per-emotion models and folds get one report together
    failures = train_all(experiments, jobs, overwrite, report=report and mode == "multitask" and not in_folds)
    found: dict[int | None, dict[str, Any] | None] = {}
    for seed, place in places.items():
        parts = [part for _, part in _parts(place, numbers)]
        if mode == "per_emotion":
            joined = [join_runs(part, report and not in_folds, None if in_folds else data) for part in parts]
        else:
            joined = [Run(part).metrics() for part in parts]
        found[seed] = join_folds(place, joined, data.targets, report) if in_folds else joined[0]
    results = {seed: metrics for seed, metrics in found.items() if metrics is not None}
    pages = [places[seed] / REPORT_FILE for seed in results if (places[seed] / REPORT_FILE).is_file()]
    complete = [metrics for metrics in results.values() if len(all_tasks(metrics)) == len(data.targets)]
    summary = write_seed_summary(folder, complete) if seeds and complete else None
    if summary is not None and report:
        pages.append(report_seeds(folder))
    return Outcome(results, failures, summary, pages)


def _parts(place: Path, numbers: Sequence[int | None]) -> list[tuple[int | None, Path]]:
    """Number and folder of each fold; the folder itself without folds."""
    return [(number, place if number is None else place / f"fold{number}") for number in numbers]


def join_runs(folder: Path, report: bool = False, data: LoadedData | None = None) -> dict[str, Any] | None:
    """Joins the complete per-emotion runs in a folder: metrics.json, predictions.csv and, if wanted, the report there.

    Returns:
        The content of metrics.json; None if no run is complete.
    """
    if not any(Run(path.parent).is_complete() for path in folder.glob(f"*/{CONFIG_FILE}")):
        return None
    trained = restore(folder, complete_only=True, data=data)
    found = assess_predictions(trained, predict(trained, "test"))
    for name in (ROBUSTNESS_FILE, ROBUSTNESS_PLOT):  # of earlier runs
        (folder / name).unlink(missing_ok=True)
    write_joined(Run(folder), found)
    if report:
        write_report_of(trained, found, folder)
    return found.metrics


def write_seed_summary(folder: Path, results: Sequence[dict[str, Any]], name: str = SEEDS_FILE) -> dict[str, Any]:
    """Writes mean, standard deviation and interval over seeds into their parent; returns them."""
    summary = seed_summary(results)
    write_json(folder / name, summary)
    return summary


def report_seeds(folder: Path, output_dir: str | Path | None = None, *, pdf: bool = False) -> Path:
    """Writes the page of several seeds; no model is read.

    Args:
        folder: the parent of the seeds.
        output_dir: where the page goes; None takes the folder itself.
        pdf: write the plots as PDF, too.

    Raises:
        RunError: no seed is complete.
    """
    places = seed_folders(folder)
    results = {place.name: metrics for place in places.values() if (metrics := Run(place).metrics()) is not None}
    if not results:
        raise RunError(
            f"{folder}: must hold a complete seed, but {', '.join(p.name for p in places.values())} are not. Train them."
        )
    most = max(len(all_tasks(metrics)) for metrics in results.values())  # per-emotion runs may be incomplete
    results = {name: metrics for name, metrics in results.items() if len(all_tasks(metrics)) == most}
    first = folder / next(iter(results))
    runs = runs_in(next(iter(fold_folders(first).values()), first))
    facts = config_facts({run.folder.name: dataclasses.replace(run.load_config(), fold=None) for run in runs})
    facts["Model"] = facts["Model"].rpartition("; seed")[0] + "."
    from lmf_multitask.evaluation.report import write_seeds  # with matplotlib, half a second of import

    summary = seed_summary(list(results.values()))
    return write_seeds(summary, results, facts, Path(output_dir or folder).expanduser(), pdf=pdf)


def _log_unlabelled(base: ExperimentConfig, emotions: list[str]) -> None:
    lacking = [emotion for emotion in IEMOCAP_EMOTIONS if emotion not in emotions]
    if base.wanted is None and 0 < len(lacking) < len(IEMOCAP_EMOTIONS):
        logger.info("skipped, since the data have no labels for them: %s", ", ".join(lacking))


def _check_parent(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    if Run(folder).exists():
        raise RunError(
            f"{folder}: must be a folder for several runs, but is a run itself. Choose another --output_dir."
        )
