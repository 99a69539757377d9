"""A run directory: how it is written, and how a trained model is read back; its layout is in `pipeline.layout`."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmf_multitask.data.schema import sort_emotions
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.files import (
    MANIFEST,
    read_json,
    read_text,
    remove_leftovers,
    sha256_of,
    write_json,
    write_manifest,
    write_text,
)
from lmf_multitask.pipeline.layout import (
    CONFIG_FILE,
    CONTENTS,
    HISTORY_FILE,
    LABEL_COLUMN,
    METRICS_FILE,
    MODEL_FOLDER,
    ORIGIN_FILE,
    REPORT_FILE,
    RESULTS,
    check_no_links,
    fold_folders,
    seed_folders,
)
from lmf_multitask.pipeline.settings import ExperimentConfig, first_difference, settings_from
from lmf_multitask.strict_yaml import read_settings

if TYPE_CHECKING:
    from lmf_multitask.evaluation.calibration import Calibration
    from lmf_multitask.models.lmf import LMFModel

_SPLIT_RESULTS = ("metrics_*.json", "predictions_*.csv")  # written by `evaluate`
_MOST_BYTES = 64 << 20  # of a file of a run


def runs_in(folder: str | Path) -> list[Run]:
    """The run directories behind a path of the user: the folder itself, or the per-emotion runs in it.

    Raises:
        RunError: the folder does not exist or holds no run.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise RunError(f"{folder}: must be a run directory, but there is no such folder. Check the path.")
    if (folder / CONFIG_FILE).is_file():
        return [Run(folder)]
    for kind, several in (("seed", seed_folders(folder)), ("fold", fold_folders(folder))):
        if several:
            names = ", ".join(path.name for path in several.values())
            raise RunError(
                f"{folder}: must be one run or one per emotion, but holds several {kind}s. Give one of {names}."
            )
    found = {path.parent.name: Run(path.parent) for path in folder.glob(f"*/{CONFIG_FILE}")}
    for run in found.values():
        check_no_links(folder, run.folder)
    if not found:
        raise RunError(
            f"{folder}: must be a run directory, but neither it nor a folder in it has a {CONFIG_FILE}. "
            "Give the --output_dir of a training."
        )
    return [found[name] for name in sort_emotions(list(found))]


def kept_row(history: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The row of the epoch whose weights are kept: the last that was better than all before; None if there is none."""
    found = [row for row in history if row.get("best") == 1]
    return found[-1] if found else None


class Run:
    """One run directory.

    Attributes:
        folder: its path.
    """

    def __init__(self, folder: str | Path) -> None:
        """Takes the path; nothing is read or written yet."""
        self.folder = Path(folder).expanduser()
        self._handle: int | None = None

    # -- state

    def exists(self) -> bool:
        """Whether the folder holds a run, complete or not."""
        return (self.folder / CONFIG_FILE).is_file()

    def is_complete(self) -> bool:
        """Whether the training has ended and its metrics are written."""
        return self.exists() and (self.folder / METRICS_FILE).is_file()

    def has_report(self) -> bool:
        """Whether the report is written."""
        return (self.folder / REPORT_FILE).is_file()

    def check_free(self, overwrite: bool = False, resume: bool = False) -> None:
        """Checks that a run may be written here; writes nothing.

        Raises:
            RunError: the folder holds another run, or files that belong to no run.
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
                f"{self.folder}: must be empty or a run directory, but holds {min(found)!r}. Choose another --output_dir."
            )
        if resume:
            return
        if overwrite:
            self._check_is_ours()
            return
        state, hint = ("a complete", "") if METRICS_FILE in found else ("an unfinished", ", --resume to continue it")
        raise RunError(
            f"{self.folder}: must be empty, but holds {state} run. Choose another --output_dir{hint}, "
            "or --overwrite to replace it."
        )

    def _check_is_ours(self) -> None:
        """Checks the config before a folder is emptied: other programs have a config.yaml beside a folder `model`, too."""
        content: dict[str, Any] = {}
        with contextlib.suppress(ConfigError):
            content = read_settings(self.folder / CONFIG_FILE)
        if not {"data", "model", "training"} <= set(content):
            raise RunError(
                f"{self.folder}: must be a run directory to be overwritten, but its {CONFIG_FILE} is not that of a run. "
                "Choose another --output_dir."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lets one process at a time into the block; the lock ends with its process.

        Raises:
            RunError: another process is inside.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._handle = handle
            yield
        except BlockingIOError:
            raise RunError(
                f"{self.folder}: must be written by one process at a time, but another one is training there. "
                "Wait for it, or choose another --output_dir."
            ) from None
        finally:
            self._handle = None
            os.close(handle)

    def check_not_removed(self) -> None:
        """Inside `locked`: checks that the folder is still the one that was locked.

        Raises:
            RunError: it has been removed or replaced.
        """
        assert self._handle is not None
        try:
            same = os.path.samestat(os.fstat(self._handle), self.folder.stat())
        except FileNotFoundError:
            same = False
        if not same:
            raise RunError(
                f"{self.folder}: must not be removed during training, but is gone. Start the training again."
            )

    def check_resumable(self, config: ExperimentConfig, origin: Mapping[str, str], force: bool = False) -> bool:
        """Checks that a run can be continued with these settings, data and versions.

        The path of the data may differ, since their fingerprint is compared; ``training.epochs`` may be larger.

        Args:
            config: the settings now, resolved.
            origin: what else the result depends on now; its ``data`` is the fingerprint.
            force: accept other data and versions.

        Returns:
            Whether more epochs are wanted than before.

        Raises:
            RunError: something differs, so that the result would not be that of an uninterrupted run.
        """
        before = self.load_config()
        longer = config.training.epochs > before.training.epochs and config.training.schedule == "constant"
        self.check_same_settings(config, ("training.epochs",) if longer else ())
        if not force:
            path = self.folder / ORIGIN_FILE
            stored = self._read_json(ORIGIN_FILE)
            if not isinstance(stored, dict):
                raise RunError(f"{path}: must hold what the run was started with, but does not. --overwrite the run.")
            for name, now in origin.items():
                if name != LABEL_COLUMN and stored.get(name) != now:  # the fingerprint of the data covers the labels
                    raise RunError(
                        f"{self.folder}: cannot resume: {name} changed from {stored.get(name)} to {now}. "
                        "Add --force to resume anyway."
                    )
        return longer

    def check_same_settings(self, config: ExperimentConfig, ignored: Sequence[str] = ()) -> None:
        """Compares the settings that change a result with those of this run.

        Raises:
            RunError: one differs.
        """
        found = first_difference(
            dataclasses.asdict(self.load_config()),
            dataclasses.asdict(config),
            ("data_path", "output_dir", "device", "data.cache_dir", "training.visualdl", *ignored),
        )
        if found is not None:
            name, old, new = found
            raise RunError(
                f"{self.folder}: cannot resume: {name} changed from {old!r} to {new!r}. "
                "Choose another --output_dir, or --overwrite the run."
            )

    # -- writing

    def label_column(self) -> int | None:
        """Which column of one-hot labels the training took for present; None if the data had other labels."""
        path = self.folder / ORIGIN_FILE
        found = self._read_json(ORIGIN_FILE).get(LABEL_COLUMN) if path.is_file() else None
        return int(found) if found in ("0", "1") else None

    def start(self, config: ExperimentConfig, origin: Mapping[str, str] | None = None, resume: bool = False) -> None:
        """Creates the folder and writes the settings.

        Args:
            config: the settings.
            origin: what else the result depends on, see `check_resumable`.
            resume: keep the checkpoints; otherwise everything of an earlier run is removed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        outdated: list[Path] = []
        if resume:
            for name in CONTENTS:
                check_no_links(self.folder, self.folder / name)
            outdated = [self.folder / METRICS_FILE]  # of a run that is prolonged
        else:
            outdated = [self.folder / name for name in CONTENTS]
            outdated += [path for pattern in _SPLIT_RESULTS for path in self.folder.glob(pattern)]
        for path in outdated:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if origin is not None:
            write_json(self.folder / ORIGIN_FILE, dict(origin))
        write_text(self.folder / CONFIG_FILE, config.to_yaml())

    def write_model(self, model: LMFModel, calibration: Calibration | None = None) -> None:
        """Writes ``model/``: weights, architecture, calibration, and the manifest of these files."""
        folder = self.folder / MODEL_FOLDER
        model.save_pretrained(folder)
        if calibration is not None:
            calibration.save(folder)
        write_manifest(folder)

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """One row per epoch; columns in the order of their first appearance."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.folder / HISTORY_FILE, buffer.getvalue())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes ``metrics.json``, and the manifest before it, since the metrics complete the run."""
        text = json.dumps(metrics, indent=2) + "\n"
        hashes = {name: sha256_of(self.folder / name) for name in RESULTS if (self.folder / name).is_file()}
        hashes[METRICS_FILE] = hashlib.sha256(text.encode()).hexdigest()
        write_json(self.folder / MANIFEST, hashes)
        write_text(self.folder / METRICS_FILE, text)

    # -- reading

    def load_config(self) -> ExperimentConfig:
        """The settings of the run.

        Raises:
            RunError: the folder is no run directory, or its settings are damaged.
        """
        if not self.exists():
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

        folder = self.folder / MODEL_FOLDER
        if not folder.is_dir():
            raise RunError(
                f"{self.folder}: must hold a trained model, but has no folder {MODEL_FOLDER!r}. Let its training finish first."
            )
        check_no_links(self.folder, folder)
        return LMFModel.from_pretrained(folder)

    def metrics(self) -> dict[str, Any] | None:
        """The content of ``metrics.json``, of joined runs too; None while it is not written.

        Raises:
            RunError: the file is damaged.
        """
        if not (self.folder / METRICS_FILE).is_file():
            return None
        found = self._read_json(METRICS_FILE)
        self.check_unchanged(METRICS_FILE)
        if not isinstance(found, dict):
            raise RunError(
                f"{self.folder / METRICS_FILE}: must hold metrics by name, but does not. Evaluate the run again."
            )
        return found

    def history(self) -> list[dict[str, float]]:
        """The rows of ``history.csv``, NaN for an empty cell; none where there is no such file.

        Raises:
            RunError: the file is damaged.
        """
        path = self.check_unchanged(HISTORY_FILE)
        if not path.is_file():
            return []
        try:
            rows = csv.DictReader(io.StringIO(read_text(path, _MOST_BYTES, RunError)))
            return [{name: float(text or "nan") for name, text in row.items()} for row in rows]
        except (TypeError, ValueError):
            raise RunError(f"{path}: must hold numbers in every row, but does not. Remove it or train again.") from None

    def check_unchanged(self, name: str) -> Path:
        """Compares a result with its hash in the manifest, where there is one; returns the path of the file.

        Raises:
            RunError: it has changed since the training wrote it, or is a symbolic link.
        """
        path = self.folder / name
        check_no_links(self.folder, path)
        if (self.folder / MANIFEST).is_file():
            hashes = self._read_json(MANIFEST)
            wanted = hashes.get(name) if isinstance(hashes, dict) else ""
            if wanted is not None and path.is_file() and sha256_of(path) != wanted:
                raise RunError(
                    f"{path}: must be as the training wrote it, but has changed or is damaged. "
                    "Train the run again, or remove manifest.json if you changed the file."
                )
        return path

    def _read_json(self, name: str) -> Any:
        path = self.folder / name
        check_no_links(self.folder, path)
        return read_json(path, _MOST_BYTES, RunError)
