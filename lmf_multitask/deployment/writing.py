"""Static graphs of a network on disk: Paddle's program and weights, and ONNX."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmf_multitask import __version__
from lmf_multitask.data.modality import MODALITIES
from lmf_multitask.deployment.description import FORMATS, ExportedModel
from lmf_multitask.errors import RunError
from lmf_multitask.files import check_space
from lmf_multitask.models.lmf import LMFModel
from lmf_multitask.runtime import home_for_caches, quiet_imports
from lmf_multitask.tasks import output_slices

with quiet_imports():
    import paddle

_PROGRAM_BYTES = 1 << 20  # more than the description of any of our graphs takes; LSTM stays one operator
_OPSET = 17  # the newest that paddle2onnx 2.0 is tested with; LSTM stays one operator
# without paddle2onnx's optimiser, which needs newer packages than paddlenlp allows
_CONVERSION = {"opset_version": _OPSET, "optimize_tool": "None"}


class _ExportedLayer(paddle.nn.Layer):
    """The network, with one output per task."""

    def __init__(self, model: LMFModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        audio: paddle.Tensor | None = None,
        video: paddle.Tensor | None = None,
        text: paddle.Tensor | None = None,
    ) -> list[paddle.Tensor]:
        """As `LMFModel.forward` -> what each task exports: of a binary one float32 `[B, 2]`, absent and present."""
        outputs, tasks = self.model(audio, video, text), self.model.tasks
        return [task.exported(outputs[:, part]) for task, part in zip(tasks, output_slices(tasks))]


def write_model(model: LMFModel, inputs: Mapping[str, Sequence[int]], folder: Path, about: ExportedModel) -> None:
    """Writes the files of a model in its formats.

    Args:
        model: the network.
        inputs: modality -> shape, -1 for any size.
        folder: the folder.
        about: name and formats.

    Raises:
        RunError: packages are missing, the disk is full, or Paddle writes programs in another way.
    """
    with tempfile.TemporaryDirectory(prefix="lmf-") as scratch:
        place = folder if "paddle" in about.formats else Path(scratch)
        size = sum(value.nbytes for value in (one.numpy() for one in model.weights().values()))
        for target in (place, folder):  # Paddle and paddle2onnx write half a file to a full disk, and say nothing
            check_space(target, len(about.formats) * (size + _PROGRAM_BYTES))
        with home_for_caches(scratch):
            _write_paddle(model, inputs, place / about.name)
        if "onnx" in about.formats:
            _write_onnx(place / about.name, folder / f"{about.name}.onnx", _is_ours(model))


def _write_paddle(model: LMFModel, inputs: Mapping[str, Sequence[int]], path: Path) -> None:
    """Writes ``PATH.json`` and ``PATH.pdiparams``."""
    layer = _ExportedLayer(model)
    layer.eval()
    # a program has no input for a modality that the network does not use
    spec: Any = [paddle.static.InputSpec(inputs[m], "float32", m) if m in inputs else None for m in MODALITIES]
    with paddle.utils.unique_name.guard(), _quiet_output():
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(path))
    _name_outputs(path.with_name(f"{path.name}.json"), model.task_names)


def _name_outputs(program: Path, names: Sequence[str]) -> None:
    """Renames the outputs, which Paddle always calls fetch_name_0, fetch_name_1 ..., in the program's file."""
    content = json.loads(program.read_text(encoding="utf-8"))
    found = [
        attribute["AT"]
        for operator in content["program"]["regions"][0]["blocks"][0]["ops"]
        if operator["#"].endswith(".fetch")
        for attribute in operator["A"]
        if attribute["N"] == "name"
    ]
    expected = [f"fetch_name_{t}" for t in range(len(names))]
    if [one["D"] for one in found] != expected:
        raise RunError(
            f"the outputs of the program must be {expected}, but are {[one['D'] for one in found]}. This Paddle "
            f"({paddle.__version__}) writes programs in another way: use 3.0 to 3.3."
        )
    for one, name in zip(found, names):
        one["D"] = name
    program.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _write_onnx(source: Path, target: Path, ours: bool) -> None:
    require_onnx()
    files = [str(source.with_name(f"{source.name}.{end}")) for end in ("json", "pdiparams")] + [str(target)]
    if ours:
        import paddle2onnx

        with _quiet_output():
            paddle2onnx.export(*files, **_CONVERSION)
        return
    # in a process of its own, since paddle2onnx ends the process at an operator that it does not know
    code = f"import sys, paddle2onnx; paddle2onnx.export(*sys.argv[1:], **{_CONVERSION})"
    ended = subprocess.run(
        [sys.executable, "-c", code, *files],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if ended.returncode or not target.is_file():
        raise RunError(
            "the network must consist of operators that paddle2onnx knows, but a part of a plug-in has another one. "
            "Export it with --format paddle."
        )


def _is_ours(model: LMFModel) -> bool:
    """Whether no part of the network is a plug-in's."""
    parts = (*model.encoders.values(), model.fusion)
    return all(type(part).__module__.startswith("lmf_multitask.") for part in parts)


def usual_formats(models: Sequence[LMFModel]) -> tuple[str, ...]:
    """Paddle, and ONNX where its packages are installed and the networks have no part of a plug-in."""
    return FORMATS if all(map(_is_ours, models)) and not _missing_for_onnx() else ("paddle",)


def _missing_for_onnx() -> list[str]:
    return [name for name in ("paddle2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]


def require_onnx() -> None:
    """Makes sure that the packages for ONNX are installed.

    Raises:
        RunError: one is missing.
    """
    missing = _missing_for_onnx()
    if missing:
        raise RunError(
            f"the format onnx must have {', '.join(missing)}, but it is not installed. Install it: pip install 'lmf_multitask[onnx]'."
        )


@contextmanager
def _quiet_output() -> Iterator[None]:
    """Hides what the C++ code of Paddle and paddle2onnx prints, at the level of file descriptors; errors are raised anyway."""
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


def versions(formats: Sequence[str]) -> dict[str, str]:
    """Package -> version, of what writes these formats."""
    found = {"lmf_multitask": __version__, "paddle": paddle.__version__}
    if "onnx" in formats:
        found.update({name: version(name) for name in ("paddle2onnx", "onnxruntime")}, opset=str(_OPSET))
    return found
