"""The process of one trial: trains with a YAML file of settings, validates, and reports every epoch as JSON on stderr.

It is started by `driver`. A failure that the settings of the trial cause (a loss that is not finite, a network that is too
large) is reported as ``{"failed": ...}`` and is a result of the search. Other errors are those of any command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmf_multitask.command_line import run
from lmf_multitask.errors import ConfigError, TrainingError
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Takes the file of settings and a folder for temporary files."""
    tune_cpu()

    from lmf_multitask.pipeline.experiment import validate_experiment
    from lmf_multitask.pipeline.settings import settings_from

    settings, folder = map(Path, arguments)
    try:
        validate_experiment(settings_from(settings), folder, report)
    except (ConfigError, TrainingError) as error:
        report({"failed": str(error)})


def report(row: Mapping[str, Any]) -> None:
    """Writes one line for the parent."""
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
