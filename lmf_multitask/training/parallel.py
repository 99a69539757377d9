"""One training in several processes (data parallelism), started by ``paddle.distributed.launch``.

Every process holds the whole network and takes its part of every batch; gradients are averaged by Paddle's DataParallel.
With one process everything here does nothing.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import distributed


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size()


def number() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank()


def is_first() -> bool:
    """Whether this is the process that validates, writes and speaks."""
    return number() == 0


def join() -> None:
    """Meets the other processes; returns when all are there."""
    if count() > 1 and not distributed.is_initialized():
        distributed.init_parallel_env()


def wait() -> None:
    """Returns when all processes have called it."""
    if count() > 1:
        distributed.barrier()


def from_first(value: Any) -> Any:
    """The first process's value, for all of them."""
    if count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def summed(value: paddle.Tensor) -> paddle.Tensor:
    """Sum of a tensor over all processes, without gradient."""
    if count() == 1:
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value


def average_running_statistics(module: paddle.nn.Layer) -> None:
    """Makes batch normalisation's running statistics the same everywhere: their mean over the processes.

    In training each process normalises by the statistics of its own part of the batch.
    """
    if count() == 1:
        return
    for statistic in module.parameters():
        if statistic.stop_gradient:
            statistic.set_value(summed(statistic) / count())
