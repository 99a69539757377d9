import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmf_multitask.data.collator import BatchCollator
from lmf_multitask.data.columns import ChunkedColumn, row_blocks

WHOLE = np.random.default_rng(0).normal(size=(23, 2, 3)).astype("f4")


def in_chunks(*borders, order=None):
    return ChunkedColumn(np.split(WHOLE, borders), order)


LAYOUTS = {
    "one": in_chunks(),
    "two": in_chunks(9),
    "of one row": in_chunks(1, 2, 3, 20),
    "with empty ones": in_chunks(0, 5, 5, 23),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_are_those_of_one_array(layout, data):
    column, number = LAYOUTS[layout], st.integers(-30, 30)
    rows = data.draw(st.slices(23) | st.builds(slice, number, number) | st.lists(st.integers(-23, 22)))
    expected = WHOLE[rows] if isinstance(rows, slice) else WHOLE[np.array(rows, int)]
    got = column[rows]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 22), min_size=1), st.data())
def test_chosen_rows(order, data):
    expected = WHOLE[order]
    rows = data.draw(st.slices(len(order)) | st.lists(st.integers(-len(order), len(order) - 1)))
    for borders in ([], [4, 11]):
        column = in_chunks(*borders, order=np.array(order))
        assert column.shape == expected.shape
        np.testing.assert_array_equal(
            column[rows], expected[rows] if isinstance(rows, slice) else expected[np.array(rows, int)]
        )
        np.testing.assert_array_equal(np.asarray(column), expected)


def test_shape_and_dtype_are_those_of_an_array():
    column = LAYOUTS["two"]
    assert (column.shape, column.dtype, column.ndim, len(column)) == (WHOLE.shape, WHOLE.dtype, 3, 23)
    np.testing.assert_array_equal(np.asarray(column), WHOLE)
    assert np.asarray(column, np.float64).dtype == np.float64


def test_a_batch_is_gathered_across_chunks():
    batch = BatchCollator({"text": LAYOUTS["of one row"], "labels": np.arange(23)})([22, 0, 2, 22])
    np.testing.assert_array_equal(batch["text"], WHOLE[[22, 0, 2, 22]])
    np.testing.assert_array_equal(batch["labels"], [22, 0, 2, 22])


@pytest.mark.parametrize("rows", [[23], [-24], [0, 40]])
def test_row_numbers_out_of_range(rows):
    with pytest.raises(IndexError, match="row numbers must be below 23, but got"):
        LAYOUTS["two"][rows]


@pytest.mark.parametrize("rows", [3, [1.5], [[0]], (slice(3), 0), np.ones(23, bool)])
def test_indices_of_other_kinds(rows):
    with pytest.raises((TypeError, ValueError)):
        LAYOUTS["two"][rows]


@pytest.mark.parametrize("size", [1, 4, 23, 100])
def test_blocks_begin_at_the_same_rows_however_a_column_is_stored(size):
    expected = [WHOLE[start : start + size] for start in range(0, 23, size)]
    for column in (WHOLE, *LAYOUTS.values()):
        blocks = list(row_blocks(column, size))
        assert len(blocks) == len(expected)
        for got, block in zip(blocks, expected):
            np.testing.assert_array_equal(got, block)
