"""Nothing is written outside the output directory, through a link, or over another run; and what the disk refuses is said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_corpus
from reference_network import random_parameters
from training.test_survival import bits, crash_after, settings, train

from lmf_multitask.errors import RunError
from lmf_multitask.files import atomic_folder, atomic_write, damage, remove_leftovers, write_manifest, write_text
from lmf_multitask.pipeline import experiment
from lmf_multitask.pipeline.conversion import convert_run
from lmf_multitask.pipeline.layout import CONTENTS
from lmf_multitask.pipeline.reporting import evaluate_run
from lmf_multitask.pipeline.runs import Run, runs_in


@pytest.fixture
def outside(tmp_path):
    """A folder that no command may touch, and what was in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.txt").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["precious.txt"]
    assert (folder / "precious.txt").read_text() == "precious"


@pytest.fixture
def checkpoint(tmp_path):
    np.savez(tmp_path / "happy.npz", **random_parameters())
    return tmp_path / "happy.npz"


# -- links


def test_a_run_that_is_overwritten_replaces_links_and_leaves_their_targets(sample_path, tmp_path, outside):
    run = tmp_path / "run"
    run.mkdir()
    config = settings(sample_path, run, epochs=1)
    (run / "config.yaml").write_text(config.to_yaml())
    links = [run / name for name in CONTENTS if name != "config.yaml"]
    for link in links:
        folder = link.name in ("model", "checkpoints", "visualdl", "plots")
        link.symlink_to(outside if folder else outside / "precious.txt")
    train(config, overwrite=True)
    assert not [link for link in links if link.is_symlink()]
    assert Run(run).is_complete()


@pytest.mark.parametrize("name", ["checkpoints", "train.log", "model", "history.csv"])
def test_a_run_is_not_resumed_through_a_link(sample_path, tmp_path, monkeypatch, outside, name):
    config = settings(sample_path, tmp_path / "run")
    crash_after(monkeypatch, config, 2)
    place = tmp_path / "run" / name
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(outside if name in ("model", "checkpoints") else outside / "precious.txt")
    with pytest.raises(
        RunError, match=f"{name}: must not be a symbolic link, but is one. Replace it by what it points to."
    ):
        train(config, resume=True)


def test_a_run_directory_that_is_itself_a_link_is_the_users_choice(sample_path, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    train(settings(sample_path, tmp_path / "run", epochs=1))
    assert (tmp_path / "disk/metrics.json").is_file()


def test_convert_replaces_a_linked_model(tmp_path, checkpoint, outside):
    convert_run(checkpoint, "happy", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    (tmp_path / "run/model").symlink_to(outside)
    convert_run(checkpoint, "happy", tmp_path / "run", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "model"]
    assert Run(tmp_path / "run").load_model().task_names == ["happy"]


def test_evaluate_replaces_a_linked_table_and_refuses_linked_runs(tmp_path, checkpoint, write_pickle, outside):
    data = str(write_pickle(make_corpus()))
    run = Run(tmp_path / "parent/happy")
    convert_run(checkpoint, "happy", run.folder, data)
    (run.folder / "metrics_test.json").symlink_to(outside / "precious.txt")
    evaluate_run(run.folder)
    assert not (run.folder / "metrics_test.json").is_symlink()
    shutil.copytree(run.folder, tmp_path / "elsewhere")
    (tmp_path / "parent/sad").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="parent/sad: must not be a symbolic link, but is one"):
        runs_in(tmp_path / "parent")


def test_files_and_folders_take_the_place_of_links(tmp_path, outside):
    for name, target in (("file", outside / "precious.txt"), ("dangling", tmp_path / "nowhere")):
        (tmp_path / name).symlink_to(target)
        write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"
        assert not (tmp_path / name).is_symlink()
    for name, target in (("folder", outside), ("loose", tmp_path / "nowhere"), ("plain", outside / "precious.txt")):
        (tmp_path / name).symlink_to(target)
        with atomic_folder(tmp_path / name) as folder:
            (folder / "new").touch()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]
    assert not (tmp_path / "nowhere").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_leftovers_that_are_links_are_removed_and_not_followed(tmp_path, outside):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.model.x.part").symlink_to(outside)
    (tmp_path / "run/.model.old").symlink_to(outside)
    (tmp_path / "run/.metrics.json.y.part").write_text("half")
    (tmp_path / "run/.checkpoint.z.part").mkdir()
    remove_leftovers(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


# -- other runs


@pytest.mark.parametrize("content", [["thesis.txt"], ["thesis.txt", "metrics.json"], ["model"]])
@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
def test_a_foreign_folder_is_left_alone(sample_path, tmp_path, content, how):
    (tmp_path / "foreign").mkdir()
    for name in content:
        (tmp_path / "foreign" / name).write_text("mine")
    with pytest.raises(RunError, match="must be empty or a run directory, but holds"):
        train(settings(sample_path, tmp_path / "foreign", epochs=1), **how)
    assert sorted(path.name for path in (tmp_path / "foreign").iterdir()) == sorted(content)


def test_overwriting_a_run_leaves_what_is_not_the_runs(sample_path, tmp_path):
    config = settings(sample_path, tmp_path / "run", epochs=1)
    train(config)
    (tmp_path / "run/notes.txt").write_text("mine")
    train(config, overwrite=True)
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


# -- what the disk refuses


def in_read_only_mount(folder, code, before=""):
    """Runs Python code where `folder` is mounted read-only (permissions do not bind root); skips where that is not allowed."""
    return in_private_mount(f"mount --bind {folder} {folder} && {before} mount -o remount,ro,bind {folder}", code)


def in_private_mount(prepare, code):
    """Runs a shell command and then Python code, with mounts that nobody else sees; skips where that is not allowed."""
    script = f'{prepare} && exec {sys.executable} -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env={**os.environ, "CODE": code}, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    if done.returncode != 0 and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no private mounts here: {done.stderr.strip()[:100]}")
    return done


COMMAND = "import sys; from lmf_multitask.__main__ import main; sys.argv = ['lmf', *{words}]; sys.exit(main())"


READ_ONLY = {
    "train": "train --data_path data.pkl --output_dir read-only/new",
    "convert": "convert happy.npz --emotion happy --output_dir read-only/new",
    "evaluate": "evaluate read-only/run",
    "data": "data sample read-only/sample.pkl",
    "search": "search --config search.yaml --trials 1 --data_path data.pkl --output_dir read-only/new",
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("name", READ_ONLY)
def test_read_only_folders(tmp_path, monkeypatch, checkpoint, write_pickle, name):
    data = write_pickle(make_corpus((24, 12, 16)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "read-only"
    place.mkdir()
    convert_run(checkpoint, "happy", place / "run", str(data))
    (tmp_path / "search.yaml").write_text("space: {model.fusion.rank: {choices: [1, 2]}}")
    before = sorted(str(path) for path in place.rglob("*"))
    done = in_read_only_mount(place, COMMAND.format(words=READ_ONLY[name].split()))
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 2, done.stderr
    assert lines[-1].startswith("error: ")
    assert "read-only" in lines[-1].partition("Read-only")[0], lines
    assert lines[-1].endswith("Read-only file system.")
    assert "Traceback" not in done.stderr
    assert sorted(str(path) for path in place.rglob("*")) == before


FULL = {
    "train": (
        "full/new/",
        "train --data_path data.pkl --training.batch_size 8 --output_dir full/new",
    ),
    "train, cache": ("full/lmf_multitask/", "train --data_path data.pkl --data.cache_dir full --output_dir new"),
    "evaluate": ("full/new/", "evaluate run --output_dir full/new"),
    "export": ("full/", "export run --output_dir full/new"),
    "export, temporary files": ("full/", "export run --output_dir new"),
    "infer": ("full/new/", "infer run --data_path data.pkl --output_dir full/new"),
    "convert": ("full/new/", "convert happy.npz --emotion happy --output_dir full/new"),
    "data": ("full/new.pkl", "data sample full/new.pkl"),
    "data convert": ("full/new", "data convert data.pkl full/new"),
    "report": ("full/new/", "report run --output_dir full/new"),
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_full_disks(tmp_path, monkeypatch, checkpoint, write_pickle):
    """One line with the path and status 2; what is left behind is empty, or a run that can be resumed."""
    data = write_pickle(make_corpus((24, 12, 16)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    convert_run(checkpoint, "happy", tmp_path / "run", str(data))
    (tmp_path / "full").mkdir()
    code = f"""
import contextlib, importlib, io, json, os, subprocess, sys, tempfile
from pathlib import Path
from lmf_multitask.__main__ import COMMANDS
from lmf_multitask.command_line import run
found = {{}}
for name, (_, words) in {FULL!r}.items():
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "full"], check=True)
    tempfile.tempdir = str(Path("full").absolute()) if "temporary" in name else None
    command, *rest = words.split()
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = run(importlib.import_module(COMMANDS[command][0]).main, rest)
    left = [str(path) for path in Path("full").rglob("*") if path.is_file()] + [str(one) for one in Path(".").glob("new*")]
    found[name] = status, (said.getvalue().splitlines() or ['nothing'])[-1], left
    subprocess.run(["umount", "full"], check=True)
    subprocess.run(["rm", "-rf", "new"], check=True)
print(json.dumps(found))
"""
    done = in_private_mount("mount -t tmpfs tmpfs full && umount full", code)
    assert done.returncode == 0, done.stderr
    whole = {"metrics_test.json"}  # of evaluate, without the predictions
    for name, (status, line, left) in json.loads(done.stdout).items():
        assert status == 2, (name, line)
        assert line.startswith("error: "), (name, line)
        assert line.endswith(": No space left on device."), (name, line)
        assert FULL[name][0] in line, (name, line)
        kept = {"train": {"config.yaml", "origin.json", "train.log"}, "convert": {"config.yaml"}}
        assert {Path(one).name for one in left if not one.endswith(".lock")} <= kept.get(name, whole), (name, left)


HOMELESS = {
    "train": "train --data_path data.pkl --training.epochs 1 --output_dir new",
    "export": "export run --output_dir exported",
    "infer": "infer run --data_path data.pkl --output_dir out",
    "doctor": "doctor",
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_home_that_cannot_be_written(tmp_path, monkeypatch, checkpoint, write_pickle):
    """Caches go to a temporary folder, which is said and removed."""
    data = write_pickle(make_corpus((24, 12, 16)))
    convert_run(checkpoint, "happy", tmp_path / "run", str(data))
    (tmp_path / "home").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    for name in ("HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "PPNLP_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    code = f"""
import subprocess, sys
for words in {list(HOMELESS.values())!r}:
    subprocess.run([sys.executable, "-m", "lmf_multitask", *words.split()], check=True, stdout=sys.stderr)
"""
    done = in_read_only_mount(tmp_path / "home", code)
    assert done.returncode == 0, done.stderr
    said = done.stderr.count(f"warning: {tmp_path / 'home'} cannot be written: caches are in a temporary folder")
    assert said == len(HOMELESS), done.stderr
    assert "FAIL" not in done.stderr
    assert (tmp_path / "exported/lmf_model.json").is_file()
    assert list((tmp_path / "temporary").glob("lmf-*")) == []


@pytest.mark.parametrize("order", ["seeded", "lmf_paddle"])
def test_a_folder_that_becomes_read_only_keeps_its_last_checkpoint(sample_path, tmp_path, monkeypatch, order):
    """The disk refuses the fourth checkpoint; the run goes on from the third to the same bits."""
    train(settings(sample_path, tmp_path / "whole", order))
    config = settings(sample_path, tmp_path / "run", order)
    from lmf_multitask.training import checkpoints

    def read_only(path):
        if path.name == "checkpoint-20":
            raise OSError(30, "Read-only file system", str(path))
        return atomic_folder(path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Read-only file system"):
        patch.setattr(checkpoints, "atomic_folder", read_only)
        train(config)
    train(config, resume=True)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_folder_that_is_removed_meanwhile(sample_path, tmp_path, monkeypatch):
    """It is not made again behind the user's back half-filled: the command ends and says which folder."""
    config = settings(sample_path, tmp_path / "run")

    def remove(row, *others):
        if row["epoch"] == 2:
            shutil.rmtree(tmp_path / "run")
        return ""

    monkeypatch.setattr(experiment, "epoch_line", remove)
    with pytest.raises(RunError, match=f"{tmp_path / 'run'}: must not be removed during training, but is gone"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), atomic_write(tmp_path / "file") as file:
        file.write(b"half")
        raise RuntimeError("stop")
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[1]", "[" * 100_000, "{", "null", "{}"])
def test_damaged_manifests(tmp_path, content):
    (tmp_path / "file").touch()
    (tmp_path / "manifest.json").write_text(content)
    assert damage(tmp_path)
    write_manifest(tmp_path)
    assert damage(tmp_path) is None
