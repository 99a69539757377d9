"""Trained models -> static models in one folder, each checked against the model that it came from.

Shape letters: B batch, N rows, L steps, T tasks (emotions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.data.columns import match_inputs
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.data.schema import sort_emotions
from lmf_multitask.data.sources import open_source
from lmf_multitask.deployment.description import (
    DESCRIPTION_FILE,
    ExportedModel,
    ModelDescription,
    checked_losses,
    generated_clips,
)
from lmf_multitask.deployment.sessions import open_sessions
from lmf_multitask.deployment.writing import usual_formats, versions, write_model
from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.calibration import CALIBRATION_FILE, Calibration
from lmf_multitask.evaluation.robustness import ROBUSTNESS_FILE, loss_without
from lmf_multitask.files import atomic_folder, read_json
from lmf_multitask.models.lmf import LMFModel, model_folders
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.tasks import BinaryTask, RegressionTask, predictions

with quiet_imports():
    import paddle

TOLERANCE = 1e-5
"""Largest difference of a probability between the exported and the trained model."""


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        description: the content of ``lmf_model.json``.
        differences: format -> largest difference of a probability from the trained models.
        rows: number of clips that were compared.
    """

    description: ModelDescription
    differences: dict[str, float]
    rows: int


def export_run(
    path: str | Path,
    output_dir: str | Path,
    formats: Sequence[str] | None = None,
    data_path: str | Path | None = None,
    check: bool = True,
) -> Export:
    """Exports a run, or all per-emotion runs of a parent, into one folder.

    Args:
        path: a run directory, or the parent of per-emotion runs.
        output_dir: see `export_models`.
        formats: see `export_models`.
        data_path: clips to compare the models on, of its validation split if it has splits; None generates clips.
        check: see `export_models`.

    Raises:
        DataError: the clips do not fit the model.
        RunError: there is no model, or as of `export_models`.
    """
    path = Path(path).expanduser()
    folders = model_folders(path)
    if not folders:
        raise RunError(
            f"{path}: must be a run directory, or hold run directories, with a trained model, but has none. "
            "Give the --output_dir of a finished training."
        )
    links = [folder.parent for folder in folders if len(folders) > 1 and folder.parent.is_symlink()]
    if links:
        raise RunError(
            f"{links[0]}: must be a folder of its parent itself, but is a link. Give the run that it leads to."
        )
    order = sort_emotions([folder.parent.name for folder in folders])
    folders.sort(key=lambda folder: order.index(folder.parent.name))
    models = [LMFModel.from_pretrained(folder) for folder in folders]
    calibrations = [
        Calibration.load(folder) if (folder / CALIBRATION_FILE).exists() else Calibration.identity(model.tasks)
        for folder, model in zip(folders, models)
    ]
    clips = None if data_path is None else _first_clips(data_path, models[0])
    return export_models(models, output_dir, formats, calibrations, _measured_without(path), clips, check)


def _first_clips(path: str | Path, model: LMFModel, most: int = 256) -> dict[str, np.ndarray]:
    ids, features = next(open_source(path, "validation").all_blocks(most))
    every = {name: np.zeros((len(ids), *one.shape), np.float32) for name, one in model.inputs.items()}
    columns = match_inputs({**every, **features}, model.inputs, model.config.modalities, path)
    return {name: np.nan_to_num(np.asarray(columns[name]), nan=0, posinf=0, neginf=0) for name in MODALITIES}


def export_models(
    models: Sequence[LMFModel],
    output_dir: str | Path,
    formats: Sequence[str] | None = None,
    calibrations: Sequence[Calibration] | None = None,
    without: Mapping[str, Mapping[str, Any]] | None = None,
    clips: Mapping[str, np.ndarray] | None = None,
    check: bool = True,
) -> Export:
    """Writes one multi-task model, or several per-emotion models, into one folder.

    Args:
        models: the trained models.
        output_dir: the folder; an earlier export there is replaced, as a whole or not at all.
        formats: ``paddle``, ``onnx`` or both; None: see `usual_formats`.
        calibrations: one per model; None: none.
        without: modality -> metrics without it, for ``lmf_model.json``.
        clips: modality -> float32 `[N, ...]`, to compare the models on; None generates clips.
        check: whether the exported models are compared with the trained ones.

    Raises:
        RunError: the models do not fit together, the folder holds something else, or an exported model does not agree
            with its trained one.
    """
    output_dir = Path(output_dir).expanduser()
    check_replaceable(output_dir)
    _check_together(models)
    formats = usual_formats(models) if formats is None else formats
    calibrations = calibrations or [Calibration.identity(model.tasks) for model in models]
    described = ModelDescription(
        inputs=models[0].inputs,
        free_lengths=_free_lengths(models),
        models=tuple(_described(model, formats) for model in models),
        calibration=Calibration.joined(calibrations),
        thresholds={
            task.name: task.threshold for model in models for task in model.tasks if isinstance(task, BinaryTask)
        },
        non_finite="error" if any(model.non_finite == "error" for model in models) else "zero",
        exclusive=any(model.exclusive for model in models),
        without=without or {},
        versions=versions(formats),
        regression={task.name: task for model in models for task in model.tasks if isinstance(task, RegressionTask)},
    )
    with atomic_folder(output_dir) as folder:
        for model, one in zip(models, described.models):
            write_model(model, described.graph_inputs(one), folder, one)
        written = described.write(folder)
        if not check:
            return Export(written, {}, 0)
        batches = _batches(written, clips)
        differences = {form: _difference(folder, written, form, models, batches) for form in formats}
    return Export(written, differences, sum(len(batch["audio"]) for batch in batches))


def _described(model: LMFModel, formats: Sequence[str]) -> ExportedModel:
    name = model.task_names[0] if len(model.tasks) == 1 else "multitask"
    return ExportedModel(name, tuple(model.task_names), tuple(model.config.modalities), tuple(formats))


def _free_lengths(models: Sequence[LMFModel]) -> tuple[str, ...]:
    """Modalities whose encoders take sequences of any length."""
    return tuple(
        name
        for name, one in models[0].inputs.items()
        if one.is_sequence and all(model.encoders[name].any_length for model in models if name in model.encoders)
    )


def _measured_without(path: Path) -> dict[str, dict[str, Any]]:
    """Metrics without each modality from ``robustness.json`` of a run or parent; empty where there is none."""
    file = path / ROBUSTNESS_FILE
    if not file.exists():
        return {}
    found = read_json(file, error=RunError)
    try:
        pairs = {modality: loss_without(found, modality) for modality in MODALITIES}
        return checked_losses(
            {
                modality: {"split": found["split"], "weighted_f1": pair[1], "with_all": pair[0]}
                for modality, pair in pairs.items()
                if pair is not None
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(
            f"{file}: must be what `lmf evaluate --robustness` wrote, but {' '.join(str(error).split())[:120]}. Remove it."
        ) from None


def check_replaceable(folder: Path) -> None:
    """Makes sure that an export may replace what is in a folder.

    Raises:
        RunError: it is a file, or a folder that holds anything but an earlier export.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    found = sorted(path.name for path in folder.iterdir())
    if found and DESCRIPTION_FILE not in found:
        raise RunError(
            f"{folder}: must be empty or an earlier export, but holds {found[0]!r}. Choose another --output_dir."
        )
    own = {DESCRIPTION_FILE, *(ModelDescription.read(folder).sha256 if found else ())}
    foreign = [name for name in found if name not in own]
    if foreign:
        raise RunError(
            f"{folder}: must hold nothing but an earlier export, but holds {foreign[0]!r} too. "
            "Move it away, or choose another --output_dir."
        )


def _check_together(models: Sequence[LMFModel]) -> None:
    names = [name for model in models for name in model.task_names]
    if len(set(names)) != len(names):
        raise RunError(f"each emotion must be in one run, but the runs have {', '.join(names)}. Export one at a time.")
    taken = [name for name in names if name in (*MODALITIES, Path(DESCRIPTION_FILE).stem)]
    if taken:
        raise RunError(f"an emotion must not be called like an input or a file of an export, but one is {taken[0]!r}.")
    if len(models) > 1 and any(len(model.tasks) > 1 for model in models):
        raise RunError("several runs must have one emotion each, but one is a multi-task run. Export it by itself.")
    for model in models:
        shapes = {name: one.shape for name, one in model.inputs.items()}
        first = {name: one.shape for name, one in models[0].inputs.items()}
        if shapes != first:
            raise RunError(
                f"the runs must have the same feature shapes, but {models[0].task_names[0]} has {first} and "
                f"{model.task_names[0]} has {shapes}. Export them one at a time."
            )


# -- comparing


def _batches(about: ModelDescription, clips: Mapping[str, np.ndarray] | None) -> list[dict[str, np.ndarray]]:
    """Batches to compare on: the given clips or generated ones, one clip alone, and shorter sequences where these are free."""
    whole = dict(clips) if clips is not None else generated_clips(about)
    found = [whole, {name: values[:1] for name, values in whole.items()}]
    if about.free_lengths:
        found.append(
            {name: values[:, : -(-values.shape[1] // 2)] if name in about.free_lengths else values
             for name, values in whole.items()}
        )  # fmt: skip
    return found


def trained_predictions(model: LMFModel, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What an export of this model must predict, float32 `[N, T]`."""
    model.eval()
    with paddle.no_grad():
        outputs = model(*(paddle.to_tensor(batch[name]) for name in MODALITIES)).numpy()
    return predictions(outputs, model.tasks)


def _difference(
    folder: Path,
    about: ModelDescription,
    form: str,
    models: Sequence[LMFModel],
    batches: Sequence[Mapping[str, np.ndarray]],
) -> float:
    sessions = open_sessions(folder, about, form, "cpu", threads=1)
    differences = []
    for batch in batches:
        got = np.stack([output[:, -1] for session in sessions for output in session(batch)], axis=1)
        expected = np.concatenate([trained_predictions(model, batch) for model in models], axis=1)
        units = [
            max(getattr(task, "std", 1.0), 1.0) for task in about.tasks
        ]  # float32 is exact relative to the unit of a value
        differences.append((np.abs(got - expected) / units).max())
    largest = float(np.max(differences))  # NaN if one is
    if not largest <= TOLERANCE:
        raise RunError(
            f"the exported {form} model must agree with the trained one within {TOLERANCE:g}, but differs by {largest:.2g}. "
            "Nothing was written; please report this with your versions of Paddle and of this package."
        )
    return largest
