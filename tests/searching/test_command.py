"""The command as a user gives it, with real processes."""

import json
import re
import subprocess
import sys

import optuna
import pytest

from lmf_multitask.errors import InstallationError, UserError
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import settings_from

SEARCH = """
experiment:
  training: {epochs: 3, batch_size: 8}
  model:
    encoders: {audio: {hidden: 4}, video: {hidden: 3}, text: {state: 5, hidden: 4}}
    fusion: {rank: 2, dim: 6}
space:
  training.learning_rate: {low: 0.001, high: 0.1, log: true}
  model.fusion.rank: {low: 1, high: 4}
"""


def search(folder, data, *arguments):
    (folder / "mine.yaml").write_text(SEARCH)
    command = [sys.executable, "-m", "lmf_multitask.search", "--config", "mine.yaml", "--data_path", str(data)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=folder, timeout=300)


def given(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["lmf", *arguments])
    from lmf_multitask import search as command

    return lambda: command.main(list(arguments))


def test_without_optuna(monkeypatch, tmp_path):
    (tmp_path / "mine.yaml").write_text(SEARCH)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = "a search must have Optuna, but it is not installed. Install it: pip install 'lmf_multitask[search]'."
    with pytest.raises(InstallationError, match=re.escape(message)):
        given(monkeypatch, "--config", str(tmp_path / "mine.yaml"), "--trials", "1")()


def test_under_a_launcher(monkeypatch, tmp_path):
    (tmp_path / "mine.yaml").write_text(SEARCH)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(UserError, match="a search must be started in one process, but this is one of 2"):
        given(monkeypatch, "--config", str(tmp_path / "mine.yaml"), "--trials", "1")()


@pytest.mark.slow
def test_a_search_continued_in_real_processes(corpus_path, tmp_path):
    first = search(tmp_path, corpus_path, "--trials", "2", "--jobs", "2", "--retrain_seeds", "7")
    assert first.returncode == 0, first.stderr
    lines = first.stderr.splitlines()
    assert sorted(line[:9] for line in lines[:2]) == ["trial 1/2", "trial 2/2"]
    assert lines[2:] == ["training the best again under the seeds 7"]
    folder = tmp_path / "runs/search-mine"
    assert "optimistic" in first.stdout
    assert f"best settings: {folder.relative_to(tmp_path) / 'best-1.yaml'}" in first.stdout
    (run,) = (folder / "retrained").glob("trial-*/seed7")
    assert Run(run).is_complete()
    assert settings_from(folder / "best-1.yaml").model == settings_from(run / "config.yaml").model
    again = search(tmp_path, corpus_path, "--trials", "3", "--jobs", "1", "--retrain", "0", "--no_report")
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines()[0] == "2 of 3 trials are complete already"
    trials = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    train = [
        sys.executable,
        "-m",
        "lmf_multitask.train",
        "--config",
        str(folder / "best-1.yaml"),
        "--output_dir",
        "run",
    ]
    done = subprocess.run([*train, "--no_report"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_each_emotion_in_turn_and_one_seed_twice(corpus_path, tmp_path):
    options = ("--trials", "2", "--jobs", "1", "--retrain", "0", "--no_report", "--per_emotion", "true")
    done = search(tmp_path, corpus_path, *options, "--emotion", "sad", "happy")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(":")] == ["sad:", "happy:"]
    folder = tmp_path / "runs/search-mine"
    assert sorted(path.name for path in folder.iterdir()) == ["happy", "sad"]
    assert settings_from(folder / "sad/best-1.yaml").emotions == ["sad"]
    alone = search(tmp_path, corpus_path, *options, "--emotion", "sad", "--output_dir", "again")
    assert alone.returncode == 0, alone.stderr
    found = [json.loads((one / "sad/search.json").read_text()) for one in (folder, tmp_path / "again")]
    assert found[0] == found[1]
    assert (folder / "sad/trials.csv").read_bytes() == (tmp_path / "again/sad/trials.csv").read_bytes()
