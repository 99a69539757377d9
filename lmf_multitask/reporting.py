"""From trained runs to assessments: the part of evaluation and report that needs the models.

Shape letters: N rows (clips), T tasks (emotions), L words.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmf_multitask import __version__
from lmf_multitask.config import ExperimentConfig
from lmf_multitask.data.columns import Column
from lmf_multitask.data.schema import MODALITIES, as_model_takes, column_arrays
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.assessment import Assessment, LearningCurves, assess
from lmf_multitask.evaluation.calibration import CALIBRATION_FILE, Calibration
from lmf_multitask.evaluation.plots import robustness_picture
from lmf_multitask.evaluation.robustness import measure_robustness
from lmf_multitask.files import atomic_write
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.runs import ROBUSTNESS_FILE, ROBUSTNESS_PICTURE, Run, runs_in
from lmf_multitask.runtime import quiet_imports, select_device
from lmf_multitask.training.experiment import baseline_probabilities, evaluate_run

with quiet_imports():
    import paddle

from lmf_multitask.data.loading import SAMPLE_NOTE, load_data  # isort: skip - paddlenlp must be imported before datasets

if TYPE_CHECKING:
    import datasets

Models = Sequence[LMFModel]


@dataclass(frozen=True)
class _Group:
    """Runs that are one model together: a multi-task run, or per-emotion runs of one parent."""

    folder: Path
    runs: list[Run]
    configs: list[ExperimentConfig]
    models: list[LMFModel]
    dataset: datasets.DatasetDict
    data_path: str | None

    @property
    def emotions(self) -> list[str]:
        return [emotion for model in self.models for emotion in model.emotions]

    @property
    def modalities(self) -> list[str]:
        """What at least one of the models looks at."""
        return [name for name in MODALITIES if any(name in model.config.modalities for model in self.models)]

    def columns(self, split: str) -> dict[str, Column]:
        """Features in the models' sizes, and labels."""
        first = self.models[0]
        for model in self.models:
            fitted = as_model_takes(
                column_arrays(self.dataset[split]), model.feature_sizes, model.config.modalities, self.data_path
            )
            if model is first:
                found = fitted
        return found

    def predict(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Features of N clips -> probabilities float32 `[N, T]`."""
        size = self.configs[0].training.eval_batch_size
        return np.concatenate([model.predict_probabilities(features, size) for model in self.models], axis=1)


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
    curves: bool = False,
    metrics: Mapping[str, Any] | None = None,
) -> Assessment:
    """Predictions and figures of a run, or of per-emotion runs together as one model of all their emotions.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than the runs' own; then without baselines.
        split: of the data.
        device: where to compute.
        complete_only: leave out runs whose training has not ended.
        page: also what only the report shows: learning curves, every subset of modalities (on validation), facts.
        curves: on the page also what noise and missing rows do, which takes a dozen times as long as the subsets.
        metrics: the figures, where the caller has just computed them for a single run on the same split of its data.

    Raises:
        UserError: the folder is neither, the runs are not of the same data, or the data do not fit.
    """
    group = _load(folder, data_path, device, complete_only)
    folder, runs, configs, models = group.folder, group.runs, group.configs, group.models
    emotions, dataset = group.emotions, group.dataset
    columns = group.columns(split)
    probabilities = group.predict(columns)
    calibrations = [
        Calibration.load(run.folder / "model") if (run.folder / "model" / CALIBRATION_FILE).exists() else None
        for run in runs
    ]
    calibration = None
    if all(one is not None for one in calibrations):
        calibration = Calibration({name: each for one in calibrations for name, each in one.emotions.items()})
    labels = columns["labels"]
    if metrics is None:
        metrics = assess(
            labels,
            probabilities,
            emotions,
            split=split,
            seed=configs[0].seed if all(config.seed == configs[0].seed for config in configs) else None,
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
        curves={run.folder.name: seen for run in runs if (seen := learning_curves(run.folder)) is not None},
        robustness=_measure(group, "validation", curves),
        facts=_facts(folder, runs, configs, models, {name: len(rows) for name, rows in dataset.items()}, data_path),
        data_report=description,
    )


def _load(folder: str | Path, data_path: str | None, device: str, complete_only: bool = False) -> _Group:
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
    path = data_path or first.data_path
    dataset = load_data(dataclasses.replace(first, data_path=path, emotions=emotions))
    return _Group(folder, runs, configs, models, dataset, path)


def robustness_of_runs(
    folder: str | Path, data_path: str | None = None, split: str = "validation", device: str = "auto"
) -> tuple[dict[str, Any], list[Path]]:
    """`evaluation.robustness.measure_robustness` of a run, or of per-emotion runs together; writes figures and picture there.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than the runs' own.
        split: of the data; validation, so that what is chosen by it is not chosen on test.
        device: where to compute.

    Returns:
        The content of ``robustness.json``, and the files.

    Raises:
        UserError: the folder is neither, the runs are not of the same data, or the data do not fit.
    """
    group = _load(folder, data_path, device)
    found = _measure(group, split)
    return found, _write_robustness(group.folder, found)


def _measure(group: _Group, split: str, curves: bool = True) -> dict[str, Any]:
    rows, train = group.columns(split), group.columns("train") if curves else None
    found = measure_robustness(
        group.predict, rows, group.emotions, split=split, train=train, modalities=group.modalities
    )
    return {"data": group.data_path, **found}  # which may be other data than the runs' own


def _write_robustness(folder: Path, found: dict[str, Any]) -> list[Path]:
    paths = [Run(folder).write_metrics(found, ROBUSTNESS_FILE)]
    picture, place = robustness_picture(found), folder / ROBUSTNESS_PICTURE
    if picture is None:
        place.unlink(missing_ok=True)  # of an earlier measurement
    else:
        with atomic_write(place) as file:
            file.write(picture.png)
        paths.append(place)
    return paths


def report_runs(
    folder: str | Path,
    data_path: str | None = None,
    output_dir: str | Path | None = None,
    *,
    curves: bool = True,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the report page of a run or of a parent of per-emotion runs, by default into its own folder.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than the runs' own.
        output_dir: where the page goes.
        curves: see `assess_runs`.
        metrics: see `assess_runs`.
    """
    assessment = assess_runs(folder, data_path, page=True, curves=curves, metrics=metrics)
    return write_page(assessment, Path(output_dir or folder).expanduser())


def write_page(assessment: Assessment, folder: Path) -> Path:
    """Writes the report page of `assess_runs`, and what was measured of its robustness as files of their own."""
    page = assessment.write_report(folder)
    _write_robustness(folder, assessment.robustness)
    return page


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
