"""Weights in one buffer: the same numbers as weights of their own, to the bit."""

import numpy as np
import paddle
import pytest
from paddle import nn

from lmf_multitask.training.flat import flatten


def network():
    paddle.seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def test_weights_keep_shape_and_values():
    net, same = network(), network()
    flatten(net.parameters())
    for weight, other in zip(net.parameters(), same.parameters()):
        assert weight.shape == other.shape
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_weights_and_buffer_are_the_same_memory():
    net = network()
    buffer = flatten(net.parameters(), gradients=True)
    net[2].weight.set_value(np.full((7, 3), 5.0, "float32"))
    assert (buffer.numpy() == 5.0).sum() == 21
    with paddle.no_grad():
        buffer.fill_(2.0)
    assert all((weight.numpy() == 2.0).all() for weight in net.parameters())
    net(paddle.ones([4, 5])).sum().backward()
    assert buffer.grad.numpy().sum() == sum(weight.grad.numpy().sum() for weight in net.parameters()) != 0
    buffer.clear_gradient()
    assert all((weight.grad.numpy() == 0.0).all() for weight in net.parameters())


@pytest.mark.parametrize("clip", [None, nn.ClipGradByGlobalNorm(1e9)])
def test_training_has_the_same_bits(clip):
    def trained(flat):
        net = network()
        weights = [flatten(net.parameters(), gradients=True)] if flat else net.parameters()
        adam = paddle.optimizer.Adam(0.01, parameters=weights, weight_decay=0.002, grad_clip=clip)
        for step in range(20):
            x = paddle.to_tensor(np.random.default_rng(step).standard_normal((6, 5)).astype("float32"))
            (net(x) - 1.0).square().mean().backward()
            adam.step()
            adam.clear_grad()
        return net.state_dict()

    one, many = trained(True), trained(False)
    for name, weight in many.items():
        np.testing.assert_array_equal(one[name].numpy(), weight.numpy(), err_msg=name)


def test_weights_can_move_again():
    net = network()
    flatten(net.parameters(), gradients=True)
    before = [weight.numpy() for weight in net.parameters()]
    buffer = flatten(net.parameters(), gradients=True)
    for weight, value in zip(net.parameters(), before):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert (buffer.grad.numpy() == 0.0).all()
