"""Trained runs -> static models in one folder, each checked against the network that it came from.

Shape letters: B batch, N rows, L words, T tasks (emotions).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmf_multitask import __version__
from lmf_multitask.data.features import open_features
from lmf_multitask.data.report import clean, padding_side
from lmf_multitask.data.schema import MODALITIES, as_model_takes
from lmf_multitask.deployment.description import (
    DESCRIPTION_FILE,
    FORMATS,
    Calibration,
    ExportedModel,
    ModelDescription,
)
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.evaluation.robustness import loss_without
from lmf_multitask.files import atomic_folder
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.runs import ROBUSTNESS_FILE, Run
from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    import paddle

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest difference of a probability between the exported and the trained model."""

_OPSET = 17  # the newest that paddle2onnx 2.0 is tested with; LSTM stays one operator


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


@dataclass(frozen=True)
class KnownData:
    """What an export knows of the data that its runs were trained on.

    Attributes:
        rows: ``audio`` float32 `[N, 74]`, ``video`` `[N, 35]`, ``text`` `[N, L, 300]` (IEMOCAP's sizes), if at hand.
        words: L, if known.
        padding: where a text is padded: ``end``, ``front``, ``both`` or ``none``, if known.
        about: where the clips came from, for people.
    """

    rows: Mapping[str, np.ndarray] | None = None
    words: int | None = None
    padding: str | None = None
    about: str = "generated clips"


def known_data(runs: Sequence[Run], data_path: str | None = None, most: int = 256) -> KnownData:
    """Some validation clips of the data of a run, without their labels; nothing where the data are no longer at hand.

    Args:
        runs: the runs; the first whose data are there counts.
        data_path: other data, which must be there.
        most: clips to read.

    Raises:
        DataError: `data_path` is given and cannot be read, or its sizes are not those of the model.
    """
    if data_path is not None:
        return _read_some(data_path, runs[0].load_model(), most)
    for run in runs:
        path = run.load_config().data_path or _sample_path()
        try:
            return _read_some(path, run.load_model(), most)
        except (DataError, OSError) as error:
            logger.warning("the training data are not at hand, so that the length of the texts is not known: %s", error)
    return KnownData()


def _sample_path() -> str:
    from lmf_multitask.data.sample import builtin_sample

    return str(builtin_sample())


def _read_some(path: str, model: LMFModel, most: int) -> KnownData:
    try:
        source = open_features(path, "validation")
    except DataError:
        source = open_features(path, None)
    ids, rows = next(source.blocks(most))
    words, padding = None, None
    if "text" in rows:
        words, padding = source.shapes["text"][0], padding_side([clean(rows["text"].copy(), "text")])
    absent = {name: np.zeros((len(ids), 1, 1) if name == "text" else (len(ids), 1), np.float32) for name in MODALITIES}
    rows = as_model_takes({**absent, **rows}, model.feature_sizes, model.config.modalities, path)
    return KnownData(rows, words, padding, f"{len(ids)} clips of {Path(path).name}")


class _ProbabilityModel(paddle.nn.Layer):
    """The network and the softmax: one output per emotion."""

    def __init__(self, model: LMFModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        audio: paddle.Tensor | None = None,
        video: paddle.Tensor | None = None,
        text: paddle.Tensor | None = None,
    ) -> list[paddle.Tensor]:
        """As `LMFModel.forward` -> T probabilities, float32 `[B, 2]` each: absent, present."""
        logits = self.model(audio, video, text)
        return paddle.unbind(paddle.nn.functional.softmax(logits, axis=-1), axis=1)


def export_runs(
    runs: Sequence[Run],
    output_dir: str | Path,
    formats: Sequence[str] = ("paddle",),
    data: KnownData | None = None,
    check: bool = True,
) -> Export:
    """Writes the models of one multi-task run, or of several per-emotion runs, into one folder.

    Args:
        runs: run directories, see `lmf_multitask.runs.runs_in`.
        output_dir: the folder; an earlier export there is replaced, as a whole or not at all.
        formats: ``paddle``, ``onnx`` or both.
        data: clips to compare the models on, and what is known of the training data; None generates clips.
        check: whether the exported models are compared with the trained ones.

    Raises:
        RunError: a run has no model, the runs do not fit together, the folder holds something else, or an exported
            model does not agree with its trained one.
    """
    output_dir = Path(output_dir).expanduser()
    check_replaceable(output_dir)
    data = data or KnownData()
    models = [run.load_model() for run in runs]
    _check_together(runs, models)
    calibrations = [
        Calibration.read(run.folder / "model" / "calibration.json", model.emotions) for run, model in zip(runs, models)
    ]
    configs = [run.load_config() for run in runs]
    exported = []
    with atomic_folder(output_dir) as folder:
        for model, calibration in zip(models, calibrations):
            name = model.emotions[0] if len(model.emotions) == 1 else "multitask"
            exported.append(ExportedModel(name, tuple(model.emotions), tuple(formats), calibration))
            _write_model(model, folder, name, formats)
        description = ModelDescription(
            feature_sizes=models[0].feature_sizes,
            words=data.words,
            padding=data.padding,
            non_finite="error" if any(config.data.non_finite == "error" for config in configs) else "zero",
            models=tuple(exported),
            sha256={},
            versions=_versions(formats),
            modalities=tuple(name for name in MODALITIES if any(name in model.config.modalities for model in models)),
            without=_measured_without(runs),
        ).with_hashes(folder)
        description.write(folder)
        if not check:
            return Export(description, {}, 0)
        batches = _batches(data, models[0].feature_sizes)
        differences = {form: _difference(folder, form, models, batches) for form in formats}
    return Export(description, differences, sum(len(batch["audio"]) for batch in batches))


def _measured_without(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """What ``robustness.json`` of the run, or of the runs' parent, says of each modality's absence; nothing where there is none."""
    folder = runs[0].folder if len(runs) == 1 else runs[0].folder.parent
    path = folder / ROBUSTNESS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pairs = {modality: loss_without(found, modality) for modality in MODALITIES}
        return {
            modality: {"split": str(found["split"]), "weighted_f1": pair[1], "with_all": pair[0]}
            for modality, pair in pairs.items()
            if pair is not None
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: must be what `lmf evaluate --robustness` wrote, but {' '.join(str(error).split())[:120]}. Remove it."
        ) from None


def check_replaceable(folder: Path) -> None:
    """Makes sure that an export may take the place of what is there.

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
    own = {DESCRIPTION_FILE}
    if found:
        own |= set(ModelDescription.read(folder).sha256)
    foreign = [name for name in found if name not in own]
    if foreign:
        raise RunError(
            f"{folder}: must hold nothing but an earlier export, but holds {foreign[0]!r} too. "
            "Move it away, or choose another --output_dir."
        )


def probabilities(model: LMFModel, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What an export of this model must give: the softmax of its logits, float64 `[N, T, 2]`."""
    model.eval()
    with paddle.no_grad():
        logits = model(*(paddle.to_tensor(batch[name]) for name in MODALITIES)).numpy().astype(np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _check_together(runs: Sequence[Run], models: Sequence[LMFModel]) -> None:
    emotions = [emotion for model in models for emotion in model.emotions]
    if len(set(emotions)) != len(emotions):
        raise RunError(
            f"{runs[0].folder.parent}: each emotion must be in one run, but the runs have {', '.join(emotions)}."
        )
    taken = [emotion for emotion in emotions if emotion in (*MODALITIES, Path(DESCRIPTION_FILE).stem)]
    if taken:
        raise RunError(
            f"{runs[0].folder}: an emotion must not be called like an input or a file of an export, but one is {taken[0]!r}."
        )
    if len(models) > 1 and any(len(model.emotions) > 1 for model in models):
        raise RunError(
            f"{runs[0].folder.parent}: must hold one run per emotion, but has a multi-task run among others. Export it by itself."
        )
    for run, model in zip(runs, models):
        if model.feature_sizes != models[0].feature_sizes:
            raise RunError(
                f"{run.folder}: must have the feature sizes of the other runs, {models[0].feature_sizes}, "
                f"but has {model.feature_sizes}."
            )


# -- writing


def _write_model(model: LMFModel, folder: Path, name: str, formats: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = folder if "paddle" in formats else Path(scratch)
        _write_paddle(model, place / name)
        if "onnx" in formats:
            _write_onnx(place / name, folder / f"{name}.onnx")


def _write_paddle(model: LMFModel, path: Path) -> None:
    """Writes ``PATH.json`` and ``PATH.pdiparams``."""
    layer = _ProbabilityModel(model)
    layer.eval()
    sizes = model.feature_sizes
    shapes = {"audio": [None, sizes["audio"]], "video": [None, sizes["video"]], "text": [None, None, sizes["text"]]}
    used = model.config.modalities  # a program has no input for what the network has no part for
    spec = [paddle.static.InputSpec(shapes[m], "float32", m) if m in used else None for m in MODALITIES]
    with paddle.utils.unique_name.guard(), _quiet_output():
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(path))
    program = path.with_name(f"{path.name}.json")
    _name_outputs(program, model.emotions)


def _name_outputs(program: Path, emotions: Sequence[str]) -> None:
    """Paddle calls the outputs fetch_name_0, 1 ... whatever one does: write the emotions' names into the program."""
    content = json.loads(program.read_text(encoding="utf-8"))
    names = [
        attribute["AT"]
        for block in content["program"]["regions"][0]["blocks"]
        for operator in block["ops"]
        if operator["#"].endswith(".fetch")
        for attribute in operator["A"]
        if attribute["N"] == "name"
    ]
    expected = [f"fetch_name_{t}" for t in range(len(emotions))]
    if [name["D"] for name in names] != expected:
        found = [name["D"] for name in names]
        raise RunError(
            f"the outputs of the program must be {expected}, but are {found}. This Paddle ({paddle.__version__}) writes programs "
            "in another way: use 3.0 to 3.3."
        )
    for name, emotion in zip(names, emotions):
        name["D"] = emotion
    program.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _write_onnx(source: Path, target: Path) -> None:
    require_onnx()
    import paddle2onnx

    program, weights = source.with_name(f"{source.name}.json"), source.with_name(f"{source.name}.pdiparams")
    with _quiet_output():  # without its optimiser, which needs newer packages than paddlenlp allows
        paddle2onnx.export(str(program), str(weights), str(target), opset_version=_OPSET, optimize_tool="None")


def require_onnx() -> None:
    """Makes sure that the packages for ONNX are installed.

    Raises:
        RunError: one is missing.
    """
    import importlib.util

    missing = [name for name in ("paddle2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            f"the format onnx must have {', '.join(missing)}, but it is not installed. Install it: pip install 'lmf_multitask[onnx]'."
        )


@contextmanager
def _quiet_output() -> Iterator[None]:
    """Hides what Paddle's and paddle2onnx's C++ code prints, at the level of file descriptors; errors are raised anyway."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    logging_before = logging.root.manager.disable
    try:
        with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
    finally:
        logging.disable(logging_before)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept):
            os.dup2(copy, number)
            os.close(copy)


def _versions(formats: Sequence[str]) -> dict[str, str]:
    versions = {"lmf_multitask": __version__, "paddle": paddle.__version__}
    if "onnx" in formats:
        from importlib.metadata import version

        versions.update({name: version(name) for name in ("paddle2onnx", "onnxruntime")})
        versions["opset"] = str(_OPSET)
    return versions


# -- comparing


def _batches(data: KnownData, sizes: Mapping[str, int]) -> list[dict[str, np.ndarray]]:
    """The given clips, or generated ones of the size of IEMOCAP's features; as one batch, and the first as one row."""
    rows = data.rows
    if rows is None:
        random = np.random.default_rng(0)
        length = data.words or 20
        rows = {
            "audio": random.normal(0, 0.1, (64, sizes["audio"])),
            "video": random.normal(0, 0.1, (64, sizes["video"])),
            "text": random.normal(0, 0.3, (64, length, sizes["text"])),
        }
    whole = {name: np.nan_to_num(np.asarray(rows[name], np.float32), nan=0, posinf=0, neginf=0) for name in MODALITIES}
    return [whole, {name: values[:1] for name, values in whole.items()}]


def _difference(
    folder: Path, form: str, models: Sequence[LMFModel], batches: Sequence[Mapping[str, np.ndarray]]
) -> float:
    predictor = Predictor(folder, backend=form, device="cpu")
    differences = []
    for batch in batches:
        got = predictor.predict_both(**batch)
        expected = np.concatenate([probabilities(model, batch) for model in models], axis=1)
        differences.append(np.abs(got - expected).max())
    largest = float(np.max(differences))  # NaN if one is
    if not largest <= TOLERANCE:
        raise RunError(
            f"the exported {form} model must agree with the trained one within {TOLERANCE:g}, but differs by {largest:.2g}. "
            "Nothing was written; please report this with your versions of Paddle and of this package."
        )
    return largest


def known_formats(name: str) -> tuple[str, ...]:
    """``paddle``, ``onnx`` or ``both`` -> the formats."""
    return FORMATS if name == "both" else (name,)
