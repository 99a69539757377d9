"""A static model behind Paddle Inference or ONNX Runtime; nothing is loaded that `graph` has not checked.

Importing this module loads neither; opening a session loads the one that it uses.
"""

from __future__ import annotations

import importlib.util
import resource
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmf_multitask.deployment.description import ExportedModel, ModelDescription
from lmf_multitask.deployment.graph import check_onnx, check_paddle
from lmf_multitask.errors import RunError
from lmf_multitask.files import is_full, naming
from lmf_multitask.runtime import quiet_imports

Arrays = Mapping[str, np.ndarray]
"""Modality -> float32 `[N, D]` or `[N, L, D]`."""

_MOST_MEMORY, _MOST_TIMES = 1 << 32, 64
"""A running graph may take so many bytes, and so many times the bytes of its inputs."""


class Session(Protocol):
    """One static model, loaded.

    Attributes:
        columns: of each output: 2 of an emotion, 1 of a real-valued task.
    """

    columns: Sequence[int] = ()

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        """Features of all modalities -> float32 `[N, 2]` per emotion."""


def open_sessions(
    folder: Path, description: ModelDescription, backend: str, device: str, threads: int
) -> list[Session]:
    """Loads every model of an exported folder, after a check of its graph.

    Args:
        folder: the folder.
        description: what its ``lmf_model.json`` says.
        backend: ``paddle`` or ``onnx``.
        device: ``cpu`` or ``gpu``.
        threads: of the math library.

    Raises:
        RunError: a file is missing or damaged, or holds another graph than the exporter writes.
    """
    return [_open(folder, description, model, backend, device, threads) for model in description.models]


def _open(
    folder: Path, description: ModelDescription, model: ExportedModel, backend: str, device: str, threads: int
) -> Session:
    files = description.read_files(folder, model, backend)
    inputs = description.graph_inputs(model)
    path = folder / next(iter(model.files(backend).values()))
    try:
        session: Session
        with _MEMORY.limited(sum(map(len, files.values()))):
            if backend == "onnx":
                check_onnx(files["model"], inputs, model.emotions)
                session = _OnnxSession(files["model"], model, device, threads)
            else:
                program = check_paddle(files["program"], files["weights"], inputs, model.emotions)
                session = _PaddleSession(program, files["weights"], model, device, threads)
        session.columns = [1 if name in description.regression else 2 for name in model.emotions]
        clips = {name: np.zeros([2 if size < 0 else size for size in inputs[name]], np.float32) for name in inputs}
        run_session(session, clips)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    except Exception as error:  # whatever a runtime raises, the content of the files is the cause
        if is_full(error):
            raise
        raise RunError(f"{path}: must be a graph that {backend} can load, but {_reason(error)}.") from error
    return session


def run_session(session: Session, inputs: Arrays) -> list[np.ndarray]:
    """The outputs of a session.

    Raises:
        RunError: the runtime cannot run the graph on these features, or the outputs have other shapes than predictions.
    """
    try:
        with _MEMORY.limited(sum(array.nbytes for array in inputs.values())):
            outputs = session(inputs)
    except MemoryError:
        raise
    except Exception as error:
        raise RunError(f"the model must run on features of its shapes, but {_reason(error)}.") from error
    shapes = [(len(next(iter(inputs.values()))), columns) for columns in session.columns]
    if [(one.dtype, one.shape) for one in outputs] != [(np.dtype(np.float32), shape) for shape in shapes]:
        found = ", ".join(f"{one.dtype} {list(one.shape)}" for one in outputs)[:200]
        raise RunError(f"the model must give float32 {', '.join(map(str, map(list, shapes)))}, but gives {found}.")
    return outputs


class _Memory:
    """Limits what the process may take while a graph runs: the smallest graph can fill an array of any size."""

    def __init__(self) -> None:
        self._lock, self._running = threading.Lock(), 0
        self._before = resource.getrlimit(resource.RLIMIT_DATA)

    @contextmanager
    def limited(self, input_bytes: int) -> Iterator[None]:
        """Allows so much more than the process has now; the limit of the first of several threads holds for all."""
        with self._lock:
            if not self._running:
                self._before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
                with open("/proc/self/statm", "rb", buffering=0) as file:
                    used = int(file.read().split()[5]) * resource.getpagesize()
                most = used + _MOST_MEMORY + _MOST_TIMES * input_bytes
                resource.setrlimit(resource.RLIMIT_DATA, (most if soft < 0 else min(soft, most), hard))
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    resource.setrlimit(resource.RLIMIT_DATA, self._before)


_MEMORY = _Memory()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error: " in line), (lines or [type(error).__name__])[-1])[:200].rstrip(".")


class _PaddleSession(Session):
    """Paddle Inference. Its predictors are not thread-safe, so each thread gets a clone, which shares the weights.

    To clone, Paddle reads the program's file again, so the session has its own copy of the files.
    (To pass the bytes instead, ``set_model_buffer``, crashes Paddle 3.3.)
    """

    def __init__(self, program: bytes, weights: bytes, model: ExportedModel, device: str, threads: int) -> None:
        with quiet_imports():
            from paddle import inference
        scratch = Path(tempfile.mkdtemp(prefix="lmf-"))
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        with naming(scratch):
            (scratch / "program.json").write_bytes(program)
            (scratch / "weights").write_bytes(weights)
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
        self._model = model
        self._first = inference.create_predictor(config)
        self._own = threading.local()

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        if hasattr(self._own, "handles"):
            return self._run(inputs)
        with _results_kept():
            self._own.handles = self._new_handles()
            return self._run(inputs)

    def _run(self, inputs: Arrays) -> list[np.ndarray]:
        predictor, takes, gives = self._own.handles
        for name, handle in takes.items():
            handle.copy_from_cpu(inputs[name])
        predictor.run()
        return [handle.copy_to_cpu() for handle in gives]

    def _new_handles(self) -> tuple[Any, dict[str, Any], list[Any]]:
        predictor = self._first.clone()
        takes = {name: predictor.get_input_handle(name) for name in self._model.modalities}
        return predictor, takes, [predictor.get_output_handle(name) for name in self._model.emotions]


_FLAGS = threading.Lock()


@contextmanager
def _results_kept() -> Iterator[None]:
    """A predictor that first runs inside the block keeps intermediate results until its next run.

    Otherwise Paddle hands each of them, as soon as it is no longer needed, to another thread that frees it: half of the time of
    a single clip.
    """
    import paddle

    with _FLAGS:
        before = paddle.get_flags("FLAGS_eager_delete_tensor_gb")
        paddle.set_flags(dict.fromkeys(before, -1.0))
        try:
            yield
        finally:
            paddle.set_flags(before)


class _OnnxSession(Session):
    """ONNX Runtime, whose sessions are thread-safe."""

    def __init__(self, content: bytes, model: ExportedModel, device: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal; errors are raised
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what was checked, not its own format
        providers = ["CUDAExecutionProvider"] if device == "gpu" else []
        with redirect_stdout(None):  # it prints what the file holds when it fails, and tries again
            self._session = onnxruntime.InferenceSession(
                content, options, providers=[*providers, "CPUExecutionProvider"]
            )
        self._session.disable_fallback()
        self._model = model

    def __call__(self, inputs: Arrays) -> list[np.ndarray]:
        return self._session.run(list(self._model.emotions), {name: inputs[name] for name in self._model.modalities})


def choose_backend(folder: Path, formats: Sequence[str], wanted: str, device: str) -> str:
    """``auto`` -> onnx where the folder has that format and onnxruntime can run it on the wanted device, otherwise paddle.

    Raises:
        RunError: the folder has no such format, or the package is not installed.
    """
    runtime = importlib.util.find_spec("onnxruntime") is not None
    if wanted == "auto":
        fits = runtime and (device != "gpu" or _onnx_has_gpu())
        wanted = "onnx" if "onnx" in formats and (fits or "paddle" not in formats) else "paddle"
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


def choose_device(backend: str, wanted: str) -> str:
    """``auto`` -> gpu where the back end can use one, otherwise cpu.

    Raises:
        RunError: a GPU is wanted and cannot be used.
    """
    if wanted == "cpu":
        return "cpu"
    if backend == "onnx":
        usable = _onnx_has_gpu()
    else:
        with quiet_imports():
            import paddle
        usable = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if wanted == "gpu" and not usable:
        raise RunError(f"device must be one that the back end {backend} can use, but got 'gpu'. Use --device cpu.")
    return "gpu" if usable else "cpu"


def _onnx_has_gpu() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
