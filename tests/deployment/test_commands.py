"""`lmf export`, `lmf infer`: what users type, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EMOTIONS

ROOT = Path(__file__).resolve().parents[2]


def run_lmf(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lmf_multitask", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def lmf(tmp_path):
    """Runs a command in an empty folder: (exit status, stdout, stderr)."""
    return lambda *arguments: run_lmf(tmp_path, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_path):
    """The parent of two per-emotion runs, really trained, for one epoch."""
    parent = tmp_path_factory.mktemp("trained")
    for emotion in ("happy", "sad"):
        status, _, err = run_lmf(
            parent, "train", "--data_path", sample_path, "--emotions", emotion, "--output_dir", emotion,
            "--model.fusion_dim", "null", "--model.text_lstm", 16, "--training.epochs", 1,
        )  # fmt: skip
        assert status == 0, err
    return parent


def test_from_training_to_probabilities(lmf, trained, sample_path, tmp_path):
    status, out, err = lmf("export", trained)
    assert (status, err) == (0, "")
    assert "on 60 clips of sample.pkl" in out
    assert sorted(path.name for path in (tmp_path / "check_inference").iterdir()) == [
        "happy.json", "happy.pdiparams", "lmf_model.json", "sad.json", "sad.pdiparams",
    ]  # fmt: skip
    status, out, err = lmf("infer", "check_inference", "--data_path", sample_path)
    assert (status, err) == (0, "")
    assert "80 clips in" in out
    for emotion in ("happy", "sad"):  # what the training's own test said of these clips
        with (trained / emotion / "predictions.csv").open() as file:
            said = np.loadtxt(file, delimiter=",", skiprows=1, usecols=2)
        np.testing.assert_allclose(np.load(tmp_path / "out_prob" / f"{emotion}_prob.npy")[:, 1], said, atol=1e-5)
    status, _, err = lmf("infer", trained, "--data_path", sample_path, "--output_dir", "again", "--all")
    assert (status, err) == (0, "")
    assert np.load(tmp_path / "again" / "sad_prob.npy").shape == (300, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["export", "nothing"],
            "error: nothing: must be a run directory, but there is no such folder. Check the path.\n",
        ),
        (
            ["export", "."],
            "error: .: must be a run directory, but has no config.yaml, nor has any folder in it. Give the --output_dir of a training.\n",
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


def test_wrong_options_are_explained(lmf):
    status, _, err = lmf("infer", "x", "--bach_size", "3")
    assert status == 2
    assert err == "error: unknown option '--bach_size'. Did you mean '--batch_size'?\n"
    status, _, err = lmf("export", "x", "--format", "tflite")
    assert status == 2
    assert err.count("\n") == 1
    assert "tflite" in err


def test_benchmark_without_data(lmf, exported):
    status, out, err = lmf("infer", exported, "--benchmark", "--batch_size", 2)
    assert (status, err) == (0, "")
    assert out.startswith("settings: backend paddle, device cpu, threads 1, models 1\n")
    assert len(out.splitlines()) == 4


def test_onnx_by_command(lmf, trained, sample_path, tmp_path):
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    status, out, err = lmf("export", trained, "--format", "onnx")
    assert (status, err) == (0, "")
    assert "happy.onnx, sad.onnx" in out
    status, _, err = lmf("infer", "check_inference", "--data_path", sample_path)
    assert (status, err) == (0, "")
    assert {e for e in EMOTIONS if (tmp_path / "out_prob" / f"{e}_prob.npy").exists()} == {"happy", "sad"}
