"""Evaluate a trained run on a split: prints the table and writes metrics_SPLIT.json into the run directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, evaluates, prints the table."""
    parser = CommandParser(prog="lmf evaluate", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the output directory of a training (of either mode)")
    parser.add_argument("--data_path", help="other data than the run was trained on")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test", help="default: test")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:NUMBER")
    options = parser.parse_args(arguments)

    tune_cpu()
    from lmf_multitask.evaluation.report import results_table
    from lmf_multitask.training.experiment import evaluate_runs

    metrics, path = evaluate_runs(options.run_dir, options.data_path, options.split, options.device)
    print(results_table(metrics))
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(run(main))
