"""Evaluate a trained run on a split: prints the tables, writes metrics_SPLIT.json and predictions_SPLIT.csv."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.data.schema import SPLITS
from lmf_multitask.errors import printable
from lmf_multitask.evaluation.calibration import CRITERIA, HALF
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, evaluates, prints the tables."""
    parser = CommandParser(prog="lmf evaluate", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="output directory of a training of any kind")
    parser.add_argument("--data_path", metavar="FILE", help="other data than the run was trained on")
    parser.add_argument("--split", choices=SPLITS, help="default: test")
    parser.add_argument("--output_dir", metavar="DIR", help="where the files go (default: RUN_DIR)")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:NUMBER")
    parser.add_argument(
        "--threshold",
        choices=[HALF, *CRITERIA],
        help="also show decisions at thresholds of one half, or at those for this metric (from validation)",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="also measure every subset of modalities, noise and missing clips: robustness.json, robustness.svg; "
        "on validation, unless --split is given",
    )
    options = parser.parse_args(arguments)

    tune_cpu()
    from lmf_multitask.errors import RunError
    from lmf_multitask.evaluation.run_tables import robustness_tables, seed_tables
    from lmf_multitask.evaluation.tables import full_tables
    from lmf_multitask.pipeline.cross_validation import evaluate_folds
    from lmf_multitask.pipeline.layout import fold_folders, seed_folders
    from lmf_multitask.pipeline.reporting import evaluate_run, robustness_of_run
    from lmf_multitask.pipeline.several import write_seed_summary

    needs_calibration = options.threshold is not None
    split = options.split or "test"
    output = Path(options.output_dir or options.run_dir).expanduser()
    seeds = seed_folders(options.run_dir)
    places = {place: output / place.name for place in seeds.values()} if seeds else {options.run_dir: output}
    results, paths = [], []
    for place, target in places.items():
        folds = fold_folders(place)
        if folds and (options.data_path or split != "test" or needs_calibration or options.robustness):
            raise RunError(
                f"{place}: of a cross-validation only the test clips of all folds can be evaluated together, as they are. "
                f"Give one fold, such as {next(iter(folds.values()))}, for other data, other splits and other options."
            )
        if folds:
            found, written = evaluate_folds(Path(place), options.device, target)
        else:
            found, written = evaluate_run(
                place, options.data_path, split, options.device, output_dir=target, need_calibration=needs_calibration
            )
        results.append(found.metrics)
        if len(results) == 1:  # seeds are trained on the same data
            print(printable("".join(f"data: {note}\n" for note in found.metrics["data"]["notes"]), keep="\n"))
        paths += written
    if seeds:
        summary = output / f"seeds_{split}.json"
        print("\n\n".join(table.as_text() for table in seed_tables(write_seed_summary(output, results, summary.name))))
        paths.append(summary)
    else:
        print(full_tables(results[0], threshold=options.threshold))
    if options.robustness:
        for place, target in places.items():
            content, written = robustness_of_run(
                place, options.data_path, options.split or "validation", options.device, output_dir=target
            )
            for table in robustness_tables(content):
                print(f"\n{f'{target.name}: ' if seeds else ''}{table.as_text()}")
            paths += written
    for path in paths:
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(run(main))
