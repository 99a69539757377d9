"""Process settings: math library, threads, logging and warnings before Paddle is imported; seeds and devices after it.

Nothing happens at import time: commands call `prepare_process` and `tune_cpu`. A program that only imports the package
keeps its own settings.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import io
import logging
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lmf_multitask import __version__
from lmf_multitask.errors import UserError, printable

_NOISE = (
    "No ccache found",  # Paddle, at import: concerns people who compile it
    "Setuptools is replacing distutils",  # paddlenlp imports pip, which imports setuptools
    "Distutils was imported before Setuptools",
    "When training, we now always track global mean and variance",  # Paddle, at every batch normalisation
)

_LINES = (
    "WARNING: OMP_NUM_THREADS set to",  # Paddle prints it for two threads or more
    "PLEASE USE OMP_NUM_THREADS WISELY",
    "Detected that datasets module was imported before paddlenlp",  # concerns downloads, which nothing here does
)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # numbers of glibc's malloc.h

_is_command = False


def is_command() -> bool:
    """Whether this process is one of our commands, so that nobody else imports or configures anything in it."""
    return _is_command


def prepare_process(debug: bool = False) -> None:
    """Sets up this process for a command: logging to stderr, no noise of other packages. Call it before Paddle is imported."""
    global _is_command
    _is_command = True
    _open_streams()
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ lines; errors still reach the user
    # objects made by imports stay alive: searching them for garbage takes a seventh of the time of the imports
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)  # and at the end of the process, half a second
    _keep_freed_memory()
    ignore_noise()
    logging.captureWarnings(True)  # one line, and in train.log
    handler = _console(logging.DEBUG if debug else logging.INFO)
    for name in ("lmf_multitask", "py.warnings"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it logs when it builds its list of fonts
    place_caches()


def _keep_freed_memory() -> None:
    """Makes glibc keep some freed memory for the next step; otherwise the kernel clears 400 pages for it again in every step."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    set_option(_MMAP_THRESHOLD, 32 << 20)
    set_option(_TRIM_THRESHOLD, 128 << 20)


_CACHES = {"PPNLP_HOME": "~/.paddlenlp", "HF_HOME": "~/.cache/huggingface", "MPLCONFIGDIR": "~/.config/matplotlib"}
"""Variable -> where a package that we use keeps its cache unless the variable is set."""


def place_caches() -> None:
    """Where the home directory cannot be written, moves the caches of other packages to a temporary folder of this process."""
    refused = [name for name, place in _CACHES.items() if name not in os.environ and not _writable(place)]
    if not refused:
        return
    folder = tempfile.TemporaryDirectory(prefix="lmf-")
    atexit.register(folder.cleanup)
    os.environ.update({name: str(Path(folder.name)) for name in refused})
    logging.getLogger("lmf_multitask").warning(
        "%s cannot be written: caches are in a temporary folder during this command. To keep them, set %s to a folder.",
        *(Path.home(), ", ".join(refused)),
    )


@contextmanager
def home_for_caches(folder: str | Path) -> Iterator[None]:
    """Inside the block, `folder` is the home directory if ~/.cache cannot be written: Paddle's to_static has no variable for it."""
    before = os.environ.get("HOME")
    if before is None or _writable("~/.cache"):
        yield
        return
    os.environ["HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ["HOME"] = before


def _writable(place: str) -> bool:
    """Whether a folder can be written, or made."""
    path = Path(place).expanduser()
    return os.access(next(one for one in (path, *path.parents) if one.exists()), os.W_OK)


def _open_streams() -> None:
    """Makes closed standard streams lead nowhere, and characters that the terminal does not have appear as escapes.

    Otherwise the next file that is opened gets the number of the closed stream, and everything that prints writes into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    if sys.stdout is sys.__stdout__ and type(sys.stdout) is io.TextIOWrapper:
        coding, by_line = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = _PlainStream(sys.stdout.detach(), coding, "backslashreplace", line_buffering=by_line)


class _PlainStream(io.TextIOWrapper):
    """A text stream that escapes control characters: names in files must not control a terminal."""

    def write(self, text: str) -> int:
        super().write(printable(text, keep="\n\t"))
        return len(text)


@contextmanager
def log_to_stderr(level: int) -> Iterator[None]:
    """Shows the package's log on stderr inside the block, unless the program has handlers of its own.

    Args:
        level: the lowest that is shown; it also limits the handlers that `prepare_process` has set.
    """
    logger = logging.getLogger("lmf_multitask")
    before = logger.handlers[:], [handler.level for handler in logger.handlers], logger.level, logger.propagate
    if level > logging.INFO:
        for handler in logger.handlers:
            handler.setLevel(max(handler.level, level))
    if not logger.handlers and all(map(_is_paddles, logging.getLogger().handlers)):
        logger.addHandler(_console(level))
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:], levels, old_level, logger.propagate = before
        logger.setLevel(old_level)
        for handler, old in zip(logger.handlers, levels):
            handler.setLevel(old)


def _is_paddles(handler: logging.Handler) -> bool:
    """Whether it is the handler that Paddle's import adds to the root logger, which shows everybody's log."""
    return getattr(handler.formatter, "_fmt", "").startswith("[%(asctime)-15s] [%(levelname)8s]")


def _console(level: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ConsoleFormatter())
    handler.setLevel(level)
    return handler


def tune_cpu(threads: int | None = None) -> None:
    """Sets the variables of `cpu_settings` in this process, except those that the user has set.

    Call it before Paddle is imported, or it has no effect.

    Args:
        threads: of the math library; None takes the fastest number for one process on an idle machine.
    """
    settings = cpu_settings()
    if threads is not None:
        settings["OMP_NUM_THREADS"] = str(threads)
    for name, value in settings.items():
        os.environ.setdefault(name, value)


class _ConsoleFormatter(logging.Formatter):
    """Plain text for information, ``warning: text`` and the like above it."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.name == "py.warnings":
            text = text.splitlines()[0]
        text = printable(text, keep="\n\t")
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def cpu_settings(processor: str | None = None, cores: int | None = None) -> dict[str, str]:
    """Environment variables under which Paddle is fastest on this processor.

    On AMD processors the MKL of Paddle takes its slowest path unless a variable forbids it, and threads help only then: an
    LSTM training step on an AMD EPYC with 2 cores is 2.4 times faster with the variable, 3.7 times with both, and 2.4 times
    slower with threads alone. On an Intel Xeon with 2 cores one thread is best: training the default network takes as long
    with two, and any setting of MKL makes it slower. More than two threads were not measured and are not used. Nothing is
    set for other processors.

    Args:
        processor: vendor of the CPU; None asks the machine.
        cores: number of cores to use; None takes those that this process may run on.
    """
    vendor = _processor_vendor() if processor is None else processor
    if "AMD" in vendor:
        count = min(usable_cores() if cores is None else cores, 2)
        return {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": str(count)}
    return {"OMP_NUM_THREADS": "1"} if "Intel" in vendor else {}


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched_processes() -> int:
    """As ``paddle.distributed.launch`` sets it; read before Paddle is imported."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def check_single_process(what: str) -> None:
    """Refuses commands that start processes of their own under a launcher.

    Raises:
        UserError: this process is one of several.
    """
    if launched_processes() > 1:
        raise UserError(
            f"{what} must be started in one process, but this is one of {launched_processes()}. "
            "Start the command without a launcher: each training gets a process of its own."
        )


def _processor_vendor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return platform.processor()


def ignore_noise() -> None:
    """Makes Python's warnings ignore the known noise of other packages."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Hides the known noise of other packages' imports inside the block, and restores the handler of SIGTERM.

    (Paddle's import replaces it by one that reports a fatal error and ends the process.)
    """
    output, ending = io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(output):
            ignore_noise()
            warnings.simplefilter("ignore", DeprecationWarning)  # among other packages
            yield
    finally:
        # only the main thread may set one; None stands for a handler in C
        if ending is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ending)
        for line in output.getvalue().splitlines():
            if not any(known in line for known in _LINES):
                print(line, file=sys.stderr)


def surroundings() -> dict[str, str]:
    """What the bits of a training depend on beside settings and data: versions, processor, and its settings."""
    from importlib.metadata import version

    import paddle

    return {
        "lmf_multitask": __version__,
        **{name: version(name) for name in ("paddlenlp", "numpy")},
        "paddle": paddle.__version__,
        "python": platform.python_version(),
        "processor": _processor_vendor() or platform.machine(),
        "device": paddle.get_device(),
        **{name: os.environ.get(name, "not set") for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")},
    }


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and Paddle's generators."""
    import paddle

    random.seed(seed)
    np.random.seed(seed % 2**32)
    paddle.seed(seed)


def select_device(device: str) -> None:
    """Makes Paddle compute on ``cpu``, ``gpu``, ``gpu:1``, or ``auto`` (a GPU if Paddle can use one).

    Raises:
        UserError: there is no such device.
    """
    import paddle

    usable = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "auto":
        device = "gpu" if usable else "cpu"
    if device.startswith("gpu") and not usable:
        raise UserError(
            f"device must be one that Paddle can use, but got {device!r} and it finds no GPU. Use --device cpu."
        )
    try:
        paddle.set_device(device)
    except ValueError:
        raise UserError(f"device must be auto, cpu, gpu or gpu:NUMBER, but got {device!r}.") from None


def flush_denormals(on: bool) -> bool:
    """Makes the processor treat numbers below 1.2e-38 (denormals) as zero, or compute with them as usual.

    An x86 processor is about a hundred times slower with them, and the gradients of a network that has learned its clips are
    full of them: an epoch of the full-size sample takes three times as long without this. It is a setting of the thread
    (Intel's OpenMP passes it to its own threads), made by the C library's ``fesetenv``: switch it on around arithmetic only.

    Returns:
        Whether it could be set: on Linux with an x86-64 processor.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    library = _c_mathematics()
    environment = (ctypes.c_uint32 * 8)()  # glibc's fenv_t: the x87 unit's 28 bytes, then MXCSR
    if library.fegetenv(environment) != 0:
        return False
    if on:
        environment[7] |= _FLUSHING
    else:
        environment[7] &= ~_FLUSHING
    return library.fesetenv(environment) == 0


@functools.cache
def _c_mathematics() -> ctypes.CDLL:
    """The mathematical C library; opened once, not twice per training step."""
    # numpy determines the limits of a type once, and warns where denormals are zero
    np.finfo(np.float32), np.finfo(np.float64)
    return ctypes.CDLL("libm.so.6")


_FLUSHING = 0x8040  # MXCSR: results (bit 15) and operands (bit 6)
