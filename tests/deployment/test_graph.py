"""Graphs that the exporter did not write are never loaded."""

import copy
import json
import shutil

import numpy as np
import pytest
from conftest import INPUTS

from lmf_multitask.deployment import graph
from lmf_multitask.deployment.description import ModelDescription
from lmf_multitask.deployment.exporter import export_models
from lmf_multitask.deployment.predictor import Predictor
from lmf_multitask.errors import RunError

from .conftest import SEQUENCES, make_model, replace_file

MLP, LSTM = {"kind": "mlp", "hidden": 3}, {"kind": "lstm", "hidden": 3, "state": 4}
KINDS = [
    {"encoders": {"audio": {**MLP, "norm": "batch"}, "video": {**MLP, "pooling": "mean_std"}, "text": LSTM}},
    {
        "encoders": {
            "audio": {**MLP, "pooling": "max"},
            "video": {**MLP, "pooling": "last"},
            "text": {**LSTM, "pooling": "last_step", "bidirectional": True, "norm": "none"},
        },
        "fusion": {"kind": "lmf", "dim": None},
    },
    {
        "encoders": {
            "audio": {**LSTM, "pooling": "last_step"},
            "video": {**LSTM, "pooling": "last_present", "projection": None},
            "text": MLP,
        },
        "fusion": {"kind": "tfn", "dim": 4},
    },
    {"fusion": {"kind": "concat", "dim": 4}},
    {"fusion": {"kind": "concat", "dim": None}},
    {"fusion": {"kind": "late"}, "modality_dropout": None},
    {"modalities": ["video"]},
]


def operators_of(program):
    return program["program"]["regions"][0]["blocks"][0]["ops"]


@pytest.fixture
def paddle_copy(exported, tmp_path):
    """Replaces the program, or its operators, of an export; returns what the predictor says."""
    folder = shutil.copytree(exported, tmp_path / "copy")

    def load(change):
        program = json.loads((exported / "multitask.json").read_text())
        change(operators_of(program))
        replace_file(folder, "multitask.json", json.dumps(program).encode())
        with pytest.raises(RunError) as caught:
            Predictor(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return load


def test_operators_are_those_that_the_exporter_writes(tmp_path):
    """All encoders, poolings and fusions; the list has none that no graph needs."""
    pytest.importorskip("paddle2onnx", reason="needs the extra onnx")
    found = {"paddle": set(), "onnx": set()}
    for number, config in enumerate(KINDS):
        inputs = SEQUENCES if "encoders" in config else INPUTS
        folder = tmp_path / str(number)
        export_models([make_model(inputs=inputs, config=config)], folder, ["paddle", "onnx"], check=False)
        found["paddle"] |= {one["#"] for one in operators_of(json.loads((folder / "multitask.json").read_text()))}
        (model,) = [value for field, value in graph._fields((folder / "multitask.onnx").read_bytes()) if field == 7]
        found["onnx"] |= {graph._check_node(value) for field, value in graph._fields(model) if field == 1}
    for form, names in graph.EXPORTED.items():
        assert found[form] - set(names.split()) == set()
        assert set(names.split()) - found[form] == set()


@pytest.mark.parametrize(
    "name",
    [
        "1.load_combine",
        "1.save_combine",
        "1.print",
        "1.py_func",
        "1.read_file",
        "1.feed",
        "0.parameter",
        "2.if",
        "1.assert",
        5,
    ],
)
def test_operators_that_do_more_than_compute(paddle_copy, name):
    assert "must be a graph that `lmf export` wrote, but " in paddle_copy(lambda ops: ops[-4].update({"#": name}))


def test_an_operator_with_a_region(paddle_copy):
    inner = [{"#": "region_0", "blocks": []}]
    assert "an operator has 'regions'" in paddle_copy(lambda ops: ops[-4].update(regions=inner))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ops: ops.pop(), "its outputs are"),
        (lambda ops: ops[-1]["A"][0]["AT"].update(D="joy"), "its outputs are"),
        (lambda ops: [op["A"][1]["AT"].update(D=[-1, 7]) for op in ops if op["#"] == "1.data"], "its inputs are"),
        (lambda ops: [op["A"][0]["AT"].update(D="x") for op in ops if op["#"] == "1.data"], "its inputs are"),
        (lambda ops: ops[1]["O"]["TT"]["D"].__setitem__(1, [1, 2, 3]), "the weight"),
        (lambda ops: ops.reverse(), "an operator takes the result of a later one"),
        (lambda ops: ops.append(copy.deepcopy(ops[-1])), "two results have the same number"),
        (lambda ops: ops[1].pop("OA"), "an operator has 'OA'"),
        (lambda ops: [op["A"][0]["AT"].update(D=[2**30, 2**9]) for op in ops if op["#"] == "1.full"], "too large"),
        (lambda ops: ops.clear(), "its outputs are"),
    ],
)
def test_a_program_that_does_not_fit(paddle_copy, change, message):
    assert message in paddle_copy(change)


def attributes_of(ops, name):
    return {one["N"]: one["AT"] for op in ops if op["#"] == name for one in op["A"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ops: attributes_of(ops, "1.rnn")["hidden_size"].update(D=0), "a recurrent layer has weights of the shapes"),
        (lambda ops: attributes_of(ops, "1.rnn")["num_layers"].update(D=2**31), "a recurrent layer has weights of the shapes"),
        (lambda ops: attributes_of(ops, "1.rnn")["mode"].update(D="GRU"), "a recurrent layer has weights of the shapes"),
        (lambda ops: [op["I"][4].update({"%": op["I"][0]["%"]}) for op in ops if op["#"] == "1.rnn"], "a recurrent layer has weights that are none"),
        (lambda ops: [op["I"][2].update({"%": op["I"][0]["%"]}) for op in ops if op["#"] == "1.rnn"], "a recurrent layer has other operands"),
        (lambda ops: attributes_of(ops, "1.slice")["axes"].update(D=[{"#": "0.a_i64", "D": -(2**31)}]), "the axes of an operator is [-2147483648]"),
        (lambda ops: attributes_of(ops, "1.fetch")["col"].update(D=-1), "its outputs are not numbered in their order"),
        (lambda ops: attributes_of(ops[-8:], "1.slice")["axes"].update(D=[{"#": "0.a_i64", "D": 0}]), "the model must give float32 [2, 2]"),
    ],
)  # fmt: skip
def test_a_program_that_would_read_other_memory(paddle_copy, change, message):
    """Paddle's kernels do not check these; each one ended the process, or gave predictions of another shape."""
    assert message in paddle_copy(change)


def test_a_program_that_fills_the_memory(paddle_copy):
    """The shape of an array that is filled: four billion numbers."""

    def change(ops):
        place = next(number for number, op in enumerate(ops) if op["#"] == "1.full_with_tensor")
        shape = copy.deepcopy(next(op for op in ops if op["#"] == "1.full_int_array"))
        shape["A"][0]["AT"]["D"] = [{"#": "0.a_i64", "D": 2**32}]
        shape["O"][0]["%"] = 9999
        ops[place]["I"][1]["%"] = 9999
        ops.insert(place, shape)

    assert "Fail to alloc memory of 17179869184 size" in paddle_copy(change)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"program": {"regions": [5]}}'])
def test_a_program_that_is_none(exported, tmp_path, content):
    folder = shutil.copytree(exported, tmp_path / "copy")
    replace_file(folder, "multitask.json", content)
    with pytest.raises(RunError, match=r"multitask.json: must be a graph that `lmf export` wrote, but it is damaged"):
        Predictor(folder)


def test_weights_that_do_not_fit(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    content = (exported / "multitask.pdiparams").read_bytes()
    for wrong in (content[:-1], content + b"\0", content[4:], b"", content.replace(b"\x08\x05", b"\x08\x03", 1)):
        replace_file(folder, "multitask.pdiparams", wrong)
        with pytest.raises(RunError, match="must be a graph that `lmf export` wrote, but"):
            Predictor(folder)


def test_duplicate_keys_cannot_hide_an_operator(exported):
    """Two readers of JSON may take different ones of two equal keys: what is loaded is what was checked."""
    text = (exported / "multitask.json").read_text()
    hidden = text.replace('{"#":"1.fetch"', '{"#":"1.print","#":"1.fetch"', 1).encode()
    description = ModelDescription.read(exported)
    (model,) = description.models
    weights = (exported / "multitask.pdiparams").read_bytes()
    checked = graph.check_paddle(hidden, weights, description.graph_inputs(model), model.emotions)
    assert b"1.print" not in checked


# -- ONNX


def varint(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(number, content):
    """A field of a protocol buffer's message, written here by its specification."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def value_info(name, *sizes):
    dims = b"".join(field(1, field(2, b"batch") if size < 0 else field(1, size)) for size in sizes)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, dims)))


def onnx_model(node=b"", graph_extra=b"", model_extra=b"", inputs=(("audio", -1, 5),), outputs=(("happy", -1, 2),)):
    body = node + graph_extra + field(2, b"graph")
    body += b"".join(field(11, value_info(*one)) for one in inputs)
    body += b"".join(field(12, value_info(*one)) for one in outputs)
    return field(1, 8) + field(7, body) + field(8, field(2, 17)) + model_extra


def check(content):
    graph.check_onnx(content, {"audio": (-1, 5)}, ["happy"])


TENSOR = field(1, 2) + field(2, 1)


def constant(tensor):
    return field(1, field(4, b"Constant") + field(5, field(1, b"value") + field(5, tensor)))


def test_an_onnx_model_by_hand_is_accepted():
    check(onnx_model(constant(TENSOR + field(9, bytes(8)))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (onnx_model(field(1, field(4, b"If"))), "its operators include 'If'"),
        (onnx_model(field(1, field(4, b"Relu") + field(7, b"com.evil"))), "its fields of a node include '7'"),
        (onnx_model(constant(TENSOR + field(14, 1))), "its fields of a tensor include '14'"),
        (onnx_model(constant(TENSOR + field(13, field(1, b"location")))), "its fields of a tensor include '13'"),
        (onnx_model(graph_extra=field(5, TENSOR + field(13, b""))), "its fields of a tensor include '13'"),
        (onnx_model(field(1, field(4, b"Relu") + field(5, field(1, b"body") + field(6, b"")))), "fields of a attribute"),
        (onnx_model(model_extra=field(25, b"")), "its fields of a model include '25'"),
        (onnx_model(graph_extra=field(15, b"")), "its fields of a graph include '15'"),
        (onnx_model(model_extra=field(7, b"")), "it is damaged"),
        (onnx_model(inputs=(("audio", -1, 6),)), "its inputs are"),
        (onnx_model(inputs=()), "its inputs are"),
        (onnx_model(outputs=(("sad", -1, 2),)), "its outputs are"),
        (onnx_model()[:-3], "it is damaged"),
        (b"", "it is damaged"),
        (b"\0\0\0\0ORTM" + bytes(40), "but"),
        (b"\x0b" * 20, "it is damaged"),
    ],
)  # fmt: skip
def test_onnx_models_that_are_refused(content, message):
    with pytest.raises(RunError) as caught:
        check(content)
    assert message in str(caught.value)


def node(operator, inputs, outputs, attributes=b""):
    return field(
        1,
        b"".join(field(1, name) for name in inputs)
        + b"".join(field(2, name) for name in outputs)
        + field(4, operator)
        + attributes,
    )


def test_an_onnx_model_that_fills_the_memory(exported_onnx, tmp_path):
    """Clips expanded two billion times: 86 GB."""
    shape = field(1, 3) + field(2, 7) + field(9, np.array([2**31, 1, 1]).tobytes())
    nodes = node(b"Constant", [], [b"shape"], field(5, field(1, b"value") + field(5, shape) + field(20, 4)))
    nodes += node(b"Expand", [b"audio", b"shape"], [b"large"])
    axes = field(5, field(1, b"axes") + field(8, 0) + field(20, 7)) + field(
        5, field(1, b"keepdims") + field(3, 0) + field(20, 2)
    )
    for name in (b"happy", b"sad", b"angry", b"neutral"):
        nodes += node(b"ReduceMax", [b"large"], [name], axes)
    folder = shutil.copytree(exported_onnx, tmp_path / "copy")
    inputs = (("audio", -1, 5), ("video", -1, 4), ("text", -1, -1, 3))
    outputs = tuple((name, -1, 2) for name in ("happy", "sad", "angry", "neutral"))
    replace_file(folder, "multitask.onnx", onnx_model(nodes, inputs=inputs, outputs=outputs))
    with pytest.raises(RunError, match=r"multitask.onnx: the model must run on .*BFCAren"):
        Predictor(folder)


def test_onnxruntime_prints_nothing_of_a_file(exported_onnx, tmp_path, capfd):
    folder = shutil.copytree(exported_onnx, tmp_path / "copy")
    for name in (b"\x1b[2J", b"\xb1\xb1\xb1\xb1"):
        nodes = b"".join(node(b"Relu", [name], [one]) for one in (b"happy", b"sad", b"angry", b"neutral"))
        inputs = (("audio", -1, 5), ("video", -1, 4), ("text", -1, -1, 3))
        outputs = tuple((one, -1, 2) for one in ("happy", "sad", "angry", "neutral"))
        replace_file(folder, "multitask.onnx", onnx_model(nodes, inputs=inputs, outputs=outputs))
        with pytest.raises(RunError) as caught:
            Predictor(folder)
        assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_onnx_file_is_loaded_unchecked(exported_onnx, tmp_path):
    folder = shutil.copytree(exported_onnx, tmp_path / "copy")
    replace_file(folder, "multitask.onnx", onnx_model())
    with pytest.raises(RunError, match="multitask.onnx: must be a graph that `lmf export` wrote, but its outputs are"):
        Predictor(folder)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["paddle", "onnx"])
def test_mutations_are_harmless_or_one_line(exported, exported_onnx, tmp_path, form):
    """Flipped, cut and exchanged bytes under a right hash: a `RunError`, or a model that predicts."""
    source = exported if form == "paddle" else exported_onnx
    folder = shutil.copytree(source, tmp_path / "copy")
    rng = np.random.default_rng(0)
    names = sorted(path.name for path in source.iterdir() if path.name != "lmf_model.json")
    for _ in range(300):
        name = names[rng.integers(len(names))]
        content = bytearray((source / name).read_bytes())
        place = int(rng.integers(len(content)))
        match rng.integers(3):
            case 0:
                content[place] ^= 1 << int(rng.integers(8))
            case 1:
                del content[place:]
            case 2:
                content[place : place + 4] = rng.bytes(4)
        replace_file(folder, name, bytes(content))
        try:
            Predictor(folder)
        except RunError as error:
            assert "\n" not in str(error)
        replace_file(folder, name, (source / name).read_bytes())
