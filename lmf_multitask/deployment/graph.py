"""Checks of exported graphs before a runtime loads them: a graph is a program, and its file may come from a stranger.

Only operators that compute are allowed. A graph cannot read or write files, print, call Python, hold other graphs, or take
its weights from further files. Its inputs, outputs and weights must be those that the description of the model lists.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lmf_multitask.errors import RunError

Shape = Sequence[int]
"""Sizes of an array; -1 is any size."""

EXPORTED = {
    "paddle": """
        p 0.combine 0.split 1.abs 1.add 1.any 1.arange 1.batch_norm_ 1.cast 1.clip 1.concat 1.data 1.divide 1.dropout 1.fetch
        1.flatten 1.full 1.full_int_array 1.full_with_tensor 1.gather_nd 1.greater_than 1.log_softmax 1.logsumexp 1.matmul 1.max
        1.multiply 1.not_equal 1.relu 1.reshape 1.rnn 1.scale 1.shape64 1.slice 1.softmax 1.sqrt 1.square 1.squeeze 1.stack
        1.subtract 1.sum 1.transpose 1.unsqueeze
    """,
    "onnx": """
        Abs Add BatchNormalization Cast Clip Concat Constant Div Equal Expand GatherND Greater Identity LSTM LogSoftmax MatMul Mul Not
        Range ReduceLogSumExp ReduceMax ReduceSum Relu Reshape Shape Slice Softmax Sqrt Squeeze Sub Transpose Unsqueeze
    """,
}
"""Format -> operators that the exporter writes for our encoders and fusions; a test keeps the list complete and minimal."""

_FOR_PLUGINS = {
    "paddle": """
        1.bmm 1.einsum 1.elu 1.equal 1.exp 1.expand 1.gelu 1.layer_norm 1.leaky_relu 1.less_than 1.log 1.maximum
        1.mean 1.min 1.minimum 1.pow 1.prod 1.rsqrt 1.sigmoid 1.silu 1.softplus 1.swish 1.tanh 1.tile 1.unbind 1.where
    """,
    "onnx": """
        And Einsum Elu Erf Exp Flatten Gather LayerNormalization LeakyRelu Less Log Max Min Neg Or Pow Reciprocal
        ReduceMean ReduceMin ReduceProd Sigmoid Softplus Split Tanh Tile Where
    """,
}

OPERATORS = {form: {*names.split(), *_FOR_PLUGINS[form].split()} for form, names in EXPORTED.items()}
"""Format -> operators that a graph may consist of: the exporter's, and arithmetic that the layers of plug-ins may need.

A plug-in whose layers need others adds them: ``OPERATORS["paddle"].add("1.erf")``.
"""

_MOST_AXES = 9  # of an array of Paddle
_LARGEST_CONSTANT = 2**24  # numbers in an array that one operator fills with a value


class _DamagedError(ValueError):
    """The content of a graph's file; the text continues "but"."""


class _ForeignError(_DamagedError):
    """Operators that are not allowed."""


def check_paddle(program: bytes, weights: bytes, inputs: Mapping[str, Shape], outputs: Sequence[str]) -> bytes:
    """Checks a program of Paddle 3 (``.json``) and its weights (``.pdiparams``).

    Args:
        program: content of the ``.json`` file.
        weights: content of the ``.pdiparams`` file.
        inputs: name -> shape.
        outputs: names, in order.

    Returns:
        The program written anew from what was checked, so that two readers of JSON cannot see different programs.

    Raises:
        RunError: it holds anything else than what the exporter writes.
    """
    try:
        content = json.loads(program)
        (region,) = content["program"]["regions"]
        (block,) = region["blocks"]
        if block["args"] != []:
            raise _DamagedError("its block has arguments")
        operators = [_Operator.of(one) for one in block["ops"]]
        _check_names("operators", {one.name for one in operators} - OPERATORS["paddle"], _ForeignError)
        _check_order(operators)
        _check_axes(operators)
        _check_recurrent(operators)
        found = {one.text("name"): _shape(one.attribute("shape")) for one in operators if one.name == "1.data"}
        results = [one.text("name") for one in operators if one.name == "1.fetch"]
        _check_interface(found, results, inputs, outputs)
        if [one.attribute("col") for one in operators if one.name == "1.fetch"] != list(range(len(results))):
            raise _DamagedError("its outputs are not numbered in their order")
        constants = [_shape(one.attribute("shape")) for one in operators if one.name == "1.full"]
        if any(math.prod(shape) > _LARGEST_CONSTANT or min(shape, default=0) < 0 for shape in constants):
            raise _DamagedError("it fills an array that is too large")
        _check_weights(weights, dict(one.parameter() for one in operators if one.is_weight()))
        return json.dumps(content, separators=(",", ":")).encode()
    except (_DamagedError, ValueError, KeyError, TypeError, IndexError, RecursionError, struct.error) as error:
        raise _refused(error) from None


def check_onnx(model: bytes, inputs: Mapping[str, Shape], outputs: Sequence[str]) -> None:
    """Checks a model in ONNX; parameters and errors as of `check_paddle`."""
    try:
        (graph,) = [value for number, value in _walked(model, "model") if number == 7]
        operators, found, results = set(), {}, []
        for number, value in _walked(graph, "graph"):
            if number == 1:
                operators.add(_check_node(value))
            elif number == 11:
                name, shape = _value_info(value)
                found[name] = shape
            elif number == 12:
                results.append(_value_info(value)[0])
        _check_names("operators", operators - OPERATORS["onnx"], _ForeignError)
        _check_interface(found, results, inputs, outputs)
    except (_DamagedError, ValueError, KeyError, TypeError, IndexError) as error:
        raise _refused(error) from None


def _refused(error: Exception) -> RunError:
    reason = str(error) if isinstance(error, _DamagedError) else "it is damaged"
    advice = "Export the run again."
    if isinstance(error, _ForeignError):
        advice = "A plug-in whose parts need them adds them to OPERATORS (docs/own_fusion.md)."
    return RunError(f"must be a graph that `lmf export` wrote, but {reason}. {advice}")


def _check_names(what: str, foreign: set[str], error: type[_DamagedError] = _DamagedError) -> None:
    if foreign:
        raise error(f"its {what} include {', '.join(sorted(foreign))[:80]!r}")


def _check_interface(
    found: Mapping[str, Shape], results: Sequence[str], inputs: Mapping[str, Shape], outputs: Sequence[str]
) -> None:
    if list(results) != list(outputs):
        raise _DamagedError(f"its outputs are {results!s:.200} instead of {list(outputs)}")
    if {name: tuple(shape) for name, shape in found.items()} != {name: tuple(shape) for name, shape in inputs.items()}:
        raise _DamagedError(f"its inputs are {found!s:.200} instead of {dict(inputs)}")


# -- Paddle


class _Operator(NamedTuple):
    """One operator of a program."""

    name: str
    attributes: Any
    operands: list[int]
    results: list[Any]

    @classmethod
    def of(cls, content: dict[str, Any]) -> _Operator:
        name, is_weight = content["#"], content["#"] == "p"
        keys = {"#", "A", "O", "OA", *(("DA", "QA") if is_weight else ("I",))}
        if set(content) != keys:  # further ones: an operator that runs others
            raise _DamagedError(f"an operator has {', '.join(sorted(set(content) ^ keys))[:80]!r}")
        if is_weight:
            _check_types(content["A"], (int, int, int, str))
            _check_types(content["OA"], (int, int, int))
            return cls(name, content["A"], [], [content["O"]])
        for one in (*content["A"], *content["OA"]):
            _check_types([one["N"], one["AT"]["#"], one["AT"]["D"]], (str, str, object))
        return cls(name, content["A"], [one["%"] for one in content["I"]], content["O"])

    def attribute(self, name: str) -> Any:
        (found,) = [one["AT"]["D"] for one in self.attributes if one["N"] == name]
        return found

    def text(self, name: str) -> str:
        found = self.attribute(name)
        if not isinstance(found, str):
            raise _DamagedError(f"the {name} of an operator is {found!r:.80}")
        return found

    def is_weight(self) -> bool:
        """Whether it is a parameter that is stored in the weights file."""
        return self.name == "p" and not str(self.attributes[3]).endswith("__non_persistable")

    def parameter(self) -> tuple[str, tuple[int, ...]]:
        """Name and shape."""
        kind = self.results[0]["TT"]
        if kind["D"][0]["#"] != "0.t_f32":
            raise _DamagedError(f"a weight is of the type {kind['D'][0]['#']!r:.80}")
        return self.attributes[3], _shape(kind["D"][1])


def _check_types(values: Any, types: Sequence[type]) -> None:
    if type(values) is not list or len(values) != len(types) or not all(map(isinstance, values, types)):
        raise _DamagedError(f"an attribute is {values!r:.80}")


def _check_order(operators: Sequence[_Operator]) -> None:
    """Every operand must be a result of an earlier operator (0 stands for an operand that is left out)."""
    known = {0}
    for operator in operators:
        if not known.issuperset(operator.operands):
            raise _DamagedError("an operator takes the result of a later one")
        for result in operator.results:
            if type(result["%"]) is not int or type(result["TT"]) is not dict or result["%"] in known:
                raise _DamagedError("two results have the same number")
            known.add(result["%"])


def _check_axes(operators: Sequence[_Operator]) -> None:
    """Numbers of axes, which Paddle's kernels use as they are."""
    for one in (one for one in operators if one.name != "p"):
        for attribute in one.attributes:
            if re.search("axis|axes|perm", attribute["N"]):
                value = attribute["AT"]["D"]
                numbers = [item["D"] for item in value] if isinstance(value, list) else [value]
                if not all(isinstance(number, int) and -_MOST_AXES <= number < _MOST_AXES for number in numbers):
                    raise _DamagedError(f"the {attribute['N'][:40]} of an operator is {numbers!s:.80}")


def _check_recurrent(operators: Sequence[_Operator]) -> None:
    """Sizes of recurrent layers, which Paddle's kernel does not check: it would read other memory."""
    source = {result["%"]: one for one in operators for result in one.results}
    for one in (one for one in operators if one.name == "1.rnn"):
        _, states, weights, lengths, dropout = one.operands
        size, hidden, layers = (one.attribute(name) for name in ("input_size", "hidden_size", "num_layers"))
        directions = 2 if one.attribute("is_bidirec") else 1
        gates = {"LSTM": 4, "GRU": 3}.get(one.text("mode"), 1) * hidden
        matrices = []
        for layer in range(min(layers, 100)):
            matrices += [(gates, hidden * directions if layer else size), (gates, hidden)] * directions
        if source[states].name != "0.combine" or source[weights].name != "0.combine" or lengths != 0:
            raise _DamagedError("a recurrent layer has other operands")
        parameters = [source[number] for number in source[weights].operands]
        if not source[dropout].name == "p" or not all(parameter.is_weight() for parameter in parameters):
            raise _DamagedError("a recurrent layer has weights that are none")
        shapes = [parameter.parameter()[1] for parameter in parameters]
        if hidden < 1 or shapes != matrices + [(gates,)] * len(matrices):
            raise _DamagedError(f"a recurrent layer has weights of the shapes {shapes!s:.200}")


def _shape(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(size) is int and -1 <= size < 2**40 for size in sizes):
        raise _DamagedError(f"a shape is {sizes!r:.80}")
    return tuple(sizes)


def _check_weights(content: bytes, expected: Mapping[str, Shape]) -> None:
    """``.pdiparams``: the arrays one after the other in the order of their names, each with a header; float32."""
    start = 0
    for name in sorted(expected):
        version, levels, tensor_version, size = struct.unpack_from("<IQIi", content, start)
        start += struct.calcsize("<IQIi")
        fields = list(_fields(content[start : start + size]))
        shape = tuple(value for number, value in fields if number == 2)
        kinds = [value for number, value in fields if number == 1]
        if (version, levels, tensor_version, kinds) != (0, 0, 0, [5]) or shape != tuple(expected[name]):
            raise _DamagedError(f"the weight {name[:80]!r} is not float32 {list(expected[name])}")
        start += size + 4 * math.prod(shape)
    if start != len(content):
        raise _DamagedError(f"the weights have {len(content):,} bytes instead of {start:,}")


# -- ONNX: messages of protocol buffers, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

_ALLOWED_FIELDS = {
    "model": {1, 2, 3, 4, 5, 6, 7, 8},  # without training information and functions
    "graph": {1, 2, 5, 10, 11, 12, 13},
    "node": {1, 2, 3, 4, 5, 6},  # without a domain: the standard one
    "attribute": {1, 2, 3, 4, 5, 7, 8, 9, 13, 20},  # without graphs
    "tensor": {1, 2, 4, 5, 7, 8, 9, 10, 11, 12},  # without external data
}


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value (int or bytes) of each field of a message."""
    start = 0

    def varint() -> int:
        nonlocal start
        value = 0
        for shift in range(0, 70, 7):
            byte = content[start]
            start += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise _DamagedError("it is damaged")

    while start < len(content):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            yield number, varint()
            continue
        sizes = {1: 8, 5: 4}
        size = varint() if kind == 2 else sizes[kind]
        if start + size > len(content):
            raise _DamagedError("it is damaged")
        yield number, content[start : start + size]
        start += size


def _walked(content: Any, kind: str) -> list[tuple[int, Any]]:
    fields = list(_fields(content))
    _check_names(f"fields of a {kind}", {str(number) for number, _ in fields if number not in _ALLOWED_FIELDS[kind]})
    if kind == "graph":
        for number, value in fields:
            if number == 5:
                _walked(value, "tensor")
    return fields


def _check_node(content: bytes) -> str:
    """The operator of a node, whose attributes hold no graphs and no external data."""
    fields = _walked(content, "node")
    for number, value in fields:
        if number == 5:
            for inner, tensor in _walked(value, "attribute"):
                if inner == 5:
                    _walked(tensor, "tensor")
    (operator,) = [value.decode() for number, value in fields if number == 4]
    return operator


def _value_info(content: bytes) -> tuple[str, tuple[int, ...]]:
    """Name and shape of an input or output; a size that has a name instead of a number is -1."""
    fields = dict(_fields(content))
    tensor = dict(_fields(dict(_fields(fields[2]))[1]))
    if tensor[1] != 1:
        raise _DamagedError("an input or output is not float32")
    sizes = [dict(_fields(size)).get(1, -1) for number, size in _fields(tensor[2]) if number == 1]
    return fields[1].decode(), tuple(sizes)
