"""Features in, probabilities out: an exported model behind Paddle Inference or ONNX Runtime.

Importing this module loads neither; a predictor loads the one that it uses.

Shape letters: N rows (clips), L words, D feature dimensions, T tasks (emotions).
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from lmf_multitask.data.schema import MODALITIES
from lmf_multitask.deployment.description import DESCRIPTION_FILE, ModelDescription
from lmf_multitask.errors import ConfigError, DataError, RunError
from lmf_multitask.runtime import quiet_imports

Backend = Literal["auto", "paddle", "onnx"]
Arrays = Sequence[np.ndarray]


class _Session(Protocol):
    """One static model, loaded."""

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        """Audio, video and text, float32 -> float32 `[N, 2]` per emotion."""


class Predictor:
    """Predicts with an exported model, or with a run directory; safe to use from several threads.

        predictor = Predictor("check_inference")
        probabilities = predictor.predict(audio, video, text)     # [N, T], of being present

    Attributes:
        description: what the model expects and gives, see `ModelDescription`.
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
        calibrated: bool = False,
    ) -> None:
        """Loads the model.

        Args:
            model_dir: what ``lmf export`` wrote; or a run directory or the parent of per-emotion runs, which is then
                exported into a temporary folder first.
            backend: ``auto`` takes onnx where the folder has that format and onnxruntime is installed (it is faster and
                smaller), otherwise paddle.
            device: ``cpu``, ``gpu``, or ``auto`` (a GPU if the back end can use one).
            threads: of the math library, per running prediction; more than one is slower for models of this size.
            calibrated: whether the probabilities are calibrated with the temperatures that were fitted on validation; no
                decision at one half changes.

        Raises:
            RunError: the folder is neither, or its files are damaged; the back end is not there.
        """
        if backend not in ("auto", "paddle", "onnx"):
            raise ConfigError(f"backend must be auto, paddle or onnx, but got {backend!r}.")
        if device not in ("auto", "cpu", "gpu"):
            raise ConfigError(f"device must be auto, cpu or gpu, but got {device!r}.")
        self.calibrated = calibrated
        if type(threads) is not int or threads < 1:
            raise ConfigError(f"threads must be a whole number of at least 1, but got {threads!r}.")
        folder = Path(model_dir).expanduser()
        if (folder / DESCRIPTION_FILE).is_file() or not _holds_runs(folder):
            self._load(folder, backend, device, threads)
        else:
            from lmf_multitask.deployment.exporter import export_runs, known_formats
            from lmf_multitask.runs import runs_in

            with tempfile.TemporaryDirectory(prefix="lmf-") as scratch:
                form = "paddle" if backend == "auto" else backend
                export_runs(runs_in(folder), Path(scratch) / "model", known_formats(form), check=False)
                self._load(Path(scratch) / "model", form, device, threads)

    def _load(self, folder: Path, backend: str, device: str, threads: int) -> None:
        self.description = ModelDescription.read(folder)
        self.emotions = self.description.emotions
        self.threads = threads
        self.backend = _choose_backend(folder, self.description.formats, backend)
        load = _PaddleSession if self.backend == "paddle" else _OnnxSession
        self.device = _choose_device(self.backend, device)
        self._sessions: list[_Session] = []
        for model in self.description.models:
            files = self.description.read_files(folder, model, self.backend)
            self._sessions.append(load(files, model.emotions, self.device, threads))

    def settings(self) -> dict[str, Any]:
        """How the model is run, for benchmarks and logs."""
        return {"backend": self.backend, "device": self.device, "threads": self.threads, "models": len(self._sessions)}

    def predict(
        self, audio: np.ndarray | None = None, video: np.ndarray | None = None, text: np.ndarray | None = None
    ) -> np.ndarray:
        """The probability that each emotion is present.

        A modality that is None is missing in all clips (its features are zero); one that the model has no part for is not
        looked at.

        Args:
            audio: numbers `[N, 74]` (sizes of IEMOCAP; yours are in ``description.feature_sizes``).
            video: numbers `[N, 35]`.
            text: numbers `[N, L, 300]`; L is that of the training data where the export knows it.

        Returns:
            float32 `[N, T]`.

        Raises:
            DataError: an array has another shape or type, holds NaN or infinities that the model refuses, or all are None.
        """
        return np.ascontiguousarray(self.predict_both(audio, video, text)[:, :, 1])

    def predict_both(
        self, audio: np.ndarray | None = None, video: np.ndarray | None = None, text: np.ndarray | None = None
    ) -> np.ndarray:
        """As `predict`, with the probability of absence before that of presence: float32 `[N, T, 2]`."""
        inputs = self.checked(audio, video, text)
        if not len(inputs[0]):
            return np.empty((0, len(self.emotions), 2), np.float32)
        both = np.stack([output for session in self._sessions for output in session(inputs)], axis=1)
        return scaled(both, self.description.temperature) if self.calibrated else both

    def thresholds(self, criterion: str = "half") -> list[float]:
        """T probabilities of this predictor above which an emotion counts as present.

        Args:
            criterion: ``half``, or the figure that they were fitted for on validation (``positive_f1``, ``uar``).

        Raises:
            RunError: the model has none of that name.
        """
        plain = self.description.thresholds(criterion)
        if not self.calibrated:
            return plain
        pairs = np.array([[1 - value, value] for value in plain], np.float64)
        return scaled(pairs[None], self.description.temperature)[0, :, 1].tolist()

    def checked(
        self, audio: np.ndarray | None = None, video: np.ndarray | None = None, text: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """The three arrays as the model takes them: float32, together in memory, finite; or a `DataError` that says why not."""
        given = dict(zip(MODALITIES, (audio, video, text)))
        wanted = self.description.modalities
        arrays = {name: self._checked(name, given[name]) for name in wanted if given[name] is not None}
        if not arrays:
            raise DataError(f"at least one of {', '.join(wanted)} must be given, but none is. The model looks at them.")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"audio, video and text must have the same number of rows, but have {counts}.")
        rows = next(iter(counts.values()))
        return [arrays[name] if name in arrays else self._zeros(name, rows) for name in MODALITIES]

    def _zeros(self, modality: str, rows: int) -> np.ndarray:
        sizes = [size if isinstance(size, int) else 1 for size in self.description.shape(modality)[1:]]
        return np.zeros((rows, *sizes), np.float32)

    def _checked(self, modality: str, value: Any) -> np.ndarray:
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            raise DataError(
                f"{modality} must be an array {self._rule(modality)}, but its rows differ in length."
            ) from None
        if array.dtype.kind not in "fiu":
            raise DataError(
                f"{modality} must be an array of numbers {self._rule(modality)}, but got the type {array.dtype}."
            )
        wanted = self.description.shape(modality)
        fits = len(array.shape) == len(wanted) and all(
            size == expected or (isinstance(expected, str) and (size > 0 or expected == "batch"))
            for size, expected in zip(array.shape, wanted)
        )
        if not fits:
            hint = ""
            if modality == "text" and array.ndim == 3 and array.shape[2] == wanted[2]:
                hint = f" Pad or cut every text to {wanted[1]} words, as the training data are."
            raise DataError(
                f"{modality} must have the shape {self._rule(modality)}, but got {list(array.shape)}.{hint}"
            )
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            array = np.ascontiguousarray(array, np.float32)
        # one pass over the numbers: NaN and infinities survive a sum (an overflow only costs the second look)
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(array.sum())
        if suspicious:
            odd = ~np.isfinite(array)
            if odd.any():
                if self.description.non_finite == "error":
                    raise DataError(
                        f"{modality} must be finite, but has {int(odd.sum())} NaN or infinite values. "
                        "The model was trained to refuse them."
                    )
                array = np.where(odd, np.float32(0), array)
        return array

    def _rule(self, modality: str) -> str:
        sizes = ["rows" if size == "batch" else str(size) for size in self.description.shape(modality)]
        return f"[{', '.join(sizes)}]"


def scaled(both: np.ndarray, temperature: Sequence[float]) -> np.ndarray:
    """Probabilities `[N, T, 2]` whose logits are divided by T temperatures; of the same type."""
    smallest = np.finfo(both.dtype).smallest_subnormal
    logarithms = np.log(np.maximum(both, smallest).astype(np.float64)) / np.asarray(temperature, np.float64)[:, None]
    powers = np.exp(logarithms - logarithms.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(both.dtype)


def _holds_runs(folder: Path) -> bool:
    from lmf_multitask.runs import CONFIG_FILE

    return (folder / CONFIG_FILE).is_file() or any(folder.glob(f"*/{CONFIG_FILE}"))


def _choose_backend(folder: Path, formats: Sequence[str], wanted: str) -> str:
    runtime = importlib.util.find_spec("onnxruntime") is not None
    if wanted == "auto":
        wanted = "onnx" if "onnx" in formats and (runtime or "paddle" not in formats) else "paddle"
    if wanted not in formats:
        found = ", ".join(formats) or "no complete format"
        raise RunError(
            f"{folder}: must hold the format {wanted}, but has {found}. Export it: lmf export --format {wanted}."
        )
    if wanted == "onnx" and not runtime:
        raise RunError(
            "the back end onnx must have onnxruntime, but it is not installed. Install it: pip install 'lmf_multitask[onnx]'."
        )
    if wanted == "paddle" and importlib.util.find_spec("paddle") is None:
        raise RunError(
            "the back end paddle must have paddlepaddle, but it is not installed. Install it: pip install 'lmf_multitask[cpu]'."
        )
    return wanted


def _choose_device(backend: str, wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    if backend == "onnx":
        import onnxruntime

        usable = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    else:
        with quiet_imports():
            import paddle
        usable = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if wanted == "gpu" and not usable:
        raise RunError(
            f"device must be one that the back end {backend} can use, but got 'gpu' and it finds none. Use --device cpu."
        )
    return "gpu" if usable else "cpu"


class _PaddleSession:
    """Paddle Inference. A predictor of its is not thread-safe, so each thread gets a clone, which shares the weights.

    To clone, Paddle reads the program's file again, so the files are copied to where nobody replaces them meanwhile.
    (To hand it the bytes instead, ``set_model_buffer``, crashes Paddle 3.3.)
    """

    def __init__(self, files: Mapping[str, bytes], emotions: Sequence[str], device: str, threads: int) -> None:
        with quiet_imports():
            from paddle import inference
        scratch = Path(tempfile.mkdtemp(prefix="lmf-"))
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        for role, content in files.items():
            (scratch / role).write_bytes(content)
        (scratch / "program").rename(scratch / "program.json")  # Paddle goes by the ending
        config = inference.Config(str(scratch / "program.json"), str(scratch / "weights"))
        config.disable_glog_info()
        if device == "gpu":
            config.enable_use_gpu(256, 0)
        else:
            config.disable_gpu()
            config.disable_mkldnn()  # oneDNN, on by default, makes small batches slower
            config.set_cpu_math_library_num_threads(threads)
        config.enable_new_executor()
        config.enable_memory_optim()  # works with the new executor only
        self._emotions = list(emotions)
        self._first = inference.create_predictor(config)
        self._lock = threading.Lock()
        self._own = threading.local()

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        handles = getattr(self._own, "handles", None)
        if handles is None:
            handles = self._own.handles = self._new_handles()
        predictor, takes, gives = handles
        for handle, array in zip(takes, inputs):
            if handle is not None:
                handle.copy_from_cpu(array)
        predictor.run()
        return [handle.copy_to_cpu() for handle in gives]

    def _new_handles(self) -> tuple[Any, list[Any], list[Any]]:
        with self._lock:
            predictor = self._first.clone()
        known = predictor.get_input_names()  # a network of fewer modalities has no input for the others
        takes = [predictor.get_input_handle(name) if name in known else None for name in MODALITIES]
        return predictor, takes, [predictor.get_output_handle(name) for name in self._emotions]


class _OnnxSession:
    """ONNX Runtime, whose sessions are thread-safe."""

    def __init__(self, files: Mapping[str, bytes], emotions: Sequence[str], device: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        providers = ["CUDAExecutionProvider"] if device == "gpu" else []
        self._session = onnxruntime.InferenceSession(
            files["model"], options, providers=[*providers, "CPUExecutionProvider"]
        )
        self._emotions = list(emotions)
        self._takes = [each.name for each in self._session.get_inputs()]  # of fewer modalities: not the others

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        arrays = dict(zip(MODALITIES, inputs))
        return self._session.run(self._emotions, {name: arrays[name] for name in self._takes})
