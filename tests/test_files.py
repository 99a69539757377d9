"""Files from outside are opened in one way; what is written is complete or absent."""

import ast
import gc
import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import lmf_multitask
from lmf_multitask.errors import DataError, RunError
from lmf_multitask.files import (
    atomic_folder,
    atomic_write,
    damage,
    open_regular,
    read_json,
    read_text,
    remove_leftovers,
    sha256_of,
    write_json,
    write_manifest,
    write_text,
)


class Broken(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- reading


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, told in (
        ("pipe", "must be a regular file, but is a pipe or a device. Write its content to a file first."),
        ("link", "must be a regular file, but is a pipe or a device. Write its content to a file first."),
        ("nowhere", "must be a readable file, but No such file or directory. Check the path."),
        ("", "must be a file, but is a folder. Check the path."),
        ("a\0b", "must be a readable file, but embedded null byte. Check the path."),
    ):
        with pytest.raises(RunError) as caught:
            open_regular(f"{tmp_path}/{name}", RunError)
        assert str(caught.value) == f"{tmp_path}/{name}: {told}".replace("\0", "\\x00")


def test_an_open_file_closes_itself(tmp_path):
    """Without a ResourceWarning, also in a cycle."""
    (tmp_path / "a").write_text("x")
    handles = len(os.listdir("/proc/self/fd"))
    cycle = [open_regular(tmp_path / "a")]
    cycle.append(cycle)
    open_regular(tmp_path / "a").read(1)
    del cycle
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= handles  # others may have gone meanwhile


def test_text_of_bounded_size(tmp_path):
    path = tmp_path / "a"
    path.write_text("äb")
    assert read_text(path, 3) == "äb"
    with pytest.raises(DataError, match="a: must have at most 2 bytes, but has more"):
        read_text(path, 2)
    path.write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="a: must be UTF-8 text, but is not at byte 2"):
        read_text(path)
    with pytest.raises(DataError, match="must have at most 100 bytes"):
        read_text("/proc/self/maps", 100)  # its size is said to be zero


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "nan"])
def test_what_is_not_json(tmp_path, content):
    (tmp_path / "a").write_text(content)
    with pytest.raises(RunError, match="a: must be JSON, but") as caught:
        read_json(tmp_path / "a", error=RunError)
    assert "\n" not in str(caught.value)


def test_json_and_hashes(tmp_path):
    write_json(tmp_path / "a", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "a") == {"x": [1, 2.5, None]}
    expected = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert sha256_of(tmp_path / "a") == expected
    with open_regular(tmp_path / "a") as file:
        assert sha256_of(file) == expected
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert sha256_of(tmp_path / "a") == expected


def test_a_folder_is_compared_with_its_manifest(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    write_manifest(tmp_path)
    assert damage(tmp_path) is None
    (tmp_path / "c").write_text("3")
    assert damage(tmp_path) == "c is not in the manifest"
    (tmp_path / "c").unlink()
    (tmp_path / "a").write_text("4")
    assert damage(tmp_path) == "a differs"
    (tmp_path / "a").unlink()
    assert damage(tmp_path) == "a is missing"
    (tmp_path / "manifest.json").write_text("{")
    assert damage(tmp_path).startswith("manifest.json cannot be read (")


PACKAGE = Path(lmf_multitask.__file__).parent
OPENING = re.compile(
    r"""(^|\.)(open|read_text|read_bytes|fromfile|loadtxt|genfromtxt|memmap|open_memmap|safe_open|load_file|from_file|read_csv
    |from_csv|from_json|from_parquet|load_from_disk|load_dataset|read_table|ParquetFile|ParquetDataset|dataset|memory_map|OSFile
    |open_file|open_stream|input_stream|File|ZipFile|TarFile|InferenceSession|read_parquet|read_pickle|create_study|load_study
    |connect|exec_module|spec_from_file_location|FileIO|mmap|iterparse|parse|imread|runpy|run_path|Config)$|\.load$""",
    re.VERBOSE,
)
"""Names of calls that open a file by its path, in the standard library and in the packages that we use."""

ALLOWED = {
    # what is opened there is not a file from outside
    "files.py": {
        "os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)",  # open_regular
        "os.open(path, os.O_RDONLY)",
        "os.open(temporary, os.O_RDONLY)",
        "os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)",
    },
    "command_line.py": {"os.open(os.devnull, os.O_WRONLY)"},
    "pipeline/runs.py": {"os.open(self.folder, os.O_RDONLY)"},  # a lock on the folder
    "runtime.py": {"info.read_text(errors='replace')", "os.open(os.devnull, os.O_RDWR)"},  # /proc
    "installation.py": {"Path(path).read_text(errors='replace')"},  # /proc and /sys
    "strict_yaml.py": {"yaml.parse(text, _Loader)", "yaml.load(text, _Loader)"},
    "plugins.py": {"importlib.util.spec_from_file_location(name, file)", "spec.loader.exec_module(module)"},
    "evaluation/page.py": {
        "(TEMPLATES / 'page.js').read_text(encoding='utf-8')",
        "(TEMPLATES / 'page.css').read_text(encoding='utf-8')",
    },
    # the content has been read and checked before
    "training/checkpoints.py": {"safetensors.numpy.load(content)"},
    "deployment/sessions.py": {
        "onnxruntime.InferenceSession(content, options, providers=[*providers, 'CPUExecutionProvider'])",
        "inference.Config(str(scratch / 'program.json'), str(scratch / 'weights'))",
        "open('/proc/self/statm', 'rb', buffering=0)",
    },
    # opened by files.open_regular before
    "models/convert.py": {"zipfile.ZipFile(file)", "np.load(file, allow_pickle=False)"},
    "data/sources/npz.py": {"zipfile.ZipFile(candidate.file)", "zipfile.ZipFile(file)", "zipfile.ZipFile(self.file)"},
    "data/sources/parquet.py": {
        "pq.ParquetFile(file)",
        "pq.ParquetFile(file, read_dictionary=repeated, buffer_size=1 << 20, pre_buffer=False)",
    },
    "data/sources/arrow_files.py": {"pa.ipc.open_stream(source)", "pa.memory_map(f'/dev/fd/{file.fileno()}')"},
    "data/sources/hdf5.py": {"h5py.File(self._open(path), 'r')"},
    "data/text_table.py": {
        "pa.memory_map(f'/dev/fd/{self.file.fileno()}')",  # a temporary file of ours
        "pa.ipc.open_stream(pa.memory_map(f'/dev/fd/{self.file.fileno()}'))",
    },
    "data/sources/saved.py": {
        "datasets.Dataset.from_file(str(folder / name))",
        "pa.memory_map(f'/dev/fd/{content.fileno()}')",
    },
    "searching/study.py": {"optuna.create_study"},
    # written by ourselves, and compared with its hash
    "data/cache.py": {
        "datasets.Dataset.from_file(str(folder / f'{split}.arrow'))",
        "np.memmap(path, np.float32, 'r', shape=(len(ids), *survey.shapes[name]))",
    },
    "deployment/writing.py": {"program.read_text(encoding='utf-8')"},
}
MEMBERS = re.compile(r"^(self\._)?archive\.open\(")  # of an open zip archive
OURS = re.compile(
    r"^(Calibration\.(load|from_json)|cls\.from_json|read_text|read_bytes|read_pickle|load_file|uvicorn\.Config)\("
)


def test_files_from_outside_are_opened_in_one_way():
    """Every call in the package that opens a file by its path; whoever adds one states here why it is safe."""
    for path in PACKAGE.rglob("*.py"):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and OPENING.search(ast.unparse(node.func)):
                modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
                writes = ast.unparse(node.func).endswith("open") and any(
                    mode in ("w", "wb", "a", "x") for mode in modes
                )
                call = ast.unparse(node)
                if not (writes or MEMBERS.match(call) or OURS.match(call)):
                    found.add(ast.unparse(node.func) if call.startswith("optuna.create_study(storage=") else call)
        assert found <= ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set()), path


def test_nothing_is_unpickled():
    """Pickles are read by `safe_pickle` alone, and no name of the package imports or calls an unpickler."""
    forbidden = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "torch"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("paddle.load", "eval", "exec", "paddle.jit.load"), path


# -- writing


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(Broken), atomic_write(tmp_path / "file"):
        raise Broken
    assert names(tmp_path) == []


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "a", "ä\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa4\n"


def test_files_have_the_rights_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "inside").write_text("x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "folder" / "inside").stat().st_mode) == 0o640


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with atomic_folder(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text("1")
        assert not path.exists()
    assert (path / "deep" / "a").read_text() == "1"
    assert names(path.parent) == ["folder"]


def test_a_folder_replaces_the_old_one(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("")
    with atomic_folder(path) as folder:
        (folder / "new").write_text("")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_folder(tmp_path, error):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(error), atomic_folder(path) as folder:
        (folder / "new").write_text("")
        raise error
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_a_crash_left_aside_is_cleared(tmp_path):
    (tmp_path / ".folder.old").mkdir()
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("")
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    """The second of the two renames fails: the old folder comes back."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1")
    rename = type(path).rename

    def fails(self, target):
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fails)
    with pytest.raises(OSError, match="No space left"), atomic_folder(path) as folder:
        (folder / "new").write_text("")
    monkeypatch.undo()
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["old"]


KILLED = """
import os, signal, sys
from pathlib import Path
from lmf_multitask.files import atomic_folder, atomic_write
with atomic_folder(Path("exported")) as folder, atomic_write(Path("sample[1].pkl")) as file:
    (folder / "model.json").write_text("{")
    file.write(b"half")
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("ready", flush=True)
    input()
"""


def test_leftovers_of_a_killed_process_are_removed_by_the_next_that_writes_there(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, "kill"], cwd=tmp_path)
    foreign = tmp_path / ".exported.notes.part"
    foreign.touch()
    assert len(list(tmp_path.glob(".*.part"))) == 3
    write_text(tmp_path / "sample[1].pkl", "whole")
    with atomic_folder(tmp_path / "exported"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [foreign.name, "exported", "sample[1].pkl"]


def test_temporary_files_of_a_living_process_are_left_alone(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", KILLED, "live"], cwd=tmp_path, text=True, **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        write_text(tmp_path / "sample[1].pkl", "ours")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(".*.part"))) == 2
        other.communicate("\n")
    assert (tmp_path / "sample[1].pkl").read_text() == "half"
    assert (tmp_path / "exported" / "model.json").read_text() == "{"
    assert len(list(tmp_path.iterdir())) == 2
