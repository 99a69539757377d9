"""The shell scripts, in a copy of the checkout whose environment is this one, so that nothing is installed or left behind."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EMOTIONS

from lmf_multitask.data.sample import write_sample

ROOT = Path(__file__).resolve().parents[1]
TIPC = "scripts/test_tipc/test_train_inference_python.sh"


@pytest.fixture
def checkout(tmp_path):
    """A copy with a `.venv` whose python is the one that runs the tests, marked as installed."""
    for name in ("lmf_multitask", "scripts", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    stamp = "cat scripts/requirements.lock setup.cfg pyproject.toml lmf_multitask/__init__.py | cksum >.venv/installed"
    subprocess.run(stamp, shell=True, cwd=tmp_path, check=True)
    return tmp_path


def run(folder, *command):
    done = subprocess.run(["bash", *map(str, command)], cwd=folder, capture_output=True, text=True, env={**os.environ})
    return done.returncode, done.stdout + done.stderr


def has_per_emotion():
    command = [sys.executable, "-m", "lmf_multitask.train", "--help"]
    return "per_emotion" in subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout


# a stand-in for the commands, which notes how it was called; the real ones run in the slow test
FAKE = """#!/bin/sh
echo "called: $*"
case "$*" in *"$(cat fail 2>/dev/null || echo nothing)"*) exit 3;; esac
"""


@pytest.fixture
def fake(checkout):
    python = checkout / "python"
    python.write_text(FAKE)
    python.chmod(0o755)
    text = (checkout / "configs/tipc/lmf/train_infer_python.txt").read_text()
    (checkout / "fake.txt").write_text(text.replace("python:.venv/bin/python", "python:./python"))
    return checkout


def called(output):
    return re.findall(r"^called: (.*)$", output, re.MULTILINE)


def test_lite_runs_every_step_of_both_modes(fake):
    status, output = run(fake, TIPC, "fake.txt", "lite_train_lite_infer")
    assert status == 0
    logs = "log/lmf/lite_train_lite_infer"
    expected = ["-m lmf_multitask.data sample log/lmf/sample.pkl --scale tiny --overwrite"]
    for name, start in (
        ("multitask_train", "--mode multitask"),
        ("per_emotion_train", "--mode per_emotion --recipe lmf_paddle"),
    ):
        folder = f"{logs}/{name}_gpus_-1"
        expected += [
            f"-m lmf_multitask.train {start} --device cpu --training.epochs 2 --output_dir {folder}/run "
            "--training.batch_size 16 --data_path log/lmf/sample.pkl --overwrite",
            f"-m lmf_multitask.evaluate {folder}/run",
            f"-m lmf_multitask.export {folder}/run --output_dir {folder}/inference",
        ]
        expected += [
            f"-m lmf_multitask.infer {folder}/inference --device cpu --batch_size {size} --data_path log/lmf/sample.pkl "
            f"--benchmark --backend paddle --output_dir {folder}/out_prob_cpu_batchsize_{size}"
            for size in (1, 32)
        ]
    assert called(output) == expected
    said = (fake / logs / "results_python.log").read_text().splitlines()
    assert said == [f" Run successfully with command - ./python {line}!" for line in expected]
    assert all(line in output for line in said)
    assert "0 of 11 steps failed" in output
    assert "called: " in (fake / logs / "multitask_train_gpus_-1/python_infer_cpu_batchsize_32.log").read_text()


def test_whole_takes_the_data_of_the_config_and_the_defaults(fake):
    status, output = run(fake, TIPC, "fake.txt", "whole_train_whole_infer")
    assert status == 0
    assert called(output)[0] == (
        "-m lmf_multitask.train --mode multitask --device cpu "
        "--output_dir log/lmf/whole_train_whole_infer/multitask_train_gpus_-1/run --data_path iemocap.pkl --overwrite"
    )
    assert sum("--batch_size 256" in line for line in called(output)) == 2


def test_a_failed_step_is_told_and_ends_with_status_1(fake):
    (fake / "fail").write_text("--batch_size 32")
    status, output = run(fake, TIPC, "fake.txt", "lite_train_lite_infer")
    assert status == 1
    assert output.count("Run failed with command - ./python -m lmf_multitask.infer") == 2
    assert "2 of 11 steps failed" in output


def test_nothing_is_evaluated_after_a_failed_training(fake):
    (fake / "fail").write_text("--mode per_emotion")
    status, output = run(fake, TIPC, "fake.txt", "lite_train_lite_infer")
    assert status == 1
    assert "Run failed with command - ./python -m lmf_multitask.train --mode per_emotion" in output
    assert len(called(output)) == 7
    assert not any("per_emotion" in line for line in called(output)[7:])


def test_lists_of_devices_and_gpus(fake):
    text = (fake / "fake.txt").read_text()
    text = text.replace("gpu_list:-1\n--device:cpu", "gpu_list:-1|0\n--device:False|True")
    text = text.replace("_infer\n--device:cpu", "_infer\n--device:cpu|gpu").replace(
        "inference:-m lmf_multitask.infer\n--device:cpu", "inference:-m lmf_multitask.infer\n--device:cpu|gpu"
    )
    (fake / "fake.txt").write_text(text)
    _, output = run(fake, TIPC, "fake.txt", "lite_train_lite_infer")
    trained = [re.search(r"--device (\w+)", line)[1] for line in called(output) if "lmf_multitask.train" in line]
    assert trained == ["cpu", "cpu", "gpu", "gpu"]
    inferred = [
        re.search(r"--device (\w+) --batch_size (\d+)", line).groups()
        for line in called(output)
        if "lmf_multitask.infer" in line
    ]
    assert inferred == [("cpu", "1"), ("cpu", "32"), ("gpu", "1"), ("gpu", "32")] * 4
    assert (fake / "log/lmf/lite_train_lite_infer/multitask_train_gpus_0/train.log").exists()


def test_whole_infer_needs_a_run(fake):
    status, output = run(fake, TIPC, "fake.txt", "whole_infer")
    assert status == 2
    assert "infer_model must name a run directory for whole_infer, but is null" in output
    text = (fake / "fake.txt").read_text().replace("infer_model:null", "infer_model:runs/mine")
    (fake / "fake.txt").write_text(text)
    status, output = run(fake, TIPC, "fake.txt", "whole_infer")
    assert status == 0
    assert called(output)[0] == "-m lmf_multitask.export runs/mine --output_dir log/lmf/whole_infer/given/inference"
    assert len(called(output)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: bash"),
        (["fake.txt", "lite"], "error: the mode must be one of TIPC's, but got lite."),
        (["none.txt", "whole_infer"], "error: none.txt: must be a config file, but there is none."),
        (
            ["setup.cfg", "whole_infer"],
            "must have TIPC's lines in train_params and infer_params, but some are missing.",
        ),
    ],
)
def test_wrong_use(fake, arguments, message):
    status, output = run(fake, TIPC, *arguments)
    assert status == 2
    assert message in output


@pytest.mark.slow
def test_lite_for_real(checkout):
    if not has_per_emotion():
        pytest.skip("needs train --mode per_emotion")
    status, output = run(checkout, TIPC, "configs/tipc/lmf/train_infer_python.txt", "lite_train_lite_infer")
    assert status == 0, output[-3000:]
    assert "0 of 11 steps failed" in output
    for name in ("multitask_train_gpus_-1", "per_emotion_train_gpus_-1"):
        folder = checkout / "log/lmf/lite_train_lite_infer" / name / "out_prob_cpu_batchsize_32"
        for emotion in EMOTIONS:
            found = np.load(folder / f"{emotion}_prob.npy")
            np.testing.assert_allclose(found.sum(axis=1), np.ones(80), atol=1e-6)


@pytest.mark.slow
def test_the_quick_start(checkout):
    status, output = run(checkout, "scripts/quickstart.sh", "--training.epochs", "1", "--no_report")
    assert status == 0, output
    assert "weighted F1" in output
    assert "\nnext: source .venv/bin/activate" in output
    assert (checkout / "runs/quickstart/metrics.json").is_file()


@pytest.mark.slow
def test_the_four_steps_of_the_seed(checkout):
    if not has_per_emotion():
        pytest.skip("needs train --mode per_emotion")
    for script in (["train", "--training.epochs", "1"], ["eval"], ["export"], ["infer"]):
        status, output = run(checkout, f"scripts/{script[0]}.sh", *script[1:])
        assert status == 0, output
    assert {path.name for path in (checkout / "out_prob").iterdir()} == {
        *(f"{e}_prob.npy" for e in EMOTIONS),
        "predictions.csv",
    }
    status, output = run(checkout, "scripts/infer.sh", "--split", "train", "--output_dir", "other")
    assert status == 0
    assert "640 clips" in output


@pytest.mark.slow
def test_the_loop_beside_a_bare_one():
    command = [sys.executable, "scripts/benchmark_loop.py", "--epochs", "1", "--rounds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ratio +\d+\.\d{3} \(from ", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_check_of_a_gpu_on_a_cpu(tmp_path):
    """The CPU stands in for the GPU: all that it prints must be equal."""
    sample = write_sample(tmp_path / "sample.pkl", "tiny")
    values = {"PYTHON": sys.executable, "DEVICE": "cpu", "EPOCHS": "1", "DATA": str(sample)}
    done = subprocess.run(
        ["bash", ROOT / "scripts/check_gpu.sh"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **values},
    )
    assert done.returncode == 0, done.stderr
    assert "cpu twice gives the same history: yes" in done.stdout
    assert len(re.findall(r"largest difference \S+ ok$", done.stdout, re.MULTILINE)) == 2
    assert done.stdout.count("```") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sample.pkl"]
