"""Train one Low-rank Multimodal Fusion model on several emotions, or the paper's separate model for each; and test.

Without --data_path it trains on a small built-in sample of made-up clips.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmf_multitask.command_line import CommandParser, add_experiment_options, experiment_from, run, with_found_configs
from lmf_multitask.config import RECIPES, ExperimentConfig, recipe_config
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, trains, prints the table."""
    parser = CommandParser(prog="lmf train", description=__doc__)
    parser.add_argument(
        "--mode",
        choices=["multitask", "per_emotion"],
        default="multitask",
        help="one model for all emotions, or one for each with its published settings (default: multitask)",
    )
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="with per_emotion: the settings of the Paddle reproduction or of the paper's authors (default: lmf_paddle)",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="train once under each of these seeds, and sum up the figures"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="of several trainings, how many run side by side (default: one per core)"
    )
    add_experiment_options(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run that is already in the output directory"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run in the output directory")
    parser.add_argument(
        "--force", action="store_true", help="with --resume: although the data or the versions are others than before"
    )
    parser.add_argument("--no_report", action="store_true", help="do not write report.html and plots/")
    arguments = with_found_configs(arguments)
    options = parser.parse_args(arguments)
    config = experiment_from(parser, options)
    if options.mode == "per_emotion" or options.seeds is not None:
        if _launched_processes() > 1:
            raise ConfigError(
                f"several trainings must be started once, but were launched in {_launched_processes()} processes. "
                "Start it without a launcher: each training gets a process of its own."
            )
        _train_several(parser, options, config, arguments)
        return
    for name, needed in (("recipe", "--mode per_emotion"), ("jobs", "--mode per_emotion or --seeds")):
        if options[name] is not None:
            raise ConfigError(f"--{name} must come with {needed}, but does not. Leave it out.")
    tune_cpu(threads=1 if _launched_processes() > 1 else None)

    from lmf_multitask.training.experiment import run_experiment

    metrics = run_experiment(config, overwrite=options.overwrite, resume=options.resume, force=options.force)
    if not metrics:  # of several processes, the first speaks
        return
    from lmf_multitask.evaluation.report import results_table

    _print_result(results_table(metrics), config)
    if not options.no_report:
        from lmf_multitask.reporting import report_runs

        print(f"report: {report_runs(config.run_directory(), curves=False, metrics=metrics)}")
    print(f"run directory: {config.run_directory()}")


def _launched_processes() -> int:
    """As ``paddle.distributed.launch`` tells it; asked before Paddle is imported."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def _train_several(parser: CommandParser, options: Any, base: ExperimentConfig, arguments: list[str]) -> None:
    seeds, separate = options.seeds, options.mode == "per_emotion"
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be a whole number of at least 1, but got {options.jobs}.")
    if seeds is not None and (len(set(seeds)) < len(seeds) or min(seeds) < 0):
        raise ConfigError(
            f"--seeds must be different whole numbers of at least 0, but got {', '.join(map(str, seeds))}."
        )
    if options.recipe is not None and not separate:
        raise ConfigError("--recipe must come with --mode per_emotion, but the mode is multitask. Leave it out.")
    recipe = options.recipe or RECIPES[0]

    def settings_for(emotion: str) -> ExperimentConfig:
        defaults = ["--config", str(recipe_config(recipe, emotion))]
        return experiment_from(parser, parser.parse_args([*defaults, *arguments]))

    from lmf_multitask.evaluation.report import results_table
    from lmf_multitask.evaluation.tables import seed_table
    from lmf_multitask.several import train_several

    folder = Path(
        base.output_dir or (f"runs/per_emotion-{recipe}" if separate else "runs/multitask-seeds")
    ).expanduser()
    tune_cpu(threads=1)  # as in the trainings, so that the figures are those of their own directories
    outcome = train_several(
        options.mode,
        base,
        settings_for,
        folder,
        seeds=seeds,
        jobs=options.jobs,
        overwrite=options.overwrite,
        report=not options.no_report,
    )
    if outcome.summary is not None:
        _print_result(seed_table(outcome.summary), base)
    elif outcome.results:
        (metrics,) = outcome.results.values()
        _print_result(results_table(metrics), base)
    for path in outcome.reports:
        print(f"report: {path}")
    print(f"run directory: {folder}")
    if outcome.failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in outcome.failures.items())
        raise TrainingError(
            f"every training must end well, but {len(outcome.failures)} failed ({reasons}). Mend that and give the same "
            f"command again: it trains only what is missing, {', '.join(outcome.failures)}."
        )


def _print_result(table: str, config: ExperimentConfig) -> None:
    from lmf_multitask.data.loading import SAMPLE_NOTE

    print(table)
    if config.data_path is None:
        print(SAMPLE_NOTE)


if __name__ == "__main__":
    sys.exit(run(main))
