"""``python -m lmf_multitask.data inspect FILE`` and ``... sample FILE``: look at a data file, write the sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from lmf_multitask.command_line import CommandParser, run


def main(arguments: Sequence[str]) -> None:
    """Parses and calls one of the two."""
    inspect = CommandParser(prog="lmf data inspect", description="What is in a data file, in one screen.")
    inspect.add_argument("file", metavar="FILE", help="pickle, folder of save_to_disk, or folder of Parquet files")
    inspect.add_argument("--label_column", type=Literal[0, 1], help='which column of one-hot labels means "present"')
    inspect.add_argument("--cache_dir", help="folder of the Arrow cache; default: that of datasets")
    sample = CommandParser(prog="lmf data sample", description="Write the built-in sample of made-up clips.")
    sample.add_argument("file", metavar="FILE", help="the pickle to write")
    sample.add_argument(
        "--scale", choices=["small", "full"], default="small", help="full: as many clips as IEMOCAP, 443 MB"
    )
    sample.add_argument("--seed", type=int, default=0, help="of all random numbers, from 0 to 2^32 - 1; default: 0")
    sample.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser = CommandParser(prog="lmf data", description="Look at a data file, or write the sample.")
    commands = parser.add_subcommands(dest="command")
    commands.add_subcommand("inspect", inspect, help="what is in a data file")
    commands.add_subcommand("sample", sample, help="write the built-in sample")
    options = parser.parse_args(arguments)
    if options.command == "inspect":
        _inspect(options.inspect)
    else:
        _sample(options.sample)


def _inspect(options: object) -> None:
    from lmf_multitask.data.iemocap import load_iemocap

    dataset = load_iemocap(options.file, label_column=options.label_column, cache_dir=options.cache_dir)
    print(dataset["train"].info.description)


def _sample(options: object) -> None:
    from pathlib import Path

    from lmf_multitask.data.sample import write_sample
    from lmf_multitask.errors import ConfigError

    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"--seed must be from 0 to 2^32 - 1, but got {options.seed}.")
    if Path(options.file).expanduser().exists() and not options.overwrite:
        raise ConfigError(f"{options.file}: must not exist yet, but does. Choose another name, or --overwrite.")
    path = write_sample(options.file, options.scale, options.seed)
    print(f"written: {path} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    sys.exit(run(main))
