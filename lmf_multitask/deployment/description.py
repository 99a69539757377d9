"""``lmf_model.json``: what an exported model expects, what it gives, and the hashes of its files.

    {"format": 1,
     "emotions": ["happy", ...],                      the order of every output
     "inputs": {"audio": {"dtype": "float32", "shape": ["batch", 74]}, "video": ..., "text": ["batch", "words", 300]},
     "outputs": {"dtype": "float32", "shape": ["batch", 2], "columns": ["absent", "present"], ...},
     "modalities": ["audio", "video", "text"],        those that the models look at
     "without": {"audio": {"split": "validation", "weighted_f1": ..., "with_all": ...}, ...},     of robustness.json
     "text": {"words": 20, "padding": "end", ...},    of the training data; null where they were not at hand
     "cleaning": {"non_finite": "zero"},
     "models": [{"name": "multitask", "emotions": [...], "paddle": {"program": FILE, "weights": FILE}, "onnx": {...},
                 "temperature": [1.0, ...], "thresholds": {"uar": [...]}}],
     "sha256": {FILE: HASH}, "versions": {...}}

Several models are the paper's separate ones, an emotion each. Shape letters: N rows, L words, D dimensions, T tasks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmf_multitask.data.schema import MODALITIES, check_emotion_name
from lmf_multitask.errors import DataError, RunError

DESCRIPTION_FILE = "lmf_model.json"
FORMAT = 1
FORMATS = ("paddle", "onnx")
_SUFFIXES = {"paddle": {"program": ".json", "weights": ".pdiparams"}, "onnx": {"model": ".onnx"}}


@dataclass(frozen=True)
class Calibration:
    """What was fitted on validation after training (``model/calibration.json`` of a run).

    Attributes:
        temperature: T numbers; to calibrate an emotion's probabilities, its logits are divided by its own.
        thresholds: figure -> T plain (not calibrated) probabilities above which an emotion counts as present, fitted for
            that figure.
    """

    temperature: tuple[float, ...]
    thresholds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def none(cls, tasks: int) -> Calibration:
        """Probabilities as they come out of the network."""
        return cls((1.0,) * tasks)

    @classmethod
    def read(cls, path: Path, emotions: Sequence[str]) -> Calibration:
        """Reads a run's ``calibration.json``, or gives `none` where there is no such file.

        Raises:
            RunError: the file is there but not that of a model with these emotions.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls.none(len(emotions))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path}: must be JSON, but {' '.join(str(error).split())}. Calibrate the run again."
            ) from None
        try:
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}")
            named = content.get("emotions")
            if isinstance(named, dict) and all(isinstance(one, dict) for one in named.values()):
                content = _by_figure(named)
            if content["emotions"] != list(emotions):
                raise ValueError(f"its emotions are {content['emotions']!r} and the model's are {list(emotions)!r}")
            return cls.checked(content.get("temperature"), content.get("thresholds", {}), len(emotions))
        except KeyError as error:
            raise RunError(
                f"{path}: must be the calibration of this model, but {error} is missing. Calibrate the run again."
            ) from None
        except ValueError as error:
            raise RunError(
                f"{path}: must be the calibration of this model, but {error}. Calibrate the run again."
            ) from None

    @classmethod
    def checked(cls, temperature: Any, thresholds: Any, tasks: int) -> Calibration:
        """Checks the numbers of a JSON file.

        Raises:
            ValueError: they are not T temperatures above 0 and thresholds from 0 to 1; the text ends "but ...".
        """
        values = _numbers(temperature, tasks, "temperature")
        if not all(value > 0 for value in values):
            raise ValueError(f"its temperature is {list(values)} and must be above 0")
        if not isinstance(thresholds, dict):
            raise ValueError(f"its thresholds are {thresholds!r} and must be given by criterion")
        found = {str(name): _numbers(numbers, tasks, f"thresholds.{name}") for name, numbers in thresholds.items()}
        for name, numbers in found.items():
            if not all(0 <= number <= 1 for number in numbers):
                raise ValueError(f"its thresholds.{name} are {list(numbers)} and must be from 0 to 1")
        return cls(values, found)


def _by_figure(named: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Emotion -> its temperature and thresholds, turned into one list of T numbers for each."""
    figures = list(dict.fromkeys(figure for one in named.values() for figure in one.get("thresholds") or {}))
    return {
        "emotions": list(named),
        "temperature": [one["temperature"] for one in named.values()],
        "thresholds": {figure: [one["thresholds"][figure] for one in named.values()] for figure in figures},
    }


def _numbers(values: Any, tasks: int, name: str) -> tuple[float, ...]:
    good = isinstance(values, list) and len(values) == tasks
    if not good or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        raise ValueError(f"its {name} is {values!r} and must be {tasks} numbers")
    return tuple(float(value) for value in values)


@dataclass(frozen=True)
class ExportedModel:
    """One static model of a folder.

    Attributes:
        name: ``multitask``, or the emotion of a model of its own; the files are called after it.
        emotions: its outputs, in order.
        formats: which of ``paddle`` and ``onnx`` are there.
        calibration: temperatures (which are not inside the model) and thresholds.
    """

    name: str
    emotions: tuple[str, ...]
    formats: tuple[str, ...]
    calibration: Calibration

    def files(self, form: str) -> dict[str, str]:
        """Role -> file name, of one format."""
        return {role: self.name + suffix for role, suffix in _SUFFIXES[form].items()}


@dataclass(frozen=True)
class ModelDescription:
    """The content of ``lmf_model.json``.

    Attributes:
        feature_sizes: D of each modality.
        words: L of the training data, to which texts must be padded; None where it is not known.
        padding: where the training data pad: ``end``, ``front``, ``both`` or ``none``; None where it is not known.
        non_finite: ``zero``: NaN and infinities become 0; ``error``: they are refused.
        models: one multi-task model, or one per emotion.
        sha256: file name -> hash.
        versions: of this package and of what wrote the files.
        modalities: those that at least one model looks at.
        without: modality -> what was measured of the model without it: ``split``, mean ``weighted_f1`` there, and
            ``with_all`` modalities; empty where nothing was.
    """

    feature_sizes: Mapping[str, int]
    words: int | None
    padding: str | None
    non_finite: str
    models: tuple[ExportedModel, ...]
    sha256: Mapping[str, str]
    versions: Mapping[str, str]
    modalities: tuple[str, ...] = MODALITIES
    without: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def emotions(self) -> list[str]:
        """All outputs, in order."""
        return [emotion for model in self.models for emotion in model.emotions]

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that every model has."""
        return tuple(form for form in FORMATS if all(form in model.formats for model in self.models))

    @property
    def temperature(self) -> list[float]:
        """T temperatures, in the order of the emotions."""
        return [value for model in self.models for value in model.calibration.temperature]

    def thresholds(self, criterion: str) -> list[float]:
        """T plain probabilities above which an emotion counts as present.

        Args:
            criterion: ``half``: one half for all; or the name of fitted thresholds.

        Raises:
            RunError: the model has no thresholds of that name.
        """
        if criterion == "half":
            return [0.5] * len(self.emotions)
        found: list[float] = []
        for model in self.models:
            if criterion not in model.calibration.thresholds:
                known = ", ".join(["half", *model.calibration.thresholds])
                raise RunError(
                    f"the thresholds must be among {known}, but got {criterion!r}. Calibrate the run and export it again."
                )
            found += model.calibration.thresholds[criterion]
        return found

    def shape(self, modality: str) -> tuple[Any, ...]:
        """Sizes of a modality's array, ``batch`` and an unknown ``words`` by name."""
        size = self.feature_sizes[modality]
        return ("batch", self.words or "words", size) if modality == "text" else ("batch", size)

    def to_json(self) -> dict[str, Any]:
        """As it is written; also what the service tells of itself."""
        inputs = {name: {"dtype": "float32", "shape": list(self.shape(name))} for name in MODALITIES}
        inputs["text"]["shape"][1] = "words"  # of the graph: any number
        return {
            "format": FORMAT,
            "emotions": self.emotions,
            "inputs": inputs,
            "outputs": {
                "names": self.emotions,
                "dtype": "float32",
                "shape": ["batch", 2],
                "columns": ["absent", "present"],
                "meaning": "probabilities, as the network gives them (temperatures are not applied); the rows sum to one",
            },
            "modalities": list(self.modalities),
            "without": {name: dict(figures) for name, figures in self.without.items()},
            "text": {"words": self.words, "padding": self.padding, "padding_is_read": True},
            "cleaning": {"non_finite": self.non_finite},
            "models": [
                {
                    "name": model.name,
                    "emotions": list(model.emotions),
                    **{form: model.files(form) for form in model.formats},
                    "temperature": list(model.calibration.temperature),
                    "thresholds": {name: list(values) for name, values in model.calibration.thresholds.items()},
                }
                for model in self.models
            ],
            "sha256": dict(self.sha256),
            "versions": dict(self.versions),
        }

    def write(self, folder: Path) -> None:
        """Writes the file into a folder that nobody reads yet."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")

    def with_hashes(self, folder: Path) -> ModelDescription:
        """The same with the hashes of the files that are in the folder now."""
        names = [name for model in self.models for form in model.formats for name in model.files(form).values()]
        return dataclasses.replace(
            self, sha256={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
        )

    def read_files(self, folder: Path, model: ExportedModel, form: str) -> dict[str, bytes]:
        """The files of one model in one format, by their role; exactly those that were exported.

        Raises:
            RunError: one is missing or has another content.
        """
        found = {}
        for role, name in model.files(form).items():
            try:
                content = (folder / name).read_bytes()
            except OSError as error:
                raise RunError(
                    f"{folder / name}: must be there and readable, but {error.strerror}. Export the run again."
                ) from None
            digest = hashlib.sha256(content).hexdigest()
            if digest != self.sha256.get(name):
                raise RunError(
                    f"{folder / name}: must have the sha256 that {DESCRIPTION_FILE} tells, but has {digest[:16]}... "
                    "It is damaged or of another export: export the run again."
                )
            found[role] = content
        return found

    @classmethod
    def read(cls, folder: str | Path) -> ModelDescription:
        """Reads the file of an exported folder.

        Raises:
            RunError: it is missing, damaged, or of a newer format.
        """
        path = Path(folder) / DESCRIPTION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{folder}: must be an exported model, but has no {DESCRIPTION_FILE}. Export a run with `lmf export`."
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: must be JSON, but {' '.join(str(error).split())}. Export the run again.") from None
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise RunError(
                f"{path}: must be of the format {FORMAT}, but is of {content.get('format')!r}. Export the run again."
            )
        try:
            return cls._parsed(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise RunError(f"{path}: must describe an exported model, but {reason}. Export the run again.") from None

    @classmethod
    def _parsed(cls, content: Any) -> ModelDescription:
        models = []
        for model in content["models"]:
            emotions = tuple(check_emotion_name(name) for name in model["emotions"])
            calibration = Calibration.checked(model["temperature"], model["thresholds"], len(emotions))
            name = check_emotion_name(model["name"])  # a file name without any folder in it
            models.append(ExportedModel(name, emotions, tuple(f for f in FORMATS if f in model), calibration))
        emotions = [emotion for model in models for emotion in model.emotions]
        if not emotions or len(set(emotions)) != len(emotions):
            raise DataError(f"its emotions are {emotions}")
        sizes = {name: content["inputs"][name]["shape"][-1] for name in MODALITIES}
        words, policy = content["text"]["words"], content["cleaning"]["non_finite"]
        if not all(type(n) is int and n > 0 for n in (*sizes.values(), 1 if words is None else words)):
            raise ValueError(f"its sizes are {sizes} and {words}")
        modalities, without = tuple(content.get("modalities", MODALITIES)), content.get("without", {})
        if not modalities or not set(modalities) <= set(MODALITIES):
            raise ValueError(f"its modalities are {list(modalities)}")
        for figures in without.values():
            if not all(type(figures[name]) in (int, float) for name in ("weighted_f1", "with_all")):
                raise ValueError(f"its figures without a modality are {without}")
        if policy not in ("zero", "error"):
            raise ValueError(f"its cleaning is {policy!r}")
        return cls(
            sizes, words, content["text"]["padding"], policy, tuple(models), content["sha256"], content["versions"],
            modalities, without,
        )  # fmt: skip
