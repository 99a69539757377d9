"""The layout of a run directory.

config.yaml       every setting; enough to repeat the run
origin.json       what else the result depends on: fingerprint of the data, versions, processor settings
model/            weights, architecture, calibration, and a manifest with their SHA-256
checkpoints/      for resuming
history.csv       one row per epoch
predictions.csv   one row per test clip; predictions_LINEAR.csv: the same of the linear models
metrics.json      metrics on test; its presence means that the run is complete
manifest.json     SHA-256 of the files above
report.html       the report, one self-contained file; its plots also in plots/
robustness.json   metrics without some modalities or with noise; robustness.svg shows them
without.csv       how each test prediction changes when a modality is removed from the clip
train.log         the log

The parent of per-emotion runs holds one run directory per emotion and the joined metrics and predictions. The parent of
a cross-validation holds one ``foldN`` per fold, which is a run directory or such a parent, and the pooled metrics and
predictions. The parent of several seeds holds one ``seedN`` per seed, which is any of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.evaluation.metrics import BASELINES
from lmf_multitask.evaluation.robustness import ROBUSTNESS_FILE
from lmf_multitask.files import MANIFEST

CONFIG_FILE, ORIGIN_FILE, LOG_FILE = "config.yaml", "origin.json", "train.log"
LABEL_COLUMN = "label_column"
"""Key of ``origin.json``: which column of one-hot labels was taken for present; other data are read alike."""

METRICS_FILE, PREDICTIONS_FILE, HISTORY_FILE = "metrics.json", "predictions.csv", "history.csv"
REPORT_FILE, PLOTS_FOLDER, WITHOUT_FILE = "report.html", "plots", "without.csv"
ROBUSTNESS_PLOT = "robustness.svg"
MODEL_FOLDER, CHECKPOINTS_FOLDER, VISUALDL_FOLDER = "model", "checkpoints", "visualdl"
LINEAR = tuple(names[-1] for names in BASELINES.values())
"""The baselines whose predictions are written, too."""


def linear_file(path: Path, name: str) -> Path:
    """Where the predictions of a linear model go, beside those of the network."""
    return path.with_name(f"{path.stem}_{name}{path.suffix}")


LINEAR_FILES = tuple(linear_file(Path(PREDICTIONS_FILE), name).name for name in LINEAR)
RESULTS = (HISTORY_FILE, PREDICTIONS_FILE, *LINEAR_FILES, METRICS_FILE)
CONTENTS = (
    *(
        CONFIG_FILE,
        ORIGIN_FILE,
        LOG_FILE,
        MANIFEST,
        REPORT_FILE,
        ROBUSTNESS_FILE,
        ROBUSTNESS_PLOT,
        WITHOUT_FILE,
        *RESULTS,
    ),
    *(MODEL_FOLDER, CHECKPOINTS_FOLDER, VISUALDL_FOLDER, PLOTS_FOLDER),
)
_NUMBERED = re.compile(r"(seed|fold)([0-9]{1,19})")


def check_run_names(emotions: Sequence[str]) -> None:
    """Checks that each emotion can name the folder of its run beside the files of the parent.

    Raises:
        ConfigError: the layout uses a name itself.
    """
    for name in emotions:
        if name in CONTENTS or _NUMBERED.fullmatch(name):
            raise ConfigError(
                f"an emotion with a run of its own must not be called {name!r}, since the output directory uses that name. "
                "Rename it in the data, or train with --mode multitask."
            )


def check_no_links(root: Path, path: Path) -> None:
    """Checks that no part of a path below `root` is a symbolic link; `root` itself may be one.

    Raises:
        RunError: one is.
    """
    for place in (path, *path.parents):
        if place == root:
            return
        if place.is_symlink():
            raise RunError(f"{place}: must not be a symbolic link, but is one. Replace it by what it points to.")


def seed_folders(folder: str | Path) -> dict[int, Path]:
    """Seed -> folder of its runs; empty if the folder is not the parent of several seeds.

    Raises:
        RunError: one of them is a symbolic link.
    """
    return _numbered(folder, "seed")


def fold_folders(folder: str | Path) -> dict[int, Path]:
    """Number of a fold, from 1 -> folder of its run or runs; empty if the folder is not the parent of a cross-validation.

    Raises:
        RunError: one of them is a symbolic link.
    """
    return _numbered(folder, "fold")


def _numbered(folder: str | Path, kind: str) -> dict[int, Path]:
    folder = Path(folder).expanduser()
    found = {}
    for path in folder.glob(f"{kind}*"):
        match = _NUMBERED.fullmatch(path.name)
        if match and path.is_dir():
            check_no_links(folder, path)
            found[int(match[2])] = path
    return dict(sorted(found.items()))
