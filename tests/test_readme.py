"""README and docs work as they stand: every command, every piece of Python, every link."""

import importlib
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import csd_folder
from pickle_layouts import dialogue_tuple, lmf, make_clips, mmsa, mult_iemocap
from reference_network import random_parameters
from torch_parts import torch_tensors, write_torch

from lmf_multitask import command_line
from lmf_multitask.__main__ import COMMANDS
from lmf_multitask.config import options
from lmf_multitask.pipeline.settings import ExperimentConfig

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_RUN = (  # they install, need a shell, or end when they are stopped; `bash scripts/...` has tests of its own
    *("pip install ", "source ", "curl ", "bash scripts/", "python -m paddle.distributed.launch ", "lmf serve "),
    *("lmf ablate ", "lmf benchmark"),  # they take minutes; each has tests of its own
)
CHANGED = {  # so that the commands take seconds, and run again
    "train": ["--training.epochs", "1", "--overwrite", "--no_report"],
    "search": ["--experiment.training.epochs", "1", "--trials", "2", "--retrain_seeds", "2", "--no_report"],
    "data sample": ["--overwrite"],
}
CHANGED_PYTHON = {
    "ExperimentConfig(data_path": "ExperimentConfig(training=TrainingConfig(epochs=1), data_path",
    'output_dir="runs/mine"))': 'output_dir="runs/mine"), report=False)',
    'training_arguments("out"': 'training_arguments("out", num_train_epochs=1',
}
START = """
import sys
from lmf_multitask import TrainingConfig
from lmf_multitask.__main__ import main

def lmf(*words):
    sys.argv = ["lmf", *words]
    assert main() == 0, f"lmf {' '.join(words)}"
"""


def commands(text):
    """The commands of a block of bash, as words after ``lmf``."""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith(NOT_RUN):
            continue
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            words = ["lmf", words[2].removeprefix("lmf_multitask."), *words[3:]]
        assert words[0] == "lmf", f"neither a command of ours nor in NOT_RUN: {line}"
        yield words[1:]


def program(page):
    """A page as one Python program: commands and pieces of Python in their order; files that it names are written."""
    parts = [START]
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            for words in commands(text):
                more = CHANGED.get(words[0], CHANGED.get(" ".join(words[:2]), []))
                if "per_emotion" in words and not {"--emotions", "--tasks"} & {*words}:
                    more = [*more, "--emotions", "happy"]
                parts.append(f"lmf(*{[*words, *more]!r})")
        elif language == "python":
            for old, new in CHANGED_PYTHON.items():
                text = text.replace(old, new)
            file = re.match(r"# (\w+\.py)\n", text)
            parts.append(f"open({file[1]!r}, 'w').write({text!r})" if file else text)
    return "\n".join(parts)


@pytest.fixture
def folder(tmp_path, sample_path):
    """A user's folder: the shipped configs, data files and checkpoints of other codes."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "iemocap.pkl").write_bytes(sample_path.read_bytes())
    weights = random_parameters(features=(74, 35, 300))
    write_torch(tmp_path / "model.pt", *torch_tensors({n: np.ascontiguousarray(v) for n, v in weights.items()}))
    rows = (40, 30, 30)
    pickles = {
        "happy": weights,
        "iemocap_data": mult_iemocap(make_clips(rows, classes=4)),
        "unaligned_50": mmsa(make_clips(rows, steps=3)),
        "IEMOCAP_features": dialogue_tuple(make_clips(rows)),
        "mosi": lmf(make_clips(rows)),
    }
    for name, content in pickles.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "cmu").mkdir()
    csd_folder(tmp_path / "cmu")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_piece_of_python_runs(page, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", program(page)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"


class AcceptedError(Exception):
    """Raised in place of the work of a command."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_the_options_that_are_shown(page, monkeypatch):
    parse, build = command_line.CommandParser.parse_args, command_line.SettingsOptions.build

    def parse_args(*given):
        options = parse(*given)
        if not hasattr(options, "config"):  # otherwise the settings are checked next
            raise AcceptedError
        return options

    def build_only(*given):
        build(*given)
        raise AcceptedError

    monkeypatch.setattr(command_line.CommandParser, "parse_args", parse_args)
    monkeypatch.setattr(command_line.SettingsOptions, "build", build_only)
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    shown = [block for language, block in BLOCK.findall(text) if language == "bash"]
    shown += re.findall(r"`(lmf [a-z][^`]+ --[^`]+)`", BLOCK.sub("", text))
    for words in (words for block in shown for words in commands(block)):
        if "--plugin" not in words:  # what it registers would stay
            with pytest.raises(AcceptedError):
                importlib.import_module(COMMANDS[words[0]][0]).main(words[1:])


def test_settings_that_are_named_exist():
    known = {option.name for option in options(ExperimentConfig)}
    for page in PAGES:
        found = set(re.findall(r"--((?:model|training|data)\.[\w.]*\w)", page.read_text(encoding="utf-8")))
        assert sorted(found - known) == [], page.name


def slug(heading):
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_form(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) < (200 if page == README else 300)
    assert {language for language, _ in BLOCK.findall(text)} <= {"bash", "python", "yaml", "bibtex"}
    outside = BLOCK.sub("", text)
    assert not re.search(r"^(?: {4}|```)", outside, re.MULTILINE), "code must be in fenced blocks with a language"
    for target in re.findall(r"\]\(([^)\s]+)\)", outside):
        path, _, anchor = target.partition("#")
        if path.startswith(("https://", "http://")):
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
    for script in re.findall(r"(?:bash|python) ((?:scripts|configs)/\S+)", text):
        assert (ROOT / script.strip("`)")).is_file(), script


def test_every_page_is_linked_from_readme():
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in text] == []
