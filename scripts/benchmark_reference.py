"""Times the training scripts of a checkout of LMF_Paddle beside ours, on the same data, in processes of their own.

    lmf data sample full.pkl --scale full
    python scripts/benchmark_reference.py CHECKOUT --data_path full.pkl [--epochs 5]

https://github.com/18XiWenjuan/LMF_Paddle
"""

from __future__ import annotations

import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.evaluation.text import TextTable
from lmf_multitask.files import open_regular, read_text

_EPOCH = re.compile(r"Epoch \d+ complete!|epoch +\d+/")


@dataclass(frozen=True)
class Timing:
    """One training from start to end.

    Attributes:
        name: of the code and the emotion.
        theirs: whether it is LMF_Paddle's.
        epochs: number of epochs.
        epoch: seconds per epoch: median time between the lines of two epochs.
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
            f"{checkout}: must be a checkout of LMF_Paddle, but has no scripts/train.sh and tools/train.py. Give its folder."
        )
    found = {}
    for line in read_text(script, error=ConfigError).splitlines():
        words = shlex.split(line)
        if "--emotion" in words and any(word.endswith("train.py") for word in words):
            options = words[next(n for n, word in enumerate(words) if word.endswith("train.py")) + 1 :]
            found[options[options.index("--emotion") + 1]] = options
    if not found:
        raise ConfigError(f"{script}: must call train.py --emotion NAME, but does not. Give the folder of LMF_Paddle.")
    return found


def time_reference(
    checkout: Path, data_path: Path, epochs: int, environment: Mapping[str, str], on_start: Callable[[str], None]
) -> list[Timing]:
    """Trains each emotion with LMF_Paddle's script and settings and with ours, in turns; then our multitask model.

    Args:
        checkout: folder of LMF_Paddle's code; nothing is written there.
        data_path: the pickle to train on.
        epochs: of every training; none stops early.
        environment: of the user, without settings of ours.
        on_start: called with the name of each training.

    Raises:
        ConfigError: the folder is no checkout.
        RunError: a training failed.
    """
    options = published_options(checkout)
    never = str(epochs + 1)
    found = []
    with tempfile.TemporaryDirectory(prefix="lmf-benchmark-") as folder:
        ours = [sys.executable, "-m", "lmf_multitask.train", "--data_path", str(data_path.resolve()), "--overwrite"]
        ours += ["--training.epochs", str(epochs), "--training.patience", never, "--no_report"]  # theirs writes none
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
    package_parent = str(Path(__file__).resolve().parents[1])
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
    assert child.stdout is not None
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
            "Run its command by hand to see why."
        )
    return Timing(name, theirs, epochs, statistics.median(b - a for a, b in zip(moments, moments[1:])), whole)


def reference_table(timings: list[Timing], epochs: int) -> TextTable:
    """LMF_Paddle's script beside ours."""
    rows = [[one.name, f"{one.epoch:.2f}", f"{one.whole:.1f}", f"{one.whole_at(40):.1f}"] for one in timings]
    by_name = {one.name: one for one in timings}
    theirs = [one for one in timings if one.theirs]
    separate = [by_name[one.name.replace("LMF_Paddle", "ours, per emotion")] for one in theirs]
    ratios = ", ".join(f"{a.name.rpartition(' ')[2]} {a.epoch / b.epoch:.1f}" for a, b in zip(theirs, separate))
    whole = sum(one.whole_at(40) for one in theirs)
    note = (
        "* measured, with each further epoch at the median of the measured ones. "
        f"One epoch of LMF_Paddle in epochs of ours, same network and settings: {ratios}. "
        f"All emotions, 40 epochs each: {whole / sum(one.whole_at(40) for one in separate):.1f} times the time of ours, per "
        f"emotion, and {whole / by_name['ours, multitask'].whole_at(40):.1f} times that of our multitask model."
    )
    heads = ["training", "seconds per epoch", f"seconds, {epochs} epochs", "seconds, 40 epochs*"]
    return TextTable("whole trainings in processes of their own", heads, rows, note=note)


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    parser = CommandParser(prog="benchmark_reference.py", description=__doc__)
    parser.add_argument("checkout", metavar="CHECKOUT", help="folder of LMF_Paddle's code")
    parser.add_argument("--data_path", metavar="FILE", required=True, help="the pickle that both train on")
    parser.add_argument("--epochs", metavar="N", type=int, default=5, help="of each training, 3 or more; default: 5")
    options = parser.parse_args(arguments)
    if options.epochs < 3:
        raise ConfigError(
            f"--epochs must be at least 3, since the time between epochs is measured, but got {options.epochs}."
        )
    data_path = Path(options.data_path)
    open_regular(data_path).close()
    timings = time_reference(Path(options.checkout), data_path, options.epochs, dict(os.environ), print)
    print(reference_table(timings, options.epochs).as_text())


if __name__ == "__main__":
    sys.exit(run(main))
