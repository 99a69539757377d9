"""Hostile files in each layout of pickles: refused in one line, soon, without much memory, and nothing of them is run."""

import gzip
import io
import lzma
import os
import pickle
import struct
import time
import tracemalloc
import zlib

import joblib
import numpy as np
import pickle_layouts as layouts
import pytest

from lmf_multitask.data import compressed
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError

VECTORS = {name: np.zeros((3, 2), "f4") for name in ("audio", "vision")}


def round_list():
    found = []
    found.append(found)
    return found


def round_array():
    found = np.empty(3, object)
    found[:] = [found, [found], "a"]
    return found


def round_dict():
    found = {}
    found["train"] = found["test"] = found
    return found


def split_first(**others):
    return {"train": {**VECTORS, **others}, "test": {**VECTORS, **others}}


def dialogues(train=("a", "c"), test=("b",), **others):
    parts = {
        "ids": {name: [f"{name}0"] for name in "abc"},
        "speakers": {name: ["M"] for name in "abc"},
        "labels": {name: [n] for n, name in enumerate("abc")},
        **{one: {name: [np.ones(3)] for name in "abc"} for one in ("text", "audio", "video")},
        "sentences": {name: [""] for name in "abc"},
    }
    return (*[{**part, **others.get(name, {})} for name, part in parts.items()], train, test)


def padded(data=None, labels=None, lengths=(1, 2)):
    data = np.ones((2, 3, 4), "f4") if data is None else data
    labels = np.ones((2, 3)) if labels is None else labels
    return (data, labels, data, labels, 3, lengths, lengths)


VECTOR, LONG = np.zeros(1000), "x" * 900
HOSTILE = {
    "a dict of itself": (round_dict(), "must name its features"),
    "a list of itself as features": (split_first(text=round_list()), "must be an array of numbers, but holds lists nested too deep"),
    "an array of itself as features": (split_first(text=round_array()), "must be an array of numbers, but"),
    "an array of itself as ids": (split_first(id=round_array()), None),
    "an array of itself as labels": (split_first(labels=round_array()), None),
    "one array in many rows": (split_first(text=[VECTOR] * 8_000), "repeats its parts too often"),
    "one id in many rows": ({"test": {"audio": np.zeros((8_000, 1), "u1"), "id": [LONG] * 8_000}}, None),
    "labels of no bytes": (split_first(labels=np.zeros((0, 2))), None),
    "a class for every clip": (split_first(labels=np.array([0, 5, 10**9])), None),
    "text as classes": (split_first(labels=np.array(["a", "../../x", "b"])), None),
    "the name of a split twice": ({"train": VECTORS, "valid": VECTORS, "dev": VECTORS}, "must have each split once"),
    "a dialogue of one vector many times": (
        dialogues(labels={"a": [0] * 4_000}, **{name: {**dict.fromkeys("bc", [VECTOR]), "a": [VECTOR] * 4_000} for name in ("text", "audio", "video")}),
        "repeats its parts too often",
    ),
    "dialogues that are none": (dialogues(train=round_list()), "train must be a list of names of dialogues"),
    "a dialogue of itself": (dialogues(labels={"a": round_list()}), "must be an array of numbers, but holds lists"),
    "a vector of itself": (dialogues(text={"a": round_list()}), "must be an array of numbers, but holds lists"),
    "fewer vectors than utterances": (dialogues(labels={"a": [0, 1]}), "must have one vector for each of its 2 utterances"),
    "a dialogue that is not there": (dialogues(train=("a", "d")), "the dialogue 'd' of train must have labels and features"),
    "names that a terminal obeys": (dialogues(train=("a", "\x1b]0;mine\x07")), r"the dialogue '\\x1b]0;mine\\x07' of train"),
    "one dialogue": (dialogues(train=("a",)), "train must have two dialogues at least"),
    "a tuple of eight": (dialogues()[:8], "a tuple of dialogues must have ids, speakers, labels"),
    "a class number of a billion": (dialogues(train=("a", "b"), labels={"a": [10**9]}), None),
    "lengths beyond the videos": (padded(lengths=(1, 4)), "lengths of train must be one number of utterances, at most 3"),
    "lengths that are fractions": (padded(lengths=(1, 1.5)), "lengths of train must be one number of utterances"),
    "negative lengths": (padded(lengths=(-1, 2)), "lengths of train must be one number of utterances"),
    "videos of no features": (padded(np.zeros((2, 3, 0))), r"train must have the shape \[videos, utterances, features\], but has"),
    "labels of another shape": (padded(labels=np.ones((2, 2))), "labels of train must have the shape"),
}  # fmt: skip


def bounded(content, function):
    """Calls a function that may fail with a one-line DataError, within memory and time of the content's size."""
    tracemalloc.start()
    start = time.process_time()
    try:
        return function()
    except DataError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 700
        raise
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000 + 300 * len(content)
        assert time.process_time() - start < 5


def read_all(path):
    source = open_source(path)
    for _ids, _features in source.all_blocks(64):
        pass
    return source


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layouts(tmp_path, name):
    tree, message = HOSTILE[name]
    content = pickle.dumps(tree)
    path = tmp_path / "audio.pkl"
    path.write_bytes(content)
    if message is None:  # it is read, but has no labels
        source = bounded(content, lambda: read_all(path))
        with pytest.raises(DataError):
            source.labels(source.split_names[0])
    else:
        with pytest.raises(DataError, match=message):
            bounded(content, lambda: read_all(path))


@pytest.mark.parametrize("layout", ["mult_iemocap", "mmsa", "lmf", "dialogue_tuple", "corect"])
def test_layouts_cut_off_anywhere(tmp_path, layout):
    content = pickle.dumps(getattr(layouts, layout)(layouts.make_clips(classes=4)), protocol=2)
    path = tmp_path / "x.pkl"
    for size in np.random.default_rng(0).integers(1, len(content) - 1, 8):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="must be a"):
            bounded(content, lambda: read_all(path))


class Runs:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return os.mkdir, self.arguments


@pytest.mark.parametrize("layout", ["mult_iemocap", "mmsa", "lmf", "dialogue_tuple", "corect"])
def test_nothing_is_run(tmp_path, layout):
    tree = getattr(layouts, layout)(layouts.make_clips(classes=4))
    bad = Runs(str(tmp_path / "marker"))
    tree = (*tree[:-1], [*tree[-1], bad]) if isinstance(tree, tuple) else {**tree, "extra": np.array([bad], object)}
    for pack in (bytes, gzip.compress, lzma.compress):
        (tmp_path / "x.pkl").write_bytes(pack(pickle.dumps(tree)))
        with pytest.raises(DataError, match=r"names (posix\.mkdir|dill\._dill\._get_attr)"):
            open_source(tmp_path / "x.pkl")
    assert not (tmp_path / "marker").exists()


# -- joblib


def joblib_bytes(tree, protocol=4):
    file = io.BytesIO()
    joblib.dump(tree, file, protocol=protocol)
    return file.getvalue()


def test_joblib_runs_nothing(tmp_path):
    bad = Runs(str(tmp_path / "marker"))
    for tree in ({"test": bad}, {"test": {"audio": np.array([bad], object)}}):
        (tmp_path / "x").write_bytes(joblib_bytes(tree))
        with pytest.raises(DataError, match=r"names (posix\.mkdir|dill\._dill\._get_attr)"):
            open_source(tmp_path / "x")
    assert not (tmp_path / "marker").exists()


HUGE = struct.pack("<q", 2**40)
WRAPPED = joblib_bytes(np.arange(3, dtype="u1"), protocol=2)
JOBLIB = {
    "a matrix": (WRAPPED.replace(b"cnumpy\nndarray\n", b"cnumpy\nmatrix\n"), "names numpy.matrix"),
    "a shape of a terabyte": (WRAPPED.replace(b"K\x03\x85", b"\x8a\x08" + HUGE + b"\x85"), "ends too early: 1,099,511,627,776 bytes"),
    "a negative shape": (WRAPPED.replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85"), "gives an array an impossible shape"),
    "another subclass": (WRAPPED.replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"), "holds a special kind of array"),
    "a wrapper with arguments": (WRAPPED.replace(b")\x81", b"N\x85\x81"), "holds an object that is not plain data"),
    "a wrapper that is called": (b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)R.", "calls a type"),
    "a state of nothing": (b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}b.", "describes an array wrongly"),
    "an old wrapper": (b"\x80\x02cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81.", "written by a joblib before 0.10"),
    "cut off": (WRAPPED[:-3], "ends too early"),
}  # fmt: skip


@pytest.mark.parametrize("name", JOBLIB)
def test_hostile_joblib_files(tmp_path, name):
    content, message = JOBLIB[name]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        bounded(content, lambda: read_all(tmp_path / "x"))


def test_arrays_of_joblib_do_not_nest(tmp_path):
    objects = np.array(["a", None], object)
    content = joblib_bytes(objects, protocol=2)
    inner = content.index(b"ub\x80\x05") + 2
    deep = content[:inner] + content[:inner] + content[inner:]
    (tmp_path / "x").write_bytes(deep)
    with pytest.raises(DataError, match="holds a pickle in a pickle in a pickle"):
        open_source(tmp_path / "x")


# -- compressed


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lzma.compress])
def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(compressed, "_LEAST_LIMIT", 1 << 20)
    content = pack(b"\x80\x04C" + bytes(1 << 24))
    assert len(content) < 20_000
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(
        DataError, match="x: a compressed file must unpack to at most 1,048,576 bytes or 100 times its own"
    ):
        bounded(content, lambda: read_all(tmp_path / "x"))


def test_compressed_twice(tmp_path):
    (tmp_path / "x").write_bytes(gzip.compress(gzip.compress(b"\x80\x04N.")))
    with pytest.raises(DataError, match="x: must be a pickle, but is a gzip archive. Unpack it first"):
        open_source(tmp_path / "x")
    (tmp_path / "x").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(DataError, match="x: must be a pickle, but is text"):
        open_source(tmp_path / "x")
