"""`lmf data inspect` and `lmf data sample`, called as the command calls them."""

import pickle

import pytest
from conftest import make_corpus

from lmf_multitask.data import sample
from lmf_multitask.data.__main__ import main
from lmf_multitask.errors import ConfigError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.pkl"
    path.write_bytes(pickle.dumps(make_corpus((9, 5, 4)), protocol=2))
    return path


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, told, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert told in error


def test_what_is_in_a_file(data, tmp_path, capsys):
    options = ["inspect", str(data), "--cache_dir", str(tmp_path / "cache")]
    main(options)
    said = capsys.readouterr().out
    assert "column 1 = present: in every clip it is set for exactly one of the 4 emotions" in said
    assert "happy 3 (33.3%)" in " ".join(said.split())
    assert any((tmp_path / "cache").iterdir())
    main([*options, "--label_column", "0"])
    said = capsys.readouterr().out
    assert "column 0 = present, as you said" in said
    assert "happy 6 (66.7%)" in " ".join(said.split())
    main([*options, "--label_column", "1"])
    assert "column 1 = present, as you said" in capsys.readouterr().out
    for wrong in ("2", "-1", "x"):
        refused(capsys, "label_column", "inspect", str(data), "--label_column", wrong)


def test_a_sample_is_written_under_a_seed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    main(["sample", str(tmp_path / "a.pkl")])
    size = (tmp_path / "a.pkl").stat().st_size
    assert capsys.readouterr().out == f"written: {tmp_path / 'a.pkl'} ({size:,} bytes)\n"
    main(["sample", "~/b.pkl", "--seed", "0"])
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()
    with pytest.raises(ConfigError) as caught:
        main(["sample", "~/b.pkl", "--seed", "1"])
    assert str(caught.value) == "~/b.pkl: must not exist yet, but does. Choose another name, or --overwrite."
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "b.pkl").read_bytes()
    main(["sample", "~/b.pkl", "--seed", "1", "--overwrite"])
    assert (tmp_path / "a.pkl").read_bytes() != (tmp_path / "b.pkl").read_bytes()
    main(["sample", "~/c.pkl", "--overwrite"])
    assert (tmp_path / "a.pkl").read_bytes() == (tmp_path / "c.pkl").read_bytes()


def test_seeds_and_scales_that_there_are(tmp_path, monkeypatch, capsys):
    asked = []
    (tmp_path / "written").write_bytes(b"x")
    monkeypatch.setattr(sample, "write_sample", lambda *arguments: asked.append(arguments) or tmp_path / "written")
    for seed in ("0", str(2**32 - 1)):
        main(["sample", "s.pkl", "--seed", seed, "--scale", "full"])
    main(["sample", "s.pkl"])
    assert asked == [("s.pkl", "full", 0), ("s.pkl", "full", 2**32 - 1), ("s.pkl", "small", 0)]
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError) as caught:
            main(["sample", "s.pkl", "--seed", str(seed)])
        assert str(caught.value) == f"--seed must be from 0 to 2^32 - 1, but got {seed}."
    refused(capsys, "scale", "sample", "s.pkl", "--scale", "huge")
    assert len(asked) == 3


def test_help(capsys):
    for command, usage, parts in (
        ((), "usage: lmf data ", [
            "Look at a data file, or write the sample. Options:",
            "inspect what is in a data file sample",
            "sample write the built-in sample",
        ]),
        (("inspect",), "usage: lmf data ", [
            "What is in a data file, in one screen. positional",
            "FILE pickle, folder of save_to_disk, or folder of Parquet files (required)",
            '--label_column {0,1} which column of one-hot labels means "present" (',
            "--cache_dir CACHE_DIR folder of the Arrow cache; default: that of datasets (",
        ]),
        (("sample",), "usage: lmf data ", [
            "Write the built-in sample of made-up clips. positional",
            "FILE the pickle to write (required)",
            "--scale {small,full} full: as many clips as IEMOCAP, 443 MB (",
            "--seed SEED of all random numbers, from 0 to 2^32 - 1; default: 0 (",
            "--overwrite replace an existing file (",
        ]),
    ):  # fmt: skip
        found = help_of(capsys, *command)
        assert found.startswith(usage)
        for part in parts:
            assert part.lower() in found.lower(), part


def test_one_of_the_two_must_be_named(capsys):
    for arguments in ([], ["look"]):
        refused(capsys, "inspect", *arguments)
