import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from lmf_multitask.data.features import open_features
from lmf_multitask.data.npz import NpzRows
from lmf_multitask.errors import DataError


def arrays(count=7, dtype="float32", words=6):
    rng = np.random.default_rng(0)
    shapes = {"audio": (count, 5), "video": (count, 4), "text": (count, words, 3)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def archive(members):
    """A zip of .npy members given as arrays or bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                part = io.BytesIO()
                np.save(part, content, allow_pickle=True)
                content = part.getvalue()
            file.writestr(f"{name}.npy", content)
    return io.BytesIO(buffer.getvalue())


def npy_header(shape, dtype="<f4"):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_pieces_are_the_whole(tmp_path, save, count):
    save(tmp_path / "x.npz", **arrays())
    blocks = list(NpzRows(tmp_path / "x.npz").blocks(count))
    for name, expected in arrays().items():
        np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), expected)


@pytest.mark.parametrize("dtype", ["float64", ">f4", "float16", "int32", "uint8"])
def test_kinds_of_numbers(tmp_path, dtype):
    given = {name: np.abs(np.round(values * 4)).astype(dtype) for name, values in arrays().items()}
    np.savez(tmp_path / "x.npz", **given)
    (block,) = NpzRows(tmp_path / "x.npz").blocks(10)
    assert {values.dtype for values in block.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(block["text"], given["text"].astype("float32"))


def test_fortran_order(tmp_path):
    given = {name: np.asfortranarray(values) for name, values in arrays().items()}
    np.savez(tmp_path / "x.npz", **given)
    blocks = list(NpzRows(tmp_path / "x.npz").blocks(3))
    np.testing.assert_array_equal(np.concatenate([block["text"] for block in blocks]), given["text"])


def test_ids_and_other_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(2), id=np.array(["a", "bc"]), labels=np.zeros(2))
    ((ids, _),) = open_features(tmp_path / "x.npz").blocks(9)
    assert ids == ["a", "bc"]
    np.savez(tmp_path / "y.npz", **arrays(2))
    ((ids, _),) = open_features(tmp_path / "y.npz").blocks(9)
    assert ids == ["row-00000", "row-00001"]
    np.savez(tmp_path / "z.npz", **arrays(2), id=np.array([1, 2]))
    with pytest.raises(DataError, match=r"z.npz: id must be one short text per row, but is int64 \[2\]"):
        open_features(tmp_path / "z.npz")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"other": np.zeros((1, 5))}, "x must have at least one of audio, video and text, but has other."),
        (
            {"audio": np.zeros((1, 5)), "visual": np.zeros((1, 5))},
            "x must call .* but has 'visual'. Did you mean 'video'?",
        ),
        (
            {**arrays(), "audio": np.array([{}], object)},
            "x: audio must be an array of numbers, but holds Python objects",
        ),
        ({**arrays(), "audio": np.array(["a"])}, "x: audio must be an array of numbers, but holds <U1"),
        (
            {**arrays(), "audio": np.zeros((7, 5), complex)},
            "x: audio must be an array of numbers, but holds complex128",
        ),
        ({**arrays(), "audio": np.zeros(7)}, r"x: audio must have the shape \[rows, dimensions\], but has \[7\]"),
        (
            {**arrays(), "text": np.zeros((7, 3))},
            r"x: text must have the shape \[rows, words, dimensions\], but has \[7, 3\]",
        ),
        ({**arrays(), "text": np.zeros((7, 0, 3))}, r"text must have the shape .*, but has \[7, 0, 3\]"),
        ({**arrays(), "audio": np.zeros((0, 5))}, r"audio must have the shape .*, but has \[0, 5\]"),
        (
            {**arrays(), "audio": np.zeros((6, 5))},
            "x: audio, video and text must have the same number of rows, but have {'audio': 6",
        ),
        ({**arrays(), "audio": b"\x80\x04."}, "x: audio must be a whole .npy array, but"),
        ({**arrays(), "audio": b""}, "x: audio must be a whole .npy array, but"),
        ({**arrays(), "audio": npy_header((7, -5))}, r"x: audio must have a possible shape, but has \(7, -5\)"),
        ({**arrays(), "audio": npy_header((2**50, 5))}, "x: audio must have a possible shape"),
        ({f"a{number}": b"" for number in range(65)}, "x: must hold audio, video and text, but holds 65 arrays"),
    ],
)
def test_what_is_refused(members, message):
    with pytest.raises(DataError, match=message):
        NpzRows(archive(members), "x")


def test_an_array_that_ends_early():
    with pytest.raises(DataError, match="x: audio must have the 140 bytes that it announces, but ends after 20"):
        list(NpzRows(archive({**arrays(), "audio": npy_header((7, 5)) + bytes(20)}), "x").blocks(7))


def test_what_is_just_allowed():
    given = arrays(2, words=2)
    size = 2 * (5 + 4 + 2 * 3) * 4
    assert NpzRows(archive(given), "x", limit=size).count == 2
    with pytest.raises(DataError, match="x: must hold at most 119 bytes of numbers, but holds 120. Send fewer rows"):
        NpzRows(archive(given), "x", limit=size - 1)
    others = {f"other {number}": np.zeros(1) for number in range(61)}
    assert NpzRows(archive({**given, **others}), "x").shapes == {"audio": (2, 5), "video": (2, 4), "text": (2, 2, 3)}


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (np.array(["a" * 1024, "b"]), None),
        (np.array(["a" * 1025, "b"]), r"<U1025 \[2\]"),
        (np.array(["a", "b", "c"]), r"<U1 \[3\]"),
        (np.array([["a", "b"]]), r"<U1 \[1, 2\]"),
        (npy_header((2,), "<U0"), r"<U0 \[2\]"),
        (np.array([b"a", b"b"]), r"\|S1 \[2\]"),
        (np.array(["a", None], object), r"object \[2\]"),
    ],
)
def test_ids_are_short_texts_one_per_row(ids, told):
    source = NpzRows(archive({**arrays(2), "id": ids}), "x")
    if told is None:
        assert source.ids() == ["a" * 1024, "b"]
        return
    with pytest.raises(DataError, match=f"x: id must be one short text per row, but is {told}. Leave it out"):
        source.ids()


def test_ids_that_end_early():
    with pytest.raises(DataError, match="x: id must be a whole .npy array, but EOF"):
        NpzRows(archive({**arrays(2), "id": b"\x93NUMPY"}), "x").ids()
    source = NpzRows(archive({**arrays(2), "id": npy_header((2,), "<U3") + bytes(20)}), "x")
    with pytest.raises(DataError, match="x: id must have the 24 bytes that it announces, but ends after 20"):
        source.ids()


def test_the_longer_kind_of_header():
    """Version 2.0, which numpy writes where the header is longer than 64 KiB."""
    values = arrays()["audio"]
    part = io.BytesIO()
    np.lib.format.write_array_header_2_0(part, {"descr": "<f4", "fortran_order": False, "shape": values.shape})
    (block,) = NpzRows(archive({"audio": part.getvalue() + values.tobytes()}), "x").blocks(7)
    np.testing.assert_array_equal(block["audio"], values)


@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_beyond_float32_become_infinite(order):
    values = np.array([[1e300, 1.0], [-1e300, 2.0]], order=order)
    (block,) = NpzRows(archive({"audio": values}), "x").blocks(2)
    np.testing.assert_array_equal(block["audio"], [[np.inf, 1], [-np.inf, 2]])


def test_a_folder_is_no_archive(tmp_path):
    with pytest.raises(
        DataError, match=f"{tmp_path.name}: must be a readable file, but Is a directory. Check the path"
    ):
        NpzRows(tmp_path)


def test_shapes_of_more_than_any_memory():
    for shape, told in (((2**40, 5), r"\(1099511627776, 5\)"), ((2**39, 2**9), r"\(549755813888, 512\)")):
        with pytest.raises(DataError, match=f"x: audio must have a possible shape, but has {told}."):
            NpzRows(archive({"audio": npy_header(shape)}), "x")
    assert NpzRows(archive({"audio": npy_header((2**39, 1))}), "x").count == 2**39  # none of it is read


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"\x80\x04]."])
def test_no_archive_at_all(content):
    with pytest.raises(DataError, match="x: must be an .npz file, but is no zip archive"):
        NpzRows(io.BytesIO(content), "x")


def test_a_flipped_byte_is_noticed():
    content = bytearray(archive(arrays(200)).getvalue())
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(DataError, match="x: text must be a whole .npy array, but"):
        list(NpzRows(io.BytesIO(bytes(content)), "x").blocks(50))


def test_zip_bombs_are_not_unpacked():
    """Much more is declared, or is in the archive, than the limit: refused from the header, or never read."""
    rows = 2_000_000
    bomb = archive({**arrays(), "text": npy_header((7, 6, 3)) + bytes(50_000_000)})  # more than its header says
    assert len(bomb.getvalue()) < 100_000
    tracemalloc.start()
    (block,) = NpzRows(bomb, "x", limit=10_000).blocks(7)
    assert not block["text"].any()
    declared = archive(
        {"audio": npy_header((rows, 5)), "video": npy_header((rows, 4)), "text": npy_header((rows, 6, 3))}
    )
    with pytest.raises(
        DataError, match=r"x: must hold at most 10,000 bytes of numbers, but holds 216,000,000. Send fewer rows"
    ):
        NpzRows(declared, "x", limit=10_000)
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


def test_memory_stays_flat(tmp_path):
    peaks = []
    for count in (2000, 20000):
        np.savez(tmp_path / "x.npz", **arrays(count, words=60))
        tracemalloc.start()
        for _, block in open_features(tmp_path / "x.npz").blocks(64):
            assert block["text"].shape[1:] == (60, 3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000
