"""Are the differences between models real? Paired bootstrap and McNemar's exact test on the same test rows.

Each argument is a run directory, a parent of per-emotion runs, of folds or of seeds, or a predictions.csv of any model (columns id and
EMOTION_probability; EMOTION_label where known). The first is the reference.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run


def main(arguments: Sequence[str]) -> None:
    """Parses, compares, prints the tables."""
    parser = CommandParser(prog="lmf compare", description=__doc__)
    parser.add_argument("first", metavar="RUN_A", help="the reference")
    parser.add_argument("others", metavar="RUN_B", nargs="+", help="compared with it")
    options = parser.parse_args(arguments)

    from lmf_multitask.evaluation.comparison import compare
    from lmf_multitask.evaluation.tables import published_table
    from lmf_multitask.evaluation.verdicts import comparison_text
    from lmf_multitask.pipeline.predictions import predictions_of

    comparison = compare(predictions_of([options.first, *options.others]))
    print(comparison_text(comparison))
    published = published_table(comparison.metrics)
    if published is not None:
        print(f"\n{published.as_text()}")


if __name__ == "__main__":
    sys.exit(run(main))
