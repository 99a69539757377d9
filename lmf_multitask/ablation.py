"""What the parts of a model bring: the same training with one part changed, under several seeds.

Shape letters: S seeds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmf_multitask.config import SETTINGS, ExperimentConfig
from lmf_multitask.errors import ConfigError

if TYPE_CHECKING:
    from lmf_multitask.evaluation.tables import TextTable

ABLATION_FILE = "ablation.json"
WHOLE = "as configured"
"""Name of the training that the variants are compared with."""

FIGURES = {
    "weighted_f1": "weighted F1",
    "positive_f1": "present F1",
    "auroc": "AUROC",
    "unweighted_accuracy": "UA of one among all",
}
"""Means over emotions; and, where emotions exclude each other, the mean recall of the one decision among them."""


@dataclass
class AblationConfig:
    """An ablation: one training, and variants of it.

    Args:
        experiment: what all have in common: any settings of a training
        variants: name -> {dotted setting of model or training: value}, what that variant changes
    """

    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    variants: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.experiment.output_dir is not None:
            raise ConfigError(
                "experiment.output_dir must be left out, since every run would go there. Give --output_dir."
            )
        if not isinstance(self.variants, Mapping) or not self.variants:
            raise ConfigError(f"variants must name at least one variant, but got {self.variants!r}.")
        folders = [_folder(name) for name in self.variants]
        if len(set(folders)) < len(folders) or _folder(WHOLE) in folders:
            raise ConfigError(f"variants must have different names, none of them {WHOLE!r}. Rename one.")
        for name, changes in self.variants.items():
            self.settings(name, changes)

    def settings(self, name: str, changes: Any) -> ExperimentConfig:
        """The experiment of one variant.

        Raises:
            ConfigError: it changes nothing, or what it changes is no setting or out of range.
        """
        if not isinstance(changes, Mapping) or not changes:
            raise ConfigError(f"variants: {name} must change at least one setting, but got {changes!r}.")
        unknown = [setting for setting in changes if setting not in SETTINGS]
        if unknown:
            raise ConfigError(f"variants: {name} must change settings of model or training, but names {unknown[0]!r}.")
        try:
            return self.experiment.with_settings(changes)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"variants: {name}: {error}") from None

    def experiments(self) -> dict[str, ExperimentConfig]:
        """Name -> settings, the unchanged one first."""
        return {WHOLE: self.experiment, **{n: self.settings(n, changes) for n, changes in self.variants.items()}}


def run_ablation(
    config: AblationConfig, folder: Path, seeds: Sequence[int], jobs: int | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Trains every variant under every seed in ``folder/VARIANT/seedN``; what is complete is kept.

    Args:
        config: what is trained.
        folder: of all runs; ``ablation.json`` is written there.
        seeds: S of them, two at least.
        jobs: how many trainings run side by side; None takes one per core.

    Returns:
        The content of ``ablation.json``: per variant the test figures of every seed, their mean, and the mean difference to
        the unchanged training of the same seed with Student's 95% interval over the seeds; and what failed: name -> reason.
    """
    from lmf_multitask.data.loading import load_data  # heavy; --help needs the settings only
    from lmf_multitask.data.schema import emotion_names
    from lmf_multitask.launcher import train_all
    from lmf_multitask.runs import Run

    emotions = emotion_names(load_data(config.experiment)["train"])
    experiments, places = {}, {}
    for name, settings in config.experiments().items():
        for seed in seeds:
            places[name, seed] = folder / _folder(name) / f"seed{seed}"
            one = dataclasses.replace(settings, seed=seed, output_dir=str(places[name, seed]))
            experiments[f"{_folder(name)}/seed{seed}"] = one.resolved(emotions)
    failures = train_all(experiments, jobs)
    found: dict[str, Any] = {"split": "test", "emotions": emotions, "seeds": list(seeds), "variants": {}}
    whole = {seed: _figures(places[WHOLE, seed]) for seed in seeds}
    for name in config.experiments():
        runs = {seed: _figures(places[name, seed]) for seed in seeds}
        runs = {seed: figures for seed, figures in runs.items() if figures is not None and whole[seed] is not None}
        if runs:
            found["variants"][name] = _summary(runs, whole)
    Run(folder).write_metrics(found, ABLATION_FILE)
    return found, failures


def ablation_table(found: Mapping[str, Any]) -> TextTable:
    """``ablation.json`` as a table."""
    from lmf_multitask.evaluation.tables import TextTable

    shown = [figure for figure in FIGURES if all(figure in one for one in found["variants"].values())]
    rows = []
    for name, one in found["variants"].items():
        cells = [name]
        for figure in shown:
            summary = one[figure]
            if name == WHOLE:
                cells.append(f"{summary['mean']:.3f}")
            else:
                low, high = summary["interval"] or (float("nan"), float("nan"))
                cells.append(f"{summary['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append(cells)
    seeds = len(found["seeds"])
    return TextTable(
        f"{found['split']}, {seeds} seeds: mean over emotions; of variants, the difference to it [95% interval over seeds]",
        ["variant", *(FIGURES[figure] for figure in shown)],
        rows,
    )


def _folder(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-") or "variant"


def _figures(folder: Path) -> dict[str, float] | None:
    from lmf_multitask.runs import Run

    metrics = Run(folder).finished_metrics()
    if metrics is None:
        return None
    figures = {**metrics["mean"], "unweighted_accuracy": (metrics["exclusive"] or {}).get("unweighted_accuracy")}
    return {figure: figures[figure] for figure in FIGURES if figures[figure] is not None}


def _summary(runs: Mapping[int, Mapping[str, float]], whole: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    from lmf_multitask.evaluation.statistics import t_interval  # SciPy takes a second to come

    summary = {}
    for figure in FIGURES:
        if not all(figure in runs[seed] and figure in whole[seed] for seed in runs):
            continue  # the labels do not define it
        values = {seed: figures[figure] for seed, figures in runs.items()}
        differences = t_interval([value - whole[seed][figure] for seed, value in values.items()])
        summary[figure] = {
            "runs": {str(seed): value for seed, value in values.items()},
            "mean": t_interval(list(values.values()))["mean"],
            "difference": differences["mean"],
            "interval": differences["interval"],
        }
    return summary
