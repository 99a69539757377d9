"""What each part of a model contributes: one training and its variants under several seeds, and a table of the differences.

The same command again trains only what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, SettingsOptions, run
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.pipeline.ablation import AblationConfig
from lmf_multitask.runtime import check_single_process, tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, trains, prints the table."""
    parser = CommandParser(prog="lmf ablate", description=__doc__)
    parser.add_argument("--data_path", metavar="FILE", help="data file or folder; short for --experiment.data_path")
    parser.add_argument(
        "--output_dir", metavar="DIR", default="runs/ablation", help="of the runs (default: runs/ablation)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", default=[1, 2, 3, 4, 5], help="(default: 1 to 5)")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="trainings that run at the same time (default: one per core)"
    )
    settings = SettingsOptions(parser, AblationConfig, "YAML file, e.g. configs/ablation/multitask.yaml")
    options = parser.parse_args(arguments)
    check_single_process("an ablation")
    if len(set(options.seeds)) < max(len(options.seeds), 2) or min(options.seeds) < 0:
        got = ", ".join(map(str, options.seeds))
        raise ConfigError(f"--seeds must be two or more different whole numbers of at least 0, but got {got}.")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be a whole number of at least 1, but got {options.jobs}.")
    if options.data_path is not None:
        setattr(options, "experiment.data_path", options.data_path)
    config = settings.build(options)
    tune_cpu(threads=1)

    from lmf_multitask.pipeline.ablation import ablation_table, run_ablation

    folder = Path(options.output_dir).expanduser()
    found, failures = run_ablation(config, folder, options.seeds, options.jobs)
    if found["variants"]:
        print(ablation_table(found).as_text())
    print(f"runs: {folder}")
    if failures:
        name, reason = next(iter(failures.items()))
        raise TrainingError(
            f"every training must end normally, but {len(failures)} failed, the first {name}: {reason.rstrip('.')}. "
            "Correct that and give the same command again: it trains only what is missing."
        )


if __name__ == "__main__":
    sys.exit(run(main))
