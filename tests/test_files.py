"""Files from outside are opened in one way; what is written is complete or absent."""

import ast
import gc
import hashlib
import os
import stat
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
        assert str(caught.value) == f"{tmp_path}/{name}: {told}"


def test_an_open_file_closes_itself(tmp_path):
    """Without a ResourceWarning, also in a cycle."""
    (tmp_path / "a").write_text("x")
    handles = len(os.listdir("/proc/self/fd"))
    cycle = [open_regular(tmp_path / "a")]
    cycle.append(cycle)
    open_regular(tmp_path / "a").read(1)
    del cycle
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == handles


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
READERS = {"read_text", "read_bytes", "fromfile", "loadtxt", "genfromtxt"}


def opens(call):
    """Whether a call opens a file for reading by its path."""
    function, arguments = (
        call.func,
        [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")],
    )
    modes = [one.value for one in arguments if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    if isinstance(function, ast.Name):
        return function.id == "open" and not any("w" in mode or "x" in mode for mode in modes)
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if (owner, function.attr) in {("np", "load"), ("json", "load"), ("pickle", "load"), ("paddle", "load")}:
        return True
    if function.attr == "open":
        return not any("w" in mode or "a" in mode for mode in modes) and not ast.unparse(function).startswith(
            "self._archive"
        )
    return function.attr in READERS


@pytest.mark.parametrize("path", sorted((PACKAGE / "data").rglob("*.py")), ids=lambda path: path.name)
def test_data_files_are_opened_in_one_way(path):
    tree = ast.parse(path.read_text())
    assert [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and opens(node)] == []


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
