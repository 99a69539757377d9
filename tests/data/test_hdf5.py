"""HDF5 layouts: computational sequences of the CMU-MultimodalSDK, and one array per modality and split."""

import sys

import numpy as np
import pytest
from layouts import csd_folder, write_h5

from lmf_multitask.data.columns import column_arrays
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.loading import load
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError, InstallationError

h5py = pytest.importorskip("h5py")


def test_clips_of_computational_sequences(tmp_path):
    expected = csd_folder(tmp_path)
    data = load(tmp_path)
    assert data.emotions == ["sentiment"]
    assert {name: one.shape for name, one in data.inputs.items()} == {
        "audio": (19, 5),
        "video": (19, 2),
        "text": (5, 3),
    }
    seen = []
    for split, rows in data.dataset.items():
        found = column_arrays(rows)
        for row, clip in enumerate(rows["id"]):
            seen.append(clip)
            *features, label = expected[clip]
            assert found["labels"][row] == label
            for name, values in zip(("audio", "video", "text"), features):
                whole = np.asarray(found[name])[row]
                count = 0 if values is None else len(values)
                np.testing.assert_array_equal(
                    whole[:count], np.zeros((0, whole.shape[1])) if values is None else values
                )
                assert not whole[count:].any()
        assert split in ("train", "validation", "test") and len(rows) == 4
    assert sorted(seen) == sorted(expected)


def test_without_splits_the_whole_is_predicted(tmp_path):
    expected = csd_folder(tmp_path)
    (tmp_path / "splits.csv").unlink()
    source = open_source(tmp_path)
    assert source.splits == {"all": len(expected)}
    assert sum(len(ids) for ids, _ in source.all_blocks(5)) == len(expected)


def test_sequences_are_cut(tmp_path):
    csd_folder(tmp_path)
    source = open_source(tmp_path, "test", config=DataConfig(max_length=4))
    ((_, block),) = source.all_blocks(99)
    assert {name: values.shape[1] for name, values in block.items()} == {"audio": 4, "video": 4, "text": 4}
    assert source.cut["test"] == {"audio": 4, "video": 4, "text": 2}


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    made = {}
    for split, rows in (("train", 8), ("valid", 4), ("test", 5)):
        made[split] = {
            f"audio_{split}": rng.normal(size=(rows, 6, 5)).astype("f4"),
            f"video_{split}": rng.normal(size=(rows, 6, 2)).astype("f4"),
            f"text_{split}_emb": rng.normal(size=(rows, 6, 3)).astype("f4"),
            f"y_{split}": (np.arange(rows) % 2).astype("f4")[:, None],
        }
        for name, values in made[split].items():
            write_h5(tmp_path / f"{name}.h5", {"d1": values})
    return tmp_path, made


def test_one_array_per_modality_and_split(arrays):
    path, made = arrays
    data = load(path)
    assert data.emotions == ["label"]
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        found = column_arrays(data.dataset[split])
        np.testing.assert_array_equal(np.asarray(found["audio"]), made[name][f"audio_{name}"])
        np.testing.assert_array_equal(np.asarray(found["text"]), made[name][f"text_{name}_emb"])
        np.testing.assert_array_equal(found["labels"], made[name][f"y_{name}"])


def test_several_columns_of_labels_need_names(arrays):
    path, _ = arrays
    for split, rows in (("train", 8), ("valid", 4), ("test", 5)):
        write_h5(path / f"y_{split}.h5", {"d1": np.eye(2)[np.arange(rows) % 2]})
    with pytest.raises(DataError, match="must have a name for each of their 2 columns, but have none. Give the names"):
        load(path)
    assert load(path, config=DataConfig(labels=["sad", "calm"])).emotions == ["sad", "calm"]


def test_hostile_files(arrays, tmp_path):
    path, _ = arrays
    good = (path / "audio_train.h5").read_bytes()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(8 * 6 * 5 * 4))
    cases = {
        "a soft link": lambda file: file.__setitem__("d1", h5py.SoftLink("/elsewhere")),
        "an external link": lambda file: file.__setitem__("d1", h5py.ExternalLink(str(path / "audio_test.h5"), "/d1")),
        "external storage": lambda file: file.create_dataset(
            "d1", (8, 6, 5), "f4", external=[(str(secret), 0, 8 * 6 * 5 * 4)]
        ),
        "a huge shape": lambda file: file.create_dataset("d1", (1 << 40, 6, 5), "f4", chunks=(1, 6, 5)),
        "text": lambda file: file.create_dataset("d1", data=[b"abc"] * 8),
        "a group": lambda file: file.create_group("d1"),
    }
    for name, build in cases.items():
        (path / "audio_train.h5").unlink()
        with h5py.File(path / "audio_train.h5", "w") as file:
            build(file)
        with pytest.raises(DataError, match="audio_train.h5: .*d1'? must (be stored|be an array|have a plausible)"):
            open_source(path)
        assert name
    for damaged in (good[:700], good[:8] + b"\0" * 900, b"nothing"):
        (path / "audio_train.h5").write_bytes(damaged)
        with pytest.raises(DataError, match="audio_train.h5: must be a whole HDF5 file, but"):
            open_source(path)


def test_without_h5py_it_is_named(arrays, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InstallationError, match=r"but it is not installed. Run: pip install 'lmf_multitask\[hdf5\]'"):
        open_source(arrays[0])


def test_intensities_of_mosei(tmp_path):
    csd_folder(tmp_path)
    labels = {f"video{n}": {"features": np.full((1, 7), n / 3), "intervals": np.array([[0.0, 1.0]])} for n in range(6)}
    (tmp_path / "CMU_Opinion_Segment_Labels.csd").unlink()
    write_h5(tmp_path / "CMU_MOSEI_Labels.csd", {"All Labels": {"data": labels}})
    source = open_source(tmp_path, "validation")
    assert source.emotions == ["sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear"]
    assert source.kinds["fear"] == "regression" and source.ranges["fear"] == (0, 3)
    np.testing.assert_allclose(source.labels("validation"), np.repeat([[1 / 3], [4 / 3]], 7, axis=1), rtol=1e-6)
