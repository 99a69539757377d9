"""From rows to batches: their order, and how they are gathered."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from lmf_multitask.data.collator import BatchCollator, RowNumbers
from lmf_multitask.data.columns import column_arrays
from lmf_multitask.runtime import quiet_imports
from lmf_multitask.training import parallel

with quiet_imports():
    import paddle

logger = logging.getLogger(__name__)


class EpochBatchSampler(paddle.io.DistributedBatchSampler):
    """Batches of row numbers in an order that depends on seed and epoch only, so that a resumed training has the same.

    With several processes, each takes its part of every batch; the parts are as equal as possible. A last batch of a single
    row (per process) would make batch normalisation meaningless: it joins the batch before it.
    (Trainer calls ``set_epoch`` for subclasses of this Paddle class only.)
    """

    def __init__(
        self, dataset: Any, batch_size: int, seed: int | None = None, world_size: int = 1, rank: int = 0
    ) -> None:
        """Stores the sizes.

        Args:
            dataset: anything with a length.
            batch_size: rows of a batch, in all processes together.
            seed: of the order; None keeps the order of the rows.
            world_size: number of processes.
            rank: of this process.
        """
        super().__init__(dataset, batch_size, num_replicas=1, rank=0, shuffle=False)
        self._rows, self._seed = len(dataset), seed
        self._world_size, self._rank = world_size, rank

    def __len__(self) -> int:
        whole, rest = divmod(self._rows, self.batch_size)
        too_few = 0 < rest < 2 * self._world_size and whole > 0 and self._seed is not None
        return whole + (rest > 0) - too_few

    def __iter__(self) -> Iterator[list[int]]:
        rows = np.arange(self._rows)
        if self._seed is not None:
            rows = np.random.default_rng([self._seed, self.epoch]).permutation(self._rows)
        count = len(self)
        for number in range(count):
            end = None if number == count - 1 else (number + 1) * self.batch_size
            batch = rows[number * self.batch_size : end]
            yield np.array_split(batch, self._world_size)[self._rank].tolist()


class LMFPaddleBatchSampler(paddle.io.BatchSampler):
    """The batches of LMF_Paddle, whose order depends on all earlier draws from numpy's global generator.

    Its data loaders have worker processes and shuffle training and validation rows. Each pass of such a loader in Paddle
    draws a number for the workers, then the order of the rows, both from that generator.
    """

    def __init__(self, dataset: Any, batch_size: int) -> None:
        """Stores the sizes."""
        super().__init__(dataset, batch_size=batch_size)
        self._rows = len(dataset)

    def __iter__(self) -> Iterator[list[int]]:
        np.random.randint(low=0, high=sys.maxsize)
        rows = np.random.choice(np.arange(self._rows), self._rows, replace=False)
        for start in range(0, self._rows, self.batch_size):
            yield rows[start : start + self.batch_size].tolist()


class DirectLoader(paddle.io.DataLoader):
    """Gathers each batch when it is asked for, which takes half a millisecond.

    Paddle's own iterator gathers ahead in a thread; waiting for that thread, which needs Python's lock too, takes 1.6 ms of
    a step of 13 ms.
    """

    def __iter__(self) -> Any:
        """Batches as dicts of tensors."""
        sampler, collate = cast(Any, self.batch_sampler), cast(Any, self.collate_fn)
        for rows in sampler:
            yield {name: paddle.to_tensor(values) for name, values in collate(rows).items()}


def numeric_columns(dataset: Any) -> dict[str, Any]:
    """Columns of a `datasets.Dataset` as arrays; those of emotion data are read batch by batch.

    Args:
        dataset: a split as `load_iemocap` returns it, or any data set; columns that are not numeric are left out.
    """
    if isinstance(dataset.features.get("labels"), dict):
        return dict(column_arrays(dataset))
    columns = {name: np.asarray(values) for name, values in dataset.with_format("numpy")[:].items()}
    return {name: values for name, values in columns.items() if values.dtype.kind in "biuf"}


class RecordingCollator:
    """A collator that records the rows of the current epoch's batches (Paddle's loader makes some of them ahead).

    Attributes:
        steps: batches of an epoch.
        rows: of each batch of the current epoch made so far.
    """

    def __init__(self, collator: Callable[[Sequence[Any]], Any], steps: int) -> None:
        """Wraps `collator`; `steps` is the number of batches of an epoch."""
        self._collator, self.steps = collator, steps
        self.rows: list[list[Any]] = []

    def __call__(self, rows: Sequence[Any]) -> Any:
        """Makes the batch of these rows."""
        if len(self.rows) == self.steps:
            self.rows = []
        self.rows.append(list(rows))
        return self._collator(rows)

    def describe(self, batches: slice, dataset: Any) -> str:
        """Names the rows of some batches of the current epoch, as the end of a sentence; their ids where there are any."""
        rows = sum(self.rows[batches], [])
        if not rows or not all(isinstance(row, (int, np.integer)) for row in rows):
            return ""
        named = "id" in getattr(dataset, "column_names", ())
        clips = [str(dataset[int(row)]["id"]) if named else str(row) for row in rows]
        logger.debug("the batch of that step: %s", ", ".join(clips))
        rest = f" and {len(clips) - 8} more (see train.log)" if len(clips) > 8 else ""
        return f", on the clips {', '.join(clips[:8])}{rest}"


def make_loader(
    dataset: Any, collator: Any, batch_size: int, *, order: str | None = None, seed: int | None = None
) -> paddle.io.DataLoader:
    """Makes the loader of a data set.

    Args:
        dataset: a `datasets.Dataset`, or any data set of Paddle's kind with a `collator`.
        collator: list of rows -> batch; None gathers batches from the columns of a `datasets.Dataset`.
        batch_size: rows of a batch in this process.
        order: ``seeded``, shared by all processes; ``lmf_paddle``; None keeps the order of the rows.
        seed: for ``seeded``.
    """
    kind = paddle.io.DataLoader
    if collator is None:
        kind, collator = DirectLoader, BatchCollator(numeric_columns(dataset))
        dataset = RowNumbers(len(dataset))
    sampler: paddle.io.BatchSampler
    if order == "lmf_paddle":
        sampler = LMFPaddleBatchSampler(dataset, batch_size)
    elif order == "seeded":
        processes = parallel.world_size()
        sampler = EpochBatchSampler(dataset, batch_size * processes, seed, processes, parallel.rank())
    else:
        sampler = EpochBatchSampler(dataset, batch_size)
    return kind(dataset, batch_sampler=sampler, collate_fn=collator, num_workers=0)
