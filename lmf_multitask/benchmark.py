"""Measure on this machine: speed, size and distance from the hardware's limit of LMF and other fusions.

Random clips of IEMOCAP's sizes; one process, medians and quartiles. Writes benchmark.txt and benchmark.json. With --reference,
the training script of LMF_Paddle is timed beside ours, in processes of their own.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.errors import ConfigError
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, measures, prints and writes the tables."""
    parser = CommandParser(prog="lmf benchmark", description=__doc__)
    parser.add_argument(
        "--output_dir", metavar="DIR", default="benchmark", help="folder of the files (default: benchmark)"
    )
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="measurements of everything (default: 11)")
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes: shows that it works, not how fast"
    )
    parser.add_argument("--reference", metavar="DIR", help="a checkout of LMF_Paddle; needs --data_path")
    parser.add_argument("--data_path", metavar="FILE", help="the pickle that both train on with --reference")
    parser.add_argument(
        "--reference_epochs",
        type=int,
        default=5,
        metavar="N",
        help="epochs of each training with --reference (default: 5)",
    )
    options = parser.parse_args(arguments)
    given = dict(os.environ)
    tune_cpu()
    _check(options)

    from lmf_multitask.benchmarking.measure import measure, table
    from lmf_multitask.benchmarking.reference import reference_table, time_reference
    from lmf_multitask.files import write_json, write_text
    from lmf_multitask.installation import processor_facts
    from lmf_multitask.runtime import select_device, surroundings

    select_device("cpu")
    results, rate = measure(1 if options.quick else options.rounds, options.quick)
    where = surroundings()
    title = f"{processor_facts()['processor']}, OMP_NUM_THREADS {where['OMP_NUM_THREADS']}, paddle {where['paddle']}, "
    title += date.today().isoformat() + (" (--quick: not to be quoted)" if options.quick else "")
    found: dict[str, Any] = {"title": title, "surroundings": where, "product_flops_per_second": rate}
    found["results"] = {name: dataclasses.asdict(one) for name, one in results.items()}
    parts = [title, table(results, rate).as_text()]
    if options.reference:
        timings = time_reference(
            Path(options.reference), Path(options.data_path), options.reference_epochs, given, print
        )
        found["reference"] = [dataclasses.asdict(one) for one in timings]
        parts.append(reference_table(timings, options.reference_epochs).as_text())
    text, folder = "\n\n".join(parts), Path(options.output_dir).expanduser()
    write_json(folder / "benchmark.json", found)
    write_text(folder / "benchmark.txt", f"{text}\n")
    print(f"{text}\nwritten: {folder / 'benchmark.txt'} (and .json)")


def _check(options: Any) -> None:
    """Checks everything before minutes have passed.

    Raises:
        ConfigError: an option is wrong.
    """
    if options.rounds < 1:
        raise ConfigError(f"--rounds must be a whole number of at least 1, but got {options.rounds}.")
    folder = Path(options.output_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")
    if options.reference is None:
        if options.data_path is not None:
            raise ConfigError(
                "--data_path must be used with --reference, but is not: random clips are measured. Remove it."
            )
        return
    from lmf_multitask.benchmarking.reference import published_options

    published_options(Path(options.reference))
    if options.reference_epochs < 3:
        raise ConfigError(
            f"--reference_epochs must be at least 3, since the time between epochs is measured, but got {options.reference_epochs}."
        )
    if options.data_path is None or not Path(options.data_path).is_file():
        raise ConfigError(
            f"--data_path must be the pickle to train on with --reference, but got {options.data_path}. "
            "`lmf data sample FILE --scale full` writes one."
        )


if __name__ == "__main__":
    sys.exit(run(main))
