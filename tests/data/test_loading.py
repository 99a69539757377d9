"""`load` and `load_iemocap`: what comes out of a pickle, the join, labels, and a user's own tables."""

import os
import shutil
import time

import datasets
import numpy as np
import pytest
from conftest import make_corpus, shared_file

from lmf_multitask import load_iemocap
from lmf_multitask.data import cache as cache_module
from lmf_multitask.data.columns import column_arrays, emotion_names
from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.loading import inspect, load
from lmf_multitask.errors import ConfigError, DataError


def columns(dataset, split="train"):
    return column_arrays(dataset[split])


def shuffled(corpus, emotion, split, seed=1):
    rows = corpus[emotion][split]
    order = np.random.default_rng(seed).permutation(len(rows["label"]))
    corpus[emotion][split] = {name: values[order] for name, values in rows.items()}
    return order


# -- what comes out


def test_splits_columns_and_types(corpus, write_pickle):
    dataset = load_iemocap(write_pickle(corpus))
    assert list(dataset) == ["train", "validation", "test"]
    assert [len(dataset[s]) for s in dataset] == [12, 8, 9]
    train = dataset["train"]
    assert train.column_names == ["id", "audio", "video", "text", "labels"]
    assert train.features["audio"] == datasets.Sequence(datasets.Value("float32"), length=5)
    assert train.features["text"] == datasets.Sequence(datasets.Sequence(datasets.Value("float32"), length=3), length=6)
    assert train.features["labels"] == {
        name: datasets.Value("float32") for name in ("happy", "sad", "angry", "neutral")
    }
    assert emotion_names(train) == ["happy", "sad", "angry", "neutral"]
    assert train[0]["id"] == "train-00000"


def test_values_and_labels(corpus, write_pickle):
    got = columns(load_iemocap(write_pickle(corpus)))
    source = corpus["sad"]["train"]
    np.testing.assert_array_equal(got["audio"], np.nan_to_num(source["covarep"].astype("float32")))
    np.testing.assert_array_equal(got["video"], source["facet"].astype("float32"))
    np.testing.assert_array_equal(got["text"], source["glove"])
    expected = np.stack([corpus[e]["train"]["label"][:, 1] for e in ("happy", "sad", "angry", "neutral")], axis=1)
    np.testing.assert_array_equal(got["labels"], expected)
    assert got["labels"].dtype == np.float32


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("bytes_keys", [True, False])
def test_every_protocol_and_kind_of_key(corpus, write_pickle, protocol, bytes_keys):
    got = columns(load_iemocap(write_pickle(corpus, protocol=protocol, bytes_keys=bytes_keys)))
    np.testing.assert_array_equal(got["text"], corpus["happy"]["train"]["glove"])


@pytest.mark.parametrize("name", ["valid", "dev", "validation", "val"])
def test_names_of_the_validation_split(corpus, write_pickle, name):
    for splits in corpus.values():
        splits[name] = splits.pop("valid")
    assert len(load_iemocap(write_pickle(corpus))["validation"]) == 8


def test_other_emotions_sizes_and_plain_labels(write_pickle):
    tree = make_corpus(emotions=("excited", "bored", "happy"), audio=2, video=7, words=3, text=9)
    for splits in tree.values():
        for rows in splits.values():
            rows["label"] = rows["label"][:, 1].astype("float64")
    dataset = load_iemocap(write_pickle(tree))
    assert emotion_names(dataset["test"]) == ["happy", "bored", "excited"]
    got = columns(dataset, "test")
    assert got["text"].shape == (9, 3, 9)
    np.testing.assert_array_equal(got["labels"][:, 2], tree["excited"]["test"]["label"])


# -- the datasets library's own ways


def test_slicing_numpy_format_saving_and_parquet(corpus, write_pickle, tmp_path):
    dataset = load_iemocap(write_pickle(corpus))
    assert dataset["train"].with_format("numpy")[:4]["text"].shape == (4, 6, 3)
    assert dataset["train"][2]["labels"] == {"happy": 0, "sad": 0, "angry": 1, "neutral": 0}
    dataset.save_to_disk(str(tmp_path / "saved"))
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, rows in dataset.items():
        rows.to_parquet(str(folder / f"{split}.parquet"))
    for source in (tmp_path / "saved", folder):
        again = load_iemocap(source)
        assert emotion_names(again["train"]) == emotion_names(dataset["train"])
        for split in dataset:
            for name, values in column_arrays(dataset[split]).items():
                np.testing.assert_array_equal(column_arrays(again[split])[name], values)
            assert again[split]["id"] == dataset[split]["id"]
    assert "exactly one is present in every clip" in load_iemocap(folder)["train"].info.description


def test_column_arrays_are_views_of_the_memory_map(sample_path):
    train = load_iemocap(sample_path)["train"]
    view = column_arrays(train)["text"]
    assert not view.flags.writeable
    assert view.base is not None
    assert len(train.data.column("text").chunks) == 1


@pytest.mark.parametrize(
    "take", [lambda d: d.select([3, 1]), lambda d: d.filter(lambda row: row["id"] in ("train-00001", "train-00003"))]
)
def test_column_arrays_follow_selection(corpus, write_pickle, take):
    train = load_iemocap(write_pickle(corpus))["train"]
    chosen = take(train)
    expected = [int(name[-1]) for name in chosen["id"]]
    np.testing.assert_array_equal(column_arrays(chosen)["text"], column_arrays(train)["text"][expected])


# -- the cache


def builds(monkeypatch):
    count = []
    original = cache_module._convert
    monkeypatch.setattr(cache_module, "_convert", lambda *given: count.append(1) or original(*given))
    return count


def test_cache_follows_the_content(corpus, write_pickle, tmp_path, monkeypatch):
    count = builds(monkeypatch)
    cache = tmp_path / "cache"
    path = write_pickle(corpus)
    load_iemocap(path, cache_dir=cache)
    load_iemocap(path, cache_dir=cache)
    assert len(count) == 1
    os.utime(path, (time.time() + 60,) * 2)
    load_iemocap(path, cache_dir=cache)
    copy = tmp_path / "elsewhere.pkl"
    shutil.copy(path, copy)
    load_iemocap(copy, emotions=["sad"], cache_dir=cache)
    assert len(count) == 1
    stamp = path.stat().st_mtime_ns
    corpus["happy"]["train"]["facet"][0, 0] += 1
    for emotion in ("sad", "angry", "neutral"):
        corpus[emotion]["train"]["facet"] = corpus["happy"]["train"]["facet"]
    write_pickle(corpus)
    os.utime(path, ns=(stamp, stamp))
    changed = load_iemocap(path, cache_dir=cache)
    assert len(count) == 2
    assert columns(changed)["video"][0, 0] == np.float32(corpus["happy"]["train"]["facet"][0, 0])
    load_iemocap(path, label_column=0, cache_dir=cache)
    assert len(count) == 3


def test_a_failed_build_leaves_nothing_in_the_cache(corpus, write_pickle, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match="data.pkl: audio must be finite, but has 1 NaN and 0 infinite values"):
        load_iemocap(write_pickle(corpus), non_finite="error", cache_dir=cache)
    assert not [file for file in cache.rglob("*") if file.suffix in (".arrow", ".json")]


# -- the join


def test_rows_in_another_order_are_matched_by_content(corpus, write_pickle):
    expected = columns(load_iemocap(write_pickle(corpus)))
    shuffled(corpus, "sad", "train")
    shuffled(corpus, "neutral", "train", seed=2)
    dataset = load_iemocap(write_pickle(corpus, "shuffled.pkl"))
    for name, values in expected.items():
        np.testing.assert_array_equal(columns(dataset)[name], values)
    assert "the same ones under every emotion but in another order" in dataset["train"].info.description


def test_a_single_emotion_comes_in_the_order_of_its_own_rows(corpus, write_pickle):
    for split in ("train", "valid", "test"):
        shuffled(corpus, "sad", split)
    path = write_pickle(corpus)
    together, alone = load_iemocap(path), load_iemocap(path, ["sad"])
    assert together["train"].column_names == alone["train"].column_names == ["id", "audio", "video", "text", "labels"]
    for split, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        np.testing.assert_array_equal(columns(alone, split)["text"], corpus["sad"][key]["glove"])
        np.testing.assert_array_equal(columns(alone, split)["labels"][:, 0], corpus["sad"][key]["label"][:, 1])
        np.testing.assert_array_equal(columns(together, split)["text"], corpus["happy"][key]["glove"])
        assert sorted(alone[split]["id"]) == sorted(together[split]["id"])
        by_id = dict(zip(together[split]["id"], columns(together, split)["labels"][:, 1]))
        assert [by_id[i] for i in alone[split]["id"]] == columns(alone, split)["labels"][:, 0].tolist()


def test_a_clip_that_an_emotion_lacks_is_not_annotated(corpus, write_pickle):
    full = columns(load_iemocap(write_pickle(corpus)))
    for name, values in corpus["happy"]["train"].items():
        corpus["happy"]["train"][name] = values[2:]
    for name, values in corpus["sad"]["train"].items():
        corpus["sad"]["train"][name] = values[:-1]
    dataset = load_iemocap(write_pickle(corpus, "partial.pkl"))
    got = columns(dataset)
    order = [*range(2, 12), 0, 1]  # happy's rows first, then what only the others have
    for name in ("audio", "video", "text"):
        np.testing.assert_array_equal(got[name], full[name][order])
    expected = full["labels"].copy()
    expected[:2, 0] = np.nan
    expected[11, 1] = np.nan
    np.testing.assert_array_equal(got["labels"], expected[order])
    assert "29 different clips, 26 of them under every emotion" in dataset["train"].info.description


def test_clips_that_only_an_unwanted_emotion_has_are_left_out(corpus, write_pickle):
    for name, values in corpus["happy"]["train"].items():
        corpus["happy"]["train"][name] = values[2:]
    dataset = load_iemocap(write_pickle(corpus), emotions=["happy"])
    assert [len(dataset[s]) for s in dataset] == [10, 8, 9]
    np.testing.assert_array_equal(columns(dataset)["labels"][:, 0], corpus["happy"]["train"]["label"][:, 1])


def test_identical_clips_within_one_emotion_stay_separate(corpus, write_pickle):
    for splits in corpus.values():
        for name in ("covarep", "facet", "glove"):
            splits["train"][name][5] = splits["train"][name][4]
    assert len(load_iemocap(write_pickle(corpus))["train"]) == 12


def test_float32_and_float64_copies_of_a_clip_match(corpus, write_pickle):
    for splits in corpus.values():
        for rows in splits.values():
            rows["covarep"] = rows["covarep"].astype("float32").astype("float64")
    corpus["sad"]["train"]["covarep"] = corpus["sad"]["train"]["covarep"].astype("float32")
    dataset = load_iemocap(write_pickle(corpus))
    assert len(dataset["train"]) == 12
    assert "stored as float32 and float64" in dataset["train"].info.description


def test_emotions_without_a_common_clip_are_noted(corpus, write_pickle):
    for rows in corpus["sad"].values():
        rows["facet"] = rows["facet"] + 1
    description = load_iemocap(write_pickle(corpus))["train"].info.description
    assert "no clip of train is shared by all emotions" in description


def test_a_clip_in_two_splits_is_noted(corpus, write_pickle):
    for splits in corpus.values():
        for name in ("covarep", "facet", "glove"):
            splits["test"][name][3] = splits["train"][name][7]
    description = load_iemocap(write_pickle(corpus))["train"].info.description
    assert "1 clip(s) of train are also in test" in description


# -- which label column means present


def flipped(corpus):
    for splits in corpus.values():
        for rows in splits.values():
            rows["label"] = rows["label"][:, ::-1].copy()
    return corpus


@pytest.mark.parametrize("flip", [False, True])
def test_exclusive_emotions_prove_the_column(corpus, write_pickle, flip):
    expected = columns(load_iemocap(write_pickle(corpus)))["labels"]
    dataset = load_iemocap(write_pickle(flipped(corpus) if flip else corpus, "flipped.pkl"))
    np.testing.assert_array_equal(columns(dataset)["labels"], expected)
    text = f"column {0 if flip else 1} = present: in every clip it is set for exactly one of the 4 emotions"
    assert text in dataset["train"].info.description


def test_a_column_that_nothing_proves_is_noted_and_can_be_set(write_pickle):
    tree = make_corpus(emotions=("positive", "other"))
    tree.pop("other")
    for rows in tree["positive"].values():
        rows["label"][:-2] = [0, 1]  # present in most clips
    path = write_pickle(tree)
    data = load(path)
    np.testing.assert_array_equal(columns(data.dataset)["labels"][:, 0], tree["positive"]["train"]["label"][:, 1])
    assert any("column 1 = present, by convention: nothing in the file proves it" in note for note in data.notes)
    assert data.label_column == 1
    again = load(path)  # from the cache
    assert (again.notes, again.report, again.label_column) == (data.notes, data.report, 1)
    other = load(path, config=DataConfig(label_column=0))
    np.testing.assert_array_equal(columns(other.dataset)["labels"][:, 0], tree["positive"]["train"]["label"][:, 0])
    assert "labels: column 0 = present, as set by label_column" in other.notes
    assert other.label_column == 0


# -- numbers that are not finite, padding


def test_not_finite_values_become_zero_and_are_counted(corpus, write_pickle):
    for splits in corpus.values():
        splits["train"]["covarep"][1, 2:4] = [np.inf, -np.inf]
        splits["test"]["covarep"][2, 0] = 1e300  # beyond float32
        splits["train"]["glove"][0, 0, 0] = np.nan
        splits["train"]["facet"][:, 2] = 7
    dataset = load_iemocap(write_pickle(corpus))
    assert all(np.isfinite(values).all() for split in dataset for values in columns(dataset, split).values())
    np.testing.assert_array_equal(columns(dataset)["audio"][1, 2:4], 0)
    lines = dict(line.split(maxsplit=1) for line in dataset["train"].info.description.splitlines() if line[0] != " ")
    assert "3 NaN and 3 infinite set to 0" in lines["audio"]
    assert "all finite" in lines["video"]
    assert "constant in train: columns 2" in lines["video"]
    assert "1 NaN and 0 infinite set to 0" in lines["text"]


@pytest.mark.parametrize("side", ["at the end", "in front", "nowhere"])
def test_padding_side_is_found(corpus, write_pickle, side):
    for splits in corpus.values():
        for rows in splits.values():
            if side == "in front":
                rows["glove"] = rows["glove"][:, ::-1]
            if side == "nowhere":
                rows["glove"] = rows["glove"] + 10
    description = load_iemocap(write_pickle(corpus))["train"].info.description
    assert f"padded {side}" in description


# -- a user's own features


@pytest.fixture
def parquet(tmp_path):
    """Parquet files as pandas users write them: variable lists, one column per emotion."""

    def write(change=lambda split, columns: columns, emotions=("calm", "tense")):
        for split, rows in (("train", 6), ("validation", 4), ("test", 5)):
            rng = np.random.default_rng(rows)
            content = {
                "audio": rng.normal(size=(rows, 3)).tolist(),
                "video": rng.normal(size=(rows, 2)).tolist(),
                "text": rng.normal(size=(rows, 4, 5)).tolist(),
                **{emotion: [(i + k) % 2 for i in range(rows)] for k, emotion in enumerate(emotions)},
            }
            datasets.Dataset.from_dict(change(split, content)).to_parquet(str(tmp_path / f"{split}.parquet"))
        return tmp_path

    return write


def test_parquet_with_one_column_per_emotion(parquet):
    dataset = load_iemocap(parquet())
    assert emotion_names(dataset["train"]) == ["calm", "tense"]
    np.testing.assert_array_equal(columns(dataset)["labels"], [[i % 2, (i + 1) % 2] for i in range(6)])
    assert columns(dataset)["text"].dtype == np.float32
    assert dataset["test"]["id"] == [f"test-{i:05d}" for i in range(5)]
    assert columns(load_iemocap(parquet(), emotions=["tense"]))["labels"].shape == (6, 1)


def test_parquet_with_unnamed_labels_needs_names(parquet):
    def change(split, content):
        return {**{k: content[k] for k in ("audio", "video", "text")}, "labels": [[0, 1, -100]] * len(content["audio"])}

    with pytest.raises(DataError, match="the label columns must have names, but the file has none. Give them"):
        load_iemocap(parquet(change))
    dataset = load_iemocap(parquet(change), emotions=["a", "b", "c"])
    assert emotion_names(dataset["train"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(columns(dataset)["labels"][0], [0, 1, np.nan])


def test_parquet_with_dirt_is_cleaned(parquet):
    def change(split, content):
        content["audio"][1][0] = float("nan")
        return content

    dataset = load_iemocap(parquet(change))
    assert columns(dataset)["audio"][1, 0] == 0
    assert "3 NaN and 0 infinite set to 0" in dataset["train"].info.description
    with pytest.raises(DataError, match="audio must be finite"):
        load_iemocap(parquet(change), non_finite="error")


def other_columns(split, content):
    rows = len(content["audio"])
    return {
        **content,
        "id": list(range(rows)),
        "speaker": ["x"] * rows,
        "emotion": ["calm"] * rows,
        "gender": [0, 1] * (rows // 2) + [0] * (rows % 2),
        "session": np.ones(rows, int),
        "loud": [True] * rows,
        "length": [0.5] * rows,
    }


def test_only_columns_that_are_labels_by_name_or_choice_are_emotions(parquet):
    data = load(parquet(other_columns))
    assert data.emotions == ["calm", "tense"]
    assert data.dataset["test"]["id"][:] == ["0", "1", "2", "3", "4"]
    assert "ignored columns: speaker, emotion, gender, session, loud, length" in data.notes
    chosen = load(parquet(other_columns), ["loud", "calm"])
    assert chosen.emotions == ["loud", "calm"]
    np.testing.assert_array_equal(columns(chosen.dataset, "test")["labels"], [[1, i % 2] for i in range(5)])
    with pytest.raises(DataError, match="train.parquet: labels of 'length' must be 0 or 1"):
        load(parquet(other_columns), ["length"])


def test_no_column_is_a_label_by_name(parquet):
    """It is said which columns could be chosen, and the choice works."""
    folder = parquet(emotions=("yes", "no"))
    with pytest.raises(
        DataError,
        match="must have labels: a column 'labels' or 'emotion', or columns of 0 and 1 named .*, but has yes, no. Choose them with",
    ):
        load(folder)
    assert load(folder, ["no", "yes"]).emotions == ["no", "yes"]


@pytest.mark.parametrize(
    ("kind", "missing"), [(float, None), (float, np.nan), (float, -100.0), (int, None), (int, -100), (bool, None)]
)
def test_label_columns_of_every_type(parquet, kind, missing):
    """A column of 0.0, 1.0 and NaN is a label column like one of integers; what is not annotated is NaN."""

    def change(split, content):
        return {**content, "tense": [missing, *map(kind, content["tense"][1:])]}

    got = columns(load_iemocap(parquet(change)))["labels"]
    np.testing.assert_array_equal(got[:, 1], [np.nan, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(got[:, 0], [0, 1] * 3)


def test_emotions_in_capitals(parquet):
    assert load(parquet(emotions=("Calm", "TENSE"))).emotions == ["calm", "tense"]


def test_aliases_of_features(parquet):
    def change(split, content):
        return {{"video": "vision", "audio": "Acoustic"}.get(name, name): values for name, values in content.items()}

    got = columns(load_iemocap(parquet(change)))
    assert {name: got[name].shape for name in ("audio", "video")} == {"audio": (6, 3), "video": (6, 2)}


def test_every_split_has_the_report_on_all_splits(parquet):
    dataset = load_iemocap(parquet())
    assert len({rows.info.description for rows in dataset.values()}) == 1
    assert "6               4               5" in dataset["test"].info.description
    chosen = load_iemocap(parquet(), emotions=["tense"])
    assert {rows.info.description for rows in chosen.values()} == {dataset["test"].info.description}


def test_a_split_without_any_label_of_the_wanted_emotion(parquet):
    def change(split, content):
        return {**content, "tense": [None] * 4} if split == "validation" else content

    assert len(load_iemocap(parquet(change))["validation"]) == 4
    with pytest.raises(DataError, match="validation must have clips annotated for tense, but has none"):
        load_iemocap(parquet(change), emotions=["tense"])


def test_some_clips_without_a_label_of_the_wanted_emotion(parquet):
    def change(split, content):
        return {**content, "tense": [None, *content["tense"][1:]]}

    dataset = load_iemocap(parquet(change), emotions=["tense"])
    assert [len(rows) for rows in dataset.values()] == [5, 3, 4]
    assert dataset["test"]["id"] == [f"test-0000{number}" for number in range(1, 5)]


@pytest.mark.parametrize("hidden", [False, True])
def test_settings_of_datasets_are_unchanged(corpus, write_pickle, hidden):
    path = write_pickle(corpus)
    level = datasets.logging.get_verbosity()
    (datasets.disable_progress_bars if hidden else datasets.enable_progress_bars)()
    datasets.logging.set_verbosity_info()
    try:
        load_iemocap(path)
        with pytest.raises(DataError):
            load_iemocap(path, emotions=["nobody"])
        assert datasets.logging.get_verbosity() == datasets.logging.INFO
        assert datasets.utils.are_progress_bars_disabled() == hidden
    finally:
        datasets.logging.set_verbosity(level)
        datasets.enable_progress_bars()


def test_loading_is_silent(corpus, write_pickle, parquet, capfd):
    folder = parquet()
    capfd.readouterr()
    load_iemocap(write_pickle(corpus))
    load_iemocap(folder)
    assert capfd.readouterr() == ("", "")


def test_the_cache_folder_can_be_chosen(corpus, write_pickle, parquet, tmp_path):
    for source, name in ((write_pickle(corpus), "pickle"), (parquet(), "parquet")):
        load_iemocap(source, cache_dir=tmp_path / name)
        assert list((tmp_path / name).rglob("*.arrow"))


def drop_text_of_test(split, content):
    return {name: values for name, values in content.items() if name != "text" or split != "test"}


def drop_all(split, content):
    return {name: values for name, values in content.items() if name not in ("audio", "video", "text")}


def misspelt(split, content):
    return {("vidoe" if name == "video" else name): values for name, values in content.items()}


def ragged(split, content):
    content["audio"][0] = content["audio"][0][:-1]
    return content


def lacking_a_label(split, content):
    return {name: values for name, values in content.items() if name != "tense" or split == "train"}


def named_labels(split, content):
    """Of two emotions, but of three in test."""
    names = ["calm", "tense", "bored"] if split == "test" else ["calm", "tense"]
    return {
        **{name: content[name] for name in ("audio", "video", "text")},
        "labels": [[0] * len(names)] * len(content["audio"]),
    }


def wider_test(split, content):
    if split == "test":
        content["video"] = [row + [0.0] for row in content["video"]]
    return content


def fractional(split, content):
    content["labels"] = [[0.5]] * len(content["audio"])
    return content


def words_for_numbers(split, content):
    content["audio"] = [["a", "b", "c"]] * len(content["audio"])
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_text_of_test, "test.parquet must have the columns audio, video, text, as .* has, but has .*Store nulls"),
        (drop_all, "train.parquet must have at least one of audio, video, text, but has"),
        (misspelt, "train.parquet must name its features audio, video, text, but has 'vidoe'. Did you mean 'video'"),
        (ragged, "column 'audio' must have rows of one length, but got lengths from 2 to 3"),
        (wider_test, r"test.parquet: column 'video' must have rows of one length, but got \(2,\) and \(3,\)"),
        (lacking_a_label, "validation.parquet must have the label columns of the other splits, but lacks tense"),
        (named_labels, "labels must have one column per emotion, but have 3 for 2 names"),
        (fractional, "labels of .* must be 0 or 1, or NaN where not annotated, but holds 0.5"),
        (words_for_numbers, "column 'audio' must hold numbers"),
    ],
)
def test_wrong_parquet(parquet, change, message):
    with pytest.raises(DataError, match=message):
        load_iemocap(parquet(change), emotions={fractional: ["x"], named_labels: ["x", "y"]}.get(change))


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="must be one of the known layouts .* but is a folder with none of these files"):
        load_iemocap(tmp_path)
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="must be a Parquet file"):
        load_iemocap(tmp_path)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match="must have a split among train, validation, test, but has none"):
        load_iemocap(tmp_path)


# -- wrong pickles


def change(path, value):
    """A corpus with one place changed; path like 'happy/train/facet'."""
    tree = make_corpus()
    *parents, last = path.split("/")
    node = tree
    for name in parents:
        node = node[name]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


BAD_TREES = {
    "a list": ([1, 2], "must be one of the known layouts .* but is a pickle of a list"),
    "empty": ({}, "is a pickle of a dict that holds nothing"),
    "no emotion": ({"weights": {"a": 1}}, "is a pickle of a dict that holds 'weights'"),
    "splits on top": ({"train": {}}, r"data\['train'\] must have at least one of audio, video, text, but has nothing"),
    "dangerous name": ({"../../x": make_corpus()["sad"]}, "the name of a task must consist of .* but got '../../x'"),
    "no test split": (
        change("sad/test", None),
        r"data\['sad'\] must have the split test, but has \['train', 'valid'\]",
    ),
    "misspelt feature": (
        {
            e: {s: {("facett" if k == "facet" else k): v for k, v in r.items()} for s, r in t.items()}
            for e, t in make_corpus().items()
        },
        "must name its features audio, video, text, but has 'facett'. Did you mean 'video'",
    ),
    "a modality in some splits": (
        change("sad/test/facet", None),
        "video must be in every emotion and split, or in none, but is in happy/train and not in sad/test. Store zeros",
    ),
    "no modality": (
        {e: {s: {"label": r["label"]} for s, r in t.items()} for e, t in make_corpus().items()},
        "must have at least one of audio, video, text, but has nothing",
    ),
    "split is no dict": (change("sad/test", [1]), "must be a dict of features, but is a list"),
    "text for numbers": (
        change("sad/train/facet", np.array([["a"] * 4] * 12)),
        "must be an array of numbers, but holds text",
    ),
    "a word": (change("sad/train/facet", "hello"), "must be an array of numbers, but"),
    "wrong rank": (
        change("sad/train/glove", np.zeros((12, 3))),
        r"text must have one size everywhere, but has \[6, 3\] in .* and \[3\] in sad/train",
    ),
    "no columns": (change("sad/train/facet", np.zeros((12, 0))), r"must have the shape \[rows, features\] or"),
    "row counts": (change("sad/train/facet", np.zeros((11, 4))), "must have the same number of rows in every feature"),
    "widths": (
        change("sad/train/facet", np.zeros((12, 5))),
        "video must have one size everywhere, but has \\[4\\] in .* and \\[5\\] in sad/train",
    ),
    "empty split": (
        change("sad/test", {k: v[:0] for k, v in make_corpus()["sad"]["test"].items()}),
        "must have at least one row, but is empty",
    ),
    "fractional label": (
        change("sad/test/label", np.full((9, 2), 0.5)),
        "must be 0 or 1, or NaN where not annotated, but holds 0.5",
    ),
    "large label": (change("sad/test/label", np.full(9, 3)), "must be 0 or 1, or NaN where not annotated, but holds 3"),
    "not one-hot": (
        change("sad/test/label", np.ones((9, 2), int)),
        "must be one-hot in every row, but row 0 is \\[1, 1\\]",
    ),
    "four label columns": (
        change("sad/test/label", np.eye(4, dtype=int)[[0] * 9]),
        r"must have the shape \[9, 2\] or \[9\]",
    ),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_wrong_pickles(write_pickle, name):
    tree, message = BAD_TREES[name]
    path = write_pickle(tree, bytes_keys=False)
    with pytest.raises(DataError, match=message) as caught:
        load_iemocap(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_unknown_emotions(corpus, write_pickle):
    path = write_pickle(corpus)
    with pytest.raises(
        DataError, match="emotions must be among happy, sad, angry, neutral, but got 'hapy'. Did you mean 'happy'"
    ):
        load_iemocap(path, emotions=["sad", "hapy"])
    with pytest.raises(DataError, match="one or more different names"):
        load_iemocap(path, emotions=["sad", "sad"])
    with pytest.raises(DataError, match=r"emotions must be one or more different names, but got \[\]"):
        load_iemocap(path, emotions=[])
    with pytest.raises(DataError, match=r"but got 'zzz'\. Choose among these\."):
        load_iemocap(path, emotions=["zzz"])
    assert emotion_names(load_iemocap(path, emotions=["neutral", "sad"])["test"]) == ["neutral", "sad"]


def test_missing_file_and_wrong_option(tmp_path, corpus, write_pickle):
    with pytest.raises(DataError, match="nowhere.pkl: must be a readable file, but No such file or directory"):
        load_iemocap(tmp_path / "nowhere.pkl")
    with pytest.raises(ConfigError, match="label_column must be"):
        load_iemocap(write_pickle(corpus), label_column=2)


# -- real features of other corpora


def test_youtube():
    dataset = load_iemocap(shared_file("data/youtube.pkl"))
    assert emotion_names(dataset["train"]) == ["neutral", "negative", "positive"]
    assert [len(rows) for rows in dataset.values()] == [46, 14, 36]
    description = dataset["train"].info.description
    for fact in ("all zero in 66 of 96 clips", "all zero in 70 of 96 clips", "all zero in 1 of 96 clips"):
        assert fact in description


def test_mmmo():
    dataset = load_iemocap(shared_file("data/mmmo.pkl"))
    assert emotion_names(dataset["train"]) == ["positive"]
    assert [int(columns(dataset, s)["labels"].sum()) for s in dataset] == [39, 13, 25]
    description = dataset["train"].info.description
    assert "padded on both sides" in description
    assert "stored as float32, from -85.28 to 255" in description  # sentinel values


# -- the built-in sample, and files that cannot be trained on


def test_without_a_file_it_is_the_sample():
    assert [len(rows) for rows in load().dataset.values()] == [640, 160, 160]


def test_every_setting_of_the_data(write_pickle, tmp_path):
    path = write_pickle(make_corpus())
    plain = load(path)
    other = load(path, ["angry", "happy"], DataConfig(label_column=0, max_length=2, cache_dir=str(tmp_path / "cache")))
    assert other.emotions == ["angry", "happy"]
    expected = 1 - columns(plain.dataset, "test")["labels"][:, [2, 0]]
    np.testing.assert_array_equal(columns(other.dataset, "test")["labels"], expected)
    assert other.inputs["text"].shape == (2, 3)
    assert list((tmp_path / "cache").rglob("*.arrow"))
    assert other.fingerprint != plain.fingerprint


def test_inspect_takes_files_without_splits_or_labels(write_pickle, tmp_path, parquet):
    np.savez(tmp_path / "x.npz", audio=np.ones((3, 2)))
    assert inspect(tmp_path / "x.npz").endswith(": the file has none")
    assert "clips      all 3; no labels" in inspect(tmp_path / "x.npz")
    tree = make_corpus()
    for splits in tree.values():
        del splits["train"], splits["test"]["label"]
    assert "clips      validation 8, test 9; no labels" in inspect(write_pickle(tree))
    with pytest.raises(
        DataError, match="must have the splits train, validation, test for training, but has validation, test"
    ):
        load(write_pickle(tree))
    assert "calm" in inspect(parquet() / "test.parquet")


def test_a_pickle_without_labels_is_not_trained_on(write_pickle):
    tree = make_corpus()
    del tree["sad"]["test"]["label"]
    with pytest.raises(
        DataError, match=r"data\['sad'\]\['test'\] must have labels \('label' or 'labels' or 'y'\), but has"
    ):
        load(write_pickle(tree))
