"""Search for settings: many trainings, compared on validation; then the best of them under fresh seeds.

The same command again goes on until there are N trials. Needs Optuna: pip install 'lmf_multitask[search]'.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmf_multitask.command_line import CommandParser, run, with_found_configs
from lmf_multitask.errors import ConfigError, InstallationError
from lmf_multitask.runtime import tune_cpu, usable_cores
from lmf_multitask.searching.space import SearchConfig

if TYPE_CHECKING:
    from lmf_multitask.searching.outcome import Plan


def main(arguments: Sequence[str]) -> None:
    """Parses, searches, prints the result."""
    parser = CommandParser(prog="lmf search", description=__doc__)
    parser.add_argument("--config", action="config", help="YAML file of a search, e.g. configs/search/multitask.yaml")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="how many there are to be, those of earlier calls included"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="how many run side by side (default: one per core)")
    parser.add_argument(
        "--data_path", help="data file or folder; default: experiment.data_path, or the built-in sample"
    )
    parser.add_argument("--output_dir", help="folder of the search; default: runs/search-CONFIG")
    parser.add_argument(
        "--emotion", nargs="+", type=str, metavar="NAME", help="with per_emotion: only these (default: all in the data)"
    )
    parser.add_argument(
        "--retrain", type=int, default=1, metavar="K", help="how many of the best are trained anew (default: 1)"
    )
    parser.add_argument(
        "--retrain_seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="fresh seeds (default: the three after experiment.seed)",
    )
    parser.add_argument("--no_report", action="store_true", help="do not write search.html and plots/")
    parser.add_class_arguments(SearchConfig)
    options = parser.parse_args(with_found_configs(arguments))
    config = _checked(parser, options)
    config = _with_data(config, options)
    folder = Path(options.output_dir or f"runs/search-{Path(str(options.config[-1])).stem}").expanduser()

    if importlib.util.find_spec("optuna") is None:
        raise InstallationError(
            "a search must have Optuna, but it is not installed. Install it: pip install 'lmf_multitask[search]'."
        )
    tune_cpu(threads=1)

    from lmf_multitask.searching.outcome import Plan, check_seeds

    seeds = options.retrain_seeds
    if seeds is None:
        seeds = [config.experiment.seed + n for n in (1, 2, 3)]
    check_seeds(config, seeds)
    plan = Plan(options.trials, options.jobs or usable_cores(), options.retrain, seeds, not options.no_report)
    if config.per_emotion:
        _search_each(config, folder, plan, options.emotion)
    else:
        _search(config, folder, plan)


def _checked(parser: CommandParser, options: Any) -> SearchConfig:
    """The search, with what the parser cannot know about the options checked, too."""
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if processes > 1:
        raise ConfigError(
            f"a search must be started once, but was launched in {processes} processes. "
            "Start it without a launcher: each trial gets a process of its own."
        )
    if not options.config:
        raise ConfigError("--config must be given. See configs/search/multitask.yaml.")
    if options.trials is None:
        raise ConfigError("--trials must be given. See --help.")
    for name, least in (("trials", 1), ("jobs", 1), ("retrain", 0)):
        value = options[name]
        if value is not None and value < least:
            raise ConfigError(f"--{name} must be a whole number of at least {least}, but got {value}.")
    built = parser.instantiate(options)
    config = SearchConfig(**{name: getattr(built, name) for name in SearchConfig.__dataclass_fields__})
    if options.emotion is not None and not config.per_emotion:
        raise ConfigError(
            "--emotion must come with per_emotion: true, but the search has it false. Set experiment.emotions instead."
        )
    return config


def _with_data(config: SearchConfig, options: Any) -> SearchConfig:
    path = options.data_path or config.experiment.data_path
    return dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, data_path=path))


def _search_each(config: SearchConfig, folder: Path, plan: Plan, emotions: Sequence[str] | None) -> None:
    """A search for each emotion, one after another, each in a folder of its name."""
    from lmf_multitask.training.experiment import prepare_experiment

    wanted = emotions or config.experiment.emotions
    base = dataclasses.replace(config.experiment, emotions=wanted and list(wanted))
    for emotion in prepare_experiment(base)[0].emotions:
        print(f"{emotion}:")
        alone = dataclasses.replace(config, experiment=dataclasses.replace(base, emotions=[emotion]))
        _search(alone, folder / emotion, plan)
        print()


def _search(config: SearchConfig, folder: Path, plan: Plan) -> None:
    from lmf_multitask.data.loading import SAMPLE_NOTE
    from lmf_multitask.evaluation.tables import seed_table
    from lmf_multitask.searching.outcome import SHOWN, search

    result = search(config, folder, plan)
    print(f"{len(result.trials)} trials: {result.counts_line()}")
    print(result.best_table(SHOWN).as_text())
    if result.retrained:
        print(result.retrained_table().as_text())
        for one in result.retrained:
            print(f"trial {one.trial.number} under fresh seeds, {seed_table(one.test)}")
    else:
        print(result.verdict())
    if config.experiment.data_path is None:
        print(SAMPLE_NOTE)
    if plan.report:
        print(f"report: {folder / 'search.html'}")
    print(f"best settings: {folder / 'best-1.yaml'}")


if __name__ == "__main__":
    sys.exit(run(main))
