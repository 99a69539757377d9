"""The tiny training step by which `lmf doctor` checks Paddle."""

from __future__ import annotations


def loss_of_tiny_step() -> float:
    """Builds a small network, runs forward and backward once, and returns the loss.

    Raises:
        FloatingPointError: the loss or a gradient is not finite.
    """
    import numpy as np
    import paddle

    from lmf_multitask.models.lmf import LMFModel

    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = LMFModel({"audio": (5,), "video": (4,), "text": (7, 3)}, ["one", "two"])
    batch = [paddle.to_tensor(rng.normal(size=(6, *one.shape)).astype("float32")) for one in model.inputs.values()]
    labels = paddle.to_tensor(rng.integers(0, 2, 12))
    loss = paddle.nn.functional.cross_entropy(model(*batch).reshape([-1, 2]), labels)
    loss.backward()
    values = [loss.numpy(), *(w.grad.numpy() for w in model.parameters() if w.grad is not None)]
    if not all(np.isfinite(value).all() for value in values):
        raise FloatingPointError("loss and gradients must be finite, but are not")
    return float(loss)
