"""What is written is complete or absent."""

import os
import stat

import pytest

from lmf_multitask.files import atomic_folder, atomic_write, write_text


class Broken(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
