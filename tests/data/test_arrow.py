"""The words of the data, and columns as arrays: what `datasets` and Arrow tables hold, in whatever form."""

import datasets
import numpy as np
import pyarrow as pa
import pytest

from lmf_multitask.data.schema import (
    check_emotion_name,
    column_array,
    column_arrays,
    dataset_features,
    emotion_names,
    fingerprint,
    present_modalities,
    sort_emotions,
    table_column,
)
from lmf_multitask.errors import DataError

# -- names


@pytest.mark.parametrize("name", ["a", "7", "very_sad-2", "wütend", "x" * 64])
def test_names_that_emotions_may_have(name):
    assert check_emotion_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", ".", "a/b", "a b", "a\n", "a.b", "x" * 65, b"sad", 3, None])
def test_names_that_they_may_not_have(name):
    shown = repr(name) if isinstance(name, str) else type(name).__name__
    with pytest.raises(DataError) as caught:
        check_emotion_name(name)
    assert str(caught.value) == (
        "an emotion's name must consist of at most 64 letters, digits, '_' and '-', "
        f"but got {shown}. Rename it in the data."
    )


def test_a_long_name_is_not_repeated_in_full():
    with pytest.raises(DataError, match=r"but got 'x{79}\. Rename"):
        check_emotion_name("x" * 500)


def test_the_papers_emotions_come_first_and_in_its_order():
    assert sort_emotions(["zest", "neutral", "calm", "happy", "angry"]) == [
        "happy", "angry", "neutral", "calm", "zest",
    ]  # fmt: skip


def test_emotions_are_named_by_the_labels_alone():
    types = dataset_features(5, 4, 6, 3, ["calm", "tense"])
    named = datasets.Dataset.from_dict({name: [] for name in types}, features=types)
    # data sets that were saved are read again: the words must stay
    assert types["labels"].feature.names == ["absent", "present: calm, tense"]
    assert emotion_names(named) == ["calm", "tense"]
    assert emotion_names(named.select_columns("labels")) == ["calm", "tense"]
    assert emotion_names(named.remove_columns("labels")) is None
    for names in (["absent", "here: calm"], ["present: calm", "absent"], ["absent", "x", "present: calm"]):
        label = datasets.Sequence(datasets.ClassLabel(names=names))
        other = datasets.Dataset.from_dict({"labels": [[0]]}, features=datasets.Features(labels=label))
        assert emotion_names(other) is None
    assert emotion_names(datasets.Dataset.from_dict({"labels": [[0, 1]]})) is None
    assert emotion_names(datasets.Dataset.from_dict({"labels": [1]})) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["audio", "visual"], "x must call its features audio, video and text, but has 'visual'. Did you mean 'video'?"),
        (["audoi", "text"], "x must call its features audio, video and text, but has 'audoi'. Did you mean 'audio'?"),
        (["covarep"], "x must call its features audio, video and text, but has 'covarep'. Did you mean 'audio'?"),
        (["w", "id"], "x must have at least one of audio, video and text, but has id, w."),
        ([], "x must have at least one of audio, video and text, but has nothing."),
    ],
)  # fmt: skip
def test_columns_that_are_no_modalities(names, message):
    with pytest.raises(DataError) as caught:
        present_modalities(names, "x")
    assert str(caught.value) == message


def test_many_long_names_are_told_in_part():
    names = [f"{letter}{'x' * 60}" for letter in "nmlkjihgfedcba"]
    with pytest.raises(DataError) as caught:
        present_modalities(names, "x")
    told = ", ".join(f"{letter}{'x' * 39}" for letter in "abcdefghijkl")
    assert str(caught.value) == f"x must have at least one of audio, video and text, but has {told}."


def test_modalities_come_in_one_order_and_other_columns_do_no_harm():
    assert present_modalities(["text", "speaker", "audio"], "x") == ["audio", "text"]
    # a second form of what is there is just another column
    assert present_modalities(["video", "visual", "videos", "text"], "x") == ["video", "text"]


# -- columns


VALUES = np.arange(24, dtype="f4").reshape(4, 2, 3)


def column(values, kind):
    return pa.table({"text": pa.array(values.tolist(), kind)})


@pytest.mark.parametrize("inner", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)])
@pytest.mark.parametrize("outer", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)])
def test_every_kind_of_list_is_an_array(inner, outer):
    found = table_column(column(VALUES, outer(inner(pa.float32()))), "text")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


def test_columns_in_several_chunks():
    kind = pa.list_(pa.list_(pa.float32()))
    whole = pa.concat_tables([column(VALUES[:1], kind), column(VALUES[1:], kind)])
    assert whole.column("text").num_chunks == 2
    np.testing.assert_array_equal(table_column(whole, "text"), VALUES)
    np.testing.assert_array_equal(table_column(whole.slice(1, 2), "text"), VALUES[1:3])
    with_nothing = pa.chunked_array([*whole.column("text").chunks, pa.array([], kind)])
    np.testing.assert_array_equal(table_column(pa.table({"text": with_nothing}), "text"), VALUES)
    assert table_column(column(VALUES[:, :0], kind), "text").shape == (4, 0, 0)
    shorter = pa.concat_tables([column(VALUES, kind), column(VALUES[:, :1], kind)])
    with pytest.raises(DataError, match=r"'text' must have rows of one length, but got \(2, 3\) and \(1, 3\)\."):
        table_column(shorter, "text")
    with pytest.raises(DataError, match=r"'text' must have rows of one length, but got \(2, 4\) and \(2, 3\)\."):
        table_column(whole, "text", (2, 4))


def test_rows_of_different_lengths_that_would_fill_an_array():
    """Lengths 1 and 3 have a mean of 2."""
    ragged = pa.table({"audio": pa.array([[1.0], [2.0, 3.0, 4.0]])})
    with pytest.raises(
        DataError, match=r"'audio' must have rows of one length, but got lengths from 1 to 3\. Pad them"
    ):
        table_column(ragged, "audio")


def test_nulls_are_for_modalities():
    """A modality may be missing in a row; a label, or a single number, may not."""
    whole = pa.table(
        {"audio": pa.array([None, [1.0, 2.0], None, [3.0, 4.0]]), "labels": pa.array([[1], None, [0], [1]])}
    )
    np.testing.assert_array_equal(table_column(whole, "audio"), [[0, 0], [1, 2], [0, 0], [3, 4]])
    with pytest.raises(DataError, match=r"column 'labels' must have no empty values, but got 1\. Fill or drop them"):
        table_column(whole, "labels")
    for inner in (pa.list_(pa.float32()), pa.list_(pa.float32(), 1)):
        words = pa.table({"text": pa.array([[[1.0], None]], pa.list_(inner))})
        with pytest.raises(DataError, match=r"column 'text' must have no empty values, but got 1\. Fill or drop them"):
            table_column(words, "text")
    with pytest.raises(DataError, match=r"column 'audio' must have no empty values, but got 1\. Fill or drop them"):
        table_column(pa.table({"audio": pa.array([1.0, None])}), "audio")
    nothing = pa.table({name: pa.nulls(3) for name in ("audio", "text")})
    assert table_column(nothing, "audio").shape == (3, 1)
    assert table_column(nothing, "text").shape == (3, 1, 1)
    assert table_column(nothing, "text", (6, 3)).shape == (3, 6, 3)
    assert table_column(nothing, "audio").dtype == np.float32
    assert not table_column(nothing, "audio").any()


def test_other_kinds_of_columns():
    """A fixed 2-D type of `datasets`, and booleans, which Arrow stores as bits."""
    types = datasets.Features(text=datasets.Array2D((2, 3), "float32"), labels=datasets.Value("bool"))
    rows = datasets.Dataset.from_dict({"text": VALUES.tolist(), "labels": [True, False, True, True]}, features=types)
    np.testing.assert_array_equal(column_array(rows, "text"), VALUES)
    np.testing.assert_array_equal(column_array(rows, "labels"), [1, 0, 1, 1])
    with pytest.raises(DataError, match=r"column 'id' must hold numbers, but holds string\. Convert it\."):
        column_array(datasets.Dataset.from_dict({"id": ["a"]}), "id")


def test_numbers_of_every_kind_are_taken_and_texts_are_left():
    kinds = ["int8", "uint16", "int64", "float16", "float32", "float64", "bool"]
    types = {f"{kind} column": datasets.Value(kind) for kind in kinds}
    types |= {"a text": datasets.Value("string"), "texts": datasets.Sequence(datasets.Value("string"))}
    content = {name: [["1"] if name == "texts" else "1" if name == "a text" else 1] for name in types}
    found = column_arrays(datasets.Dataset.from_dict(content, features=datasets.Features(types)))
    assert sorted(found) == sorted(f"{kind} column" for kind in kinds)
    assert all(values.tolist() == [1] for values in found.values())


def test_an_empty_split_is_named():
    empty = datasets.Dataset.from_dict({"audio": []})
    with pytest.raises(DataError, match="column 'audio' must have at least one row, but the data set is empty"):
        column_array(empty, "audio")


# -- the fingerprint


def some_rows(changed=None):
    """Two splits; `changed` is what differs from the plain ones."""
    names = ["calm", "other" if changed == "emotions" else "tense"]
    types = dataset_features(2, 1, 2, 2, names)
    splits = {}
    for split, rows in (("train", 3), ("test", 2)):
        columns = {
            "id": [f"{split}-{number}" for number in range(rows)],
            "audio": np.arange(rows * 2, dtype="f4").reshape(rows, 2),
            "video": np.ones((rows, 1), "f4"),
            "text": np.ones((rows, 2, 2), "f4"),
            "labels": np.zeros((rows, 2), int),
        }
        if split == "test":
            if changed == "ids":
                columns["id"][1] = "other"
            elif changed in columns:
                columns[changed][-1, -1] += 1
        splits[split] = datasets.Dataset.from_dict(columns, features=types)
    if changed == "split":
        splits["validation"] = splits.pop("test")
    if changed == "order":
        splits["test"] = splits["test"].select([1, 0])
    return splits


def test_the_fingerprint_tells_what_training_sees(tmp_path):
    changes = [None, "ids", "audio", "video", "text", "labels", "emotions", "split", "order"]
    assert len({fingerprint(some_rows(changed)) for changed in changes}) == len(changes)
    assert fingerprint(some_rows()) == fingerprint(some_rows())
    datasets.DatasetDict(some_rows()).save_to_disk(str(tmp_path / "saved"))
    assert fingerprint(datasets.load_from_disk(str(tmp_path / "saved"))) == fingerprint(some_rows())
