"""Checkpoints are read with checks: what is not as it was written is refused in one line, and nothing is unpickled."""

import json
import os
import pickle
import random
import shutil

import numpy as np
import paddle
import pytest
import safetensors.numpy
from training.test_trainer import Stop, StopAt, bits, build, names, scripted, uninterrupted

from lmf_multitask.errors import RunError
from lmf_multitask.files import write_manifest
from lmf_multitask.training import checkpoints
from lmf_multitask.training.checkpoints import RandomStates


def draws():
    return (
        *(random.random(), random.gauss(0, 1), *np.random.rand(3), *np.random.randn(3)),
        *(paddle.rand([4]).tolist(), paddle.nn.functional.dropout(paddle.ones([50])).tolist()),
    )


def seed(number):
    random.seed(number)
    np.random.seed(number)
    paddle.seed(number)


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_random_states_are_restored(number):
    seed(number)
    draws()
    random.gauss(0, 1)  # each has drawn one of a pair of normal numbers and keeps the other
    np.random.randn()
    states = RandomStates.current()
    wanted = draws(), draws()
    seed(5)
    states.restore()
    assert (draws(), draws()) == wanted


def test_large_seeds_of_paddle_are_restored():
    paddle.seed(2**63 + 11)
    states = RandomStates.current()
    paddle.seed(1)
    states.restore()
    assert paddle.get_rng_state()[0].current_seed() == 2**63 + 11


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A training that was stopped in its third epoch; its last checkpoint is checkpoint-8."""
    folder = tmp_path_factory.mktemp("broken")
    with pytest.raises(Stop):
        build(folder, callbacks=[StopAt("on_step_end", 9)]).fit()
    return folder


@pytest.fixture
def folder(broken, tmp_path):
    shutil.copytree(broken, tmp_path / "run")
    return tmp_path / "run"


def refusal(folder, **settings):
    """What a resumed training says, after the manifest was made to agree with what is there."""
    write_manifest(folder / "checkpoint-8")
    trainer = build(folder, **settings)
    before = bits(trainer)
    with pytest.raises(RunError) as caught:
        trainer.fit(resume=True)
    assert "\n" not in str(caught.value)
    assert "Stored" not in str(caught.value)
    assert bits(trainer) == before
    return str(caught.value)


def test_nothing_is_unpickled(folder, tmp_path, monkeypatch):
    """Pickles under the names that PaddleNLP would read are not even opened."""

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    def forbidden(*arguments, **named):
        raise AssertionError("unpickled")

    weights, history = uninterrupted(tmp_path / "whole")
    for checkpoint in folder.iterdir():
        for name in (
            "model_state.pdparams",
            "optimizer.pdopt",
            "scheduler.pdparams",
            "rng_state.pth",
            "training_args.bin",
        ):
            (checkpoint / name).write_bytes(pickle.dumps(Code()))
        write_manifest(checkpoint)
    with paddle.utils.unique_name.guard(), monkeypatch.context() as patch:
        patch.setattr(paddle, "load", forbidden)
        patch.setattr(paddle.framework.io, "load", forbidden)
        patch.setattr(pickle, "load", forbidden)
        patch.setattr(pickle, "Unpickler", forbidden)
        trainer = build(folder)
        assert trainer.fit(resume=True) == history
    assert bits(trainer) == weights
    assert not (tmp_path / "executed").exists()


def change(path, key, value):
    content = json.loads(path.read_text())
    place = content
    *parents, last = key.split("/")
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[int(last) if last.isdigit() else last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "key", "value", "told"),
    [
        ("progress.json", "history", {}, "history must be as it was written, but: Input should be a valid"),
        ("progress.json", "history/0/best", "1", "history.0.best"),
        ("progress.json", "history/0/best", [1], "history.0.best"),
        ("progress.json", "epochs_without_better", -1, "epochs_without_better"),
        ("progress.json", "epochs_without_better", True, "epochs_without_better"),
        ("progress.json", "epochs_without_better", 1.5, "epochs_without_better"),
        ("progress.json", "best_checkpoint", "../checkpoint-4", "best_checkpoint"),
        ("progress.json", "best_checkpoint", "checkpoint-4\n", "best_checkpoint"),
        ("progress.json", "best_checkpoint", "checkpoint-²", "best_checkpoint"),
        ("progress.json", "logged", {"train_loss": [[1.0]]}, "logged.train_loss.0"),
        ("progress.json", "schedulers", [1], "schedulers.0"),
        ("progress.json", "random_states/0/python/7", 2**32, "random_states.0.python.7"),
        ("progress.json", "random_states/0/python/624", 625, "random_states.0.python"),
        ("progress.json", "random_states/0/numpy/624", 2**31, "random_states.0.numpy"),
        ("progress.json", "random_states/0/numpy/624", -1, "random_states.0.numpy.624"),
        ("progress.json", "random_states/0/numpy", [1, 2, 3], "random_states.0.numpy"),
        ("progress.json", "random_states/0/paddle/0/seed", 2**64, "random_states.0.paddle.0.seed"),
        ("progress.json", "random_states/0/paddle/0/engine/312", 313, "random_states.0.paddle.0.engine"),
        ("progress.json", "random_states/0/paddle/0/engine/5", "7", "random_states.0.paddle.0.engine.5"),
        ("progress.json", "more", 1, "more"),
        ("progress.json", "a\n\x1b[2J", 1, r"a\n\x1b[2J must be as it was written"),
        ("trainer_state.json", "global_step", "8", "global_step"),
        ("trainer_state.json", "best_metric", [], "best_metric"),
        # Trainer would load pickles from that folder
        ("trainer_state.json", "best_model_checkpoint", "checkpoint-4", "best_model_checkpoint"),
    ],
)
def test_every_value_is_checked(folder, file, key, value, told):
    change(folder / "checkpoint-8" / file, key, value)
    assert refusal(folder).startswith(f"{folder / 'checkpoint-8' / file}: {told}")


@pytest.mark.parametrize("content", ["", "[", "[]", "null", "{}", '{"history": []}', "[" * 100_000, "\udcff"])
def test_other_content_is_refused(folder, content):
    path = folder / "checkpoint-8/progress.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert str(path) in refusal(folder)


@pytest.mark.parametrize("key", ["history", "logged", "random_states", "best_checkpoint"])
def test_missing_values_are_named(folder, key):
    path = folder / "checkpoint-8/progress.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    assert refusal(folder).startswith(f"{path}: {key} must be as it was written, but: Field required. Delete that")


def test_the_number_of_processes_must_be_the_same(folder):
    path = folder / "checkpoint-8/progress.json"
    states = json.loads(path.read_text())["random_states"]
    change(path, "random_states", states * 2)
    assert "must be resumed with the number of processes that wrote it, 2, but there are 1" in refusal(folder)


def edit_tensors(path, edit):
    tensors = safetensors.numpy.load_file(path)
    edit(tensors)
    path.write_bytes(safetensors.numpy.save(tensors))


def remove(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("file", "edit", "name"),
    [
        ("model", remove("first.weight"), "first.weight"),
        ("model", put("first.bias", np.zeros(9, "f4")), "first.bias"),
        ("model", put("first.bias", np.zeros((8, 1), "f4")), "first.bias"),
        ("model", put("first.bias", np.zeros(8, "f8")), "first.bias"),
        ("model", put("other", np.zeros(8, "f4")), "other"),
        ("model", put("a\n\x1b[2J", np.zeros(8, "f4")), r"a\n\x1b[2J"),
        ("optimizer", remove("first.weight/moment1"), "first.weight/moment1"),
        ("optimizer", put("first.weight/moment2", np.zeros(4, "f4")), "first.weight/moment2"),
        ("optimizer", put("first.weight/other", np.zeros((4, 8), "f4")), "first.weight/other"),
        ("optimizer", put("nobody/moment1", np.zeros(4, "f4")), "nobody/moment1"),
    ],
)
def test_tensors_must_be_those_of_the_training(folder, file, edit, name):
    path = folder / f"checkpoint-8/{file}.safetensors"
    edit_tensors(path, edit)
    if file == "optimizer":
        write_manifest(folder / "checkpoint-8")
        with pytest.raises(
            RunError, match=f"must hold the tensors of this training, but {name} is missing, unknown, or"
        ):
            build(folder).fit(resume=True)
    else:
        assert f"{path}: must hold the tensors of this training, but {name} is missing, unknown, or" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 200, b"\x08" + b"\x00" * 7 + b"[       "])
def test_other_content_is_no_safetensors_file(folder, content):
    path = folder / "checkpoint-8/model.safetensors"
    path.write_bytes(content)
    assert f"{path}: must be a safetensors file, but" in refusal(folder)


def test_another_schedule_is_refused(folder):
    from training.test_trainer import Toy

    change(folder / "checkpoint-8/progress.json", "schedulers/0/other", 1)
    write_manifest(folder / "checkpoint-8")
    with pytest.raises(RunError, match="schedulers must be those of this training, but differ from them"):
        build(folder).fit(resume=True)
    change(folder / "checkpoint-8/progress.json", "schedulers", [{"last_epoch": "8", "last_lr": 0.01}])
    write_manifest(folder / "checkpoint-8")
    with pytest.raises(RunError, match="schedulers must be those of this training, but differ from them"):
        build(folder, Toy()).fit(resume=True)


# -- folders


def make(folder, *steps):
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir()


def test_checkpoints_are_sorted_by_step_and_other_names_are_left_alone(tmp_path):
    make(tmp_path, 100, 20, 3)
    for name in ("checkpoint-²", "checkpoint-", "checkpoint-1-2", "checkpoint-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").touch()
    (tmp_path / "checkpoint-8").symlink_to(tmp_path / "checkpoint-3")
    assert [path.name for path in checkpoints.checkpoints(tmp_path)] == [
        "checkpoint-3",
        "checkpoint-20",
        "checkpoint-100",
    ]


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (2, 12, [12, 16]), (2, 4, [4, 16]), (2, 16, [12, 16]), (2, None, [12, 16]), (1, 4, [4, 16]), (1, 16, [16]),
        (3, 4, [4, 12, 16]), (9, 4, [4, 8, 12, 16]), (None, 4, [4, 8, 12, 16]),
    ],
)  # fmt: skip
def test_rotation_goes_by_step(tmp_path, limit, best, kept):
    """A clock that was once ahead made the oldest checkpoint the newest file."""
    make(tmp_path, 16, 12, 8, 4)
    os.utime(tmp_path / "checkpoint-4", (4e9, 4e9))
    checkpoints.rotate(tmp_path, limit, best and tmp_path / f"checkpoint-{best}")
    assert [checkpoints.step_of(path) for path in checkpoints.checkpoints(tmp_path)] == kept


def test_an_earlier_training_in_the_folder_does_not_count(tmp_path):
    """Its later checkpoints would be taken for newer ones."""
    build(tmp_path, epochs=5).fit()
    with paddle.utils.unique_name.guard(), pytest.raises(Stop):
        build(tmp_path, epochs=5, callbacks=[StopAt("on_save", 2)]).fit()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-8"]


def test_damaged_later_checkpoints_are_removed_on_resuming(tmp_path):
    weights, history = uninterrupted(tmp_path / "whole")
    with paddle.utils.unique_name.guard():
        build(tmp_path / "run", epochs=4, compute_metrics=scripted([0.1, 0.2, 0.3, 0.4])).fit()
    (tmp_path / "run/checkpoint-16/progress.json").write_text("{}")
    with paddle.utils.unique_name.guard(), pytest.raises(Stop):
        build(tmp_path / "run", callbacks=[StopAt("on_step_end", 1)]).fit(resume=True)
    assert names(tmp_path / "run") == ["checkpoint-12"]
