"""README and docs, English and Chinese, work as they stand: every command, every piece of Python, every link."""

import ast
import importlib
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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
ENGLISH = [README, *sorted((ROOT / "docs").glob("*.md"))]
CHINESE = [ROOT / "README_cn.md", *sorted((ROOT / "docs/cn").glob("*.md"))]
PAGES = [*ENGLISH, *CHINESE]
QUICK = ("getting_started", "results", "troubleshooting")  # a few seconds each
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

OTHERS = (  # they install, need a shell or a terminal of their own; `bash scripts/...` has tests of its own
    *("pip install ", "source ", "bash scripts/", "python -m paddle.distributed.launch ", "visualdl "),
)
CHANGED = {  # so that the commands take seconds, and run again
    "train": ["--training.epochs", "1", "--overwrite", "--no_report"],
    "search": ["--experiment.training.epochs", "1", "--trials", "2", "--retrain_seeds", "2", "--no_report"],
    "data sample": ["--overwrite"],
    "benchmark": ["--quick"],
}
CHANGED_PYTHON = {
    "ExperimentConfig(data_path": "ExperimentConfig(training=TrainingConfig(epochs=1), data_path",
    'output_dir="runs/mine"))': 'output_dir="runs/mine"), report=False)',
    'training_arguments("out"': 'training_arguments("out", num_train_epochs=1',
}
START = """
import atexit, subprocess, sys
from lmf_multitask import TrainingConfig
from lmf_multitask.__main__ import main

def lmf(*words):
    sys.argv = ["lmf", *words]
    assert main() == 0, f"lmf {' '.join(words)}"

def serve(*words):
    global address
    command = [sys.executable, "-m", "lmf_multitask.serve", *words, "--port", "0"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    atexit.register(service.communicate)
    atexit.register(service.terminate)
    address = next(line for line in service.stderr if line.startswith('serving on ')).split()[2]

def curl(line):
    line = line.replace("http://127.0.0.1:8000", address)
    assert '"happy"' in subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
"""


def lines(text):
    """The lines of a block of bash that are ours."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith(OTHERS)]


def words_of(line):
    """A command as words after ``lmf``."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["python", "-m"]:
        words = ["lmf", words[2].removeprefix("lmf_multitask."), *words[3:]]
    assert words[0] == "lmf", f"neither a command of ours nor in OTHERS: {line}"
    return words[1:]


def commands(text):
    """The commands of a block of bash, as words after ``lmf``."""
    return [words_of(line) for line in lines(text) if not line.startswith("curl ")]


def call(line):
    """A line of bash as Python."""
    if line.startswith("curl "):
        return f"curl({line!r})"
    words = words_of(line)
    if words[0] == "serve":
        return f"serve(*{words[1:]!r})"
    if words[0] in ("ablate", "doctor"):  # they take long on a busy machine, and have tests of their own
        return ""
    more = CHANGED.get(words[0], CHANGED.get(" ".join(words[:2]), []))
    if "per_emotion" in words and not {"--emotions", "--tasks"} & {*words}:
        more = [*more, "--emotions", "happy"]
    return f"lmf(*{[*words, *more]!r})"


def program(page):
    """A page as one Python program: commands and pieces of Python in their order; files that it names are written."""
    parts = [START]
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        file = re.match(r"# (\w+\.(?:py|yaml))\n", text)
        if file:
            parts.append(f"open({file[1]!r}, 'w').write({text!r})")
        elif language == "bash":
            parts += map(call, lines(text))
        elif language == "python":
            for old, new in CHANGED_PYTHON.items():
                text = text.replace(old, new)
            parts.append(text)
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


def run_page(page, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", program(page)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"


@pytest.mark.parametrize("page", [page for page in ENGLISH if page.stem in QUICK], ids=lambda page: page.stem)
def test_every_command_and_piece_of_python_runs(page, folder):
    run_page(page, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in ENGLISH if page.stem not in QUICK], ids=lambda page: page.stem)
def test_every_command_and_piece_of_python_of_long_pages_runs(page, folder):
    run_page(page, folder)


def code(page):
    """Commands and pieces of Python of a page, without their comments."""
    found = set()
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "bash":
            found |= {" ".join(shlex.split(line, comments=True)) for line in text.splitlines()}
        else:
            found.add(ast.unparse(ast.parse(text)) if language == "python" else text)
    return found


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.stem)
def test_chinese_pages_have_the_code_of_the_english_ones(page):
    """Which runs in the tests of those."""
    english = README if page.stem == "README_cn" else ROOT / "docs" / page.name
    assert sorted(code(page) - code(english)) == []


class AcceptedError(Exception):
    """Raised in place of the work of a command."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_the_options_that_are_shown(page, monkeypatch, tmp_path):
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
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    text = page.read_text(encoding="utf-8")
    for content, name in re.findall(r"^```yaml\n(# (\w+\.yaml)\n.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    shown = [block for language, block in BLOCK.findall(text) if language == "bash"]
    shown += re.findall(r"`(lmf [a-z][^`]+ --[^`]+)`", BLOCK.sub("", text))
    for words in (words for block in shown for words in commands(block)):
        if not {"--plugin", "--help"} & {*words}:  # what a plug-in registers would stay
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
    assert len(text.splitlines()) < (200 if page.parent == ROOT else 300)
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
    for readme, pages in ((README, ENGLISH[1:]), (CHINESE[0], CHINESE[1:])):
        text = readme.read_text(encoding="utf-8")
        assert [page.name for page in pages if f"]({page.relative_to(ROOT)})" not in text] == []


def test_the_drawing_has_a_text_alternative_and_a_dark_form():
    text = (ROOT / "docs/network.svg").read_text(encoding="utf-8")
    drawing = ElementTree.fromstring(text)
    parts = {part.get("id"): part.text for part in drawing if part.get("id") in ("title", "desc")}
    assert drawing.get("role") == "img"
    assert drawing.get("aria-labelledby").split() == list(parts)
    assert all(parts.values())
    assert "prefers-color-scheme: dark" in text
