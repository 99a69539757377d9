"""Which columns become tasks, and what is said about the others."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import write_csv

from lmf_multitask.data.config import DataConfig
from lmf_multitask.data.loading import convert, load
from lmf_multitask.data.sources import open_source
from lmf_multitask.errors import DataError

NAN = np.nan
ROWS = 9


def written(tmp_path, **columns):
    table = {"audio": [[float(row), 1.0] for row in range(ROWS)], "split": ["train", "dev", "test"] * 3, **columns}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


def read(path, emotions=None, **options):
    source = open_source(path, emotions=emotions, config=DataConfig(**options))
    return source.emotions, source.labels("train"), source.notes


def ignored(notes):
    (line,) = [note for note in notes if note.startswith("ignored columns: ")]
    return line.removeprefix("ignored columns: ").split(", ")


@pytest.mark.parametrize(
    "angry",
    [
        pa.array([0.0, 0, 0, 1.0, 0, 0, NAN, 0, 0]),
        pa.array([0, 0, 0, 1, 0, 0, None, 0, 0]),
        pa.array([False, False, False, True, False, False, None, False, False]),
        pa.array([0, 0, 0, 1, 0, 0, -100, 0, 0], pa.int8()),
    ],
)
def test_what_is_not_annotated_is_kept(tmp_path, angry):
    emotions, labels, _ = read(written(tmp_path, happy=[1, 0, 0] * 3, angry=angry))
    assert emotions == ["happy", "angry"]
    np.testing.assert_array_equal(labels, [[1, 0], [1, 1], [1, NAN]])


def test_other_columns_are_no_tasks(tmp_path):
    path = written(
        tmp_path,
        emotion=["joy", "joy", "joy", "sad", "joy", "joy", "", "joy", "sad"],
        gender=[0, 1, 0] * 3, session=[1] * 9, male=[1.0] * 9, n_words=[3] * 9, tokens=[["a", "b"]] * 9,
    )  # fmt: skip
    emotions, labels, notes = read(path)
    assert emotions == ["sad", "joy"]  # the paper's four first
    np.testing.assert_array_equal(labels, [[0, 1], [1, 0], [NAN, NAN]])
    assert set(ignored(notes)) == {"gender", "session", "male", "n_words", "tokens"}
    assert "column 'emotion' holds one class per clip: one task for each of sad, joy" in notes
    emotions, _, notes = read(path, labels=["male", "gender"])
    assert emotions == ["male", "gender"] and "emotion" in ignored(notes)
    with pytest.raises(
        DataError, match="must have the column 'gendr' of data.labels, but has .* Did you mean 'gender'"
    ):
        read(path, labels=["gendr"])


def test_classes_as_numbers_and_with_names(tmp_path):
    path = written(tmp_path, kind=pa.array([2, 0, 1, None, 1, 0, 0, 2, 2]))
    emotions, labels, _ = read(path, class_column="kind")
    assert emotions == ["kind_0", "kind_1", "kind_2"]
    np.testing.assert_array_equal(labels, [[0, 0, 1], [NAN] * 3, [1, 0, 0]])
    rows = {"audio": [[1.0]] * 6, "emotion": [1, 0, 2, -1, 1, 0]}
    types = datasets.Features(
        audio=datasets.Sequence(datasets.Value("float32")),
        emotion=datasets.ClassLabel(names=["Happy", "fear", "Sad"]),
    )
    table = datasets.Dataset.from_dict(rows, features=types)
    table.to_parquet(str(tmp_path / "y.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    for name in ("y.parquet", "saved"):
        source = open_source(tmp_path / name)
        assert source.emotions == ["happy", "fear", "sad"]
        np.testing.assert_array_equal(
            source.labels("all"), [[0, 1, 0], [1, 0, 0], [0, 0, 1], [NAN] * 3, [0, 1, 0], [1, 0, 0]]
        )


def test_a_label_of_zeros_and_ones_is_one_task(tmp_path):
    emotions, labels, notes = read(written(tmp_path, label=[0, 1, 0, 1, 1, 0, 0, 0, 0]))
    assert emotions == ["label"]
    np.testing.assert_array_equal(labels, [[0], [1], [0]])
    assert "column 'label' holds 0 and 1: one task" in notes


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"mood": [1] * 9}, {}, "must have labels: .* but has mood. Choose them with --data.labels, or with --data.class_column"),
        ({"label": [0.5] * 9}, {}, "column 'label' must hold classes, but holds 0.5. Choose label columns"),
        ({"happy": ["yes"] * 9}, {}, "label column 'happy' must hold numbers, but holds text. Store 0 and 1"),
        ({"mood": ["a"] * 9}, {"class_column": "modo"}, "the column 'modo' of data.class_column, .* Did you mean 'mood'"),
        ({"happy": [0] * 9}, {"labels": ["happy"], "class_column": "split"}, "data.labels and data.class_column. Choose one"),
        ({"label": [f"c{n}" for n in range(9)]}, {"split_column": "labl"}, "'labl' of data.split_column, .* Did you mean 'label'"),
        ({"part": ["left"] * 9, "happy": [0] * 9}, {"split_column": "part"}, "column 'part' must name a split .* but has 'left'"),
        ({"emotion": ["../x"] * 9}, {}, "the name of a task must consist of"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, columns, options, message):
    with pytest.raises(DataError, match=f"x.parquet.*{message}"):
        read(written(tmp_path, **columns), **options)


def test_many_different_values_are_no_classes(tmp_path):
    rows = [{"audio": "[1, 2]", "split": "train", "label": f"word{row}"} for row in range(99)]
    with pytest.raises(DataError, match="must hold at most 64 classes, but holds 99 different values"):
        read(write_csv(tmp_path / "x.csv", rows))
    assert open_source(tmp_path / "x.csv").count == 99  # can be predicted


def test_a_file_without_splits_asks_for_them(tmp_path):
    pq.write_table(
        pa.table({"audio": [[1.0]] * 6, "happy": [0, 1] * 3, "fold": ["train", "dev", "test"] * 2}),
        tmp_path / "x.parquet",
    )
    with pytest.raises(DataError, match="x.parquet: must have splits, but has none. Name the column of splits"):
        convert(tmp_path / "x.parquet", tmp_path / "out")
    with pytest.raises(
        DataError, match="must have the splits train, validation, test for training, but has none. Name the column"
    ):
        load(tmp_path / "x.parquet")
    found = load(tmp_path / "x.parquet", config=DataConfig(split_column="fold"))
    assert {split: len(rows) for split, rows in found.dataset.items()} == {"train": 2, "validation": 2, "test": 2}


def test_columns_with_other_names_are_chosen(tmp_path):
    path = written(tmp_path, wav2vec=[[float(row)] for row in range(ROWS)], happy=[0, 1, 1] * 3)
    source = open_source(path, config=DataConfig(audio="wav2vec"))
    assert source.shapes == {"audio": (1,)}
    with pytest.raises(DataError, match="must have 'wav2vek' of data.audio, but has .* Did you mean 'wav2vec'"):
        open_source(path, config=DataConfig(audio="wav2vek"))
