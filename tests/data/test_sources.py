import pickle
import tracemalloc

import datasets
import numpy as np
import pytest
from conftest import make_corpus, shared_file, to_bytes_keys

from lmf_multitask import load_iemocap
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.safe_pickle import read_pickle
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError

MODALITIES = ("audio", "video", "text")


def everything(path, split="test", rows=4):
    """All blocks together: ids, and modality -> array; checks the promised sizes on the way."""
    source = open_source(path, split)
    blocks = list(source.all_blocks(rows))
    assert all(1 <= len(ids) <= rows for ids, _ in blocks)
    ids = [clip for block_ids, _ in blocks for clip in block_ids]
    arrays = {name: np.concatenate([block[name] for _, block in blocks]) for name in MODALITIES}
    assert source.count == len(ids)
    for name, values in arrays.items():
        assert values.dtype == np.float32
        assert values.shape == (len(ids), *source.shapes[name])
    return ids, arrays


def without_labels(corpus):
    return {
        e: {s: {k: v for k, v in rows.items() if k != "label"} for s, rows in splits.items()}
        for e, splits in corpus.items()
    }


# -- pickles


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_pickle_gives_the_rows_of_load_iemocap_whatever_the_pieces(corpus, write_pickle, protocol, rows):
    path = write_pickle(corpus, protocol=protocol)
    ids, arrays = everything(path, rows=rows)
    test = load_iemocap(path)["test"]
    assert ids == test["id"]
    np.testing.assert_array_equal(arrays["text"], corpus["happy"]["test"]["glove"])
    np.testing.assert_array_equal(arrays["audio"], corpus["happy"]["test"]["covarep"].astype("float32"))  # NaN and all


def test_rows_of_emotions_that_differ_are_joined_as_load_iemocap_does(corpus, write_pickle):
    for number, emotion in enumerate(corpus):  # each emotion lacks some clips, in another order
        rows = corpus[emotion]["test"]
        order = np.random.default_rng(number).permutation(9)[: 9 - number]
        corpus[emotion]["test"] = {name: values[order] for name, values in rows.items()}
    path = write_pickle(corpus)
    ids, arrays = everything(path)
    test = load_iemocap(path)["test"].with_format("numpy")
    assert ids == list(test["id"])
    np.testing.assert_array_equal(arrays["text"], test[:]["text"])


def test_pickle_without_labels(corpus, write_pickle):
    ids, arrays = everything(write_pickle(without_labels(corpus)), "validation")
    assert ids[0] == "validation-00000"
    np.testing.assert_array_equal(arrays["video"], corpus["sad"]["valid"]["facet"].astype("float32"))


def test_labels_are_not_read_for_features(corpus, write_pickle):
    corpus["happy"]["test"]["label"] = np.full((3, 7), 9)
    assert len(everything(write_pickle(corpus))[0]) == 9


def test_all_splits_or_one(corpus, write_pickle):
    ids, _ = everything(write_pickle(corpus), None)
    assert len(ids) == 12 + 8 + 9
    assert ids[11:13] == ["train-00011", "validation-00000"]
    for splits in corpus.values():
        del splits["train"], splits["valid"]
    path = write_pickle(corpus, "test_only.pkl")
    assert len(everything(path)[0]) == len(everything(path, None)[0]) == 9
    with pytest.raises(
        DataError, match=r"test_only.pkl: must have the split train, but has test. Choose one with --split"
    ):
        open_source(path, "train")
    del corpus["happy"]["test"]
    corpus["happy"]["train"] = corpus["sad"]["test"]
    with pytest.raises(DataError, match=r"data\['sad'\] must have the split train, but has \['test'\]"):
        open_source(write_pickle(corpus), None)


def test_fortran_order_in_a_pickle(corpus, write_pickle):
    for splits in corpus.values():
        splits["test"]["glove"] = np.asfortranarray(splits["test"]["glove"])
    _, arrays = everything(write_pickle(corpus))
    np.testing.assert_array_equal(arrays["text"], corpus["happy"]["test"]["glove"])


@pytest.mark.parametrize("dtype", ["float64", ">f4", "int16", "bool"])
@pytest.mark.parametrize("size", [40, 40000])  # in memory, and left in the file
def test_stored_rows_are_slices_of_the_whole(tmp_path, dtype, size):
    array = (np.arange(size * 3) % 7 - 2).reshape(size, 3).astype(dtype)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": array, "f": np.asfortranarray(array), "scalar": np.array(3.0)}, protocol=2))
    stored = read_pickle(path)
    for start, stop in ((0, 5), (7, 8), (size - 2, size + 9), (5, 5), (8, 3)):
        np.testing.assert_array_equal(stored["a"].read_rows(start, stop), array[start:stop])
        np.testing.assert_array_equal(stored["f"].read_rows(start, stop), array[start:stop])
    assert not stored["scalar"].has_rows


def test_memory_stays_flat(tmp_path):
    """Ten times the clips, the same memory beside what a row costs in fingerprints and numbers (some 200 bytes)."""
    peaks = []
    for factor in (1, 10):
        path = tmp_path / f"{factor}.pkl"
        tree = make_corpus(rows=(1, 1, 2000 * factor), emotions=("happy",), audio=20, video=20, words=10, text=20)
        path.write_bytes(pickle.dumps(to_bytes_keys(tree), protocol=4))  # bytes as they are, as Python 2 writes them
        size = tree["happy"]["test"]["glove"].nbytes
        del tree
        tracemalloc.start()
        for _, block in open_source(path).all_blocks(64):
            assert block["text"].shape[1:] == (10, 20)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.5 * size


def test_hostile_pickle_is_refused(tmp_path):
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="bad.pkl: must be plain data .* but names"):
        open_source(tmp_path / "bad.pkl")


def test_real_features_of_another_corpus():
    ids, arrays = everything(shared_file("data/youtube.pkl"), None, rows=32)
    assert len(ids) == 46 + 14 + 36
    assert arrays["text"].shape == (96, 20, 300)


# -- tables


def test_saved_data_set_and_parquet(corpus, write_pickle, tmp_path):
    dataset = load_iemocap(write_pickle(corpus))
    dataset.save_to_disk(str(tmp_path / "saved"))
    dataset["test"].save_to_disk(str(tmp_path / "one"))
    (tmp_path / "parquet").mkdir()
    for split, rows in dataset.items():
        rows.remove_columns("labels").to_parquet(str(tmp_path / "parquet" / f"{split}.parquet"))
    for source in ("saved", "parquet", "one", "parquet/test.parquet"):
        ids, arrays = everything(tmp_path / source)
        assert ids == dataset["test"]["id"]
        np.testing.assert_array_equal(arrays["text"], corpus["happy"]["test"]["glove"])
    assert len(everything(tmp_path / "saved", None)[0]) == len(everything(tmp_path / "parquet", None)[0]) == 29


def test_rows_of_a_selection(corpus, write_pickle, tmp_path):
    chosen = load_iemocap(write_pickle(corpus))["test"].select([5, 1])
    chosen.save_to_disk(str(tmp_path / "some"))
    assert everything(tmp_path / "some")[0] == ["test-00005", "test-00001"]


def test_lists_without_ids(tmp_path):
    rows = {"audio": [[1.0, 2.0]] * 3, "video": [[1, 2, 3]] * 3, "text": [[[0.5], [0.25]]] * 3}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "own.parquet"))
    ids, arrays = everything(tmp_path / "own.parquet", rows=2)
    assert ids == ["row-00000", "row-00001", "row-00002"]
    np.testing.assert_array_equal(arrays["video"], rows["video"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"a": [[1.0]], "video2": [[1.0]]},
            "must name its features audio, video, text, but has 'video2'. Did you mean",
        ),
        ({"a": [[1.0]], "b": [[1.0]]}, "must have at least one of audio, video, text, but has a, b"),
        ({"audio": [1.0], "video": [[1.0]]}, r"audio must have the shape .* but has rows of the shape \[\]"),
        ({"audio": [["a"]], "video": [[1.0]], "text": [[[1.0]]]}, "column 'audio' must hold numbers, but holds string"),
        (
            {"audio": [[1.0], [1.0, 2.0]], "video": [[1.0]] * 2, "text": [[[1.0]]] * 2},
            "column 'audio' must have rows of one length",
        ),
    ],
)
def test_wrong_tables(tmp_path, rows, message):
    path = tmp_path / "wrong.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    with pytest.raises(DataError, match=f"wrong.parquet.*{message}"):
        list(open_source(path).all_blocks(8))


def test_ids_that_are_numbers_and_numbers_beyond_float32(tmp_path):
    rows = {"id": [7, 3], "audio": [[1e300, -1e300], [1.0, 2.0]], "text": [[[0.5]], [[0.25]]]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "own.parquet"))
    ((ids, block),) = open_source(tmp_path / "own.parquet").all_blocks(2)
    assert ids == ["7", "3"]
    np.testing.assert_array_equal(block["audio"], [[np.inf, -np.inf], [1, 2]])


def test_splits_of_different_sizes(tmp_path):
    for split, width in (("train", 3), ("test", 4)):
        rows = {"audio": [[1.0] * width] * 2}
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(
        DataError, match=r"test.parquet: column 'audio' must have rows of one length, but got \(3,\) and \(4,\)"
    ):
        open_source(tmp_path)
    assert open_source(tmp_path, "test").shapes == {"audio": (4,)}


def test_tables_without_rows(tmp_path):
    types = datasets.Features(audio=datasets.Sequence(datasets.Value("float32")))
    datasets.Dataset.from_dict({"audio": []}, features=types).to_parquet(str(tmp_path / "own.parquet"))
    with pytest.raises(DataError, match="own.parquet: the file must have at least one row, but is empty"):
        open_source(tmp_path / "own.parquet")


def test_saved_folders_without_the_splits(tmp_path):
    rows = datasets.Dataset.from_dict({"audio": [[1.0]]})
    datasets.DatasetDict(early=rows, late=rows).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="saved: must have a split among train, validation, test, but has none"):
        open_source(tmp_path / "saved", None)
    with pytest.raises(DataError, match="saved: must have a split among"):
        open_source(tmp_path / "saved", "test")
    datasets.DatasetDict(validation=rows, train=rows).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match="two: must have the split test, but has train, validation. Choose one with"):
        open_source(tmp_path / "two", "test")


@pytest.mark.parametrize("folder", ["saved", "saved/test"])  # all splits, or one by itself
def test_saved_folders_may_not_refer_to_files_outside(tmp_path, folder):
    rows = datasets.Dataset.from_dict({"audio": [[1.0]]})
    datasets.DatasetDict(test=rows).save_to_disk(str(tmp_path / "saved"))
    assert open_source(tmp_path / folder).count == 1
    (inside,) = (tmp_path / "saved/test").glob("*.arrow")
    inside.rename(tmp_path / "elsewhere.arrow")
    inside.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(DataError, match="must not refer to files outside of it, but .* is a link"):
        open_source(tmp_path / folder)


def test_folders_of_no_layout(tmp_path):
    with pytest.raises(DataError, match=r"must be one of the known layouts \(.*\), but is a folder with none of these"):
        open_source(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(
        DataError, match="must have the split test, but has train. Choose one with --split, or take --all"
    ):
        open_source(tmp_path, "test")
    with pytest.raises(DataError, match="train.parquet: must be a Parquet file, but"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="nothing: must be a readable file, but No such file"):
        open_source(tmp_path / "nothing")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="state.json: must be JSON, but"):
        open_source(tmp_path)


# -- the layouts


def test_a_layout_is_one_file_of_the_folder(tmp_path, monkeypatch):
    """A module that is put into the folder is found, and read by the same function as all others."""
    from lmf_multitask.data import sources

    (tmp_path / "three_numbers.py").write_text(NEW_LAYOUT)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    path = tmp_path / "clips.three"
    path.write_text("three 1 2 3")
    ids, arrays = [], []
    for names, found in open_source(path).all_blocks(2):
        ids += names
        arrays.append(found["audio"])
    assert ids == ["row-00000", "row-00001", "row-00002"]
    np.testing.assert_array_equal(np.concatenate(arrays), [[1], [2], [3]])


NEW_LAYOUT = """
import numpy as np
from lmf_multitask.data.sources import ALL, Source

class ThreeNumbers(Source):
    layout = "three numbers"

    def __init__(self, candidate, reading):
        super().__init__(candidate, reading)
        self._numbers = np.array(candidate.file.read().split()[1:], float)[:, None]
        self._set_split_names([ALL])

    @classmethod
    def recognises(cls, candidate):
        return candidate.start.startswith(b"three ")

    def scan(self):
        self._set_shapes({"audio": (1,)})
        self._set_splits({ALL: len(self._numbers)})

    def _read(self, split, rows):
        for start in range(0, len(self._numbers), rows):
            yield None, {"audio": self._numbers[start : start + rows]}

    def labels(self, split):
        raise self.fail("has no labels")
"""


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, audio=np.zeros((3, 2)))
    source = open_source(path)
    source.check_unchanged()
    np.savez(tmp_path / "y.npz", audio=np.ones((3, 2)))
    (tmp_path / "y.npz").replace(path)
    with pytest.raises(DataError, match="x.npz: must not change while it is read, but did"):
        source.check_unchanged()
    path.unlink()
    with pytest.raises(DataError, match="must not change while it is read"):
        source.check_unchanged()


# -- sequences of unequal length, in every table


def ragged(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, 3)).tolist() for length in rng.integers(1, 6, rows)]


@pytest.mark.parametrize("form", ["parquet", "saved"])
@pytest.mark.parametrize("longest", [None, 2])
def test_ragged_sequences_are_padded_at_the_end_and_cut(tmp_path, form, longest):
    audio = ragged()
    audio[2] = None
    rows = datasets.Dataset.from_dict({"audio": audio, "video": [[1.0]] * 6})
    if form == "parquet":
        rows.to_parquet(str(tmp_path / "x.parquet"))
    else:
        rows.save_to_disk(str(tmp_path / "x.parquet"))
    source = open_source(tmp_path / "x.parquet", config=DataConfig(max_length=longest))
    length = longest or max(len(clip) for clip in audio if clip)
    assert source.shapes == {"audio": (length, 3), "video": (1,)}
    found = np.concatenate([block["audio"] for _, block in source.all_blocks(4)])
    for row, clip in zip(found, audio):
        expected = np.zeros((length, 3), "f4")
        for step, values in enumerate((clip or [])[:length]):
            expected[step] = values
        np.testing.assert_array_equal(row, expected)
    cut = sum(len(clip) > length for clip in audio if clip)
    assert source.cut["all"]["audio"] == cut


def test_sequences_of_different_sizes_per_step(tmp_path):
    for audio in ([[[1.0, 2.0]], [[1.0]]], [[[1.0], [1.0, 2.0]], [[1.0]]]):
        datasets.Dataset.from_dict({"audio": audio}).to_parquet(str(tmp_path / "x.parquet"))
        with pytest.raises(DataError, match="x.parquet: column 'audio' must have rows of one length"):
            list(open_source(tmp_path / "x.parquet").all_blocks(8))


def test_front_padded_sequences_lose_padding_first(tmp_path):
    values = np.zeros((3, 6, 2), "f4")
    values[0, 4:] = 1
    values[1, 1:] = 2
    values[2, :3] = 3
    np.savez(tmp_path / "x.npz", audio=values)
    source = open_source(tmp_path / "x.npz", config=DataConfig(max_length=4))
    ((_, block),) = source.all_blocks(9)
    np.testing.assert_array_equal(block["audio"][:, :, 0], [[0, 0, 1, 1], [2, 2, 2, 2], [3, 3, 3, 0]])
    assert source.cut["all"]["audio"] == 1
