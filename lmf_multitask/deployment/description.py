"""``lmf_model.json``: what an exported model expects, what it returns, and the hashes of its files.

    {"format": 2,
     "emotions": ["happy", ...],                      the order of every output
     "inputs": {"audio": {"dtype": "float32", "shape": ["batch", 74]},
                "text": {"dtype": "float32", "shape": ["batch", "steps", 300], "length": 20, "padding": "end"}, ...},
     "outputs": {"dtype": "float32", "shape": ["batch", 2], "columns": ["absent", "present"], ...},
     "without": {"audio": {"split": "validation", "weighted_f1": ..., "with_all": ...}, ...},     from robustness.json
     "cleaning": {"non_finite": "zero"},
     "exclusive": true,                               whether every training clip had exactly one of the emotions
     "thresholds": {...}, "calibration": {...},       probabilities above which an emotion counts as present; others
     "regression": {"valence": {"mean": ..., "std": ..., "range": [1, 5], ...}, ...},      real-valued outputs, only if there are any
     "models": [{"name": "multitask", "emotions": [...], "modalities": [...],
                 "paddle": {"program": FILE, "weights": FILE}, "onnx": {"model": FILE}}],
     "sha256": {FILE: HASH}, "versions": {...}}

``length`` is the number of steps of the training data; ``"steps"`` in a shape means that other lengths are accepted.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask.config import check_name
from lmf_multitask.data.modality import MODALITIES, Input, checked_inputs
from lmf_multitask.errors import ConfigError, DataError, RunError
from lmf_multitask.evaluation.calibration import Calibration
from lmf_multitask.files import read_bytes, read_json, sha256_of, write_json
from lmf_multitask.tasks import BinaryTask, RegressionTask, Task, task_from

DESCRIPTION_FILE = "lmf_model.json"
FORMAT = 2
_FILES = {"paddle": {"program": ".json", "weights": ".pdiparams"}, "onnx": {"model": ".onnx"}}
FORMATS = tuple(_FILES)
_LARGEST_FILE = 2**31


@dataclass(frozen=True)
class ExportedModel:
    """One static model of a folder.

    Attributes:
        name: ``multitask``, or the emotion of a model with one; its files are named after it.
        emotions: its outputs, in order.
        modalities: its inputs.
        formats: ``paddle``, ``onnx`` or both.
    """

    name: str
    emotions: tuple[str, ...]
    modalities: tuple[str, ...]
    formats: tuple[str, ...]

    def files(self, form: str) -> dict[str, str]:
        """Role -> file name, of one format."""
        return {role: self.name + suffix for role, suffix in _FILES[form].items()}


@dataclass(frozen=True)
class ModelDescription:
    """The content of ``lmf_model.json``.

    Attributes:
        inputs: modality -> shape of one clip in the training data, and its padding.
        free_lengths: modalities whose sequences may have any length.
        models: one multi-task model, or one per emotion.
        calibration: thresholds and intervals that were fitted on validation.
        thresholds: of the binary tasks, by name: the probability above which one counts as present.
        non_finite: ``zero``: NaN and infinities are replaced by 0; ``error``: they are refused.
        exclusive: whether every training clip had exactly one of the emotions.
        without: modality -> what was measured without it: ``split``, mean ``weighted_f1``, and ``with_all`` modalities.
        sha256: file name -> hash.
        versions: of this package and of the packages that wrote the files.
        regression: the real-valued tasks, by name; all other outputs are binary.
    """

    inputs: Mapping[str, Input]
    free_lengths: tuple[str, ...]
    models: tuple[ExportedModel, ...]
    calibration: Calibration
    thresholds: Mapping[str, float]
    non_finite: str = "zero"
    exclusive: bool = False
    without: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    regression: Mapping[str, RegressionTask] = field(default_factory=dict)

    @property
    def emotions(self) -> list[str]:
        """Names of all outputs, in order, real-valued tasks included."""
        return [emotion for model in self.models for emotion in model.emotions]

    @property
    def tasks(self) -> list[Task]:
        """All outputs, in order."""
        return [self.regression.get(name) or BinaryTask(name, self.thresholds[name]) for name in self.emotions]

    @property
    def binary(self) -> list[int]:
        """Numbers of the outputs that are probabilities."""
        return [t for t, name in enumerate(self.emotions) if name not in self.regression]

    @property
    def modalities(self) -> list[str]:
        """Those that at least one model uses."""
        return [name for name in MODALITIES if any(name in model.modalities for model in self.models)]

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that every model has."""
        return tuple(form for form in FORMATS if all(form in model.formats for model in self.models))

    def shape(self, modality: str) -> tuple[int | str, ...]:
        """Sizes of a modality's array; a size that is free has a name instead of a number."""
        one = self.inputs[modality]
        steps = ("steps" if modality in self.free_lengths else one.length,) if one.length is not None else ()
        return ("batch", *steps, one.features)

    def graph_inputs(self, model: ExportedModel) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs of a model's graph; -1 is any size."""
        return {
            name: tuple(size if isinstance(size, int) else -1 for size in self.shape(name)) for name in model.modalities
        }

    def to_json(self) -> dict[str, Any]:
        """The content of the file; also what the service says about its model."""
        inputs: dict[str, dict[str, Any]] = {}
        for name, one in self.inputs.items():
            inputs[name] = {"dtype": "float32", "shape": list(self.shape(name))}
            if one.is_sequence:
                inputs[name].update(length=one.length, padding=one.padding)
        values = {name: one.to_dict() for name, one in self.regression.items()}
        return {
            "format": FORMAT,
            "emotions": self.emotions,
            "inputs": inputs,
            "outputs": {
                "names": self.emotions,
                "dtype": "float32",
                "shape": ["batch", 2],
                "columns": ["absent", "present"],
                "meaning": "probabilities; each row sums to one"
                + ("; of tasks in regression: values in the unit of the labels, [batch, 1]" if values else ""),
            },
            **({"regression": values} if values else {}),
            "modalities": self.modalities,
            "without": {name: dict(metrics) for name, metrics in self.without.items()},
            "cleaning": {"non_finite": self.non_finite},
            "exclusive": self.exclusive,
            "thresholds": dict(self.thresholds),
            "calibration": self.calibration.to_json(),
            "models": [
                {
                    "name": one.name,
                    "emotions": list(one.emotions),
                    "modalities": list(one.modalities),
                    **{form: one.files(form) for form in one.formats},
                }
                for one in self.models
            ],
            "sha256": dict(self.sha256),
            "versions": dict(self.versions),
        }

    def write(self, folder: Path) -> ModelDescription:
        """Writes the file, with the hashes of the models' files in the folder; returns the description with the hashes."""
        names = [name for model in self.models for form in model.formats for name in model.files(form).values()]
        written = dataclasses.replace(self, sha256={name: sha256_of(folder / name) for name in names})
        write_json(folder / DESCRIPTION_FILE, written.to_json())
        return written

    def read_files(self, folder: Path, model: ExportedModel, form: str) -> dict[str, bytes]:
        """The files of one model in one format, by their role.

        Raises:
            RunError: one is missing, or its hash is not the expected one.
        """
        found = {}
        for role, name in model.files(form).items():
            content = read_bytes(folder / name, _LARGEST_FILE, RunError)
            if sha256_of(io.BytesIO(content)) != self.sha256.get(name):
                raise RunError(
                    f"{folder / name}: must have the sha256 in {DESCRIPTION_FILE}, but has another. "
                    "The file is damaged or from another export: export the run again."
                )
            found[role] = content
        return found

    @classmethod
    def read(cls, folder: str | Path) -> ModelDescription:
        """Reads the file of an exported folder.

        Raises:
            RunError: it is missing, damaged, or of another format.
        """
        path = Path(folder) / DESCRIPTION_FILE
        if not path.exists():
            raise RunError(
                f"{folder}: must be an exported model, but has no {DESCRIPTION_FILE}. Export a run with `lmf export`."
            )
        content = read_json(path, error=RunError)
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise RunError(
                f"{path}: must have the format {FORMAT}, but has {content.get('format')!r:.80}. Export the run again."
            )
        try:
            return cls._from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ConfigError, DataError, RunError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise RunError(f"{path}: must describe an exported model, but {reason} Export the run again.") from None

    @classmethod
    def _from_json(cls, content: Any) -> ModelDescription:
        models = []
        for one in content["models"]:
            name = check_name(one["name"])  # it names files: no folders in it
            emotions = tuple(check_name(emotion) for emotion in one["emotions"])
            modalities = tuple(name for name in MODALITIES if name in one["modalities"])
            if not modalities or len(modalities) != len(one["modalities"]):
                raise ValueError(f"its modalities are {one['modalities']}.")
            models.append(ExportedModel(name, emotions, modalities, tuple(form for form in FORMATS if form in one)))
        every = [emotion for model in models for emotion in model.emotions]
        if not every or len(set(every)) != len(every) or len({one.name for one in models}) != len(models):
            raise ValueError(f"its emotions are {every}.")
        inputs, free = {}, []
        for name, one in content["inputs"].items():
            sizes = list(one["shape"][1:])
            if sizes[0] == "steps":
                free.append(name)
                sizes[0] = one["length"]
            inputs[name] = Input(tuple(sizes), one.get("padding"))
        non_finite, exclusive = content["cleaning"]["non_finite"], content["exclusive"]
        if non_finite not in ("zero", "error") or type(exclusive) is not bool:
            raise ValueError(f"its cleaning is {non_finite!r} and exclusive is {exclusive!r}.")
        calibration = Calibration.from_json(content["calibration"], "its calibration")
        regression = {}
        for name, one in content.get("regression", {}).items():
            task = task_from(one)
            if not isinstance(task, RegressionTask) or task.name != name or name not in emotions:
                raise ValueError(f"its real-valued task {name!r:.40} is {one!r:.80}.")
            regression[name] = task
        thresholds = {name: content["thresholds"][name] for name in every if name not in regression}
        if not all(type(value) is float and 0 <= value <= 1 for value in thresholds.values()):
            raise ValueError(f"its thresholds are {str(thresholds)[:80]}.")
        return cls(
            checked_inputs(inputs), tuple(free), tuple(models), calibration, thresholds, non_finite, exclusive,
            checked_losses(content["without"]), _texts(content["sha256"]), _texts(content["versions"]), regression,
        )  # fmt: skip


def checked_losses(content: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was measured without a modality, with only what is used of it.

    Raises:
        ValueError: a metric is not a number.
    """
    found = {}
    for name, one in content.items():
        if name not in MODALITIES or not all(type(one[key]) in (int, float) for key in ("weighted_f1", "with_all")):
            raise ValueError(f"its metrics without {name!r:.40} are {one!r:.80}.")
        found[name] = {"split": str(one["split"])[:40], "weighted_f1": one["weighted_f1"], "with_all": one["with_all"]}
    return found


def _texts(content: Mapping[str, str]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in content.values()):
        raise ValueError("a hash or version is not text.")
    return dict(content)


def generated_clips(about: ModelDescription, count: int = 64) -> dict[str, np.ndarray]:
    """Random clips of many scales, with padding at the end of sequences; the last ones lack a modality each."""
    random = np.random.default_rng(0)
    clips = {}
    for number, (name, one) in enumerate(about.inputs.items()):
        scale = 10 ** random.uniform(-2, 0, (count, *[1] * len(one.shape)))
        values = random.normal(size=(count, *one.shape)) * scale
        if one.length is not None:
            ends = random.integers(1, one.length + 1, count)
            values[np.arange(one.length)[None] >= ends[:, None]] = 0
        values[count - 1 - number] = 0
        clips[name] = values.astype(np.float32)
    return clips
