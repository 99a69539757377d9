import os
import shutil
import time

import datasets
import numpy as np
import pytest
from conftest import make_corpus, shared_file
from lmf_multitask.data.iemocap import Iemocap

from lmf_multitask import load_iemocap
from lmf_multitask.data.schema import column_array, column_arrays, emotion_names
from lmf_multitask.errors import DataError


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
    assert train.features["labels"].feature.names[0] == "absent"
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
    assert got["labels"].dtype == np.int64


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
    assert dataset["train"].with_format("numpy")[2:4]["labels"].shape == (2, 4)
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
                np.testing.assert_array_equal(column_array(again[split], name), values)
            assert again[split]["id"] == dataset[split]["id"]
    assert "exactly one is present in every clip" in load_iemocap(folder)["train"].info.description
    assert "sha256" in load_iemocap(tmp_path / "saved")["train"].info.description


def test_column_arrays_are_views_of_the_memory_map(sample_path):
    train = load_iemocap(sample_path)["train"]
    view = column_array(train, "text")
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
    np.testing.assert_array_equal(column_array(chosen, "text"), column_array(train, "text")[expected])


# -- the cache


def builds(monkeypatch):
    count = []
    original = Iemocap._split_generators
    monkeypatch.setattr(Iemocap, "_split_generators", lambda self, manager: count.append(1) or original(self, manager))
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
    expected[:2, 0] = -100
    expected[11, 1] = -100
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


def test_emotions_without_a_common_clip_are_said_aloud(corpus, write_pickle):
    for rows in corpus["sad"].values():
        rows["facet"] = rows["facet"] + 1
    description = load_iemocap(write_pickle(corpus))["train"].info.description
    assert "no clip of train is shared by all emotions" in description


def test_a_clip_in_two_splits_is_said_aloud(corpus, write_pickle):
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


@pytest.mark.parametrize("flip", [False, True])
def test_two_of_iemocaps_emotions_are_told_by_the_rarer_side(corpus, write_pickle, flip):
    tree = {emotion: corpus[emotion] for emotion in ("happy", "sad")}
    dataset = load_iemocap(write_pickle(flipped(tree) if flip else tree))
    assert columns(dataset)["labels"].mean() == 0.25  # of train; 15 of 58 over all splits
    assert (
        f"column {0 if flip else 1} = present: the rarer side (26% of the labels)" in dataset["train"].info.description
    )


def test_an_unknown_emotion_alone_is_read_by_convention_and_can_be_forced(write_pickle):
    tree = make_corpus(emotions=("positive", "other"))
    tree.pop("other")
    for rows in tree["positive"].values():
        rows["label"][:-2] = [0, 1]  # the larger side is present: rarity would mislead
    path = write_pickle(tree)
    dataset = load_iemocap(path)
    np.testing.assert_array_equal(columns(dataset)["labels"][:, 0], tree["positive"]["train"]["label"][:, 1])
    assert "assumed, not proven" in dataset["train"].info.description
    forced = load_iemocap(path, label_column=0)
    np.testing.assert_array_equal(columns(forced)["labels"][:, 0], tree["positive"]["train"]["label"][:, 0])
    assert "column 0 = present, as you said" in forced["train"].info.description


# -- dirt


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

    with pytest.raises(DataError, match="the 3 label columns must be named, but none is given. Add --emotions"):
        load_iemocap(parquet(change))
    dataset = load_iemocap(parquet(change), emotions=["a", "b", "c"])
    assert emotion_names(dataset["train"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(columns(dataset)["labels"][0], [0, 1, -100])


def test_parquet_with_dirt_is_cleaned(parquet):
    def change(split, content):
        content["audio"][1][0] = float("nan")
        return content

    dataset = load_iemocap(parquet(change))
    assert columns(dataset)["audio"][1, 0] == 0
    assert "3 NaN and 0 infinite set to 0" in dataset["train"].info.description
    with pytest.raises(DataError, match="audio must be finite"):
        load_iemocap(parquet(change), non_finite="error")


def test_columns_that_are_no_emotions(parquet):
    """Emotions are columns of whole numbers or booleans; texts and fractions beside them are not."""

    def change(split, content):
        rows = len(content["audio"])
        return {
            **content,
            "id": list(range(rows)),
            "speaker": ["x"] * rows,
            "length": [0.5] * rows,
            "loud": [True] * rows,
            "long": np.zeros(rows, "u1"),
        }

    dataset = load_iemocap(parquet(change))
    assert emotion_names(dataset["train"]) == ["calm", "tense", "loud", "long"]
    assert dataset["test"]["id"] == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(columns(dataset, "test")["labels"][:, 2:], [[1, 0]] * 5)


def test_the_report_is_that_of_all_splits_wherever_it_is_looked_up(parquet):
    dataset = load_iemocap(parquet())
    assert len({rows.info.description for rows in dataset.values()}) == 1
    assert "6               4               5" in dataset["test"].info.description
    chosen = load_iemocap(parquet(), emotions=["tense"])
    assert {rows.info.description for rows in chosen.values()} == {dataset["test"].info.description}


def test_a_split_without_any_label_of_the_wanted_emotion(parquet):
    def change(split, content):
        return {**content, "tense": [-100] * 4} if split == "validation" else content

    assert len(load_iemocap(parquet(change))["validation"]) == 4
    with pytest.raises(DataError, match="validation must have clips annotated for tense, but has none"):
        load_iemocap(parquet(change), emotions=["tense"])


def test_some_clips_without_a_label_of_the_wanted_emotion(parquet):
    def change(split, content):
        return {**content, "tense": [-100, *content["tense"][1:]]}

    dataset = load_iemocap(parquet(change), emotions=["tense"])
    assert [len(rows) for rows in dataset.values()] == [5, 3, 4]
    assert dataset["test"]["id"] == [f"test-0000{number}" for number in range(1, 5)]


@pytest.mark.parametrize("hidden", [False, True])
def test_datasets_is_left_as_loud_as_it_was(corpus, write_pickle, hidden):
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


def test_caches_go_where_they_are_wanted(corpus, write_pickle, parquet, tmp_path):
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


def flat_text(split, content):
    content["text"] = [row[0] for row in content["text"]]
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
        (drop_text_of_test, "test must have the columns of train, audio, video, text, but has .*Store zeros for clips"),
        (drop_all, "train must have at least one of audio, video and text, but has"),
        (misspelt, "train must call its features audio, video and text, but has 'vidoe'. Did you mean 'video'"),
        (ragged, "column 'audio' must have rows of one length, but got lengths from 2 to 3"),
        (wider_test, "test must have the sizes of train, audio 3, video 2, text 4 x 5, but has audio 3, video 3"),
        (lacking_a_label, "validation must have the label columns of train, but lacks tense"),
        (named_labels, r"labels of test must have 2 numbers per row, but have the shape \[5, 3\]"),
        (flat_text, "text must be a list of word vectors in every row"),
        (fractional, "labels must be 1, 0 or -100"),
        (words_for_numbers, "column 'audio' must hold numbers"),
    ],
)
def test_wrong_parquet(parquet, change, message):
    with pytest.raises(DataError, match=message):
        load_iemocap(parquet(change), emotions={fractional: ["x"], named_labels: ["x", "y"]}.get(change))


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match=r"train.parquet, validation.parquet, test.parquet is missing. Check the path"):
        load_iemocap(tmp_path)
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="must be a Parquet file"):
        load_iemocap(tmp_path)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match="must be a saved data set"):
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
    "a list": ([1, 2], "must hold data\\[emotion\\]\\[split\\]\\[feature\\], but holds a list"),
    "empty": ({}, "no emotion is in it \\(found nothing\\)"),
    "no emotion": ({"weights": {"a": 1}}, "no emotion is in it \\(found 'weights'\\)"),
    "splits on top": ({"train": {}}, "its first level is the split 'train'"),
    "dangerous name": ({"../../x": make_corpus()["sad"]}, "an emotion's name must consist of .* but got '../../x'"),
    "no test split": (change("sad/test", None), "must have the split 'test', but has \\['train', 'valid'\\]"),
    "misspelt feature": (
        {
            e: {s: {("facett" if k == "facet" else k): v for k, v in r.items()} for s, r in t.items()}
            for e, t in make_corpus().items()
        },
        "must have the feature 'facet' or .*, or nothing like it, but has 'facett'. Did you mean 'facet'",
    ),
    "a modality in some splits": (
        change("sad/test/facet", None),
        "video must be in every emotion and split, or in none, but is in happy/train and not in sad/test. Store zeros",
    ),
    "no modality": (
        {e: {s: {"label": r["label"]} for s, r in t.items()} for e, t in make_corpus().items()},
        "must have features of audio, video or text, but has \\['label'\\]",
    ),
    "split is no dict": (change("sad/test", [1]), "must be a dict of features, but is a list"),
    "text for numbers": (
        change("sad/train/facet", np.array([["a"] * 4] * 12)),
        "must be an array of numbers, but holds text",
    ),
    "a word": (change("sad/train/facet", "hello"), "must be an array of numbers, but"),
    "wrong rank": (
        change("sad/train/glove", np.zeros((12, 3))),
        "must have the shape \\[rows, words, dimensions\\], but has \\[12, 3\\]",
    ),
    "no columns": (change("sad/train/facet", np.zeros((12, 0))), "must have the shape \\[rows, dimensions\\]"),
    "row counts": (change("sad/train/facet", np.zeros((11, 4))), "must have the same number of rows in every feature"),
    "widths": (
        change("sad/train/facet", np.zeros((12, 5))),
        "video must have one size everywhere, but has \\[4\\] in .* and \\[5\\] in sad/train",
    ),
    "empty split": (
        change("sad/test", {k: v[:0] for k, v in make_corpus()["sad"]["test"].items()}),
        "must have at least one row, but is empty",
    ),
    "fractional label": (change("sad/test/label", np.full((9, 2), 0.5)), "must be 0 or 1 everywhere, but holds 0.5"),
    "NaN label": (change("sad/test/label", np.full(9, np.nan)), "must be 0 or 1 everywhere, but holds nan"),
    "large label": (change("sad/test/label", np.full(9, 3)), "must be 0 or 1 everywhere, but holds 3"),
    "not one-hot": (
        change("sad/test/label", np.ones((9, 2), int)),
        "must be one-hot in every row, but row 0 is \\[1, 1\\]",
    ),
    "four label columns": (
        change("sad/test/label", np.eye(4, dtype=int)[[0] * 9]),
        "must have the shape \\[rows, 2\\] or \\[rows\\]",
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
    with pytest.raises(DataError, match="label_column must be 0 or 1, but got 2"):
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
