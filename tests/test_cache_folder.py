"""The folder of converted data, by the command that shows and empties it."""

import re

import pytest
from filelock import FileLock

from lmf_multitask.cache_folder import cache_folder, clear_cache
from lmf_multitask.data.__main__ import main
from lmf_multitask.data.loading import load


@pytest.fixture
def folder(corpus_path, tmp_path):
    """A cache with one data set of ours, beside files of others."""
    from lmf_multitask.data.config import DataConfig

    load(corpus_path, config=DataConfig(cache_dir=str(tmp_path)))
    (tmp_path / "lmf_multitask/notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    return tmp_path


def test_the_cache_is_shown_and_emptied_of_ours_only(folder, capsys):
    main(["cache", "--data.cache_dir", str(folder)])
    shown = capsys.readouterr().out
    assert re.fullmatch(rf"{folder}/lmf_multitask: 1 data set, \d+\.\d MB; [\d,]+\.\d GB free\n", shown)
    main(["cache", "--data.cache_dir", str(folder), "--clear"])
    assert "0 data sets, 0.0 MB" in capsys.readouterr().out
    assert sorted(path.name for path in folder.rglob("*")) == ["lmf_multitask", "notes.txt", "other"]
    main(["cache", "--data.cache_dir", str(folder / "nowhere"), "--clear"])
    assert "removed: 0.0 MB" in capsys.readouterr().out
    assert not (folder / "nowhere").exists()


def test_data_that_are_being_converted_stay(folder):
    (one,) = (path for path in (folder / "lmf_multitask").iterdir() if path.is_dir())
    with FileLock(folder / "lmf_multitask" / f"{one.name}.lock"):
        assert clear_cache(folder / "lmf_multitask") == 0
    assert one.is_dir()
    assert clear_cache(folder / "lmf_multitask") > 1000


def test_a_link_in_the_cache_is_removed_and_not_followed(folder):
    (folder / "other/precious").write_text("x")
    (folder / "lmf_multitask" / ("0" * 32)).symlink_to(folder / "other")
    clear_cache(folder / "lmf_multitask")
    assert (folder / "other/precious").is_file()


def test_the_place_is_that_of_datasets(monkeypatch):
    import datasets

    assert cache_folder() == type(cache_folder())(datasets.config.HF_DATASETS_CACHE) / "lmf_multitask"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/huggingface/datasets/lmf_multitask"
