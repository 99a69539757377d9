"""The folds of a cross-validation together: pooled out-of-fold predictions, their metrics, and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.assessment import Assessment, assess
from lmf_multitask.evaluation.decisions import Decisions
from lmf_multitask.evaluation.metrics import all_tasks
from lmf_multitask.evaluation.predictions import read_predictions
from lmf_multitask.evaluation.statistics import fold_summary
from lmf_multitask.files import MANIFEST
from lmf_multitask.pipeline.assessing import write_joined, write_split
from lmf_multitask.pipeline.layout import (
    LINEAR,
    LINEAR_FILES,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    fold_folders,
)
from lmf_multitask.pipeline.reporting import config_facts, data_fact, evaluate_run, learning_curves
from lmf_multitask.pipeline.runs import Run, runs_in
from lmf_multitask.tasks import make_tasks

_MOST_CURVES = 12
"""With more trainings the report shows no learning curves."""


def join_folds(
    folder: Path, results: Sequence[Mapping[str, Any] | None], tasks: Sequence[object], report: bool = False
) -> dict[str, Any] | None:
    """Pools the folds in a folder: writes metrics.json, predictions.csv and, if wanted, the report there.

    Args:
        folder: the parent of the folds.
        results: content of metrics.json of each fold; None if it has none.
        tasks: that each must have to be complete.
        report: also write the report.

    Returns:
        The content of metrics.json; None, without the files of an earlier training, if a fold is not complete.
    """
    if any(one is None or len(all_tasks(one)) < len(tasks) for one in results):
        for name in (METRICS_FILE, PREDICTIONS_FILE, *LINEAR_FILES, MANIFEST, REPORT_FILE):
            (folder / name).unlink(missing_ok=True)
        return None
    found = pooled([_written(place) for place in fold_folders(folder).values()], folder)
    write_joined(Run(folder), found)
    if report:
        report_folds(folder, found=found)
    return found.metrics


def evaluate_folds(folder: Path, device: str, output_dir: Path) -> tuple[Assessment, list[Path]]:
    """Predicts the test clips of every fold again, and pools them; writes ``metrics_test.json`` and ``predictions_test.csv``.

    Raises:
        UserError: a fold is not trained.
    """
    parts = [evaluate_run(place, device=device, write=False)[0] for place in fold_folders(folder).values()]
    found = pooled(parts, folder)
    return found, write_split(output_dir, found)


def report_folds(
    folder: Path, output_dir: str | Path | None = None, found: Assessment | None = None, *, pdf: bool = False
) -> Path:
    """Writes the report on the pooled predictions; no model is read.

    Args:
        folder: the parent of the folds.
        output_dir: where the report goes; None takes the folder itself.
        found: the pooled assessment, if it exists already.
        pdf: write the plots as PDF, too.

    Raises:
        RunError: a fold is not complete.
    """
    from lmf_multitask.evaluation.report import write_report  # with matplotlib, half a second of import

    places = list(fold_folders(folder).values())
    found = found or pooled([_written(place) for place in places], folder)
    runs = [run for place in places for run in runs_in(place)]
    curves = {
        str(run.folder.relative_to(folder)): learning_curves(run.folder, run.load_config().training.monitor)
        for run in (runs if len(runs) <= _MOST_CURVES else ())
    }
    first = {run.folder.name: dataclasses.replace(run.load_config(), fold=None) for run in runs_in(places[0])}
    facts, folds, config = config_facts(first), found.metrics["folds"], next(iter(first.values()))
    by = f"one per {folds['by']}" if isinstance(folds["by"], str) else f"drawn with seed {config.fold_seed}"
    clips = f": {len(found.ids):,} clips in {len(folds['runs'])} folds, {by}; each is tested in one of them."
    facts["Data"] = data_fact(config.data_path, clips)
    shown = {name: one for name, one in curves.items() if one is not None}
    target = Path(output_dir or folder).expanduser()
    return write_report(dataclasses.replace(found, curves=shown, facts=facts), target, pdf=pdf)


def pooled(parts: Sequence[Assessment], folder: Path) -> Assessment:
    """The assessments of all folds as one, on the test clips of all of them.

    Raises:
        RunError: they are not all the folds of one cross-validation.
    """
    first, folds = parts[0], [part.metrics.get("fold") or {} for part in parts]
    wanted = list(range(1, (folds[0].get("of") or 0) + 1))
    if [fold.get("number") for fold in folds] != wanted or len({str(fold["by"]) for fold in folds}) > 1:
        lacking = [f"fold{number}" for number in wanted if number not in [fold.get("number") for fold in folds]]
        raise RunError(
            f"{folder}: must hold all folds of one cross-validation, but {', '.join(lacking) or 'some are of another'}"
            f"{' is missing' if lacking else ''}. Give its training command again."
        )
    if any(part.emotions != first.emotions for part in parts):
        raise RunError(f"{folder}: folds must be of the same emotions, but are not. Give the training command again.")
    ids = [clip for part in parts for clip in part.ids]
    if len(set(ids)) != len(ids):
        raise RunError(
            f"{folder}: every clip must be a test clip of one fold, but {_twice(ids)!r} is in several. Give clips different ids."
        )
    labels, probabilities = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "probabilities")
    )
    baselines = {
        name: np.concatenate([part.baselines[name] for part in parts])
        for name in first.baselines
        if all(name in part.baselines for part in parts)
    }
    decisions = {"network": Decisions.joined([part.decided for part in parts])}
    for name in baselines:
        given = [part.decisions.get(name) for part in parts]
        decisions.update({} if None in given else {name: Decisions.joined([one for one in given if one is not None])})
    seeds = {part.metrics["seed"] for part in parts}
    metrics = assess(
        labels,
        probabilities,
        first.tasks,
        split="test",
        seed=seeds.pop() if len(seeds) == 1 else None,
        baselines=baselines,
        decisions=decisions,
    )
    mode = {"mode": first.metrics["mode"]} if "mode" in first.metrics else {}
    notes = [
        note for note in first.metrics["data"]["notes"] if all(note in part.metrics["data"]["notes"] for part in parts)
    ]
    metrics = {
        **mode,
        **metrics,
        "data": {**first.metrics["data"], "notes": notes},
        "folds": _of_folds([part.metrics for part in parts]),
    }
    name = folder.name or str(folder)
    return Assessment(name, first.tasks, ids, labels, probabilities, metrics, baselines=baselines, decisions=decisions)


def _of_folds(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``folds`` in the metrics.json of the parent: mean and std of every metric over folds, and the means of each."""
    runs = [
        {
            "name": f"fold{one['fold']['number']}",
            "groups": one["fold"]["groups"],
            "samples": one["samples"],
            "mean": one["mean"],
        }
        for one in parts
    ]
    return {"by": parts[0]["fold"]["by"], "runs": runs, **fold_summary(parts)}


def _twice(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(clip for clip in ids if clip in seen or seen.add(clip))  # type: ignore[func-returns-value]


def _written(folder: Path) -> Assessment:
    """The result of a fold, from its files."""
    run = Run(folder)
    metrics = run.metrics()
    if metrics is None:
        raise RunError(f"{folder}: must be complete, but has no metrics. Give the training command again.")
    tasks = make_tasks([one for run in runs_in(folder) for one in run.load_config().wanted or ()])
    names = [task.name for task in tasks]
    read = read_predictions(run.check_unchanged(PREDICTIONS_FILE))
    own = read.select(read.ids, names)
    baselines, decisions = {}, {"network": own.decisions}
    for name, file in zip(LINEAR, LINEAR_FILES):
        path = run.check_unchanged(file)
        if path.is_file():
            linear = read_predictions(path)
            linear = linear.select(own.ids, linear.emotions)
            columns = [names.index(one) for one in linear.emotions]
            baselines[name] = np.full(own.probabilities.shape, np.nan)
            baselines[name][:, columns] = linear.probabilities
            present = np.zeros(own.probabilities.shape, bool)
            present[:, columns] = linear.decisions.present
            decisions[name] = Decisions(present, np.array(columns)[linear.decisions.chosen])
    # as they were before they were written with nine digits
    probabilities = own.probabilities.astype(np.float32)
    return Assessment(
        folder.name, tasks, own.ids, own.labels, probabilities, metrics, baselines=baselines, decisions=decisions
    )
