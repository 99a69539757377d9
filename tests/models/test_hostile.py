"""Checkpoints and model folders that claim, hide or repeat things: one line each, without the memory that they ask for."""

import io
import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import INPUTS, SMALL_PAPERS, model_config
from reference_network import random_parameters
from safetensors.numpy import save_file

from lmf_multitask.config import merged, nested, to_dict
from lmf_multitask.errors import RunError, UserError
from lmf_multitask.files import write_manifest
from lmf_multitask.models.convert import convert_checkpoint
from lmf_multitask.models.lmf import LMFModel, weight_shapes

SMALL = model_config(SMALL_PAPERS)


def refused(function, *arguments, megabytes=20):
    """The one line with which something is refused, soon and without much memory."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(UserError) as caught:
            function(*arguments)
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


# -- checkpoints


def npy(shape="(2,)", kind="'<f4'", payload=b"12345678", extra=""):
    """An .npy file by hand."""
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, {extra}}}".encode("latin-1")
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + payload


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def lying_size(path):
    """The directory of the archive says that a member is small; it is not."""
    archive(path, {"a.npy": npy("(250000,)", payload=bytes(1_000_000))}, zipfile.ZIP_DEFLATED)
    content = path.read_bytes()
    return path.write_bytes(content.replace(struct.pack("<I", 1_000_128), struct.pack("<I", 200)))


def encrypted(path):
    archive(path, {"a.npy": npy()})
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    path.write_bytes(content)


def unknown_compression(path):
    archive(path, {"a.npy": npy()})
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + place] = 97
    path.write_bytes(content)


def archive_in_archive(path):
    inner = io.BytesIO()
    np.savez(inner, **random_parameters())
    archive(path, {"weights.npz": inner.getvalue()})


def damaged_stream(path):
    archive(path, {"a.npy": npy("(25000,)", payload=os.urandom(100_000))}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)


ARCHIVES = {
    "a header that claims 4 TB": lambda p: archive(p, {"a.npy": npy("(1000000000000,)")}),
    "a header that claims 16 EB": lambda p: archive(p, {"a.npy": npy("(4611686018427387904,)")}),
    "a header of negative size": lambda p: archive(p, {"a.npy": npy("(-1,)")}),
    "a header of a thousand dimensions": lambda p: archive(p, {"a.npy": npy("(1," * 1 + "1," * 999 + ")")}),
    "a header of code": lambda p: archive(p, {"a.npy": npy("__import__('os').system('true')")}),
    "a header nested deeply": lambda p: archive(p, {"a.npy": npy("(" * 5000 + ")" * 5000)}),
    "a header cut off": lambda p: archive(p, {"a.npy": npy()[:30]}),
    "a header of 64 KB": lambda p: archive(p, {"a.npy": npy(extra="'x': '" + "y" * 60_000 + "'")}),
    "an unknown version": lambda p: archive(p, {"a.npy": b"\x93NUMPY\x09\x00" + npy()[8:]}),
    "objects": lambda p: archive(p, {"a.npy": npy(kind="'|O'", payload=pickle.dumps([1]))}),
    "objects in fields": lambda p: archive(p, {"a.npy": npy(kind="[('a', '|O'), ('b', '<f4')]")}),
    "an unknown type": lambda p: archive(p, {"a.npy": npy(kind="'<q77'")}),
    "text": lambda p: archive(p, {"a.npy": npy(kind="'<U1'")}),
    "text of no length": lambda p: archive(p, {"a.npy": npy("(1000000000,)", kind="'|S0'", payload=b"")}),
    "no arrays": lambda p: archive(p, {"readme.txt": b"hello"}),
    "no members": lambda p: archive(p, {}),
    "an archive in the archive": archive_in_archive,
    "a path as a name": lambda p: archive(p, {"../../etc/passwd.npy": npy()}),
    "one name twice": lambda p: archive(p, {"a.npy": npy(), "A.npy": npy(), "a.npy.npy": npy()}),
    "a size that lies": lying_size,
    "a password": encrypted,
    "an unknown compression": unknown_compression,
    "a damaged stream": damaged_stream,
    "a name that a terminal would obey": lambda p: archive(p, {"\x1b[2J" + "x" * 5000 + ".npy": npy()}),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_refused(tmp_path, name):
    path = tmp_path / "a.npz"
    ARCHIVES[name](path)
    line = refused(convert_checkpoint, path, "happy")
    assert line.startswith(f"{path}: ")
    assert line.isprintable() or "terminal" in name  # the command escapes what it shows


def test_zip_bombs_are_refused_before_they_unfold(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", npy("(25000000,)", payload=bytes(100_000_000)))
    line = refused(convert_checkpoint, tmp_path / "a.npz", "happy")
    assert "must unpack to at most 1 GiB and 200 times its size, but claims 100,000," in line


def test_an_array_under_many_names_is_read_once(tmp_path):
    content = pickle.dumps(np.zeros(250_000, "f4"), protocol=2)[:-1]
    names = b"".join(b"X\x06\x00\x00\x00" + b"%06d" % n + b"h\x63" for n in range(3000))
    (tmp_path / "a.pkl").write_bytes(content + b"q\x630}(" + names + b"u.")
    assert "has 000000, 000001, 000002 and lacks" in refused(convert_checkpoint, tmp_path / "a.pkl", "happy")


@pytest.mark.parametrize("name", ["audio_subnet.linear_1.weight", "text_subnet.rnn.weight_hh_l0", "fusion_weights"])
def test_arrays_of_no_bytes_that_claim_a_large_network(tmp_path, name):
    weights = random_parameters()
    weights[name] = np.zeros((0, 65_536), np.float32)
    np.savez(tmp_path / "a.npz", **weights)
    assert "must hold the weights of one LMF network, but" in refused(convert_checkpoint, tmp_path / "a.npz", "happy")


def test_a_thousand_damaged_checkpoints(tmp_path):
    """Seeded noise in whole files: read (where a weight itself was hit) or refused in one line."""
    rng = np.random.default_rng(0)
    path, buffers = tmp_path / "a.npz", []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, fusion_bias=np.zeros(3), fusion_weights=np.ones((2, 2)))  # no network: no time for building it
        buffers.append(buffer.getvalue())
    outcomes = set()
    for number in range(1000):
        content = bytearray(buffers[number % 2])
        for _ in range(rng.integers(1, 6)):
            place = rng.integers(len(content))
            content[place : place + 1] = rng.bytes(rng.integers(0, 4))
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            convert_checkpoint(path, "happy")
        assert "\n" not in str(caught.value)
        outcomes.add(str(caught.value).removeprefix(f"{path}: ")[:90])
    assert len(outcomes) > 10


# -- the folder of a model


@pytest.fixture
def folder(tmp_path):
    LMFModel(INPUTS, ["calm", "tense"], SMALL).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def describe(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_settings(**changes):
    """Changes of single settings, dots written as two underscores."""
    return {"model": merged(to_dict(SMALL), nested({name.replace("__", "."): v for name, v in changes.items()}))}


def with_input(**changes):
    """Changes of the audio features."""
    whole = {name: {"shape": list(shape), "padding": None} for name, shape in INPUTS.items()}
    return {"inputs": {**whole, "audio": {**whole["audio"], **changes}}}


def with_tasks(*names, kind="binary"):
    return {"tasks": [{"name": name, "kind": kind} for name in names]}


DESCRIPTIONS = {
    "a wide LSTM": with_settings(encoders__text__state=65_536),
    "a high rank": with_settings(fusion__rank=65_536, fusion__dim=65_536),
    "no width": with_settings(encoders__text__state=0),
    "a width in words": with_settings(encoders__text__state="wide"),
    "an unknown setting": with_settings(colour=3),
    "an unknown kind": with_settings(fusion__kind="magic"),
    "a kind that is a list": with_settings(fusion__kind=["lmf"]),
    "a fusion that is a number": with_settings(fusion=3),
    "no settings": {"model": None},
    "settings in a list": {"model": [1, 2]},
    "features without end": with_input(shape=[10**12]),
    "features of infinite size": with_input(shape=[float("inf")]),
    "features of no size": with_input(shape=[0]),
    "features in words": with_input(shape="many"),
    "features that are true": with_input(shape=[True]),
    "features of three dimensions": with_input(shape=[2, 3, 4]),
    "a padding of its own": with_input(padding="middle"),
    "no shape": with_input(shape=None),
    "inputs as a list": {"inputs": [5, 4, 3]},
    "inputs that are shapes": {"inputs": {name: list(shape) for name, shape in INPUTS.items()}},
    "another modality": {"inputs": {"smell": {"shape": [3], "padding": None}}},
    "twenty thousand tasks": with_tasks(*(f"e{n}" for n in range(20_000))),
    "no tasks": {"tasks": []},
    "tasks that are numbers": {"tasks": [1, 2]},
    "task names that are numbers": with_tasks(1, 2),
    "tasks in one word": {"tasks": "ab"},
    "no list of tasks": {"tasks": 7},
    "a path for a task": with_tasks("calm", "../../x"),
    "one task twice": with_tasks("calm", "calm"),
    "an unknown kind of task": with_tasks("calm", "tense", kind="magic"),
    "another type": {"model_type": "bert"},
    "a word for exclusive": {"exclusive": "yes"},
    "another treatment of NaN": {"non_finite": "keep"},
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_are_refused(folder, name):
    describe(folder, **DESCRIPTIONS[name])
    line = refused(LMFModel.from_pretrained, folder, megabytes=60 if name == "twenty thousand tasks" else 20)
    assert line.startswith(str(folder))


@pytest.mark.parametrize(
    "content", ["", "[", "7", "null", '{"model_type": "lmf"}', "[" * 200_000, "\xff", '{"a": ' * 5000, "9" * 6000]
)
def test_damaged_descriptions(folder, content):
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert refused(LMFModel.from_pretrained, folder).startswith(f"{folder / 'config.json'}: must ")


def header(about, payload=b""):
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + payload


WEIGHTS = {
    "empty": b"",
    "a header of 1 GB": struct.pack("<Q", 1 << 30) + b"{}",
    "a header without end": struct.pack("<Q", 2**64 - 1) + b"{}",
    "no JSON": header(b"{{{{"),
    "nested JSON": header(b"[" * 50_000),
    "no weights": header({}),
    "a weight of 1 TB": header({"fusion.bias": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}),
    "a shape that lies": header(
        {"fusion.bias": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "a shape that overflows": header(
        {"fusion.bias": {"dtype": "F32", "shape": [2**63, 4], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "offsets backwards": header({"fusion.bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8)),
    "an unknown type": header({"fusion.bias": {"dtype": "F77", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "a name that a terminal would obey": header(
        {"\x1b[2J" * 900: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "a pickle": pickle.dumps({"fusion.bias": 1}),
    "noise": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights(folder, name):
    (folder / "model.safetensors").write_bytes(WEIGHTS[name])
    line = refused(LMFModel.from_pretrained, folder)
    assert line.startswith(f"{folder / 'model.safetensors'}: ")


@pytest.mark.parametrize("kind", ["float16", "float64", "int32"])
def test_weights_of_another_type(folder, kind):
    shapes = weight_shapes(INPUTS, ["calm", "tense"], SMALL)
    save_file({name: np.zeros(shape, kind) for name, shape in shapes.items()}, folder / "model.safetensors")
    assert f"must be float32, but is {kind}." in refused(LMFModel.from_pretrained, folder)


def test_many_foreign_weights_are_told_in_short(folder):
    save_file({f"w{n}": np.zeros(1, "f4") for n in range(5000)}, folder / "model.safetensors")
    assert "foreign are w0, w1, w10, w100, w1000." in refused(LMFModel.from_pretrained, folder)


def test_every_cut_of_the_weights_is_noticed(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError):
            LMFModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"encoders.text.state": 65_536}, "17,"),
        ({"encoders.audio.hidden": 65_536}, "8,"),
        ({"encoders.audio.hidden": 1023, "encoders.video.hidden": 1023, "encoders.text.hidden": 1023, "fusion.kind": "tfn"}, "68,7"),
        ({"fusion.rank": 65_536, "fusion.dim": 65_536}, "42,"),
    ],
)  # fmt: skip
def test_networks_that_no_machine_can_hold_are_refused_before_they_are_built(changes, parameters):
    line = refused(LMFModel, INPUTS, ["calm"], model_config(SMALL_PAPERS, {"fusion": {"dim": 64}}, changes))
    assert f"a network must have at most 268,435,456 parameters, but these sizes make {parameters}" in line


# -- the manifest of a model folder


def test_a_folder_that_does_not_fit_its_manifest_is_refused(folder):
    write_manifest(folder)
    LMFModel.from_pretrained(folder)
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1  # a bit of a weight: a valid file of finite numbers
    path.write_bytes(whole)
    line = refused(LMFModel.from_pretrained, folder)
    assert line.startswith(f"{folder}: must be as it was written, but ")
    assert "model.safetensors" in line
    (folder / "manifest.json").unlink()
    LMFModel.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model.safetensors": 3}', '{"../x": "0"}', "[" * 100_000])
def test_damaged_manifests(folder, content):
    (folder / "manifest.json").write_text(content)
    assert refused(LMFModel.from_pretrained, folder).startswith(f"{folder}: must be as it was written, but ")
