"""``lmf data inspect FILE`` and ``lmf data sample FILE``: show what a data file holds, write the sample."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs the subcommand."""
    parser = CommandParser(prog="lmf data", description="Show what a data file holds, or write the sample.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="inspect|sample")
    inspect = commands.add_parser(
        "inspect", help="what a data file holds", description="Show what a data file holds, in one screen."
    )
    inspect.add_argument(
        "file",
        metavar="FILE",
        help="a pickle, an .npz or Parquet file, or a folder of save_to_disk or of Parquet files",
    )
    inspect.add_argument(
        "--emotions", nargs="+", metavar="NAME", help="label columns, where the file does not name them"
    )
    inspect.add_argument(
        "--label_column", type=int, choices=[0, 1], help='column of one-hot labels that means "present"'
    )
    inspect.add_argument("--max_length", type=int, metavar="N", help="longest sequence, in steps")
    sample = commands.add_parser(
        "sample", help="write the built-in sample", description="Write the built-in sample of made-up clips."
    )
    sample.add_argument("file", metavar="FILE", help="the pickle to write; an .npz with --targets")
    sample.add_argument(
        "--targets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="real-valued tasks beside the emotions: valence, arousal",
    )
    sample.add_argument(
        "--scale", choices=["small", "full"], default="small", help="full: as many clips as IEMOCAP, 443 MB"
    )
    sample.add_argument("--seed", type=int, default=0, help="of all random numbers, from 0 to 2^32 - 1; default: 0")
    sample.add_argument("--overwrite", action="store_true", help="replace an existing file")
    options = parser.parse_args(arguments)
    if options.command == "inspect":
        _inspect(options)
    else:
        _sample(options)


def _inspect(options: argparse.Namespace) -> None:
    from lmf_multitask.config import DataConfig
    from lmf_multitask.data.loading import inspect
    from lmf_multitask.errors import printable

    config = DataConfig(label_column=options.label_column, max_length=options.max_length)
    print(printable(inspect(options.file, options.emotions, config), keep="\n"))


def _sample(options: argparse.Namespace) -> None:
    from pathlib import Path

    from lmf_multitask.data.sample import write_sample
    from lmf_multitask.errors import ConfigError

    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"--seed must be from 0 to 2^32 - 1, but got {options.seed}.")
    if Path(options.file).expanduser().exists() and not options.overwrite:
        raise ConfigError(f"{options.file}: must not exist yet, but does. Choose another name, or --overwrite.")
    path = write_sample(options.file, options.scale, options.seed, options.targets)
    print(f"written: {path} ({path.stat().st_size:,} bytes)")


if __name__ == "__main__":
    sys.exit(run(main))
