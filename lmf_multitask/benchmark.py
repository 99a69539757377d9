"""Measure on this machine: speed, size and distance from the hardware's limit of LMF and what it is compared with.

Made-up data of IEMOCAP's sizes; one process, everything in turn, medians and quartiles. Writes benchmark.txt, benchmark.json
and benchmark.png. With --reference, LMF_Paddle's own training script is timed beside ours, in processes of their own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, measures, prints, writes."""
    parser = CommandParser(prog="lmf benchmark", description=__doc__)
    parser.add_argument("--output_dir", default="benchmark", help="folder for the three files (default: benchmark)")
    parser.add_argument("--rounds", type=int, help="measurements of everything (default: 11)")
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes: shows that it works, not how fast"
    )
    parser.add_argument(
        "--reference", metavar="DIR", help="a checkout of LMF_Paddle to time beside ours; needs --data_path"
    )
    parser.add_argument("--data_path", metavar="FILE", help="the pickle that both train on with --reference")
    parser.add_argument(
        "--reference_epochs", type=int, default=5, help="epochs of each training with --reference (default: 5)"
    )
    options = parser.parse_args(arguments)
    given = dict(os.environ)
    tune_cpu()

    from lmf_multitask.benchmarking.run import Plan, run_benchmark

    plan = Plan(
        output_dir=Path(options.output_dir).expanduser(),
        quick=options.quick,
        rounds=options.rounds,
        reference=options.reference and Path(options.reference).expanduser(),
        data_path=options.data_path and Path(options.data_path).expanduser(),
        reference_epochs=options.reference_epochs,
    )
    print(run_benchmark(plan, given))


if __name__ == "__main__":
    sys.exit(run(main))
