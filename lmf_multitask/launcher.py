"""Several trainings, each in a process of its own, some of them side by side.

Every training gets one thread of the math library (unless the user has set OMP_NUM_THREADS), so that its bits do not
depend on how many run at a time.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.runs import Run
from lmf_multitask.runtime import usable_cores

logger = logging.getLogger(__name__)


def train_all(
    experiments: dict[str, ExperimentConfig],
    jobs: int | None = None,
    overwrite: bool = False,
    report: bool = False,
    quiet: bool = False,
) -> dict[str, str]:
    """Trains every experiment into its run directory; complete runs are kept, unfinished ones gone on with.

    The failure of one does not stop the others.

    Args:
        experiments: name to show -> settings, resolved, each with an ``output_dir`` of its own.
        jobs: how many run at a time; None takes one per core.
        overwrite: train anew what is already there.
        report: also write the page of each.
        quiet: show no line of the trainings but their warnings.

    Returns:
        What failed: name -> reason, in one line.

    Raises:
        RunError: a directory holds something else, or a run with other settings; nothing has been started then.
    """
    wanted = {}
    for name, config in experiments.items():
        run = Run(config.run_directory())
        run.check_free(overwrite, resume=run.is_run())
        if run.is_run() and not overwrite:
            run.check_same_settings(config)
            if run.is_complete():
                logger.log(logging.DEBUG if quiet else logging.INFO, "%s is complete already: %s", name, run.folder)
                continue
        wanted[name] = config
    if not wanted:
        return {}
    jobs = min(jobs or usable_cores(), len(wanted))
    screen = _Screen(wanted, quiet)
    with (
        tempfile.TemporaryDirectory(prefix="lmf-") as folder,
        screen,
        ThreadPoolExecutor(min(jobs or usable_cores(), len(wanted))) as pool,
        Children() as children,
    ):

        def train(name: str, config: ExperimentConfig) -> str | None:
            settings = Path(folder) / f"{name.replace('/', '-')}.yaml"
            settings.write_text(config.to_yaml(), encoding="utf-8")
            options = ["--overwrite" if overwrite else "--resume", *([] if report else ["--no_report"])]
            command = [sys.executable, "-m", "lmf_multitask.train", "--config", str(settings), *options]
            return children.run(command, lambda line: screen.show(name, line))

        outcomes = list(pool.map(train, wanted, wanted.values()))
    return {name: reason for name, reason in zip(wanted, outcomes) if reason is not None}


class Children:
    """The processes that are running; leaving the block, by an error or a signal too, ends them and starts no more."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether no more are started."""
        return self._stopped

    def run(self, command: Sequence[str], on_line: Callable[[str], bool | None]) -> str | None:
        """Runs one to its end.

        Args:
            command: the program and its arguments.
            on_line: called with every line of its stderr but errors; True ends the process, without calling it a failure.

        Returns:
            Why it failed, or None.
        """
        with self._lock:
            if self._stopped:
                return "it was not started"
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=child_environment(),
                text=True,
                errors="replace",
            )
            self._running.add(child)
        reason, enough = "", False
        for line in child.stderr:
            if enough:
                continue
            if line.startswith("error: "):
                reason = line.removeprefix("error: ").strip()
            elif on_line(line.rstrip()):
                enough = True
                child.terminate()
        status = child.wait()
        child.stderr.close()
        with self._lock:
            self._running.discard(child)
        if enough:
            return None
        if status < 0:
            return f"its process was killed by {signal.Signals(-status).name}"
        return None if status == 0 else reason or f"its process ended with status {status}"

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            child.terminate()


def child_environment() -> dict[str, str]:
    """The variables of a process that trains beside others: ours, one thread unless the user says otherwise, this code."""
    package_parent = str(Path(__file__).resolve().parents[1])  # found from whatever folder the command is run in
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}


class _Screen:
    """Lines of all processes, each under its name; on a terminal, a bar over all epochs with the time left."""

    def __init__(self, experiments: Mapping[str, ExperimentConfig], quiet: bool = False) -> None:
        self._quiet = quiet
        self._epochs = {name: config.training.epochs for name, config in experiments.items()}
        self._done = dict.fromkeys(experiments, 0)
        self._width = max(map(len, experiments))
        self._lock = threading.Lock()
        self._bar: Any = None

    def __enter__(self) -> _Screen:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=sum(self._epochs.values()), unit="epoch", leave=False, dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, name: str, line: str) -> None:
        """Prints one line of a training."""
        epoch = re.match(r"epoch +(\d+)/", line)
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            if not self._quiet or line.startswith("warning: "):
                logger.info("%s", f"{name:<{self._width}}  {line}")
            if self._bar is not None:
                self._done[name] = int(epoch[1]) if epoch else self._done[name]
                self._bar.n = sum(self._done.values())
                self._bar.refresh()
