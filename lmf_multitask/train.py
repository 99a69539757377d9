"""Train one Low-rank Multimodal Fusion model on several emotions, and test it.

Without --data_path it trains on a small built-in sample of made-up clips.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, add_experiment_options, experiment_from, run, with_found_configs
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, trains, prints the table."""
    parser = CommandParser(prog="lmf train", description=__doc__)
    add_experiment_options(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run that is already in the output directory"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished run in the output directory")
    parser.add_argument("--no_report", action="store_true", help="do not write report.html and plots/")
    options = parser.parse_args(with_found_configs(arguments))
    config = experiment_from(parser, options)

    tune_cpu()
    from lmf_multitask.evaluation.report import results_table
    from lmf_multitask.training.experiment import SAMPLE_NOTE, run_experiment

    metrics = run_experiment(config, overwrite=options.overwrite, resume=options.resume)
    print(results_table(metrics))
    if config.data_path is None:
        print(SAMPLE_NOTE)
    if not options.no_report:
        from lmf_multitask.reporting import report_runs

        print(f"report: {report_runs(config.run_directory())}")
    print(f"run directory: {config.run_directory()}")


if __name__ == "__main__":
    sys.exit(run(main))
