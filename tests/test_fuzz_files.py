"""Random attack on the files that are read: each input is read rightly or refused in one line, soon, without much memory.

Inputs follow the structure of their format (headers, archives, schemas, JSON trees) and are damaged in it, and in their bytes.
What is read is compared with another reader of the same bytes. All draws come from a fixed seed, so that a run attacks with the
same inputs on every machine; ``LMF_FUZZ_SEED`` sets another one, ``LMF_FUZZ_INPUTS`` how many inputs a format gets in the slow suite.
"""

import io
import json
import os
import random
import resource
import shutil
import struct
import time
import zipfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import INPUTS, SMALL_PAPERS, model_config

from lmf_multitask.data.sources import open_source
from lmf_multitask.data.sources.npz import NpzSource
from lmf_multitask.errors import UserError, printable

SEED = int(os.environ.get("LMF_FUZZ_SEED", "0"))
COUNT = int(os.environ.get("LMF_FUZZ_INPUTS", "1000"))
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1, 2**64, 10**30, -1, -(2**63)]
ODD = [*SIZES, None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "1", "²", "\x1b[2J", "a\nb", "=1+1", "NaN",
       "../../x", "/dev/zero", "checkpoint-9", "\ud800", "[red]", "a" * 3000, [], {}, [[]], [None], {"": {}}, [1, "a"], [1e999] * 3]  # fmt: skip
MEGABYTES = 300


def damaged(draw, content):
    """Some bytes of a file changed, cut out, repeated or moved."""
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        place = draw.randrange(len(content) + 1)
        match draw.randrange(6):
            case 0 if content:
                content[place - 1] ^= 1 << draw.randrange(8)
            case 1:
                content[place : place + 4] = struct.pack("<i", draw.choice([-1, 0, 1, 2**31 - 1, -(2**31), 2**24]))
            case 2:
                del content[place : place + draw.choice([1, 4, 8, 100])]
            case 3:
                content[place:place] = content[place : place + draw.choice([1, 4, 8, 100])]
            case 4:
                content[place : place + 8] = draw.randbytes(8)
            case 5:
                del content[place:]
    return bytes(content)


def changed(draw, tree, depth=0):
    """JSON in which one value is another, is missing, has another name, or is far too deep."""
    if isinstance(tree, (dict, list)) and tree and (depth == 0 or draw.random() < 0.8):
        places = list(tree) if isinstance(tree, dict) else range(len(tree))
        place, tree = draw.choice(places), tree.copy()
        match draw.randrange(12):
            case 0:
                del tree[place]
            case 1 if isinstance(tree, dict):
                tree[draw.choice(["", "x", "\x1b[31m", place.upper(), place + "²"])] = tree.pop(place)
            case 2:
                tree[place] = tree[draw.choice(places)]
            case _:
                tree[place] = changed(draw, tree[place], depth + 1)
        return tree
    return draw.choice(ODD) if not isinstance(tree, (int, float)) or draw.random() < 0.7 else -tree


def as_json(draw, tree):
    """The text of a changed tree; now and then not JSON at all."""
    text = json.dumps(tree)
    match draw.randrange(25):
        case 0:
            return damaged(draw, text.encode())
        case 1:
            return text[: draw.randrange(len(text))].encode() + b"[" * draw.choice([5, 5000, 200_000])
        case 2:
            return draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b" " * 70_000]) + text.encode()
        case 3:  # a key twice
            return (text[:-1] + "," + text[1:]).encode() if text.startswith("{") and len(text) > 2 else text.encode()
    return text.encode("utf-8", "surrogatepass")


def attack(kind, build, read, least_read=1, count=COUNT):
    """Builds inputs and reads them; the kinds of outcomes are counted."""
    draw = random.Random(f"{kind} {SEED}")
    before, seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Counter()
    while seen.total() < count:
        state, start = draw.getstate(), time.process_time()
        content = build(draw)
        try:
            read(content)
            seen["read"] += 1
        except UserError as error:
            text = str(error)
            assert "\n" not in text, (kind, seen.total(), text)
            assert printable(text) == text, (kind, seen.total(), text)
            assert len(text) < 1500, (kind, seen.total(), text)
            seen["refused"] += 1
        except BaseException as error:
            draw.setstate(state)
            raise AssertionError(f"{kind}, input {seen.total()} of seed {SEED}: {build(draw)!r:.3000}") from error
        assert time.process_time() - start < 10, (kind, seen.total())
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000
        assert grown < MEGABYTES, (kind, seen.total(), grown)
    print(kind, dict(seen))
    assert seen["read"] >= least_read


# -- safetensors


@pytest.fixture(scope="module")
def network():
    from lmf_multitask.models.lmf import LMFModel

    return LMFModel(INPUTS, ["happy"], model_config(SMALL_PAPERS))


def tensors_in(content):
    """Name -> array of a safetensors file, by its specification."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: np.frombuffer(data[slice(*one["data_offsets"])], "<f4").reshape(one["shape"])
        for name, one in header.items()
        if name != "__metadata__"
    }


def safetensors_of(shapes):
    """Builds files for a network's weights."""

    def build(draw):
        header, data = {}, b""
        for name, shape in draw.sample(list(shapes.items()), len(shapes)):
            values = np.array([draw.uniform(0.5, 2) for _ in range(int(np.prod(shape)))], "<f4").tobytes()
            header[name] = {
                "dtype": "F32",
                "shape": list(shape),
                "data_offsets": [len(data), len(data) + len(values)],
            }
            data += values
        if draw.random() < 0.3:
            header["__metadata__"] = draw.choice([{"format": "np"}, {"format": 1}, [], "x", None, {"a" * 5000: "b"}])
        if draw.random() < 0.6:
            header = changed(draw, header)
        if draw.random() < 0.1 and header:
            one = header[draw.choice(list(header))]
            if isinstance(one, dict):
                one.update(dtype=draw.choice(["BF16", "F64", "I8", "BOOL", "F8_E4M3", "C64", "U64", "f32", 5]))
        text = as_json(draw, header) if draw.random() < 0.5 else json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        length = draw.choice(SIZES) % 2**64 if draw.random() < 0.1 else len(text)
        content = struct.pack("<Q", length) + text + data[: draw.choice([None] * 9 + [-1, 0])]
        return damaged(draw, content) if draw.random() < 0.1 else content

    return build


def attack_weights(network, folder, **limits):
    from lmf_multitask.models.lmf import LMFModel

    network.save_pretrained(folder)
    shapes = {name: value.shape for name, value in network.weights().items()}

    def read(content):
        (folder / "model.safetensors").write_bytes(content)
        found = LMFModel.from_pretrained(folder).weights()
        for name, expected in tensors_in(content).items():
            np.testing.assert_array_equal(found[name].numpy(), expected)

    attack("safetensors of a model", safetensors_of(shapes), read, **limits)


def attack_checkpoint(network, folder, **limits):
    from lmf_multitask.training import checkpoints

    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoints._module_tensors(network).items()}

    def read(content):
        (folder / "model.safetensors").write_bytes(content)
        checkpoints.read_module(folder, network)
        for name, expected in tensors_in(content).items():
            np.testing.assert_array_equal(network.state_dict()[name].numpy(), expected)

    attack("safetensors of a checkpoint", safetensors_of(shapes), read, **limits)


# -- .npz


def npy(draw, values):
    """An ``.npy`` file; its header or its length may be wrong."""
    kind, shape, order = values.dtype.str, repr(values.shape), "False"
    if draw.random() < 0.05:
        kind = draw.choice([">f4", "<f8", "|O", "<U9", "<U99999999", "|V8", "<c8", "<M8[s]", "|b1", "<f2", "<i8", "", "<f4'", "|S0", "<U0"])  # fmt: skip
    if draw.random() < 0.05:
        shape = draw.choice(["()", "(0,)", "(2**9,)", "(-1, 5)", "(1099511627775,)", "(0, 5)", "(3, 0)", "(" + "9" * 400 + ",)", "(3", "(" * 500, "(1,) * 9", "(3, 5, 1, 1, 1)", "(４,)"])  # fmt: skip
    if draw.random() < 0.05:
        order = draw.choice(["True", "true", "1", ""])
    head = (
        f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
        + b" " * draw.randrange(9)
        + b"\n"
    )
    version = draw.choice([1] * 30 + [2, 3, 0, 9])
    length = len(head) if draw.random() < 0.95 else draw.choice([0, 5, 65535])
    content = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", length) + head
    return (
        content
        + values.tobytes(draw.choice("CF") if draw.random() < 0.1 else "C")[: draw.choice([None] * 12 + [-1, 0])]
    )


def npz(draw):
    rows, rng = draw.choice([1, 2, 3, 9]), np.random.default_rng(draw.randrange(2**32))
    members = {name: rng.normal(size=(rows, *shape)).astype(draw.choice(["<f4", "<f4", "<f8", ">f4"])) for name, shape in INPUTS.items()}  # fmt: skip
    if draw.random() < 0.5:
        members["id"] = np.array([draw.choice(["a", "é", "", "=1", "x" * 300]) + str(n) for n in range(rows)])
    if draw.random() < 0.5:
        members[draw.choice(["happy", "labels", "emotion", "split", "emotions"])] = draw.choice(
            [
                np.arange(rows) % 2,
                np.array(["train", "test", "x"] * 3)[:rows],
                np.ones((rows, 2), "f4"),
                np.full(rows, np.nan),
            ]
        )
    if draw.random() < 0.1:
        members[draw.choice(["audio", "video", "text"])] = draw.choice(
            [
                np.zeros((rows, 5, 5, 5), "f4"),
                np.zeros(rows, "f4"),
                np.zeros((rows + 1, 5), "f4"),
                np.full((rows, 5), 1e300),
            ]
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 6 + [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])) as archive:  # fmt: skip
        for name, values in members.items():
            archive.writestr(
                draw.choice([f"{name}.npy"] * 60 + [name, f"../{name}.npy", f"{name.upper()}.npy"]), npy(draw, values)
            )
    content = bytearray(file.getvalue())
    if draw.random() < 0.15:  # sizes, methods and flags that the directory of the archive states
        place = content.rfind(b"PK\x01\x02") + draw.choice([8, 10, 16, 20, 24, 28, 42])
        content[place : place + 4] = struct.pack("<I", draw.choice([0, 1, 99, 2**31, 2**32 - 1]))
    return damaged(draw, content) if draw.random() < 0.2 else bytes(content)


def with_numpy(content):
    """The arrays of an archive by numpy's own reader, read from memory; None for those that it refuses."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name in INPUTS}


def read_npz(content):
    source = NpzSource.from_bytes(io.BytesIO(content), "the body", 100_000)
    features = next(source.all_blocks(max(source.count, 1)), ([], {}))[1]
    if source._split is None and set(source._names.values()) == set(INPUTS) and source.count:
        try:
            expected = with_numpy(content)
        except Exception:  # noqa: BLE001 - numpy refuses more, a header with spaces at its end for instance
            return
        for name, values in expected.items():
            with np.errstate(over="ignore", invalid="ignore"):
                np.testing.assert_array_equal(features[name].reshape(values.shape), values.astype("f4"))


def read_source(path):
    """Reads a file as `lmf data inspect` and training do: structure, all rows, labels."""

    def read(content):
        path.write_bytes(content)
        source = open_source(path)
        for split in source.splits:
            for ids, features in source.blocks(split, 4):
                assert len(ids) == len(next(iter(features.values())))
                assert all(len(one) <= 1100 for one in ids)
            if source.emotions:
                source.labels(split)
        source.check_unchanged()
        return source

    return read


# -- Parquet and Arrow


def table(draw):
    """Columns of features, ids and labels of many types."""
    rows = draw.choice([1, 3, 9])

    def numbers(size, kind):
        return [None if draw.random() < 0.1 else [draw.uniform(-9, 9) for _ in range(size)] for _ in range(rows)], kind

    columns = {}
    for name, (*length, size) in INPUTS.items():
        kind = draw.choice([pa.float32(), pa.float64(), pa.float16() if not length else pa.float32()])
        values, _ = numbers(size, kind)
        values = [None if v is None else [float(np.float16(x)) for x in v] for v in values]
        inner = draw.choice([pa.list_(kind), pa.large_list(kind), pa.list_(kind, size)])
        if length:
            steps = draw.choice([length[0], 1])
            values = [None if v is None else [v] * steps for v in values]
            inner = draw.choice([pa.list_(inner), pa.list_(inner, steps)])
        columns[name] = pa.array(values, inner)
    columns["id"] = draw.choice(
        [pa.array([f"clip {n}" for n in range(rows)]), pa.array(range(rows)), pa.array(["é\n" * n for n in range(rows)]).dictionary_encode()]
    )  # fmt: skip
    columns[draw.choice(["happy", "labels", "emotion", "split", "audio2"])] = draw.choice(
        [pa.array([n % 2 for n in range(rows)]), pa.array([0.0, None, 1.0] * 3)[:rows], pa.array(["train", "test", "dev"] * 3)[:rows],
         pa.array([{"happy": 1.0, "sad": None}] * rows), pa.nulls(rows), pa.array([b"\xff"] * rows), pa.array([[1, 0]] * rows)]
    )  # fmt: skip
    return pa.table(columns)


def parquet(draw):
    file = io.BytesIO()
    pq.write_table(
        table(draw), file, compression=draw.choice(["none", "snappy", "gzip", "zstd", "lz4"]), use_dictionary=draw.random() < 0.5,
        data_page_version=draw.choice(["1.0", "2.0"]), row_group_size=draw.choice([1, 100]), version=draw.choice(["1.0", "2.6"]),
    )  # fmt: skip
    return damaged(draw, file.getvalue()) if draw.random() < 0.7 else file.getvalue()


def arrow(draw):
    file, content = io.BytesIO(), table(draw)
    options = pa.ipc.IpcWriteOptions(compression=draw.choice([None, "lz4", "zstd"]))
    new = draw.choice([pa.ipc.new_stream, pa.ipc.new_file])
    with new(file, content.schema, options=options) as writer:
        writer.write_table(content)
    return damaged(draw, file.getvalue()) if draw.random() < 0.7 else file.getvalue()


def read_table(path, with_arrow):
    """Reads a table; undamaged numbers are those that pyarrow reads."""
    read = read_source(path)

    def compared(content):
        source = read(content)
        if list(source.splits) != ["all"]:
            return
        expected = with_arrow(pa.BufferReader(content), columns=list(source.shapes))
        for name in source.shapes:
            if name in expected.schema.names:
                values = [row for _, block in source.blocks("all", 100) for row in block[name]]
                for row, one in zip(expected.column(name).to_pylist(), values, strict=True):
                    wanted = np.zeros(1) if row is None else np.array(row, "f8")
                    with np.errstate(over="ignore", invalid="ignore"):
                        np.testing.assert_array_equal(one.reshape(-1)[: wanted.size], wanted.reshape(-1).astype("f4"))

    return compared


def arrow_table(buffer, columns):
    buffer.seek(8 if buffer.read(6) == b"ARROW1" else 0)
    return pa.ipc.open_stream(buffer).read_all().select(columns)


# -- JSON and tables of run and export directories


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A run, and its export in `export`; without manifests, as of somebody who changed the files on purpose."""
    from lmf_multitask.deployment.exporter import export_run

    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(trained[0], folder / "run")
    export_run(folder / "run", folder / "export", check=False)
    (folder / "run" / "manifest.json").unlink()
    (folder / "run" / "model" / "manifest.json").unlink(missing_ok=True)
    return folder


def evaluated(folder):
    from lmf_multitask.pipeline.reporting import evaluate_run

    return evaluate_run(folder, output_dir=folder.with_name("evaluated"))


def readers(whole):
    """File -> what reads it."""
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.evaluation.calibration import Calibration
    from lmf_multitask.files import damage
    from lmf_multitask.models.lmf import LMFModel
    from lmf_multitask.pipeline.runs import Run, runs_in
    from lmf_multitask.training import checkpoints

    run, export = whole / "run", whole / "export"
    checkpoint = checkpoints.checkpoints(run / "checkpoints")[-1]

    def progress():
        found = checkpoints.read_progress(checkpoint)
        checkpoints.best_checkpoint(checkpoint)
        for states in found.random_states:
            states.restore()

    def metrics():
        runs_in(run)
        return Run(run).metrics()

    return {
        run / "model" / "config.json": lambda: LMFModel.from_pretrained(run / "model"),
        run / "model" / "calibration.json": lambda: Calibration.load(run / "model"),
        run / "metrics.json": metrics,
        checkpoint / "progress.json": progress,
        checkpoint / "trainer_state.json": progress,
        checkpoint / "manifest.json": lambda: damage(checkpoint),
        export / "lmf_model.json": lambda: Predictor(export).predict(np.zeros((2, 5), "f4")),
    }


def attack_convert(path, **limits):
    from lmf_multitask.models import convert

    def read(content):
        path.write_bytes(content)
        convert._read(path)

    attack(".npz of a checkpoint", npz, read, **limits)


def attack_json(path, read, **limits):
    original = path.read_bytes()
    tree = json.loads(original)

    def build(draw):
        found = tree
        for _ in range(draw.choice([0, 1, 1, 1, 3])):
            found = changed(draw, found)
        return as_json(draw, found)

    def written(content):
        path.write_bytes(content)
        read()

    try:
        attack(path.name, build, written, **limits)
    finally:
        path.write_bytes(original)


def predictions_csv(original):
    def build(draw):
        rows = [line.split(",") for line in original.decode().splitlines()]
        for _ in range(draw.choice([0, 1, 1, 2])):
            row = draw.choice(rows)
            if row:
                row[draw.randrange(len(row))] = str(draw.choice([*ODD, '"', '"a', '"a\n"', "'=x", "1e999", "0.5;0.5"]))
        content = "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")
        return damaged(draw, content) if draw.random() < 0.2 else content

    return build


def attack_predictions(path, **limits):
    from lmf_multitask.evaluation.predictions import read_predictions

    original = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        found = read_predictions(path)
        assert np.isfinite(found.probabilities).all()
        assert found.probabilities.shape == (len(set(found.ids)), len(found.tasks))

    try:
        attack("predictions.csv", predictions_csv(original), read, **limits)
    finally:
        path.write_bytes(original)


# -- the suites


def attack_all(network, whole, folder, **limits):
    folder.mkdir(exist_ok=True)
    attack_weights(network, folder, **limits)
    attack_checkpoint(network, folder, **limits)
    attack(".npz", npz, read_npz, **limits)
    attack(".npz of training", npz, read_source(folder / "data.npz"), **limits)
    attack_convert(folder / "weights.npz", **limits)
    attack("Parquet", parquet, read_table(folder / "data.parquet", pq.read_table), **limits)
    attack("Arrow", arrow, read_table(folder / "data.arrow", arrow_table), **limits)
    for path, read in readers(whole).items():
        attack_json(path, read, **limits)
    attack_predictions(whole / "run" / "predictions.csv", **limits)


def test_some_inputs_of_every_format(network, whole, tmp_path):
    attack_all(network, whole, tmp_path / "files", least_read=0, count=15)


@pytest.mark.slow
def test_many_inputs_of_every_format(network, whole, tmp_path):
    attack_all(network, whole, tmp_path / "files")
