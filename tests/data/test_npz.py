import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.loading import load
from lmf_multitask.data.sources import open_source
from lmf_multitask.data.sources.npz import NpzSource
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
    blocks = [found for _, found in open_source(tmp_path / "x.npz").all_blocks(count)]
    for name, expected in arrays().items():
        np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), expected)


@pytest.mark.parametrize("dtype", ["float64", ">f4", "float16", "int32", "uint8"])
def test_kinds_of_numbers(tmp_path, dtype):
    given = {name: np.abs(np.round(values * 4)).astype(dtype) for name, values in arrays().items()}
    np.savez(tmp_path / "x.npz", **given)
    ((_, block),) = open_source(tmp_path / "x.npz").all_blocks(10)
    assert {values.dtype for values in block.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(block["text"], given["text"].astype("float32"))


def test_fortran_order(tmp_path):
    given = {name: np.asfortranarray(values) for name, values in arrays().items()}
    np.savez(tmp_path / "x.npz", **given)
    blocks = [found for _, found in open_source(tmp_path / "x.npz").all_blocks(3)]
    np.testing.assert_array_equal(np.concatenate([block["text"] for block in blocks]), given["text"])


def test_ids_and_other_arrays(tmp_path):
    np.savez(tmp_path / "x.npz", **arrays(2), id=np.array(["a", "bc"]), labels=np.zeros(2))
    ((ids, _),) = open_source(tmp_path / "x.npz").all_blocks(9)
    assert ids == ["a", "bc"]
    np.savez(tmp_path / "y.npz", **arrays(2))
    ((ids, _),) = open_source(tmp_path / "y.npz").all_blocks(9)
    assert ids == ["row-00000", "row-00001"]
    np.savez(tmp_path / "z.npz", **arrays(2), id=np.array([1, 2]))
    with pytest.raises(DataError, match=r"z.npz: id must be one short text per row, but is int64 \[2\]"):
        open_source(tmp_path / "z.npz")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"other": np.zeros((1, 5))}, "x must have at least one of audio, video, text, but has other."),
        (
            {"audio": np.zeros((1, 5)), "vidoe": np.zeros((1, 5))},
            "x must name its features .* but has 'vidoe'. Did you mean 'video'?",
        ),
        (
            {**arrays(), "audio": np.array([{}], object)},
            "x: audio must be a whole .npy array of numbers, but it holds Python objects",
        ),
        ({**arrays(), "audio": np.array(["a"])}, "x: audio must be an array of numbers, but holds <U1"),
        (
            {**arrays(), "audio": np.zeros((7, 5), complex)},
            "x: audio must be an array of numbers, but holds complex128",
        ),
        ({**arrays(), "audio": np.zeros(7)}, r"x: audio must have the shape .*, but has rows of the shape \[\]"),
        ({**arrays(), "text": np.zeros((7, 2, 2, 3))}, r"x: text must have the shape .* rows of the shape \[2, 2, 3\]"),
        ({**arrays(), "text": np.zeros((7, 0, 3))}, r"text must have the shape .*, but has rows of the shape \[0, 3\]"),
        ({"audio": np.zeros((0, 5))}, "the file must have at least one row, but is empty"),
        (
            {**arrays(), "audio": np.zeros((6, 5))},
            "x: audio, video and text must have the same number of rows, but have {'audio': 6",
        ),
        ({**arrays(), "audio": b"\x80\x04."}, "x: audio must be a whole .npy array of numbers, but"),
        ({**arrays(), "audio": b""}, "x: audio must be a whole .npy array of numbers, but"),
        (
            {**arrays(), "audio": npy_header((7, -5))},
            "x: audio must be a whole .npy array of numbers, but its type is not a plain one",
        ),
        (
            {**arrays(), "audio": npy_header((2**50, 5))},
            "x: audio must be a whole .npy array of numbers, but its shape is",
        ),
        ({f"a{number}": b"" for number in range(301)}, "x: must hold at most 300 arrays, but holds 301"),
    ],
)
def test_wrong_archives(members, message):
    with pytest.raises(DataError, match=message):
        NpzSource.from_bytes(archive(members), "x")


def test_an_array_that_ends_early():
    with pytest.raises(
        DataError, match="x: audio must be a whole .npy array of numbers, but it announces 140 bytes and ends after 20"
    ):
        list(NpzSource.from_bytes(archive({**arrays(), "audio": npy_header((7, 5)) + bytes(20)}), "x").all_blocks(7))


def test_limits_of_size_and_number():
    given = arrays(2, words=2)
    size = 2 * (5 + 4 + 2 * 3) * 4
    assert NpzSource.from_bytes(archive(given), "x", limit=size).count == 2
    with pytest.raises(DataError, match="x: must hold at most 119 bytes of numbers, but holds 120. Send fewer rows"):
        NpzSource.from_bytes(archive(given), "x", limit=size - 1)
    others = {f"other {number}": np.zeros(1) for number in range(61)}
    assert NpzSource.from_bytes(archive({**given, **others}), "x").shapes == {
        "audio": (5,),
        "video": (4,),
        "text": (2, 3),
    }


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (np.array(["a" * 1000, "b"]), None),
        (np.array(["a" * 1025, "b"]), r"x: id must be one short text per row, but is <U1025 \[2\]. Leave it out"),
        (np.array(["a", "b", "c"]), r"<U1 \[3\]"),
        (np.array([["a", "b"]]), r"<U1 \[1, 2\]"),
        (npy_header((2,), "<U0"), r"<U0 \[2\]"),
        (np.array([b"a", b"b"]), r"\|S1 \[2\]"),
        (np.array(["a", None], object), "x: id must be a whole .npy array of numbers, but it holds Python objects"),
    ],
)
def test_ids_are_short_texts_one_per_row(ids, told):
    content = archive({**arrays(2), "id": ids})
    if told is None:
        ((found, _),) = NpzSource.from_bytes(content, "x").all_blocks(9)
        assert found == ["a" * 1000, "b"]
        return
    with pytest.raises(DataError, match=told):
        NpzSource.from_bytes(content, "x")


def test_ids_that_end_early():
    for ids, told in (
        (b"\x93NUMPY", "id must be a whole .npy array of numbers, but it is not a .npy array"),
        (
            npy_header((2,), "<U3") + bytes(20),
            "id must be a whole .npy array of numbers, but it announces 24 bytes and ends after 20",
        ),
    ):
        with pytest.raises(DataError, match=f"x: {told}"):
            NpzSource.from_bytes(archive({**arrays(2), "id": ids}), "x")


def test_the_longer_kind_of_header():
    """Version 2.0, which numpy writes where the header is longer than 64 KiB."""
    values = arrays()["audio"]
    part = io.BytesIO()
    np.lib.format.write_array_header_2_0(part, {"descr": "<f4", "fortran_order": False, "shape": values.shape})
    ((_, block),) = NpzSource.from_bytes(archive({"audio": part.getvalue() + values.tobytes()}), "x").all_blocks(7)
    np.testing.assert_array_equal(block["audio"], values)


@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_beyond_float32_become_infinite(order):
    values = np.array([[1e300, 1.0], [-1e300, 2.0]], order=order)
    ((_, block),) = NpzSource.from_bytes(archive({"audio": values}), "x").all_blocks(2)
    np.testing.assert_array_equal(block["audio"], [[np.inf, 1], [-np.inf, 2]])


def test_impossible_shapes():
    for shape, told in (((2**40, 5), r"\(1099511627776, 5\)"), ((2**39, 2**9), r"\(549755813888, 512\)")):
        with pytest.raises(
            DataError, match=f"x: audio must be a whole .npy array of numbers, but its shape is {told}."
        ):
            NpzSource.from_bytes(archive({"audio": npy_header(shape)}), "x")
    assert NpzSource.from_bytes(archive({"audio": npy_header((2**39, 1))}), "x").count == 2**39  # none of it is read


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"\x80\x04]."])
def test_files_that_are_not_archives(content):
    with pytest.raises(DataError, match="x: must be an .npz file, but is not a zip archive"):
        NpzSource.from_bytes(io.BytesIO(content), "x")


def test_a_flipped_byte_is_an_error():
    content = bytearray(archive(arrays(200)).getvalue())
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(DataError, match="x: text must be a whole .npy array of numbers, but"):
        list(NpzSource.from_bytes(io.BytesIO(bytes(content)), "x").all_blocks(50))


def test_zip_bombs_are_not_unpacked():
    """Much more is declared, or is in the archive, than the limit: refused from the header, or never read."""
    rows = 2_000_000
    bomb = archive({**arrays(), "text": npy_header((7, 6, 3)) + bytes(50_000_000)})  # more than its header says
    assert len(bomb.getvalue()) < 100_000
    tracemalloc.start()
    ((_, block),) = NpzSource.from_bytes(bomb, "x", limit=10_000).all_blocks(7)
    assert not block["text"].any()
    declared = archive(
        {"audio": npy_header((rows, 5)), "video": npy_header((rows, 4)), "text": npy_header((rows, 6, 3))}
    )
    with pytest.raises(
        DataError, match=r"x: must hold at most 10,000 bytes of numbers, but holds 216,000,000. Send fewer rows"
    ):
        NpzSource.from_bytes(declared, "x", limit=10_000)
    assert tracemalloc.get_traced_memory()[1] < 3_000_000
    tracemalloc.stop()


def test_memory_stays_flat(tmp_path):
    peaks = []
    for count in (2000, 20000):
        np.savez(tmp_path / "x.npz", **arrays(count, words=60))
        tracemalloc.start()
        for _, block in open_source(tmp_path / "x.npz").all_blocks(64):
            assert block["text"].shape[1:] == (60, 3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000


# -- labels and splits: such a file can be trained on


EMOTIONS = ["happy", "tense"]


def labelled(labels, **others):
    given = arrays(9)
    return {**given, "split": np.array(["train"] * 4 + ["dev"] * 2 + ["Test"] * 3), **labels, **others}


LABELS = np.array([[n % 2, n % 3 == 0] for n in range(9)], float)
LABELS[1, 0] = np.nan


@pytest.mark.parametrize(
    "labels",
    [
        {"labels": LABELS, "emotions": np.array(["Happy", "tense"])},
        {"labels": np.nan_to_num(LABELS, nan=-100).astype(int), "emotions": np.array(EMOTIONS)},
        {"happy": LABELS[:, 0], "tense": LABELS[:, 1:], "speaker": np.zeros(9), "weights": np.zeros((2, 2, 2))},
    ],
)
def test_labels_and_splits(tmp_path, labels):
    given = labelled(labels, id=np.array([f"clip {n}" for n in range(9)]))
    np.savez(tmp_path / "x.npz", **given)
    data = load(tmp_path / "x.npz")
    assert data.emotions == EMOTIONS
    assert data.inputs["text"].shape == (6, 3)
    rows = {"train": slice(0, 4), "validation": slice(4, 6), "test": slice(6, 9)}
    for split, chosen in rows.items():
        columns = column_arrays(data.dataset[split])
        np.testing.assert_array_equal(columns["labels"], LABELS[chosen])
        for name in ("audio", "video", "text"):
            np.testing.assert_array_equal(columns[name], given[name][chosen])
        assert data.dataset[split]["id"][:] == given["id"][chosen].tolist()
    if "speaker" in labels:
        assert "ignored arrays: speaker, weights" in data.notes


def test_names_of_unnamed_labels_come_from_the_user(tmp_path):
    np.savez(tmp_path / "x.npz", **labelled({"labels": LABELS}))
    assert load(tmp_path / "x.npz", ["a", "b"]).emotions == ["a", "b"]
    np.savez(tmp_path / "y.npz", **labelled({"loud": LABELS[:, 0]}))
    assert load(tmp_path / "y.npz", ["loud"]).emotions == ["loud"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "must have labels"),
        ({"labels": LABELS}, "the label columns must have names"),
        (
            {"labels": LABELS, "emotions": np.array(["a"])},
            "labels must have one column per emotion, but have 2 for 1 names",
        ),
        ({"labels": LABELS, "emotions": np.array(["a", "a"])}, "emotions must be different, but got a, a"),
        ({"labels": LABELS, "emotions": np.array(["a", "../b"])}, "the name of a task must consist of"),
        (
            {"labels": LABELS[:3], "emotions": np.array(EMOTIONS)},
            "labels must have one row per clip, but has the shape",
        ),
        ({"happy": np.full(9, 0.5)}, "'happy' must be 0 or 1, or NaN where not annotated, but holds 0.5"),
        (
            {"happy": LABELS[:, 0], "split": np.array(["late"] * 9)},
            "split must be train, validation or test in every row, but",
        ),
        (
            {"happy": LABELS[:, 0], "split": np.array(["train"] * 9)},
            "must have the splits train, validation, test for training",
        ),
    ],
)
def test_labels_and_splits_that_are_wrong(tmp_path, labels, message):
    np.savez(tmp_path / "x.npz", **labelled({}) | labels)
    with pytest.raises(DataError, match=f"x.npz: .*{message}"):
        load(tmp_path / "x.npz")
