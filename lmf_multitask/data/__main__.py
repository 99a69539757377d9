"""``lmf data inspect FILE``, ``lmf data convert FILE DIR``, ``lmf data sample FILE`` and ``lmf data cache``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.command_line import CommandParser, SettingsOptions, run
from lmf_multitask.data.config import ReadingOptions


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and runs the subcommand."""
    parser = CommandParser(
        prog="lmf data",
        description="Show what a data file holds, convert it to Parquet, write the sample, or empty the cache.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="inspect|convert|sample|cache")
    inspect = commands.add_parser(
        "inspect", help="what a data file holds", description="Show what a data file holds, in one screen."
    )
    convert = commands.add_parser(
        "convert",
        help="any data file as Parquet",
        description="Write any data file as train.parquet, validation.parquet and test.parquet, checked and cleaned.",
    )
    for one in (inspect, convert):
        one.add_argument("file", metavar="FILE", help="a data file or folder of any layout")
        one.add_argument(
            "--emotions", nargs="+", metavar="NAME", help="label columns, where the file does not name them"
        )
    convert.add_argument("folder", metavar="DIR", help="the folder to write; it must not exist or be empty")
    settings = {one: SettingsOptions(one, ReadingOptions) for one in (inspect, convert)}
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
        "--scale",
        choices=["tiny", "small", "full"],
        default="small",
        help="small, the default: 960 clips, 24 MB; tiny: 300, 8 MB, for tests; full: as many as IEMOCAP, 443 MB",
    )
    sample.add_argument("--seed", type=int, default=0, help="of all random numbers, from 0 to 2^32 - 1; default: 0")
    sample.add_argument("--overwrite", action="store_true", help="replace an existing file")
    cache = commands.add_parser(
        "cache", help="where converted data are kept", description="Show the folder of converted data, or empty it."
    )
    cache.add_argument("--data.cache_dir", dest="cache_dir", metavar="DIR", help="as given to lmf train")
    cache.add_argument("--clear", action="store_true", help="remove the data converted by lmf; nothing else")
    options = parser.parse_args(arguments)
    if options.command == "cache":
        _cache(options)
        return
    if options.command == "sample":
        _sample(options)
        return
    from lmf_multitask.data import loading
    from lmf_multitask.errors import printable

    config = settings[inspect if options.command == "inspect" else convert].build(options).data
    if options.command == "inspect":
        print(printable(loading.inspect(options.file, options.emotions, config), keep="\n"))
        return
    import datasets

    datasets.disable_progress_bars()
    for path, rows in loading.convert(options.file, Path(options.folder), options.emotions, config).items():
        print(f"written: {printable(str(path))} ({rows:,} clips)")


def _cache(options: argparse.Namespace) -> None:
    from lmf_multitask.cache_folder import cache_folder, clear_cache, describe_cache

    folder = cache_folder(options.cache_dir)
    if options.clear:
        print(f"removed: {clear_cache(folder) / 1e6:,.1f} MB")
    print(f"{folder}: {describe_cache(folder)}")


def _sample(options: argparse.Namespace) -> None:
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
