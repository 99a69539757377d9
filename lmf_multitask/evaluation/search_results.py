"""What came of a search for settings: its trials, the best of them, and how these do under fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmf_multitask.evaluation.statistics import t_interval
from lmf_multitask.evaluation.tables import HEADS, TextTable, number

State = Literal["finished", "pruned", "failed"]

FLATTERY = (
    "The figure of the best of {trials} trials flatters it: it was chosen because that figure is high, by luck too. "
    "Believe the fresh seeds."
)


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Attributes:
        number: counted from 1.
        state: how it ended.
        settings: name of a dimension of the space -> its value.
        value: the objective on validation, in the epoch that was kept; None where it failed before one.
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


@dataclass(frozen=True)
class Retrained:
    """A trial's settings trained anew under seeds that the search has not seen.

    Attributes:
        trial: the trial.
        seeds: of the trainings.
        values: the objective on validation of each, in its kept epoch.
        test: what the seeds say together on test, see `statistics.seed_summary`.
    """

    trial: Trial
    seeds: list[int]
    values: list[float]
    test: dict[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """A search as it stands.

    Attributes:
        name: of its folder.
        objective: name of the validation figure.
        maximise: whether more of it is better.
        trials: all that have ended, in order.
        importances: name of a dimension -> share of the objective's variance that it explains; empty while too few have ended.
        logarithmic: names of the dimensions that are drawn on a logarithmic scale.
        retrained: the best, under fresh seeds.
        facts: about data and study, to be shown.
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
    def figure(self) -> str:
        """The objective in words."""
        return HEADS.get(self.objective, self.objective.replace("_", " "))

    def best(self, count: int) -> list[Trial]:
        """The finished trials with the best objective, best first; of equals, the earlier."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return sorted(finished, key=lambda t: (-t.value if self.maximise else t.value, t.number))[:count]

    def counts_line(self) -> str:
        """How many trials ended in which way."""
        counts = {
            state: sum(trial.state == state for trial in self.trials) for state in ("finished", "pruned", "failed")
        }
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "finished")

    def verdict(self) -> str:
        """The outcome in a few sentences."""
        first, count = self.best(1)[0], len(self.trials)
        text = (
            f"The best of {count} trials is trial {first.number}: {self.figure} {number(first.value)} on validation, "
            f"epoch {first.kept} of {len(first.values)}."
        )
        again = next((one for one in self.retrained if one.trial.number == first.number), None)
        if again is None:
            return f"{text} It has not been trained under fresh seeds, so that this figure flatters it."
        change = t_interval(again.values)["mean"] - first.value
        worse = (change < 0) == self.maximise and change != 0
        said = f"{abs(change):.3f} {'worse' if worse else 'better'} than searched" if change else "as searched"
        seeds = "1 fresh seed" if len(again.seeds) == 1 else f"{len(again.seeds)} fresh seeds"
        text = f"{text} Under {seeds} the same settings give {spread(again.values)}: {said}."
        means = {one.trial.number: t_interval(one.values)["mean"] for one in self.retrained}
        winner = (max if self.maximise else min)(means, key=lambda trial: means[trial])
        if means[winner] != means[first.number]:
            text += f" Trial {winner} does better there: {number(means[winner])}."
        return text

    def best_table(self, count: int) -> TextTable:
        """The best trials, a column each."""
        best = self.best(count)
        rows = [
            [f"{self.figure}, validation", *(number(trial.value) for trial in best)],
            ["kept epoch", *(f"{trial.kept} of {len(trial.values)}" for trial in best)],
            *([name, *(shown(trial.settings[name]) for trial in best)] for name in best[0].settings),
        ]
        return TextTable("the best trials", ["", *(f"trial {trial.number}" for trial in best)], rows)

    def retrained_table(self) -> TextTable:
        """Validation figures under fresh seeds beside the searched ones."""
        rows = []
        for one in self.retrained:
            mean = t_interval(one.values)["mean"]
            each = ", ".join(f"{value:.3f}" for value in one.values)
            cells = [number(one.trial.value), each, spread(one.values), f"{mean - one.trial.value:+.3f}"]
            rows.append([f"trial {one.trial.number}", *cells])
        seeds = ", ".join(map(str, self.retrained[0].seeds)) if self.retrained else "none"
        return TextTable(
            f"{self.figure} on validation, searched and under the fresh seeds {seeds}",
            ["", "searched", "fresh seeds", "mean ± sd", "difference"],
            rows,
            note=FLATTERY.format(trials=len(self.trials)),
        )

    def trials_table(self) -> TextTable:
        """Every trial."""
        names = list(self.trials[0].settings)
        rows = [
            [
                str(trial.number),
                trial.state,
                number(trial.value),
                "-" if trial.kept is None else f"{trial.kept} of {len(trial.values)}",
                *(shown(trial.settings[name]) for name in names),
            ]
            for trial in self.trials
        ]
        return TextTable("every trial", ["trial", "state", self.figure, "kept epoch", *map(short_name, names)], rows)


def shown(value: Any) -> str:
    """A setting's value for people: four digits of a drawn number."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return "null" if value is None else str(value)


def short_name(name: str) -> str:
    """Names without their groups: ``model.text_lstm, model.text_hidden`` -> ``text_lstm, text_hidden``."""
    return ", ".join(part.strip().rpartition(".")[2] for part in name.split(","))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    found = t_interval(values)
    return number(found["mean"]) if found["sd"] is None else f"{found['mean']:.3f} ± {found['sd']:.3f}"
