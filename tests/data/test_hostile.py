"""Small files that ask for much memory or time, or for another place: each was tried as a file before it was refused."""

import json
import os
import pickle
import struct
import time
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_corpus
from pickle_layouts import make_clips, mmsa

from lmf_multitask import load_iemocap
from lmf_multitask.data import cache
from lmf_multitask.data.loading import inspect
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.data.sample import write_sample
from lmf_multitask.data.schema import dataset_features
from lmf_multitask.data.sources import emotions_first
from lmf_multitask.data.stored_array import StoredArray, to_array
from lmf_multitask.errors import DataError

GIGABYTE = 1 << 30


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content


def array_then(array, rest):
    """A pickle that remembers an array as number 99 and goes on with `rest`."""
    return pickle.dumps(array, protocol=2)[:-1] + b"q\x63" + rest + b"."


LONG_KEY = b"T" + struct.pack("<i", 60_000) + b"\xff" * 60_000 + b"q\x00"
KEY = b"T" + struct.pack("<i", 900) + b"\xff" * 900 + b"q\x00"
LAUGHS = (
    b"\x80\x02"
    + text(b"lol")
    + b"q\x00"
    + b"".join(b"(" + b"h%c" % n * 10 + b"tq%c" % (n + 1) for n in range(40))
    + b"."
)

SMALL_AND_GREEDY = {
    # a long key, decoded again for each of many dicts: minutes and gigabytes
    "a long key in many dicts": (LONG_KEY + b"0" + b"}h\x00Ns" * 3000 + b"N.", "has a key of 60,000 characters"),
    "a key in many dicts": (KEY + b"0" + b"(" + b"}h\x00Ns" * 3000 + b"l.", None),
    "a long text key": (b"}" + text(b"a" * 2000) + b"Ns.", "has a key of 2,000 characters"),
    "one text of no length": (pickle.dumps(np.bytes_(b"")), None),
    "laughs": (LAUGHS, None),
    "a pickle in a pickle in bytes": (pickle.dumps(pickle.dumps(pickle.dumps([np.zeros(9)]))), None),
    "nested lists": (b"\x80\x02" + b"(" * 30_000 + b"l" * 30_000 + b".", None),
    "nested tuples": (b"\x80\x02N" + b"\x85" * 50_000 + b".", None),
    "nested dicts": (b"\x80\x02" + b"}N" * 30_000 + b"N" + b"s" * 30_000 + b".", None),
    "names in chains": (b"\x80\x04" + text(b"numpy") + text(b"ndarray.__init__.__globals__") + b"\x93.", "names numpy.ndarray.__init__"),
    "an attribute of a name": (b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.", "names builtins.getattr"),
    "numpy.load": (b"cnumpy\nload\n(S'x.npy'\nNI01\ntR.", "names numpy.load"),
    "a two-byte extension": (b"\x80\x02\x83\x01\x00.", "names an extension of the copyreg module"),
    "a four-byte extension": (b"\x80\x02\x84\x01\x00\x00\x00.", "names an extension of the copyreg module"),
    "a persistent id in a dict": (b"(dS'a'\nPhttp://example.org\ns.", "refers to data outside the file"),
    "a memo number of 400 digits": (b"Np" + b"9" * 390 + b"\n.", None),
    "a memo number of 4 billion": (b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xff.", None),
    "a frame of a gigabyte": (b"\x80\x04\x95" + struct.pack("<Q", GIGABYTE) + b"N.", "ends too early: 1,073,741,824 bytes"),
}  # fmt: skip
for _code, _form in ((b"T", "<i"), (b"B", "<I"), (b"X", "<I"), (b"\x8d", "<Q"), (b"\x8e", "<Q"), (b"\x96", "<Q")):
    SMALL_AND_GREEDY[f"a gigabyte after {_code!r}"] = (
        b"\x80\x05" + _code + struct.pack(_form, GIGABYTE) + b"x" * 90 + b".",
        "ends too early: 1,073,741,824 bytes are announced, 91 are left",
    )
for _shape in (b"J\x00\x00\x00\x40\x85", b"J\x00\x00\x01\x00J\x00\x40\x00\x00\x86"):
    SMALL_AND_GREEDY[f"an array of a gigabyte {_shape!r}"] = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + _shape
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08abcdefghtb.",
        "where it takes 1,073,741,824",
    )  # fmt: skip


@pytest.mark.parametrize("name", SMALL_AND_GREEDY)
def test_small_files_stay_small_and_quick(tmp_path, name):
    content, message = SMALL_AND_GREEDY[name]
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.process_time()
    try:
        value = read_pickle(path)
        assert message is None, "it was read"
        if isinstance(value, StoredArray):
            value.read()
    except DataError as error:
        assert message is not None, error
        assert message in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000 + 150 * len(content)
    assert time.process_time() - start < 10  # some hundredths, unless the work grows with the square of the size


def test_arrays_of_no_bytes_are_not_built(tmp_path):
    """A billion texts of no length take nothing in the file, and a byte each in numpy's memory."""
    path = tmp_path / "data.pkl"
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    tail = b"\x85cnumpy\ndtype\nU\x02S0K\x00K\x01\x87R(K\x03U\x01|NNNK\x00K\x01K\x00tb\x89U\x00tb."
    path.write_bytes(head + b"J\x00\x00\x00\x40" + tail)
    with pytest.raises(DataError, match="has an array of an unusual type"):
        read_pickle(path)
    path.write_bytes(head + b"K\x01" + tail)
    assert read_pickle(path).read().tolist() == [b""]


def test_a_text_that_a_list_repeats_is_not_read_again_and_again(tmp_path):
    path = tmp_path / "data.pkl"
    path.write_bytes(array_then(np.array([b"x" * 65_000]), b"0(" + b"h\x63" * 20_000 + b"l"))
    tree = read_pickle(path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="holds text"):
            to_array(tree, limit=100_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# -- one array under many names


def test_too_many_emotions_are_refused(write_pickle):
    splits = make_corpus()["sad"]
    path = write_pickle({f"e{n}": splits for n in range(257)})
    with pytest.raises(DataError, match="must hold at most 256 emotions, but holds 257. Check the file."):
        load_iemocap(path)


def test_too_many_labels_are_refused(write_pickle, monkeypatch):
    monkeypatch.setattr(emotions_first, "MOST_LABELS", 100)
    same = make_corpus()["sad"]
    path = write_pickle({f"e{n}": same for n in range(9)})
    with pytest.raises(DataError, match="must hold at most 100 labels in train, but holds 108. Check the file."):
        load_iemocap(path)
    # 6 emotions with 12 clips each are 72; as none is shared, the table of their labels has 72 x 6
    different = {f"e{n}": make_corpus(seed=n)["sad"] for n in range(6)}
    with pytest.raises(DataError, match="must hold at most 100 labels in train, but holds 432."):
        load_iemocap(write_pickle(different))


# -- what is no file


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path / "pipe.pkl", "/dev/zero"):
        for read in (load_iemocap, read_pickle):
            with pytest.raises(DataError, match="must be a regular file, but is a pipe or a device"):
                read(path)
    with pytest.raises(OSError, match="must be a file that may be replaced, but is a device or a pipe"):
        write_sample("/dev/null")


# -- folders


def saved_columns(rows, emotions=("calm", "tense")):
    rng = np.random.default_rng(rows)
    return {
        "id": [f"clip-{n}" for n in range(rows)],
        "audio": rng.normal(size=(rows, 3)).tolist(),
        "video": rng.normal(size=(rows, 2)).tolist(),
        "text": rng.normal(size=(rows, 4, 5)).tolist(),
        "labels": [{name: float((row + k) % 2) for k, name in enumerate(emotions)} for row in range(rows)],
    }


def saved(folder, emotions=("calm", "tense"), form="saved", change=lambda columns, features: (columns, features)):
    """A data set as `save_to_disk` or pandas would leave it, with these emotions."""
    parts = datasets.DatasetDict()
    for split, rows in (("train", 6), ("validation", 4), ("test", 5)):
        columns, features = change(
            saved_columns(rows, emotions), dataset_features({"audio": (3,), "video": (2,), "text": (4, 5)}, emotions)
        )
        parts[split] = datasets.Dataset.from_dict(columns, features)
    folder.mkdir(exist_ok=True)
    if form == "saved":
        parts.save_to_disk(str(folder))
    else:
        for split, rows in parts.items():
            rows.to_parquet(str(folder / f"{split}.parquet"))
    return folder


@pytest.mark.parametrize("form", ["saved", "parquet"])
@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "a\x1b[2Jb", "x" * 65, ""])
def test_emotions_that_a_data_set_names_are_checked_before_they_name_folders(tmp_path, form, name):
    with pytest.raises(DataError, match="the name of a task must consist of"):
        load_iemocap(saved(tmp_path / "data", ["calm", name], form))


def test_emotions_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="emotions must be different, but got calm, calm"):
        load_iemocap(saved(tmp_path / "data", ["calm", "Calm"]))


def edit_json(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


HOSTILE_FOLDERS = {
    "arrow files elsewhere": (
        lambda folder: edit_json(folder / "train/state.json", lambda s: s | {"_data_files": [{"filename": "../../x.arrow"}]}),
        "train: must be a saved data set, but it refers to files outside of it",
    ),
    "an absolute arrow file": (
        lambda folder: edit_json(folder / "test/state.json", lambda s: s | {"_data_files": [{"filename": "/etc/passwd"}]}),
        "test: must be a saved data set, but it refers to files outside of it",
    ),
    "a link as arrow file": (
        lambda folder: ((folder / "x").write_text(""), (folder / "train/l.arrow").symlink_to(folder / "x"),
                        edit_json(folder / "train/state.json", lambda s: s | {"_data_files": [{"filename": "l.arrow"}]})),
        "must not refer to files outside of it, but l.arrow is a link",
    ),
    "a state of another kind": (lambda folder: (folder / "train/state.json").write_text("[1]"), "train: must be a saved data set, but"),
    "a state nested deeply": (lambda folder: (folder / "train/state.json").write_text("[" * 100_000), "train/state.json: must be JSON, but"),
    "files of another kind": (lambda folder: edit_json(folder / "train/state.json", lambda s: s | {"_data_files": 7}), "train: must be"),
    "an arrow file cut off": (
        lambda folder: os.truncate(next((folder / "train").glob("*.arrow")), 700), "train: must be a saved data set, but",
    ),
    "an empty arrow file": (
        lambda folder: os.truncate(next((folder / "train").glob("*.arrow")), 0), "train: must be a saved data set, but",
    ),
    "no test": (lambda folder: (folder / "test").rename(folder / "tset"), "must have the splits train, validation, test for training, but has train, validation"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_saved_data_sets(tmp_path, name):
    do, message = HOSTILE_FOLDERS[name]
    folder = saved(tmp_path / "data")
    do(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_iemocap(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [2, 6])
def test_a_saved_index_beyond_the_rows_is_refused(tmp_path, place):
    """pyarrow believes what an Arrow file says of itself; text whose place lies outside the file must not be read."""
    folder = saved(tmp_path / "data")
    path = next((folder / "train").glob("*.arrow"))
    content = path.read_bytes()
    offsets = [0, 6, 12, 18, 24, 30, 36]
    packed = struct.pack("<7i", *offsets)
    assert packed in content
    offsets[place] = 2**30
    path.write_bytes(content.replace(packed, struct.pack("<7i", *offsets)))
    with pytest.raises(DataError, match="train: must be a saved data set, but"):
        load_iemocap(folder)


@pytest.mark.parametrize(
    "content", [{}, [1], {"features": {"audio": {"_type": "Malware"}}, "description": "\x1b]0;mine\x07"}]
)
def test_the_information_beside_a_saved_data_set_is_not_read(tmp_path, content):
    folder = saved(tmp_path / "data")
    for split in ("train", "validation", "test"):
        (folder / split / "dataset_info.json").write_text(json.dumps(content))
    (told,) = {rows.info.description for rows in load_iemocap(folder).values()}
    assert "emotions   calm, tense (" in told
    assert "\x1b" not in told


def test_a_pipe_in_a_saved_data_set_is_refused(tmp_path):
    folder = saved(tmp_path / "data")
    for name in ("train/state.json", next((folder / "test").glob("*.arrow")).relative_to(folder)):
        (folder / name).rename(tmp_path / "aside")
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match="must be a regular file, but is a pipe or a device"):
            load_iemocap(folder)
        (folder / name).unlink()
        (tmp_path / "aside").rename(folder / name)


def test_a_long_id_that_a_parquet_file_repeats(tmp_path):
    folder = write_parquet(tmp_path / "data", audio=[[1.0]] * 100, id=["x" * 200_000] * 100, calm=[0, 1] * 50)
    assert (folder / "train.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="ids must have at most 1,000 bytes, but one has 200,000"):
        load_iemocap(folder)


def test_ids_are_read_as_they_are_stored(tmp_path):
    """A column of images would be fetched from where its rows say."""

    def images(columns, features):
        columns["id"] = [{"bytes": None, "path": "/etc/hostname"}] * len(columns["id"])
        features["id"] = datasets.Image()
        return columns, features

    with pytest.raises(DataError, match="column 'id' of .*train must hold text or whole numbers, but holds struct"):
        load_iemocap(saved(tmp_path / "data", change=images))

    def numbers(columns, features):
        columns["id"] = [7 + n for n in range(len(columns["id"]))]
        features["id"] = datasets.Value("int16")
        return columns, features

    assert list(load_iemocap(saved(tmp_path / "numbers", change=numbers))["test"]["id"]) == ["7", "8", "9", "10", "11"]


def write_parquet(folder, **columns):
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


def test_parquet_that_is_much_larger_in_memory(tmp_path):
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20_000_000, np.float32)), 1000)
    folder = write_parquet(tmp_path / "data", audio=zeros)
    assert (folder / "train.parquet").stat().st_size < 200_000
    with pytest.raises(
        DataError, match="train.parquet: must hold at most 100 values or bytes per byte, but holds 20,000,001 values"
    ):
        load_iemocap(folder)


@pytest.mark.parametrize("column", ["id", "split", "emotion", "audio"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_long_texts_in_parquet_are_not_unpacked(tmp_path, column, dictionary):
    """One text that 60,000 rows repeat, or one that is compressed to a hundredth: 60 GB and 60 MB."""
    texts = ["x" * 1_000_000] * 60_000 if dictionary else ["x" * 60_000_000]
    columns = {"audio": [[1.0]] * len(texts), "calm": [0] * len(texts)}
    columns[column] = pa.array(texts[:1]).dictionary_encode().take(pa.array(np.zeros(len(texts), np.int32)))
    if not dictionary:
        columns[column] = columns[column].cast(pa.string())
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=dictionary)
    assert path.stat().st_size < 200_000
    usual = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(counted)
    try:
        with pytest.raises(DataError):
            load_iemocap(path)
    finally:
        pa.set_memory_pool(usual)
    assert counted.max_memory() < 20_000_000


def test_a_saved_data_set_that_is_compressed_is_measured_first(tmp_path):
    folder = saved(tmp_path / "data")
    path = next((folder / "train").glob("*.arrow"))
    zeros = pa.table({"audio": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(30_000_000, "f4")), 1000)})
    with pa.ipc.new_stream(str(path), zeros.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(zeros)
    with pytest.raises(DataError, match="must hold at most 100 bytes or rows per byte, but announces 120,0"):
        load_iemocap(folder)


def test_rows_without_bytes(tmp_path):
    """Two billion clips in 300 bytes: a column of nulls has no buffers."""
    nulls = pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])
    table = pa.table({"audio": nulls, "text": nulls})
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="but announces 0 bytes and 2,147,483,647 rows"):
        load_iemocap(tmp_path / "x.arrow")


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_padding_does_not_fill_the_disk(tmp_path, monkeypatch, form):
    """One long sequence, to which 20,000 short ones would be padded; zeros, which zip packs to a thousandth."""
    labels = np.arange(20_000) % 2
    if form == "npz":
        monkeypatch.setattr(cache, "_ALWAYS", 1 << 24)
        path = tmp_path / "x.npz"
        np.savez_compressed(path, text=np.zeros((20_000, 3, 100), "f4"), calm=labels)
    else:
        path = tmp_path / "x.parquet"
        text = pa.array([[[1.0]] * 20_000, *[[[1.0]]] * 19_999])
        pq.write_table(pa.table({"text": text, "calm": labels}), path)
    with pytest.raises(
        DataError, match=r"features must take at most 100 times .* Shorten sequences: --data.max_length"
    ):
        inspect(path)


def test_half_a_character_in_an_id(tmp_path):
    """Pickles can hold text that UTF-8 cannot express; reports and tables are UTF-8."""
    data = mmsa(make_clips())
    data["test"]["id"] = ["\ud800", *data["test"]["id"][1:]]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(
        DataError, match=r"x.pkl: ids must be text that UTF-8 can express, but one has half a character"
    ):
        inspect(tmp_path / "x.pkl")


def test_long_ids_of_any_layout(tmp_path):
    """Layouts that do not look at the length of ids themselves, for instance HDF5 and folders of dialogues."""
    path = tmp_path / "x.npz"
    np.savez(path, audio=np.ones((3, 2)), id=["a", "b", "c" * 1001], calm=[0, 1, 0])
    with pytest.raises(DataError, match="x.npz: ids must have at most 1,000 characters, but one has 1,001"):
        inspect(path)


NUMBERS = [[1.0, 2.0]] * 3
WRONG_PARQUET = {
    "no rows": ({"audio": pa.array([], pa.list_(pa.float32())), "calm": pa.array([], pa.int64())}, "must have at least one row"),
    "more labels in a row": ({"audio": NUMBERS, "video": NUMBERS, "text": [NUMBERS] * 3, "labels": [[0, 1]] * 3}, "the label columns must have names, but the file has none"),
    "structures": ({"audio": [{"a": 1}] * 3}, "column 'audio' must hold numbers, but holds struct"),
    "maps": ({"audio": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int32()))}, "column 'audio' must hold numbers, but holds map"),
    "dates": ({"audio": pa.array([1] * 3, pa.timestamp("s"))}, "column 'audio' must hold numbers, but holds timestamp"),
    "single numbers": ({"audio": [1.0] * 3}, r"audio must have the shape .* rows of the shape \[\]"),
    "nothing": ({"audio": [None] * 3}, "must have audio or video or text in some row, but has none of them"),
    "nulls": ({"audio": pa.array([None] * 3, pa.list_(pa.float32())), "text": [[[0.0]]] * 3}, "text must have numbers in some clip, but are zero or null"),
    "missing numbers": ({"audio": [[1.0, None]] * 3}, "column 'audio' must have no empty values, but got 3"),
    "longer rows": ({"audio": [[1.0], None, [1.0, 2.0]]}, "column 'audio' must have rows of one length"),
    "lists in lists in lists": ({"audio": [[[[1.0]]]] * 3}, r"audio must have the shape .* rows of the shape \[1, 1, 1\]"),
    "empty lists": ({"audio": pa.array([[]] * 3, pa.list_(pa.float32()))}, r"rows of the shape \[0\]"),
    "text": ({"audio": ["loud"] * 3}, "column 'audio' must hold numbers, or paths of .npy files, but holds text"),
    "labels of three": ({"audio": NUMBERS, "video": NUMBERS, "text": [NUMBERS] * 3, "calm": [0, 1, 2]}, "labels of 'calm' must be 0 or 1, or NaN where not annotated, but holds 2"),
    "no labels": ({"audio": NUMBERS, "video": NUMBERS, "text": [NUMBERS] * 3}, "must have labels: .* but has no other column"),
    "a path for an emotion": ({"audio": NUMBERS, "video": NUMBERS, "text": [NUMBERS] * 3, "../x": [0, 1, 1]}, "must have labels: .* but has ../x"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PARQUET)
def test_parquet_of_other_types(tmp_path, name):
    columns, message = WRONG_PARQUET[name]
    if "calm" not in columns and "labels" not in columns and name not in ("no labels", "a path for an emotion"):
        columns = columns | {"calm": [0, 1, 0]}
    with pytest.raises(DataError, match=message) as caught:
        load_iemocap(write_parquet(tmp_path / "data", **columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 3, 50, 200, -1])
def test_parquet_cut_off(tmp_path, cut):
    folder = saved(tmp_path / "data", form="parquet")
    path = folder / "train.parquet"
    os.truncate(path, cut if cut >= 0 else path.stat().st_size + cut)
    with pytest.raises(DataError, match="train.parquet: must be a Parquet file, but") as caught:
        load_iemocap(folder)
    assert "\n" not in str(caught.value)
