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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmf_multitask.command_line import plugin_arguments
from lmf_multitask.data.loading import SAMPLE_NOTE
from lmf_multitask.pipeline.progress import Progress
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import ExperimentConfig
from lmf_multitask.runtime import usable_cores

logger = logging.getLogger(__name__)

SHOWN_EPOCHS = 10
"""Of several trainings, the first epoch and every tenth are shown; all are in their train.log."""


def train_all(
    experiments: dict[str, ExperimentConfig],
    jobs: int | None = None,
    overwrite: bool = False,
    report: bool = False,
    quiet: bool = False,
) -> dict[str, str]:
    """Trains every experiment into its run directory; complete runs are kept, unfinished ones are resumed.

    The failure of one does not stop the others.

    Args:
        experiments: name -> settings, resolved, each with an ``output_dir`` of its own.
        jobs: how many run at a time; None starts one per core.
        overwrite: replace the runs that exist.
        report: also write the report of each.
        quiet: show nothing of the trainings but warnings.

    Returns:
        Name -> reason of each failure, in one line.

    Raises:
        RunError: a directory holds other files, or a run with other settings; nothing has been started then.
    """
    wanted = {}
    for name, config in experiments.items():
        run = Run(config.run_directory())
        run.check_free(overwrite, resume=run.exists())
        if run.exists() and not overwrite:
            run.check_same_settings(config)
            # the child compares the data where the path has changed
            same_path = run.load_config().data_path == config.data_path
            if run.is_complete() and same_path and (run.has_report() or not report):
                logger.log(logging.DEBUG if quiet else logging.INFO, "%s is complete already: %s", name, run.folder)
                continue
        wanted[name] = config
    if not wanted:
        return {}
    workers = min(jobs or usable_cores(), len(wanted))
    width = max(map(len, wanted))
    done = dict.fromkeys(wanted, 0)
    with (
        tempfile.TemporaryDirectory(prefix="lmf-") as folder,
        Progress(sum(config.training.epochs for config in wanted.values()), "epoch") as progress,
        ThreadPoolExecutor(workers) as pool,
        Children() as children,
    ):
        shown: set[str] = set()

        def show(name: str, line: str) -> None:
            if line.startswith("data: "):  # about the file that all of them read
                if line in shown:
                    return
                shown.add(line)
            if line == SAMPLE_NOTE or (quiet and not line.startswith("warning: ")):
                return
            epoch = re.match(r"epoch +(\d+)/", line)
            several = len(experiments) > 1
            skipped = several and epoch is not None and int(epoch[1]) > 1 and int(epoch[1]) % SHOWN_EPOCHS > 0
            progress.say(f"{name:<{width}}  {line}", logging.DEBUG if skipped else logging.INFO)
            if epoch:
                done[name] = int(epoch[1])
                progress.move_to(sum(done.values()))

        def train(name: str, config: ExperimentConfig) -> str | None:
            settings = Path(folder) / f"{name.replace('/', '-')}.yaml"
            settings.write_text(config.to_yaml(), encoding="utf-8")
            options = ["--overwrite" if overwrite else "--resume", *([] if report else ["--no_report"])]
            command = module_command("lmf_multitask.train", "--config", str(settings), *options)
            return children.run(command, lambda line: show(name, line))

        outcomes = list(pool.map(train, wanted, wanted.values()))
    return {name: reason for name, reason in zip(wanted, outcomes) if reason is not None}


def module_command(module: str, *arguments: str) -> list[str]:
    """``python -m MODULE ...`` with the plug-ins of this process."""
    given = plugin_arguments()
    return [sys.executable, "-m", module, *given, *arguments]


class Children:
    """Running child processes; leaving the block, by an error or a signal too, ends them and starts no more."""

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
            on_line: called with every line of its stderr but errors; True ends the process, which is no failure then.

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
        assert child.stderr is not None
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
    """Variables of a child: those of this process, one thread unless the user has set another number, and this code."""
    package_parent = str(Path(__file__).resolve().parents[2])  # found from whatever folder the command is run in
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
