"""Checkpoints of a training: which of them is whole, and what they hold beside PaddleNLP's own files."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from lmf_multitask.data.safe_pickle import check_plain
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.files import damage, remove_leftovers

logger = logging.getLogger(__name__)

_PROGRESS_FILE = "progress.json"
_PADDLES_GENERATOR = ("paddle.base.libpaddle", "GeneratorState")  # the only class in a checkpoint; its state is numbers


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        history: one dict per finished epoch.
        epochs_without_better: how many of the last epochs were no better than the best.
        logged: of an epoch that has not ended: name -> (value, rows) of each step.
    """

    history: list[dict[str, float]]
    epochs_without_better: int
    logged: dict[str, list[tuple[float, int]]]

    def write(self, checkpoint: Path) -> None:
        """Puts it into a checkpoint that is being written."""
        (checkpoint / _PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, checkpoint: str | Path) -> Progress:
        """What a checkpoint tells.

        Raises:
            RunError: it tells none.
        """
        path = Path(checkpoint) / _PROGRESS_FILE
        found = {field.name: _read_json(path, field.name) for field in dataclasses.fields(cls)}
        found["logged"] = {name: [tuple(entry) for entry in entries] for name, entries in found["logged"].items()}
        return cls(**found)


def last_whole(folder: str | Path) -> Path | None:
    """The newest checkpoint in a folder that is whole, and whose best epoch is; damaged ones are named and passed over.

    What interrupted writing has left in the folder is removed.
    """
    folder = Path(folder)
    remove_leftovers(folder)
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        problem = _problem(path)
        if problem is None:
            best = best_checkpoint(path)
            problem = best and best != path and _problem(best)
            problem = problem and f"that of the best epoch, {best.name}, is damaged: {problem}"
        if not problem:
            return path
        logger.warning("%s: must be a whole checkpoint, but %s. Passed over.", path, problem)
    return None


def best_checkpoint(checkpoint: Path) -> Path | None:
    """Where the best epoch up to a checkpoint was saved: beside it, wherever the run directory has been moved since."""
    best = _read_json(checkpoint / "trainer_state.json", "best_model_checkpoint")
    return None if best is None else checkpoint.parent / Path(best).name


def _problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: it is not whole, or its pickles, which Trainer reads with Python's reader, run code."""
    problem = damage(checkpoint)
    if problem is not None:
        return problem
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in (".pdparams", ".pdopt", ".pth"):
            try:
                check_plain(path, [_PADDLES_GENERATOR])
            except DataError as error:
                return str(error).removeprefix(f"{path}: ").rstrip(".")
    return None


def _read_json(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: must tell {key}, but {error}. Delete that checkpoint.") from None
