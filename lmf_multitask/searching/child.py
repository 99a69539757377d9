"""The process of one trial: trains by a YAML file of settings, validates, and tells every epoch in a line of JSON on stderr.

It is started by `driver`. What a trial's settings are to blame for (a loss that is not finite, a network too large) is told
as ``{"failed": ...}``: that is a result of the search. Everything else that goes wrong is an error as of any command.
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
    """Takes the file of settings and a folder for what nobody keeps."""
    tune_cpu()

    from lmf_multitask.runs import settings_from
    from lmf_multitask.training.experiment import validate_experiment

    settings, folder = map(Path, arguments)
    try:
        validate_experiment(settings_from(settings), folder, _tell)
    except (ConfigError, TrainingError) as error:
        _tell({"failed": str(error)})


def _tell(row: Mapping[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
