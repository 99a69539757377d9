"""`lmf export` and `lmf infer`: in this process, and once in one of their own."""

import csv

import numpy as np
import pytest
from commands import run_all, run_here
from conftest import EMOTIONS

from .conftest import make_run


def run_lmf(*arguments):
    done = run_here(*arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def lmf(tmp_path, monkeypatch):
    """Runs a command in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return run_lmf


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_path):
    """The parent of two per-emotion runs, trained for one epoch."""
    parent = tmp_path_factory.mktemp("trained")
    for emotion in ("happy", "sad"):
        status, _, err = run_lmf(
            "train", "--data_path", corpus_path, "--emotions", emotion, "--output_dir", parent / emotion, "--no_report",
            "--model.fusion.dim", "null", "--model.encoders.text.state", 16, "--training.epochs", 1,
        )  # fmt: skip
        assert status == 0, err
    return parent


def test_from_training_to_probabilities(lmf, trained, corpus_path, tmp_path):
    status, out, err = lmf("export", trained, "--data_path", corpus_path, "--format", "paddle")
    assert (status, err) == (0, "")
    assert "on 33 clips of" in out  # 16 of validation, one alone, 16 shortened ones
    assert sorted(path.name for path in (tmp_path / "check_inference").iterdir()) == [
        "happy.json", "happy.pdiparams", "lmf_model.json", "sad.json", "sad.pdiparams",
    ]  # fmt: skip
    status, out, err = lmf("infer", "check_inference", "--data_path", corpus_path)
    assert (status, err) == (0, "")
    assert "19 clips in" in out
    for emotion in ("happy", "sad"):  # the predictions of the training itself
        with (trained / emotion / "predictions.csv").open() as file:
            expected = [float(row[f"{emotion}_probability"]) for row in csv.DictReader(file)]
        np.testing.assert_allclose(np.load(tmp_path / "out_prob" / f"{emotion}_prob.npy")[:, 1], expected, atol=1e-5)
    status, _, err = lmf("infer", trained, "--data_path", corpus_path, "--output_dir", "again", "--all")
    assert (status, err) == (0, "")
    assert np.load(tmp_path / "again" / "sad_prob.npy").shape == (66, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["export", "nothing"],
            "error: nothing: must be a run directory, or hold run directories, with a trained model, but has none. "
            "Give the --output_dir of a finished training.\n",
        ),
        (
            ["infer", ".", "--benchmark"],
            "error: .: must be an exported model, but has no lmf_model.json. Export a run with `lmf export`.\n",
        ),
        (
            ["infer", ".", "--batch_size", "0", "--data_path", "x"],
            "error: --batch_size must be at least 1, but got 0.\n",
        ),
    ],
)
def test_errors_are_one_line(lmf, tmp_path, arguments, message):
    assert lmf(*arguments) == (2, "", message)
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_errors_with_a_suggestion(lmf):
    status, _, err = lmf("infer", "x", "--bach_size", "3")
    assert status == 2
    assert err == "error: unknown option '--bach_size'. Did you mean '--batch_size'?\n"
    status, _, err = lmf("export", "x", "--format", "tflite")
    assert status == 2
    assert err.count("\n") == 1
    assert "tflite" in err


def test_benchmark_without_data(lmf, exported):
    status, out, err = lmf("infer", exported, "--benchmark=True", "--batch_size", 2)
    assert (status, err) == (0, "")
    assert out.startswith("settings: backend paddle, device cpu, threads 1, models 1\n")
    assert len(out.splitlines()) == 4


def test_both_formats_in_a_process_of_its_own(tmp_path):
    """Nothing that Paddle, paddle2onnx and onnxruntime print reaches the user."""
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    run = make_run(tmp_path / "run", inputs={"audio": (74,), "video": (35,), "text": (20, 300)})
    both, onnx, infer = run_all(
        [
            ("lmf_multitask.export", [run]),
            ("lmf_multitask.export", [run, "--format", "onnx"]),
            ("lmf_multitask.infer", ["check_inference"]),
        ],
        tmp_path,
    )
    assert [(status, err) for status, _, err in (both, onnx, infer)] == [(0, "")] * 3
    assert "(multitask.json, multitask.pdiparams, multitask.onnx, lmf_model.json)" in both[1]
    assert both[1].count("129 generated clips") == 2  # 64, one alone, and 64 with half of the steps
    assert "(multitask.onnx, lmf_model.json)" in onnx[1]
    assert "made-up clips of the built-in sample" in infer[1]
    assert {e for e in EMOTIONS if (tmp_path / "out_prob" / f"{e}_prob.npy").exists()} == set(EMOTIONS)
