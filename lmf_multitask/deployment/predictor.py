"""Features in, predictions out: checks of the input around an exported model.

Shape letters: N rows (clips), L steps, D feature dimensions, T tasks (emotions).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmf_multitask.data.modality import MODALITIES, as_float32, missing_clips
from lmf_multitask.deployment.description import DESCRIPTION_FILE, ModelDescription
from lmf_multitask.deployment.sessions import choose_backend, choose_device, open_sessions, run_session
from lmf_multitask.errors import ConfigError, DataError
from lmf_multitask.evaluation.calibration import OWN

Backend = Literal["auto", "paddle", "onnx"]


@dataclass(frozen=True)
class Checked:
    """Features as a model takes them.

    Attributes:
        arrays: every modality -> float32, contiguous and finite; zeros where the modality was not given or is not used.
        non_finite: modality -> how many numbers were NaN or infinite and became 0; only those with any.
        used: the modalities that the model uses.
    """

    arrays: Mapping[str, np.ndarray]
    non_finite: Mapping[str, int]
    used: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def missing(self) -> dict[str, np.ndarray]:
        """Modality that the model uses -> in which clips it is missing, bool `[N]`."""
        return {name: missing_clips(self.arrays[name]) for name in self.used}


class Predictor:
    """Predicts with an exported model, or with a run directory; safe to use from several threads.

        predictor = Predictor("check_inference")
        probabilities = predictor.predict(audio, video, text)     # [N, T], of being present

    Attributes:
        description: what the model expects and returns, see `ModelDescription`.
        emotions: names of the T columns.
        backend: ``paddle`` or ``onnx``.
        device: ``cpu`` or ``gpu``.
    """

    def __init__(
        self,
        model_dir: str | Path,
        backend: Backend = "auto",
        device: str = "auto",
        threads: int = 1,
    ) -> None:
        """Loads the model.

        Args:
            model_dir: what ``lmf export`` wrote; or a run directory or the parent of per-emotion runs, which is then
                exported into a temporary folder first.
            backend: ``auto`` uses onnx where the folder has that format and onnxruntime is installed and can use the device
                (it is faster and smaller), otherwise paddle.
            device: ``cpu``, ``gpu``, or ``auto`` (a GPU if the back end can use one).
            threads: of the math library, per running prediction; more than one is slower for models of this size.

        Raises:
            RunError: the folder is neither, its files are damaged, or the back end is not installed.
        """
        if backend not in ("auto", "paddle", "onnx"):
            raise ConfigError(f"backend must be auto, paddle or onnx, but got {backend!r}.")
        if device not in ("auto", "cpu", "gpu"):
            raise ConfigError(f"device must be auto, cpu or gpu, but got {device!r}.")
        if type(threads) is not int or threads < 1:
            raise ConfigError(f"threads must be a whole number of at least 1, but got {threads!r}.")
        self.threads = threads
        folder = Path(model_dir).expanduser()
        if (folder / DESCRIPTION_FILE).exists() or not _may_be_run(folder):
            self._load(folder, backend, device)
            return
        from lmf_multitask.deployment.exporter import export_run  # needs Paddle, an exported ONNX model does not

        with tempfile.TemporaryDirectory(prefix="lmf-") as scratch:
            export_run(folder, Path(scratch) / "model", None if backend == "auto" else (backend,), check=False)
            self._load(Path(scratch) / "model", backend, device)

    def _load(self, folder: Path, backend: str, device: str) -> None:
        self.description = ModelDescription.read(folder)
        self.emotions = self.description.emotions
        self.backend = choose_backend(folder, self.description.formats, backend, device)
        self.device = choose_device(self.backend, device)
        self._sessions = open_sessions(folder, self.description, self.backend, self.device, self.threads)

    def settings(self) -> dict[str, Any]:
        """How the model is run, for benchmarks and logs."""
        return {"backend": self.backend, "device": self.device, "threads": self.threads, "models": len(self._sessions)}

    def predict(
        self, audio: np.ndarray | None = None, video: np.ndarray | None = None, text: np.ndarray | None = None
    ) -> np.ndarray:
        """The probability that each emotion is present; of real-valued tasks the value.

        A modality that is None is missing in all clips (its features are zero). A modality that the model does not use is
        ignored.

        Args:
            audio: numbers `[N, 74]` (the shapes of IEMOCAP; yours are in ``description.inputs``).
            video: numbers `[N, 35]`.
            text: numbers `[N, L, 300]`.

        Returns:
            float32 `[N, T]`.

        Raises:
            DataError: an array has another shape or type, holds NaN or infinities that the model refuses, or all are None.
        """
        return self.predict_checked(self.check(audio, video, text))

    def predict_checked(self, clips: Checked) -> np.ndarray:
        """The same of features that `check` returned."""
        if not len(clips):
            return np.empty((0, len(self.emotions)), np.float32)
        outputs = [output for session in self._sessions for output in run_session(session, clips.arrays)]
        return np.stack([output[:, -1] for output in outputs], axis=1)

    def thresholds(self, criterion: str = OWN) -> list[float]:
        """T probabilities above which an emotion counts as present, see `Calibration.thresholds`."""
        return self.description.calibration.thresholds(criterion, self.description.tasks).tolist()

    def check(
        self, audio: np.ndarray | None = None, video: np.ndarray | None = None, text: np.ndarray | None = None
    ) -> Checked:
        """The features as the model takes them; arguments and errors as of `predict`."""
        given = {"audio": audio, "video": video, "text": text}
        used = self.description.modalities
        non_finite: dict[str, int] = {}
        arrays = {name: self._checked(name, given[name], non_finite) for name in used if given[name] is not None}
        if not arrays:
            raise DataError(f"at least one of {', '.join(used)}, which the model uses, must be given, but none is.")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"audio, video and text must have the same number of rows, but have {counts}.")
        rows = next(iter(counts.values()))
        every = {name: arrays[name] if name in arrays else self._zeros(name, rows) for name in MODALITIES}
        return Checked(every, non_finite, tuple(used))

    def _zeros(self, modality: str, rows: int) -> np.ndarray:
        sizes = [size if isinstance(size, int) else 1 for size in self.description.shape(modality)[1:]]
        return np.zeros((rows, *sizes), np.float32)

    def _checked(self, modality: str, value: Any, non_finite: dict[str, int]) -> np.ndarray:
        wanted = self.description.shape(modality)
        rule = f"[{', '.join('rows' if size == 'batch' else str(size) for size in wanted)}]"
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            raise DataError(f"{modality} must be an array {rule}, but its rows differ in length.") from None
        if array.dtype.kind not in "fiu":
            raise DataError(f"{modality} must be an array of numbers {rule}, but got the type {array.dtype}.")
        if MODALITIES[modality].sequence and array.ndim == 2:  # a vector is a sequence of length one
            array = array[:, None]
        fits = len(array.shape) == len(wanted) and all(
            size > 0 or expected == "batch" if isinstance(expected, str) else size == expected
            for size, expected in zip(array.shape, wanted)
        )
        if not fits:
            raise DataError(f"{modality} must have the shape {rule}, but got {list(array.shape)}.")
        array = np.ascontiguousarray(as_float32(array))
        # one pass over the numbers: NaN and infinities survive a sum (an overflow only costs the second pass)
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(array.sum())
        if not suspicious:
            return array
        odd = ~np.isfinite(array)
        if odd.any():
            non_finite[modality] = int(odd.sum())
            if self.description.non_finite == "error":
                raise DataError(
                    f"{modality} must be finite, but has {non_finite[modality]} NaN or infinite values. "
                    "The model was trained to refuse them."
                )
            array = np.where(odd, np.float32(0), array)
        return array


def _may_be_run(folder: Path) -> bool:
    """Whether a folder is a run or holds runs; without Paddle, which may not be installed."""
    return any(any(folder.glob(f"{inner}model/config.json")) for inner in ("", "*/"))
