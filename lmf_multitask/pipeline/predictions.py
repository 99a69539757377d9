"""Predictions of runs, of parents of any kind, and of CSV files, for comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.errors import RunError
from lmf_multitask.evaluation.predictions import Predictions, read_predictions
from lmf_multitask.pipeline.layout import PREDICTIONS_FILE, seed_folders
from lmf_multitask.pipeline.runs import Run, runs_in


def predictions_of(paths: Sequence[str]) -> list[list[Predictions]]:
    """Predictions of run directories, of parents of any kind, or of CSV files, under the shortest names that differ.

    Returns:
        One or, of the parent of several seeds, several predictions for each path.

    Raises:
        UserError: a path is none of these.
    """
    return [
        [_predictions(place, name) for place in (seed_folders(path) or {0: path}).values()]
        for name, path in zip(_short_names(paths), map(Path, paths))
    ]


def _predictions(path: Path, name: str) -> Predictions:
    if path.is_file():
        return read_predictions(path, name)
    if not (path / PREDICTIONS_FILE).is_file():  # a run, a parent, or a folder of `lmf infer` has it
        runs_in(path)  # refuses what is none of these
        raise RunError(f"{path}: must have {PREDICTIONS_FILE}, but has none. Give its training command again.")
    return read_predictions(Run(path).check_unchanged(PREDICTIONS_FILE), name)


def _short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as make them differ."""
    whole = [Path(path).expanduser().absolute() for path in paths]
    for length in (1, 2, 3):
        names = ["/".join(path.parts[-length:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]
