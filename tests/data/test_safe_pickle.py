"""The pickles here are made by Python's own pickle, by hand from opcodes, or recorded from Python 2 and numpy 2."""

import collections
import contextlib
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_pickles import RECORDED

from lmf_multitask.data import safe_pickle
from lmf_multitask.data.safe_pickle import StoredArray, read_pickle, to_array
from lmf_multitask.errors import DataError


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file."""

    def read_bytes(content):
        path = tmp_path / "data.pkl"
        path.write_bytes(content)
        return read_pickle(path)

    return read_bytes


def plain(value):
    """What `read_pickle` returned, with every array read."""
    if isinstance(value, StoredArray):
        return value.read()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


ARRAYS = {
    "float64": np.array([[1.5, np.nan, -np.inf], [0.0, -0.0, 1e300]]),
    "float32": np.arange(6, dtype="f4").reshape(3, 2),
    "float16": np.array([0.5], "f2"),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint8": np.arange(256, dtype="u1"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "bytes": np.array([b"ab", b"", b"abcd"]),
    "text": np.array(["ä", "", "\U0001f600xy"]),
    "big-endian": np.arange(5, dtype=">f8"),
    "Fortran order": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "a slice": np.arange(24.0).reshape(4, 6)[::2, 1::2],
    "no rows": np.zeros((0, 3), "f4"),
    "no dimensions": np.array(7.0),
    "every byte": np.frombuffer(bytes(range(256)) * 8, "f4"),
    "large": np.arange(60_000, dtype="f4").reshape(300, 200),
    "large bytes of every kind": np.frombuffer(bytes(range(256)) * 1024, "u1"),
    "large Fortran order": np.asfortranarray(np.arange(90_000.0).reshape(300, 300)),
    "large big-endian": np.arange(30_000, dtype=">i4"),
}


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
def test_shared_arrays_stay_shared(read, protocol):
    array = np.arange(4.0)
    got = read(pickle.dumps({"a": array, "b": array, "c": array.copy()}, protocol=protocol))
    assert got["a"] is got["b"]
    assert got["a"] is not got["c"]


def test_bytes_keys_become_text(read):
    assert read(pickle.dumps({b"happy": {b"train": 1}, "sad": 2})) == {"happy": {"train": 1}, "sad": 2}


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
    original = safe_pickle._Machine._take
    monkeypatch.setattr(safe_pickle._Machine, "_take", lambda self, n: taken.append(n) or original(self, n))
    read_pickle(path)
    assert sum(taken) < 1000


def test_a_file_that_shrinks_after_opening(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(np.zeros(100_000)))
    stored = read_pickle(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="must hold 800,000 bytes for an array, but has"):
        stored.read()
    path.unlink()
    with pytest.raises(DataError, match="must stay readable, but No such file"):
        stored.read()


# -- what is refused


class Runs:
    """A pickle of it calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Plain:
    """A pickle of it makes an object."""


def opcodes(text):
    """Readable bytes: a pickle written by hand."""
    return text.encode("latin-1")


def array_opcodes(
    dtype="(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb",
    shape="I1\nt",
    payload="S'12345678'\n",
    kind="cnumpy\nndarray\n",
):
    return opcodes(
        f"cnumpy.core.multiarray\n_reconstruct\n({kind}(I0\ntS'b'\ntR(I1\n({shape}cnumpy\ndtype\n{dtype}I00\n{payload}tb."
    )


GLOBALS = [
    ("posix", "system"), ("os", "system"), ("nt", "system"), ("subprocess", "Popen"), ("subprocess", "check_output"),
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "compile"), ("builtins", "open"), ("builtins", "getattr"),
    ("builtins", "__import__"), ("builtins", "globals"), ("builtins", "map"), ("builtins", "object"), ("builtins", "type"),
    ("__builtin__", "eval"), ("__builtin__", "apply"), ("importlib", "import_module"), ("runpy", "run_path"),
    ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"), ("types", "FunctionType"), ("types", "CodeType"),
    ("operator", "attrgetter"), ("functools", "partial"), ("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor"),
    ("numpy", "load"), ("numpy", "fromfile"), ("numpy", "memmap"), ("numpy", "matrix"), ("numpy", "float64"),
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


OBJECT_DTYPES = {
    "object code": "(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb",
    # the crafted dtypes of FACTS section 7: fields or subarrays of objects whose flags are cleared
    "void with an object field": "(S'V8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\nt(dS'a'\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI0\ntsI8\nI1\nI0\ntb",
    "fields on a plain code": "(S'f8'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\nt(dI8\nI1\nI0\ntb",
    "a subarray": "(S'f8'\nI0\nI1\ntR(I3\nS'<'\n(S'f8'\n(I2\nttNNI-1\nI-1\nI0\ntb",
    "object flags on a plain code": "(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb",
    "text flags on a plain code": "(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI8\ntb",
    "dates": "(S'M8'\nI0\nI1\ntR(I4\nS'<'\nNNNI-1\nI-1\nI0\n((dS'ns'\nI1\nI1\nI1\nttb",
    "long double": "(S'f16'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb",
    "odd size": "(S'f3'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb",
    "a list of fields": "(S'f8,O8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb",
    "a negative size": "(S'S0'\nI0\nI1\ntR(I3\nS'|'\nNNNI-8\nI1\nI0\ntb",
    "a huge size": "(S'S0'\nI0\nI1\ntR(I3\nS'|'\nNNNI2147483647\nI1\nI0\ntb",
    "two sizes": "(S'S4'\nI0\nI1\ntR(I3\nS'|'\nNNNI8\nI1\nI0\ntb",
    "no byte order": "(S'f8'\nI0\nI1\ntR(I3\nS'?'\nNNNI-1\nI-1\nI0\ntb",
    "another state": "(S'f8'\nI0\nI1\ntRS'<'\nb",
    "a number for a code": "(I8\nI0\nI1\ntR",
    "a dtype for a code": "(cnumpy\ndtype\nI0\nI1\ntR",
    "no dtype at all": "(S'f8'\ntRcnumpy\ndtype\n",
}


@pytest.mark.parametrize("name", OBJECT_DTYPES)
def test_every_other_dtype_is_refused(read, name):
    with pytest.raises(DataError, match="must be a"):
        read(array_opcodes(dtype=OBJECT_DTYPES[name]))


HOSTILE = {
    "an object array": (pickle.dumps(np.array([None, 1], object)), "holds an array of Python objects"),
    "a structured array": (pickle.dumps(np.zeros(2, "i4,f8")), "has an array of the type V12"),
    "an array of dates": (pickle.dumps(np.array(["2020-01-01"], "M8[D]")), "has an array of the type M8"),
    "a masked array": (pickle.dumps(np.ma.array([1.0])), "names numpy.ma.core._mareconstruct"),
    "a generator": (pickle.dumps(np.random.RandomState(0)), "names numpy.random"),
    "an object": (pickle.dumps(Plain()), "names .*Plain"),
    "a class": (pickle.dumps(io.StringIO), "names _io.StringIO"),
    "a numpy function": (pickle.dumps(np.sum), "names numpy.sum"),
    "an OrderedDict's class of its own": (opcodes("ccollections\nOrderedDict.clear\n."), "names collections.OrderedDict.clear"),
    "a new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "holds an object that is no plain data"),
    "an array by call": (opcodes("cnumpy\nndarray\n((I1000000000000\nttR."), "makes an array in an unknown way"),
    "a persistent id": (opcodes("Pfile:///etc/passwd\n."), "refers to data outside the file"),
    "a binary persistent id": (opcodes("S'x'\nQ."), "refers to data outside the file"),
    "an out-of-band buffer": (b"\x80\x05\x97.", "refers to data outside the file"),
    "an extension": (b"\x80\x02\x82\x01.", "names an extension of the copyreg module"),
    "the state of a dict": (opcodes("(d(dS'x'\nI1\nsb."), "sets the state of what has none"),
    "the state of an admitted name": (opcodes("cnumpy\nndarray\n(db."), "sets the state of what has none"),
    "a call of text": (opcodes("S'os.system'\n(S'x'\ntR."), "calls what is no function"),
    "a call of an array": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(tR."), "calls what is no function"),
    "an array without content": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR."), "leaves an array without content"),
    "an array of another kind": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR."), "holds a special kind of array"),
    "content set twice": (array_opcodes()[:-1] + b"(I1\n(I1\ntNI00\nS''\ntb.", "sets the content of an array twice"),
    "a shape too large": (array_opcodes(shape="I1000000\nt"), r"shape \[1000000\] 8 bytes, where it takes 8,000,000"),
    "a shape too small": (array_opcodes(payload="S'1234567812345678'\n"), r"shape \[1\] 16 bytes, where it takes 8"),
    "a negative shape": (array_opcodes(shape="I-1\nt"), "gives an array an impossible shape"),
    "an overflowing shape": (array_opcodes(shape="I4294967296\nI4294967296\nI4294967297\nt"), "gives an array an impossible shape"),
    "an empty but endless shape": (array_opcodes(shape="I0\nI99999999999\nI99999999999\nt", payload="S''\n"), "gives an array an impossible shape"),
    "too many dimensions": (array_opcodes(shape="I1\n" * 40 + "t"), "gives an array an impossible shape"),
    "a shape of text": (array_opcodes(shape="S'a'\nt"), "gives an array an impossible shape"),
    "a shape of truths": (array_opcodes(shape="I01\nt"), "gives an array an impossible shape"),
    "an order of elements that is none": (opcodes("cnumpy.core.numeric\n_frombuffer\n(S'12345678'\ncnumpy\ndtype\n(S'f8'\ntR(I1\ntS'K'\ntR."), "describes an array wrongly"),
    "a number for text to encode": (opcodes("c_codecs\nencode\n(I1\nS'latin1'\ntR."), "encodes what is no text"),
    "bytes of a number": (opcodes("cbuiltins\nbytes\n(I1000000000\ntR."), "makes bytes of something else"),
    "a list of a number": (opcodes("cbuiltins\nlist\n(I1\ntR."), "makes a list of something else"),
    "a type with metadata": (array_opcodes(dtype="(S'f8'\nI0\nI1\ntR(I4\nS'<'\nNNNI-1\nI-1\nI0\n(dtb"), "has an array of a type with metadata"),
    "a payload of numbers": (array_opcodes(payload="I8\n"), "describes an array wrongly"),
    "a payload of objects": (array_opcodes(payload="(lNa"), "holds an array of Python objects"),
    "a payload of text": (array_opcodes(payload="V12345678\n"), "describes an array wrongly"),
    "a large payload of text": (array_opcodes(shape="I10000\nt", payload="V" + "1" * 80000 + "\n"), "describes an array wrongly"),
    "another codec": (opcodes("c_codecs\nencode\n(Vabc\nS'rot13'\ntR."), "encodes text as rot13"),
    "a list as a key": (opcodes("(d(lI1\ns."), "has a key that is neither text nor a number"),
    "an array as a key": (opcodes("(d" + array_opcodes()[:-1].decode() + "I1\ns."), "has a key that is neither text nor a number"),
    "a colliding key": (b"(d\x8a\x09" + (2**61 - 1).to_bytes(9, "little") + b"I1\ns.", "has a key that is neither text nor a number"),
    "append to a dict": (opcodes("(dI1\na."), "appends to what is no list"),
    "append to an array": (array_opcodes()[:-1] + b"I1\na.", "appends to what is no list"),
    "an item of a list": (opcodes("(lS'a'\nI1\ns."), "sets items of what is no dict"),
    "half an item": (opcodes("(I1\nd."), "has a dict with half an item"),
    "a long that is too long": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "has a number that is too long"),
    "a number with a thousand digits": (b"I" + b"9" * 1000 + b"\n.", "has a line that is too long"),
    "a number that is a word": (b"Iabc\n.", "has a number that is none"),
    "a negative length": (b"T\xff\xff\xff\xff.", "ends too early: -1 bytes are announced"),
    "a length beyond the file": (b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"x.", "ends too early"),
    "a length just beyond the file": (b"B" + struct.pack("<I", 100_000) + b"x" * 99_999, "ends too early: 100,000 bytes are announced, 99,999 are left"),
    "a protocol of the future": (b"\x80\x06N.", "has the protocol 6, which nobody knows"),
    "text without quotes": (b"Sabc\n.", "has text without quotes"),
    "text with one quote": (b"S'\n.", "has text without quotes"),
    "an unknown instruction": (b"\xff.", "has the byte 0xff where an instruction"),
    "an empty stack": (b".", "is damaged or something else"),
    "an empty memo": (b"h\x05.", "is damaged or something else"),
    "no mark": (b"e.", "is damaged or something else"),
    "a tuple of nothing": (b"\x80\x02\x87.", "is damaged or something else"),
    "no end": (b"\x80\x02N", "ends too early"),
    "half of a file": (pickle.dumps({"a": np.arange(100_000.0)})[:400_000], "ends too early"),
    "half of a small file": (pickle.dumps({"a": np.arange(100.0)}, protocol=2)[:500], "ends too early"),
    "plain text": (b"hello world, this is a text file\n" * 9, "must be a"),
    "a table": (b"id,label\n1,0\n2,1\n", "is damaged or something else"),
    "colours for the terminal": (b"cos\x1b[31m\nsystem\n.", "is damaged or something else"),
    "JSON": (b'{"happy": {"train": {}}}', "must be a"),
    "a photograph": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "must be a"),
    "nothing": (b"", "must be a pickle, but is empty"),
    "zeros": (b"\x00" * 1000, "has the byte 0x00"),
    "a web page": (b"<!DOCTYPE html><html><title>Quota exceeded", "is a web page"),
    "a web page after blanks": (b"\n\n  <html>", "is a web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:7f20\n", "is a Git LFS pointer, .* Run `git lfs pull`"),
    "gzip": (b"\x1f\x8b\x08\x00", "is a gzip archive. Unpack it first"),
    "npz": (b"PK\x03\x04\x14\x00", "is a zip archive"),
    "npy": (b"\x93NUMPY\x01\x00", "is a single numpy array"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
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


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="must be a readable file, but No such file or directory. Check the path"):
        read_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(DataError, match="must be a readable file, but Is a directory"):
        read_pickle(tmp_path)


# -- what would fill the memory


def test_endless_objects_are_refused(read, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MOST_OBJECTS", 1000)
    for content in (b"]" * 2000, b"(" * 2000, b"N" + b"\x94" * 2000, b"]" + b"2" * 2000):
        with pytest.raises(DataError, match="holds more than 1,000 single objects; store the features as numpy arrays"):
            read(b"\x80\x04" + content + b".")


def test_repeated_encoding_is_refused(read):
    # 60 kB of text, encoded again and again at four bytes a time
    text = "a" * 60_000
    head = f"c_codecs\nencode\np0\n0V{text}\np1\n0Vlatin1\np2\n0"
    again = "g0\n(g1\ng2\ntR0"
    with pytest.raises(DataError, match="repeats its parts beyond all measure"):
        read(opcodes(head + again * 50 + "N."))


def test_repeated_copies_of_a_list_are_refused(read, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MOST_OBJECTS", 10_000)
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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "holds text"),
        (b"text", "holds bytes"),
        ({"a": 1}, "holds a dict"),
        (None, "holds None"),
        ([1, "a"], "holds something else|holds text"),
        ([[1, 2], [3]], r"its rows differ in shape, \[1\] and \[2\]"),
        ([2**80], "holds a number that is too large"),
        ([[1] * 60, [2] * 60], "repeats its parts beyond all measure"),
        ([[[[[1]]]]], "lists nested too deep"),
    ],
)
def test_what_cannot_be_an_array(value, message):
    with pytest.raises(ValueError, match=message):
        to_array(value, limit=100)


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


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=4))
def test_damaged_pickles_are_read_or_refused(tmp_path_factory, seed, edits):
    content = bytearray(seed)
    for place, new in edits:
        place %= len(content)
        content[place : place + len(new)] = new
    _read_or_refuse(tmp_path_factory.getbasetemp() / "fuzz.pkl", bytes(content))


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


@settings(max_examples=1500, deadline=None)
@given(st.lists(_PIECES, max_size=40))
def test_random_programs_are_read_or_refused(tmp_path_factory, pieces):
    _read_or_refuse(tmp_path_factory.getbasetemp() / "fuzz.pkl", b"".join(pieces) + b".")


def test_classes_that_are_let_pass(tmp_path):
    """Built without arguments, with plain data for a state; nothing of them is ever called."""
    path = tmp_path / "state.pkl"
    pair = ("paddle.base.libpaddle", "GeneratorState")
    name = b"cpaddle.base.libpaddle\nGeneratorState\n"
    path.write_bytes(b"\x80\x02]" + name + b")\x81(K\x01K\x02]tba.")
    safe_pickle.check_plain(path, [pair])
    with pytest.raises(DataError, match="names paddle.base.libpaddle.GeneratorState"):
        read_pickle(path)
    for content, message in (
        (name + b"(K\x01t\x81.", "holds an object that is no plain data"),
        (name + b")R.", "makes an array in an unknown way"),
        (b"cnumpy\nndarray\n)\x81.", "holds an object that is no plain data"),
        (name + b")\x81cos\nsystem\nb.", "names os.system"),
    ):
        path.write_bytes(b"\x80\x02" + content)
        with pytest.raises(DataError, match=message):
            safe_pickle.check_plain(path, [pair])
    with pytest.raises(DataError, match="must be a readable file, but No such file"):
        safe_pickle.check_plain(tmp_path / "nowhere")


def test_damaged_large_payloads(tmp_path):
    """Text that stands for bytes, and holds what no byte is: noticed when the numbers are wanted."""
    path = tmp_path / "data.pkl"
    text = "\u20ac" * 70_000
    for form in ("V" + text.encode("raw-unicode-escape").decode("latin-1") + "\n", None):
        content = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I70000\ntcnumpy\ndtype\n(S'u1'\ntRI00\n"
        payload = form.encode("latin-1") if form else b"X" + struct.pack("<I", 210_000) + text.encode()
        path.write_bytes(content + b"c_codecs\nencode\n(" + payload + b"S'latin1'\ntRtb.")
        with pytest.raises(DataError, match="must hold whole numbers of bytes, but an array in it is damaged"):
            read_pickle(path).read()


def test_a_list_that_is_longer_than_all_numbers_of_the_file(read):
    with pytest.raises(ValueError, match="repeats its parts beyond all measure"):
        to_array([[1.0]] * 11, limit=10)


def test_dicts_of_dicts_and_bytes_of_text(read):
    assert read(opcodes("cbuiltins\ndict\n((dS'a'\nI1\nstR.")) == {"a": 1}
    assert read(opcodes("cbuiltins\nbytes\n(V\xe4\nS'latin1'\ntR.")) == b"\xe4"
    assert read(opcodes("ccollections\ndefaultdict\n(NtR.")) == {}


# -- exactly: the limits, and the words


def test_a_file_of_another_kind_is_named_with_what_to_do(read, tmp_path):
    for start, told in (
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself. Run `git lfs pull`."),
        (b"<html>", "is a web page or XML. Download the file itself."),
        (b"\xef\xbb\xbf \r\n\t<?xml", "is a web page or XML. Download the file itself."),
        (b"\x1f\x8b\x08\x00", "is a gzip archive. Unpack it first."),
        (b"PK\x03\x04\x14", "is a zip archive (.npz and PyTorch files are such). Unpack it, or give the original pickle."),
        (b"BZh91AY", "is a bzip2 archive. Unpack it first."),
        (b"\xfd7zXZ\x00", "is an xz archive. Unpack it first."),
        (b"\x28\xb5\x2f\xfd\x04", "is a zstd archive. Unpack it first."),
        (b"Rar!\x1a\x07", "is a rar archive. Unpack it first."),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file. Give the original pickle."),
        (b"\x93NUMPY\x01", "is a single numpy array. Give the original pickle."),
        (b"PAR1\x15", "is a Parquet file. Give the folder that holds train.parquet, validation.parquet and test.parquet."),
        (b"ARROW1\x00", "is an Arrow file. Give the folder that save_to_disk wrote."),
        (b"", "is empty. Get the file again."),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            read(start)
        assert str(caught.value) == f"{tmp_path / 'data.pkl'}: must be a pickle, but {told}"


@pytest.mark.parametrize("check", [read_pickle, safe_pickle.check_plain])
def test_whatever_is_wrong_with_the_path(tmp_path, check):
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path / "pipe", "must be a regular file, but is a pipe or a device. Write its content to a file first."),
        (tmp_path / "nowhere", "must be a readable file, but No such file or directory. Check the path."),
        (tmp_path, "must be a readable file, but Is a directory. Check the path."),
    ):
        with pytest.raises(DataError) as caught:
            check(path)
        assert str(caught.value) == f"{path}: {told}"


def test_the_place_in_the_file_is_told(read, tmp_path):
    for content, told in (
        (b"\x80\x02Nx", "must be a whole pickle of plain data, but has the byte 0x78 where an instruction of a pickle stands (at byte 4)."),
        (b"\x80\x02\x05.", "must be a whole pickle of plain data, but has the byte 0x05 where an instruction of a pickle stands (at byte 3)."),
        (b"\x80\x02N", "must be a whole pickle of plain data, but ends too early (at byte 3)."),
        (b"N0.", "must be a pickle, but is damaged or something else (at byte 3). Check the file."),
        (b"cos\nsystem\n.", "must be plain data (arrays, numbers, text, dicts, lists), but names os.system (at byte 11). Nothing of it was run; get the file from its source."),
        (b"I1", "must be a whole pickle of plain data, but ends too early (at byte 2)."),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            read(content)
        assert str(caught.value) == f"{tmp_path / 'data.pkl'}: {told}"


def test_lines_of_400_bytes_are_read_and_longer_ones_refused(read):
    assert read(b"I" + b"9" * 399 + b"\n.") == int("9" * 399)
    with pytest.raises(DataError, match="has a line that is too long"):
        read(b"I" + b"9" * 400 + b"\n.")
    with pytest.raises(DataError, match="ends too early"):
        read(b"I" + b"9" * 398)


def test_keys_of_1000_characters_are_read_and_longer_ones_refused(read):
    for form in (b"U" + b"\x05" + b"k" * 5, b"T" + struct.pack("<i", 1000) + b"k" * 1000):
        key = form[2:] if form[:1] == b"U" else form[5:]
        assert read(b"}" + form + b"Ns.") == {key.decode(): None}
    with pytest.raises(DataError, match="has a key of 1,001 characters"):
        read(b"}" + b"T" + struct.pack("<i", 1001) + b"k" * 1001 + b"Ns.")


def test_keys_that_are_numbers_or_bytes_of_no_utf8(read):
    assert read(b"}\x8a\x07" + (2**53 - 1).to_bytes(7, "little") + b"Ns.") == {2**53 - 1: None}
    assert read(b"}\x8a\x07" + (1 - 2**53).to_bytes(7, "little", signed=True) + b"Ns.") == {1 - 2**53: None}
    assert read(b"}U\x02\xe4xNs.") == {"äx": None}
    assert read(b"}G" + struct.pack(">d", 0.5) + b"Ns.") == {0.5: None}
    for number in (2**53, -(2**53)):
        with pytest.raises(DataError, match="has a key that is neither text nor a number"):
            read(b"}\x8a\x07" + number.to_bytes(7, "little", signed=True) + b"Ns.")


def test_as_many_objects_as_allowed(read, monkeypatch):
    assert safe_pickle.MOST_OBJECTS == 5_000_000
    monkeypatch.setattr(safe_pickle, "MOST_OBJECTS", 10)
    assert read(b"N" * 10 + b".") is None  # the stop does not count
    with pytest.raises(DataError, match="holds more than 10 single objects; store the features as numpy arrays"):
        read(b"N" * 11 + b".")


def test_dicts_and_lists_that_are_copied_count(read, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MOST_OBJECTS", 100)
    items = "".join(f"I{n}\nI1\n" for n in range(20))
    copy = "cbuiltins\ndict\n(g1\ntR0"
    assert read(opcodes(f"({items}dp1\n0" + copy + "N.")) is None
    with pytest.raises(DataError, match="holds more than 100 single objects"):
        read(opcodes(f"({items}dp1\n0" + copy * 3 + "N."))


def test_bytes_that_are_made_may_be_as_many_as_the_file_has(read):
    head = b"c_codecs\nencode\n("
    for length, again in ((255, 1), (255, 2)):
        text = b"\x8c" + bytes([length]) + b"a" * length
        content = b"\x80\x04" + head + text + b"\x94tR" + b"0c_codecs\nencode\n(h\x00tR" * (again - 1)
        content += b"."
        if again == 1:
            assert read(content) == b"a" * length
        else:
            assert len(content) < 2 * length
            with pytest.raises(DataError, match="repeats its parts beyond all measure"):
                read(content)


def test_scalars_that_repeat_a_long_text(read):
    """numpy's scalars are built at once: each one of a long text is another copy."""
    head = b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x000cnumpy\ndtype\n(U\x02S0K\x00K\x01tR(K\x03U\x01|NNNM\xe8\x03K\x01K\x00tbq\x010"
    text = b"T" + struct.pack("<i", 1000) + b"a" * 1000 + b"q\x020"
    once = b"h\x00h\x01h\x02\x86R"
    assert read(head + text + once + b".") == b"a" * 1000
    with pytest.raises(DataError, match="repeats its parts beyond all measure"):
        read(head + text + (once + b"0") * 3 + b"N.")


def test_payloads_of_just_the_length_that_stays_in_the_file(tmp_path, read):
    assert safe_pickle.LARGE == 65_536
    for extra in (0, 1):
        size = safe_pickle.LARGE + extra
        raw = np.random.default_rng(1).integers(0, 256, size, dtype="u1")
        for protocol in range(6):
            stored = read(pickle.dumps(raw, protocol=protocol))
            np.testing.assert_array_equal(stored.read(), raw)
        value = read(b"B" + struct.pack("<I", size) + raw.tobytes() + b".")
        assert isinstance(value, bytes) == (extra == 0)
        line = b"a" * size
        assert isinstance(read(b"V" + line + b"\n."), str) == (extra == 0)
        assert isinstance(read(b"S'" + line + b"'\n."), bytes) == (extra == 0)
    with pytest.raises(DataError, match=r"ends too early: 65,537 bytes are announced, 65,536 are left \(at byte 5\)"):
        read(b"B" + struct.pack("<I", 65_537) + b"x" * 65_536)
    assert len(read(b"B" + struct.pack("<I", 65_537) + b"x" * 65_536 + b"..")) == 65_537  # the last byte of it is a "."


def test_text_that_ends_where_a_block_of_the_line_does(read):
    for size in (safe_pickle.LARGE + (1 << 20) + n for n in range(6)):
        assert len(read(b"S'" + b"a" * size + b"'\n.")) == size
    for size in range(safe_pickle.LARGE - 4, safe_pickle.LARGE + 4):
        text = b"a" * (size - 1) + b"b"
        value = read(b"(S'" + text + b"'\ncbuiltins\nlist\n)Rl.")[0]
        assert len(value) == size
        if isinstance(value, bytes):
            assert value == text
        value = read(b"V" + text + b"\n.")
        assert len(value) == size
    with pytest.raises(DataError, match="has text without quotes"):
        read(b"S'" + b"a" * 70_000 + b'"\n.')
    with pytest.raises(DataError, match="has text without quotes"):
        read(b"Sa" + b"a" * 70_000 + b"'\n.")
    with pytest.raises(DataError, match="ends too early"):
        read(b"S'" + b"a" * 70_000 + b"'")


def test_escapes_that_python_does_not_know_stand_for_themselves(read):
    assert read(b"S'\\q\\x41'\n.") == b"\\qA"


def test_instructions_that_take_from_the_stack(read):
    assert read(b"I1\n(I2\nI3\n1.") == 1  # POP_MARK
    assert read(b"I1\n(0.") == 1  # POP of a mark
    assert read(b"I1\nI2\n0.") == 1
    assert read(b"(I1\nI2\nI3\nI4\nd.") == {1: 2, 3: 4}
    assert read(b"I7\n2\x86.") == (7, 7)
    assert read(b"\x80\x04\x95" + struct.pack("<Q", 2) + b"K\x07.") == 7
    assert read(b"I00\n.") is False
    assert read(b"I01\n.") is True
    assert read(b"I-5\n.") == -5
    assert read(b"L7L\n.") == 7
    assert read(b"F-1.5\n.") == -1.5


def state_of_type(code, *state):
    """A dtype's code and the parts of its state, as opcodes."""
    return f"(S'{code}'\nI0\nI1\ntR(" + "".join("N" if part is None else f"{part}\n" for part in state) + "tb"


REFUSED_EXACTLY = {
    "an instance of an admitted name": (b"(icollections\nOrderedDict\n.", "holds an object that is no plain data"),
    "an object of an admitted name": (b"(ccollections\nOrderedDict\no.", "holds an object that is no plain data"),
    "a new object with keywords": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "holds an object that is no plain data"),
    "a read-only buffer": (b"\x80\x05N\x98.", "refers to data outside the file"),
    "a buffer": (b"\x80\x05\x97.", "refers to data outside the file"),
    "a persistent id": (b"Px\n.", "refers to data outside the file"),
    "a binary persistent id": (b"NQ.", "refers to data outside the file"),
    "an extension": (b"\x82\x01.", "names an extension of the copyreg module"),
    "a two-byte extension": (b"\x83\x01\x00.", "names an extension of the copyreg module"),
    "a four-byte extension": (b"\x84\x01\x00\x00\x00.", "names an extension of the copyreg module"),
    "the state of a dict": (b"}Nb.", "sets the state of what has none"),
    "a long of four bytes": (b"\x8b\x01\x00\x00\x00\x01.", "has a number that is too long"),
    "a number for a name": (b"NI1\n\x93.", "has no name where one must stand"),
    "another number": (b"I12x\n.", "has a number that is none"),
    "half an item": (b"(I1\nd.", "has a dict with half an item"),
    "half an item for a dict": (b"}(I1\nu.", "sets items of what is no dict"),
    "a protocol of the future": (b"\x80\x06N.", "has the protocol 6, which nobody knows"),
    "a call of a number": (b"I1\n)R.", "calls what is no function"),
    "arguments that are none": (b"cbuiltins\nlist\nNR.", "calls what is no function"),
    "a list of text": (b"cbuiltins\nlist\n(U\x01atR.", "makes a list of something else"),
    "a codec": (b"c_codecs\nencode\n(Vabc\nS'utf-8'\ntR.", "encodes text as 'utf-8'"),
    "what is no text": (b"c_codecs\nencode\n(I1\ntR.", "encodes what is no text"),
    "bytes of a number": (b"cbuiltins\nbytes\n(I1\ntR.", "makes bytes of something else"),
    "an array by call": (b"cnumpy\nndarray\n)R.", "makes an array in an unknown way"),
    "an array of another kind": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR."), "holds a special kind of array"),
    "an order that is none": (opcodes("cnumpy.core.numeric\n_frombuffer\n(S'12345678'\ncnumpy\ndtype\n(S'f8'\ntR(I1\ntS'K'\ntR."), "describes an array wrongly"),
    "a state of three parts": (array_opcodes()[: array_opcodes().index(b"(I1\n(")] + b"(I1\nI1\nI1\ntb.", "describes an array wrongly"),
    "33 dimensions": (array_opcodes(shape="I1\n" * 33 + "t"), "gives an array an impossible shape"),
    "a dimension too large": (array_opcodes(shape="I0\nI281474976710656\nt", payload="S''\n"), "gives an array an impossible shape"),
    "2^62 bytes": (array_opcodes(shape="I0\nI2147483648\nI268435456\nt", payload="S''\n"), "gives an array an impossible shape"),
    "a payload too long": (array_opcodes(payload="S'123456789'\n"), "gives an array of the shape [1] 9 bytes, where it takes 8"),
    "a new object of an admitted name": (b"ccollections\nOrderedDict\n)\x81.", "holds an object that is no plain data"),
    "content set twice": (array_opcodes()[:-1] + b"(I1\n(I1\ntNI00\nS''\ntb.", "sets the content of an array twice"),
    "a payload of objects": (array_opcodes(payload="(lNa"), "holds an array of Python objects"),
    "a payload of numbers": (array_opcodes(payload="I8\n"), "describes an array wrongly"),
    "a payload of text": (array_opcodes(payload="V12345678\n"), "describes an array wrongly"),
    "a large payload of text": (array_opcodes(shape="I10000\nt", payload="V" + "1" * 80000 + "\n"), "describes an array wrongly"),
    "no type": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntNI00\nS'1'\ntb."), "describes an array wrongly"),
    "two texts of no length": (array_opcodes(dtype=state_of_type("S0", "I3", "S'|'", None, None, None, "I0", "I1", "I0"), shape="I2\nt", payload="S''\n"), "has an array of an unusual type"),
    "a truth for a size": (array_opcodes(dtype=state_of_type("S0", "I3", "S'|'", None, None, None, "I01", "I1", "I0"), payload="S'1'\n"), "describes a type wrongly"),
    "no content": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR."), "leaves an array without content"),
    "append to a dict": (opcodes("(dI1\na."), "appends to what is no list"),
    "an item of a list": (opcodes("(lS'a'\nI1\ns."), "sets items of what is no dict"),
    "a list as a key": (opcodes("(d(lI1\ns."), "has a key that is neither text nor a number"),
    "a short payload beyond the file": (b"U\x05ab", "ends too early: 5 bytes are announced, 2 are left"),
    "a number beyond the file": (b"J\x01\x02", "ends too early: 4 bytes are announced, 2 are left"),
    "a negative length": (b"T\xff\xff\xff\xff.", "ends too early: -1 bytes are announced, 1 are left"),
    "a long payload beyond the file": (b"B" + struct.pack("<I", 70_000) + b"xyz", "ends too early: 70,000 bytes are announced, 3 are left"),
    "text without quotes": (b"Sabc\n.", "has text without quotes"),
    "one quote": (b"S'\n.", "has text without quotes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_EXACTLY)
def test_refused_with_these_words(read, name):
    content, told = REFUSED_EXACTLY[name]
    with pytest.raises(DataError) as caught:
        read(content)
    assert str(caught.value).split(", but ", 1)[1].rpartition(" (at byte ")[0] == told


TYPES_EXACTLY = {
    "object code": "holds an array of Python objects",
    "fields on a plain code": "has an array of a structured type",
    "a subarray": "has an array of a structured type",
    "object flags on a plain code": "has an array of an unusual type",
    "text flags on a plain code": "has an array of an unusual type",
    "dates": "has an array of the type M8",
    "long double": "has an array of the type f16",
    "odd size": "has an array of the type f3",
    "a list of fields": "has an array of the type 'f8,O8'",
    "a negative size": "describes a type wrongly",
    "a huge size": "describes a type wrongly",
    "two sizes": "describes a type wrongly",
    "no byte order": "has an array of a structured type",
    "another state": "describes a type wrongly",
    "a number for a code": "has no name where one must stand",
    "a dtype for a code": "has no name where one must stand",
}


@pytest.mark.parametrize("name", TYPES_EXACTLY)
def test_types_refused_with_these_words(read, name):
    with pytest.raises(DataError) as caught:
        read(array_opcodes(dtype=OBJECT_DTYPES[name]))
    assert str(caught.value).split(", but ", 1)[1].rpartition(" (at byte ")[0] == TYPES_EXACTLY[name]


@pytest.mark.parametrize(
    ("code", "state", "told"),
    [
        ("f8", ["I3", "S'<'", None, None, None, "I-1", "I-1", "I0"], None),
        ("f8", ["I3", "S'>'", None, None, None, "I-1", "I-1", "I0"], None),
        ("f8", ["I3", "S'='", None, None, None, "I-1", "I-1", "I0"], None),
        ("<f8", ["I3", "S'|'", None, None, None, "I-1", "I-1", "I0"], None),
        ("f8", ["I3", "S'<'", None, None, None, "I-1"], None),
        ("f8", ["I3", "S'<'", None, None, None, "I-1", "I-1", "I0", None], None),
        ("f8", ["I3", "S'<'", None, None, None], "describes a type wrongly"),
        ("f8", ["I3", "S'<'", None, None, None, "I-1", "I-1", "I0", None, None], "describes a type wrongly"),
        ("f8", ["I3", "S'<'", "I1", None, None, "I-1", "I-1", "I0"], "has an array of a structured type"),
        ("f8", ["I3", "S'<'", None, "I1", None, "I-1", "I-1", "I0"], "has an array of a structured type"),
        ("f8", ["I3", "S'<'", None, None, "I1", "I-1", "I-1", "I0"], "has an array of a structured type"),
        ("f8", ["I3", "S'<'", None, None, None, "I-1", "I-1", "I1"], "has an array of an unusual type"),
        ("f8", ["I3", "S'<'", None, None, None, "I-1", "I-1", "I0", "I0"], "has an array of a type with metadata"),
        ("S8", ["I3", "S'|'", None, None, None, "I8", "I1", "I0"], None),
        ("S0", ["I3", "S'|'", None, None, None, "I8", "I1", "I0"], None),
        ("S9", ["I3", "S'|'", None, None, None, "I8", "I1", "I0"], "describes a type wrongly"),
        ("S8", ["I3", "S'|'", None, None, None, "I01", "I1", "I0"], "describes a type wrongly"),
        ("S0", ["I3", "S'|'", None, None, None, "I8", "I1", "I8"], "has an array of an unusual type"),
        ("U2", ["I3", "S'<'", None, None, None, "I8", "I4", "I8"], None),
        ("U2", ["I3", "S'<'", None, None, None, "I8", "I4", "I0"], None),
        ("U2", ["I3", "S'<'", None, None, None, "I8", "I4", "I1"], "has an array of an unusual type"),
        ("U0", ["I3", "S'<'", None, None, None, "I6", "I4", "I8"], "describes a type wrongly"),
        ("U0", ["I3", "S'<'", None, None, None, "I16777216", "I4", "I8"], "describes a type wrongly"),
    ],
)
def test_states_of_types(read, code, state, told):
    content = array_opcodes(dtype=state_of_type(code, *state))
    if told is None:
        stored = read(content)
        order = state[1][2]
        assert (
            stored.read().tobytes()
            == np.frombuffer(b"12345678", (order if order != "|" else "") + code.lstrip("<").replace("S0", "S8"))
            .astype(stored.dtype)
            .tobytes()
        )
        return
    with pytest.raises(DataError) as caught:
        read(content)
    assert str(caught.value).split(", but ", 1)[1].rpartition(" (at byte ")[0] == told


def test_a_type_is_described_once(read):
    content = array_opcodes(dtype="(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb")
    with pytest.raises(DataError, match="describes a type wrongly"):
        read(content)


def test_the_largest_shapes_that_may_be(read):
    assert read(array_opcodes(shape="I1\n" * 32 + "t")).read().shape == (1,) * 32
    empty = array_opcodes(shape="I0\nI281474976710655\nt", payload="S''\n")
    assert read(empty).shape == (0, 2**48 - 1)


def test_types_without_a_state_are_of_this_machine(read):
    for code, expected in (("f8", np.frombuffer(b"12345678")), ("i1", np.frombuffer(b"12345678", "i1"))):
        count = len(expected)
        stored = read(array_opcodes(dtype=f"(S'{code}'\ntR", shape=f"I{count}\nt"))
        np.testing.assert_array_equal(stored.read(), expected)
    for code in ("?", "f", "8f", "f8x", "F8", "b2", "i3", "u16", "c4", "V8", "M8", "m8"):
        with pytest.raises(DataError, match="has an array of the type"):
            read(array_opcodes(dtype=f"(S'{code}'\ntR"))


def test_arrays_from_buffers_in_both_orders(read):
    values = np.arange(6, dtype="i1")
    form = "cnumpy.core.numeric\n_frombuffer\n(S'\\x00\\x01\\x02\\x03\\x04\\x05'\ncnumpy\ndtype\n(S'i1'\ntR(I2\nI3\ntS'{}'\ntR."
    np.testing.assert_array_equal(read(opcodes(form.format("C"))).read(), values.reshape(2, 3))
    np.testing.assert_array_equal(read(opcodes(form.format("F"))).read(), values.reshape(2, 3, order="F"))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "name", ["float64", "large", "large big-endian", "large bytes of every kind", "Fortran order", "text", "bool"]
)
def test_some_rows(read, name, protocol):
    expected = ARRAYS[name]
    stored = read(pickle.dumps({"x": expected}, protocol=protocol))["x"]
    fortran = expected.ndim > 1 and expected.flags.f_contiguous
    in_place = protocol > 2 or expected.nbytes <= safe_pickle.LARGE
    assert stored.has_rows is (in_place and not fortran)
    for start, stop in ((0, 1), (1, 2), (0, len(expected)), (1, -1), (2, 2), (2, 1), (0, 10**9)):
        got = stored.read_rows(start, stop)
        np.testing.assert_array_equal(got, expected[start:stop])
        assert got.shape == expected[start:stop].shape
        assert got.dtype == stored.dtype


def test_only_the_rows_asked_for_are_read(read, monkeypatch):
    stored = read(pickle.dumps(np.arange(100_000.0).reshape(1000, 100), protocol=4))
    sizes = []
    original = safe_pickle._Span.read_into
    monkeypatch.setattr(safe_pickle._Span, "read_into", lambda self, out: sizes.append(len(out)) or original(self, out))
    assert stored.read_rows(500, 502)[1, 3] == 50_103.0
    assert sizes == [1600]


def test_arrays_without_rows(read):
    scalar = read(pickle.dumps(np.array(7.0), protocol=2))
    assert scalar.has_rows is False
    nothing = state_of_type("S0", "I3", "S'|'", None, None, None, "I0", "I1", "I0")
    assert read(array_opcodes(dtype=nothing, payload="S''\n")).has_rows is False


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "holds text"),
        (b"text", "holds bytes"),
        ({"a": 1}, "holds a dict"),
        (None, "holds None"),
        (1j, "holds complex numbers"),
        (object(), "holds something else"),
        ([[1, "a"]], "holds something else"),
        ([[[[[1]]]]], "holds lists nested too deep"),
        ([[[[(1,)]]]], "holds lists nested too deep"),
        ([[1, 2], [3]], "its rows differ in shape, [1] and [2]"),
        ([[1], [2, 3], [1, 2, 3]], "its rows differ in shape, [1] and [2]"),
        ([2**80], "holds a number that is too large"),
        ([[1], [2], [3]] * 2, "repeats its parts beyond all measure"),
    ],
)
def test_what_cannot_be_an_array_in_these_words(value, told):
    with pytest.raises(ValueError) as caught:
        to_array(value, limit=11)
    assert str(caught.value) == told


def test_as_many_numbers_as_allowed(read):
    assert to_array([1, 2, 3], limit=3).tolist() == [1, 2, 3]
    assert to_array([[1, 2], [3, 4]], limit=6).tolist() == [[1, 2], [3, 4]]  # the lists count, too
    stored = read(pickle.dumps(np.arange(4.0)))
    assert to_array(stored, limit=4).tolist() == [0, 1, 2, 3]
    assert to_array([stored, stored], limit=10).shape == (2, 4)
    assert to_array([[[[1]]]], limit=4).shape == (1, 1, 1, 1)
    for value, limit in (([1, 2, 3], 2), ([[1, 2], [3, 4]], 5), (stored, 3), ([stored, stored], 9), ([stored] * 3, 10)):
        with pytest.raises(ValueError, match="repeats its parts beyond all measure"):
            to_array(value, limit=limit)


def test_text_is_an_array_by_itself_but_no_part_of_one(read):
    words = read(pickle.dumps(np.array(["a", "b"])))
    assert to_array(words, limit=10).tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="^holds text$"):
        to_array([words], limit=10)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_every_plain_type(read, code, order):
    expected = np.arange(24).astype(order + code)
    np.testing.assert_array_equal(read(pickle.dumps(expected, protocol=2)).read(), expected)


def test_truths_of_another_byte_than_1_are_true(read):
    truths = read(array_opcodes(dtype="(S'b1'\ntR", shape="I4\nt", payload="S'\\x00\\x01\\x02\\xff'\n")).read()
    assert truths.dtype == bool
    assert truths.view("u1").tolist() == [0, 1, 1, 1]


def test_containers_that_are_called(read):
    for name, expected in (("tuple", (1, 2)), ("list", [1, 2]), ("set", [1, 2]), ("frozenset", [1, 2])):
        for module in ("builtins", "__builtin__"):
            assert read(opcodes(f"c{module}\n{name}\n((I1\nI2\nltR.")) == expected
            assert read(opcodes(f"c{module}\n{name}\n)R.")) == type(expected)()
    assert read(opcodes("ccollections\nOrderedDict\n((lI1\nI2\n\x86atR.")) == {1: 2}
    assert read(opcodes("ccollections\ndefaultdict\n(cbuiltins\nlist\ntR.")) == {}


def test_codecs_that_stand_for_bytes(read):
    for module in ("builtins", "__builtin__"):
        for name in ("bytes", "bytearray"):
            assert read(opcodes(f"c{module}\n{name}\n(V\xe4\ntR.")) == b"\xe4"
            assert read(opcodes(f"c{module}\n{name}\n(U\x02abtR.")) == b"ab"
            assert read(opcodes(f"c{module}\n{name}\n)R.")) == b""
    for coding in ("S'latin1'\n", "S'latin-1'\n", ""):
        assert read(opcodes(f"c_codecs\nencode\n(V\xe4\n{coding}tR.")) == b"\xe4"
    with pytest.raises(DataError) as caught:
        read(opcodes(f"c_codecs\nencode\n(Va\nS'{'x' * 61}'\ntR."))
    assert f"encodes text as {'x' * 60} (at byte" in str(caught.value)


def test_text_of_every_form(read):
    assert read(b'S"it\'s"\n.') == b"it's"
    for code, form in ((b"X", "<I"), (b"\x8c", "<B"), (b"\x8d", "<Q")):
        assert read(code + struct.pack(form, 3) + "ä!".encode() + b".") == "ä!"
        assert read(code + struct.pack(form, 3) + b"\xed\xa0\x80.") == "\ud800"  # as Python writes half a pair
    assert read(b"V\\u00e4\n.") == "ä"


def test_large_text_of_every_form_is_no_payload(read):
    for text in (
        b"X" + struct.pack("<I", 80_000) + b"1" * 80_000,
        b"\x8d" + struct.pack("<Q", 80_000) + b"1" * 80_000,
        b"V" + b"1" * 80_000 + b"\n",
    ):
        with pytest.raises(DataError, match=r"describes an array wrongly \(at byte"):
            read(array_opcodes(shape="I10000\nt", payload=text.decode("latin-1")))


def test_states_of_arrays_with_and_without_a_version(read):
    with_version = array_opcodes()
    np.testing.assert_array_equal(read(with_version).read(), np.frombuffer(b"12345678"))
    without = with_version.replace(b"(I1\n(I1\nt", b"((I1\nt")
    assert without != with_version
    np.testing.assert_array_equal(read(without).read(), np.frombuffer(b"12345678"))
    with pytest.raises(DataError, match="describes an array wrongly"):
        read(with_version.replace(b"(I1\n(I1\nt", b"(I1\nI1\n(I1\nt"))
