"""A run directory: what is in it, how it is made, and how a trained model comes back from it.

config.yaml       every setting, enough to run again
origin.json       what else the result depends on: the data's fingerprint, versions, processor settings
model/            weights and the model's own arguments
checkpoints/      to go on with an unfinished training
metrics.json      figures on test; its presence says that the run is complete
history.csv       one row per epoch
predictions.csv   one row per test clip
report.html       everything to look at, in one file; its pictures also in plots/
robustness.json   figures with modalities missing or noisy; robustness.png shows them
train.log         everything that was said

The parent of per-emotion runs holds such a directory per emotion, under its name, and a joined metrics.json.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lmf_multitask.config import DataConfig, ExperimentConfig, ModelConfig, TrainingConfig, recipe_config
from lmf_multitask.data.schema import check_emotion_name, sort_emotions
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.files import remove_leftovers, write_text
from lmf_multitask.strict_yaml import read_yaml

if TYPE_CHECKING:
    from lmf_multitask.evaluation.predictions import Predictions
    from lmf_multitask.models.lmf import LMFModel

CONFIG_FILE, METRICS_FILE, LOG_FILE = "config.yaml", "metrics.json", "train.log"
PREDICTIONS_FILE, ORIGIN_FILE = "predictions.csv", "origin.json"
REPORT_FILE, PLOTS_FOLDER = "report.html", "plots"
ROBUSTNESS_FILE, ROBUSTNESS_PICTURE = "robustness.json", "robustness.png"
CONTENTS = (
    CONFIG_FILE, ORIGIN_FILE, METRICS_FILE, LOG_FILE, PREDICTIONS_FILE, "model", "checkpoints", "history.csv", "visualdl",
    REPORT_FILE, PLOTS_FOLDER, ROBUSTNESS_FILE, ROBUSTNESS_PICTURE,
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
    seeds = seed_folders(folder)
    if seeds:
        names = ", ".join(path.name for path in seeds.values())
        raise RunError(f"{folder}: must be one run or one per emotion, but holds several seeds. Give one of {names}.")
    found = {path.parent.name: Run(path.parent) for path in folder.glob(f"*/{CONFIG_FILE}")}
    for run in found.values():
        _check_no_link(run.folder)
    if not found:
        raise RunError(
            f"{folder}: must be a run directory, but has no {CONFIG_FILE}, nor has any folder in it. "
            "Give the --output_dir of a training."
        )
    return [found[name] for name in sort_emotions(list(found))]


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise RunError(f"{path}: must lie in its folder itself, but is a link. Put there what it leads to.")


def predictions_of(paths: Sequence[str]) -> list[Predictions]:
    """What each run directory, parent of per-emotion runs, or CSV file predicts, under the shortest names that differ.

    Raises:
        UserError: a path is none of these.
    """
    from lmf_multitask.evaluation.predictions import join_emotions, read_predictions

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


def settings_from(path: Path) -> ExperimentConfig:
    """Complete settings from a YAML file that `ExperimentConfig.to_yaml` or we wrote.

    Raises:
        RunError: the file is damaged.
    """
    try:
        content = read_yaml(path)
        parts = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}
        content.update({name: kind(**content[name]) for name, kind in parts.items()})
        return ExperimentConfig(**content)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError, ConfigError) as error:
        raise RunError(
            f"{path}: must hold the settings of a run, but {' '.join(str(error).split()).rstrip('.')[:200]}."
        ) from None


def seed_folders(folder: str | Path) -> dict[int, Path]:
    """Where the runs of each seed are, if the folder is the parent of several seeds' runs."""
    found = {
        int(path.name.removeprefix("seed")): path
        for path in Path(folder).expanduser().glob("seed*")
        if path.is_dir() and path.name.removeprefix("seed").isdigit()
    }
    return dict(sorted(found.items()))


class Run:
    """One run directory.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: str | Path) -> None:
        """Names the folder; nothing is read or written yet."""
        self.folder = Path(folder).expanduser()
        self._handle: int | None = None

    # -- making one

    def check_free(self, overwrite: bool = False, resume: bool = False) -> None:
        """Makes sure that a new run may be written here; writes nothing.

        Raises:
            RunError: the folder holds another run, or things that are no run's.
        """
        if not self.folder.exists():
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
        if overwrite and not resume:
            self._check_own()
        elif not resume:
            done = "a complete run" if METRICS_FILE in found else "an unfinished run"
            hint = "" if METRICS_FILE in found else ", --resume to go on with it"
            raise RunError(
                f"{self.folder}: must be empty, but holds {done}. Choose another --output_dir{hint}, or --overwrite to replace it."
            )

    def _check_own(self) -> None:
        """Other programs' folders also have a config.yaml beside a folder `model`: those are not to be emptied."""
        try:
            content = read_yaml(self.folder / CONFIG_FILE)
        except yaml.YAMLError:
            content = None
        if not isinstance(content, dict) or not {"data", "model", "training"} <= set(content):
            raise RunError(
                f"{self.folder}: must be a run directory to be overwritten, but its {CONFIG_FILE} is not that of a run. "
                "Choose another --output_dir."
            )

    def is_run(self) -> bool:
        """Whether the folder holds a run, complete or not."""
        return (self.folder / CONFIG_FILE).is_file()

    def is_complete(self) -> bool:
        """Whether its training has ended and its figures are there."""
        return self.is_run() and (self.folder / METRICS_FILE).is_file()

    def finished_metrics(self) -> dict[str, Any] | None:
        """The content of ``metrics.json``; None while the run is not complete."""
        return json.loads((self.folder / METRICS_FILE).read_text(encoding="utf-8")) if self.is_complete() else None

    def check_same_settings(self, config: ExperimentConfig) -> None:
        """Going on with a run, or keeping it, is meaningful only with the settings that it began with.

        Raises:
            RunError: something that changes the result differs.
        """
        before = self.load_config()
        for name in ("data_path", "emotions", "seed", "data", "model", "training"):
            old, new = getattr(before, name), getattr(config, name)
            if old != new:
                what = name
                if dataclasses.is_dataclass(old):
                    what, old, new = next(
                        (f"{name}.{part}", value, getattr(new, part))
                        for part, value in dataclasses.asdict(old).items()
                        if value != getattr(new, part)
                    )
                raise RunError(
                    f"{self.folder}: must have been started with the same settings to go on with it, "
                    f"but {what} was {old!r} and is {new!r} now. Choose another --output_dir, or --overwrite it."
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time is inside the block; the lock dies with its owner.

        Raises:
            RunError: another process is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._handle = handle
            yield
        except BlockingIOError:
            raise RunError(
                f"{self.folder}: must be written by one process at a time, but another is training there. "
                "Wait for it, or choose another --output_dir."
            ) from None
        finally:
            self._handle = None
            os.close(handle)

    def check_still_there(self) -> None:
        """Inside `locked`: makes sure that the folder has not been removed meanwhile, so that nobody makes it again in part.

        Raises:
            RunError: it has, or another one is in its place.
        """
        try:
            there = os.path.samestat(os.fstat(self._handle), self.folder.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise RunError(
                f"{self.folder}: must stay where it is while it is trained in, but is gone. Start the training again."
            )

    def check_origin(self, origin: Mapping[str, str]) -> None:
        """Compares what the result depends on beside the settings with what it was when the run was started.

        Raises:
            RunError: something differs; with it the result would not be that of a run without a break.
        """
        path = self.folder / ORIGIN_FILE
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = next((name for name in origin if before.get(name) != origin[name]), None)
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(
                f"{path}: must tell what the run was started with, but {error}. --overwrite the run."
            ) from None
        if differing is not None:
            raise RunError(
                f"{self.folder}: must be gone on with under what it was started with, but {differing} was "
                f"{before.get(differing)} and is {origin[differing]} now. Add --force to go on all the same."
            )

    def start(self, config: ExperimentConfig, origin: Mapping[str, str] | None = None, keep: bool = False) -> None:
        """Makes the folder, removes what an earlier run left unless `keep`, and writes the settings.

        Args:
            config: the settings.
            origin: what else the result depends on, see `check_origin`.
            keep: go on with what is there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        if keep:
            for name in CONTENTS:
                _check_no_link(self.folder / name)
        else:
            for name in CONTENTS:
                path = self.folder / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            for path in self.folder.glob("metrics_*.json"):
                path.unlink()
        if origin is not None:
            write_text(self.folder / ORIGIN_FILE, json.dumps(origin, indent=2) + "\n")
        write_text(self.folder / CONFIG_FILE, config.to_yaml())

    def convert(
        self, checkpoint: str | Path, emotion: str, data_path: str | None = None, *, overwrite: bool = False
    ) -> LMFModel:
        """Makes a run of another LMF code's checkpoint; there is no history, and no figures yet.

        Args:
            checkpoint: see `models.convert.convert_checkpoint`.
            emotion: which one it recognises.
            data_path: the data that it is evaluated on where nothing else is said.
            overwrite: replace a run that is already in the folder.

        Returns:
            The model, in evaluation mode.

        Raises:
            UserError: the checkpoint is not one, or the folder is not free; nothing has been written then.
        """
        from lmf_multitask.models.convert import convert_checkpoint

        check_emotion_name(emotion)
        self.check_free(overwrite)
        recipe = settings_from(recipe_config("lmf_paddle", emotion))
        dropouts = {name: getattr(recipe.model, name) for name in ("audio_dropout", "video_dropout", "text_dropout")}
        model = convert_checkpoint(checkpoint, emotion, dropouts)
        config = dataclasses.replace(recipe, data_path=data_path, output_dir=str(self.folder), model=model.config)
        self.start(config.resolved([emotion]))
        model.save_pretrained(self.folder / "model")
        return model

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
        self._write_csv(PREDICTIONS_FILE, columns, rows)

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
        if not self.is_run():
            raise RunError(
                f"{self.folder}: must be a run directory, but has no {CONFIG_FILE}. Give the --output_dir of a training."
            )
        return settings_from(self.folder / CONFIG_FILE)

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
