"""What README shows works as it stands: every command, every option, every piece of Python."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference_network import random_parameters

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", README.read_text(encoding="utf-8"), re.MULTILINE)
CHANGED = {  # seconds, and every command its own beginning
    "train": ["--training.epochs", "1", "--overwrite"],
    "search": ["--experiment.training.epochs", "1", "--trials", "2", "--retrain_seeds", "2"],
}
ELSEWHERE = ("serve", "benchmark")  # ends when told to; takes minutes: each has tests of its own


def commands():
    found = []
    for block in BLOCKS:
        for line in block.splitlines():
            if not line.strip().startswith(("lmf ", "python -m lmf_multitask.")):
                continue
            words = shlex.split(line.strip(), comments=True)
            if words[:1] == ["lmf"]:
                found.append(words[1:])
            else:
                found.append([words[2].partition(".")[2], *words[3:]])
    return found


def pieces_of_python():
    return [
        re.sub("^ {4}", "", block, flags=re.MULTILINE)
        for block in BLOCKS
        if re.match(r" {4}(from|import) \w", block.lstrip("\n"))
    ]


def test_readme_shows_commands_and_python():
    assert {words[0] for words in commands()} >= {
        "train",
        "evaluate",
        "compare",
        "report",
        "convert",
        "export",
        "infer",
        "serve",
        "data",
    }
    assert len(pieces_of_python()) >= 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sample_path):
    """A user's folder: a data file and two checkpoints under the names of README."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "iemocap.pkl").symlink_to(sample_path)
    weights = random_parameters(features=(74, 35, 300))
    np.savez(folder / "model.npz", **weights)
    with (folder / "happy.pkl").open("wb") as file:
        __import__("pickle").dump(weights, file, protocol=2)
    return folder


@pytest.mark.slow
def test_commands_and_python_work_in_the_order_of_readme(folder):
    """Python in one process, since later pieces go on with the names of earlier ones, and after the commands."""
    environment = {**os.environ, "PYTHONPATH": str(README.parent)}
    for words in commands():
        if words[0] in ELSEWHERE:
            continue
        words = words + CHANGED.get(words[0], [])
        done = subprocess.run(
            [sys.executable, "-m", "lmf_multitask", *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"
    code = "\n".join(pieces_of_python()).replace(
        "training_arguments(", "training_arguments(num_train_epochs=2, output_dir="
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
