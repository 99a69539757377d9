"""The commands, from outside: what they print, write and refuse."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import run_all, run_one

SIZES = (
    "--model.encoders.audio.hidden 4 --model.encoders.video.hidden 3 --model.encoders.text.state 5 "
    "--model.encoders.text.hidden 4 --model.fusion.rank 2 --model.fusion.dim 6"
)
SMALL = [*SIZES.split(), "--device", "cpu", "--training.epochs", "2", "--training.batch_size", "8"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- from data to metrics


@pytest.fixture(scope="module")
def trained_by_command(corpus_path, tmp_path_factory):
    """A process `python -m lmf_multitask.train`, and the folder in which it ran."""
    folder = tmp_path_factory.mktemp("train")
    return folder, run_one(
        "lmf_multitask.train", "--data_path", corpus_path, "--output_dir", "out/run", *SMALL, cwd=folder
    )


def test_train_prints_the_table_and_nothing_else(trained_by_command):
    """The noise of Paddle, PaddleNLP, setuptools, OpenMP does not reach the user."""
    folder, done = trained_by_command
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    while said[0].startswith("data: "):
        del said[0]
    assert said[0].startswith("4 emotions (happy, sad, angry, neutral), 31 train / 16 validation / 19 test clips, ")
    assert [line[:11] for line in said[1:]] == ["epoch   1/2", "epoch   2/2"]
    printed = done.stdout.splitlines()
    assert printed[0] == "test, 19 clips"
    assert [line.split()[0] for line in printed[1:7]] == ["emotion", "happy", "sad", "angry", "neutral", "mean"]
    assert printed[7].startswith("*  ")
    assert printed[8].startswith("Present above: happy 0.")
    assert printed[9].startswith("Published metrics are not shown")
    assert printed[10].startswith("The model against logistic regression")
    assert printed[11:] == ["report: out/run/report.html", "run directory: out/run"]
    assert names(folder) == ["out"]


def test_train_writes_a_run_directory(trained_by_command, corpus_path):
    folder, _ = trained_by_command
    run = folder / "out" / "run"
    expected = {
        "config.yaml",
        "history.csv",
        "manifest.json",
        "report.html",
        "metrics.json",
        "model",
        "predictions.csv",
        "train.log",
    }
    assert expected <= set(names(run))
    assert not [name for name in names(run) if name.startswith(".")]
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == metrics["samples"] == 19
    assert str(corpus_path) in (run / "config.yaml").read_text()


def test_evaluate_gives_the_same_metrics(trained_by_command, tmp_path):
    folder, trained = trained_by_command
    shutil.copytree(folder / "out" / "run", tmp_path / "run")
    done = run_one("lmf_multitask.evaluate", "run", "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    table = trained.stdout.splitlines()[:9]
    said = done.stdout.splitlines()
    assert said[0].startswith("data: ")
    said = said[said.index("") + 1 :]
    assert said[:9] == table
    assert said[-3:] == [
        "written: run/metrics_test.json",
        "written: run/predictions_test.csv",
        "written: run/predictions_test_logistic_regression.csv",
    ]
    assert (tmp_path / "run" / "metrics_test.json").read_text() == (tmp_path / "run" / "metrics.json").read_text()


@pytest.fixture(scope="module")
def further_runs(trained_by_command, tmp_path_factory):
    """The first run's settings again, and a run without data."""
    folder = tmp_path_factory.mktemp("further")
    config = trained_by_command[0] / "out" / "run" / "config.yaml"
    return folder, run_all(
        [
            ("lmf_multitask.train", ["--config", config, "--output_dir", "again", "--no_report"]),
            ("lmf_multitask.train", [*SMALL, "--output_dir", "sample", "--training.epochs", 1, "--no_report"]),
        ],
        cwd=folder,
    )


def test_the_settings_of_a_run_run_again(trained_by_command, further_runs):
    folder, trained = trained_by_command
    again, ((status, out, err), _) = further_runs
    assert status == 0, err
    assert out.splitlines()[:9] == trained.stdout.splitlines()[:9]
    for name in ("metrics.json", "history.csv", "predictions.csv", "model/model.safetensors"):
        assert (again / "again" / name).read_bytes() == (folder / "out" / "run" / name).read_bytes(), name


def test_a_run_without_data_says_so_first(further_runs):
    _, (_, (status, out, err)) = further_runs
    assert status == 0, err
    assert (
        err.splitlines()[0]
        == "These metrics are from the built-in sample of made-up clips: they say nothing about IEMOCAP."
    )


def test_data_sample_and_inspect(tmp_path):
    sample = ("lmf_multitask.data.__main__", ["sample", "s.pkl"])
    found = run_all(
        [
            sample,
            ("lmf_multitask.data.__main__", ["inspect", "s.pkl"]),
            sample,
            ("lmf_multitask.__main__", ["data", "sample", "s.pkl", "--seed", 1, "--overwrite"]),
            ("lmf_multitask.__main__", ["data", "inspect", "s.pkl", "--data.label_column", 0]),
        ],
        cwd=tmp_path,
    )
    assert [status for status, _, _ in found] == [0, 0, 2, 0, 0]
    size = (tmp_path / "s.pkl").stat().st_size
    assert found[0][1] == f"written: s.pkl ({size:,} bytes)\n"
    for fact in (
        "960 clips, the same ones in the same order under every emotion",
        "column 1 = present: in every clip it is set for exactly one of the 4 emotions",
        "happy, sad, angry, neutral (exclusive",
        "audio      74 numbers per clip",
        "constant in train: columns 36-39",
        "padded at the end",
        "not the released IEMOCAP file",
    ):
        assert fact in found[1][1]
    assert len(found[1][1].splitlines()) <= 25
    assert found[2][2] == "error: s.pkl: must not exist yet, but does. Choose another name, or --overwrite.\n"
    assert "column 0 = present" in found[4][1]
    assert found[1][2] == found[4][2] == ""
    assert names(tmp_path) == ["s.pkl"]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, corpus_path):
    """`lmf data inspect FILE | head -1`"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "lmf_multitask.data", "inspect", str(corpus_path)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(tmp_path, corpus_path, closed):
    command = f'"$0" -m lmf_multitask.data inspect "$1" {closed}'
    before = corpus_path.read_bytes()
    done = subprocess.run(["sh", "-c", command, sys.executable, str(corpus_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert corpus_path.read_bytes() == before


def test_a_terminal_of_ascii_only(trained_by_command):
    """The mean over seeds is printed with a plus-minus sign."""
    folder, _ = trained_by_command
    shutil.copytree(folder / "out" / "run", folder / "several" / "seed1")
    shutil.copytree(folder / "out" / "run", folder / "several" / "seed²")  # no number
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run_one("lmf_multitask.evaluate", "several", "--device", "cpu", cwd=folder, env=environment)
    assert done.returncode == 0
    assert r"1 seeds: mean \xb1 std" in done.stdout


def test_names_do_not_control_the_terminal_and_are_no_markup(trained_by_command):
    folder, _ = trained_by_command
    for name in ("run[old]", "$1_and_$2", "e\x1b[2Jx"):
        shutil.copytree(folder / "out" / "run", folder / name)
    done = run_one("lmf_multitask.evaluate", "e\x1b[2Jx", "--device", "cpu", cwd=folder)
    assert (done.returncode, "\x1b" in done.stdout + done.stderr) == (0, False)
    assert r"written: e\x1b[2Jx/metrics_test.json" in done.stdout
    compared = run_one("lmf_multitask.compare", "run[old]", "$1_and_$2", cwd=folder)
    assert compared.returncode == 0
    assert "run[old] against $1_and_$2" in compared.stdout.replace(
        "$1_and_$2 against run[old]", "run[old] against $1_and_$2"
    )


def test_debug_shows_the_traceback(tmp_path):
    done = run_one("lmf_multitask.data", "inspect", "nowhere.pkl", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "DataError: nowhere.pkl: must be a readable file" in done.stderr
