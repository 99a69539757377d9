"""Progress of long tasks: log lines, and on a terminal a bar with the remaining time below them."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmf_multitask.errors import RunError
from lmf_multitask.files import naming, open_regular

logger = logging.getLogger(__name__)


class Progress:
    """Logs lines; on a terminal it also shows a bar. Several threads may use it."""

    def __init__(self, total: int, unit: str, done: int = 0) -> None:
        """Takes the number of steps, the name of one step, and how many steps are already done."""
        self._total, self._unit, self._done = total, unit, done
        self._lock = threading.RLock()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, initial=self._done, unit=self._unit, leave=False, dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Logs one line."""
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            logger.log(level, "%s", text)
            if self._bar is not None:
                self._bar.refresh()

    def move_to(self, done: int) -> None:
        """Sets the bar to the number of finished steps."""
        with self._lock:
            if self._bar is not None:
                self._bar.n = done
                self._bar.refresh()


class _LogFile(logging.FileHandler):
    """Raises what the disk refuses, where `logging` would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise  # called while the error is handled


@contextmanager
def logging_to_file(path: Path) -> Iterator[None]:
    """Copies everything that the package logs inside the block to a file, such as ``train.log``."""
    if path.exists():  # a pipe would never open
        open_regular(path, RunError).close()
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger("lmf_multitask"), logging.getLogger("py.warnings")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        with naming(path):
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.removeHandler(handler)
            logger.setLevel(level)
        with contextlib.suppress(OSError):  # of a full disk, which has been said
            handler.close()


def epoch_line(row: Mapping[str, float], epochs: int, monitor: str) -> str:
    """One row of the history as text: losses, weighted F1, and the monitored metric."""
    shown = {"train_loss": "train loss", "validation_loss": "validation loss", "validation_weighted_f1": "weighted F1"}
    shown["validation_mae"] = "MAE"
    shown.setdefault(f"validation_{monitor}", monitor)
    parts = [
        f"epoch {row['epoch']:>3}/{epochs}",
        *(f"{text} {row[name]:.4f}" for name, text in shown.items() if name in row),
    ]
    return "  ".join(parts) + ("  best" if row.get("best") else "")
