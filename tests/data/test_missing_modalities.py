"""A modality that a file has for some clips only, or nowhere."""

import logging

import datasets
import numpy as np
import pytest
from conftest import make_corpus

from lmf_multitask import load_iemocap
from lmf_multitask.data.columns import column_arrays, match_inputs, missing_rows
from lmf_multitask.data.loading import missing_in_train
from lmf_multitask.data.modality import Input
from lmf_multitask.data.schema import dataset_features
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError

NAMES = {"audio": "covarep", "video": "facet", "text": "glove"}


def lacking(*modalities, **sizes):
    tree = make_corpus(**sizes)
    for splits in tree.values():
        for content in splits.values():
            for modality in modalities:
                del content[NAMES[modality]]
    return tree


@pytest.mark.parametrize("gone", [["audio"], ["video"], ["text"], ["audio", "text"]])
def test_a_pickle_without_a_modality_has_zeros_there(write_pickle, gone):
    data = load_iemocap(write_pickle(lacking(*gone)))
    whole = load_iemocap(write_pickle(make_corpus(), "whole.pkl"))
    for split in ("train", "validation", "test"):
        columns, expected = column_arrays(data[split]), column_arrays(whole[split])
        for modality in NAMES:
            if modality in gone:
                shape = (len(data[split]), 1, 1) if modality == "text" else (len(data[split]), 1)
                np.testing.assert_array_equal(columns[modality], np.zeros(shape))
            else:
                np.testing.assert_array_equal(columns[modality], expected[modality])
        np.testing.assert_array_equal(columns["labels"], expected["labels"])
    report = data["train"].info.description
    for modality in gone:
        assert f"{modality:<10} missing in every clip: the file has none" in report


@pytest.mark.parametrize("gone", ["audio", "video", "text"])
def test_files_to_predict_may_lack_one(write_pickle, tmp_path, gone):
    left = [modality for modality in NAMES if modality != gone]
    rng = np.random.default_rng(0)
    rows = {"audio": rng.normal(size=(7, 5)), "video": rng.normal(size=(7, 4)), "text": rng.normal(size=(7, 6, 3))}
    rows = {name: rows[name].astype("f4") for name in left}
    np.savez(tmp_path / "x.npz", **rows)
    datasets.Dataset.from_dict({name: values.tolist() for name, values in rows.items()}).to_parquet(
        tmp_path / "x.parquet"
    )
    pickled = write_pickle(lacking(gone, rows=(3, 3, 7)))
    for path in (tmp_path / "x.npz", tmp_path / "x.parquet", pickled):
        source = open_source(path, "test")
        assert source.count == 7
        assert sorted(source.shapes) == sorted(left)
        blocks = list(source.all_blocks(3))
        assert [len(ids) for ids, _ in blocks] == [3, 3, 1]
        for _, block in blocks:
            assert sorted(block) == sorted(left)
        if path != pickled:
            for name in left:
                np.testing.assert_array_equal(np.concatenate([block[name] for _, block in blocks]), rows[name])


def test_a_test_split_alone_may_lack_one_when_it_is_predicted(write_pickle):
    tree = make_corpus()
    for splits in tree.values():
        del splits["test"]["facet"]
    path = write_pickle(tree)
    assert sorted(open_source(path, "test").shapes) == ["audio", "text"]
    assert sorted(open_source(path, "validation").shapes) == ["audio", "text", "video"]
    with pytest.raises(DataError, match="video must be in every emotion and split, or in none"):
        load_iemocap(path)


@pytest.mark.parametrize("gone", ["audio", "video", "text"])
def test_parquet_and_saved_folders_without_a_modality(write_pickle, tmp_path, gone):
    data = load_iemocap(write_pickle(make_corpus())).remove_columns(gone)
    data.save_to_disk(tmp_path / "saved")
    (tmp_path / "tables").mkdir()
    for split, part in data.items():
        part.to_parquet(tmp_path / "tables" / f"{split}.parquet")
    for folder in ("saved", "tables"):
        loaded = load_iemocap(tmp_path / folder)
        for part in loaded.values():
            columns = column_arrays(part)
            assert missing_rows(columns)[gone] == len(part)
            assert columns[gone].shape == ((len(part), 1, 1) if gone == "text" else (len(part), 1))
        assert f"{gone:<10} missing in every clip" in loaded["train"].info.description
        assert sorted(open_source(tmp_path / folder).shapes) == sorted({"audio", "video", "text"} - {gone})


def test_null_rows_of_a_saved_data_set_are_zeros(tmp_path):
    """In columns that need no other change."""
    for split, rows in (("train", 6), ("validation", 4), ("test", 5)):
        _, lists = with_nulls(rows, {"audio": [1], "text": [0, 3]})
        lists |= {"id": [f"{split}-{row}" for row in range(rows)], "labels": [{"calm": row % 2} for row in range(rows)]}
        types = dataset_features({"audio": (5,), "video": (4,), "text": (6, 3)}, ["calm"])
        part = datasets.Dataset.from_dict(lists, features=types)
        part.save_to_disk(tmp_path / "data" / split)
    (tmp_path / "data" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    loaded = load_iemocap(tmp_path / "data")
    for split, part in loaded.items():
        arrays, _ = with_nulls(len(part), {"audio": [1], "text": [0, 3]})
        for name, values in arrays.items():
            assert part.data.column(name).null_count == 0
            np.testing.assert_array_equal(column_arrays(part)[name], values)
        assert part["id"][0] == f"{split}-0"


def test_missing_rows_by_hand():
    columns = {
        "audio": np.array([[0, 0], [0, 1], [0, 0]], "f4"),
        "video": np.zeros((3, 1), "f4"),
        "text": np.array([[[0.0], [0.0]], [[0.0], [2.0]], [[1.0], [0.0]]], "f4"),
    }
    assert missing_rows(columns) == {"audio": 2, "video": 3, "text": 1}


def test_columns_match_the_inputs_of_a_model():
    columns = {"audio": np.ones((3, 5), "f4"), "video": np.zeros((3, 1), "f4"), "text": np.ones((3, 2, 9), "f4")}
    inputs = {"audio": Input((5,)), "video": Input((4,)), "text": Input((20, 3), "end")}
    found = match_inputs(columns, inputs, ["audio", "video"], "x.pkl")
    assert found["audio"] is columns["audio"]
    np.testing.assert_array_equal(found["video"], np.zeros((3, 4)))  # missing in every row
    np.testing.assert_array_equal(found["text"], np.zeros((3, 20, 3)))  # not used
    message = (
        "x.pkl: text must be a sequence of 3 numbers per step, as in the model, but is a sequence of 9 numbers per step"
    )
    with pytest.raises(DataError, match=message):
        match_inputs(columns, inputs, ["audio", "video", "text"], "x.pkl")
    with pytest.raises(DataError, match="audio must be a sequence of 5 numbers per step, .* but is 5 numbers per clip"):
        match_inputs(columns, {**inputs, "audio": Input((7, 5))}, ["audio"], "x.pkl")
    other_length = {"text": Input((20, 9)), "audio": Input((5,)), "video": Input((1,))}
    assert match_inputs(columns, other_length, ["text"], "x.pkl")["text"] is columns["text"]


def test_modalities_missing_in_training_data_are_logged(write_pickle, caplog):
    tree = lacking("video")
    for splits in tree.values():
        splits["train"]["covarep"][2:5] = 0
        splits["train"]["glove"][5] = 0
    data = load_iemocap(write_pickle(tree))
    with caplog.at_level(logging.INFO, "lmf_multitask"):
        assert missing_in_train(data, ["audio", "video", "text"]) == ["video"]
        assert missing_in_train(data, ["audio"]) == []
    assert caplog.messages == [
        "video is missing in every clip of train: the network is built without it",
        "audio is missing (all zero) in 3 of 12 clips of train",
        "text is missing (all zero) in 1 of 12 clips of train",
        "audio is missing (all zero) in 3 of 12 clips of train",
    ]


def test_all_modalities_missing_is_an_error(write_pickle):
    data = load_iemocap(write_pickle(lacking("video", "audio")))
    assert missing_in_train(data, ["audio", "video", "text"]) == ["audio", "video"]
    message = (
        r"train must have clips with audio or video, but audio and video are missing in every clip\. Choose others with"
    )
    with pytest.raises(DataError, match=message):
        missing_in_train(data, ["audio", "video"])


def with_nulls(rows, nulls):
    """Made-up columns, and the lists of a table in which the given rows are null."""
    rng = np.random.default_rng(rows)
    arrays = {
        "audio": rng.normal(size=(rows, 5)),
        "video": rng.normal(size=(rows, 4)),
        "text": rng.normal(size=(rows, 6, 3)),
    }
    arrays = {name: values.astype("f4") for name, values in arrays.items()}
    lists = {name: values.tolist() for name, values in arrays.items()}
    for name, chosen in nulls.items():
        for row in chosen:
            arrays[name][row], lists[name][row] = 0, None
    return arrays, lists


@pytest.mark.parametrize("size", [1, 3, 100])
def test_null_rows_of_a_table_to_predict_are_zeros(tmp_path, size):
    arrays, lists = with_nulls(
        70, {"audio": [0, 1, 2, 69], "video": [], "text": range(66)}
    )  # more than are probed for sizes
    datasets.Dataset.from_dict(lists).to_parquet(tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet")
    assert source.shapes == {"audio": (5,), "video": (4,), "text": (6, 3)}
    blocks = [block for _, block in source.all_blocks(size)]
    for name, values in arrays.items():
        np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), values)


def test_columns_of_nulls_are_missing_modalities(tmp_path):
    _, lists = with_nulls(3, {"video": range(3)})
    datasets.Dataset.from_dict(lists).to_parquet(tmp_path / "x.parquet")
    assert sorted(open_source(tmp_path / "x.parquet").shapes) == ["audio", "text"]
    _, lists = with_nulls(3, {name: range(3) for name in NAMES})
    datasets.Dataset.from_dict(lists).to_parquet(tmp_path / "y.parquet")
    with pytest.raises(
        DataError, match="y.parquet: must have audio or video or text in some row, but has none of them"
    ):
        open_source(tmp_path / "y.parquet")


def test_null_rows_of_training_data_are_zeros(tmp_path):
    expected = {}
    for split, nulls in {"train": {"audio": [0, 3]}, "validation": {"text": [1]}, "test": {"video": range(7)}}.items():
        expected[split], lists = with_nulls({"train": 9, "validation": 8, "test": 7}[split], nulls)
        lists["calm"] = [row % 2 for row in range(len(lists["audio"]))]
        datasets.Dataset.from_dict(lists).to_parquet(tmp_path / f"{split}.parquet")
    loaded = load_iemocap(tmp_path)
    for split, arrays in expected.items():
        columns = column_arrays(loaded[split])
        for name, values in arrays.items():
            np.testing.assert_array_equal(columns[name], values)
        assert not any(loaded[split].data.column(name).null_count for name in NAMES)
    assert "all zero in 2 of 24 clips" in loaded["train"].info.description


def test_nulls_inside_of_a_row_are_no_missing_modality(tmp_path):
    _, lists = with_nulls(3, {})
    lists["audio"][1][2] = None
    datasets.Dataset.from_dict(lists).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'audio' must have no empty values, but got 1. Fill or drop them"):
        list(open_source(tmp_path / "x.parquet").all_blocks(8))
