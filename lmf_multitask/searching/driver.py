"""Runs the trials of a search, each in a process of its own, some of them side by side."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from lmf_multitask.config import ExperimentConfig
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.evaluation.search_results import SearchResult, Trial
from lmf_multitask.evaluation.tables import number
from lmf_multitask.launcher import Children
from lmf_multitask.searching.space import SearchConfig
from lmf_multitask.searching.study import Asked, Study, is_figure, kept_row

logger = logging.getLogger(__name__)

CHILD = (sys.executable, "-m", "lmf_multitask.searching.child")
ATTEMPTS = 3
"""How often a trial whose process dies is begun, before the search ends."""


def run_trials(study: Study, config: SearchConfig, total: int, jobs: int) -> None:
    """Runs what is missing of `total` trials.

    Args:
        study: remembers them.
        config: the search, its experiment resolved.
        total: how many trials there are to be, those of earlier calls included.
        jobs: how many run at a time.

    Raises:
        TrainingError: the process of a trial died again and again.
    """
    pending = study.pending(total)
    if not pending:
        return
    if len(pending) < total:
        logger.info("%s of %s trials are there already", total - len(pending), total)
    places, lock = iter(pending), threading.Lock()
    workers = min(jobs, len(pending))
    with (
        tempfile.TemporaryDirectory(prefix="lmf-") as folder,
        _Screen(study, config, total) as screen,
        ThreadPoolExecutor(workers) as pool,
        Children() as children,
    ):

        def work() -> None:
            while not children.stopped:
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                for _ in range(ATTEMPTS):
                    asked = study.ask(place)
                    ended = _run(asked, study, config, Path(folder), children, screen.warn)
                    if isinstance(ended, Trial):
                        screen.show(ended)
                        break
                    if children.stopped:
                        return
                    screen.say(f"trial {place + 1} is begun anew: {ended}", logging.WARNING)
                else:
                    raise TrainingError(
                        f"the process of a trial must end well, but that of trial {place + 1} did not, {ATTEMPTS} times "
                        f"({ended.rstrip('.')}). Mend that and give the same command again: it goes on from there."
                    )

        for done in as_completed([pool.submit(work) for _ in range(workers)]):
            done.result()


def _run(
    asked: Asked,
    study: Study,
    config: SearchConfig,
    folder: Path,
    children: Children,
    warn: Callable[[str], None],
) -> Trial | str:
    """One trial; what it came to, or, if its process died, why."""
    try:
        experiment = config.experiment.with_settings(asked.settings)
    except ConfigError as error:  # each value is valid, but not together with the others
        return study.refuse(asked, str(error))
    rows: list[dict[str, float]] = []
    refused: list[str] = []
    pruned = False

    def on_line(line: str) -> bool:
        nonlocal pruned
        if line.startswith("warning: "):
            warn(line.removeprefix("warning: "))
        row = _row(line)
        if "failed" in row:
            refused.append(row["failed"])
        if "epoch" in row:
            value = row.get(config.column)
            if not is_figure(value):
                refused.append(f"the objective {config.objective} must be a number, but is {value} in validation")
                return True
            rows.append(row)
            pruned = study.report(asked, row["epoch"], value)
        return pruned

    settings = folder / f"trial-{asked.place}.yaml"
    settings.write_text(_without_output(experiment).to_yaml(), encoding="utf-8")
    command = [*CHILD, str(settings), str(folder / f"trial-{asked.place}")]
    reason = children.run(command, on_line)
    if refused:
        return study.refuse(asked, refused[0])
    kept = kept_row(rows)
    if kept is None and rows and (pruned or reason is None):
        return study.refuse(asked, f"training.monitor {experiment.training.monitor} has no value in validation")
    if pruned:
        return study.prune(asked, kept[config.column], kept["epoch"])
    if reason is None and kept is not None:
        return study.finish(asked, kept[config.column], kept["epoch"])
    study.abandon(asked)
    return reason or "it told no epoch"


def _without_output(experiment: ExperimentConfig) -> ExperimentConfig:
    training = dataclasses.replace(experiment.training, visualdl=False)
    return dataclasses.replace(experiment, output_dir=None, training=training)


def _row(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        return json.loads(line)
    except ValueError:
        return {}


class _Screen:
    """One line per trial that has ended; on a terminal, a bar over all of them with the time left."""

    def __init__(self, study: Study, config: SearchConfig, total: int) -> None:
        self._total = total
        found = SearchResult("", config.objective, config.maximise, study.trials())
        self._figure = found.figure
        self._trials = found.trials
        self._best = found.best(1)
        self._better = (lambda new, old: new > old) if config.maximise else (lambda new, old: new < old)
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._bar: Any = None

    def __enter__(self) -> _Screen:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=len(self._trials), unit="trial", leave=False, dynamic_ncols=True
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, trial: Trial) -> None:
        """Says what came of a trial."""
        width = len(str(self._total))
        parts = [f"trial {trial.number:>{width}}/{self._total}"]
        if trial.value is not None:
            parts += [f"{self._figure} {number(trial.value)}", f"epoch {trial.kept} of {len(trial.values)}"]
        with self._lock:
            if trial.state == "failed":
                parts.append(f"failed: {trial.reason}")
            elif trial.state == "pruned":
                parts.append("pruned")
            elif not self._best or self._better(trial.value, self._best[0].value):
                self._best = [trial]
                parts.append("best")
            self._print("  ".join(parts))
            if self._bar is not None:
                self._bar.update()

    def warn(self, text: str) -> None:
        """Passes on what a trial warns of, once: the others would say the same."""
        with self._lock:
            if text not in self._said:
                self._said.add(text)
                self._print(text, logging.WARNING)

    def say(self, text: str, level: int) -> None:
        """Says something else."""
        with self._lock:
            self._print(text, level)

    def _print(self, text: str, level: int = logging.INFO) -> None:
        if self._bar is not None:
            self._bar.clear()
        logger.log(level, "%s", text)
        if self._bar is not None:
            self._bar.refresh()
