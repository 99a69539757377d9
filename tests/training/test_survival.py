"""A training that is stopped, killed or damaged is resumed to the same bits, or refused with the reason."""

import fcntl
import json
import os
import random
import re
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
from lmf_multitask.training.checkpoints import last_complete
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


def crash_after(monkeypatch, config, epoch, **options):
    """Runs until the line of that epoch is shown, which is before its checkpoint is written."""

    def line(row, *others):
        if row["epoch"] == epoch:
            raise Crash
        return ""

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(experiment, "epoch_line", line)
        train(config, **options)


@pytest.fixture(scope="module")
def wanted(sample_path, tmp_path_factory):
    """The result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("wanted") / "whole"
    train(settings(sample_path, folder))
    return bits(folder)


def test_crashes_before_checkpoints_in_lmf_paddles_order(sample_path, tmp_path, monkeypatch):
    """In the seeded order: test_experiment."""
    config = settings(sample_path, tmp_path / "whole", "lmf_paddle")
    train(config)
    config.output_dir = str(tmp_path / "run")
    for epoch in (1, 4, 6):
        crash_after(monkeypatch, config, epoch, resume=True)
        assert not Run(tmp_path / "run").is_complete()
    train(config, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_crash_while_writing_leaves_the_checkpoint_before(wanted, sample_path, tmp_path, monkeypatch):
    from lmf_multitask.training import checkpoints as module

    config = settings(sample_path, tmp_path / "run")
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


def test_damaged_checkpoints_are_named_and_ignored(wanted, sample_path, tmp_path, monkeypatch, caplog):
    config = settings(sample_path, tmp_path / "run")
    crash_after(monkeypatch, config, 4)
    whole, newest = tmp_path / "whole", tmp_path / "run/checkpoints/checkpoint-15"
    shutil.copytree(newest, whole)
    for do, problem in DAMAGES.values():
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
        do(newest)
        assert last_complete(newest.parent).name == "checkpoint-10"
        assert f"{newest}: must be an undamaged checkpoint, but {problem}" in caplog.text
    train(config, resume=True)
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

    data = write_sample(tmp_path / "data.pkl", "tiny")
    config = settings(data, tmp_path / "run")
    crash_after(monkeypatch, config, 2)
    origin = json.loads((tmp_path / "run/origin.json").read_text())
    write_sample(data, "tiny", seed=1)
    with pytest.raises(RunError, match=rf"cannot resume: data changed from {origin['data']} to \w+\. Add --force"):
        train(config, resume=True)
    write_sample(data, "tiny")
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


def test_a_stop_waits_for_its_step_to_be_saved_and_is_resumed_to_the_same_bits(
    wanted, sample_path, tmp_path, monkeypatch
):
    config = settings(sample_path, tmp_path / "run")
    for number, step in enumerate([1, 3, 4, 5, 13, 27, 29, 30]):  # five per epoch, thirty in all
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


SERVER = """
import json, os, resource, signal, sys
os.fsync = lambda handle: None
from lmf_multitask import runtime, train
runtime.prepare_process()
import lmf_multitask.pipeline.experiment  # what takes long, once
signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a shell's background job ignore Ctrl-C
for line in sys.stdin:
    arguments, output, limit = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        status = train.run(train.main, arguments)
        print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), flush=True)
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server():
    """Starts trainings in processes of their own that need not import anything."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


class Training:
    """`lmf train` in a process of its own."""

    def __init__(self, server, config, tmp_path, *options, limit=None):
        (tmp_path / "settings.yaml").write_text(config.to_yaml())
        self._server, self._output = server, tmp_path / "output"
        arguments = ["--config", str(tmp_path / "settings.yaml"), "--no_report", *options]
        server.stdin.write(json.dumps([arguments, str(self._output), limit]) + "\n")
        server.stdin.flush()
        self._pid = int(server.stdout.readline())

    def send(self, number):
        os.kill(self._pid, number)

    def wait_for_epoch(self):
        while "\nepoch" not in self.said():
            assert Path(f"/proc/{self._pid}").exists(), self.said()
            time.sleep(0.01)

    def said(self):
        return self._output.read_text() if self._output.exists() else ""

    def status(self):
        """Waits for its end."""
        return int(self._server.stdout.readline())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_it_with_their_status_and_a_hint_to_resume(server, sample_path, tmp_path, number, status):
    config = settings(sample_path, tmp_path / "run", epochs=5000)
    training = Training(server, config, tmp_path)
    training.wait_for_epoch()
    training.send(number)
    assert training.status() == status
    said = training.said()
    saved = re.search(r"^saved after step (\d) of 5 of epoch (\d+)$", said, re.MULTILINE)
    step = 5 * (int(saved[2]) - 1) + int(saved[1])
    assert (tmp_path / f"run/checkpoints/checkpoint-{step}/manifest.json").exists()
    assert f"stopped; finished work is saved. To resume, repeat the command with --resume: {tmp_path / 'run'}" in said
    assert "Traceback" not in said


def test_without_a_report_nothing_is_loaded_for_it_nor_all_of_paddlenlp(server, sample_path, tmp_path):
    """PaddleNLP's own `__init__` loads its language models and keeps its name among the modules; its Trainer alone does not."""
    training = Training(server, settings(sample_path, tmp_path / "run", epochs=1), tmp_path)
    assert training.status() == 0
    loaded = training.said().splitlines()[-1].split()
    assert loaded[0] == "loaded:"
    assert {"paddle", "lmf_multitask"} < {*loaded}
    assert {"paddlenlp", "transformers", "torch", "matplotlib", "jinja2", "onnxruntime", "optuna"} & {*loaded} == set()


def test_a_full_disk(server, sample_path, tmp_path):
    """Simulated by a limit of file sizes below that of the optimiser's state."""
    config = settings(sample_path, tmp_path / "run")
    training = Training(server, config, tmp_path, limit=200_000)
    assert training.status() == 2
    last = training.said().splitlines()[-2]
    assert last.startswith("error: ")
    assert "File too large" in last
    assert "Traceback" not in training.said()
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    train(config, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["seeded", "lmf_paddle"])
def test_killed_at_random_moments(server, sample_path, tmp_path, order):
    """SIGKILL, fifteen times per mode: in steps, between epochs, while saving."""
    epochs = 120
    config = settings(sample_path, tmp_path / "whole", order, epochs=epochs, patience=None)
    start = time.monotonic()
    assert Training(server, config, tmp_path).status() == 0
    epoch = (time.monotonic() - start) / epochs
    config.output_dir = str(tmp_path / "run")
    moments = random.Random(7)
    for _ in range(15):
        training = Training(server, config, tmp_path, "--resume")
        training.wait_for_epoch()
        time.sleep(moments.uniform(0, 2 * epoch))  # of this machine; 15 times two or three epochs are not 120
        training.send(signal.SIGKILL)
        assert training.status() == -signal.SIGKILL
    assert Training(server, config, tmp_path, "--resume").status() == 0
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
