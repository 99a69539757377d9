"""The outcome of a search: its trials, the best of them, and the best trained again with new seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmf_multitask.evaluation.metrics import METRICS
from lmf_multitask.evaluation.statistics import t_interval
from lmf_multitask.evaluation.text import TextTable, number

State = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Attributes:
        number: counted from 1.
        state: how it ended.
        settings: name of a dimension of the space -> its value.
        value: the objective on validation in the kept epoch; None where the trial failed before one.
        kept: that epoch.
        values: the objective after each epoch.
        reason: why it failed; empty otherwise.
    """

    number: int
    state: State
    settings: dict[str, Any]
    value: float | None = None
    kept: int | None = None
    values: list[float] = field(default_factory=list)
    reason: str = ""

    @property
    def score(self) -> float:
        """The value as a number, NaN for none."""
        return math.nan if self.value is None else self.value


@dataclass(frozen=True)
class Retrained:
    """A trial's settings trained again with seeds that the search has not used.

    Attributes:
        trial: the trial.
        seeds: of the trainings.
        values: the objective on validation of each, in its kept epoch.
        test: their metrics on test, see `statistics.seed_summary`.
    """

    trial: Trial
    seeds: list[int]
    values: list[float]
    test: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """The state of a search.

    Attributes:
        name: of its folder.
        objective: name of the validation metric, or ``loss``.
        maximise: whether greater values are better.
        trials: all that have ended, in order.
        importances: name of a dimension -> share of the objective's variance that it explains; empty with too few trials.
        logarithmic: names of the dimensions that are drawn on a logarithmic scale.
        retrained: the best, with new seeds.
        facts: heading -> text about data and study.
    """

    name: str
    objective: str
    maximise: bool
    trials: list[Trial]
    importances: dict[str, float] = field(default_factory=dict)
    logarithmic: frozenset[str] = frozenset()
    retrained: list[Retrained] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Title of the objective."""
        return METRICS[self.objective].title if self.objective in METRICS else self.objective

    def of_state(self, state: State) -> list[Trial]:
        """The trials that ended in one way."""
        return [trial for trial in self.trials if trial.state == state]

    def best(self, count: int) -> list[Trial]:
        """The finished trials with the best objective, best first; of equal ones the earlier first."""
        sign = -1 if self.maximise else 1
        return sorted(self.of_state("finished"), key=lambda trial: (sign * trial.score, trial.number))[:count]

    def counts_line(self) -> str:
        """Number of trials of each state."""
        counts = {state: len(self.of_state(state)) for state in ("finished", "pruned", "failed")}
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "finished")

    def verdict(self) -> str:
        """The outcome in a few sentences."""
        first = self.best(1)[0]
        text = (
            f"The best of {len(self.trials)} trials is trial {first.number}: {self.metric} {number(first.value)} on "
            f"validation, epoch {first.kept} of {len(first.values)}."
        )
        means = {one.trial.number: t_interval(one.values)["mean"] for one in self.retrained}
        if first.number not in means:
            return f"{text} It has not been trained with new seeds, so this value is too optimistic."
        again = next(one for one in self.retrained if one.trial is first or one.trial.number == first.number)
        change = means[first.number] - first.score
        comparison = "the same as in the search"
        if change:
            comparison = (
                f"{abs(change):.3f} {'better' if (change > 0) == self.maximise else 'worse'} than in the search"
            )
        seeds = f"{len(again.seeds)} new seed{'s' if len(again.seeds) > 1 else ''}"
        text = f"{text} With {seeds} the same settings give {spread(again.values)}: {comparison}."
        winner = (max if self.maximise else min)(means, key=lambda trial: means[trial])
        if means[winner] != means[first.number]:
            text += f" Trial {winner} is better with these seeds: {number(means[winner])}."
        return text

    def best_table(self, count: int) -> TextTable:
        """The best trials, a column each."""
        best = self.best(count)
        rows = [
            [f"{self.metric}, validation", *(number(trial.value) for trial in best)],
            ["kept epoch", *map(_kept, best)],
            *([name, *(shown(trial.settings[name]) for trial in best)] for name in best[0].settings),
        ]
        return TextTable("the best trials", ["", *(f"trial {trial.number}" for trial in best)], rows)

    def retrained_table(self) -> TextTable:
        """The objective with new seeds, compared with that of the search."""
        rows = []
        for one in self.retrained:
            values = ", ".join(map(number, one.values))
            change = t_interval(one.values)["mean"] - one.trial.score
            rows.append(
                [f"trial {one.trial.number}", number(one.trial.value), values, spread(one.values), f"{change:+.3f}"]
            )
        seeds = ", ".join(map(str, self.retrained[0].seeds))
        return TextTable(
            f"{self.metric} on validation, in the search and with the new seeds {seeds}",
            ["", "search", "new seeds", "mean ± std", "difference"],
            rows,
            note=f"The best value of {len(self.trials)} trials is too optimistic: it was selected, in part by chance. "
            "Rely on the new seeds.",
        )

    def trials_table(self) -> TextTable:
        """Every trial."""
        names = list(self.trials[0].settings)
        rows = [
            [
                str(trial.number),
                trial.state,
                number(trial.value),
                "-" if trial.kept is None else _kept(trial),
                *(shown(trial.settings[name]) for name in names),
            ]
            for trial in self.trials
        ]
        heads = ["trial", "state", self.metric, "kept epoch", *map(short_name, names)]
        return TextTable("settings and outcome of each", heads, rows, left=(0, 1), sortable=True, filters=(1,))


def _kept(trial: Trial) -> str:
    return f"{trial.kept} of {len(trial.values)}"


def shown(value: Any) -> str:
    """A setting's value as text, numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return "null" if value is None else str(value)


def short_name(name: str) -> str:
    """Names without their groups: ``model.encoders.text.hidden, model.fusion.rank`` -> ``text.hidden, fusion.rank``."""
    return ", ".join(re.sub(r"^(model\.(encoders\.)?|training\.)", "", part.strip()) for part in name.split(","))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    found = t_interval(values)
    return number(found["mean"]) if found["sd"] is None else f"{found['mean']:.3f} ± {found['sd']:.3f}"
