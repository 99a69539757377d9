import numpy as np

from lmf_multitask.data.collator import BatchCollator, RowNumbers


def test_gathers_rows_in_the_order_asked_for():
    columns = {"audio": np.arange(12.0).reshape(4, 3), "labels": np.array([[0], [1], [2], [3]])}
    batch = BatchCollator(columns)([2, 0, 2])
    np.testing.assert_array_equal(batch["audio"], [[6, 7, 8], [0, 1, 2], [6, 7, 8]])
    np.testing.assert_array_equal(batch["labels"], [[2], [0], [2]])


def test_row_numbers_are_a_dataset_of_their_own_numbers():
    rows = RowNumbers(3)
    assert len(rows) == 3
    assert [rows[i] for i in range(3)] == [0, 1, 2]
