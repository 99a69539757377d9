"""What Ctrl-C and SIGTERM do to a training."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmf_multitask.training.trainer import LMFTrainer

logger = logging.getLogger(__name__)


@contextmanager
def told_how_to_go_on(folder: Path) -> Iterator[None]:
    """Says what is left when the user or the system stops the training; SIGTERM ends it with status 143."""
    # Paddle has put a handler of its own there, which just ends the process
    with _handled({signal.SIGTERM: lambda number, _: sys.exit(128 + number)}):
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            logger.warning(
                "stopped; what is finished is saved. To go on, give the same command with --resume: %s", folder
            )
            raise


@contextmanager
def saved_when_stopped(trainer: LMFTrainer) -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the current step and its checkpoint; a second one does not wait."""

    def interrupt(number: int, frame: Any) -> None:
        trainer.stop(KeyboardInterrupt())

    def terminate(number: int, frame: Any) -> None:
        trainer.stop(SystemExit(128 + number))

    handlers = {signal.SIGTERM: terminate}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of what a shell starts in the background
        handlers[signal.SIGINT] = interrupt
    with _handled(handlers):
        yield


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[int, Any], None]]) -> Iterator[None]:
    """Signals have these handlers inside the block; only the main thread may set any."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
