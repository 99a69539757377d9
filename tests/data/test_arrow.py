"""Arrow columns as arrays, whatever lists they consist of."""

import datasets
import numpy as np
import pyarrow as pa
import pytest

from lmf_multitask.data.arrow import feature_rows, label_rows, numbers, row_shape
from lmf_multitask.errors import DataError

VALUES = np.arange(24, dtype="f4").reshape(4, 2, 3)


def column(values, kind):
    return pa.table({"text": pa.array(values.tolist(), kind)})


def rows_of(table, name="text"):
    return feature_rows(table, name, row_shape([table], name))[0]


@pytest.mark.parametrize("inner", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 3)])
@pytest.mark.parametrize("outer", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)])
def test_every_kind_of_list_is_an_array(inner, outer):
    found = rows_of(column(VALUES, outer(inner(pa.float32()))))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


def test_columns_in_several_chunks():
    kind = pa.list_(pa.list_(pa.float32()))
    whole = pa.concat_tables([column(VALUES[:1], kind), column(VALUES[1:], kind)])
    assert whole.column("text").num_chunks == 2
    np.testing.assert_array_equal(rows_of(whole), VALUES)
    np.testing.assert_array_equal(rows_of(whole.slice(1, 2)), VALUES[1:3])
    with_nothing = pa.chunked_array([*whole.column("text").chunks, pa.array([], kind)])
    np.testing.assert_array_equal(rows_of(pa.table({"text": with_nothing})), VALUES)
    with pytest.raises(DataError, match=r"'text' must have rows of one length, but got \(2, 4\) and \(2, 3\)"):
        feature_rows(whole, "text", (2, 4))
    wider = pa.concat_tables([whole, column(VALUES[:, :, :2], kind)])
    with pytest.raises(DataError, match=r"'text' must have rows of one length, but got \(2, 3\) and \(2, 2\)"):
        row_shape([wider], "text")


def test_views_are_not_copied():
    table = column(VALUES, pa.list_(pa.list_(pa.float32(), 3), 2))
    stored = table.column("text").chunk(0).flatten().flatten().to_numpy()
    assert np.shares_memory(rows_of(table), stored)


@pytest.mark.parametrize("lists", [[[1.0], [2.0, 3.0, 4.0]], [[[1.0], [2.0, 3.0, 4.0]]]])
def test_rows_of_different_lengths_that_would_fill_an_array(lists):
    """Lengths 1 and 3 have a mean of 2."""
    ragged = pa.table({"audio": pa.array(lists)})
    with pytest.raises(
        DataError, match=r"'audio' must have rows of one length, but got lengths from 1 to 3\. Pad them"
    ):
        row_shape([ragged], "audio")


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_sequences_of_different_lengths(length):
    """Padded at the end, or cut, whatever pieces they are in; null rows and empty sequences are zeros."""
    clips = [np.full((steps, 2), number, "f4") for number, steps in enumerate((2, 3, 0, 1, 3), 1)]
    lists = [clip.tolist() for clip in clips] + [None]
    table = pa.concat_tables(
        [pa.table({"text": pa.array(part, pa.list_(pa.list_(pa.float32())))}) for part in (lists[:2], lists[2:])]
    )
    assert row_shape([table.slice(0, 3), table.slice(3)], "text") == (3, 2)
    expected = np.zeros((6, length, 2), "f4")
    for row, clip in zip(expected, clips):
        row[: len(clip)] = clip[:length]
    found, cut = feature_rows(table, "text", (length, 2))
    np.testing.assert_array_equal(found, expected)
    assert cut == sum(len(clip) > length for clip in clips)


def test_nulls_are_missing_clips():
    whole = pa.table({"audio": pa.array([None, [1.0, 2.0], None, [3.0, 4.0]])})
    np.testing.assert_array_equal(rows_of(whole, "audio"), [[0, 0], [1, 2], [0, 0], [3, 4]])
    for inner in (pa.list_(pa.float32()), pa.list_(pa.float32(), 1)):
        words = pa.table({"text": pa.array([[[1.0], None]], pa.list_(inner))})
        with pytest.raises(DataError, match=r"column 'text' must have no empty values, but got 1\. Fill or drop them"):
            rows_of(words)
    inside = pa.table({"audio": pa.array([[1.0, None]])})
    with pytest.raises(DataError, match=r"column 'audio' must have no empty values, but got 1\. Fill or drop them"):
        rows_of(inside, "audio")
    nothing = pa.table({"audio": pa.nulls(3)})
    assert row_shape([nothing], "audio") is None
    np.testing.assert_array_equal(feature_rows(nothing, "audio", (6, 3))[0], np.zeros((3, 6, 3)))


def test_labels():
    for values, kind in (
        ([1, None, 0], pa.int8()),
        ([1.0, np.nan, 0.0], pa.float64()),
        ([True, None, False], pa.bool_()),
    ):
        found = label_rows(pa.chunked_array([pa.array(values, kind)]), "calm")
        np.testing.assert_array_equal(found, [1, np.nan, 0])
    np.testing.assert_array_equal(label_rows(pa.chunked_array([pa.nulls(2)]), "calm"), [np.nan, np.nan])
    with pytest.raises(DataError, match="label column 'calm' must hold numbers, but holds string"):
        label_rows(pa.chunked_array([pa.array(["yes"])]), "calm")


def test_other_kinds_of_columns():
    """A fixed 2-D type of `datasets`, and booleans, which Arrow stores as bits."""
    types = datasets.Features(text=datasets.Array2D((2, 3), "float32"), audio=datasets.Value("bool"))
    content = {"text": VALUES.tolist(), "audio": [True, False, True, True]}
    table = datasets.Dataset.from_dict(content, features=types).data.table
    np.testing.assert_array_equal(rows_of(table), VALUES)
    np.testing.assert_array_equal(numbers(table.column("audio").chunk(0), "audio"), [1, 0, 1, 1])
    with pytest.raises(DataError, match=r"column 'id' must hold numbers, but holds string\. Convert it\."):
        numbers(pa.array(["a"]), "id")
