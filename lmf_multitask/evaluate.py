"""Evaluate a trained run on a split: prints the table and writes metrics_SPLIT.json into the run directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu

THRESHOLDS = ("positive_f1", "uar")


def main(arguments: Sequence[str]) -> None:
    """Parses, evaluates, prints the table."""
    parser = CommandParser(prog="lmf evaluate", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the output directory of a training of any kind")
    parser.add_argument("--data_path", help="other data than the run was trained on")
    parser.add_argument("--split", choices=["train", "validation", "test"], help="default: test")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:NUMBER")
    parser.add_argument(
        "--calibrated", action="store_true", help="also show the figures of probabilities calibrated on validation"
    )
    parser.add_argument(
        "--threshold",
        choices=["0.5", *THRESHOLDS],
        default="0.5",
        help="also show decisions at the thresholds that were best on validation for this figure; default: 0.5 only",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="also measure every subset of modalities, noise and missing rows: robustness.json, robustness.png; "
        "on validation, unless --split is given",
    )
    options = parser.parse_args(arguments)

    tune_cpu()
    from lmf_multitask.evaluation.report import full_tables
    from lmf_multitask.evaluation.robustness import robustness_table
    from lmf_multitask.evaluation.tables import seed_table
    from lmf_multitask.reporting import evaluate_runs, robustness_of_runs
    from lmf_multitask.runs import seed_folders
    from lmf_multitask.several import write_seed_summary

    needs = options.calibrated or options.threshold != "0.5"
    split = options.split or "test"
    chosen = (options.data_path, split, options.device)
    seeds = seed_folders(options.run_dir)
    if seeds:
        results = [evaluate_runs(place, *chosen, need_calibration=needs)[0] for place in seeds.values()]
        summary = Path(options.run_dir) / f"seeds_{split}.json"
        print(seed_table(write_seed_summary(Path(options.run_dir), results, summary.name)))
        paths = [summary]
    else:
        metrics, paths = evaluate_runs(options.run_dir, *chosen, need_calibration=needs)
        print(full_tables(metrics, calibrated=options.calibrated, threshold=options.threshold))
    if options.robustness:
        for seed, place in (seeds or {None: options.run_dir}).items():
            found, written = robustness_of_runs(place, options.data_path, options.split or "validation", options.device)
            print(f"\n{'' if seed is None else f'seed {seed} '}{robustness_table(found).as_text()}")
            paths += written
    for path in paths:
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(run(main))
