"""Evaluation, robustness and report of trained runs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmf_multitask.config import to_dict
from lmf_multitask.data.loading import SAMPLE_NOTE
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.assessment import MEAN, Assessment, LearningCurves
from lmf_multitask.evaluation.metrics import METRICS
from lmf_multitask.evaluation.predictions import changes_csv
from lmf_multitask.evaluation.robustness import measure_robustness, predictions_without
from lmf_multitask.files import write_json, write_text
from lmf_multitask.pipeline.assessing import assess_predictions, write_split
from lmf_multitask.pipeline.layout import (
    CONFIG_FILE,
    ROBUSTNESS_FILE,
    ROBUSTNESS_PLOT,
    WITHOUT_FILE,
)
from lmf_multitask.pipeline.runs import Run, kept_row
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.pipeline.stages import Predicted, Trained, predict, restore
from lmf_multitask.runtime import quiet_imports, surroundings

with quiet_imports():
    from lmf_multitask.models.lmf import weight_shapes


def evaluate_run(
    folder: str | Path,
    data_path: str | None = None,
    split: str = "test",
    device: str = "auto",
    *,
    output_dir: str | Path | None = None,
    need_calibration: bool = False,
    write: bool = True,
) -> tuple[Assessment, list[Path]]:
    """Evaluates a run, or per-emotion runs together; writes ``metrics_SPLIT.json`` and ``predictions_SPLIT.csv``.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than that of the training; then there are no baselines.
        split: of the data.
        device: where to compute.
        output_dir: where the files go; None takes the folder itself.
        need_calibration: refuse runs without a calibration.
        write: False writes no files.

    Returns:
        The assessment, and the files.

    Raises:
        UserError: the folder is no trained run, or the data do not fit the models.
    """
    trained = restore(folder, data_path, device, split=split)
    if need_calibration and trained.calibration is None:
        raise RunError(
            f"{folder}: must have a calibration for --threshold, but has none. Train the run with lmf train."
        )
    found = assess_predictions(trained, predict(trained, split))
    return found, write_split(Path(output_dir or folder).expanduser(), found) if write else []


def robustness_of_run(
    folder: str | Path,
    data_path: str | None = None,
    split: str = "validation",
    device: str = "auto",
    *,
    output_dir: str | Path | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """Measures a run without some modalities, with noise and with missing clips; writes robustness.json and its plot.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than that of the training.
        split: of the data; validation by default, so that choices based on it are not made on test.
        device: where to compute.
        output_dir: where the files go; None takes the folder itself.

    Returns:
        The content of ``robustness.json``, and the files.

    Raises:
        UserError: the folder is no trained run, or the data do not fit the models.
    """
    trained = restore(folder, data_path, device, split=split)
    found = _robustness(trained, predict(trained, split), curves=True)
    return found, _write_robustness(Path(output_dir or folder).expanduser(), found)


def report_run(folder: str | Path, data_path: str | None = None, output_dir: str | Path | None = None) -> Path:
    """Writes the report of a run or of per-emotion runs together, noise and missing clips included.

    Args:
        folder: a run directory, or the parent of per-emotion runs.
        data_path: other data than that of the training.
        output_dir: where the report goes; None takes the folder itself.

    Returns:
        The page.
    """
    trained = restore(folder, data_path, split="test")
    found = assess_predictions(trained, predict(trained, "test"))
    return write_report_of(trained, found, Path(output_dir or folder).expanduser(), whole=True)


def write_report_of(
    trained: Trained,
    found: Assessment,
    folder: Path,
    *,
    validation: Predicted | None = None,
    whole: bool = False,
) -> Path:
    """Writes the report, and as files of their own the robustness and the changes without a modality that it shows.

    Args:
        trained: the models.
        found: their assessment on test.
        folder: where the report goes.
        validation: predictions of validation, if they exist already.
        whole: also measure noise and missing clips, which takes a dozen times as long as the subsets of modalities, and write
            the plots as PDF.
    """
    from lmf_multitask.evaluation.report import write_report  # with matplotlib, half a second of import

    split = found.metrics["split"]
    robustness = _robustness(trained, validation or predict(trained, trained.split("validation", split)), whole)
    without = predictions_without(trained.predict, trained.columns(split), trained.modalities)
    monitors = [config.training.monitor for config in trained.configs]
    histories = {run.folder.name: learning_curves(run.folder, one) for run, one in zip(trained.runs, monitors)}
    page = write_report(
        dataclasses.replace(
            found,
            curves={name: one for name, one in histories.items() if one is not None},
            robustness=robustness,
            without=without,
            facts=_facts(trained),
            data_report=trained.data.report,
        ),
        folder,
        pdf=whole,
    )
    _write_robustness(folder, robustness)
    if without:
        changes = {name: values - found.probabilities for name, values in without.items()}
        write_text(folder / WITHOUT_FILE, changes_csv(found.ids, found.emotions, changes))
    return page


def learning_curves(folder: Path, monitor: str) -> LearningCurves | None:
    """The losses, the monitored metric and those of each task in ``history.csv`` of a run; None where there is none.

    Raises:
        RunError: the file is damaged.
    """
    rows = Run(folder).history()
    if not rows or "epoch" not in rows[0]:
        return None
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    kept = kept_row(rows)
    losses = {"train": "train_loss", "validation": "validation_loss"}
    validation = {
        name.removeprefix("validation_"): one for name, one in columns.items() if name.startswith("validation_")
    }
    metrics = {monitor: {MEAN: validation[monitor]}} if monitor in validation and monitor != "loss" else {}
    for key in (name for name, metric in METRICS.items() if metric.per_epoch):
        own = {name.removesuffix(f"_{key}"): values for name, values in validation.items() if name.endswith(f"_{key}")}
        metrics.update({key: own} if own else {})
    return LearningCurves(
        [int(epoch) for epoch in columns["epoch"]],
        {name: columns[column] for name, column in losses.items() if column in columns},
        metrics,
        None if kept is None else int(kept["epoch"]),
    )


def _robustness(trained: Trained, predicted: Predicted, curves: bool) -> dict[str, Any]:
    found = measure_robustness(
        trained.predict,
        predicted.columns,
        trained.tasks,
        split=predicted.split,
        train=trained.columns(trained.split("train", predicted.split)) if curves else None,
        modalities=trained.modalities,
        plain=predicted.predictions,
    )
    return {"data": trained.data_path, **found}


def _write_robustness(folder: Path, found: dict[str, Any]) -> list[Path]:
    from lmf_multitask.evaluation.plots import robustness_plot

    paths = [folder / ROBUSTNESS_FILE]
    write_json(paths[0], found)
    plot, place = robustness_plot(found), folder / ROBUSTNESS_PLOT
    if plot is None:
        place.unlink(missing_ok=True)  # of an earlier measurement
    else:
        write_text(place, plot.svg)
        paths.append(place)
    return paths


def _facts(trained: Trained) -> dict[str, str]:
    """Heading -> text, for the report."""
    runs, found = trained.runs, config_facts({run.folder.name: one for run, one in zip(trained.runs, trained.configs)})
    counts = ", ".join(f"{len(rows):,} {name}" for name, rows in trained.data.dataset.items())
    sizes = [
        sum(map(math.prod, weight_shapes(m.inputs, m.tasks, m.config, trained_only=True).values()))
        for m in trained.models
    ]
    begun = time.localtime((runs[-1].folder / CONFIG_FILE).stat().st_mtime)
    own = {
        "Data": data_fact(trained.data_path, f": {counts} clips."),
        "Model": f"{found['Model'].removesuffix('.')}, {' + '.join(f'{size:,}' for size in sizes)} trainable parameters.",
        "Started": time.strftime("%Y-%m-%d %H:%M", begun),
        "Command that trains it again": "\n".join(
            f"python -m lmf_multitask.train --config {run.folder / CONFIG_FILE} --output_dir NEW_FOLDER" for run in runs
        ),
    }
    return {**own, **{name: text for name, text in found.items() if name not in own}}


def data_fact(path: str | None, clips: str = "") -> str:
    """Where the data are, and a sentence on the clips, which begins with a colon."""
    return f"{path}{clips}" if path is not None else f"the built-in sample{clips or '.'} {SAMPLE_NOTE}"


def config_facts(configs: Mapping[str, ExperimentConfig]) -> dict[str, str]:
    """Heading -> text, as far as settings know it.

    Args:
        configs: name -> settings, of the runs that make up one model.
    """
    first, versions = next(iter(configs.values())), surroundings()
    encoders = to_dict(first.model)["encoders"]
    parts = ", ".join(f"{name} {encoders[name]['kind']}" for name in first.model.modalities)
    seeds = ", ".join(dict.fromkeys(str(one.seed) for one in configs.values()))
    many = "A network per task" if len(configs) > 1 else "One network for all tasks"
    return {
        "Data": data_fact(first.data_path),
        "Model": f"{many}: encoders {parts}; fusion {to_dict(first.model)['fusion']['kind']}; seed {seeds}.",
        "Changed settings": changed_settings(configs),
        "Software": f"lmf_multitask {versions['lmf_multitask']}, Paddle {versions['paddle']}, numpy {versions['numpy']}",
        "Settings": first.to_yaml().partition("\n")[2],
    }


def changed_settings(configs: Mapping[str, ExperimentConfig]) -> str:
    """The settings of data, model and training that differ from the defaults; what not all runs share follows by run."""
    found = {}
    for name, config in configs.items():
        default = ExperimentConfig().resolved(config.wanted or ())
        found[name] = [
            change
            for part in ("data", "model", "training")
            for change in _changes(getattr(config, part), getattr(default, part), part)
        ]
    shared = [one for one in next(iter(found.values())) if all(one in others for others in found.values())]
    own = {name: [one for one in changes if one not in shared] for name, changes in found.items()}
    lines = [", ".join(shared), *(f"{name}: {', '.join(changes)}" for name, changes in own.items() if changes)]
    return "\n".join(line for line in lines if line) or "None: all settings are the defaults."


def _changes(value: Any, default: Any, name: str) -> Iterator[str]:
    """``name value (default ...)`` of every setting below `name` that differs."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        if value != default:
            yield f"{name} {_shown(value)} (default {_shown(default)})"
        return
    if type(value) is not type(default):  # of another kind, which has settings of its own
        default = type(value)()
        yield f"{name} of another kind, see the model"
    for field in dataclasses.fields(value):
        yield from _changes(getattr(value, field.name), getattr(default, field.name), f"{name}.{field.name}")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "null" if value is None else f"{value}"
