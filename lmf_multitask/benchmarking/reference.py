"""Times a checkout of LMF_Paddle's own training script beside ours, on the same data, in processes of their own."""

from __future__ import annotations

import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmf_multitask.errors import ConfigError, RunError

_EPOCH = re.compile(r"Epoch \d+ complete!|epoch +\d+/")


@dataclass(frozen=True)
class Timing:
    """One training from start to end.

    Attributes:
        name: whose, and of what.
        theirs: LMF_Paddle's.
        epochs: how many it made.
        epoch: seconds per epoch, the median of the times between two epochs' lines.
        whole: seconds from start to end, loading and test included.
    """

    name: str
    theirs: bool
    epochs: int
    epoch: float
    whole: float

    def whole_at(self, epochs: int) -> float:
        """Seconds from start to end with so many epochs."""
        return self.whole + (epochs - self.epochs) * self.epoch


def published_options(checkout: Path) -> dict[str, list[str]]:
    """Emotion -> the options with which the checkout's ``scripts/train.sh`` trains it.

    Raises:
        ConfigError: the folder is no checkout of LMF_Paddle.
    """
    script = checkout / "scripts" / "train.sh"
    if not script.is_file() or not (checkout / "tools" / "train.py").is_file():
        raise ConfigError(
            f"{checkout}: must be a checkout of LMF_Paddle, but has no scripts/train.sh and tools/train.py. Check --reference."
        )
    found = {}
    for line in script.read_text(encoding="utf-8").splitlines():
        words = shlex.split(line)
        if "--emotion" in words and any(word.endswith("train.py") for word in words):
            options = words[next(n for n, word in enumerate(words) if word.endswith("train.py")) + 1 :]
            found[options[options.index("--emotion") + 1]] = options
    if not found:
        raise ConfigError(f"{script}: must train emotions by train.py --emotion NAME, but does not. Check --reference.")
    return found


def time_reference(
    checkout: Path, data_path: Path, epochs: int, environment: Mapping[str, str], on_start: Callable[[str], None]
) -> list[Timing]:
    """Trains each emotion with LMF_Paddle's script and settings, and with ours, in turn; then our multitask model.

    Args:
        checkout: a folder with LMF_Paddle's code; nothing is written there.
        data_path: the pickle to train on.
        epochs: of every training, at least 3; none stops early.
        environment: of the user, so that theirs runs under its own settings. Ours choose their own.
        on_start: called with the name of what begins.

    Raises:
        ConfigError: the checkout is none, or the number of epochs too small.
        RunError: a training failed.
    """
    if epochs < 3:
        raise ConfigError(
            f"--reference_epochs must be at least 3, but got {epochs}. The time between epochs is measured."
        )
    options = published_options(checkout)
    never = str(epochs + 1)
    found = []
    with tempfile.TemporaryDirectory(prefix="lmf-benchmark-") as folder:
        ours = [sys.executable, "-m", "lmf_multitask.train", "--data_path", str(data_path.resolve()), "--overwrite"]
        ours += ["--training.epochs", str(epochs), "--training.patience", never, "--no_report"]  # theirs draws nothing
        for emotion, own in options.items():
            theirs = [sys.executable, "-u", "train.py", *own, "--cuda", "", "--data_path", str(data_path.resolve())]
            theirs += ["--model_path", folder, "--epochs", str(epochs), "--patience", never]
            name = f"LMF_Paddle: {emotion}"
            on_start(name)
            found.append(_time(name, True, theirs, checkout / "tools", environment, epochs))
            name = f"ours, per emotion: {emotion}"
            on_start(name)
            mine = [*ours, "--mode", "per_emotion", "--emotions", emotion, "--output_dir", f"{folder}/per_emotion"]
            found.append(_time(name, False, mine, Path.cwd(), environment, epochs))
        name = "ours, multitask"
        on_start(name)
        found.append(
            _time(name, False, [*ours, "--output_dir", f"{folder}/multitask"], Path.cwd(), environment, epochs)
        )
    return found


def _time(
    name: str, theirs: bool, command: list[str], folder: Path, environment: Mapping[str, str], epochs: int
) -> Timing:
    package_parent = str(Path(__file__).resolve().parents[2])
    start = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, **({} if theirs else {"PYTHONPATH": package_parent})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    moments, last = [], ""
    try:
        for line in child.stdout:
            last = line.strip() or last
            if _EPOCH.search(line):
                moments.append(time.perf_counter())
        status = child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
        child.stdout.close()
    whole = time.perf_counter() - start
    if status != 0 or len(moments) != epochs:
        raise RunError(
            f"{name} must train {epochs} epochs, but ended with status {status} after {len(moments)}: {last[:200]}. "
            "Run its command by hand to see more."
        )
    return Timing(name, theirs, epochs, statistics.median(b - a for a, b in zip(moments, moments[1:])), whole)
