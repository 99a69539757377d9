"""Search for settings: many trainings, compared on validation; then the best of them under fresh seeds.

The same command again continues until there are N trials. Needs Optuna: pip install 'lmf_multitask[search]'.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmf_multitask.command_line import CommandParser, SettingsOptions, run
from lmf_multitask.errors import ConfigError, InstallationError
from lmf_multitask.runtime import check_single_process, tune_cpu, usable_cores
from lmf_multitask.searching.space import SearchConfig

if TYPE_CHECKING:
    from lmf_multitask.searching.outcome import Plan


def main(arguments: Sequence[str]) -> None:
    """Parses, searches, prints the result."""
    parser = CommandParser(prog="lmf search", description=__doc__)
    parser.add_argument(
        "--trials",
        type=int,
        required=True,
        metavar="N",
        help="wanted number of trials, those of earlier calls included",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="trainings that run at the same time (default: one per core)"
    )
    parser.add_argument("--data_path", metavar="FILE", help="data file or folder; short for --experiment.data_path")
    parser.add_argument("--output_dir", metavar="DIR", help="folder of the search; default: runs/search-CONFIG")
    parser.add_argument(
        "--emotion", nargs="+", metavar="NAME", help="with per_emotion: only these (default: all in the data)"
    )
    parser.add_argument(
        "--retrain", type=int, default=1, metavar="K", help="how many of the best are trained again (default: 1)"
    )
    parser.add_argument(
        "--retrain_seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="fresh seeds (default: the three after experiment.seed)",
    )
    parser.add_argument("--no_report", action="store_true", help="do not write search.html and plots/")
    settings = SettingsOptions(parser, SearchConfig, "YAML file of a search, e.g. configs/search/multitask.yaml")
    options = parser.parse_args(arguments)
    _check_options(options)
    if options.data_path is not None:
        setattr(options, "experiment.data_path", options.data_path)
    config = settings.build(options)
    if options.emotion is not None and not config.per_emotion:
        raise ConfigError(
            "--emotion must be used with per_emotion: true, but the search has it false. Set experiment.emotions instead."
        )
    if importlib.util.find_spec("optuna") is None:
        raise InstallationError(
            "a search must have Optuna, but it is not installed. Install it: pip install 'lmf_multitask[search]'."
        )
    tune_cpu(threads=1)

    from lmf_multitask.searching.outcome import Plan, check_seeds

    seeds = options.retrain_seeds or [config.experiment.seed + n for n in (1, 2, 3)]
    check_seeds(config, seeds)
    plan = Plan(options.trials, options.jobs or usable_cores(), options.retrain, seeds, not options.no_report)
    folder = Path(options.output_dir or f"runs/search-{Path(options.config[-1]).stem}").expanduser()
    if config.per_emotion:
        _search_each(config, folder, plan, options.emotion)
    else:
        _search(config, folder, plan)


def _check_options(options: Any) -> None:
    check_single_process("a search")
    if not options.config:
        raise ConfigError("--config must be given. See configs/search/multitask.yaml.")
    for name, least in (("trials", 1), ("jobs", 1), ("retrain", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be a whole number of at least {least}, but got {value}.")


def _search_each(config: SearchConfig, folder: Path, plan: Plan, emotions: list[str] | None) -> None:
    """A search for each emotion, one after another, each in a folder of its name."""
    from lmf_multitask.pipeline.layout import check_run_names
    from lmf_multitask.pipeline.stages import read_data

    base = config.experiment
    if emotions is not None:
        base = dataclasses.replace(base, emotions=list(emotions), tasks=None)
    found = read_data(base).targets
    check_run_names([target.name for target in found])
    for target in found:
        emotion = target.name
        print(f"{emotion}:")
        alone = dataclasses.replace(config, experiment=dataclasses.replace(base, emotions=None, tasks=[str(target)]))
        _search(alone, folder / emotion, plan)
        print()


def _search(config: SearchConfig, folder: Path, plan: Plan) -> None:
    from lmf_multitask.evaluation.run_tables import seed_tables
    from lmf_multitask.searching.outcome import SHOWN, search

    result = search(config, folder, plan)
    print(f"{len(result.trials)} trials: {result.counts_line()}")
    print(result.best_table(SHOWN).as_text())
    if result.retrained:
        print(result.retrained_table().as_text())
        for one in result.retrained:
            for table in seed_tables(one.test, f"trial {one.trial.number}: "):
                print(table.as_text())
    else:
        print(result.verdict())
    if plan.report:
        print(f"report: {folder / 'search.html'}")
    print(f"best settings: {folder / 'best-1.yaml'}")


if __name__ == "__main__":
    sys.exit(run(main))
