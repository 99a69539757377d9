"""Data-parallel training in several processes, started by ``paddle.distributed.launch``.

Every process has the whole network and takes its part of every batch; the gradients are averaged after each backward pass, all
in one message. (Paddle's DataParallel needs the weights one by one; they are views of one buffer here, see `flat`.)
With one process, the functions that communicate do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    import paddle
    from paddle import distributed

if TYPE_CHECKING:
    from lmf_multitask.training.module import TrainingModule


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size()


def rank() -> int:
    """Number of this process, from 0; rank 0 validates, writes and logs."""
    return distributed.get_rank()


def initialize() -> None:
    """Connects to the other processes; returns when all have called it."""
    if world_size() > 1 and not distributed.is_initialized():
        distributed.init_parallel_env()


def barrier() -> None:
    """Returns when all processes have called it."""
    if world_size() > 1:
        distributed.barrier()


def broadcast(value: Any) -> Any:
    """Returns the value of rank 0 in every process."""
    if world_size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Returns the values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = []
    distributed.all_gather_object(values, value)
    return values


def summed(value: paddle.Tensor) -> paddle.Tensor:
    """Returns the sum of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value


@paddle.no_grad()
def average_gradients(module: TrainingModule) -> None:
    """Replaces the gradients of trained weights by their means over all processes; a weight without one counts as zeros."""
    if world_size() == 1:
        return
    trained = [weight for weight in module.optimized_parameters().values() if not weight.stop_gradient]
    for weight in trained:
        if weight.grad is None:
            weight._copy_gradient_from(paddle.zeros_like(weight))
    gradients: list[Any] = [weight.grad for weight in trained]
    whole = gradients[0] if len(gradients) == 1 else paddle.concat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(whole)
    whole.scale_(1.0 / world_size())
    if len(gradients) > 1:
        for gradient, mean in zip(gradients, paddle.split(whole, [gradient.size for gradient in gradients])):
            paddle.assign(mean.reshape(gradient.shape), gradient)


def share_weights(module: paddle.nn.Layer) -> None:
    """Gives every process the weights of rank 0."""
    if world_size() > 1:
        for weight in module.parameters():
            distributed.broadcast(weight, src=0)


def average_running_statistics(module: paddle.nn.Layer) -> None:
    """Replaces batch normalisation's running statistics by their mean over all processes.

    In training each process normalises with the statistics of its own part of the batch.
    """
    if world_size() == 1:
        return
    for statistic in module.parameters():
        if statistic.stop_gradient:
            statistic.set_value(summed(statistic) / world_size())
