"""Write a page with tables and plots of a run; of several runs, their comparison.

One run directory (or parent of per-emotion runs or of folds) gives report.html and plots/ inside it, a parent of seeds
seeds.html. Several, or predictions.csv files of any model among them, give comparison.html and plots/. Every page is one
self-contained file; the plots are also SVG and PDF files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.errors import ConfigError
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, writes the page, prints its path."""
    parser = CommandParser(prog="lmf report", description=__doc__)
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", help="output directory of a training")
    parser.add_argument("--data_path", metavar="FILE", help="other data than the run was trained on (one RUN_DIR only)")
    parser.add_argument(
        "--output_dir", metavar="DIR", help="where the page goes; default: RUN_DIR, of several: comparison"
    )
    options = parser.parse_args(arguments)
    several = len(options.run_dirs) > 1
    if several and options.data_path:
        raise ConfigError("--data_path must be used with one RUN_DIR, but there are several. Remove it.")
    tune_cpu()

    from lmf_multitask.evaluation.comparison import compare
    from lmf_multitask.evaluation.report import write_comparison
    from lmf_multitask.pipeline.cross_validation import report_folds
    from lmf_multitask.pipeline.layout import fold_folders, seed_folders
    from lmf_multitask.pipeline.predictions import predictions_of
    from lmf_multitask.pipeline.reporting import report_run
    from lmf_multitask.pipeline.several import report_seeds

    if several:
        folder = Path(options.output_dir or "comparison").expanduser()
        path = write_comparison(compare(predictions_of(options.run_dirs)), folder)
    elif fold_folders(options.run_dirs[0]) or seed_folders(options.run_dirs[0]):
        if options.data_path:
            raise ConfigError(
                "--data_path must be used with one run, but got several seeds or folds. Give one of them."
            )
        parent = Path(options.run_dirs[0]).expanduser()
        pages = report_seeds if seed_folders(parent) else report_folds
        path = pages(parent, options.output_dir, pdf=True)
    else:
        path = report_run(options.run_dirs[0], options.data_path, options.output_dir)
    print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(run(main))
