import numpy as np
import pytest

from lmf_multitask.training.batches import EpochBatchSampler


def batches(rows, batch_size, seed=None, epoch=0):
    sampler = EpochBatchSampler(range(rows), batch_size, seed=seed)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


@pytest.mark.parametrize("batch_size", [2, 3, 5, 100])
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6, 7, 10, 11, 16])
def test_every_row_once_per_epoch(rows, batch_size):
    for epoch in range(3):
        found = batches(rows, batch_size, seed=1, epoch=epoch)
        assert sorted(sum(found, [])) == list(range(rows))
        assert all(len(batch) >= 2 for batch in found)


def test_a_last_single_row_joins_the_batch_before_it():
    assert [len(batch) for batch in batches(9, 4, seed=1)] == [4, 5]
    assert [len(batch) for batch in batches(10, 4, seed=1)] == [4, 4, 2]
    assert [len(batch) for batch in batches(8, 4, seed=1)] == [4, 4]
    assert [len(batch) for batch in batches(3, 2, seed=1)] == [3]


def test_without_a_seed_rows_come_in_order_and_in_even_batches():
    assert batches(9, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert batches(1, 4) == [[0]]
    assert batches(9, 4, epoch=3) == batches(9, 4)


def test_order_depends_on_seed_and_epoch_alone():
    order = batches(50, 8, seed=3, epoch=2)
    np.random.seed(7)
    sampler = EpochBatchSampler(range(50), 8, seed=3)
    for epoch in (0, 1, 2):  # having lived through other epochs changes nothing
        sampler.set_epoch(epoch)
        found = list(sampler)
    assert found == order
    assert list(sampler) == order
    assert batches(50, 8, seed=3, epoch=1) != order
    assert batches(50, 8, seed=4, epoch=2) != order


def test_orders_are_different_permutations():
    orders = {tuple(sum(batches(20, 4, seed=seed, epoch=epoch), [])) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert tuple(range(20)) not in orders


def test_the_global_generator_is_left_alone():
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    batches(50, 8, seed=3)
    assert np.random.rand() == expected
