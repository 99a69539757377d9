"""A run directory: what is in it, how it is made, and how a trained model comes back from it.

config.yaml       every setting, enough to run again
model/            weights and the model's own arguments
checkpoints/      to go on with an unfinished training
metrics.json      figures on test; its presence says that the run is complete
history.csv       one row per epoch
predictions.csv   one row per test clip
report.html       everything to look at, in one file; its pictures also in plots/
train.log         everything that was said

The parent of per-emotion runs holds such a directory per emotion, under its name, and a joined metrics.json.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lmf_multitask.config import DataConfig, ExperimentConfig, ModelConfig, TrainingConfig
from lmf_multitask.data.schema import sort_emotions
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.files import write_text

if TYPE_CHECKING:
    from lmf_multitask.models.lmf import LMFModel

CONFIG_FILE, METRICS_FILE, LOG_FILE = "config.yaml", "metrics.json", "train.log"
REPORT_FILE, PLOTS_FOLDER = "report.html", "plots"
CONTENTS = (
    CONFIG_FILE, METRICS_FILE, LOG_FILE, "model", "checkpoints", "history.csv", "predictions.csv", "visualdl",
    REPORT_FILE, PLOTS_FOLDER,
)  # fmt: skip


def runs_in(folder: str | Path) -> list[Run]:
    """The run directories that a path given by a user stands for: itself, or the per-emotion runs inside it.

    Raises:
        RunError: there is no such folder, or it is neither.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise RunError(f"{folder}: must be a run directory, but there is no such folder. Check the path.")
    if (folder / CONFIG_FILE).is_file():
        return [Run(folder)]
    found = {path.parent.name: Run(path.parent) for path in folder.glob(f"*/{CONFIG_FILE}")}
    if not found:
        raise RunError(
            f"{folder}: must be a run directory, but has no {CONFIG_FILE}, nor has any folder in it. "
            "Give the --output_dir of a training."
        )
    return [found[name] for name in sort_emotions(list(found))]


class Run:
    """One run directory.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: str | Path) -> None:
        """Names the folder; nothing is read or written yet."""
        self.folder = Path(folder).expanduser()

    # -- making one

    def check_free(self, overwrite: bool = False, resume: bool = False) -> None:
        """Makes sure that a new run may be written here; writes nothing.

        Raises:
            RunError: the folder holds another run, or things that are no run's.
        """
        if not self.folder.exists() or resume:
            return
        if not self.folder.is_dir():
            raise RunError(f"{self.folder}: must be a folder, but is a file. Choose another --output_dir.")
        found = [path.name for path in self.folder.iterdir()]
        if not found:
            return
        if CONFIG_FILE not in found:
            raise RunError(
                f"{self.folder}: must be empty or a run directory, but holds {sorted(found)[0]!r}. Choose another --output_dir."
            )
        if not overwrite:
            done = "a complete run" if METRICS_FILE in found else "an unfinished run"
            hint = "" if METRICS_FILE in found else ", --resume to go on with it"
            raise RunError(
                f"{self.folder}: must be empty, but holds {done}. Choose another --output_dir{hint}, or --overwrite to replace it."
            )

    def start(self, config: ExperimentConfig, keep: bool = False) -> None:
        """Makes the folder, removes what an earlier run left unless `keep`, and writes the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            for name in CONTENTS:
                path = self.folder / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            for path in self.folder.glob("metrics_*.json"):
                path.unlink()
        write_text(self.folder / CONFIG_FILE, config.to_yaml())

    @contextmanager
    def logging_to_file(self) -> Iterator[None]:
        """Everything that the package logs inside the block also goes to train.log."""
        handler = logging.FileHandler(self.folder / LOG_FILE, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        loggers = [logging.getLogger("lmf_multitask"), logging.getLogger("py.warnings")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.removeHandler(handler)
                logger.setLevel(level)
            handler.close()

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One row per epoch; columns in the order of their first appearance."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        self._write_csv("history.csv", columns, [[row.get(name, "") for name in columns] for row in history])

    def write_predictions(
        self, ids: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, emotions: Sequence[str]
    ) -> None:
        """One row per clip: id, and per emotion label, probability and prediction (`[N, T]` arrays)."""
        columns = ["id"] + [
            f"{emotion}_{part}" for emotion in emotions for part in ("label", "probability", "prediction")
        ]
        rows = []
        for number, clip in enumerate(ids):
            row: list[Any] = [clip]
            for t in range(len(emotions)):
                probability = float(probabilities[number, t])
                row += [int(labels[number, t]), f"{probability:.9g}", int(probability > 0.5)]
            rows.append(row)
        self._write_csv("predictions.csv", columns, rows)

    def write_metrics(self, metrics: Mapping[str, Any], name: str = METRICS_FILE) -> Path:
        """Figures as JSON."""
        path = self.folder / name
        write_text(path, json.dumps(metrics, indent=2) + "\n")
        return path

    def _write_csv(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        write_text(self.folder / name, buffer.getvalue())

    # -- reading one

    def load_config(self) -> ExperimentConfig:
        """The settings of the run.

        Raises:
            RunError: the folder is no run directory, or its settings are damaged.
        """
        path = self.folder / CONFIG_FILE
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            parts = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
            content.update({name: kind(**content[name]) for name, kind in parts.items()})
            return ExperimentConfig(**content)
        except FileNotFoundError:
            raise RunError(
                f"{self.folder}: must be a run directory, but has no {CONFIG_FILE}. Give the --output_dir of a training."
            ) from None
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError, ConfigError) as error:
            raise RunError(
                f"{path}: must hold the settings of a run, but {' '.join(str(error).split())[:200]}."
            ) from None

    def load_model(self) -> LMFModel:
        """The trained model, in evaluation mode.

        Raises:
            RunError: there is none, or it is damaged.
        """
        from lmf_multitask.models.lmf import LMFModel

        if not (self.folder / "model").is_dir():
            raise RunError(
                f"{self.folder}: must hold a trained model, but has no folder 'model'. Let its training finish first."
            )
        return LMFModel.from_pretrained(self.folder / "model")
