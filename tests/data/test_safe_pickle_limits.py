"""The pickle reader exactly: the limits of what it reads, and the words in which it refuses the rest."""

import os
import pickle
import struct

import numpy as np
import pytest
from pickle_parts import ARRAYS, array_opcodes, opcodes, state_of_type

from lmf_multitask.data import pickle_bytes, stored_array
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.data.stored_array import to_array
from lmf_multitask.errors import DataError


def reason(caught):
    """What stands between "but" and the place in the file."""
    return str(caught.value).split(", but ", 1)[1].rpartition(" (at byte ")[0]


def test_a_file_of_another_kind_is_named_with_what_to_do(read, tmp_path):
    for start, told in (
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself. Run `git lfs pull`."),
        (b"<!DOCTYPE html><html><title>Quota exceeded", "is a web page or XML. Download the file itself."),
        (b"\n\n  <html>", "is a web page or XML. Download the file itself."),
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


def test_whatever_is_wrong_with_the_path(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path / "pipe", "must be a regular file, but is a pipe or a device. Write its content to a file first."),
        (tmp_path / "nowhere", "must be a readable file, but No such file or directory. Check the path."),
        (tmp_path, "must be a file, but is a folder. Check the path."),
    ):
        with pytest.raises(DataError) as caught:
            read_pickle(path)
        assert str(caught.value) == f"{path}: {told}"


def test_messages_name_the_position_in_the_file(read, tmp_path):
    for content, told in (
        (b"\x80\x02Nx", "must be a whole pickle of plain data, but has the byte 0x78, which is not an instruction of a pickle (at byte 4)."),
        (b"\x80\x02\x05.", "must be a whole pickle of plain data, but has the byte 0x05, which is not an instruction of a pickle (at byte 3)."),
        (b"\x80\x02N", "must be a whole pickle of plain data, but ends too early (at byte 3)."),
        (b"N0.", "must be a pickle, but is damaged or something else (at byte 3). Check the file."),
        (b"cos\nsystem\n.", "must be plain data (arrays, numbers, text, dicts, lists), but names os.system (at byte 11). Nothing of it was run. Save plain numpy arrays instead."),
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
    for number in (2**64 - 1, 1 - 2**64):
        assert read(b"}\x8a\x09" + number.to_bytes(9, "little", signed=True) + b"Ns.") == {number: None}
    assert read(b"}U\x02\xe4xNs.") == {"äx": None}
    assert read(b"}G" + struct.pack(">d", 0.5) + b"Ns.") == {0.5: None}
    for number in (2**64, -(2**64)):
        with pytest.raises(DataError, match="has a key that is neither text nor a number"):
            read(b"}\x8a\x09" + number.to_bytes(9, "little", signed=True) + b"Ns.")


def test_as_many_objects_as_allowed(read, monkeypatch):
    assert pickle_bytes.MOST_OBJECTS == 5_000_000
    monkeypatch.setattr(pickle_bytes, "MOST_OBJECTS", 10)
    assert read(b"N" * 10 + b".") is None  # the stop does not count
    with pytest.raises(DataError, match="holds more than 10 single objects; store the features as numpy arrays"):
        read(b"N" * 11 + b".")


def test_dicts_and_lists_that_are_copied_count(read, monkeypatch):
    monkeypatch.setattr(pickle_bytes, "MOST_OBJECTS", 100)
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
            with pytest.raises(DataError, match="repeats its parts too often"):
                read(content)


def test_scalars_that_repeat_a_long_text(read):
    """numpy's scalars are built at once: each one of a long text is another copy."""
    head = b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x000cnumpy\ndtype\n(U\x02S0K\x00K\x01tR(K\x03U\x01|NNNM\xe8\x03K\x01K\x00tbq\x010"
    text = b"T" + struct.pack("<i", 1000) + b"a" * 1000 + b"q\x020"
    once = b"h\x00h\x01h\x02\x86R"
    assert read(head + text + once + b".") == b"a" * 1000
    with pytest.raises(DataError, match="repeats its parts too often"):
        read(head + text + (once + b"0") * 3 + b"N.")


def test_payloads_of_just_the_length_that_stays_in_the_file(tmp_path, read):
    assert pickle_bytes.LARGE == 65_536
    for extra in (0, 1):
        size = pickle_bytes.LARGE + extra
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
    for size in (pickle_bytes.LARGE + (1 << 20) + n for n in range(6)):
        assert len(read(b"S'" + b"a" * size + b"'\n.")) == size
    for size in range(pickle_bytes.LARGE - 4, pickle_bytes.LARGE + 4):
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


REFUSED = {
    "an instance of an admitted name": (b"(icollections\nOrderedDict\n.", "holds an object that is not plain data"),
    "an object of an admitted name": (b"(ccollections\nOrderedDict\no.", "holds an object that is not plain data"),
    "a new object with keywords": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "holds an object that is not plain data"),
    "a read-only buffer": (b"\x80\x05N\x98.", "refers to data outside the file"),
    "a buffer": (b"\x80\x05\x97.", "refers to data outside the file"),
    "a persistent id": (b"Px\n.", "refers to data outside the file"),
    "a binary persistent id": (b"NQ.", "refers to data outside the file"),
    "an extension": (b"\x82\x01.", "names an extension of the copyreg module"),
    "a two-byte extension": (b"\x83\x01\x00.", "names an extension of the copyreg module"),
    "a four-byte extension": (b"\x84\x01\x00\x00\x00.", "names an extension of the copyreg module"),
    "the state of a dict": (b"}Nb.", "sets the state of something that has none"),
    "a long of four bytes": (b"\x8b\x01\x00\x00\x00\x01.", "has a number that is too long"),
    "a number for a name": (b"NI1\n\x93.", "has no name where one is required"),
    "another number": (b"I12x\n.", "has a malformed number"),
    "half an item": (b"(I1\nd.", "has a dict item without a value"),
    "half an item for a dict": (b"}(I1\nu.", "sets items of something that is not a dict"),
    "a protocol of the future": (b"\x80\x06N.", "has the protocol 6, which is unknown"),
    "a call of a number": (b"I1\n)R.", "calls something that is not a function"),
    "arguments that are none": (b"cbuiltins\nlist\nNR.", "calls something that is not a function"),
    "a list of text": (b"cbuiltins\nlist\n(U\x01atR.", "makes a list of something else"),
    "a codec": (b"c_codecs\nencode\n(Vabc\nS'utf-8'\ntR.", "encodes text as 'utf-8'"),
    "what is no text": (b"c_codecs\nencode\n(I1\ntR.", "encodes something that is not text"),
    "bytes of a number": (b"cbuiltins\nbytes\n(I1\ntR.", "makes bytes of something else"),
    "an array by call": (b"cnumpy\nndarray\n)R.", "calls a type"),
    "an array of another kind": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR."), "holds a special kind of array"),
    "an order that is none": (opcodes("cnumpy.core.numeric\n_frombuffer\n(S'12345678'\ncnumpy\ndtype\n(S'f8'\ntR(I1\ntS'K'\ntR."), "describes an array wrongly"),
    "a state of three parts": (array_opcodes()[: array_opcodes().index(b"(I1\n(")] + b"(I1\nI1\nI1\ntb.", "describes an array wrongly"),
    "33 dimensions": (array_opcodes(shape="I1\n" * 33 + "t"), "gives an array an impossible shape"),
    "a dimension too large": (array_opcodes(shape="I0\nI281474976710656\nt", payload="S''\n"), "gives an array an impossible shape"),
    "2^62 bytes": (array_opcodes(shape="I0\nI2147483648\nI268435456\nt", payload="S''\n"), "gives an array an impossible shape"),
    "a payload too long": (array_opcodes(payload="S'123456789'\n"), "gives an array of the shape [1] 9 bytes, where it takes 8"),
    "a new object of an admitted name": (b"ccollections\nOrderedDict\n)\x81.", "holds an object that is not plain data"),
    "content set twice": (array_opcodes()[:-1] + b"(I1\n(I1\ntNI00\nS''\ntb.", "sets the content of an array twice"),
    "a payload of objects": (array_opcodes(payload="(lNa"), "describes an array wrongly"),
    "a payload of numbers": (array_opcodes(payload="I8\n"), "describes an array wrongly"),
    "a payload of text": (array_opcodes(payload="V12345678\n"), "describes an array wrongly"),
    "a large payload of text": (array_opcodes(shape="I10000\nt", payload="V" + "1" * 80000 + "\n"), "describes an array wrongly"),
    "no type": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntNI00\nS'1'\ntb."), "describes an array wrongly"),
    "two texts of no length": (array_opcodes(dtype=state_of_type("S0", "I3", "S'|'", None, None, None, "I0", "I1", "I0"), shape="I2\nt", payload="S''\n"), "has an array of an unusual type"),
    "a truth for a size": (array_opcodes(dtype=state_of_type("S0", "I3", "S'|'", None, None, None, "I01", "I1", "I0"), payload="S'1'\n"), "describes a type wrongly"),
    "no content": (opcodes("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR."), "leaves an array without content"),
    "append to a dict": (opcodes("(dI1\na."), "appends to something that is not a list"),
    "an item of a list": (opcodes("(lS'a'\nI1\ns."), "sets items of something that is not a dict"),
    "a list as a key": (opcodes("(d(lI1\ns."), "has a key that is neither text nor a number"),
    "a short payload beyond the file": (b"U\x05ab", "ends too early: 5 bytes are announced, 2 are left"),
    "a number beyond the file": (b"J\x01\x02", "ends too early: 4 bytes are announced, 2 are left"),
    "a negative length": (b"T\xff\xff\xff\xff.", "ends too early: -1 bytes are announced, 1 are left"),
    "a long payload beyond the file": (b"B" + struct.pack("<I", 70_000) + b"xyz", "ends too early: 70,000 bytes are announced, 3 are left"),
    "text without quotes": (b"Sabc\n.", "has text without quotes"),
    "one quote": (b"S'\n.", "has text without quotes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_these_words(read, tmp_path, name):
    content, told = REFUSED[name]
    with pytest.raises(DataError) as caught:
        read(content)
    assert reason(caught) == told
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'data.pkl'}: must be ")
    assert "\n" not in text
    assert len(text) < 400


TYPES = {
    "object code": ("(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb", "describes an array wrongly"),
    "object code without its flags": ("(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb", "has an array of an unusual type"),
    # the crafted dtypes of FACTS section 7: fields or subarrays of objects whose flags are cleared
    "void with an object field": ("(S'V8'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\nt(dS'a'\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI0\ntsI8\nI1\nI0\ntb", "has an array of the type V8"),
    "fields on a plain code": ("(S'f8'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\nt(dI8\nI1\nI0\ntb", "has an array of a structured type"),
    "a subarray": ("(S'f8'\nI0\nI1\ntR(I3\nS'<'\n(S'f8'\n(I2\nttNNI-1\nI-1\nI0\ntb", "has an array of a structured type"),
    "object flags on a plain code": ("(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb", "has an array of an unusual type"),
    "text flags on a plain code": ("(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI8\ntb", "has an array of an unusual type"),
    "dates": ("(S'M8'\nI0\nI1\ntR(I4\nS'<'\nNNNI-1\nI-1\nI0\n((dS'ns'\nI1\nI1\nI1\nttb", "has an array of the type M8"),
    "long double": ("(S'f16'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb", "has an array of the type f16"),
    "odd size": ("(S'f3'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb", "has an array of the type f3"),
    "a list of fields": ("(S'f8,O8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb", "has an array of the type 'f8,O8'"),
    "a negative size": ("(S'S0'\nI0\nI1\ntR(I3\nS'|'\nNNNI-8\nI1\nI0\ntb", "describes a type wrongly"),
    "a huge size": ("(S'S0'\nI0\nI1\ntR(I3\nS'|'\nNNNI2147483647\nI1\nI0\ntb", "describes a type wrongly"),
    "two sizes": ("(S'S4'\nI0\nI1\ntR(I3\nS'|'\nNNNI8\nI1\nI0\ntb", "describes a type wrongly"),
    "no byte order": ("(S'f8'\nI0\nI1\ntR(I3\nS'?'\nNNNI-1\nI-1\nI0\ntb", "has an array of a structured type"),
    "another state": ("(S'f8'\nI0\nI1\ntRS'<'\nb", "describes a type wrongly"),
    "a number for a code": ("(I8\nI0\nI1\ntR", "has no name where one is required"),
    "a dtype for a code": ("(cnumpy\ndtype\nI0\nI1\ntR", "has no name where one is required"),
    "no dtype at all": ("(S'f8'\ntRcnumpy\ndtype\n", "describes an array wrongly"),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_types_refused_with_these_words(read, name):
    with pytest.raises(DataError) as caught:
        read(array_opcodes(dtype=TYPES[name][0]))
    assert reason(caught) == TYPES[name][1]


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
    assert reason(caught) == told


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
    in_place = protocol > 2 or expected.nbytes <= pickle_bytes.LARGE
    assert stored.has_rows is (in_place and not fortran)
    for start, stop in ((0, 1), (1, 2), (0, len(expected)), (1, -1), (2, 2), (2, 1), (0, 10**9)):
        got = stored.read_rows(start, stop)
        np.testing.assert_array_equal(got, expected[start:stop])
        assert got.shape == expected[start:stop].shape
        assert got.dtype == stored.dtype


def test_only_the_rows_asked_for_are_read(read, monkeypatch):
    stored = read(pickle.dumps(np.arange(100_000.0).reshape(1000, 100), protocol=4))
    sizes = []
    original = stored_array.Span.read_into
    monkeypatch.setattr(stored_array.Span, "read_into", lambda self, out: sizes.append(len(out)) or original(self, out))
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
        ([1, "a"], "holds something else"),
        ([[1, "a"]], "holds something else"),
        ([[[[[1]]]]], "holds lists nested too deep"),
        ([[[[(1,)]]]], "holds lists nested too deep"),
        ([[1, 2], [3]], "its rows differ in shape, [1] and [2]"),
        ([[1], [2, 3], [1, 2, 3]], "its rows differ in shape, [1] and [2]"),
        ([2**80], "holds a number that is too large"),
        ([[1], [2], [3]] * 2, "repeats its parts too often"),
    ],
)
def test_values_that_cannot_be_an_array(value, told):
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
        with pytest.raises(ValueError, match="repeats its parts too often"):
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
