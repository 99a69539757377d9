"""Names in data, the columns of a data set, and its fingerprint."""

import datasets
import numpy as np
import pytest

from lmf_multitask.data.columns import column_arrays, emotion_names, fingerprint
from lmf_multitask.data.schema import dataset_features, emotion_of, find_split, rename_modalities, sort_emotions
from lmf_multitask.errors import DataError

SHAPES = {"audio": (2,), "video": (1,), "text": (2, 2)}


@pytest.mark.parametrize(
    ("name", "emotion"), [("Happy", "happy"), ("ANGER", "anger"), ("Zest", "Zest"), ("wütend", "wütend")]
)
def test_known_emotions_are_written_in_lower_case(name, emotion):
    assert emotion_of(name) == emotion


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a\n", "x" * 65, b"sad", 3, None])
def test_names_that_emotions_may_not_have(name):
    with pytest.raises(DataError, match="the name of a task must consist of at most 64 letters"):
        emotion_of(name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("DEV", "validation"),
        ("valid", "validation"),
        ("Test", "test"),
        ("tset", None),
        (1, None),
    ],
)
def test_names_of_splits(name, split):
    assert find_split(name) == split


def test_the_papers_emotions_come_first_and_in_its_order():
    assert sort_emotions(["zest", "neutral", "calm", "happy", "angry"]) == ["happy", "angry", "neutral", "calm", "zest"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["audoi", "text"], "x must name its features audio, video, text, but has 'audoi'. Did you mean 'audio'?"),
        (["w", "id"], "x must have at least one of audio, video, text, but has id, w. Check the names."),
        ([], "x must have at least one of audio, video, text, but has nothing. Check the names."),
    ],
)
def test_names_that_are_no_modalities(names, message):
    with pytest.raises(DataError) as caught:
        rename_modalities(names, "x")
    assert str(caught.value) == message


def test_modalities_come_in_one_order_under_any_alias():
    assert rename_modalities(["text", "speaker", "Acoustic"], "x") == {"audio": "Acoustic", "text": "text"}
    assert rename_modalities(["video", "facet", "visual"], "x") == {"video": "facet"}  # the released file's name first


def some_rows(changed=None):
    """Two splits; `changed` is what differs from the plain ones."""
    names = ["calm", "other" if changed == "emotions" else "tense"]
    splits = {}
    for split, rows in (("train", 3), ("test", 2)):
        columns = {
            "id": [f"{split}-{number}" for number in range(rows)],
            "audio": np.arange(rows * 2, dtype="f4").reshape(rows, 2),
            "video": np.ones((rows, 1), "f4"),
            "text": np.ones((rows, 2, 2), "f4"),
            "labels": [dict.fromkeys(names, 0.0) for _ in range(rows)],
        }
        if split == "test":
            if changed == "ids":
                columns["id"][1] = "other"
            elif changed == "labels":
                columns["labels"][-1][names[1]] = 1.0
            elif changed in columns:
                columns[changed][-1, -1] += 1
        splits[split] = datasets.Dataset.from_dict(columns, features=dataset_features(SHAPES, names))
    if changed == "split":
        splits["validation"] = splits.pop("test")
    if changed == "order":
        splits["test"] = splits["test"].select([1, 0])
    return splits


def test_the_fingerprint_is_of_all_that_training_uses(tmp_path):
    changes = [None, "ids", "audio", "video", "text", "labels", "emotions", "split", "order"]
    assert len({fingerprint(some_rows(changed)) for changed in changes}) == len(changes)
    assert fingerprint(some_rows()) == fingerprint(some_rows())
    datasets.DatasetDict(some_rows()).save_to_disk(str(tmp_path / "saved"))
    assert fingerprint(datasets.load_from_disk(str(tmp_path / "saved"))) == fingerprint(some_rows())


def test_names_of_emotions_travel_with_the_labels(tmp_path):
    rows = some_rows()["train"]
    rows.to_parquet(str(tmp_path / "x.parquet"))
    again = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path))
    for found in (rows, rows.select([2, 0]), rows.filter(lambda row: row["id"] != "train-1"), again):
        assert emotion_names(found) == ["calm", "tense"]
        np.testing.assert_array_equal(column_arrays(found)["labels"], np.zeros((len(found), 2)))


def test_labels_that_are_null_or_missing_are_nan():
    content = {"id": ["a", "b"], "audio": [[0.0] * 2] * 2, "video": [[0.0]] * 2, "text": [[[0.0] * 2] * 2] * 2}
    labels = [{"calm": 1.0, "tense": None}, None]
    rows = datasets.Dataset.from_dict(
        {**content, "labels": labels}, features=dataset_features(SHAPES, ["calm", "tense"])
    )
    np.testing.assert_array_equal(column_arrays(rows)["labels"], [[1, np.nan], [np.nan, np.nan]])


def test_data_sets_of_another_kind():
    with pytest.raises(DataError, match="must have a column 'labels' with one field per emotion, .* but has labels"):
        emotion_names(datasets.Dataset.from_dict({"labels": [[0, 1]]}))
    with pytest.raises(DataError, match="a split must have at least one row"):
        column_arrays(some_rows()["train"].select([]))
    with pytest.raises(DataError, match="must have the column 'video', but has"):
        column_arrays(some_rows()["train"].remove_columns("video"))
