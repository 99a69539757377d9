"""Runs the trials of a search, each in a process of its own, some of them side by side."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from lmf_multitask.config import replaced
from lmf_multitask.data.loading import SAMPLE_NOTE
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.evaluation.text import number
from lmf_multitask.pipeline.launcher import Children, module_command
from lmf_multitask.pipeline.progress import Progress
from lmf_multitask.pipeline.runs import kept_row
from lmf_multitask.searching.results import SearchResult, Trial
from lmf_multitask.searching.space import SearchConfig
from lmf_multitask.searching.study import Asked, Study, is_metric

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a trial whose process dies is started before the search ends."""


def child_command(settings: Path, folder: Path) -> list[str]:
    """The command of one trial."""
    return module_command("lmf_multitask.searching.child", str(settings), str(folder))


def run_trials(study: Study, config: SearchConfig, total: int, jobs: int) -> None:
    """Runs the trials that are missing.

    Raises:
        TrainingError: the process of a trial died again and again.
    """
    pending = study.pending(total)
    if not pending:
        return
    if len(pending) < total:
        logger.info("%s of %s trials are complete already", total - len(pending), total)
    places, lock = iter(pending), threading.Lock()
    workers = min(jobs, len(pending))
    with (
        tempfile.TemporaryDirectory(prefix="lmf-") as folder,
        Progress(total, "trial", total - len(pending)) as progress,
        ThreadPoolExecutor(workers) as pool,
        Children() as children,
    ):
        shown = _Lines(progress, study, config, total)

        def work() -> None:
            while not children.stopped:
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                for _ in range(ATTEMPTS):
                    asked = study.ask(place)
                    ended = _run(asked, study, config, Path(folder), children, shown)
                    if isinstance(ended, Trial):
                        shown.trial(ended)
                        break
                    if children.stopped:
                        return
                    shown.warn(f"trial {place + 1} is started again: {ended}")
                else:
                    raise TrainingError(
                        f"the process of trial {place + 1} must end normally, but failed {ATTEMPTS} times "
                        f"({str(ended).rstrip('.')}). Correct that and give the same command again: the search continues."
                    )

        for done in as_completed([pool.submit(work) for _ in range(workers)]):
            done.result()


def _run(
    asked: Asked, study: Study, config: SearchConfig, folder: Path, children: Children, shown: _Lines
) -> Trial | str:
    """Runs one trial; returns its result or, if its process died, the reason."""
    try:
        experiment = replaced(config.experiment, asked.settings)
    except ConfigError as error:  # each value is valid, but not together with the others
        return study.refuse(asked, str(error))
    rows: list[dict[str, float]] = []
    refused: list[str] = []
    pruned = False

    def on_line(line: str) -> bool:
        nonlocal pruned
        if line.startswith("warning: "):
            shown.warn(line.removeprefix("warning: "))
        row = _row(line)
        if "failed" in row:
            refused.append(row["failed"])
        if "epoch" in row:
            value = row.get(config.column)
            if value is None or not is_metric(value):
                refused.append(f"the objective {config.objective} must be a number, but is {value} on validation")
                return True
            rows.append(row)
            pruned = study.report(asked, row["epoch"], value)
        return pruned

    training = dataclasses.replace(experiment.training, visualdl=False)
    settings = folder / f"trial-{asked.place}.yaml"
    text = dataclasses.replace(experiment, output_dir=None, training=training).to_yaml()
    settings.write_text(text, encoding="utf-8")
    reason = children.run(child_command(settings, folder / f"trial-{asked.place}"), on_line)
    if refused:
        return study.refuse(asked, refused[0])
    kept = kept_row(rows)
    if kept is None and rows and (pruned or reason is None):
        return study.refuse(asked, f"training.monitor {experiment.training.monitor} has no value on validation")
    if pruned and kept is not None:
        return study.prune(asked, kept[config.column], int(kept["epoch"]))
    if reason is None and kept is not None:
        return study.finish(asked, kept[config.column], int(kept["epoch"]))
    study.abandon(asked)
    return reason or "it reported no epoch"


def _row(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        return json.loads(line)
    except ValueError:
        return {}


class _Lines:
    """One line per trial that has ended, and each warning once."""

    def __init__(self, progress: Progress, study: Study, config: SearchConfig, total: int) -> None:
        self._progress, self._total = progress, total
        found = SearchResult("", config.objective, config.maximise, study.trials())
        self._title, self._ended, self._best = found.metric, len(found.trials), found.best(1)
        self._sign = 1 if config.maximise else -1
        self._lock = threading.Lock()
        self._warned = {SAMPLE_NOTE}

    def trial(self, trial: Trial) -> None:
        """Shows the result of a trial."""
        parts = [f"trial {trial.number:>{len(str(self._total))}}/{self._total}"]
        if trial.value is not None:
            parts += [f"{self._title} {number(trial.value)}", f"epoch {trial.kept} of {len(trial.values)}"]
        with self._lock:
            self._ended += 1
            if trial.state == "failed":
                parts.append(f"failed: {trial.reason}")
            elif trial.state == "pruned":
                parts.append("pruned")
            elif not self._best or self._sign * (_value(trial) - _value(self._best[0])) > 0:
                self._best = [trial]
                parts.append("best")
            self._progress.say("  ".join(parts))
            self._progress.move_to(self._ended)

    def warn(self, text: str) -> None:
        """Shows a warning of a trial, unless another trial has given it."""
        with self._lock:
            if text not in self._warned:
                self._warned.add(text)
                self._progress.say(text, logging.WARNING)


def _value(trial: Trial) -> float:
    assert trial.value is not None
    return trial.value
