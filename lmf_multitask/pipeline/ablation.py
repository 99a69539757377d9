"""What the parts of a model contribute: the same training with one part changed, under several seeds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmf_multitask.config import replaced, setting, settings
from lmf_multitask.errors import ConfigError
from lmf_multitask.evaluation.metrics import METRICS
from lmf_multitask.files import write_json
from lmf_multitask.pipeline.settings import ExperimentConfig

if TYPE_CHECKING:
    from lmf_multitask.evaluation.text import TextTable

ABLATION_FILE = "ablation.json"
WHOLE = "as configured"
"""Name of the training that the variants are compared with."""

SHOWN = ("weighted_f1", "positive_f1", "auroc", "unweighted_accuracy", "mae", "pearson")
"""Keys of `METRICS`: means over tasks; and, for exclusive emotions, the mean recall of the one decision among them."""


@settings
class AblationConfig:
    """An ablation: one training, and variants of it."""

    experiment: ExperimentConfig = setting(ExperimentConfig, "settings that all trainings share")
    variants: dict[str, Any] = setting(
        dict, "name -> {dotted setting of model or training: value}, the change of that variant"
    )

    def __post_init__(self) -> None:
        """Checks names and changes."""
        if self.experiment.output_dir is not None:
            raise ConfigError(
                "experiment.output_dir must not be set, since every run would be written there. Give --output_dir."
            )
        if not self.variants:
            raise ConfigError(
                "variants must name at least one variant, but is empty. See configs/ablation/multitask.yaml."
            )
        folders = [_folder(name) for name in self.variants]
        if len(set(folders)) < len(folders) or _folder(WHOLE) in folders:
            raise ConfigError(f"variants must have different names, none of them {WHOLE!r}. Rename one.")
        self.experiments()

    def experiments(self) -> dict[str, ExperimentConfig]:
        """Name -> settings, the unchanged experiment first.

        Raises:
            ConfigError: a variant changes nothing, or what it changes is no setting or out of range.
        """
        found = {WHOLE: self.experiment}
        for name, changes in self.variants.items():
            if not isinstance(changes, Mapping) or not changes:
                raise ConfigError(f"variants: {name} must change at least one setting, but got {changes!r}.")
            other = next((one for one in changes if not str(one).startswith(("model.", "training."))), None)
            if other is not None:
                raise ConfigError(f"variants: {name} must change settings of model or training, but names {other!r}.")
            try:
                found[name] = replaced(self.experiment, changes)
            except ConfigError as error:
                raise ConfigError(f"variants: {name}: {error}") from None
        return found


def run_ablation(
    config: AblationConfig, folder: Path, seeds: Sequence[int], jobs: int | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Trains every variant under every seed in ``folder/VARIANT/seedN``; complete runs are kept.

    Args:
        config: what is trained.
        folder: of all runs; ``ablation.json`` is written there.
        seeds: two or more.
        jobs: how many trainings run side by side; None starts one per core.

    Returns:
        The content of ``ablation.json``: per variant the test metrics of every seed, their mean, and the mean difference to
        the unchanged training of the same seed with Student's 95% interval over seeds; and name -> reason of each failure.
    """
    from lmf_multitask.pipeline.launcher import train_all  # heavy imports, which --help does not need
    from lmf_multitask.pipeline.runs import Run
    from lmf_multitask.pipeline.stages import read_data

    data = read_data(config.experiment)
    experiments, runs = {}, {}
    for name, one in config.experiments().items():
        for seed in seeds:
            run = runs[name, seed] = Run(folder / _folder(name) / f"seed{seed}")
            changed = dataclasses.replace(one, seed=seed, output_dir=str(run.folder))
            experiments[f"{_folder(name)}/seed{seed}"] = changed.resolved(data.targets)
    failures = train_all(experiments, jobs)
    found: dict[str, Any] = {"split": "test", "emotions": data.emotions, "seeds": list(seeds), "variants": {}}
    whole = {seed: shown_metrics(runs[WHOLE, seed].metrics()) for seed in seeds}
    for name in config.experiments():
        own = {seed: shown_metrics(runs[name, seed].metrics()) for seed in seeds}
        complete = {seed: metrics for seed, metrics in own.items() if metrics and whole[seed]}
        if complete:
            found["variants"][name] = summary(complete, whole)
    write_json(folder / ABLATION_FILE, found)
    return found, failures


def ablation_table(found: Mapping[str, Any]) -> TextTable:
    """``ablation.json`` as a table."""
    from lmf_multitask.evaluation.text import TextTable  # rich, which --help does not need

    shown = [key for key in SHOWN if all(key in one for one in found["variants"].values())]
    rows = []
    for name, one in found["variants"].items():
        cells = [name]
        for key in shown:
            if name == WHOLE:
                cells.append(f"{one[key]['mean']:.3f}")
            else:
                low, high = one[key]["interval"] or (float("nan"), float("nan"))
                cells.append(f"{one[key]['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
        rows.append(cells)
    return TextTable(
        f"{found['split']}, {len(found['seeds'])} seeds: mean over tasks; for variants, the difference to it "
        "[95% interval over seeds]",
        ["variant", *(METRICS[key].title for key in shown)],
        rows,
    )


def shown_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """The metrics of the table from a ``metrics.json``, where defined; empty for a run that is not complete."""
    if metrics is None:
        return {}
    found = {**metrics["mean"], **(metrics["exclusive"] or {})}
    return {key: found[key] for key in SHOWN if found.get(key) is not None}


def summary(runs: Mapping[int, Mapping[str, float]], whole: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Statistics of one variant over seeds, for every metric that all its runs define.

    Args:
        runs: seed -> metrics of the variant.
        whole: seed -> metrics of the unchanged training.
    """
    from lmf_multitask.evaluation.statistics import t_interval

    found = {}
    for key in SHOWN:
        if not all(key in runs[seed] and key in whole[seed] for seed in runs):
            continue
        values = {seed: metrics[key] for seed, metrics in runs.items()}
        differences = t_interval([value - whole[seed][key] for seed, value in values.items()])
        found[key] = {
            "runs": {str(seed): value for seed, value in values.items()},
            "mean": t_interval(list(values.values()))["mean"],
            "difference": differences["mean"],
            "interval": differences["interval"],
        }
    return found


def _folder(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-") or "variant"
