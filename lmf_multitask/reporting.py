"""From trained runs to assessments: the part of evaluation and report that needs the models.

Shape letters: N rows (clips), T tasks (emotions), L words.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask import __version__
from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.schema import MODALITIES, column_arrays
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.evaluation.assessment import Assessment, LearningCurves, assess
from lmf_multitask.evaluation.calibration import CALIBRATION_FILE, Calibration
from lmf_multitask.evaluation.metrics import binary_figures
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.runs import Run, runs_in
from lmf_multitask.runtime import quiet_imports, select_device
from lmf_multitask.training.experiment import baseline_probabilities, evaluate_run

with quiet_imports():
    import paddle

from lmf_multitask.data.loading import SAMPLE_NOTE, load_data  # isort: skip - paddlenlp must be imported before datasets

Models = Sequence[LMFModel]


def evaluate_runs(
    folder: str | Path,
    data_path: str | None = None,
    split: str = "test",
    device: str = "auto",
    *,
    need_calibration: bool = False,
) -> tuple[dict[str, Any], list[Path]]:
    """`training.experiment.evaluate_run`, for a run directory or for the parent of per-emotion runs.

    Returns:
        The figures (of a parent: of all its emotions), and the files that hold them.

    Raises:
        UserError: the folder is neither, or the data do not fit.
    """
    runs = runs_in(folder)
    written = [evaluate_run(run.folder, data_path, split, device, need_calibration=need_calibration) for run in runs]
    paths = [path for _, path in written]
    if len(runs) == 1 and runs[0].folder == Path(folder).expanduser():
        return written[0][0], paths
    metrics = assess_runs(folder, data_path, split, device).metrics
    return metrics, [*paths, Run(folder).write_metrics(metrics, f"metrics_{split}.json")]


def assess_runs(
    folder: str | Path,
    data_path: str | None = None,
    split: str = "test",
    device: str = "auto",
    *,
    complete_only: bool = False,
    page: bool = False,
) -> Assessment:
    """Predictions and figures of a run, or of per-emotion runs together as one model of all their emotions.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than the runs' own; then without baselines.
        split: of the data.
        device: where to compute.
        complete_only: leave out runs whose training has not ended.
        page: also what only the report shows: learning curves, modalities, facts.

    Raises:
        UserError: the folder is neither, the runs are not of the same data, or the data do not fit.
    """
    folder = Path(folder).expanduser()
    runs = [run for run in runs_in(folder) if run.is_complete() or not complete_only]
    configs = [run.load_config() for run in runs]
    select_device(device)
    models = [run.load_model() for run in runs]
    emotions = [emotion for model in models for emotion in model.emotions]
    first = configs[0]
    for run, config in zip(runs, configs):
        if (config.data_path, config.data) != (first.data_path, first.data):
            raise RunError(
                f"{run.folder}: must be trained on the data of {runs[0].folder}, but is not. Give one of them."
            )
    if len(set(emotions)) != len(emotions):
        raise RunError(
            f"{folder}: must hold one run per emotion, but has {', '.join(emotions)}. Give one run directory."
        )
    dataset = load_data(dataclasses.replace(first, data_path=data_path or first.data_path, emotions=emotions))
    columns = {name: column_arrays(dataset[name]) for name in {"train", split}}
    _check_sizes(columns[split], models, data_path or first.data_path)
    batch_size = first.training.eval_batch_size
    probabilities = _predict(models, columns[split], batch_size)
    calibrations = [
        Calibration.load(run.folder / "model") if (run.folder / "model" / CALIBRATION_FILE).exists() else None
        for run in runs
    ]
    calibration = None
    if all(one is not None for one in calibrations):
        calibration = Calibration({name: each for one in calibrations for name, each in one.emotions.items()})
    labels = columns[split]["labels"]
    metrics = assess(
        labels,
        probabilities,
        emotions,
        split=split,
        seed=first.seed if all(config.seed == first.seed for config in configs) else None,
        calibration=calibration,
        baselines=None if data_path else baseline_probabilities(dataset, split, emotions),
    )
    if runs[0].folder != folder:
        metrics = {"mode": "per_emotion", **metrics}
    found = Assessment(
        folder.name or str(folder), emotions, list(dataset[split]["id"]), labels, probabilities, metrics, calibration
    )
    if not page:
        return found
    description = dataset["train"].info.description
    return dataclasses.replace(
        found,
        curves={run.folder.name: curves for run in runs if (curves := learning_curves(run.folder)) is not None},
        modality_effects=modality_effects(models, columns["train"], columns[split], probabilities, batch_size),
        facts=_facts(folder, runs, configs, models, {name: len(rows) for name, rows in dataset.items()}, data_path),
        data_report=description,
    )


def report_runs(
    folder: str | Path,
    data_path: str | None = None,
    output_dir: str | Path | None = None,
) -> Path:
    """Writes the report page of a run or of a parent of per-emotion runs, by default into its own folder."""
    assessment = assess_runs(folder, data_path, page=True)
    return assessment.write_report(Path(output_dir or folder).expanduser())


def modality_effects(
    models: Models,
    train: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    batch_size: int,
) -> dict[str, Any]:
    """What each modality does to the predictions: it is replaced at test by zeros, and by train's mean.

    Args:
        models: one for all emotions, or one each.
        train: features of train, for the mean (of each word's place, for text).
        rows: features and labels of the split.
        probabilities: float `[N, T]`, with all modalities.
        batch_size: clips per forward pass.

    Returns:
        replacement (``zeros``, ``mean``) -> emotion -> modality -> ``change`` (mean absolute change of the probability),
        ``share`` (that change divided by the three modalities' sum, averaged over clips: what part of a prediction is
        owed to it), and ``weighted_f1`` without the modality.
    """
    emotions = [emotion for model in models for emotion in model.emotions]
    found: dict[str, Any] = {}
    for kind in ("zeros", "mean"):
        without = {}
        for modality in MODALITIES:
            whole = np.asarray(rows[modality])
            value = np.zeros(whole.shape[1:], np.float32) if kind == "zeros" else train[modality].mean(axis=0)
            replaced = np.broadcast_to(value.astype(np.float32), whole.shape)
            without[modality] = _predict(models, {**rows, modality: replaced}, batch_size)
        change = np.stack([np.abs(without[modality] - probabilities) for modality in MODALITIES]).astype(np.float64)
        total = change.sum(axis=0)
        share = np.divide(change, total, out=np.full_like(change, 1 / len(MODALITIES)), where=total > 0)
        found[kind] = {
            emotion: {
                modality: {
                    "change": float(change[m, :, t].mean()),
                    "share": float(share[m, :, t].mean()),
                    "weighted_f1": binary_figures(rows["labels"][:, t], without[modality][:, t] > 0.5)["weighted_f1"],
                }
                for m, modality in enumerate(MODALITIES)
            }
            for t, emotion in enumerate(emotions)
        }
    return found


def learning_curves(folder: Path) -> LearningCurves | None:
    """What ``history.csv`` of a run says; None where there is none."""
    path = folder / "history.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "epoch" not in rows[0]:
        return None
    try:
        columns = {
            name: [float(row[name]) if row[name] else float("nan") for row in rows]
            for name in rows[0]
            if name is not None
        }
    except (TypeError, ValueError):
        raise RunError(f"{path}: must hold numbers in every row, but does not. Remove it or train again.") from None
    losses = {"train": "train_loss", "validation": "validation_loss"}
    suffix = "_weighted_f1"
    kept = [int(epoch) for epoch, best in zip(columns["epoch"], columns.get("best", [])) if best == 1]
    return LearningCurves(
        [int(epoch) for epoch in columns["epoch"]],
        {name: columns[column] for name, column in losses.items() if column in columns},
        {
            name.removeprefix("validation_").removesuffix(suffix): values
            for name, values in columns.items()
            if name.startswith("validation_") and name.endswith(suffix) and name != f"validation{suffix}"
        },
        kept[-1] if kept else None,
    )


def _predict(models: Models, columns: Mapping[str, np.ndarray], batch_size: int) -> np.ndarray:
    features = {name: columns[name] for name in MODALITIES}
    return np.concatenate([model.predict_probabilities(features, batch_size) for model in models], axis=1)


def _check_sizes(columns: Mapping[str, np.ndarray], models: Models, path: str | None) -> None:
    sizes = {name: int(columns[name].shape[-1]) for name in MODALITIES}
    for model in models:
        if sizes != model.feature_sizes:
            raise DataError(
                f"{path}: must have the feature sizes of the model, {model.feature_sizes}, but has {sizes}."
            )


def _facts(
    folder: Path,
    runs: Sequence[Run],
    configs: Sequence[ExperimentConfig],
    models: Models,
    clips: Mapping[str, int],
    data_path: str | None,
) -> dict[str, str]:
    config = configs[0]
    numbers = [sum(int(np.prod(w.shape)) for w in m.weights().values() if not w.stop_gradient) for m in models]
    data = data_path or config.data_path
    single = len(runs) == 1 and runs[0].folder == folder
    seeds = dict.fromkeys(str(one.seed) for one in configs)
    trained = time.strftime("%Y-%m-%d %H:%M", time.localtime((runs[-1].folder / "config.yaml").stat().st_mtime))
    return {
        "Data": f"the built-in sample. {SAMPLE_NOTE}" if data is None else str(data),
        "Clips": ", ".join(f"{count:,} {name}" for name, count in clips.items()),
        "Emotions": ", ".join(emotion for model in models for emotion in model.emotions)
        + ("" if single else " (a model each)"),
        "Trainable parameters": " + ".join(f"{number:,}" for number in numbers),
        "Seed": ", ".join(seeds),
        "Begun": trained,
        "Command that trains it again": "\n".join(
            f"python -m lmf_multitask.train --config {run.folder / 'config.yaml'} --output_dir NEW_FOLDER"
            for run in runs
        ),
        "Software": f"lmf_multitask {__version__}, Paddle {paddle.__version__}, numpy {np.__version__}",
        "Settings": "\n".join(one.to_yaml().partition("\n")[2] for one in configs[:1]),
    }
