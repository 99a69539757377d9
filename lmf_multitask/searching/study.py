"""The Optuna study of a search, in a SQLite file.

Trials have places, 0 to N - 1. The settings of a place depend on the seed of the sampler, the place, and the trials that
have ended: a search that was interrupted and continued, one trial at a time, equals an uninterrupted one. A trial whose
process died is marked failed in the study, and its place gets the same settings again.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from lmf_multitask.errors import RunError
from lmf_multitask.searching.results import Trial
from lmf_multitask.searching.space import Dimension, SearchConfig

STUDY_FILE = "study.db"
_NAME = "search"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_FORESTS_SEED = 0


@dataclass(frozen=True)
class Asked:
    """A trial to run.

    Attributes:
        place: counted from 0.
        values: name of a dimension -> its value.
        settings: dotted setting -> its value.
    """

    place: int
    values: dict[str, Any]
    settings: dict[str, Any]
    trial: optuna.Trial


class Study:
    """The trials of one search; several threads may use it."""

    def __init__(self, path: Path, config: SearchConfig) -> None:
        """Opens or creates the study; trials that were running when its process died are marked failed.

        Raises:
            RunError: the file is no study, or another process has locked it.
        """
        self.path = path
        self._config = config
        self._dimensions = config.dimensions()
        self._lock = threading.RLock()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with _one_line(path):
            self._study = optuna.create_study(
                storage=f"sqlite:///{path.resolve()}",
                study_name=_NAME,
                direction="maximize" if config.maximise else "minimize",
                pruner=_pruner(config),
                load_if_exists=True,
            )
            self._mark_interrupted()

    def data(self) -> str | None:
        """The fingerprint of the data of the study; None before `note_data`."""
        return self._study.user_attrs.get("data")

    def note_data(self, fingerprint: str) -> None:
        """Stores the fingerprint of the data."""
        self._study.set_user_attr("data", fingerprint)

    def pending(self, total: int) -> list[int]:
        """The places below `total` whose trial has not ended."""
        ended = {trial.number for trial in self.trials()}
        return [place for place in range(total) if place + 1 not in ended]

    def ask(self, place: int) -> Asked:
        """Starts the trial of a place."""
        config = self._config
        with self._lock, _one_line(self.path):
            distributions = {dimension.name: _distribution(dimension) for dimension in self._dimensions}
            before = [
                trial
                for trial in self._study.get_trials(deepcopy=False, states=[TrialState.FAIL])
                if trial.user_attrs.get("place") == place and set(trial.params) == set(distributions)
            ]
            if before:  # its process died
                self._study.enqueue_trial(before[-1].params)
            seed = int(np.random.SeedSequence([config.seed, place]).generate_state(1)[0])
            if config.sampler == "random":
                self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
            else:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    self._study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            trial = self._study.ask(distributions)
            trial.set_user_attr("place", place)
            values = {dimension.name: dimension.value(trial.params[dimension.name]) for dimension in self._dimensions}
            settings: dict[str, Any] = {}
            for dimension in self._dimensions:
                settings.update(dimension.assigned(values[dimension.name]))
            return Asked(place, values, settings, trial)

    def report(self, asked: Asked, epoch: int, value: float) -> bool:
        """Stores the objective after an epoch; returns whether the trial should be pruned."""
        with self._lock, _one_line(self.path):
            asked.trial.report(value, epoch)
            return asked.trial.should_prune()

    def finish(self, asked: Asked, value: float, kept: int) -> Trial:
        """The trial ended normally: the objective in the epoch that was kept."""
        return self._tell(asked, TrialState.COMPLETE, value, kept=kept)

    def prune(self, asked: Asked, value: float, kept: int) -> Trial:
        """The trial was ended early."""
        return self._tell(asked, TrialState.PRUNED, None, kept=kept, value=value)

    def refuse(self, asked: Asked, reason: str) -> Trial:
        """Its settings cannot be trained: this is a result, the worst."""
        return self._tell(asked, TrialState.PRUNED, None, reason=reason)

    def abandon(self, asked: Asked) -> None:
        """Its process died; its place is run again."""
        with self._lock, _one_line(self.path):
            self._study.tell(asked.trial, state=TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """All trials that have ended, in the order of their places."""
        with self._lock, _one_line(self.path):
            ended = self._study.get_trials(deepcopy=False, states=_ENDED)
        return sorted(map(self._read, ended), key=lambda trial: trial.number)

    def importances(self) -> dict[str, float]:
        """Share of the objective's variance that each dimension explains (fANOVA, Hutter et al. 2014), largest first.

        Empty with fewer finished trials than dimensions, or if all have the same objective.
        """
        values = [trial.value for trial in self.trials() if trial.state == "finished"]
        if len(values) <= len(self._dimensions) or len(set(values)) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=_FORESTS_SEED)
        return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))

    def _tell(self, asked: Asked, state: TrialState, objective: float | None, **notes: Any) -> Trial:
        with self._lock, _one_line(self.path):
            for name, note in notes.items():
                asked.trial.set_user_attr(name, note)
            return self._read(self._study.tell(asked.trial, objective, state=state))

    def _read(self, trial: FrozenTrial) -> Trial:
        notes = trial.user_attrs
        reason = notes.get("reason", "")
        finished = trial.state == TrialState.COMPLETE
        return Trial(
            number=notes["place"] + 1,
            state="failed" if reason else "finished" if finished else "pruned",
            settings={one.name: one.value(trial.params[one.name]) for one in self._dimensions},
            value=trial.value if finished else notes.get("value"),
            kept=notes.get("kept"),
            values=[value for _, value in sorted(trial.intermediate_values.items())],
            reason=reason,
        )

    def _mark_interrupted(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(trial.number, state=TrialState.FAIL)
        for _ in self._study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            self._study.tell(self._study.ask(), state=TrialState.FAIL)


def _pruner(config: SearchConfig) -> optuna.pruners.BasePruner:
    settings = config.pruning
    if settings.method == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=settings.startup_trials,
        n_warmup_steps=settings.warmup_epochs,
        n_min_trials=settings.startup_trials,
    )


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if dimension.choices:
        return optuna.distributions.CategoricalDistribution(dimension.stored_choices())
    if dimension.whole:
        return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and Optuna into one line: the file is damaged, locked, or no study."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error.__cause__ or error).split()).rstrip(".")[:200]
        if "locked" in reason:
            raise RunError(
                f"{path}: must not be in use, but another process has locked it. Wait until it ends."
            ) from error
        raise RunError(f"{path}: must be the study of a search, but {reason}. Choose another --output_dir.") from error


def is_metric(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)
