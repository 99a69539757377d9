"""One training in two processes, started as a user does: against one process, resumed, killed, refused."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import make_corpus
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--model.encoders.text.state",
    "8",
    "--model.encoders.text.hidden",
    "4",
    "--model.encoders.audio.hidden",
    "4",
    "--model.encoders.video.hidden",
    "4",
]
EXACT = [
    "--model.modalities",
    "text",
    "--model.encoders.text.dropout",
    "0",
    "--model.encoders.text.step_dropout",
    "0",
    "--model.head_dropout",
    "0",
]  # nothing is drawn
FILES = ("history.csv", "predictions.csv", "metrics.json", "model/model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """61 training clips: the last batch of 16 has 13. Some are not annotated for sad, so that the two halves differ."""
    tree = make_corpus((61, 15, 17))
    part = tree["sad"]["train"]
    tree["sad"]["train"] = {name: values[10:] for name, values in part.items()}
    path = tmp_path_factory.mktemp("data") / "data.pkl"
    path.write_bytes(pickle.dumps(tree, protocol=2))
    return path


@pytest.fixture
def launch(tmp_path):
    """Starts the command in two processes; returns the launcher."""
    script = tmp_path / "lmf.py"  # stands for the installed command
    script.write_text("import sys\nfrom lmf_multitask.__main__ import main\nsys.exit(main())\n")

    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("OMP_NUM_THREADS", None)
        how = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path / "log")]
        command = [
            sys.executable,
            *how,
            str(script),
            "train",
            *SMALL,
            "--training.batch_size",
            "16",
            *map(str, arguments),
        ]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def finish(process):
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def one_process(*arguments, **variables):
    command = [sys.executable, "-m", "lmf_multitask.train", *SMALL, "--training.batch_size", "16", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, data, launch):
    options = ["--data_path", data, "--training.epochs", "3", "--training.monitor", "loss", *EXACT]
    two = launch(*options, "--output_dir", tmp_path / "two")
    status, said = finish(two)
    assert status == 0, said
    one = one_process(*options, "--output_dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    assert said.count("run directory: ") == 1
    assert "run directory" not in (tmp_path / "log/workerlog.1").read_text()
    found, wanted = (load_file(tmp_path / name / "model/model.safetensors") for name in ("two", "one"))
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)
    histories = [np.genfromtxt(tmp_path / name / "history.csv", delimiter=",", names=True) for name in ("two", "one")]
    for column in ("validation_loss", "validation_weighted_f1", "best"):
        np.testing.assert_allclose(histories[0][column], histories[1][column], atol=1e-6)
    predictions = [(tmp_path / name / "predictions.csv").read_text().splitlines() for name in ("two", "one")]
    assert [line.split(",")[:2] for line in predictions[0]] == [line.split(",")[:2] for line in predictions[1]]
    assert json.loads((tmp_path / "two/origin.json").read_text())["processes"] == "2"


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_the_run_resumes_to_the_same_bits(tmp_path, data, launch):
    """With dropout, which differs between the processes, and batch normalisation."""
    options = ["--data_path", data, "--training.epochs", "40", "--training.patience", "null"]
    status, said = finish(launch(*options, "--output_dir", tmp_path / "whole"))
    assert status == 0, said
    broken = launch(*options, "--output_dir", tmp_path / "broken")
    wait_for(lambda: list((tmp_path / "broken/checkpoints").glob("checkpoint-*")), broken)
    children = Path(f"/proc/{broken.pid}/task/{broken.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    status, said = finish(broken)
    assert status != 0
    assert "Container failed" in said
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert not (tmp_path / "broken/metrics.json").exists()
    alone = one_process(*options, "--output_dir", tmp_path / "broken", "--resume")
    assert alone.returncode == 2
    assert "cannot resume: processes changed from 2 to 1." in alone.stderr
    status, said = finish(launch(*options, "--output_dir", tmp_path / "broken", "--resume"))
    assert status == 0, said
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def wait_for(condition, process):
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--training.batch_size", "15"], "training.batch_size must be a multiple of the number of processes, 2, with two rows or more for each, but got 15."),
        (["--mode", "per_emotion"], "several trainings must be started in one process, but this is one of 2."),
    ],
)  # fmt: skip
def test_refused_before_anything_is_written(tmp_path, data, options, message):
    launched = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0"}  # as the launcher sets
    done = one_process("--data_path", data, "--output_dir", tmp_path / "run", *options, **launched)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()
