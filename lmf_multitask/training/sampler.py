"""The order in which rows are trained on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle


class EpochBatchSampler(paddle.io.DistributedBatchSampler):
    """Batches of row numbers, in an order that depends on (seed, epoch) alone, so that a resumed run sees the same.

    Several processes get the same batches, each its own part of every one, as equal as they can be. A last batch of a single
    row (per process) would make batch normalisation meaningless; it joins the batch before it.
    (Trainer tells the epoch to subclasses of this Paddle class only.)
    """

    def __init__(
        self, dataset: Any, batch_size: int, seed: int | None = None, processes: int = 1, process: int = 0
    ) -> None:
        """Takes the rows and the whole batch's size; without a seed the rows come in order.

        Args:
            dataset: anything with a length.
            batch_size: rows of a batch, in all processes together.
            seed: of the order.
            processes: how many share each batch.
            process: which of them this is, from 0.
        """
        super().__init__(dataset, batch_size, num_replicas=1, rank=0, shuffle=False)
        self._rows, self._seed = len(dataset), seed
        self._processes, self._process = processes, process

    def __len__(self) -> int:
        whole, rest = divmod(self._rows, self.batch_size)
        too_few = 0 < rest < 2 * self._processes and whole > 0 and self._seed is not None
        return whole + (rest > 0) - too_few

    def __iter__(self) -> Iterator[list[int]]:
        rows = np.arange(self._rows)
        if self._seed is not None:
            rows = np.random.default_rng([self._seed, self.epoch]).permutation(self._rows)
        count = len(self)
        for number in range(count):
            end = None if number == count - 1 else (number + 1) * self.batch_size
            batch = rows[number * self.batch_size : end]
            yield np.array_split(batch, self._processes)[self._process].tolist()


class LMFPaddleBatchSampler(paddle.io.BatchSampler):
    """The batches of LMF_Paddle, which depend on everything that has been drawn from numpy's global generator before.

    Its data loaders shuffle the training and the validation rows, with worker processes. In Paddle each pass of such a
    loader draws a number for the workers and then the order of the rows, both from that generator.
    """

    def __init__(self, dataset: Any, batch_size: int) -> None:
        """Takes the rows and the batch size."""
        super().__init__(dataset, batch_size=batch_size)
        self._rows = len(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        np.random.randint(low=0, high=sys.maxsize)
        rows = np.random.choice(np.arange(self._rows), self._rows, replace=False)
        for start in range(0, self._rows, self.batch_size):
            yield rows[start : start + self.batch_size].tolist()
