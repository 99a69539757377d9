"""A training that is stopped, killed or damaged is resumed to the same bits, or refused with the reason."""

import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import model_config

from lmf_multitask.config import build
from lmf_multitask.errors import RunError
from lmf_multitask.files import write_manifest
from lmf_multitask.pipeline import experiment
from lmf_multitask.pipeline.runs import Run
from lmf_multitask.pipeline.settings import ExperimentConfig, recipe_config
from lmf_multitask.training.config import TrainingConfig
from lmf_multitask.training.module import LMFModule

FILES = (
    "history.csv", "predictions.csv", "metrics.json", "model/model.safetensors", "model/config.json", "model/calibration.json",
)  # fmt: skip


def settings(data, folder, order="seeded", **training):
    """Small, with dropout on."""
    if order == "lmf_paddle":
        config = build(ExperimentConfig, recipe_config("lmf_paddle", "happy"))
        config.training.epochs, config.training.batch_size, config.model.encoders.text.state = 6, 32, 16
        config.emotions = ["happy"]
    else:
        config = ExperimentConfig(
            model=model_config({"encoders.text.state": 16, "encoders.text.hidden": 8}),
            training=TrainingConfig(epochs=6, batch_size=32, patience=None),
        )
    for name, value in training.items():
        setattr(config.training, name, value)
    config.data_path, config.output_dir = str(data), str(folder)
    return config


def train(config, **options):
    return experiment.run_experiment(config, report=False, **options)


def bits(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


class Crash(BaseException):
    """No code catches it by mistake."""


def crash_after(monkeypatch, config, epoch):
    """Runs until the line of that epoch is shown, which is before its checkpoint is written."""

    def line(row, *others):
        if row["epoch"] == epoch:
            raise Crash
        return ""

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(experiment, "epoch_line", line)
        train(config)


@pytest.fixture(scope="module", params=["seeded", "lmf_paddle"])
def whole(request, sample_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    train(settings(sample_path, folder, request.param))
    return request.param, bits(folder)


@pytest.mark.parametrize("epoch", [1, 4, 6])
def test_a_crash_before_a_checkpoint(whole, sample_path, tmp_path, monkeypatch, epoch):
    order, wanted = whole
    config = settings(sample_path, tmp_path / "run", order)
    crash_after(monkeypatch, config, epoch)
    assert not Run(tmp_path / "run").is_complete()
    train(config, resume=True)
    assert bits(tmp_path / "run") == wanted


def test_a_crash_while_writing_leaves_the_checkpoint_before(whole, sample_path, tmp_path, monkeypatch):
    from lmf_multitask.training import checkpoints as module

    order, wanted = whole
    config = settings(sample_path, tmp_path / "run", order)
    written = []

    def crash_in_the_fourth(folder):
        written.append(folder)
        if len(written) == 4:
            raise Crash
        write_manifest(folder)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(module, "write_manifest", crash_in_the_fourth)
        train(config)
    left = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert {"checkpoint-15"} < left <= {"checkpoint-5", "checkpoint-10", "checkpoint-15"}  # and the best one's
    (tmp_path / "run/checkpoints/.checkpoint-20.killed.part").mkdir()  # as SIGKILL leaves it
    train(config, resume=True)
    assert bits(tmp_path / "run") == wanted
    assert not any(path.name.startswith(".") for path in (tmp_path / "run/checkpoints").iterdir())


@pytest.fixture(scope="module")
def wanted(sample_path, tmp_path_factory):
    """The result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("wanted") / "whole"
    train(settings(sample_path, folder))
    return bits(folder)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": (lambda folder: flip_a_byte(folder / "optimizer.safetensors"), "optimizer.safetensors differs"),
    "cut off": (lambda folder: os.truncate(folder / "model.safetensors", 99), "model.safetensors differs"),
    "missing": (lambda folder: (folder / "progress.json").unlink(), "progress.json is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be read"),
    "foreign": (lambda folder: (folder / "extra").touch(), "extra is not in the manifest"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_ignored(wanted, sample_path, tmp_path, monkeypatch, caplog, name):
    do, problem = DAMAGES[name]
    config = settings(sample_path, tmp_path / "run")
    crash_after(monkeypatch, config, 4)
    newest = tmp_path / "run/checkpoints/checkpoint-15"
    do(newest)
    train(config, resume=True)
    assert f"{newest}: must be an undamaged checkpoint, but {problem}" in caplog.text
    assert bits(tmp_path / "run") == wanted


def test_without_any_whole_checkpoint_it_starts_again(wanted, sample_path, tmp_path, monkeypatch, caplog):
    config = settings(sample_path, tmp_path / "run")
    crash_after(monkeypatch, config, 4)
    for checkpoint in (tmp_path / "run/checkpoints").iterdir():
        flip_a_byte(checkpoint / "model.safetensors")
    train(config, resume=True)
    assert caplog.text.count("It is ignored.") >= 2
    assert bits(tmp_path / "run") == wanted


def test_a_wrong_checkpoint_with_a_right_manifest_is_refused_in_one_line(sample_path, tmp_path, monkeypatch):
    config = settings(sample_path, tmp_path / "run")
    crash_after(monkeypatch, config, 2)
    checkpoint = tmp_path / "run/checkpoints/checkpoint-5"
    (checkpoint / "progress.json").write_text("[]")
    write_manifest(checkpoint)
    with pytest.raises(RunError) as caught:
        train(config, resume=True)
    assert str(caught.value).startswith(f"{checkpoint}/progress.json: content must be as it was written, but")
    assert "\n" not in str(caught.value)


def test_a_crash_between_early_stopping_and_the_result(sample_path, tmp_path, monkeypatch):
    config = settings(sample_path, tmp_path / "whole", epochs=40, patience=1, monitor="loss", learning_rate=0.02)
    train(config)
    epochs = len((tmp_path / "whole/history.csv").read_text().splitlines()) - 1
    assert epochs < 40
    config.output_dir = str(tmp_path / "run")

    def crash(*arguments):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(experiment, "calibrate", crash)
        train(config)
    shown = []
    monkeypatch.setattr(experiment, "epoch_line", lambda row, *others: shown.append(row))
    train(config, resume=True)
    assert shown == []  # no epoch was trained again
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_moved_run_is_resumed(wanted, sample_path, tmp_path, monkeypatch):
    config = settings(sample_path, tmp_path / "here")
    crash_after(monkeypatch, config, 4)
    shutil.move(tmp_path / "here", tmp_path / "there")
    config.output_dir = str(tmp_path / "there")
    train(config, resume=True)
    assert bits(tmp_path / "there") == wanted


# -- what cannot be resumed


def test_other_data_or_versions_are_refused_unless_forced(sample_path, tmp_path, monkeypatch):
    from lmf_multitask.data.sample import write_sample

    data = write_sample(tmp_path / "data.pkl")
    config = settings(data, tmp_path / "run")
    crash_after(monkeypatch, config, 2)
    origin = json.loads((tmp_path / "run/origin.json").read_text())
    write_sample(data, seed=1)
    with pytest.raises(RunError, match=rf"cannot resume: data changed from {origin['data']} to \w+\. Add --force"):
        train(config, resume=True)
    write_sample(data)
    (tmp_path / "run/origin.json").write_text(json.dumps({**origin, "paddle": "2.6.2"}))
    with pytest.raises(RunError, match=r"cannot resume: paddle changed from 2\.6\.2 to 3\."):
        train(config, resume=True)
    (tmp_path / "run/origin.json").unlink()
    with pytest.raises(RunError, match="origin.json"):
        train(config, resume=True)
    config.training.learning_rate = 0.5
    with pytest.raises(RunError, match=r"cannot resume: training\.learning_rate changed from 0\.001 to 0\.5"):
        train(config, resume=True, force=True)
    config.training.learning_rate = 0.001
    metrics = train(config, resume=True, force=True)
    assert metrics["split"] == "test"


def test_two_processes_on_one_directory(sample_path, tmp_path):
    (tmp_path / "run").mkdir()
    holder = os.open(tmp_path / "run", os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="must be written by one process at a time, but another"):
            train(settings(sample_path, tmp_path / "run"))
    finally:
        os.close(holder)
    assert list((tmp_path / "run").iterdir()) == []
    train(settings(sample_path, tmp_path / "run", epochs=1))


# -- stopped within an epoch


def stopped(monkeypatch, config, *steps, resume=False):
    """Runs until these steps, in which a stop is requested."""
    asked = LMFModule.on_train_batch_end

    def on_train_batch_end(self, step):
        asked(self, step)
        if step in steps:
            self.trainer.stop(Crash())

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(LMFModule, "on_train_batch_end", on_train_batch_end)
        train(config, resume=resume)


def checkpoints(config):
    return sorted(int(path.name.split("-")[1]) for path in Path(config.output_dir, "checkpoints").iterdir())


@pytest.mark.parametrize("steps", [[1], [3, 4, 13], [5], [27, 29], [30]])  # five per epoch, thirty in all
def test_a_stop_waits_for_its_step_to_be_saved_and_is_resumed_to_the_same_bits(
    wanted, sample_path, tmp_path, monkeypatch, steps
):
    config = settings(sample_path, tmp_path / "run")
    for number, step in enumerate(steps):
        stopped(monkeypatch, config, step, resume=number > 0)
        assert checkpoints(config)[-1] == step
    train(config, resume=True)
    assert bits(tmp_path / "run") == wanted


def test_with_learned_weights_of_the_tasks_and_a_schedule(sample_path, tmp_path, monkeypatch):
    changes = {"task_weighting": "uncertainty", "ema_epochs": None, "schedule": "cosine", "epochs": 3}
    train(settings(sample_path, tmp_path / "whole", **changes))
    config = settings(sample_path, tmp_path / "run", **changes)
    stopped(monkeypatch, config, 8)
    stopped(monkeypatch, config, 14, resume=True)
    train(config, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_the_second_request_stops_at_once(sample_path, tmp_path, monkeypatch):
    config = settings(sample_path, tmp_path / "run")

    def impatient(self, batch):
        self.trainer.stop(Crash())
        self.trainer.stop(Crash())

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(LMFModule, "validation_step", impatient)
        train(config)
    assert checkpoints(config) == []


def test_lmf_paddles_order_stops_at_once_and_is_resumed_from_the_epoch_before(sample_path, tmp_path, monkeypatch):
    """Its row order depends on the random states at the beginning of the epoch."""
    config = settings(sample_path, tmp_path / "run", "lmf_paddle")
    stopped(monkeypatch, config, 7)
    assert checkpoints(config) == [5]


# -- real signals, real limits


def start(config, tmp_path, *options, **more):
    path = tmp_path / "settings.yaml"
    path.write_text(config.to_yaml())
    command = [sys.executable, "-m", "lmf_multitask.train", "--config", path, "--no_report", *options]
    # children of a shell's background job ignore Ctrl-C
    with_ctrl_c = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **more}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **with_ctrl_c)


def wait_for_epoch(process):
    for line in process.stderr:
        if line.startswith("epoch"):
            return
    pytest.fail("the training ended before its first epoch")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_with_their_status_and_a_hint_to_resume(sample_path, tmp_path, number, status):
    config = settings(sample_path, tmp_path / "run", epochs=5000)
    process = start(config, tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        wait_for_epoch(process)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status
    saved = re.search(r"^saved after step (\d) of 5 of epoch (\d+)$", said, re.MULTILINE)
    step = 5 * (int(saved[2]) - 1) + int(saved[1])
    assert (tmp_path / f"run/checkpoints/checkpoint-{step}/manifest.json").exists()
    assert f"stopped; finished work is saved. To resume, repeat the command with --resume: {tmp_path / 'run'}" in said
    assert "Traceback" not in said


def test_a_full_disk(sample_path, tmp_path):
    """Simulated by a limit of file sizes below that of the optimiser's state."""
    limit = 200_000
    config = settings(sample_path, tmp_path / "run")
    process = start(config, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith("error: ")
    assert "File too large" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    train(config, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["seeded", "lmf_paddle"])
def test_killed_at_random_moments(sample_path, tmp_path, order):
    """SIGKILL, fifteen times per mode: in steps, between epochs, while saving."""
    config = settings(sample_path, tmp_path / "whole", order, epochs=150, patience=None)
    process = start(config, tmp_path)
    process.communicate(timeout=300)
    assert process.returncode == 0
    config.output_dir = str(tmp_path / "run")
    moments = random.Random(7)
    kills = 0
    while kills < 15:
        process = start(config, tmp_path, "--resume")
        wait_for_epoch(process)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert kills == 15, "it ended too early: raise the number of epochs"
    process = start(config, tmp_path, "--resume")
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
