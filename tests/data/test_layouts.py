"""Each layout of tables gives back what was put in: values, labels, padding, ids."""

import numpy as np
import pyarrow as pa
import pytest
from conftest import shared_file
from layouts import LAYOUTS, SPLITS, clips, labels_of, write_csv

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.loading import convert, inspect, load
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError


@pytest.fixture(params=LAYOUTS)
def written(request, tmp_path):
    data = clips()
    return LAYOUTS[request.param](tmp_path, data), data


def test_training_data(written):
    path, data = written
    loaded = load(path)
    assert loaded.emotions == ["happy", "sad", "angry"]
    for split in SPLITS:
        rows = np.array(data["split"]) == split
        found = column_arrays(loaded.dataset[split])
        assert loaded.dataset[split]["id"] == [name for name, own in zip(data["id"], rows) if own]
        for name in ("audio", "video", "text"):
            np.testing.assert_array_equal(np.asarray(found[name]), data[name][rows], name)
        np.testing.assert_array_equal(found["labels"], labels_of(data)[rows])
    assert loaded.inputs["text"].padding == "end"
    assert any("one task for each of happy, sad, angry" in note for note in loaded.notes)
    assert "exclusive: exactly one is present in every clip" in inspect(path)


def test_prediction_data(written):
    path, data = written
    source = open_source(path, "test")
    ids, audio = [], []
    for names, features in source.all_blocks(2):
        ids += names
        audio.append(features["audio"])
    rows = np.array(data["split"]) == "test"
    assert ids == [name for name, own in zip(data["id"], rows) if own]
    np.testing.assert_array_equal(np.concatenate(audio), data["audio"][rows])


def test_conversion_gives_the_same_rows(written, tmp_path):
    path, _ = written
    first = load(path)
    files = convert(path, tmp_path / "converted")
    assert [file.name for file in files] == ["train.parquet", "validation.parquet", "test.parquet"]
    again = load(tmp_path / "converted")
    assert again.fingerprint == first.fingerprint
    with pytest.raises(DataError, match="converted: must not exist or be an empty folder"):
        convert(path, tmp_path / "converted")


def test_the_same_real_rows_from_every_layout(tmp_path):
    with np.load(shared_file("data/mosi/mosi.npz")) as file:
        stored = dict(file)
    data = {name: stored[name][::16] for name in ("audio", "video", "text", "split", "id", "positive")}
    data |= {"id": data["id"].tolist(), "emotion": ["sad" if one else "happy" for one in data["positive"]]}
    data |= {"lengths": np.ones(len(data["id"]), int), "text": data["text"][:, None], "split": data["split"].tolist()}
    found = {}
    for name in ("one_parquet", "csv_of_paths", "npz", "json_lines"):
        (tmp_path / name).mkdir()
        found[name] = load(LAYOUTS[name](tmp_path / name, data)).fingerprint
    assert len(set(found.values())) == 1


# -- hostile and damaged


def csv_with(tmp_path, cell, **others):
    rows = [{"id": f"c{row}", "audio": cell, "happy": row % 2, **others} for row in range(4)]
    return write_csv(tmp_path / "x.csv", rows)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[1, 2", "the column 'audio' must hold lists of numbers of one size, and row 1 has"),
        ("[[1], [1, 2]]", "row 1 has setting an array element"),
        ("[[[1]]]", "row 1 has a list of the depth 3"),
        ('["a"]', "row 1 has could not convert"),
        ("[" * 20_000, "row 1 has|nested too deeply"),
        ("../secret.npy", "feature files must lie in .* Name the folder of the features with --data.feature_root"),
        ("/etc/passwd.npy", "feature files must lie in"),
        ("absent.npy", "absent.npy: must be a readable file"),
        ("text.npy", r"text.npy: must be an .npy array of numbers .* it is <U3 \[4\]"),
        ("objects.npy", "objects.npy: must be an .npy array .* it holds Python objects"),
        ("huge.npy", "huge.npy: must be an .npy array .* it announces 4,000,000,000,000 bytes and has"),
        ("link.npy", "feature files must lie in"),
    ],
)
def test_features_that_are_refused(tmp_path, cell, message):
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", np.ones(3))
    (folder / "link.npy").symlink_to(tmp_path / "secret.npy")
    np.save(folder / "text.npy", np.array(["abc"] * 4))
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    with (folder / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(DataError, match=message):
        list(open_source(csv_with(folder, cell)).all_blocks(2))


def test_another_folder_of_features_is_named(tmp_path):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/a.npy", np.arange(3.0))
    (tmp_path / "tables").mkdir()
    path = csv_with(tmp_path / "tables", str(tmp_path / "features/a.npy"))
    source = open_source(path, config=DataConfig(feature_root=str(tmp_path / "features")))
    np.testing.assert_array_equal(next(source.all_blocks(9))[1]["audio"], [[0, 1, 2]] * 4)
    before = source.hashes
    np.save(tmp_path / "features/a.npy", np.arange(3.0) + 1)
    with pytest.raises(DataError, match="a.npy: must not change while it is read"):
        source.check_unchanged()
    assert open_source(path, config=DataConfig(feature_root=str(tmp_path / "features"))).hashes != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"id,audio\na,[1]\nb\n", "line 3 has 1 cells for 2 columns"),
        ("x.csv", b"id,id\na,b\n", "two columns named 'id'"),
        ("x.csv", b"id,audio\n\xff\xfe,[1]\n", "must be CSV in UTF-8, but"),
        ("x.csv", b'id,audio\n"a,[1]\n', "must be CSV in UTF-8, but"),
        ("x.csv", b"", "must have at least one of audio, video, text, but has nothing"),
        ("x.jsonl", b'{"audio": [1]}\n{"audio": [1}\n', "must be JSON lines in UTF-8, but"),
        ("x.jsonl", b'[1]\n', "line 1 is no object"),
        ("x.jsonl", b'{"audio": [1], "id": "a"}\n{"audio": [1, 2], "id": "b"}\n', "row 2 has 2 numbers where others have 1"),
        ("x.jsonl", b'{"audio": [1], "id": "a"}\n{"audio": [1], "id": 7}\n', "the column 'id' mixes types of values"),
        ("x.jsonl", b"{" + b'"a":{' * 100_000, "must be JSON lines in UTF-8, but"),
        ("x.arrow", b"ARROW1\0\0" + b"\1" * 90, "must be an Arrow file, but"),
    ],
)  # fmt: skip
def test_damaged_tables(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        open_source(tmp_path / name)


def test_long_ids_and_ids_that_name_other_places(tmp_path):
    data = clips(rows=(2, 1, 1))
    with pytest.raises(DataError, match="ids must have at most 1,000 bytes, but one has 2,000"):
        list(open_source(csv_with(tmp_path, "[1]", name="x" * 2000, id="y" * 2000)).all_blocks(9))
    folder = tmp_path / "mer"
    folder.mkdir()
    LAYOUTS["feature_folders"](folder, data)
    table = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(table.replace("clip000", "../clip000"))
    with pytest.raises(DataError, match="ids must be names of files in .*, but got '../clip000'"):
        open_source(folder)


def test_folders_of_features(tmp_path):
    data = clips(rows=(2, 1, 1))
    LAYOUTS["feature_folders"](tmp_path, data)
    (tmp_path / "wav2vec-base").mkdir()
    with pytest.raises(
        DataError, match="one set of audio features, but has chinese-hubert.*wav2vec-base. Choose one with"
    ):
        open_source(tmp_path)
    (tmp_path / "chinese-hubert-large-UTT/clip001.npy").unlink()
    source = open_source(tmp_path, config=DataConfig(audio="chinese-hubert-large-UTT"))
    assert any("has no file for 1 of 2 clip(s)" in note for note in source.notes)
    audio = np.concatenate([block["audio"] for _, block in source.all_blocks(9)])
    np.testing.assert_array_equal(audio[[0, 2, 3]], data["audio"][[0, 2, 3]])
    assert not audio[1].any()


def arrow_bytes(path, table, form, compression):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(path), "wb") as file,
        getattr(pa.ipc, f"new_{form}")(file, table.schema, options=options) as writer,
    ):
        writer.write_table(table, max_chunksize=70)
    return path


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_of_every_kind(tmp_path, form, compression):
    rows = {
        "audio": [[float(row), 1.0] for row in range(200)],
        "emotion": pa.array(["a", "b"] * 100).dictionary_encode(),
    }
    source = open_source(arrow_bytes(tmp_path / "x.arrow", pa.table(rows), form, compression))
    found = np.concatenate([block["audio"] for _, block in source.all_blocks(64)])
    np.testing.assert_array_equal(found, rows["audio"])
    assert source.emotions == ["a", "b"]


@pytest.mark.parametrize("form", ["file", "stream"])
def test_an_arrow_bomb_is_not_unpacked(tmp_path, form):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(30_000_000, "f4")), 1000)
    path = arrow_bytes(tmp_path / "x.arrow", pa.table({"audio": values}), form, "zstd")
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match="x.arrow: must hold at most 100 bytes or rows per byte, but announces 120,0"):
        open_source(path)
    assert pa.total_allocated_bytes() - before < 1e6
