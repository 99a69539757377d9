"""The last stages of a run: assess and write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.evaluation.assessment import Assessment, assess
from lmf_multitask.evaluation.baselines import LinearBaseline, baseline_predictions, fit_linear_baseline
from lmf_multitask.evaluation.calibration import Calibration
from lmf_multitask.evaluation.decisions import Decisions, decide, decisions_of
from lmf_multitask.evaluation.metrics import metrics_of
from lmf_multitask.evaluation.predictions import write_predictions
from lmf_multitask.evaluation.stacking import fit_weights
from lmf_multitask.files import write_json
from lmf_multitask.pipeline.layout import LINEAR, PREDICTIONS_FILE, linear_file
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.stages import Predicted, Trained


def calibrate(trained: Trained, validation: Predicted) -> tuple[Trained, Predicted]:
    """Combines the network with the linear model, and fits thresholds and prediction intervals, all on validation.

    Args:
        trained: one model, which is changed.
        validation: predictions of the network.

    Returns:
        The calibrated model, and its predictions of validation.
    """
    (linear, predictions), weights = _fit_linear(trained), None
    (model,) = trained.models
    if model.linear is not None:
        weights = fit_weights(validation.labels, validation.predictions, predictions, trained.tasks)
        model.linear.fit(linear, weights)
        validation = dataclasses.replace(validation, predictions=trained.predict(validation.columns))
    fitted = Calibration.fit(validation.labels, validation.predictions, trained.tasks, trained.stacked, weights)
    if trained.stacked:
        model.tasks = fitted.decided(trained.tasks)
    return dataclasses.replace(trained, calibration=fitted, linear=linear), validation


def _fit_linear(trained: Trained) -> tuple[LinearBaseline, np.ndarray]:
    """The linear model of the same modalities, and its predictions of validation `[N, T]`.

    Where the network is combined with one, its tasks have thresholds, too.
    """
    train, validation = (column_arrays(trained.data.dataset[name]) for name in ("train", "validation"))
    linear = fit_linear_baseline(train, validation, trained.tasks, trained.modalities)
    labels, predictions = np.asarray(validation["labels"]), linear.predict(validation)
    if trained.stacked:
        fitted = Calibration.fit(labels, predictions, linear.tasks, expected=True)
        linear = dataclasses.replace(linear, tasks=fitted.decided(linear.tasks))
    return linear, predictions


def assess_predictions(trained: Trained, predicted: Predicted) -> Assessment:
    """Metrics of one split, with intervals, calibration and, on the data of the training, baselines."""
    seeds = {config.seed for config in trained.configs}
    baselines, decisions = _baselines(trained, predicted) if trained.own_data else ({}, {})
    metrics = assess(
        predicted.labels,
        predicted.predictions,
        trained.tasks,
        split=predicted.split,
        seed=seeds.pop() if len(seeds) == 1 else None,
        calibration=trained.calibration,
        baselines=baselines,
        decisions=decisions,
    )
    if trained.stacked:
        half = decide(predicted.alone, 0.5, trained.tasks)
        metrics["network_alone"] = metrics_of(predicted.labels, predicted.alone, trained.tasks, half)
    metrics["data"] = {"notes": trained.notes, **trained.data.quality}
    if len(trained.models) > 1:
        metrics = {"mode": "per_emotion", **metrics}
    fold = trained.configs[0].chosen_fold
    if fold is not None and trained.own_data:
        assert trained.data.folds is not None
        groups = trained.data.folds
        metrics["fold"] = {"by": fold.by, "number": fold.number, "of": len(groups), "groups": groups[fold.number - 1]}
    return Assessment(
        trained.name,
        trained.tasks,
        predicted.ids,
        predicted.labels,
        predicted.predictions,
        metrics,
        trained.calibration,
        baselines,
        decisions,
    )


def _baselines(trained: Trained, predicted: Predicted) -> tuple[dict[str, np.ndarray], dict[str, Decisions]]:
    """Name -> predictions `[N, T]` of the baselines, and name -> decisions of the linear ones."""
    linear = trained.linear or _fit_linear(trained)[0]
    labels = np.asarray(column_arrays(trained.data.dataset["train"])["labels"])
    found = baseline_predictions(labels, linear, column_arrays(trained.data.dataset[predicted.split]))
    return found, {name: decisions_of(found[name], linear.tasks) for name in LINEAR if name in found}


# -- write


def write_run(run: Run, trained: Trained, found: Assessment) -> None:
    """Writes the result of a training; ``metrics.json`` comes last, since it completes the run."""
    run.check_not_removed()
    run.write_history(trained.history)
    run.write_model(trained.models[0], trained.calibration)
    write_joined(run, found)


def write_joined(run: Run, found: Assessment) -> None:
    """Writes predictions and metrics of a run, or of per-emotion runs into their parent."""
    _write_predictions(run.folder / PREDICTIONS_FILE, found)
    run.write_metrics(found.metrics)


def write_split(folder: Path, found: Assessment) -> list[Path]:
    """Writes ``metrics_SPLIT.json``, ``predictions_SPLIT.csv`` and those of the linear model; returns their paths."""
    split = found.metrics["split"]
    paths = [folder / f"metrics_{split}.json", folder / f"predictions_{split}.csv"]
    write_json(paths[0], found.metrics)
    return [paths[0], *_write_predictions(paths[1], found)]


def _write_predictions(path: Path, found: Assessment) -> list[Path]:
    """Writes the predictions of the model, and of the linear models beside them; returns the paths."""
    write_predictions(path, found.ids, found.labels, found.probabilities, found.tasks, found.decided)
    paths = [path]
    for name in LINEAR:
        if name in found.baselines:
            values = found.baselines[name]
            own = [t for t in range(len(found.tasks)) if not np.isnan(values[:, t]).any()]
            paths.append(linear_file(path, name))
            write_predictions(
                paths[-1],
                found.ids,
                found.labels[:, own],
                values[:, own],
                [found.tasks[t] for t in own],
                found.decisions[name].select(own) if name in found.decisions else None,
            )
    return paths
