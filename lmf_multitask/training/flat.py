"""One buffer for many weights: a step is then a few large operations instead of hundreds of small ones.

It is how Paddle fuses parameters for distributed training (`paddle.distributed.fleet.utils.tensor_fusion_helper`), on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmf_multitask.runtime import quiet_imports

with quiet_imports():
    import paddle
    from paddle.nn.initializer import Constant

_ALIGNMENT = 16
"""Each weight begins at a multiple of so many numbers, 64 bytes, as in a tensor of its own."""


def flatten(weights: Sequence[paddle.Tensor], *, gradients: bool = False) -> paddle.Tensor:
    """Moves weights into one buffer: each of them becomes a view, with the values that it has.

    Args:
        weights: float32 tensors of any shape.
        gradients: their gradients become views of one buffer, too.

    Returns:
        The buffer, a parameter `[n]`, which has that gradient. Between the weights it holds zeros, and stays so.
    """
    sizes = [weight.size for weight in weights]
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    values = paddle.create_parameter([end], "float32", default_initializer=Constant(0.0))
    gradient = paddle.zeros([end])
    with paddle.no_grad():
        for weight, size, start in zip(weights, sizes, starts):
            _view(values, weight, start, size).set_value(weight)
            _view(values, weight, start, size)._share_buffer_to(weight)
            if gradients:
                weight._copy_gradient_from(_view(gradient, weight, start, size))
    if gradients:
        values._copy_gradient_from(gradient)
    else:
        values.stop_gradient = True
    return values


def _view(buffer: paddle.Tensor, weight: paddle.Tensor, start: int, size: int) -> paddle.Tensor:
    view = buffer._slice(start, start + size)
    view.get_tensor()._set_dims(weight.shape)
    return view
