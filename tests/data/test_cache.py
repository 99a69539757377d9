"""All forms of a data set give the same numbers; what is converted, when, and with how much memory; damaged caches."""

import errno
import os
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_corpus

from lmf_multitask import load_iemocap
from lmf_multitask.data import cache as cache_module
from lmf_multitask.data import quality
from lmf_multitask.data.arrow import feature_table
from lmf_multitask.data.columns import ChunkedColumn, column_arrays, fingerprint, missing_rows
from lmf_multitask.data.loading import load
from lmf_multitask.errors import DataError

SPLITS = ("train", "validation", "test")


@pytest.fixture
def pickled(write_pickle):
    return load_iemocap(write_pickle(make_corpus(rows=(31, 16, 19))))


def save(data, folder, form):
    """As users have it: whole, in several files, or as tables in groups of a few rows."""
    if form == "saved":
        data.save_to_disk(str(folder))
    elif form == "shards":
        data.save_to_disk(str(folder), num_shards=dict.fromkeys(SPLITS, 4))
    else:
        folder.mkdir()
        for split, part in data.items():
            if form == "parquet":
                part.to_parquet(str(folder / f"{split}.parquet"))
            else:  # without what `datasets` notes in the file, in groups of 5 rows
                pq.write_table(
                    part.data.table.replace_schema_metadata(None), folder / f"{split}.parquet", row_group_size=5
                )
    return folder


@pytest.fixture
def copies(monkeypatch):
    """The splits that were written to the cache."""
    written = []
    original = cache_module._write_split

    def write(source, survey, split, *rest):
        written.append(split)
        return original(source, survey, split, *rest)

    monkeypatch.setattr(cache_module, "_write_split", write)
    return written


# -- the same data, however it is stored


@pytest.mark.parametrize("form", ["saved", "shards", "parquet", "plain parquet"])
def test_every_form_gives_the_numbers_of_the_pickle(pickled, tmp_path, form):
    folder = save(pickled, tmp_path / "data", form)
    again = load_iemocap(folder)
    assert fingerprint(again) == fingerprint(pickled)
    for split in SPLITS:
        assert again[split].features == pickled[split].features
        assert list(again[split]["id"]) == list(pickled[split]["id"])
        for name, values in column_arrays(pickled[split]).items():
            np.testing.assert_array_equal(np.asarray(column_arrays(again[split])[name]), values)


def test_features_in_several_files_are_left_where_they_are(pickled, tmp_path):
    train = datasets.load_from_disk(str(save(pickled, tmp_path / "data", "shards")))["train"]
    columns = column_arrays(train)
    assert isinstance(columns["text"], ChunkedColumn)
    stored = np.concatenate([chunk.flatten().flatten() for chunk in train.data.column("text").chunks[:1]])
    np.testing.assert_array_equal(columns["text"][:3].ravel(), stored[: 3 * 18])
    assert isinstance(columns["labels"], np.ndarray)


@pytest.mark.parametrize("form", ["saved", "shards"])
def test_chosen_clips_are_not_copied_into_a_users_folder(pickled, tmp_path, form):
    folder = save(pickled, tmp_path / "data", form)
    before = sorted(folder.rglob("*"))
    chosen = load_iemocap(folder)["train"].select([30, 2, 2, 17])
    expected = column_arrays(pickled["train"])["text"][[30, 2, 2, 17]]
    columns = column_arrays(chosen)
    np.testing.assert_array_equal(columns["text"][1:4], expected[1:4])
    np.testing.assert_array_equal(columns["labels"], column_arrays(pickled["train"])["labels"][[30, 2, 2, 17]])
    assert sorted(folder.rglob("*")) == before


# -- what is copied


def with_float64(data):
    """The same numbers in types that must be converted."""
    parts = {split: {n: part.with_format(None)[n][:] for n in part.column_names} for split, part in data.items()}
    return datasets.DatasetDict({split: datasets.Dataset.from_dict(part) for split, part in parts.items()})


EMOTIONS = ["happy", "sad", "angry", "neutral"]


@pytest.mark.parametrize("form", ["saved", "shards", "parquet"])
def test_what_must_be_converted_is_written_once(pickled, tmp_path, copies, form):
    folder, cache = save(with_float64(pickled), tmp_path / "data", form), tmp_path / "cache"
    first = load_iemocap(folder, EMOTIONS, cache_dir=cache)
    assert copies == list(SPLITS)
    again = load_iemocap(folder, EMOTIONS, cache_dir=cache)
    assert copies == list(SPLITS)
    assert fingerprint(first) == fingerprint(again) == fingerprint(pickled)
    assert first["test"].info.description == again["test"].info.description != ""
    assert all(str(cache) in file["filename"] for file in again["train"].cache_files)  # mapped, not held
    (tmp_path / "moved").mkdir()
    folder.rename(tmp_path / "moved" / "data")
    load_iemocap(tmp_path / "moved" / "data", EMOTIONS, cache_dir=cache)
    assert copies == list(SPLITS)


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_the_copy_follows_the_content(tmp_path, copies, form):
    rng = np.random.default_rng(0)
    cache, folder = tmp_path / "cache", tmp_path / "data"

    def write(first):
        parts = {}
        for split in SPLITS:
            audio = rng.normal(size=(6, 3))
            audio[0, 0] = first
            parts[split] = datasets.Dataset.from_dict({"audio": audio.tolist(), "calm": [0, 1] * 3})
        target = tmp_path / f"{len(copies)}"
        save(datasets.DatasetDict(parts), target, form)
        if folder.exists():
            folder.rename(tmp_path / f"old {len(copies)}")
        target.rename(folder)
        for path in folder.rglob("*"):
            os.utime(path, (0, 0))

    write(1.0)
    load_iemocap(folder, cache_dir=cache)
    write(np.nan)
    changed = load_iemocap(folder, cache_dir=cache)
    assert copies == 2 * list(SPLITS)
    assert column_arrays(changed["test"])["audio"][0, 0] == 0
    with pytest.raises(DataError, match=r"data: audio must be finite, but has 1 NaN and 0 infinite values\. Use"):
        load_iemocap(folder, non_finite="error", cache_dir=cache)


def test_dirt_in_right_types_is_copied_clean(pickled, tmp_path, copies):
    def spoil(row, number):
        if number == 3:
            row["text"][2][1] = np.inf
        return row

    features = pickled["train"].features
    dirty = datasets.DatasetDict({**pickled, "test": pickled["test"].map(spoil, with_indices=True, features=features)})
    folder = save(dirty, tmp_path / "data", "saved")
    loaded = load_iemocap(folder, cache_dir=tmp_path / "cache")
    assert copies == list(SPLITS)
    expected = column_arrays(pickled["test"])["text"].copy()
    expected[3, 2, 1] = 0
    np.testing.assert_array_equal(column_arrays(loaded["test"])["text"], expected)
    with pytest.raises(DataError, match="data: text must be finite, but has 0 NaN and 1 infinite values"):
        load_iemocap(folder, non_finite="error", cache_dir=tmp_path / "cache")


def test_labels_of_minus_100_are_copied_as_nan(pickled, tmp_path, copies):
    def spoil(row, number):
        row["labels"]["sad"] = -100.0 if number == 1 else row["labels"]["sad"]
        return row

    features = pickled["train"].features
    old = datasets.DatasetDict({**pickled, "test": pickled["test"].map(spoil, with_indices=True, features=features)})
    loaded = load_iemocap(save(old, tmp_path / "data", "saved"), cache_dir=tmp_path / "cache")
    assert copies == list(SPLITS)
    assert np.isnan(column_arrays(loaded["test"])["labels"]).sum() == 1
    assert np.isnan(column_arrays(loaded["test"])["labels"][1, 1])


def test_numbers_beyond_float32_are_infinite(tmp_path):
    for split in SPLITS:
        pq.write_table(pa.table({"audio": [[1e39, 1.0]] * 3, "calm": [0, 1, 0]}), tmp_path / f"{split}.parquet")
    loaded = load_iemocap(tmp_path)
    np.testing.assert_array_equal(column_arrays(loaded["train"])["audio"], [[0, 1]] * 3)
    assert "0 NaN and 9 infinite set to 0" in loaded["train"].info.description


def test_counts_over_several_blocks(tmp_path, monkeypatch):
    """What is found in pieces of 4 rows is what numpy finds in the whole."""
    monkeypatch.setattr(cache_module, "BLOCK_ROWS", 4)
    rng = np.random.default_rng(0)
    parts, empty = {}, 0
    for split, rows in zip(SPLITS, (23, 9, 10)):
        audio = rng.normal(size=(rows, 3)).round(2)
        audio[:, 1] = 0.5
        audio[rng.uniform(size=audio.shape) < 0.1] = np.nan
        audio[7] = 0
        audio[:, 1] = np.where(audio[:, 1] == 0, 0.5, audio[:, 1])
        video = rng.normal(size=(rows, 2)).round(2)
        video[[1, 4]] = 0
        text = np.ones((rows, 6, 2))
        for row in range(rows):
            text[row, 2 + row % 4 :] = 0
        parts[split] = {"audio": audio, "video": video, "text": text, "calm": np.arange(rows) % 2}
        empty += 2
        lists = {name: values.tolist() for name, values in parts[split].items()}
        datasets.Dataset.from_dict(lists).to_parquet(str(tmp_path / f"{split}.parquet"))
    description = load_iemocap(tmp_path)["train"].info.description
    audio = np.concatenate([part["audio"] for part in parts.values()])
    assert f"from {np.nanmin(audio):.4g} to {np.nanmax(audio):.4g}; {np.isnan(audio).sum()} NaN and 0" in description
    assert f"all zero in {empty} of 42 clips" in description
    lengths = [2 + row % 4 for row in range(23)]
    assert f"2 to 5 steps, median {int(np.median(lengths))} in train; padded at the end" in description
    assert "clips padded in front 0, at the end 42, with gaps 0" in description


# -- what is wrong


def test_a_failed_copy_leaves_nothing(tmp_path, monkeypatch):
    for split in SPLITS:
        pq.write_table(pa.table({"audio": [[0.5, 1.0]] * 3, "calm": [0, 1, 0]}), tmp_path / f"{split}.parquet")

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "feature_table", full)
        with pytest.raises(OSError, match="No space left on device"):
            load_iemocap(tmp_path, cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".arrow", ".json")]
    load_iemocap(tmp_path, cache_dir=tmp_path / "cache")


def test_parquet_that_is_damaged_inside(pickled, tmp_path):
    folder = save(pickled, tmp_path / "data", "parquet")
    path = folder / "validation.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match="validation.parquet: must be a Parquet file, but .* Write it again") as caught:
        load_iemocap(folder, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("validation.parquet: ") == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".arrow"]


def test_two_columns_of_one_name(tmp_path):
    numbers = pa.array([[0.5, 1.0]] * 3)
    table = pa.Table.from_arrays([numbers, numbers, pa.array([0, 1, 0])], names=["audio", "audio", "calm"])
    for split in SPLITS:
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="train.parquet must have different columns, but has two named 'audio'"):
        load_iemocap(tmp_path)


# -- a damaged cache


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes()[:-100] + bytes(100)),
}


@pytest.mark.parametrize("name", ["train.arrow", "test.arrow", "facts.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_written_again(write_pickle, tmp_path, copies, monkeypatch, name, damage):
    path, cache = write_pickle(make_corpus()), tmp_path / "cache"
    expected = fingerprint(load_iemocap(path, cache_dir=cache))
    (file,) = cache.rglob(name)
    DAMAGES[damage](file)
    monkeypatch.setattr(cache_module, "_verified", {})  # as in the next process
    found = load(path, config=cache_module_config(cache))
    assert found.fingerprint == expected
    assert found.emotions == EMOTIONS
    assert copies == 2 * list(SPLITS)
    load_iemocap(path, cache_dir=cache)
    assert copies == 2 * list(SPLITS)


def cache_module_config(folder):
    from lmf_multitask.data.config import DataConfig

    return DataConfig(cache_dir=str(folder))


def test_a_pickle_that_is_replaced_while_it_is_read_is_not_cached(write_pickle, tmp_path, monkeypatch):
    """Otherwise the clips of one file would be found under the content of the other."""
    path, other = write_pickle(make_corpus(seed=0)), write_pickle(make_corpus(seed=1), "other.pkl")
    original = cache_module._convert

    def convert(*given):
        other.replace(path)
        return original(*given)

    monkeypatch.setattr(cache_module, "_convert", convert)
    with pytest.raises(DataError, match="data.pkl: must not change while it is read, but did"):
        load_iemocap(path, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.arrow"))


# -- notes


def test_clips_that_occur_more_than_once(tmp_path):
    """By content, whatever the layout; a clip without any features is not counted."""
    for split in SPLITS:
        audio = [[1.0, float(n)] for n in range(5)] + [[0.0, 0.0]] * 3
        if split == "train":
            audio[1] = audio[0]
        if split == "test":
            audio[2] = [9.0, 9.0]
        table = pa.table({"audio": audio, "calm": [0, 1] * 4})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    notes = load(tmp_path, config=cache_module_config(tmp_path / "cache")).notes
    assert any(note.startswith("1 clip(s) of train repeat another clip of train") for note in notes)
    assert "4 clip(s) of train are also in validation: results on validation are too optimistic" in notes
    assert "3 clip(s) of train are also in test: results on test are too optimistic" in notes


def test_sequences_that_were_cut_are_noted(tmp_path):
    from lmf_multitask.data.config import DataConfig

    audio = [[[1.0]] * length for length in (1, 3, 5, 2)]
    for split in SPLITS:
        pq.write_table(pa.table({"audio": audio, "calm": [0, 1, 0, 1]}), tmp_path / f"{split}.parquet")
    found = load(tmp_path, config=DataConfig(cache_dir=str(tmp_path / "cache"), max_length=2))
    assert found.inputs["audio"].shape == (2, 1)
    assert found.inputs["audio"].padding == "end"
    assert "audio of 6 clip(s) was cut to 2 steps (max_length)" in found.notes
    whole = load(tmp_path, config=DataConfig(cache_dir=str(tmp_path / "cache")))
    assert whole.inputs["audio"].shape == (5, 1)
    np.testing.assert_array_equal(column_arrays(whole.dataset["train"])["audio"].sum(axis=(1, 2)), [1, 3, 5, 2])


# -- memory


@pytest.fixture(scope="module")
def many_clips(tmp_path_factory):
    """6,000 clips of 24 kB (147 MB), with right types and in shards: saved, and as one Parquet file of one row group."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("many")
    words = np.round(rng.normal(size=(500, 20, 300)), 1).astype("f4")
    data = datasets.DatasetDict()
    (folder / "tables").mkdir()
    for split, times in (("train", 10), ("validation", 1), ("test", 1)):
        count = 500 * times
        arrays = {
            "audio": rng.normal(size=(count, 74)).astype("f4"),
            "video": rng.normal(size=(count, 35)).astype("f4"),
            "text": np.concatenate([words] * times),
        }
        labels = rng.integers(0, 2, (count, 2))
        table = feature_table([f"{split} {n}" for n in range(count)], arrays, labels, ["calm", "tense"])
        data[split] = datasets.Dataset(table)
        pq.write_table(table, folder / "tables" / f"{split}.parquet", compression="zstd", row_group_size=count)
    data.save_to_disk(str(folder / "saved"), num_shards={"train": 8, "validation": 2, "test": 2})
    return folder


def test_passing_over_all_clips_takes_the_memory_of_some(many_clips):
    """numpy's arrays are counted; text of the 5,000 clips of train alone is 120 MB."""
    tracemalloc.start()
    try:
        data = load_iemocap(many_clips / "saved")
        columns = column_arrays(data["train"])
        assert missing_rows(columns)["text"] == 0
        fingerprint(data)
        assert columns["text"][np.arange(0, 5000, 100)].shape == (50, 20, 300)
        assert tracemalloc.get_traced_memory()[1] < 50e6
        np.array(columns["text"])
        assert tracemalloc.get_traced_memory()[1] > 120e6  # it would have been seen
    finally:
        tracemalloc.stop()


def test_converting_a_row_group_takes_the_memory_of_some_rows(many_clips, tmp_path, monkeypatch):
    tracemalloc.start()
    pool = pa.default_memory_pool()
    before, peak = pool.bytes_allocated(), []
    original = quality._clip_digests
    monkeypatch.setattr(
        quality, "_clip_digests", lambda found: peak.append(pool.bytes_allocated() - before) or original(found)
    )
    try:
        data = load_iemocap(many_clips / "tables", cache_dir=tmp_path / "cache")
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()
    assert pq.read_metadata(many_clips / "tables" / "train.parquet").num_row_groups == 1
    assert max(peak) < 60e6
    assert isinstance(column_arrays(data["train"])["text"], np.ndarray)
    assert fingerprint(data) == fingerprint(load_iemocap(many_clips / "saved"))
