"""The pickles here are made by Python's own pickle, by hand from opcodes, or recorded from Python 2 and numpy 2."""

import collections
import contextlib
import io
import os
import pickle
import pickletools
import struct

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickle_parts import ARRAYS, array_opcodes, opcodes
from recorded_pickles import RECORDED

from lmf_multitask.data import pickle_bytes, safe_pickle
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.data.stored_array import StoredArray, to_array
from lmf_multitask.errors import DataError


def plain(value):
    """What `read_pickle` returned, with every array read."""
    if isinstance(value, StoredArray):
        return value.read()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_under_every_protocol(read, name, protocol):
    expected = ARRAYS[name]
    stored = read(pickle.dumps({"x": expected}, protocol=protocol))["x"]
    assert stored.shape == expected.shape
    got = stored.read()
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == stored.dtype == expected.dtype.newbyteorder("=")
    assert got.shape == expected.shape
    assert got.flags.c_contiguous
    assert got.flags.writeable
    got[...] = got.flat[0] if got.size else 0
    np.testing.assert_array_equal(stored.read(), expected)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_under_every_protocol(read, protocol):
    tree = {
        "text": "ä\n\\'\"",
        "bytes": bytes(range(256)),
        "empty": [b"", "", [], {}, (), None],
        "numbers": [0, 1, 255, 256, 65536, -1, 2**31, -(2**40), 2**100, 1.5, -0.1, float("inf")],
        "truth": [True, False],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "scalars": [np.float64(2.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("ab"), np.bytes_(b"ab")],
        "ordered": collections.OrderedDict([("a", 1), ("b", [2])]),
        "default": collections.defaultdict(dict, {"a": {1: 2}}),
        "array of bytes": bytearray(b"abc"),
        3: "three",
        None: "none",
    }
    expected = {**tree, "array of bytes": b"abc"}
    got = read(pickle.dumps(tree, protocol=protocol))
    assert got == expected
    assert [type(value) for value in got["scalars"]] == [float, float, int, bool, str, bytes]


@pytest.mark.parametrize("protocol", range(6))
def test_sets_become_lists(read, protocol):
    got = read(pickle.dumps([{1, 2}, frozenset([3])], protocol=protocol))
    assert [sorted(items) for items in got] == [[1, 2], [3]]


@pytest.mark.parametrize("protocol", range(6))
def test_large_text_and_bytes_stay_in_the_file(read, protocol):
    got = read(pickle.dumps(["ä" * 100_000, np.arange(50_000.0)], protocol=protocol))
    assert not isinstance(got[0], str)
    np.testing.assert_array_equal(got[1].read(), np.arange(50_000.0))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_hold_what_they_hold(read, protocol):
    """MMSA's raw text, ids and the like; nothing of numpy is built from them."""
    inner = np.arange(3.0)
    texts = np.array([["a", "\u4f60"], [None, b"b"]], object)
    got = read(pickle.dumps([texts, np.array([inner, inner, 1], object)], protocol=protocol))
    assert (got[0].shape, got[0].dtype) == ((2, 2), np.dtype(object))
    assert got[0].objects == ["a", "\u4f60", None, b"b"]
    assert got[1].objects[0] is got[1].objects[1]
    np.testing.assert_array_equal(got[1].objects[0].read(), inner)
    with pytest.raises(TypeError):
        got[0].read()


def test_an_array_of_objects_that_are_numbers(read):
    got = read(pickle.dumps([np.array([[1, 2.5], [3, 4]], object), np.array(["a"], object)]))
    np.testing.assert_array_equal(to_array(got[0], 100), [[1, 2.5], [3, 4]])
    with pytest.raises(ValueError, match="holds text"):
        to_array(got[1], 100)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("name", ARRAYS)
def test_joblib_files(tmp_path, name, protocol):
    array = ARRAYS[name]
    joblib.dump(
        {"a": [array, array], "objects": np.array(["x", None], object), "b": "text"}, tmp_path / "x", protocol=protocol
    )
    got = read_pickle(tmp_path / "x")
    for stored in got["a"]:
        np.testing.assert_array_equal(stored.read(), array)
    assert got["objects"].objects == ["x", None]
    assert got["b"] == "text"


@pytest.mark.parametrize("protocol", range(6))
def test_shared_arrays_stay_shared(read, protocol):
    array = np.arange(4.0)
    got = read(pickle.dumps({"a": array, "b": array, "c": array.copy()}, protocol=protocol))
    assert got["a"] is got["b"]
    assert got["a"] is not got["c"]


def test_bytes_keys_become_text(read):
    assert read(pickle.dumps({b"happy": {b"train": 1}, "sad": 2})) == {"happy": {"train": 1}, "sad": 2}


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
@pytest.mark.parametrize("protocol", range(6))
def test_a_key_as_bytes_and_as_text_is_not_merged(read, kind, protocol):
    for first, second in ((b"a", "a"), ("\xe9", b"\xe9"), ("\xe9", "\xe9".encode())):
        with pytest.raises(DataError, match="has the key .* twice, perhaps as text and as bytes"):
            read(pickle.dumps(kind([(first, 1), (second, 2)]), protocol))
    assert read(pickle.dumps({"a": {b"a": 1}}, protocol)) == {"a": {"a": 1}}


@pytest.mark.parametrize("writer", RECORDED)
def test_pickles_of_other_pythons_and_numpys(read, writer):
    got = read(RECORDED[writer])
    assert got["a"] is got["same"]
    assert got["a"].read().tolist() == [1.5, -2.0]
    assert got["a"].dtype == np.float32
    rest = {name: value for name, value in got.items() if name not in ("a", "same")}
    assert rest == {"b": "ä", "n": 10**20, "s": 0.5, "f": 0.1, "t": True, "set": [1]}


def python_2_protocol_0(array):
    """As Python 2 writes an array under protocol 0: its bytes as a string literal on one line."""
    literal = repr(array.tobytes())[1:]
    shape = "".join(f"I{n}\n" for n in array.shape)
    return (
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        f"({shape}tcnumpy\ndtype\n(S'{array.dtype.str[1:]}'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS{literal}\ntb."
    ).encode("ascii")


@pytest.mark.parametrize("count", [3, 9_000, 300_000])
def test_text_payloads_of_every_length(read, count):
    array = np.random.default_rng(count).integers(0, 256, count, dtype="u1")
    np.testing.assert_array_equal(read(python_2_protocol_0(array)).read(), array)


def test_payloads_are_not_read_before_they_are_wanted(tmp_path, monkeypatch):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(np.zeros(1_000_000), protocol=4))
    taken = []
    original = safe_pickle.Machine._take
    monkeypatch.setattr(safe_pickle.Machine, "_take", lambda self, n: taken.append(n) or original(self, n))
    read_pickle(path)
    assert sum(taken) < 1000


def test_a_file_that_shrinks_after_opening(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(np.zeros(100_000)))
    stored = read_pickle(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="must hold 800,000 bytes for an array, but has"):
        stored.read()


def test_a_file_that_is_replaced_after_opening(tmp_path):
    """The array is read from the file that was opened, not from the one that now has its name."""
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(np.arange(100_000.0)))
    stored = read_pickle(path)
    (tmp_path / "other").write_bytes(pickle.dumps(np.zeros(100_000)))
    (tmp_path / "other").replace(path)
    np.testing.assert_array_equal(stored.read(), np.arange(100_000.0))


def framed(content, size=None):
    return b"\x80\x04\x95" + struct.pack("<Q", len(content) if size is None else size) + content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (framed(b"\x8c\x03abc.", size=4), "crosses the end of a frame"),
        (framed(b"T\x03\x00\x00\x00abc.", size=6), "crosses the end of a frame"),
        (framed(b"I12\n.", size=2), "crosses the end of a frame"),
        (framed(b"S'abc'\n.", size=3), "crosses the end of a frame"),
        (framed(b"J\x01\x00\x00\x00.", size=3), "crosses the end of a frame"),
        (framed(b"N." + bytes(9), size=90), "ends too early: 90 bytes are announced, 11 are left"),
        (framed(b"N\x95" + struct.pack("<Q", 1) + b"." + bytes(9)), "begins a frame inside another one"),
    ],
)
def test_arguments_and_frames_that_cross_the_end_of_a_frame(read, content, told):
    """CPython's C unpickler drops what is left of such a frame: it would see another program than a reader that goes on."""
    with pytest.raises(DataError, match=told):
        read(content)


def test_frames_that_end_between_instructions(read):
    """As pickle writes them: large payloads lie between frames."""
    assert read(framed(b"]\x94(K\x01") + b"K\x02e.") == [1, 2]
    tree = [["a" * 70_000, np.arange(9.0)], "b" * 90_000, list(range(60_000))]
    for protocol in (4, 5):
        got = plain(read(pickle.dumps(tree, protocol=protocol)))
        assert got[2] == tree[2]
        np.testing.assert_array_equal(got[0][1], tree[0][1])


def from_buffer(values, shape, axes):
    """numpy 2.3's pickle of an array whose axes were permuted: its memory, the shape of that, and the permutation."""
    head = b"\x80\x05cnumpy._core.numeric\n_frombuffer\n("
    payload = b"\x96" + struct.pack("<Q", values.nbytes) + values.tobytes()
    dtype = b"cnumpy\ndtype\n(V" + values.dtype.str[1:].encode() + b"\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
    numbers = [b"(" + b"".join(b"K%c" % number for number in part) + b"t" for part in (shape, axes)]
    return head + payload + dtype + numbers[0] + b"VK\n" + numbers[1] + b"tR."


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 2, 0), (2, 0, 1), (0, 1, 2)])
def test_permuted_axes_of_numpy_2_3(read, axes):
    values = np.arange(24.0).reshape(2, 3, 4)
    stored = read(from_buffer(values, values.shape, axes))
    expected = values.transpose(axes)
    assert stored.shape == expected.shape
    np.testing.assert_array_equal(stored.read(), expected)
    np.testing.assert_array_equal(stored.read_rows(1, 3), expected[1:3])


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 1), (0, 1, 3), (0, 1, 2, 3)])
def test_axes_that_are_no_permutation(read, axes):
    with pytest.raises(DataError, match="describes an array wrongly"):
        read(from_buffer(np.arange(24.0), (2, 3, 4), axes))


@pytest.mark.parametrize("protocol", range(6))
def test_large_keys_counters_and_memory_maps(read, tmp_path, protocol):
    mapped = np.memmap(tmp_path / "m", "f4", "w+", shape=(3, 2))
    mapped[:] = np.arange(6).reshape(3, 2)
    counter = collections.defaultdict(int, {2**53: 1, 2**63: 2, -(2**60): 3})
    got = read(pickle.dumps([counter, mapped], protocol=protocol))
    assert got[0] == dict(counter)
    np.testing.assert_array_equal(got[1].read(), mapped)
    for key in (2**64, 2.0**53):
        with pytest.raises(DataError, match="has a key that is neither text nor a number"):
            read(pickle.dumps({key: 1}, protocol=protocol))


def test_types_are_not_called(read):
    with pytest.raises(DataError, match="calls a type"):
        read(b"cbuiltins\nint\n(V9\ntR.")


# -- what is refused


class Runs:
    """A pickle of it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Plain:
    """A pickle of it makes an object."""


GLOBALS = [
    ("posix", "system"), ("os", "system"), ("nt", "system"), ("subprocess", "Popen"), ("subprocess", "check_output"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "compile"), ("builtins", "open"), ("builtins", "getattr"),
    ("builtins", "__import__"), ("builtins", "globals"), ("builtins", "map"), ("builtins", "object"), ("builtins", "type"),
    ("__builtin__", "eval"), ("__builtin__", "apply"), ("importlib", "import_module"), ("runpy", "run_path"),
    ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"), ("types", "FunctionType"), ("types", "CodeType"),
    ("operator", "attrgetter"), ("functools", "partial"), ("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor"),
    ("numpy", "load"), ("numpy", "fromfile"), ("numpy", "matrix"), ("numpy", "float64"),
    ("numpy.core.multiarray", "fromfile"), ("numpy.core.multiarray", "frombuffer"), ("numpy.testing._private.utils", "runstring"),
    ("numpy.core._internal", "_ctypes"), ("numpy.ndarray", "__setstate__"), ("numpy.core.multiarray", "_reconstruct.__globals__"),
    ("numpy.ma.core", "_mareconstruct"), ("numpy.random._pickle", "__generator_ctor"), ("pandas.core.frame", "DataFrame"),
    ("torch._utils", "_rebuild_tensor_v2"), ("paddle", "to_tensor"), ("collections", "namedtuple"), ("collections", "Counter"),
    ("_codecs", "decode"), ("codecs", "encode"), ("webbrowser", "open"), ("socket", "socket"), ("shutil", "rmtree"),
    ("ctypes", "CDLL"), ("pip", "main"), ("x" * 200, "y"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), GLOBALS)
@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_every_other_global_is_refused_by_name(read, module, name, form):
    pair = f"{module}\n{name}\n".encode("latin-1")
    if form == "STACK_GLOBAL":
        content = (
            b"\x80\x04"
            + b"".join(b"X" + struct.pack("<I", len(t)) + t for t in (module.encode(), name.encode()))
            + b"\x93."
        )
    else:
        content = b"c" + pair + b")R." if form == "GLOBAL" else b"(i" + pair + b"."
    with pytest.raises(DataError, match="names ") as caught:
        read(content)
    text = str(caught.value)
    assert len(text) < 500
    assert f"names {module[:60]}.{name} (at byte" in text
    assert "Nothing of it was run" in text


def test_nothing_is_run(read, tmp_path):
    marker = tmp_path / "marker"
    for protocol in range(6):
        content = pickle.dumps({"happy": Runs(os.mkdir, str(marker))}, protocol=protocol)
        with pytest.raises(
            DataError, match=r"must be plain data \(arrays, numbers, text, dicts, lists\), but names posix.mkdir"
        ):
            read(content)
    assert not marker.exists()


HOSTILE = {
    "an object in an object array": (pickle.dumps(np.array([Plain(), 1], object)), "names .*Plain"),
    "an object array of too few": (
        pickle.dumps(np.array([None, 1], object), protocol=2).replace(b"K\x02\x85", b"K\x03\x85"),
        r"gives an array of the shape \[3\] 2 objects",
    ),
    "a structured array": (pickle.dumps(np.zeros(2, "i4,f8")), "has an array of the type V12"),
    "an array of dates": (pickle.dumps(np.array(["2020-01-01"], "M8[D]")), "has an array of the type M8"),
    "a masked array": (pickle.dumps(np.ma.array([1.0])), "names numpy.ma.core._mareconstruct"),
    "a generator": (pickle.dumps(np.random.RandomState(0)), "names numpy.random"),
    "an object": (pickle.dumps(Plain()), "names .*Plain"),
    "a class": (pickle.dumps(io.StringIO), "names _io.StringIO"),
    "a numpy function": (pickle.dumps(np.sum), "names numpy.sum"),
    "an OrderedDict's class of its own": (opcodes("ccollections\nOrderedDict.clear\n."), "names collections.OrderedDict.clear"),
    "a new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "holds an object that is not plain data"),
    "an array by call": (opcodes("cnumpy\nndarray\n((I1000000000000\nttR."), "calls a type"),
    "a persistent id": (opcodes("Pfile:///etc/passwd\n."), "refers to data outside the file"),
    "a binary persistent id": (opcodes("S'x'\nQ."), "refers to data outside the file"),
    "an extension": (b"\x80\x02\x82\x01.", "names an extension of the copyreg module"),
    "the state of a dict": (opcodes("(d(dS'x'\nI1\nsb."), "sets the state of something that has none"),
    "the state of an admitted name": (opcodes("cnumpy\nndarray\n(db."), "sets the state of something that has none"),
    "a call of text": (opcodes("S'os.system'\n(S'x'\ntR."), "calls something that is not a function"),
    "a call of an array": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(tR."), "calls something that is not a function"),
    "a shape too large": (array_opcodes(shape="I1000000\nt"), r"shape \[1000000\] 8 bytes, where it takes 8,000,000"),
    "a shape too small": (array_opcodes(payload="S'1234567812345678'\n"), r"shape \[1\] 16 bytes, where it takes 8"),
    "a negative shape": (array_opcodes(shape="I-1\nt"), "gives an array an impossible shape"),
    "an overflowing shape": (array_opcodes(shape="I4294967296\nI4294967296\nI4294967297\nt"), "gives an array an impossible shape"),
    "an empty but endless shape": (array_opcodes(shape="I0\nI99999999999\nI99999999999\nt", payload="S''\n"), "gives an array an impossible shape"),
    "too many dimensions": (array_opcodes(shape="I1\n" * 40 + "t"), "gives an array an impossible shape"),
    "a shape of text": (array_opcodes(shape="S'a'\nt"), "gives an array an impossible shape"),
    "a shape of truths": (array_opcodes(shape="I01\nt"), "gives an array an impossible shape"),
    "a number for text to encode": (opcodes("c_codecs\nencode\n(I1\nS'latin1'\ntR."), "encodes something that is not text"),
    "bytes of a number": (opcodes("cbuiltins\nbytes\n(I1000000000\ntR."), "makes bytes of something else"),
    "a list of a number": (opcodes("cbuiltins\nlist\n(I1\ntR."), "makes a list of something else"),
    "a type with metadata": (array_opcodes(dtype="(S'f8'\nI0\nI1\ntR(I4\nS'<'\nNNNI-1\nI-1\nI0\n(dtb"), "has an array of a type with metadata"),
    "another codec": (opcodes("c_codecs\nencode\n(Vabc\nS'rot13'\ntR."), "encodes text as rot13"),
    "an array as a key": (opcodes("(d" + array_opcodes()[:-1].decode() + "I1\ns."), "has a key that is neither text nor a number"),
    "a colliding key": (b"(d\x8a\x09" + (9 * (2**61 - 1)).to_bytes(9, "little") + b"I1\ns.", "has a key that is neither text nor a number"),
    "append to an array": (array_opcodes()[:-1] + b"I1\na.", "appends to something that is not a list"),
    "a long that is too long": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "has a number that is too long"),
    "a number with a thousand digits": (b"I" + b"9" * 1000 + b"\n.", "has a line that is too long"),
    "a number that is a word": (b"Iabc\n.", "has a malformed number"),
    "a length beyond the file": (b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"x.", "ends too early"),
    "a length just beyond the file": (b"B" + struct.pack("<I", 100_000) + b"x" * 99_999, "ends too early: 100,000 bytes are announced, 99,999 are left"),
    "an unknown instruction": (b"\xff.", "has the byte 0xff, which is not an instruction"),
    "an empty stack": (b".", "is damaged or something else"),
    "an empty memo": (b"h\x05.", "is damaged or something else"),
    "no mark": (b"e.", "is damaged or something else"),
    "a tuple of nothing": (b"\x80\x02\x87.", "is damaged or something else"),
    "no end": (b"\x80\x02N", "ends too early"),
    "half of a file": (pickle.dumps({"a": np.arange(100_000.0)})[:400_000], "ends too early"),
    "half of a small file": (pickle.dumps({"a": np.arange(100.0)}, protocol=2)[:500], "ends too early"),
    "plain text": (b"hello world, this is a text file\n" * 9, "must be a"),
    "a table": (b"id,label\n1,0\n2,1\n", "is text \\(a table, JSON or source code\\). Give it the name"),
    "colours for the terminal": (b"cos\x1b[31m\nsystem\n.", "is damaged or something else"),
    "JSON": (b'{"happy": {"train": {}}}', "is text"),
    "a table of numbers": (b"-1.5,2\n3,4\n", "is text"),
    "a photograph": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "must be a"),
    "zeros": (b"\x00" * 1000, "has the byte 0x00"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_one_line_that_says_why(read, tmp_path, name):
    content, message = HOSTILE[name]
    with pytest.raises(DataError, match=message) as caught:
        read(content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'data.pkl'}: must be ")
    assert "\n" not in text
    assert len(text) < 400


# -- what would fill the memory


def test_endless_objects_are_refused(read, monkeypatch):
    monkeypatch.setattr(pickle_bytes, "MOST_OBJECTS", 1000)
    for content in (b"]" * 2000, b"(" * 2000, b"N" + b"\x94" * 2000, b"]" + b"2" * 2000):
        with pytest.raises(DataError, match="holds more than 1,000 single objects; store the features as numpy arrays"):
            read(b"\x80\x04" + content + b".")


def test_repeated_encoding_is_refused(read):
    # 60 kB of text, encoded again and again at four bytes a time
    text = "a" * 60_000
    head = f"c_codecs\nencode\np0\n0V{text}\np1\n0Vlatin1\np2\n0"
    again = "g0\n(g1\ng2\ntR0"
    with pytest.raises(DataError, match="repeats its parts too often"):
        read(opcodes(head + again * 50 + "N."))


def test_repeated_copies_of_a_list_are_refused(read, monkeypatch):
    monkeypatch.setattr(pickle_bytes, "MOST_OBJECTS", 10_000)
    head = "cbuiltins\nlist\np0\n0(" + "I1\n" * 1000 + "lp1\n0"
    with pytest.raises(DataError, match="holds more than 10,000 single objects"):
        read(opcodes(head + "g0\n(g1\ntR0" * 50 + "N."))


def test_lists_that_hold_each_other_are_harmless(read):
    doubled = "(lp0\nI1\na" + "".join(f"(lp{n + 1}\ng{n}\nag{n}\na" for n in range(40))
    tree = read(opcodes(doubled + "."))
    with pytest.raises(ValueError, match="nested too deep"):
        to_array(tree, limit=1000)
    itself = read(opcodes("(lp0\ng0\na."))
    with pytest.raises(ValueError, match="nested too deep"):
        to_array(itself, limit=1000)


# -- lists instead of arrays


@pytest.mark.parametrize(
    ("value", "dtype"),
    [([[1, 0], [0, 1]], "int64"), ([1, 2.5], "float64"), ((True, 0), "int64"), ([[[1.0, 2.0]]], "float64")],
)
def test_nested_lists_become_arrays(value, dtype):
    got = to_array(value, limit=100)
    np.testing.assert_array_equal(got, np.array(value, dtype))
    assert got.dtype == dtype


def test_lists_of_arrays_are_stacked(read):
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(to_array(read(pickle.dumps(list(rows))), limit=100), rows)


# -- fuzz


def _read_or_refuse(path, content):
    path.write_bytes(content)
    try:
        value = read_pickle(path)
    except DataError as error:
        assert "\n" not in str(error)
        return
    if _is_tree(value, 4):
        with contextlib.suppress(DataError):
            plain(value)


def _is_tree(value, depth):
    """Not an endless one."""
    if isinstance(value, dict):
        return depth > 0 and len(value) < 100 and all(_is_tree(item, depth - 1) for item in value.values())
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) < 100 and all(_is_tree(item, depth - 1) for item in value)
    return True


SEEDS = [pickle.dumps({"a": [np.arange(3.0), "ä", b"x", {1: (2.5, None)}]}, protocol=p) for p in range(6)]
SEEDS += RECORDED.values()


_EDITS = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=4)
counts = pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])


def attack(count, read, *strategies):
    """Reads as many drawn inputs, the same ones every time."""
    settings(max_examples=count, deadline=None, derandomize=True)(given(*strategies)(read))()


@counts
def test_damaged_pickles_are_read_or_refused(tmp_path, count):
    def read(seed, edits):
        content = bytearray(seed)
        for place, new in edits:
            place %= len(content)
            content[place : place + len(new)] = new
        _read_or_refuse(tmp_path / "fuzz.pkl", bytes(content))

    attack(count, read, st.sampled_from(SEEDS), _EDITS)


_INSTRUCTIONS = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])
_PIECES = st.one_of(
    _INSTRUCTIONS,
    _INSTRUCTIONS,
    st.sampled_from(
        [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n",
         b"cnumpy.core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"cbuiltins\nlist\n", b"ccollections\nOrderedDict\n",
         b"K\x01", b"K\x00", b"U\x02f8", b"U\x02i1", b"U\x01<", b"U\x01C", b"Xlatin1", b"K\x00\x85", b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"]
    ),
    st.binary(max_size=2),
)  # fmt: skip


@counts
def test_random_programs_are_read_or_refused(tmp_path, count):
    def read(pieces):
        _read_or_refuse(tmp_path / "fuzz.pkl", b"".join(pieces) + b".")

    attack(count, read, st.lists(_PIECES, max_size=40))


def test_damaged_large_payloads(tmp_path):
    """Text that stands for bytes, and holds what no byte is: noticed when the numbers are wanted."""
    path = tmp_path / "data.pkl"
    text = "\u20ac" * 70_000
    for form in ("V" + text.encode("raw-unicode-escape").decode("latin-1") + "\n", None):
        content = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I70000\ntcnumpy\ndtype\n(S'u1'\ntRI00\n"
        payload = form.encode("latin-1") if form else b"X" + struct.pack("<I", 210_000) + text.encode()
        path.write_bytes(content + b"c_codecs\nencode\n(" + payload + b"S'latin1'\ntRtb.")
        with pytest.raises(DataError, match="must hold complete arrays, but one is damaged"):
            read_pickle(path).read()


def test_dicts_of_dicts_and_bytes_of_text(read):
    assert read(opcodes("cbuiltins\ndict\n((dS'a'\nI1\nstR.")) == {"a": 1}
    assert read(opcodes("cbuiltins\nbytes\n(V\xe4\nS'latin1'\ntR.")) == b"\xe4"
    assert read(opcodes("ccollections\ndefaultdict\n(NtR.")) == {}
