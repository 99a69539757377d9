"""Measure on this machine: speed, size and distance from the hardware's limit of LMF and other fusions.

Random clips of IEMOCAP's sizes; one process, medians and quartiles. Writes benchmark.txt and benchmark.json.
"""

from __future__ import annotations

import dataclasses
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
    options = parser.parse_args(arguments)
    tune_cpu()
    folder = Path(options.output_dir).expanduser()
    if options.rounds < 1:
        raise ConfigError(f"--rounds must be a whole number of at least 1, but got {options.rounds}.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: must be a folder, but is a file. Choose another --output_dir.")

    from lmf_multitask.files import write_json, write_text
    from lmf_multitask.installation import processor_facts
    from lmf_multitask.pipeline.speed import measure, table
    from lmf_multitask.runtime import select_device, surroundings

    select_device("cpu")
    results, rate = measure(1 if options.quick else options.rounds, options.quick)
    where = surroundings()
    title = f"{processor_facts()['processor']}, OMP_NUM_THREADS {where['OMP_NUM_THREADS']}, paddle {where['paddle']}, "
    title += date.today().isoformat() + (" (--quick: not to be quoted)" if options.quick else "")
    found: dict[str, Any] = {"title": title, "surroundings": where, "product_flops_per_second": rate}
    found["results"] = {name: dataclasses.asdict(one) for name, one in results.items()}
    text = f"{title}\n\n{table(results, rate).as_text()}"
    write_json(folder / "benchmark.json", found)
    write_text(folder / "benchmark.txt", f"{text}\n")
    print(f"{text}\nwritten: {folder / 'benchmark.txt'} (and .json)")


if __name__ == "__main__":
    sys.exit(run(main))
