"""Train one Low-rank Multimodal Fusion model on several emotions, or the paper's separate model for each; and test.

Without --data_path it trains on a small built-in sample of made-up clips.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmf_multitask.command_line import CommandParser, SettingsOptions, run
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.pipeline.settings import RECIPES, ExperimentConfig, recipe_config
from lmf_multitask.runtime import check_single_process, launched_processes, tune_cpu


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
        help="with per_emotion: settings of the Paddle reproduction or of the paper's authors (default: lmf_paddle)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="train once under each of these seeds, and summarise the metrics",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="trainings that run at the same time (default: one per core)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run in the output directory")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in the output directory; start it if there is none"
    )
    parser.add_argument(
        "--force", action="store_true", help="with --resume: resume even if the data or the versions changed"
    )
    parser.add_argument("--no_report", action="store_true", help="do not write report.html and plots/")
    settings = SettingsOptions(parser, ExperimentConfig)
    options = parser.parse_args(arguments)
    config = settings.build(options)
    in_folds = config.folds is not None and config.fold is None
    if options.mode == "per_emotion" or options.seeds is not None or in_folds:
        check_single_process("several trainings")
        _train_several(settings, options, config)
        return
    for name, needed in (("recipe", "--mode per_emotion"), ("jobs", "--mode per_emotion, --seeds or --folds")):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name} must be used with {needed}, but is not. Remove it.")
    tune_cpu(threads=1 if launched_processes() > 1 else None)

    from lmf_multitask.pipeline.experiment import run_experiment

    metrics = run_experiment(
        config,
        overwrite=options.overwrite,
        resume=options.resume,
        force=options.force,
        report=not options.no_report,
    )
    if not metrics:  # of several processes, only the first prints
        return
    from lmf_multitask.evaluation.tables import results_table
    from lmf_multitask.pipeline.layout import REPORT_FILE

    print(results_table(metrics))
    if not options.no_report:
        print(f"report: {config.run_directory() / REPORT_FILE}")
    print(f"run directory: {config.run_directory()}")


def _train_several(settings: SettingsOptions[ExperimentConfig], options: Any, base: ExperimentConfig) -> None:
    seeds, separate = options.seeds, options.mode == "per_emotion"
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be a whole number of at least 1, but got {options.jobs}.")
    if seeds is not None and (len(set(seeds)) < len(seeds) or min(seeds) < 0):
        raise ConfigError(
            f"--seeds must be different whole numbers of at least 0, but got {', '.join(map(str, seeds))}."
        )
    if options.recipe is not None and not separate:
        raise ConfigError("--recipe must be used with --mode per_emotion, but the mode is multitask. Remove it.")
    recipe = options.recipe or RECIPES[0]

    from lmf_multitask.evaluation.run_tables import seed_tables
    from lmf_multitask.evaluation.tables import results_table
    from lmf_multitask.pipeline.several import train_several

    parts = [f"per_emotion-{recipe.replace('/', '-')}" if separate else "multitask"]
    if base.folds is not None:
        parts.append(f"folds{base.folds}" + ("" if base.fold is None else f"-fold{base.fold}"))
    if seeds is not None and not separate:
        parts.append("seeds")
    folder = several_directory(base, "-".join(parts))
    tune_cpu(threads=1)  # as in the trainings, so that the joined metrics are equal to theirs
    outcome = train_several(
        options.mode,
        base,
        lambda emotion: settings.build(options, recipe_config(recipe, emotion)),
        folder,
        seeds=seeds,
        jobs=options.jobs,
        overwrite=options.overwrite,
        report=not options.no_report,
    )
    if outcome.summary is not None:
        print("\n\n".join(table.as_text() for table in seed_tables(outcome.summary)))
    elif any(outcome.results.values()):
        (metrics,) = outcome.results.values()
        print(results_table(metrics))
    for path in outcome.reports:
        print(f"report: {path}")
    print(f"run directory: {folder}")
    if outcome.failures:
        reasons = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in outcome.failures.items())
        raise TrainingError(
            f"every training must end normally, but {len(outcome.failures)} failed ({reasons}). Correct that and give the "
            f"same command again: it trains only what is missing, {', '.join(outcome.failures)}."
        )


def several_directory(config: ExperimentConfig, name: str) -> Path:
    """The parent of several runs: --output_dir, or a folder named after the data."""
    return Path(config.output_dir or f"runs/{config.data_name}-{name}").expanduser()


if __name__ == "__main__":
    sys.exit(run(main))
