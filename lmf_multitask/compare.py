"""Are the differences between models real? Paired bootstrap and McNemar's exact test on the same test rows.

Each argument is a run directory, a parent of per-emotion runs, or a predictions.csv of any model (columns id and
EMOTION_probability; EMOTION_label where known). The first is the reference.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmf_multitask.command_line import CommandParser, run

if TYPE_CHECKING:
    from lmf_multitask.evaluation.predictions import Predictions


def main(arguments: Sequence[str]) -> None:
    """Parses, compares, prints the tables."""
    parser = CommandParser(prog="lmf compare", description=__doc__)
    parser.add_argument("first", metavar="RUN_A", help="the reference")
    parser.add_argument("others", metavar="RUN_B", nargs="+", help="what is compared with it")
    options = parser.parse_args(arguments)

    from lmf_multitask.evaluation.comparison import compare
    from lmf_multitask.evaluation.tables import published_table

    comparison = compare(predictions_of([options.first, *options.others]))
    print(comparison.as_text())
    published = published_table(comparison.figures)
    if published is not None:
        print(f"\n{published.as_text()}")


def predictions_of(paths: Sequence[str]) -> list[Predictions]:
    """What each run directory, parent of per-emotion runs, or CSV file predicts, under the shortest names that differ.

    Raises:
        UserError: a path is none of these.
    """
    from lmf_multitask.evaluation.predictions import PREDICTIONS_FILE, join_emotions, read_predictions
    from lmf_multitask.runs import runs_in

    found = []
    for name, path in zip(_short_names(paths), map(Path, paths)):
        if path.is_file():
            found.append(read_predictions(path, name))
            continue
        if path.is_dir() and (path / PREDICTIONS_FILE).is_file():
            found.append(read_predictions(path / PREDICTIONS_FILE, name))  # our own, or a folder of `lmf infer`
            continue
        runs = runs_in(path)
        parts = [read_predictions(one.folder / PREDICTIONS_FILE) for one in runs]
        found.append(join_emotions(parts, name, path))
    return found


def _short_names(paths: Sequence[str]) -> list[str]:
    whole = [Path(path).expanduser().absolute() for path in paths]
    for length in (1, 2, 3):
        names = ["/".join(path.parts[-length:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


if __name__ == "__main__":
    sys.exit(run(main))
