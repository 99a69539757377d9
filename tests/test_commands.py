"""The commands, from outside: what they print, write and refuse."""

import csv
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import run_all, run_one
from conftest import make_corpus, to_bytes_keys

SIZES = "--model.audio_hidden 4 --model.video_hidden 3 --model.text_lstm 5 --model.text_hidden 4 --model.fusion_rank 2 --model.fusion_dim 6"
SMALL = [*SIZES.split(), "--device", "cpu", "--training.epochs", "2", "--training.batch_size", "8"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- from data to figures


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
    assert said[0].startswith("4 emotions (happy, sad, angry, neutral), 31 train / 16 validation / 19 test clips, ")
    assert [line[:11] for line in said[1:]] == ["epoch   1/2", "epoch   2/2"]
    printed = done.stdout.splitlines()
    assert printed[0] == "test, 19 clips"
    assert [line.split()[0] for line in printed[1:7]] == ["emotion", "happy", "sad", "angry", "neutral", "mean"]
    assert [line[:2] for line in printed[7:9]] == ["* ", "**"]
    assert printed[9].startswith("The network is ")  # beside a linear model on the same features
    assert printed[10:] == ["report: out/run/report.html", "run directory: out/run"]
    assert names(folder) == ["out"]


def test_train_writes_a_run_directory(trained_by_command, corpus_path):
    folder, _ = trained_by_command
    run = folder / "out" / "run"
    expected = {"config.yaml", "history.csv", "metrics.json", "model", "predictions.csv", "train.log"}
    assert expected <= set(names(run))
    assert not [name for name in names(run) if name.startswith(".")]
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == metrics["samples"] == 19
    assert str(corpus_path) in (run / "config.yaml").read_text()


def test_evaluate_gives_the_same_figures(trained_by_command, tmp_path):
    folder, trained = trained_by_command
    shutil.copytree(folder / "out" / "run", tmp_path / "run")
    done = run_one("lmf_multitask.evaluate", "run", "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    table = trained.stdout.splitlines()[:9]
    said = done.stdout.splitlines()
    assert (said[:9], said[-1]) == (table, "written: run/metrics_test.json")
    assert (tmp_path / "run" / "metrics_test.json").read_text() == (tmp_path / "run" / "metrics.json").read_text()


@pytest.fixture(scope="module")
def further_runs(trained_by_command, tmp_path_factory):
    """The first run's settings again, and a run without data."""
    folder = tmp_path_factory.mktemp("further")
    config = trained_by_command[0] / "out" / "run" / "config.yaml"
    return folder, run_all(
        [
            ("lmf_multitask.train", ["--config", config, "--output_dir", "again"]),
            ("lmf_multitask.train", [*SMALL, "--output_dir", "sample", "--training.epochs", 1]),
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


def test_a_run_without_data_says_what_its_figures_are(further_runs):
    _, (_, (status, out, err)) = further_runs
    assert status == 0, err
    assert "These figures are from the built-in sample of made-up clips: they say nothing of IEMOCAP." in out


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
        "300 clips, the same ones in the same order under every emotion",
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
    assert "column 0 = present, as you said" in found[4][1]
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


# -- wrong input: one clear line, status 2, no traceback, nothing written


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def change(path, value):
    tree = make_corpus()
    *parents, last = path.split("/")
    node = tree
    for name in parents:
        node = node[name]
    node[last] = value
    return pickle.dumps(to_bytes_keys(tree), protocol=2)


WHOLE = pickle.dumps(to_bytes_keys(make_corpus()), protocol=2)
LACKS_ROWS = {name: values[:0] for name, values in make_corpus()["sad"]["test"].items()}
ONE_CLASS = np.eye(2, dtype=int)[[0] * 12]

WRONG_DATA = {
    "missing": (None, "x.pkl: must be a readable file, but No such file or directory. Check the path."),
    "not a pickle": (b"hello, world", "x.pkl: must be"),
    "empty": (b"", "x.pkl: must be"),
    "a zip archive": (b"PK\x03\x04" + bytes(50), "x.pkl: must be a pickle, but is a zip archive"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "x.pkl: must be"),
    "hostile": (pickle.dumps({"happy": Hostile()}, protocol=2), "system"),
    "text in place of numbers": (
        change("sad/train/facet", np.array([["a"] * 4] * 12)),
        "must be an array of numbers, but holds text",
    ),
    "splits of different widths": (change("sad/test/facet", np.zeros((9, 5))), "video must have one size everywhere"),
    "empty split": (change("sad/test", LACKS_ROWS), "must have at least one row, but is empty"),
    "no emotion": (
        pickle.dumps({b"weights": 1}, protocol=2),
        "must hold data[emotion][split][feature], but no emotion is in it",
    ),
    "labels of one class": (
        change("sad/train/label", ONE_CLASS),
        "sad must be present in some clips of train and absent in others, but is present in 0 of 12.",
    ),
    "labels between": (change("sad/test/label", np.full((9, 2), 0.5)), "must be 0 or 1 everywhere, but holds 0.5"),
}

WRONG_CALLS = {
    "emotion": (
        ["--emotions", "hapy"],
        "emotions must be among happy, sad, angry, neutral, but got 'hapy'. Did you mean 'happy'?",
    ),
    "emotion twice": (["--emotions", "sad", "sad"], "emotions must be one or more different names"),
    "option": (["--sed", "3"], "unknown option '--sed'. Did you mean '--seed'?"),
    "abbreviated option": (
        ["--training.epoch", "3"],
        "unknown option '--training.epoch'. Did you mean '--training.epochs'?",
    ),
    "abbreviated flag": (["--over"], "unknown option '--over'. Did you mean '--overwrite'?"),
    "range": (["--training.batch_size", "1"], "training.batch_size must be a whole number of at least 2, but got 1."),
    "kind": (["--training.epochs", "many"], "training.epochs must be a whole number, but got many."),
    "device": (["--device", "tpu"], "device must be auto, cpu, gpu or gpu:NUMBER, but got 'tpu'."),
    "missing gpu": (["--device", "gpu"], "device must be one that Paddle can use, but got 'gpu' and it finds no GPU."),
    "config": (["--config", "nowhere.yaml"], "--config must be a YAML file, but nowhere.yaml is none."),
    "unset variable": (
        ["--data_path", ""],
        "every argument must say something, but one is empty. is a variable in the command not set?",
    ),
    "non-finite": (["--data.non_finite", "error"], "audio must be finite, but has 1 NaN and 0 infinite values"),
    "complete run": (["--output_dir", "run"], "run: must be empty, but holds a complete run."),
    "resuming a complete run": (
        ["--output_dir", "run", "--resume"],
        "run: must be an unfinished run to resume, but is complete.",
    ),
    "foreign folder": (
        ["--output_dir", "thesis", "--resume"],
        "thesis: must be empty or a run directory, but holds 'chapter.tex'.",
    ),
    "foreign folder to overwrite": (
        ["--output_dir", "thesis", "--overwrite"],
        "thesis: must be empty or a run directory",
    ),
    "file in the way": (["--output_dir", "good.pkl"], "good.pkl: must be a folder, but is a file."),
    "folder that cannot be made": (["--output_dir", "good.pkl/run"], "good.pkl"),
}

OTHERS = {
    "evaluate nothing": ("evaluate", [], "run_dir"),
    "evaluate nowhere": ("evaluate", ["nowhere"], "nowhere: must be a run directory"),
    "evaluate no run": ("evaluate", ["thesis"], "thesis: must be a run directory, but has no config.yaml"),
    "evaluate a split": ("evaluate", ["run", "--split", "valid"], "'valid'"),
    "evaluate other data": (
        "evaluate",
        ["run", "--data_path", "wide.pkl"],
        "wide.pkl: must have the feature sizes of the model",
    ),
    "evaluate a damaged model": ("evaluate", ["damaged"], "model.safetensors: must be a complete safetensors file"),
    "evaluate an unfinished run": (
        "evaluate",
        ["unfinished"],
        "unfinished: must hold a trained model, but has no folder 'model'",
    ),
    "abbreviated split": ("evaluate", ["run", "--spl", "test"], "unknown option '--spl'. Did you mean '--split'?"),
    "inspect nothing": ("data.__main__", ["inspect", "nowhere.pkl"], "nowhere.pkl: must be a readable file"),
    "inspect what": ("data.__main__", ["inspekt", "good.pkl"], "'inspekt'"),
    "no subcommand": ("data.__main__", [], "inspect"),
    "sample over a file": ("data.__main__", ["sample", "good.pkl"], "good.pkl: must not exist yet, but does."),
    "sample with a seed": (
        "data.__main__",
        ["sample", "new.pkl", "--seed", "-1"],
        "--seed must be from 0 to 2^32 - 1, but got -1.",
    ),
    "sample of a scale": ("data.__main__", ["sample", "new.pkl", "--scale", "huge"], "'huge'"),
    "sample into a file": ("data.__main__", ["sample", "good.pkl/x/new.pkl"], "good.pkl"),
    "no such command": ("__main__", ["trian"], "unknown command 'trian'. Did you mean 'train'?"),
    "nothing like it": ("__main__", ["dance"], "unknown command 'dance'. Choose one of train, evaluate"),
}


@pytest.fixture(scope="module")
def refusals(trained_by_command, tmp_path_factory):
    """All of the above in one process: name -> (status, stdout, stderr), the folder, and what was in it before."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "good.pkl").write_bytes(WHOLE)
    (folder / "wide.pkl").write_bytes(pickle.dumps(to_bytes_keys(make_corpus(audio=9)), protocol=2))
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("years of work")
    for name in ("run", "damaged", "unfinished"):
        shutil.copytree(trained_by_command[0] / "out" / "run", folder / name)
    weights = folder / "damaged" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    shutil.rmtree(folder / "unfinished" / "model")
    calls = {}
    for name, (content, _) in WRONG_DATA.items():
        (folder / name).mkdir()
        if content is not None:
            (folder / name / "x.pkl").write_bytes(content)
        data = ["--data_path", f"{name}/x.pkl", "--output_dir", "new", "--data.cache_dir", folder.parent / "cache"]
        calls[name] = ("lmf_multitask.train", [*SMALL, *data])
    for name, (arguments, _) in WRONG_CALLS.items():
        calls[name] = ("lmf_multitask.train", [*SMALL, "--data_path", "good.pkl", "--output_dir", "new", *arguments])
    for name, (module, arguments, _) in OTHERS.items():
        calls[name] = (f"lmf_multitask.{module}", arguments)
    before = contents(folder), {str(path) for path in folder.rglob("*")}
    found = run_all(list(calls.values()), cwd=folder)
    return dict(zip(calls, found)), folder, before


MESSAGES = {
    **{name: message for name, (_, message) in {**WRONG_DATA, **WRONG_CALLS}.items()},
    **{name: message for name, (_, _, message) in OTHERS.items()},
}


@pytest.mark.parametrize("name", MESSAGES)
def test_wrong_input_is_one_clear_line(refusals, name):
    status, out, err = refusals[0][name]
    assert MESSAGES[name].lower() in err.lower()
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_wrong_input_writes_nothing(refusals):
    _, folder, (files, paths) = refusals
    assert {str(path) for path in folder.rglob("*")} == paths
    assert contents(folder) == files


def test_debug_shows_the_traceback(tmp_path):
    done = run_one("lmf_multitask.data", "inspect", "nowhere.pkl", "--debug", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "DataError: nowhere.pkl: must be a readable file" in done.stderr
