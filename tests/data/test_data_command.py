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


def refused(told, *arguments):
    with pytest.raises(ConfigError) as caught:
        main(arguments)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_file_holds(data, capsys):
    main(["inspect", str(data)])
    said = capsys.readouterr().out
    assert "column 1 = present: in every clip it is set for exactly one of the 4 emotions" in said
    assert "happy 3 (33.3%)" in " ".join(said.split())
    main(["inspect", str(data), "--data.label_column", "0"])
    said = capsys.readouterr().out
    assert "column 0 = present, as set by label_column" in said
    assert "happy 6 (66.7%)" in " ".join(said.split())
    main(["inspect", str(data), "--data.max_length", "3"])
    assert "clip(s) was cut to 3 steps (max_length)" in capsys.readouterr().out
    for wrong in ("2", "-1", "x"):
        refused("label_column", "inspect", str(data), "--data.label_column", wrong)
    refused("max_length", "inspect", str(data), "--data.max_length", "0")
    refused("unknown option '--label_colum'", "inspect", str(data), "--label_colum", "0")


def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(tmp_path, capsys):
    tree = {**make_corpus((9, 5, 4)), "\x1b]0;mine\x07": 1}
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(tree))
    main(["inspect", str(tmp_path / "data.pkl")])
    assert "\x1b" not in capsys.readouterr().out


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


def test_seeds_and_scales(tmp_path, monkeypatch, capsys):
    asked = []
    (tmp_path / "written").write_bytes(b"x")
    monkeypatch.setattr(sample, "write_sample", lambda *arguments: asked.append(arguments) or tmp_path / "written")
    for seed in ("0", str(2**32 - 1)):
        main(["sample", "s.pkl", "--seed", seed, "--scale", "full"])
    main(["sample", "s.pkl"])
    main(["sample", "s.npz", "--targets", "valence"])
    assert asked == [
        ("s.pkl", "full", 0, []),
        ("s.pkl", "full", 2**32 - 1, []),
        ("s.pkl", "small", 0, []),
        ("s.npz", "small", 0, ["valence"]),
    ]
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError) as caught:
            main(["sample", "s.pkl", "--seed", str(seed)])
        assert str(caught.value) == f"--seed must be from 0 to 2^32 - 1, but got {seed}."
    refused("scale", "sample", "s.pkl", "--scale", "huge")
    assert len(asked) == 4


def test_help(capsys):
    for command, parts in (
        ((), ["usage: lmf data", "inspect what a data file holds", "sample write the built-in sample"]),
        (
            ("inspect",),
            ["usage: lmf data inspect", "FILE", "--emotions NAME", "--data.label_column 0|1", "--data.max_length N"],
        ),
        (("sample",), ["usage: lmf data sample", "--scale {tiny,small,full}", "--seed SEED", "--overwrite"]),
    ):
        found = help_of(capsys, *command)
        for part in parts:
            assert part in found, part


def test_one_of_the_two_must_be_named(capsys):
    for arguments in ([], ["look"]):
        refused("inspect", *arguments)
